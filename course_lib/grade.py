"""Many learners' exercise notebooks, judged by the course's own checks, as one table.

Each notebook runs in a process group of its own (`grade_one`), as a copy in a temporary folder that is its home,
without the network, behind a fence (`fence`) where the system has one, and within limits of time, memory, disk and
processes. A cell, or a check of an answer, that loops for ever, crashes or takes too much costs its exercise only: all
that it has started is ended, and the notebook is started again without it. Nothing that a learner's notebook shows is
believed. The README says what this does not cover.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path

import psutil

from course_lib import CourseError, fence
from course_lib.cache import cache_folder
from course_lib.files import write_csv
from course_lib.notebook_build import kernel_env

NOTEBOOK_FACTOR = 10  # a notebook may take this many times what one cell may, starting again included
STATUSES = ("passed", "not yet", "not attempted", "error")
DISK = 2**30  # bytes that a notebook may keep on disk, in all and in one file
PROCESSES = 200  # at once. RLIMIT_NPROC counts all that the user runs, in other containers too, and stops the wrong one
JOURNAL = 2**20  # bytes; an honest one takes a few thousand
LINES = {"step": 2, "verdict": 4, "end": 1, "guilty": 2}  # of the journal: first word → words

# What a notebook gets to know of the environment, beside what `kernel_env` sets: no keys, no tokens.
KEPT_VARIABLES = {"COMSPEC", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "OMP_NUM_THREADS",
                  "NUMBER_OF_PROCESSORS", "PATH", "PATHEXT", "SYSTEMDRIVE", "SYSTEMROOT", "TZ", "WINDIR"}  # fmt: skip
SET_VARIABLES = {"COURSE_PROGRESS", "JAX_PLATFORMS", "PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL", "TQDM_DISABLE"}


@dataclass(frozen=True)
class Row:
    """`status` is one of STATUSES. "error" is what kept the check from its answer: a crash, a cell that is gone."""

    learner: str
    lesson: str
    exercise: str
    name: str
    status: str
    message: str


def grade(
    root: Path,
    folders: Sequence[Path],
    out: Path,
    *,
    jobs: int | None = None,
    seconds: float = 60,
    memory: float = 4,
    report: Callable[[str], object] = print,
) -> list[Row]:
    """Grades the notebooks in `folders`, one a learner, and writes the rows to `out`; reports a line a learner.

    A notebook is found in its folder or one level below, by the name that it has in exercises/. The lessons are those
    that at least one learner handed in; who lacks one of them gets rows that say so.

    jobs     notebooks at once; half the processors if None
    seconds  by the clock, for one cell or one check; NOTEBOOK_FACTOR times that for a notebook
    memory   GiB, for a notebook and all processes that it starts

    Raises CourseError, before anything runs, for a folder that is none, for folders without a notebook, and for an
    `out` that cannot be written.
    """
    from course_lib.checks.core import exercises

    folders = list(dict.fromkeys(folder.resolve() for folder in folders))
    for folder in folders:
        if not folder.is_dir():
            raise CourseError(f"{folder}: no such folder; give one folder a learner")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise CourseError(f"{out}: give --out a file in a folder that exists")
    official = sorted((root / "exercises").glob("*.ipynb"))
    found = {(folder, notebook): _find(folder, notebook.stem) for folder in folders for notebook in official}
    lessons = [notebook for notebook in official if any(found[folder, notebook] for folder in folders)]
    if not lessons:
        raise CourseError(f"{', '.join(map(str, folders))}: no notebook such as 01_losses_exercises.ipynb")

    if not fence.version():
        report("note: here, notebooks can read what you can read (there is no Landlock); see the README")
    guard = _Guard(_environment(root), seconds, memory)
    names = Counter(folder.name for folder in folders)
    rows: list[Row] = []
    pool = ThreadPoolExecutor(jobs or max(1, (os.cpu_count() or 2) // 2))
    try:
        pending = {
            (folder, notebook): pool.submit(guard.verdicts, found[folder, notebook], notebook)
            for folder in folders
            for notebook in lessons
        }
        for folder in folders:
            learner = folder.name if names[folder.name] == 1 else str(folder)
            theirs = []
            for notebook in lessons:
                verdict_on, lesson = pending[folder, notebook].result(), notebook.stem.removesuffix("_exercises")
                checks = [check for check in exercises() if check.lesson == lesson[:2]]
                theirs += [Row(learner, lesson, one.number, one.name, *verdict_on(one.number)) for one in checks]
            tally = Counter(row.status for row in theirs)
            others = "".join(f", {tally[status]} {status}" for status in STATUSES[1:] if tally[status])
            report(f"{_cell(learner)}: {tally['passed']} of {len(theirs)} passed{others}")
            rows += theirs
    finally:  # no process outlives this, also after Ctrl-C
        guard.stop.set()
        pool.shutdown(cancel_futures=True)

    header = [column.name for column in fields(Row)]
    write_csv(out, [header, *([_cell(value) for value in astuple(row)] for row in rows)])
    return rows


def _find(folder: Path, stem: str) -> list[Path]:
    """The learner's copies of a notebook. One of exactly that name goes before `… (1).ipynb` and `…-Copy1.ipynb`.

    What is a link to a place outside the folder is somebody else's, or nobody's.
    """
    copies = [*folder.glob(f"{stem}*.ipynb"), *folder.glob(f"[!.]*/{stem}*.ipynb")]
    copies = sorted(path for path in copies if path.is_file() and path.resolve().is_relative_to(folder))
    return [path for path in copies if path.stem == stem] or copies


def _cell(text: str) -> str:
    """One line of at most 300 characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:300]


def _environment(root: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.upper() in KEPT_VARIABLES}
    made = {name: value for name, value in kernel_env(root).items() if name in SET_VARIABLES}
    return kept | made | {"COURSE_CACHE": str(cache_folder())}


@dataclass
class _Guard:
    """Runs notebooks within the limits. Several threads share it."""

    env: dict[str, str]
    seconds: float
    memory: float
    stop: threading.Event = field(default_factory=threading.Event)

    def verdicts(self, copies: list[Path], official: Path) -> Callable[[str], tuple[str, str]]:
        """Starts the notebook until it comes to its end. Returns exercise number → (status, message)."""
        if not copies:
            return lambda _: ("not attempted", f"no notebook {official.name}")
        if len(copies) > 1:
            found = ", ".join(f"{path.parent.name}/{path.name}" for path in copies)
            return lambda _: ("error", f"{len(copies)} notebooks, keep one: {found}")
        verdicts: dict[str, tuple[str, str]] = {}
        skip: dict[str, str] = {}  # step → why it must not run again
        done: set[str] = set()  # exercises that are not to be judged again
        rest, deadline = "", time.monotonic() + NOTEBOOK_FACTOR * self.seconds
        while not rest:
            job = {"lesson": official.name[:2], "official": str(official), "skip": skip, "done": sorted(done)}
            lines, why = self.attempt(copies[0], job, deadline)
            step = next((line[1] for line in reversed(lines) if line[0] == "step"), "the notebook")
            for number, status, message in [line[1:] for line in lines if line[0] == "verdict"]:
                verdicts[number] = (status, message)
                done |= {number} if status == "passed" else set()
            if why is None:
                break
            if time.monotonic() > deadline:
                rest = f"not reached in {NOTEBOOK_FACTOR * self.seconds:g} s; at last, {step} {why}"
            elif step == "the notebook":
                rest = f"{step} {why}"
            elif step.startswith("check "):
                number = step.removeprefix("check ")
                if number not in done:  # else a thread died later
                    verdicts[number] = ("error", f"the {step} {why}")
                    done.add(number)
            else:
                skip[step] = why
        return lambda number: verdicts.get(number, ("error", rest))

    def attempt(self, notebook: Path, job: dict, deadline: float) -> tuple[list[list[str]], str | None]:
        """Runs a copy of the notebook once: the journal's lines and, if it did not come to its end, why."""
        with tempfile.TemporaryDirectory(prefix="course-grade-", ignore_cleanup_errors=True) as folder:
            try:
                lines, why = self.start(Path(folder), notebook, job, deadline)
            except (OSError, ValueError, RecursionError) as error:  # it cannot be read, or has damaged its journal
                return [], f"could not be run ({error})"
        last = lines[-1] if lines else [""]
        if last[0] in ("end", "guilty"):
            return lines, last[1] if last[0] == "guilty" else None
        return lines, why

    def start(self, folder: Path, notebook: Path, job: dict, deadline: float) -> tuple[list[list[str]], str]:
        copy = folder / "work" / notebook.name
        copy.parent.mkdir()
        if notebook.stat().st_size > DISK:
            raise ValueError(f"it is larger than {DISK / 2**30:g} GiB")
        shutil.copyfile(notebook, copy)
        cpu_seconds = int(NOTEBOOK_FACTOR * self.seconds) * (os.cpu_count() or 1)  # never before the clock
        limits = {"memory": self.memory, "cpu_seconds": cpu_seconds, "disk": DISK}
        job |= {"notebook": str(copy), "home": str(folder), "limits": limits}
        own = dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "IPYTHONDIR"), str(folder))
        # Programs that JAX keeps are run by whoever finds them: the notebook's do not go where those of others are.
        own |= {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), "MPLBACKEND": "agg"}
        with tempfile.TemporaryFile() as journal:  # without a name, under which something else could be put
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "course_lib.grade_one", json.dumps(job)],
                cwd=copy.parent,
                env=self.env | own,
                stdin=subprocess.DEVNULL,
                stdout=journal,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                why = self.watch(process, journal.fileno(), folder, deadline)
            finally:
                _kill(process)
            journal.seek(0)
            return _lines(journal.read(JOURNAL)), why

    def watch(self, process: subprocess.Popen, journal: int, folder: Path, deadline: float) -> str:
        """Waits until the process ends, or must be ended; says why."""
        size, since, looked = 0, time.monotonic(), 0.0
        while process.poll() is None:
            time.sleep(0.1)
            if os.fstat(journal).st_size != size:
                size, since = os.fstat(journal).st_size, time.monotonic()
            # before the first line it imports, which on a busy machine takes longer than most cells
            if time.monotonic() > (min(since + self.seconds, deadline) if size else deadline):
                return f"ran longer than {time.monotonic() - since:.0f} s"
            family = _family(process.pid)
            if len(family) > PROCESSES:
                return f"started more than {PROCESSES} processes"
            if sum(map(_resident, family)) > self.memory * 2**30:
                return f"took more than {self.memory:g} GiB of memory"
            if time.monotonic() > looked + 1:
                looked = time.monotonic()
                if _disk(folder) > DISK:
                    return f"wrote more than {DISK / 2**30:g} GiB to disk"
            if self.stop.is_set():
                return "was interrupted"
        code = process.returncode
        return f"ended the process ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"


def _family(pid: int) -> list[psutil.Process]:
    """The process and those it has started."""
    with contextlib.suppress(psutil.Error):
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return []


def _resident(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return process.memory_info().rss
    return 0


def _disk(folder: Path) -> int:
    """Bytes on disk under the folder; an entry counts as a block at least, so that the number of files is limited."""
    total = 0
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):
                about = os.lstat(os.path.join(place, name))
                total += max(4096, getattr(about, "st_blocks", 0) * 512 or about.st_size)
        if total > DISK:
            break
    return total


def _lines(journal: bytes) -> list[list[str]]:
    """The whole lines of the journal. Raises ValueError where a line is none of those that `grade_one` writes."""
    lines = [json.loads(line) for line in journal.decode().splitlines(keepends=True) if line.endswith("\n")]
    for line in lines:
        known = isinstance(line, list) and all(isinstance(word, str) for word in line) and line
        if not known or LINES.get(line[0]) != len(line) or (line[0] == "verdict" and line[2] not in STATUSES):
            raise ValueError("its journal is damaged")
    return lines


def _kill(process: subprocess.Popen) -> None:
    """The process and all that it has started: `grade_one` sees to that when it is asked to end."""
    family = _family(process.pid) if process.poll() is None else []
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.terminate()
        process.wait(10)
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
