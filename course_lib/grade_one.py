"""Runs one learner's notebook and judges it. `course_lib.grade` starts this as a process of its own and guards it.

The cells run one after another in this process, so that one that loops for ever or crashes takes the process with it.
A journal tells the guard how far it came: before each cell and each check a line names that step. The guard starts
again without the guilty one.

The verdicts are those of a copy of the checks that was imported before the first cell ran: the notebook imports another
one, and what it does to that changes nothing. What a check is given is read from the course's exercise notebook, not
from the learner's. This tells honest work from simple tricks. It is no sandbox: the cells can do what their user can.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """The one argument is the job, as JSON (see `grade._Guard`). Each line of its journal is a list:

    ["step", name] · ["verdict", exercise number, status, message] · ["end"] ·
    ["guilty", why] the last step must not run again
    """
    job = json.loads(sys.argv.pop())
    _set_limits(int(job["memory"] * 2**30), job["cpu_seconds"])
    process, journal = os.getpid(), Path(job["journal"]).open("a", encoding="utf-8", buffering=1)

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
            note("guilty", f"ran out of memory ({job['memory']:g} GiB)")  # the next cells would lack what it holds
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


def _set_limits(memory: int, cpu_seconds: int) -> None:
    """What the guard would see too late, or not at all in a process that has left its group.

    RLIMIT_DATA and not RLIMIT_AS: JAX reserves five times the address space that it ever uses. The stacks of threads
    count in full, 8 MiB each, and on each processor there are some eight threads.
    """
    try:
        import resource
    except ImportError:  # Windows, where the guard is alone
        return
    data = memory + (os.cpu_count() or 1) * 2**26
    wanted = {"RLIMIT_DATA": data, "RLIMIT_FSIZE": memory, "RLIMIT_CPU": cpu_seconds, "RLIMIT_CORE": 0}
    for kind, amount in wanted.items():
        hard = resource.getrlimit(getattr(resource, kind))[1]
        amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(getattr(resource, kind), (amount, amount))


if __name__ == "__main__":
    main()
