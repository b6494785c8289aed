"""The Stanford Sentiment Treebank (whole sentences, binary), as tables that every side of a benchmark reads."""

import csv
import sys
from pathlib import Path


def sst2_tables(data: Path | None, out: Path) -> tuple[Path, Path]:
    """(train.csv, dev.csv) in `out`, text,label with a header.

    `data` holds train.tsv and dev.tsv (text<TAB>label, no header); without it, stanfordnlp/sst2 is fetched where the
    package `datasets` is installed. Exits with one line where neither is there.
    """
    tables = out / "train.csv", out / "dev.csv"
    for table, rows in zip(tables, _fetched() if data is None else _read(data), strict=True):
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(rows)
    return tables


def _read(data: Path):
    for name in ("train", "dev"):
        path = data / f"{name}.tsv"
        if not path.is_file():
            sys.exit(f"{path} is missing: --sst2 takes a folder with train.tsv and dev.tsv")
        with path.open(encoding="utf-8") as file:
            yield [line.rstrip("\n").rsplit("\t", 1) for line in file]


def _fetched():
    try:
        from datasets import load_dataset
    except ImportError:
        sys.exit("SST-2 needs --sst2 FOLDER, or the package datasets")
    for split in ("train", "validation"):
        yield [(row["sentence"].strip(), row["label"]) for row in load_dataset("stanfordnlp/sst2", split=split)]
