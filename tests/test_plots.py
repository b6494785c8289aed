"""The figures, by the data drawn on them: not by their pixels."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from course_lib import plots
from course_lib.evaluate import evaluate

HISTORY = [
    {"epoch": 1, "train_loss": 1.8, "validation_loss": 1.2, "validation_macro_f1": 0.70},
    {"epoch": 2, "train_loss": 0.9, "validation_loss": 0.7, "validation_macro_f1": 0.84},
    {"epoch": 3, "train_loss": 0.4, "validation_loss": 0.8, "validation_macro_f1": 0.82},
]
#                       refund: 2 right, 1 → return         return: 1 → refund, 3 right           other: never
EVALUATION = evaluate(np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 0, 1, 1, 1]), ("refund", "return", "other"))
METHODS = {"TF-IDF": (0.74, 0.0), "frozen": (0.70, 0.02), "fine-tuned": (0.85, 0.01)}
TOKENS = [5] * 10 + [16] * 30 + [17] * 40 + [40] * 15 + [70] * 5


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def drawn_texts(ax):
    return {text.get_position(): text.get_text() for text in ax.texts}


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax, **k: plots.learning_curve(ax, HISTORY, **k),
        lambda ax, **k: plots.confusion(ax, EVALUATION, **k),
        lambda ax, **k: plots.lengths(ax, TOKENS, [16, 64], **k),
        lambda ax, **k: plots.scores(ax, METHODS, xlabel="macro-F1", **k),
    ],
    ids=["learning_curve", "confusion", "lengths", "scores"],
)
def test_each_figure_returns_its_axes_takes_a_title_and_names_its_axes(ax, draw):
    assert draw(ax, title="The message") is ax
    assert ax.get_title(loc="left") == "The message"
    assert ax.get_xlabel() and (ax.get_ylabel() or ax.get_yticklabels()[0].get_text())
    ax.figure.canvas.draw()


def test_learning_curve_draws_both_losses_over_whole_epochs_from_zero(ax):
    plots.learning_curve(ax, HISTORY)
    lines = {line.get_label(): line for line in ax.lines}
    assert lines["training"].get_xydata().tolist() == [[1, 1.8], [2, 0.9], [3, 0.4]]
    assert lines["validation"].get_xydata().tolist() == [[1, 1.2], [2, 0.7], [3, 0.8]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "validation"]
    assert ax.get_ylim()[0] == 0 and "nats" in ax.get_ylabel()
    assert all(tick == int(tick) for tick in ax.get_xticks())


def test_learning_curve_marks_the_best_macro_f1_on_the_second_axes():
    figure, (ax, score_ax) = plt.subplots(1, 2)
    assert plots.learning_curve(ax, HISTORY, score_ax=score_ax) is ax
    curve, best = score_ax.lines
    assert curve.get_xydata().tolist() == [[1, 0.70], [2, 0.84], [3, 0.82]]
    assert best.get_xydata().tolist() == [[2, 0.84]]
    assert score_ax.get_title(loc="left") == "Best: 0.840 at epoch 2"
    assert score_ax.get_xlabel() and score_ax.get_ylabel() and score_ax.get_ylim() == (0, 1)
    plt.close(figure)


def test_learning_curve_shows_a_single_epoch_as_a_point(ax):
    plots.learning_curve(ax, HISTORY[:1])
    assert all(line.get_marker() in "os" for line in ax.lines)


def test_confusion_colours_shares_of_a_row_and_writes_counts(ax):
    plots.confusion(ax, EVALUATION)
    np.testing.assert_allclose(ax.images[0].get_array(), [[2 / 3, 1 / 3, 0], [1 / 4, 3 / 4, 0], [0, 0, 0]])
    assert ax.images[0].get_clim() == (0, 1)
    # (column, row): a zero is left out, so that the errors stand out
    assert drawn_texts(ax) == {(0, 0): "2", (1, 0): "1", (0, 1): "1", (1, 1): "3"}
    assert [t.get_text() for t in ax.get_xticklabels()] == ["refund", "return", "other"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["refund (3)", "return (4)", "other (0)"]
    assert ax.get_title(loc="left") == "5 of 7 right\nmost frequent error: refund → return, 1"


def test_confusion_numbers_stand_out_from_their_cells_at_every_share(ax):
    true = np.repeat(np.arange(50), 50)
    predicted = np.where(np.arange(2_500) % 50 <= true, true, (true + 1) % 50)  # row k: (k + 1) / 50 right
    plots.confusion(ax, evaluate(true, predicted, [str(k) for k in range(50)]))
    image = ax.images[0]
    for text in ax.texts:
        column, row = text.get_position()
        cell = np.array(image.cmap(image.norm(image.get_array()[row, column]))[:3])
        ink = np.array(matplotlib.colors.to_rgb(text.get_color()))
        assert contrast(cell, ink) >= 4.5  # WCAG 2.2, criterion 1.4.3


def contrast(first, second):
    """The WCAG contrast ratio of two sRGB colours, 1 to 21."""
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in (first, second)]
    dark, light = sorted(float(c @ [0.2126, 0.7152, 0.0722]) for c in linear)
    return (light + 0.05) / (dark + 0.05)


def test_confusion_without_an_error_names_none(ax):
    plots.confusion(ax, evaluate(np.array([0, 1]), np.array([0, 1]), ("a", "b")))
    assert ax.get_title(loc="left") == "2 of 2 right"


def test_scores_draws_bars_error_bars_and_numbers_first_on_top(ax):
    plots.scores(ax, METHODS, xlabel="macro-F1 (mean ± sd of 3 seeds)")
    assert [bar.get_width() for bar in ax.patches] == [0.74, 0.70, 0.85]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["TF-IDF", "frozen", "fine-tuned"]
    assert ax.yaxis_inverted()
    segments = ax.collections[0].get_segments()
    np.testing.assert_allclose(segments, [[[0.68, 1], [0.72, 1]], [[0.84, 2], [0.86, 2]]])
    assert [text.get_text() for text in ax.texts] == ["0.740", "0.700 ± 0.020", "0.850 ± 0.010"]
    assert ax.get_xlim()[0] == 0, "a bar's length means something only if it starts at zero"


def test_scores_numbers_stay_inside_the_axes(ax):
    plots.scores(ax, {"slow": (1234.5, 99.9), "fast": (3.0, 0.5)}, xlabel="time (s)", digits=1)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert [text.get_text() for text in ax.texts] == ["1234.5 ± 99.9", "3.0 ± 0.5"]
    assert all(box.x1 <= ax.get_window_extent().x1 for box in boxes)


def test_lengths_counts_every_text_once_and_draws_each_bucket_with_what_fits(ax):
    plots.lengths(ax, TOKENS, [16, 64])
    assert sum(bar.get_height() for bar in ax.patches) == len(TOKENS)
    assert [line.get_xdata()[0] for line in ax.lines] == [16.5, 64.5]
    assert [text.get_text() for text in ax.texts] == ["≤ 16\n40.0 %", "≤ 64\n95.0 %"]
    assert ax.get_title(loc="left") == "Cut at 64 tokens: 5 of 100 texts"
    left_of_edge = sum(bar.get_height() for bar in ax.patches if bar.get_x() + bar.get_width() <= 16.5)
    assert left_of_edge == 40, "a text of 16 tokens is drawn on the side of the bucket that it fits into"


@pytest.mark.parametrize("tokens", [[3], [1, 512], list(range(1, 2_000))])
def test_lengths_takes_any_range(ax, tokens):
    plots.lengths(ax, tokens, [64, 128])
    assert sum(bar.get_height() for bar in ax.patches) == len(tokens)
    assert len(ax.patches) <= 60 and ax.get_xlim()[1] > 128


def test_palette_is_eight_different_colours():
    palette = {plots.BLUE, plots.ORANGE, plots.GREEN, plots.VERMILLION, plots.SKY, plots.PURPLE, plots.YELLOW}
    assert {to_hex(c).upper() for c in palette | {plots.BLACK}} == {
        *("#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
    }
