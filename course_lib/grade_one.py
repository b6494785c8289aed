"""Runs one learner's notebook and judges it. `course_lib.grade` starts this as a process of its own and guards it.

The cells run one after another in one process, so that one that loops for ever or crashes takes the process with it.
A journal, the standard output, tells the guard how far it came: before each cell and each check a line names that step.
The guard starts again without the guilty one. A second process waits beside it and ends what the cells leave behind.

The verdicts are those of a copy of the checks that was imported before the first cell ran: the notebook imports another
one, and what it does to that changes nothing. What a check is given is read from the course's exercise notebook, not
from the learner's. This tells honest work from simple tricks. It is no sandbox: the cells can do what their user can.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from course_lib.fence import put_up

TASKS = 1000  # processes and threads that a notebook may add, where the system counts them
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of prctl(2)


def main() -> None:
    """The one argument is the job, as JSON (see `grade._Guard`). Each line of its journal is a list:

    ["step", name] · ["verdict", exercise number, status, message] · ["end"] ·
    ["guilty", why] the last step must not run again
    """
    job = json.loads(sys.argv.pop())
    journal = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    _set_limits(**job["limits"])
    if hasattr(os, "fork"):
        _leave_nothing_behind()
    _fence(job)
    process = os.getpid()

    def note(*line: str) -> None:
        if os.getpid() != process:  # a copy that a cell has forked, and that must not go on with the other cells
            os._exit(0)
        journal.write(json.dumps(line) + "\n")

    try:
        cells = code_cells(Path(job["notebook"]))
    except ValueError as error:
        note("guilty", str(error))
    else:
        run(job, cells, note)
        note("end")
    os._exit(0)  # whatever threads the cells have left


def code_cells(path: Path) -> list[str]:
    """The sources of a notebook's code cells. Raises ValueError if it is none."""
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        raise ValueError("is an empty file")
    try:
        cells = json.loads(text)["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"is not JSON with cells ({type(error).__name__}: {error})") from error


def official_calls(source: str) -> dict[str, list[str]]:
    """Check name → the expressions it is given, for each `check.name(…)` in the source of a cell."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    calls = [call for call in calls if ast.unparse(call.func).startswith("check.")]
    return {call.func.attr: [ast.unparse(answer) for answer in call.args] for call in calls}


def run(job: dict[str, Any], cells: list[str], note: Callable[..., None]) -> None:
    """Runs the cells and notes the verdicts, but not the steps in job["skip"] and the exercises in job["done"]."""
    from course_lib.checks.core import Exercise, exercises

    waiting = [check for check in exercises() if check.lesson == job["lesson"] and check.number not in job["done"]]
    official = [(source, official_calls(source)) for source in code_cells(Path(job["official"]))]
    given = {name: answers for _, calls in official for name, answers in calls.items()}
    needs = {name: set(re.findall(r"[^\W\d]\w*", " ".join(answers))) for name, answers in given.items()}
    for module in [name for name in sys.modules if name.startswith("course_lib.checks")]:
        del sys.modules[module]
    from course_lib.checks import core

    core.Exercise.__call__ = lambda self, *answers: None  # the notebook's copy; answers are judged below

    shell, failed = _shell(), dict(job["skip"])
    sources = {f"code cell {number}": source for number, source in enumerate(cells, 1)}

    def execute(source: str) -> str:
        """What the cell raised; empty if nothing."""
        result = shell.run_cell(source, store_history=True)
        error = result.error_before_exec or result.error_in_exec
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            # the next cells would lack what it holds
            note("guilty", f"ran out of memory ({job['limits']['memory']:g} GiB)")
            os._exit(1)
        return f"raised {type(error).__name__}: {error}" if error else ""

    def judge(check: Exercise) -> None:
        absent = sorted(needs[check.name] - set(shell.user_ns))
        if absent:
            reasons = [f"{step} {why}" for step, why in failed.items() if why and mentions(sources[step], check)]
            status, message = "error", [*reasons, f"no cell defines {absent[0]}. Was its cell deleted?"][0]
        else:
            note("step", f"check {check.number}")
            verdict = check.judge(*(eval(answer, shell.user_ns) for answer in given[check.name]))
            status, message = verdict.status, verdict.message
        note("verdict", check.number, status, message)
        if status == "passed":
            waiting.remove(check)

    def mentions(source: str, check: Exercise) -> bool:
        return any(re.search(rf"\b{name}\b", source) for name in needs[check.name])

    # What the exercise notebook gives comes first: if the learner's cell with the imports is gone, that costs nothing.
    for source in [source for source, calls in official if not calls]:
        execute(source)
    for step, source in sources.items():
        if step not in job["skip"]:
            note("step", step)
            failed[step] = execute(source)
            for check in [check for check in waiting if mentions(source, check)]:
                judge(check)  # at once: a later cell may use these names for something else
    for check in list(waiting):
        judge(check)  # again: a helper may stand further down


def _shell() -> Any:
    """IPython without a terminal or a kernel around it: magics and `await` work, and a crash is this process's."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class Shell(InteractiveShell):
        def ask_exit(self) -> None:
            """`exit()` and `quit()` let the cell go on, as in Jupyter."""

        def enable_gui(self, gui: str | None = None) -> None:
            """`%matplotlib` calls this."""

    config = Config()
    config.HistoryManager.enabled = False
    return Shell.instance(config=config)


def _leave_nothing_behind() -> None:
    """Goes on in a new process. The old one waits for its end, then ends all that is left of it, and ends as it did.

    On Linux that is whatever the cells have started, also what has left its group or lost its parent.
    """
    _control(PR_SET_CHILD_SUBREAPER, 1)  # who loses its parent becomes a child of this process
    runner = _fork()
    if not runner:
        _control(PR_SET_PDEATHSIG, signal.SIGKILL)
        return
    signal.signal(signal.SIGTERM, lambda *_: os.kill(runner, signal.SIGKILL))  # the guard wants an end
    _, status = os.waitpid(runner, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end_children()
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL can only be sent
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _fork() -> int:
    """os.fork(), with a limit on the processes and threads of this user: what there are now, and some for the cells.

    Only where the user is not root: nobody limits that one. Of those in other containers, which count, we learn nothing
    but that the limit was too low.
    """
    import resource

    user, own = os.getuid(), ["uids", "num_threads"]
    running = [one.info for one in psutil.process_iter(own) if one.info["uids"] and one.info["uids"].real == user]
    limit = sum(one["num_threads"] or 1 for one in running) + TASKS + 16 * (os.cpu_count() or 1)
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    while hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_NPROC, (limit, hard))
        try:
            runner = os.fork()
        except BlockingIOError:
            limit *= 2
            continue
        if not runner:
            most = limit + TASKS if hard == resource.RLIM_INFINITY else min(limit + TASKS, hard)
            resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
        return runner
    return os.fork()


def _control(option: int, value: int) -> None:
    """prctl(2), where there is one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0)))


def _end_children() -> None:
    while children := psutil.Process().children(recursive=True):
        for end in (psutil.Process.suspend, psutil.Process.kill):  # so that none starts others meanwhile
            for child in children:
                with contextlib.suppress(psutil.Error):
                    end(child)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def _fence(job: dict[str, Any]) -> None:
    """Nothing of other learners, no solutions: the notebook's own folder, and what runs it."""
    package = Path(__file__).resolve().parent
    clone = package.parent
    read = [Path(path) for path in sys.path if Path(path).resolve() != clone]
    models = Path(os.environ["COURSE_CACHE"]) / "models"
    put_up(read=[*read, package, models, Path(job["official"])], names=[clone], write=[Path(job["home"])])


def _set_limits(memory: float, cpu_seconds: int, disk: int) -> None:
    """What the guard would see too late, or not at all in a process that has left its group.

    RLIMIT_DATA and not RLIMIT_AS: JAX reserves five times the address space that it ever uses. The stacks of threads
    count in full, 8 MiB each, and on each processor there are some eight threads.
    """
    try:
        import resource
    except ImportError:  # Windows, where the guard is alone
        return
    data = int(memory * 2**30) + (os.cpu_count() or 1) * 2**26
    wanted = {"RLIMIT_DATA": data, "RLIMIT_FSIZE": disk, "RLIMIT_CPU": cpu_seconds, "RLIMIT_CORE": 0}
    for kind, amount in wanted.items():
        hard = resource.getrlimit(getattr(resource, kind))[1]
        amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(getattr(resource, kind), (amount, amount))


if __name__ == "__main__":
    main()
