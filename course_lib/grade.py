"""Many learners' exercise notebooks, judged by the course's own checks, as one table.

Each notebook runs in a process group of its own (`grade_one`), as a copy in a temporary folder, without the network and
within limits of time and memory. A cell, or a check of an answer, that loops for ever, crashes or takes too much memory
costs its exercise only: the group is ended and started again without it. Nothing that a learner's notebook shows is
believed. What runs has the rights of whoever grades: the work of strangers belongs in a container.
"""

from __future__ import annotations

import contextlib
import csv
import io
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

from course_lib import CourseError
from course_lib.files import write_text
from course_lib.notebook_build import kernel_env

NOTEBOOK_FACTOR = 10  # a notebook may take this many times what one cell may, starting again included
STATUSES = ("passed", "not yet", "not attempted", "error")


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

    guard = _Guard(kernel_env(root), seconds, memory)
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

    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(column.name for column in fields(Row))
    writer.writerows([_cell(value) for value in astuple(row)] for row in rows)
    write_text(out, table.getvalue())
    return rows


def _find(folder: Path, stem: str) -> list[Path]:
    """The learner's copies of a notebook. One of exactly that name goes before `… (1).ipynb` and `…-Copy1.ipynb`."""
    copies = [*folder.glob(f"{stem}*.ipynb"), *folder.glob(f"[!.]*/{stem}*.ipynb")]
    copies = sorted(path for path in copies if path.is_file())
    return [path for path in copies if path.stem == stem] or copies


def _cell(text: str) -> str:
    """One line of at most 300 characters that a spreadsheet takes for text, not for a formula."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:300]
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


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
            except (OSError, ValueError) as error:  # it cannot be read, or has damaged its journal
                return [], f"could not be run ({error})"
        last = lines[-1] if lines else [""]
        if last[0] in ("end", "guilty"):
            return lines, last[1] if last[0] == "guilty" else None
        return lines, why

    def start(self, folder: Path, notebook: Path, job: dict, deadline: float) -> tuple[list[list[str]], str]:
        copy, journal = folder / "work" / notebook.name, folder / "journal"
        copy.parent.mkdir()
        journal.touch()
        shutil.copyfile(notebook, copy)
        cpu_seconds = int(NOTEBOOK_FACTOR * self.seconds) * (os.cpu_count() or 1)  # never before the clock
        job |= {"notebook": str(copy), "journal": str(journal), "memory": self.memory, "cpu_seconds": cpu_seconds}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "course_lib.grade_one", json.dumps(job)],
            cwd=copy.parent,
            env=self.env | {"IPYTHONDIR": str(folder), "MPLBACKEND": "agg"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            why = self.watch(process, journal, deadline)
        finally:
            _kill(process)
        lines = journal.read_text("utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")], why

    def watch(self, process: subprocess.Popen, journal: Path, deadline: float) -> str:
        """Waits until the process ends, or must be ended; says why."""
        size, since = 0, time.monotonic()
        while process.poll() is None:
            time.sleep(0.1)
            if journal.stat().st_size != size:
                size, since = journal.stat().st_size, time.monotonic()
            # before the first line it imports, which on a busy machine takes longer than most cells
            if time.monotonic() > (min(since + self.seconds, deadline) if size else deadline):
                return f"ran longer than {time.monotonic() - since:.0f} s"
            if sum(map(_resident, _family(process.pid))) > self.memory * 2**30:
                return f"took more than {self.memory:g} GiB of memory"
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


def _kill(process: subprocess.Popen) -> None:
    """The process, those it has started, and what else is left of its group."""
    for member in _family(process.pid) if process.poll() is None else []:
        with contextlib.suppress(psutil.Error):
            member.kill()
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
