"""The command as a user types it: the contract of finetune, evaluate and predict, and what bad input gets."""

import csv
import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from course_lib import cli
from course_lib.bert import BertConfig, BertModel
from course_lib.checkpoint import load_pretrained, save_pretrained
from course_lib.data import Examples, class_indices, load_tickets, tokenize
from course_lib.finetune import keep_router, tickets_router
from course_lib.train import TrainConfig

ROWS = [(f"my {thing} has not come yet, {n}", "delivery") for n, thing in enumerate(["sofa", "lamp", "book"] * 8)]
ROWS += [(f"give me my money for the {thing}, {n}", "refund") for n, thing in enumerate(["sofa", "lamp", "book"] * 8)]
SHAPES = ["--batch-size", 8, "--max-length", 32]  # the same throughout: what one run compiles, the others find on disk


def table(path: Path, rows=ROWS, header=("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_folder):
    """A folder that `course finetune` made, and the table that it was made from."""
    folder = tmp_path_factory.mktemp("cli")
    data = table(folder / "messages.csv", header=("message", "team"))
    command = ["finetune", data, "--text", "message", "--label", "team", "--model", tiny_folder, *SHAPES]
    command += ["--out", folder / "out", "--epochs", "2", "--seed", "1", "--learning-rate", "0.003"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["course", *map(str, command)])
        cli.main()
    assert not end.value.code
    return folder / "out", data


def test_finetune_writes_a_model_and_its_metrics_and_nothing_else(trained):
    out, data = trained
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "metrics.json"} <= names
    assert "checkpoints" not in names and not [name for name in names if name.startswith(".")]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["examples"]["train"] + metrics["examples"]["validation"] == len(ROWS)
    assert metrics["settings"]["seed"] == 1 and metrics["settings"]["max_length"] == 32
    assert [epoch["epoch"] for epoch in metrics["history"]] == [1, 2]
    assert metrics["validation"]["n"] == metrics["examples"]["validation"]
    assert 0 <= metrics["validation"]["macro_f1"] <= 1
    assert metrics["data"] == {"train": str(data), "validation": str(data), "text": "message", "label": "team"}


def test_evaluate_prints_and_writes_the_score(course, trained, tmp_path):
    out, data = trained
    scores = tmp_path / "scores.json"
    code, printed, _ = course("evaluate", out, data, "--text", "message", "--label", "team", "--json", scores)
    assert code == 0
    result = json.loads(scores.read_text())
    assert {"accuracy", "accuracy_interval", "macro_f1", "macro_f1_interval", "per_class", "n"} <= set(result)
    assert result["n"] == len(ROWS) and result["accuracy_interval"]["low"] <= result["accuracy"]
    assert f"{result['accuracy']:.3f}" in printed and "95 % interval" in printed
    assert all(label in printed for label in ("delivery", "refund"))


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_predict_keeps_the_order_of_a_file(course, trained, tmp_path, ending):
    out, _ = trained
    texts = ["one, with a comma", 'two "quoted"', "three\nwith a line break", "four ü", "five"] * 3
    source, target = table(tmp_path / "in.csv", [(text,) for text in texts], ["text"]), tmp_path / f"out.{ending}"
    code, printed, _ = course("predict", out, "--input", source, "--output", target)
    assert code == 0 and "15 rows" in printed
    if ending == "jsonl":
        rows = [json.loads(line) for line in target.read_text("utf-8").split("\n") if line]
    else:
        with target.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if ending == "tsv" else ","))
    assert [row["text"] for row in rows] == texts
    assert all(row["label"] in ("delivery", "refund") and 0.5 <= float(row["probability"]) <= 1 for row in rows)


def test_predict_answers_texts_a_line_each(course, trained):
    code, printed, _ = course("predict", trained[0], "where is it", "refund", "where is it")
    lines = printed.splitlines()
    assert code == 0 and len(lines) == 3 and lines[0] == lines[2]
    assert re.fullmatch(r"(delivery|refund)\t[01]\.\d{3}", lines[0])


def test_tickets_is_a_word_for_the_courses_own_data(course, tiny_folder, tmp_path, monkeypatch):
    for split in ("train", "validation", "test"):
        small = load_tickets(split)[range(40)]
        monkeypatch.setitem(SMALL, split, small)
    monkeypatch.setattr("course_lib.finetune.load_tickets", lambda split, label, text: SMALL[split])
    monkeypatch.setattr("course_lib.predict.load_tickets", lambda split, label, text: SMALL[split])
    out = tmp_path / "out"
    assert (
        course("finetune", "tickets", "--model", tiny_folder, "--epochs", 1, "--max-length", 16, "--out", out)[0] == 0
    )
    assert json.loads((out / "metrics.json").read_text())["examples"] == {"train": 40, "validation": 40}
    code, printed, _ = course("evaluate", out, "tickets")
    assert code == 0 and re.search(r"examples +40\b", printed)


SMALL: dict = {}


def test_the_defaults_that_help_shows_are_those_of_training(course):
    code, printed, _ = course("finetune", "--help")
    shown = dict(re.findall(r"--([a-z-]+) (?:(?!--).)*?\[default: ([\d.e-]+)", re.sub(r"\s+", " ", printed)))
    defaults = {name.replace("-", "_"): float(value) for name, value in shown.items()}
    for name in ("epochs", "batch_size", "seed"):
        assert defaults[name] == getattr(TrainConfig(), name)


def bad_inputs(folder: Path, model: Path):
    """name → (arguments of course finetune, what the error must say)."""
    good = table(folder / "good.csv")

    def write(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    half = folder / "half"
    shutil.copytree(model, half)
    (half / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:1000])
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("not to be lost")
    return {
        "missing file": ([folder / "none.csv"], "none.csv: no such file"),
        "missing column": ([good, "--label", "team"], "no column 'team'; there are: 'text', 'label'"),
        "empty table": ([write("empty.csv", b"text,label\n")], "the table is empty"),
        "empty file": ([write("nothing.csv", b"")], "nothing.csv"),
        "one class": ([table(folder / "one.csv", ROWS[:20])], "one class only, 'delivery'"),
        "empty text": (
            [table(folder / "hole.csv", [*ROWS, ("", "refund")])],
            "column 'text' is empty or NaN at line 50",
        ),
        "NaN label": ([table(folder / "nan.csv", [*ROWS, ("hm", "NaN")])], "column 'label' is empty or NaN at line 50"),
        "latin-1": ([write("latin.csv", "text,label\nfür,a\n".encode("latin-1"))], "line 2 is not UTF-8"),
        "UTF-16": ([write("wide.csv", "text,label\nx,a\n".encode("utf-16"))], "iconv -f UTF-16"),
        "open quote": ([write("quote.csv", b'text,label\nfine,a\n"never closed,b\nx,a\n')], "line 3"),
        "not a table": ([write("notes.docx", b"PK")], "must end in .csv, .tsv or .jsonl"),
        "new label": (
            [good, "--validation", table(folder / "other.csv", [("hello there", "praise")])],
            "line 2 has label 'praise', training knows delivery, refund",
        ),
        "too long": ([good, "--max-length", "65"], "--max-length 65: this model takes 3 to 64 tokens"),
        "too short": ([good, "--max-length", "2"], "--max-length 2"),
        "full folder": ([good, "--out", folder / "full"], "is not empty: --overwrite"),
        "out is a file": ([good, "--out", good], "a file of this name exists"),
        "nothing to resume": ([good, "--resume"], "holds no interrupted run"),
        "no such model": ([good, "--model", "./nowhere/"], "no such folder"),
        "learning rate": ([good, "--learning-rate", "-1"], "learning_rate must be above 0"),
        "no whole number": ([good, "--epochs", "two"], "'--epochs': Input should be a valid integer"),
        "seed": ([good, "--seed", "9223372036854775808"], "'--seed'"),
        "one column": ([good, "--label", "text"], "'text' cannot be both the text and the label"),
        "column of tickets": (["tickets", "--text", "message"], "no column 'message'; there are: 'text', 'intent'"),
        "out below a file": ([good, "--out", good / "x"], "good.csv/x: cannot be made (Not a directory)"),
        "out too long": ([good, "--out", folder / "new" / ("o" * 300)], "cannot be made (File name too long)"),
        "half a model": ([good, "--model", half, "--out", folder / "new" / "out"], "truncated"),
        "few rows": ([table(folder / "few.csv", [ROWS[0], ROWS[-1]])], "too few to hold some out"),
    }


BAD = ["missing file", "missing column", "empty table", "empty file", "one class", "empty text", "NaN label", "latin-1",
       "UTF-16", "open quote", "not a table", "new label", "too long", "too short", "full folder", "out is a file",
       "nothing to resume", "no such model", "learning rate", "no whole number", "seed", "one column",
       "column of tickets", "out below a file", "out too long", "half a model", "few rows"]  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line_that_says_what_and_where(course, tmp_path, tiny_folder, name):
    cases = bad_inputs(tmp_path, tiny_folder)
    assert set(cases) == set(BAD)
    arguments, said = cases[name]
    defaults = {"--model": tiny_folder, "--out": tmp_path / "out"}
    arguments += [part for option, value in defaults.items() if option not in arguments for part in (option, value)]
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    code, printed, error = course("finetune", *arguments)
    assert code == 2 and printed == ""
    line = error.splitlines()[-1]
    assert line.startswith("error: ") and said in line and "Traceback" not in error
    after = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    assert after == before  # nothing lost or left


def test_bom_and_windows_line_ends_are_no_error(course, tiny_folder, tmp_path):
    content = "\r\n".join(["text,label", *(f'"{text}",{label}' for text, label in ROWS)])
    (tmp_path / "excel.csv").write_bytes(b"\xef\xbb\xbf" + content.encode())
    arguments = ["--model", tiny_folder, "--epochs", 1, *SHAPES, "--out", tmp_path / "out"]
    assert course("finetune", tmp_path / "excel.csv", *arguments)[0] == 0


def test_overwrite_replaces_the_model_only_once_the_new_one_is_complete(course, tiny_folder, tmp_path, monkeypatch):
    data, out = table(tmp_path / "data.csv"), tmp_path / "out"
    arguments = ["finetune", data, "--model", tiny_folder, "--epochs", 1, *SHAPES, "--out", out]
    assert course(*arguments)[0] == 0
    old = (out / "model.safetensors").read_bytes()

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("course_lib.checkpoint.save_file", full_disk)
    code, _, error = course(*arguments, "--overwrite", "--seed", 5)
    assert code == 2 and "No space left on device" in error and "unchanged" in error
    assert (out / "model.safetensors").read_bytes() == old
    monkeypatch.undo()


def test_evaluate_and_predict_say_what_is_wrong(course, trained, tmp_path, tiny_folder):
    out, data = trained
    other = table(tmp_path / "other.csv", [("hello", "praise")])
    text = table(tmp_path / "in.csv", [("hello",)], ["text"])
    for arguments, said in [
        (["evaluate", tmp_path / "none", data, "--text", "message", "--label", "team"], "no config.json"),
        (["evaluate", tiny_folder, data, "--text", "message", "--label", "team"], "no labels of its own"),
        (["evaluate", out, other], "label 'praise'"),
        (["evaluate", out, tmp_path / "none.csv", "--json", "."], "it is a folder"),  # found first of all
        (["predict", out, "caf\udce9"], "is not UTF-8"),
        (["predict", out, "--input", text, "--output", text], "is the file with the texts itself"),
        (["predict", out, "--input", text, "--output", text / "out.csv"], "could not be written"),
        (["nonsense"], "No such command 'nonsense'; see course --help"),
        (["predict"], "Missing argument 'DIR'; see course predict --help"),
        (["predict", out], "give texts"),
        (["predict", out, "hello", "--input", text], "give texts"),
        (["predict", out, "--input", text, "--output", tmp_path / "out.xlsx"], "must end in .csv, .tsv or .jsonl"),
        (["predict", out, "--input", text, "--output", tmp_path / "none" / "out.csv"], "could not be written"),
    ]:
        code, _, error = course(*arguments)
        assert code == 2 and error.startswith("error: ") and said in error, (arguments, error)
        assert error.count("\n") == 1
    assert course()[:2] == course("--help")[:2]


def test_labels_that_the_terminal_cannot_show_do_not_end_the_work(monkeypatch, tmp_path, tiny_folder, tokenizer):
    labels = ("返金", "配達")
    folder = save_pretrained(load_pretrained(tiny_folder, labels=labels), tmp_path / "model", tokenizer)
    data = table(tmp_path / "data.csv", [("hello", label) for label in labels])
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding="cp1252"))
    monkeypatch.setattr(sys, "argv", ["course", "evaluate", str(folder), str(data), "--json", str(tmp_path / "a.json")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code and rb"\u8fd4\u91d1" in screen.getvalue()
    assert labels[0] in (tmp_path / "a.json").read_text("utf-8")


def test_resume_goes_on_with_the_same_model_and_refuses_another(course, tiny_folder, tmp_path, tokenizer, monkeypatch):
    config = BertConfig.tiny(hidden_size=16, max_position_embeddings=64)
    narrow = save_pretrained(BertModel(config, rngs=nnx.Rngs(0)), tmp_path / "narrow", tokenizer)
    same, other = tmp_path / "same", tmp_path / "other"
    for copy in (same, other):
        shutil.copytree(tiny_folder, copy)
    weights = load_file(tiny_folder / "model.safetensors")
    save_file({key: value + np.float32(0.1) for key, value in weights.items()}, other / "model.safetensors")
    data, out = table(tmp_path / "data.csv"), tmp_path / "out"
    rest = [data, "--epochs", 1, *SHAPES, "--learning-rate", 1e-3, "--out", out]
    with monkeypatch.context() as patch:  # interrupted: the epoch is saved, the model is not
        patch.setattr("course_lib.checkpoint.save_file", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            patch.setattr(sys, "argv", ["course", "finetune", *map(str, [*rest, "--model", same])])
            cli.main()
    shutil.move(other, same.rename(tmp_path / "kept").with_name("same"))  # other weights under the same name
    for arguments, said in [
        (["--model", same], "weights was '"),
        (["--model", narrow], f"model was '{same}' and is '{narrow}'"),
        (["--model", same, "--dtype", "bfloat16"], "dtype was 'float32' and is 'bfloat16'"),
    ]:
        code, _, error = course("finetune", *rest, *arguments, "--resume")
        assert code == 2 and said in error.splitlines()[-1], error
    shutil.rmtree(same)
    shutil.move(tmp_path / "kept", same)
    assert course("finetune", *rest, "--model", same, "--resume")[0] == 0 and (out / "metrics.json").is_file()


def test_a_process_checks_what_it_can_before_it_joins_the_others(course, tmp_path, tiny_folder, monkeypatch):
    joined = []
    monkeypatch.setattr("course_lib.sharding.join_processes", lambda *together: joined.append(together))
    data, out = table(tmp_path / "data.csv"), tmp_path / "out"
    arguments = [*SHAPES, "--epochs", 1, "--out", out]
    many = ["--coordinator", "localhost:1", "--processes", 2, "--process-id", 1]
    for wrong in (
        [tmp_path / "none.csv", "--model", tiny_folder],
        [data, "--model", tmp_path / "none"],
        [data, "--model", tiny_folder, "--learning-rate", -1],
        [data, "--model", tiny_folder, "--validation", table(tmp_path / "v.csv", [("hm", "praise")])],
    ):
        assert course("finetune", *wrong, *arguments, *many)[0] == 2 and not joined
    assert course("finetune", data, "--model", tiny_folder, *arguments, *many[:2])[0] == 2 and not joined
    assert course("finetune", data, "--model", tiny_folder, *arguments, *many)[0] == 0
    assert joined == [("localhost:1", 2, 1)]


def test_the_first_process_speaks_for_all(course, monkeypatch):
    scores = {"validation": {"accuracy": 1.0, "macro_f1": 1.0, "n": 1}}
    given = []
    monkeypatch.setattr("course_lib.finetune.finetune", lambda *_, together, **__: given.append(together) or scores)
    for process, lines in ((0, 2), (1, 0)):
        monkeypatch.setattr("jax.process_index", lambda process=process: process)
        code, printed, _ = course("finetune", "tickets", "--out", "out", "--cluster")
        assert code == 0 and len(printed.splitlines()) == lines
    assert given == [(None, None, None)] * 2


def test_lab_becomes_jupyterlab_and_on_windows_waits_for_it(course, monkeypatch):
    started = []
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)  # the tests' own
    monkeypatch.setattr("course_lib.pretrained.fetch", lambda report: None)
    monkeypatch.setattr("os.execv", lambda program, command: started.append(command))
    monkeypatch.setattr("subprocess.call", lambda command: started.append(command) or 3)
    assert course("lab", "--no-browser")[0] == 0
    assert Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).is_dir()  # for the kernels: a second run compiles nothing
    monkeypatch.setattr(sys, "platform", "win32")
    assert course("lab", "--no-browser")[0] == 3
    assert started[0] == started[1] and started[0][1:3] == ["-m", "jupyterlab"] and started[0][-1] == "--no-browser"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_says_how_to_resume_and_resume_finishes(tmp_path, tiny_folder, course):
    data, out = table(tmp_path / "data.csv", ROWS * 5), tmp_path / "out"  # an epoch takes longer than a signal
    arguments = ["finetune", data, "--model", tiny_folder, "--epochs", "60", *SHAPES, "--out", out]
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # `make test &` starts it deaf
    program = [sys.executable, "-c", f"{listen}; from course_lib.cli import main; main()", *map(str, arguments)]
    process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True, env={**os.environ, "TQDM_DISABLE": "1"})
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith("epoch 1/60"):
            process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "--resume" in seen[-1] and "Traceback" not in "".join(seen)
    code, _, error = course(*arguments, "--resume")
    assert code == 0 and "epoch 1/60" not in error and (out / "model.safetensors").is_file()


def test_the_command_starts_fast():
    """`course --help` and `import course_lib` load nothing heavy."""
    heavy = "{'jax', 'flax', 'transformers', 'pandas', 'sklearn', 'matplotlib'}"
    script = f"import sys, course_lib.cli; print(*sorted({heavy} & set(sys.modules)))"
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert time.perf_counter() - started < 10


def test_the_courses_router_is_made_once_and_in_silence(monkeypatch, tmp_path, caplog):
    made = []

    def make(data, *, out, **_):
        logging.getLogger("course_lib.checkpoint").warning("newly initialised")
        out.mkdir()
        made.append(data)

    monkeypatch.setattr("course_lib.finetune.finetune", make)
    monkeypatch.setattr("course_lib.finetune.cache_folder", lambda: tmp_path)
    folder = tickets_router()
    assert folder.is_dir() and tickets_router() == folder
    assert made == ["tickets"] and not caplog.records


def test_lesson_11_keeps_its_router_only_where_it_is_the_courses_own(monkeypatch, tmp_path, tokenizer):
    monkeypatch.setattr("course_lib.finetune.finetune", lambda *_, **__: pytest.fail("trained once more"))
    monkeypatch.setattr("course_lib.finetune.cache_folder", lambda: tmp_path / "cache")
    tables = [load_tickets(split) for split in ("train", "validation")]
    train, validation = (
        tokenize(tokenizer, table.texts, 128, class_indices(table, tables[0].classes)) for table in tables
    )
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model.safetensors").write_text("trained in lesson 11")
    others = {
        "fewer epochs": (TrainConfig(epochs=2), train),
        "another seed": (TrainConfig(seed=1), train),
        "a message less": (TrainConfig(), Examples(train.token_ids[1:], train.labels[1:])),
    }
    for name, (config, part) in others.items():
        assert not keep_router(folder, config, part, validation), name
    assert not any(tmp_path.glob("cache/routers/*/"))
    assert keep_router(folder, TrainConfig(), train, validation)
    assert (tickets_router() / "model.safetensors").read_text() == "trained in lesson 11"
