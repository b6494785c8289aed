"""The figures of the course. Each function draws on the `Axes` it is given and returns it.

    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    plots.learning_curve(left, history, score_ax=right)

Colours are those of Okabe and Ito, "Color Universal Design", 2008 (https://jfly.uni-koeln.de/color/): people with any
of the common kinds of colour blindness can tell them apart. Where no title is given, the title states what the data
says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from course_lib import shown

if TYPE_CHECKING:
    from course_lib.evaluate import Evaluation

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, BLACK = "#56B4E9", "#CC79A7", "#F0E442", "#000000"


def learning_curve(
    ax: Axes, history: Sequence[Mapping[str, float]], *, score_ax: Axes | None = None, title: str = ""
) -> Axes:
    """Training and validation loss by epoch and, on an axes of its own, macro-F1 with its best epoch marked.

    The score is not drawn over the losses on a second scale: where two scales cross depends on the scales.

    Args:
        history: one dict an epoch, with `epoch`, `train_loss`, `validation_loss` and `validation_macro_f1`.
        score_ax: where macro-F1 goes; without it, the losses only.
        title: of `ax`.
    """
    epochs = [row["epoch"] for row in history]
    for key, label, colour, marker in (
        ("train_loss", "training", BLUE, "o"),
        ("validation_loss", "validation", VERMILLION, "s"),
    ):
        ax.plot(epochs, [row[key] for row in history], color=colour, marker=marker, label=label)
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)
    finish(ax, title or "Loss on training and validation data", "epoch", "cross-entropy loss (nats)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if score_ax is not None:
        scores = [row["validation_macro_f1"] for row in history]
        best = int(np.argmax(scores))
        score_ax.plot(epochs, scores, color=GREEN, marker="o")
        score_ax.plot(epochs[best], scores[best], "o", markersize=12, markerfacecolor="none", color=BLACK)
        score_ax.set_ylim(0, 1)
        finish(score_ax, f"Best: {scores[best]:.3f} at epoch {epochs[best]}", "epoch", "validation macro-F1")
        score_ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def confusion(ax: Axes, evaluation: Evaluation, *, title: str = "") -> Axes:
    """The confusion matrix: one row a true class, with its size; in each cell the count, if any.

    The colour is the cell's share of its row, so that a small class is as easy to judge as a large one: the diagonal's
    colour is recall.
    """
    counts = evaluation.confusion  # int [K true, K predicted]
    labels = [_tick(score.label) for score in evaluation.per_class]
    rows = [f"{label} ({score.support})" for label, score in zip(labels, evaluation.per_class, strict=True)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.7 else BLACK  # whichever has the greater contrast on Blues
            ax.text(column, row, str(count), ha="center", va="center", color=colour)
    ax.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(labels)), rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if not title:
        title = f"{np.trace(counts)} of {evaluation.n} right"
        wrong = counts - np.diag(np.diag(counts))
        if wrong.any():
            row, column = np.unravel_index(wrong.argmax(), wrong.shape)
            title += f"\nmost frequent error: {labels[row]} → {labels[column]}, {wrong[row, column]}"
    finish(ax, title, "predicted class (colour: share of the row)", "true class (examples)")
    return ax


def scores(
    ax: Axes, results: Mapping[str, tuple[float, float]], *, xlabel: str, title: str = "", digits: int = 3
) -> Axes:
    """One horizontal bar a method, first on top, with mean ± sd written at its end.

    Args:
        results: name → (mean, sd), as `evaluate.mean_sd` gives them; an sd of 0, for what does not vary, is not drawn.
        xlabel: what is measured, its unit, and over what: "macro-F1 (mean ± sd of 3 seeds)".
        digits: after the decimal point.
    """
    names = list(results)
    means, sds = (np.array(column, float) for column in zip(*results.values(), strict=True))
    ax.barh(names, means, color=BLUE, height=0.6)
    varies = sds > 0
    ax.errorbar(means[varies], np.flatnonzero(varies), xerr=sds[varies], fmt="none", color=BLACK, capsize=4)
    for row, (mean, sd) in enumerate(zip(means, sds, strict=True)):
        text = f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if sd > 0 else "")
        ax.annotate(text, (mean + sd, row), xytext=(6, 0), textcoords="offset points", va="center")
    ax.set_xlim(0, 1.35 * (means + sds).max())  # room for the numbers
    ax.invert_yaxis()
    finish(ax, title, xlabel, "")
    ax.tick_params(axis="y", length=0)
    return ax


def lengths(ax: Axes, token_counts: Sequence[int], buckets: Sequence[int], *, title: str = "") -> Axes:
    """How long the texts are, in tokens, and what share of them fits into each bucket.

    Args:
        token_counts: int [n], the length of each text.
        buckets: the lengths that batches are padded to, ascending; a longer text is cut at the last one.
    """
    token_counts = np.asarray(token_counts)
    longest, last = token_counts.max(), max(buckets)
    width = max(1, round(longest / 50))
    bins = np.arange(0, longest + width + 1, width) + 0.5  # a bucket of 32 ends between 32 and 33 tokens
    heights, _, _ = ax.hist(token_counts, bins=bins, color=SKY, edgecolor="white", linewidth=0.5)
    ax.set(xlim=(0, 1.12 * max(longest, last)), ylim=(0, 1.3 * heights.max()))  # room for the labels
    for i, bucket in enumerate(buckets):
        fits = 100 * np.mean(token_counts <= bucket)
        ax.axvline(bucket + 0.5, color=VERMILLION)
        ax.annotate(
            f"≤ {bucket}\n{fits:.1f} %",
            (bucket + 0.5, 1 - 0.17 * (i % 2)),  # up and down in turn: neighbouring buckets may be close
            xycoords=("data", "axes fraction"),
            xytext=(4 if i else -4, 0),  # the first one's to the left, where no line crosses it
            textcoords="offset points",
            ha="left" if i else "right",
            va="top",
        )
    cut = np.sum(token_counts > last)
    finish(ax, title or f"Cut at {last} tokens: {cut} of {len(token_counts)} texts", "length (tokens)", "texts")
    return ax


def _tick(label: str) -> str:
    """A label as it is: what stands between two $ Matplotlib would set as a formula, or refuse as a wrong one."""
    return shown(label, 40).replace("$", r"\$")


def finish(ax: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """What all figures share: the message above, what the axes are with their units, and no box around the data."""
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.spines[["top", "right"]].set_visible(False)
