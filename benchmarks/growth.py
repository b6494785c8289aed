"""How time and memory grow with rows, length, batch and layers: benchmarks/growth.csv and growth.png.

    .venv/bin/python benchmarks/growth.py

Each point is measured in a process of its own, so that its peak memory is its own. Rows: a model small enough (2 layers
of width 32) that what the course does for each row shows; the tickets' messages, repeated. The rest: a training step of
the course's model, computed in float32. All find their programs compiled on disk. About ten minutes on 2 cores.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from course_lib.start import large_pages

HERE = Path(__file__).resolve().parent
ROWS = (1_000, 10_000, 100_000)
USUAL = {"length": 32, "batch": 16, "layers": 6}
STEPS = {"length": (16, 32, 64, 128, 256), "batch": (4, 8, 16, 32, 64), "layers": (1, 2, 3, 6, 12)}
WORK = {
    "train": "train, from a list",
    "stream": "train, from a stream",
    "predict": "predict, file to file",
}


class Lines:
    """A .jsonl file as a random-access source: what it holds in memory is where each line begins."""

    def __init__(self, path: Path):
        self.file = path.open("rb")
        self.starts = np.cumsum([0, *map(len, self.file)])

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> tuple[str, str]:
        # pread, not seek and read: grain's threads read side by side
        row = json.loads(os.pread(self.file.fileno(), self.starts[i + 1] - self.starts[i], self.starts[i]))
        return row["text"], row["label"]


def measure_rows(work: str, rows: int) -> float:
    """Seconds for one pass over `rows` rows, everything from the file on."""
    from flax import nnx

    from course_lib.bert import BertConfig, BertForSequenceClassification
    from course_lib.checkpoint import save_pretrained
    from course_lib.data import class_indices, load_tickets, load_tokenizer, read_table, tokenize
    from course_lib.predict import predict_file
    from course_lib.pretrained import fetch
    from course_lib.train import TrainConfig, fit

    tickets, tokenizer = load_tickets("train"), load_tokenizer(fetch())
    model = BertForSequenceClassification(BertConfig.tiny(labels=tickets.classes), rngs=nnx.Rngs(0))
    config = TrainConfig(epochs=1, learning_rate=1e-3)
    held_out = tokenize(tokenizer, tickets.texts[:64], 128, class_indices(tickets[range(64)], tickets.classes))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data.jsonl"
        with data.open("w", encoding="utf-8") as file:
            for i in range(rows):
                row = {"text": tickets.texts[i % len(tickets)], "label": tickets.labels[i % len(tickets)]}
                file.write(json.dumps(row) + "\n")
        save_pretrained(model, folder / "model", tokenizer)
        started = time.perf_counter()
        if work == "predict":
            assert predict_file(folder / "model", data, folder / "answers.csv", "text") == rows
        elif work == "train":
            table = read_table(data, "text", "label")
            fit(model, tokenize(tokenizer, table.texts, 128, class_indices(table, tickets.classes)), held_out, config)
        else:
            train_from_stream(model, tokenizer, Lines(data), tickets.classes, config)
        return time.perf_counter() - started


def train_from_stream(model, tokenizer, source, classes, config) -> None:
    """As lesson 13 does it: grain reads, shuffles and batches, and the step is `fit`'s own."""
    import grain
    import jax
    from flax import nnx

    from course_lib.data import batches, tokenize
    from course_lib.train import make_optimizer, programs

    graph, params = nnx.split(model, nnx.Param)
    optimizer = make_optimizer(config, len(source) // config.batch_size)
    opt_state, (gradients_of, update_of) = optimizer.init(params), programs()
    place = {name: i for i, name in enumerate(classes)}
    for texts, labels in grain.MapDataset.source(source).shuffle(seed=0).batch(config.batch_size):
        rows = tokenize(tokenizer, list(texts), 128, np.array([place[label] for label in labels], np.int32))
        [batch] = batches(rows, config.batch_size, buckets=(64,))
        _, gradients = gradients_of(graph, params, batch, None, 1, False)
        params, opt_state = update_of(optimizer, params, opt_state, gradients)
    jax.block_until_ready(params)


def measure_step(length: int, batch: int, layers: int) -> float:
    """Seconds of one training step, the median of five after two that compile and warm up."""
    import jax
    from flax import nnx

    from course_lib.bert import BertConfig, BertForSequenceClassification
    from course_lib.data import empty_batch
    from course_lib.train import TrainConfig, make_optimizer, programs

    config = BertConfig.minilm_l6(num_hidden_layers=layers, labels=tuple("abcdefgh"))
    graph, params = nnx.split(BertForSequenceClassification(config, rngs=nnx.Rngs(0)), nnx.Param)
    optimizer = make_optimizer(TrainConfig(learning_rate=1e-5), 1000)
    opt_state, (gradients_of, update_of) = optimizer.init(params), programs()
    rows, took = empty_batch(batch, length), []
    rows.attention_mask[:], rows.weights[:] = 1, 1
    for _ in range(7):
        started = time.perf_counter()
        _, gradients = gradients_of(graph, params, rows, None, 1, False)
        params, opt_state = update_of(optimizer, params, opt_state, gradients)
        del gradients
        jax.block_until_ready(params)
        took.append(time.perf_counter() - started)
    return statistics.median(took[2:])


def point(kind: str, value: int) -> None:
    """One measurement, in this process: prints seconds and peak GiB."""
    seconds = measure_rows(kind, value) if kind in WORK else measure_step(**USUAL | {kind: value})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    print(f"{seconds:.4g} {peak:.4g}")


def draw(rows: list[tuple[str, int, float, float]]) -> None:
    import matplotlib.pyplot as plt

    from course_lib import plots

    fig, axes = plt.subplots(2, 4, figsize=(15, 6.5), layout="constrained", sharex="col")
    for column, kinds in enumerate((tuple(WORK), ("length",), ("batch",), ("layers",))):
        for kind, colour in zip(kinds, (plots.BLUE, plots.ORANGE, plots.GREEN), strict=False):
            points = [row[1:] for row in rows if row[0] == kind]
            values = [value for value, _, _ in points]
            for ax, of in zip(axes[:, column], (1, 2), strict=True):
                ax.plot(values, [point[of] for point in points], "o-", color=colour, label=WORK.get(kind))
                ax.set_xscale("log", base=10 if kind in WORK else 2)
                if of == 1:
                    ax.set_yscale("log", base=10 if kind in WORK else 2)
                ax.set_xticks(values, [f"{value:,}" for value in values])
                ax.minorticks_off()
                if of == 2:
                    ax.set_ylim(0)
    axes[0, 0].legend(frameon=False)
    names = ("rows", "tokens a text", "texts a batch", "layers")
    for column, name in enumerate(names):
        plots.finish(axes[0, column], f"by {name}", "", "seconds for all rows" if not column else "seconds a step")
        plots.finish(axes[1, column], "", name, "peak memory of the process (GiB)")
    fig.savefig(HERE / "growth.png", dpi=90)


def main() -> None:
    os.environ |= large_pages()  # as the script `course` has it
    kinds = [(kind, ROWS) for kind in WORK] + list(STEPS.items())
    rows = []
    for kind, values in kinds:
        for value in values:
            command = [sys.executable, __file__, "point", kind, str(value)]
            new_programs = kind in STEPS or value == values[0]  # compiling takes memory, too: let the first run do it
            for _ in range(1 + new_programs):
                seconds, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            rows.append((kind, value, float(seconds), float(peak)))
            print(f"{kind:8} {value:7,} {seconds:>8} s {peak:>6} GiB", flush=True)
    with (HERE / "growth.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("what", "value", "seconds", "peak_gib"), *rows])
    draw(rows)


if __name__ == "__main__":
    point(sys.argv[2], int(sys.argv[3])) if sys.argv[1:2] == ["point"] else main()
