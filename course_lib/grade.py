"""Many learners' exercise notebooks, judged by the course's own checks, as one table.

Each notebook runs in a process group of its own (`grade_one`), as a copy in a temporary folder, without the network and
within limits of time and memory. A cell, or a check of an answer, that loops for ever, crashes or takes too much memory
costs its exercise only: the group is ended and started anew without it. Nothing that a learner's notebook shows is
believed. What runs has the rights of whoever grades: for work of strangers, run this in a container.
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
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from course_lib import CourseError
from course_lib.files import write_text
from course_lib.notebook_build import kernel_env

if TYPE_CHECKING:
    from course_lib.checks.core import Exercise

NOTEBOOK_FACTOR = 10  # a notebook, with all it is started again for, may take this many times what one cell may
STATUSES = ("passed", "not yet", "not attempted", "error")


@dataclass(frozen=True)
class Row:
    """`status` is one of STATUSES; "error" is what kept the check from being asked: a cell that is gone, a crash."""

    learner: str
    lesson: str
    exercise: str
    name: str
    status: str
    message: str


@dataclass(frozen=True)
class Limits:
    seconds: float  # by the clock, for one cell or one check
    memory: float  # GiB, for one notebook and all processes that it starts


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

    A notebook is found in its folder or one level below, by the name of the one in exercises/. The lessons are those
    that at least one learner handed in; who lacks one of them gets rows that say so. Raises CourseError, before
    anything runs, for a folder that is none, for folders without any notebook, and if `out` could not be written.
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
        raise CourseError(f"no exercise notebook (such as 01_losses_exercises.ipynb) in {folders[0]} or the others")
    checks = {notebook: [one for one in exercises() if one.lesson == notebook.name[:2]] for notebook in lessons}

    limits, env, stop = Limits(seconds, memory), kernel_env(root), threading.Event()
    count = Counter(folder.name for folder in folders)
    rows: list[Row] = []
    pool = ThreadPoolExecutor(jobs or max(1, (os.cpu_count() or 2) // 2))
    try:
        waiting = {
            (folder, notebook): pool.submit(_verdicts, found[folder, notebook], notebook, checks[notebook], limits, env, stop)
            for folder in folders
            for notebook in lessons
        }
        for folder in folders:
            learner = folder.name if count[folder.name] == 1 else str(folder)
            theirs = [
                Row(learner, notebook.stem.removesuffix("_exercises"), one.number, one.name, *verdict)
                for notebook in lessons
                for one, verdict in zip(checks[notebook], waiting[folder, notebook].result(), strict=True)
            ]
            tally = Counter(row.status for row in theirs)
            others = "".join(f", {tally[status]} {status}" for status in STATUSES[1:] if tally[status])
            report(f"{_cell(learner)}: {tally['passed']} of {len(theirs)} passed{others}")
            rows += theirs
    finally:  # after Ctrl-C, too, no process is left
        stop.set()
        pool.shutdown(cancel_futures=True)

    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(field.name for field in fields(Row))
    writer.writerows([_cell(value) for value in astuple(row)] for row in rows)
    write_text(out, table.getvalue())
    return rows


def _cell(text: str) -> str:
    """One line of at most 300 characters that a spreadsheet takes for text, not for a formula."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:300]
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


def _find(folder: Path, stem: str) -> list[Path]:
    """The learner's copies of a notebook. One of exactly that name goes before `… (1).ipynb` and `…-Copy1.ipynb`."""
    copies = [*folder.glob(f"{stem}*.ipynb"), *folder.glob(f"*/{stem}*.ipynb")]
    copies = sorted(path for path in copies if path.is_file() and not path.parent.name.startswith("."))
    return [path for path in copies if path.stem == stem] or copies


def _verdicts(
    copies: list[Path],
    official: Path,
    checks: list[Exercise],
    limits: Limits,
    env: dict[str, str],
    stop: threading.Event,
) -> list[tuple[str, str]]:
    """(status, message) of each of the lesson's exercises: runs the notebook until no step is left that ends it."""
    if len(copies) != 1:
        status = "error" if copies else "not attempted"
        why = f"{len(copies)} notebooks for this lesson: keep one" if copies else f"no notebook {official.name}"
        return [(status, why)] * len(checks)

    verdicts: dict[str, tuple[str, str]] = {}
    skip: dict[str, str] = {}
    done: set[str] = set()  # passed, or guilty
    began, rest = time.monotonic(), "its check was never reached"
    while not stop.is_set():
        job = {"lesson": official.name[:2], "official": str(official), "skip": skip, "done": sorted(done)}
        lines, why = _attempt(copies[0], job, limits, began, env, stop)
        step = "the start"
        for kind, *values in lines:
            if kind == "step":
                step = values[0]
            elif kind == "verdict" and values[0] not in done:
                verdicts[values[0]] = (values[1], values[2])
            elif kind == "unreadable":
                rest = values[0]
        done |= {number for number, (status, _) in verdicts.items() if status == "passed"}
        if not why:
            break
        if step.startswith("check "):
            number = step.removeprefix("check ")
            verdicts[number] = ("error", f"the process that checked it {why}")
            done.add(number)
        elif step.startswith("code cell ") and step not in skip:
            skip[step] = why
        else:
            rest = f"{step} of the notebook {why}"
            break
        if time.monotonic() - began > NOTEBOOK_FACTOR * limits.seconds:
            rest = f"the notebook took more than {NOTEBOOK_FACTOR * limits.seconds:g} s in all; {step} {why}"
            break
    return [verdicts.get(check.number, ("error", rest)) for check in checks]


def _attempt(
    notebook: Path, job: dict, limits: Limits, began: float, env: dict[str, str], stop: threading.Event
) -> tuple[list[list[str]], str]:
    """Runs a copy of the notebook once. Returns the journal's lines and, if it did not come to its end, why."""
    with tempfile.TemporaryDirectory(prefix="course-grade-", ignore_cleanup_errors=True) as folder:
        work, journal = Path(folder, "work"), Path(folder, "journal")
        work.mkdir()
        journal.touch()
        try:
            copy = shutil.copyfile(notebook, work / notebook.name)
        except OSError as error:
            return [["unreadable", f"could not be read ({error.strerror})"]], ""
        total = NOTEBOOK_FACTOR * limits.seconds
        job |= {"notebook": str(copy), "journal": str(journal), "memory": limits.memory}
        job["cpu"] = int(total) * (os.cpu_count() or 1)  # of all threads: no sooner than the clock
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "course_lib.grade_one", json.dumps(job)],
            cwd=work,
            env=env | {"IPYTHONDIR": folder, "MPLBACKEND": "agg"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        why, size, moved = "", 0, time.monotonic()
        try:
            while not why and process.poll() is None:
                time.sleep(0.1)
                now = time.monotonic()
                if journal.stat().st_size != size:
                    size, moved = journal.stat().st_size, now
                if now - moved > limits.seconds or now - began > total:
                    why = f"ran longer than {min(now - moved, limits.seconds):.0f} s"
                elif _memory(process.pid) > limits.memory * 2**30:
                    why = f"took more than {limits.memory:g} GiB of memory"
                elif stop.is_set():
                    why = "was interrupted"
        finally:
            _kill(process)
        lines = [json.loads(line) for line in journal.read_text("utf-8").splitlines(keepends=True) if line[-1] == "\n"]
    if ["end"] in lines[-1:]:
        return lines, ""
    if lines and lines[-1][0] == "guilty":
        return lines, lines[-1][1]
    code = process.returncode
    return lines, why or f"ended the process ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"


def _family(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def _memory(pid: int) -> int:
    """Bytes in memory of a process and those it has started."""
    total = 0
    for process in _family(pid):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def _kill(process: subprocess.Popen) -> None:
    """The process, those it has started, and what else is left of its group."""
    for member in _family(process.pid) if process.poll() is None else []:
        with contextlib.suppress(psutil.Error):
            member.kill()
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
