"""Labels and texts that would take over a terminal, a page, a spreadsheet or a log, from the table to every output."""

import csv
import json
import shutil
import sys
import tracemalloc

import matplotlib
import numpy as np
import pytest

from course_lib import UNSHOWABLE, CourseError, cli, shown
from course_lib.checks import progress
from course_lib.data import Table, read_table, split_off
from course_lib.predict import Predictor, predict_file

MEGABYTE = "long " * 200_000
LABELS = sorted(
    [
        "<script>alert(1)</script>",
        '=HYPERLINK("http://evil.example","here")',
        "\x1b]0;owned\x07\x1b[2J",
        "a\r\nerror: all is lost",
        "\u202egnp.exe",
        "$\\frac{$ and $5",
        MEGABYTE.strip(),
    ]
)
TEXTS = [*LABELS, "one\rtwo", "tab\there", 'quote " and , and ;=1+1', "-1", "@you"]


@pytest.fixture
def each_label_once(monkeypatch):
    """The model's answer to its k-th text is its k-th label, and so round."""
    rows = np.eye(len(LABELS), dtype=np.float32)
    monkeypatch.setattr(Predictor, "logits", lambda self, texts: rows[np.arange(len(texts)) % len(LABELS)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_folder):
    """A model fine-tuned on hostile texts and labels by the command, and the table; its name no UTF-8 where it may."""
    folder = tmp_path_factory.mktemp("hostile")
    data = folder / ("caf\udce9.jsonl" if sys.platform == "linux" else "data.jsonl")
    pairs = [(text, label) for label in LABELS for text in TEXTS]
    rows = [{"text": f"{text[:20]} {i}", "label": label} for i, (text, label) in enumerate(pairs)]
    rows[0]["text"] = MEGABYTE
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    arguments = ["finetune", data, "--model", tiny_folder, "--out", folder / "out", "--epochs", 1, "--max-length", 16]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["course", *map(str, arguments)])
        cli.main()
    assert not end.value.code
    return folder / "out", data


def assert_harmless(output: str, lines: int) -> None:
    """What a terminal shows and a log keeps: so many lines, none of them long, and nothing that drives either."""
    assert output.endswith("\n") and output.count("\n") == lines
    for line in output.replace("\t", " ").split("\n"):
        assert len(line) < 2_100 and not UNSHOWABLE.search(line), line


def test_hostile_labels_are_kept_as_they_are_in_json(trained):
    out, data = trained
    assert Predictor(out).labels == tuple(LABELS)
    metrics = json.loads((out / "metrics.json").read_text("utf-8"))
    assert [score["label"] for score in metrics["validation"]["per_class"]] == LABELS
    assert metrics["data"]["train"] == str(data)


def test_predict_prints_a_line_a_text(course, trained, each_label_once):
    code, printed, _ = course("predict", trained[0], *("x" * len(LABELS)))
    assert code == 0
    assert_harmless(printed, len(LABELS))
    assert [line.split("\t")[0] for line in printed.splitlines()] == [shown(label, 200) for label in LABELS]


def test_evaluate_prints_a_table_and_says_what_label_it_does_not_know(course, trained, tmp_path, each_label_once):
    out, data = trained
    code, printed, _ = course("evaluate", out, data, "--json", tmp_path / "scores.json")
    assert code == 0
    assert_harmless(printed, 5 + len(LABELS))
    assert max(map(len, printed.splitlines())) < 100
    scores = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert [score["label"] for score in scores["per_class"]] == LABELS
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"text": "hello", "label": f"\x1b[2J{MEGABYTE}"}), "utf-8")
    code, _, error = course("evaluate", out, other)
    assert code == 2 and "line 1 has label '\\x1b[2Jlong" in error
    assert_harmless(error, 1)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_the_table_of_answers_holds_no_formula_and_is_read_again(trained, tmp_path, each_label_once, ending):
    source, target = tmp_path / "in.jsonl", tmp_path / f"out.{ending}"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), "utf-8")
    assert predict_file(trained[0], source, target, "text") == len(TEXTS)
    read = read_table(target, "text", "label")
    labels = [LABELS[i % len(LABELS)] for i in range(len(TEXTS))]
    if ending == "jsonl":
        assert list(read.texts) == TEXTS and list(read.labels) == labels
        return
    with target.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t" if ending == "tsv" else ","))[1:]
    assert [text.removeprefix("'") for text, _, _ in rows] == TEXTS
    assert [label.removeprefix("'") for _, label, _ in rows] == labels
    assert not [cell for text, label, _ in rows for cell in (text, label) if cell.lstrip()[0] in "=+-@"]
    assert list(read.texts) == [text for text, _, _ in rows]


def test_tables_and_figures_in_notebooks_show_the_label_and_no_markup(trained, each_label_once):
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from course_lib import plots
    from course_lib.evaluate import evaluate

    classes = np.arange(len(LABELS))
    result = evaluate(classes, np.roll(classes, 1), LABELS)
    assert "<script>" not in result.table()._repr_html_() and "&lt;script&gt;" in result.table()._repr_html_()
    assert_harmless(f"{result}\n", 5 + len(LABELS))
    figure, ax = plt.subplots(figsize=(9, 7), layout="constrained")
    plots.confusion(ax, result)
    figure.canvas.draw()  # an unbalanced formula would be refused here, and 1 MB of text would leave no room
    plt.close(figure)
    ticks = [text.get_text().replace(r"\$", "$") for text in ax.get_xticklabels()]
    assert ticks == [shown(label, 40) for label in LABELS]


def test_the_service_sends_labels_as_data_and_its_page_shows_them_as_text(trained):
    from prometheus_client.parser import text_string_to_metric_families
    from starlette.testclient import TestClient

    from course_lib.serve import create_app
    from course_lib.service import Settings

    app = create_app(trained[0], Settings(lengths=(16,), max_batch=2))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        answer = client.post("/predict", json={"text": "<img src=x onerror=alert(1)>"})
        assert answer.headers["content-type"] == "application/json"
        assert set(answer.json()["predictions"][0]["probabilities"]) == set(LABELS)
        families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
        assert {sample.labels["label"] for sample in families["course_predictions"].samples} <= set(LABELS)
        page = client.get("/").text
    assert not [way for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write") if way in page]
    assert 'make("bdi", answer.label)' in page  # a mark that turns the direction of writing ends with the label


def test_an_error_is_one_line_of_a_bearable_length_with_its_advice_at_the_end():
    error = CourseError(f"\x1b[2J{MEGABYTE}\r\n\u2028\u202e\ud800; fetch it again")
    assert str(error).startswith("\\x1b[2Jlong") and len(str(error)) == 2_000
    assert str(error).endswith("\\r\\n\\u2028\\u202e\\ud800; fetch it again")
    assert str(CourseError("Persian می\u200cشود, 👩\u200d💻")) == "Persian می\u200cشود, 👩\u200d💻"


def test_a_verdict_with_hostile_text_is_kept_and_shown(tmp_path, monkeypatch, course):
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    assert progress.record("1.3", "softmax", "not yet", "not yet: \ud800 <b> \x1b[2J \u202e came\nhere")
    code, printed, _ = course("progress")
    assert code == 0 and "\\ud800 <b> \\x1b[2J \\u202e came here" in printed
    assert_harmless(printed, printed.count("\n"))
    assert "<b> \\x1b" not in progress.table()._repr_html_() and "&lt;b&gt; \\x1b" in progress.table()._repr_html_()


@pytest.mark.parametrize("content", ['{"1.3": {"status": ["passed"]}}', "[" * 100_000, '{"1.3": {"message": 1}}'])
def test_a_damaged_file_of_progress_counts_for_nothing(tmp_path, monkeypatch, content):
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    (tmp_path / "progress.json").write_text(content)
    assert progress.load() == {} and progress.table()._repr_html_() and repr(progress.table())


@pytest.mark.parametrize("longest", ["text", "label"])
def test_one_long_text_or_label_does_not_cost_its_length_in_every_row(longest):
    texts, labels = [f"message {i}" for i in range(400)], ["a", "b"] * 200
    if longest == "text":
        texts[7] = MEGABYTE
    else:
        labels[:200] = [MEGABYTE] * 200
    table = Table(tuple(texts), tuple(labels), "some.csv", tuple(range(400)))
    split_off(table)  # imports scikit-learn
    tracemalloc.start()
    rest, held_out = split_off(table)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rest) + len(held_out) == 400 and peak < 50e6  # as an array of texts: 1.6 GB


def test_a_name_of_a_folder_that_utf8_cannot_hold_is_refused_by_the_service(trained):
    from course_lib.serve import create_app
    from course_lib.service import Settings

    if sys.platform != "linux":
        pytest.skip("there, no file has such a name")
    name = shutil.copytree(trained[0], trained[0].with_name("caf\udce9"))
    with pytest.raises(CourseError, match="cannot be sent as text"):
        create_app(name, Settings(lengths=(16,), max_batch=1))
