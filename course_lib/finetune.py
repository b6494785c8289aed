"""The whole job: a table of labelled texts and a pretrained BERT in, a folder with a fine-tuned model out."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib import CourseError, one_line
from course_lib.cache import cache_folder
from course_lib.data import (
    TICKETS_NAME,
    Examples,
    Table,
    class_indices,
    load_tickets,
    load_tokenizer,
    read_table,
    split_off,
    tokenize,
)
from course_lib.files import write_json

if TYPE_CHECKING:
    from course_lib.train import TrainConfig

CHECKPOINTS = "checkpoints"
LOCK = ".finetune.lock"  # in `out`, while a run works there


def tickets_router() -> Path:
    """The folder of the course's own router: what `course finetune tickets` makes, with its defaults.

    Lessons that need a fine-tuned model share it. The first call trains it, a minute or two, unless lesson 11 has kept
    its own (`keep_router`). Raises CourseError where the course's cache cannot be written to.
    """

    def train(half: Path) -> None:
        about_the_new_classifier = logging.getLogger("course_lib.checkpoint")
        about_the_new_classifier.disabled = True  # whoever asks for the router did not ask how it is made
        try:
            finetune(TICKETS_NAME, text="text", label="intent", out=half, report=_say_nothing)
        finally:
            about_the_new_classifier.disabled = False

    return _router(train)


def keep_router(folder: Path, config: TrainConfig, train: Examples, validation: Examples) -> bool:
    """Let `tickets_router` be the model in `folder`, if it has been trained as that one is; says whether it was.

    `config`, `train` and `validation` are what `fit` was given. Other settings, fewer messages: nothing is kept.
    """
    from course_lib.pretrained import fetch
    from course_lib.train import TrainConfig, fingerprint

    tables = load_tickets("train"), load_tickets("validation")
    tokenizer, classes = load_tokenizer(fetch()), tables[0].classes
    own = [tokenize(tokenizer, table.texts, 128, class_indices(table, classes)) for table in tables]
    same = fingerprint(config, None, train, validation) == fingerprint(TrainConfig(), None, *own)
    if same:
        _router(lambda half: shutil.copytree(folder, half))
    return same


def _router(make: Callable[[Path], object]) -> Path:
    """The router's folder in the cache, filled by `make` where there is none.

    Its name follows from the data, the code and the versions that the model depends on.
    """
    import filelock
    import flax
    import jax
    import optax

    from course_lib.pretrained import fetch

    here = Path(__file__).parent
    sources = [here / name for name in ("data/tickets.csv", "table_files.py", "data.py", "bert.py", "train.py")]
    versions = [jax.__version__, flax.__version__, optax.__version__, str(fetch())]
    made_from = hashlib.sha256(repr([versions, *(path.read_bytes() for path in sources)]).encode())
    final = cache_folder() / "routers" / made_from.hexdigest()[:16]
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(
            f"{final.parent}: the course's router cannot be kept there ({error.strerror}); set COURSE_CACHE to a "
            "folder that can be written to"
        ) from error
    with filelock.FileLock(final.with_suffix(".lock")):
        if not final.is_dir():
            half = final.with_suffix(".half")  # renamed once it is complete, so an interrupted one never counts
            shutil.rmtree(half, ignore_errors=True)
            make(half)
            half.rename(final)
    return final


def finetune(
    data: str,
    *,
    text: str,
    label: str,
    out: Path,
    validation: str | None = None,
    model: str | None = None,
    max_length: int | None = None,
    dtype: str = "float32",
    devices: int | None = 1,
    overwrite: bool = False,
    resume: bool = False,
    together: tuple[str | None, int | None, int | None] | None = None,
    report: Callable[[str], None] = print,
    **settings,
) -> dict:
    """Fine-tune and save; returns what it also writes to `out`/metrics.json.

    `data` and `validation` are files for `read_table`, or `data` the word tickets; without `validation` about 15 % of
    the rows are held out. `model` is a name or a folder for `pretrained.fetch`. `dtype` is what the model computes in,
    float32 or bfloat16; `devices` how many share each batch (None: all). `settings` are those of TrainConfig.
    While it runs, `out`/checkpoints holds what `resume` needs; what else is in `out` stays until the new model is
    complete. Raises CourseError for whatever is wrong with any of this, before training where it can be known.

    Where several processes work together, each of them calls this with the same arguments and in `together` what
    sharding.join_processes takes; they share the work on all devices, the first one reports and saves, and `out` is a
    folder that all of them see. Each checks what it can before it joins: what is wrong on one machine is said there.
    """
    out = Path(out)
    _check_out(out, overwrite, resume)
    tables = _read(data, validation, text, label)
    train_table, validation_table = tables
    classes = train_table.classes
    if len(classes) < 2:
        raise CourseError(
            f"{train_table.source}: column {label!r} has one class only, {classes[0]!r}; nothing to learn"
        )
    indices = [class_indices(table, classes) for table in tables]

    # Only now what takes seconds to import: a wrong path is found at once.
    import jax
    from jax.experimental.multihost_utils import sync_global_devices

    from course_lib.checkpoint import load_pretrained, save_pretrained
    from course_lib.config_json import read_config
    from course_lib.evaluate import evaluate
    from course_lib.predict import predict_logits
    from course_lib.pretrained import default_model, fetch
    from course_lib.sharding import data_mesh, join_processes
    from course_lib.train import TrainConfig, best_epoch, fit

    if dtype not in ("float32", "bfloat16"):
        raise CourseError(f"--dtype {dtype}: float32 or bfloat16")
    config = TrainConfig(**settings)
    folder = fetch(model, report=report)
    shape = read_config(folder)[0]
    config, longest = config.suited_to(shape.hidden_size), shape.max_position_embeddings
    max_length = min(128, longest) if max_length is None else max_length
    if not 3 <= max_length <= longest:  # [CLS], a token, [SEP]
        raise CourseError(f"--max-length {max_length}: this model takes 3 to {longest} tokens")
    tokenizer = load_tokenizer(folder, shape.vocab_size)
    train, held_out = (
        tokenize(tokenizer, table.texts, max_length, labels) for table, labels in zip(tables, indices, strict=True)
    )
    if together is not None:
        join_processes(*together)
    mesh, first = data_mesh(devices), jax.process_index() == 0
    if not first:
        report = _say_nothing
    report(f"{len(train)} examples to train on, {len(held_out)} to validate, {len(classes)} classes")
    cut = int((train.lengths == max_length).sum())
    if cut:
        report(f"about {cut} texts are longer than {max_length} tokens and are cut there (--max-length)")

    name = str(model or default_model())
    about = {"model": name, "weights": _digest(folder), "dtype": dtype, "classes": list(classes)}
    with _place_for_run(out, overwrite, resume) if first else contextlib.nullcontext():
        sync_global_devices("the folder is ready")  # with one process, nothing
        started = time.perf_counter()
        network = load_pretrained(folder, labels=classes, dtype=dtype, seed=config.seed)
        try:
            history = fit(
                network, train, held_out, config,
                mesh=mesh, checkpoints=out / CHECKPOINTS, resume=resume, about=about, report=report,
            )  # fmt: skip
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1:
                raise
            raise CourseError(
                f"another process of this run is gone ({one_line(error)}); start them again with --resume, on as many "
                "devices as there are: it goes on after the last saved epoch"
            ) from error
        predicted = predict_logits(network, held_out, config.batch_size).argmax(-1)
        scores = evaluate(held_out.labels, predicted, classes)
        metrics = {
            "model": name,
            "data": {"train": train_table.source, "validation": validation_table.source, "text": text, "label": label},
            "examples": {"train": len(train), "validation": len(held_out)},
            "settings": {**dataclasses.asdict(config), "max_length": max_length, "dtype": dtype},
            "devices": {"count": mesh.size, "kind": mesh.devices.flat[0].device_kind, "processes": jax.process_count()},
            "best_epoch": best_epoch(history),
            "history": history,
            "validation": scores.to_dict(),
            "seconds": round(time.perf_counter() - started, 1),
        }
        if first:
            save_pretrained(network, out, tokenizer)
            write_json(out / "metrics.json", metrics)
            _remove_checkpoints(out)
    return metrics


def _say_nothing(line: str) -> None:
    pass


def _check_out(out: Path, overwrite: bool, resume: bool) -> None:
    # os.path, not Path: of a name that is too long or lies in a closed folder, Path's questions raise OSError.
    if os.path.exists(out) and not os.path.isdir(out):
        raise CourseError(f"--out {out}: a file of this name exists; give a folder")
    if resume:
        if not os.path.isdir(out / CHECKPOINTS):
            raise CourseError(f"--resume: {out} holds no interrupted run; leave --resume out to start one")
    elif os.path.isdir(out) and not overwrite:
        try:
            empty = all(path.name == LOCK for path in out.iterdir())
        except OSError as error:
            raise CourseError(f"--out {out}: cannot be read ({error.strerror}); choose another folder") from None
        if not empty:
            how = "--resume goes on with the run in it, " if (out / CHECKPOINTS).is_dir() else ""
            raise CourseError(f"--out {out} is not empty: {how}--overwrite replaces the model in it")


@contextlib.contextmanager
def _place_for_run(out: Path, overwrite: bool, resume: bool) -> Iterator[None]:
    """Make the folder before the work begins, so that a bad --out is said now, and keep other runs out of it.

    What is empty at the end goes again.
    """
    import filelock

    folder = out / CHECKPOINTS
    made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    lock = filelock.FileLock(out / LOCK)  # the system frees it when its process dies
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise CourseError(f"--out {out}: another run is at work there; choose another folder, or wait") from None
        except OSError as error:
            raise CourseError(f"--out {out}: cannot be made ({error.strerror}); choose another folder") from error
        try:
            _check_out(out, overwrite, resume)  # again: since it was looked at, another run may have come and gone
            for left_over in out.glob(".saving-*"):  # of a run that was killed
                shutil.rmtree(left_over, ignore_errors=True)
            if not resume:
                _remove_checkpoints(out)
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise CourseError(f"{folder}: cannot be made ({error.strerror})") from error
            yield
        finally:
            with contextlib.suppress(OSError):  # while it is held: filelock takes no lock on a file without a name
                os.unlink(out / LOCK)
            lock.release()
    finally:
        for path in made:  # innermost first; what is not empty stays
            with contextlib.suppress(OSError):
                path.rmdir()


def _remove_checkpoints(out: Path) -> None:
    """Under another name: killed while it deletes, it must not leave half a run that looks as if it could go on."""
    gone = out / f".{CHECKPOINTS}-gone"
    shutil.rmtree(gone, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.replace(out / CHECKPOINTS, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _digest(folder: Path) -> str:
    """Which pretrained model this is: of what its folder computes with, not of its name."""
    digest = hashlib.sha256()
    for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _read(data: str, validation: str | None, text: str, label: str) -> tuple[Table, Table]:
    if data == TICKETS_NAME and validation is None:
        return load_tickets("train", label, text), load_tickets("validation", label, text)
    train = load_tickets("train", label, text) if data == TICKETS_NAME else read_table(data, text, label)
    return split_off(train) if validation is None else (train, read_table(validation, text, label))
