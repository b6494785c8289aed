"""Runs one learner's notebook and judges it. `course_lib.grade` starts this as a process of its own and guards it.

The cells run one after another in this process, so that one that loops for ever or crashes takes the process with it.
The journal tells the guard how far it came: before each cell and each check, a line names that step. The guard starts
anew without the guilty step.

The verdicts are those of a copy of the checks that was imported before the first cell ran: the notebook imports another
one, and what it does to that changes nothing. What a check is given is read from the course's exercise notebook, not
from the learner's. This keeps honest work and simple tricks apart. It is no sandbox: code here can do what its user
can.
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
    """The one argument is the job, as JSON (see `grade._attempt`). Each line of its journal is a list: what, and more.

    ["step", name] · ["verdict", exercise number, status, message] · ["guilty", why] this step must not run again ·
    ["unreadable", why] · ["end"]
    """
    job = json.loads(sys.argv.pop())
    _set_limits(int(job["memory"] * 2**30), job["cpu"])
    process, journal = os.getpid(), Path(job["journal"]).open("a", encoding="utf-8", buffering=1)

    def note(*line: str) -> None:
        if os.getpid() != process:  # a copy that a cell forked, which must not go on with the other cells
            os._exit(0)
        journal.write(json.dumps(line) + "\n")

    try:
        cells = code_cells(Path(job["notebook"]))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        note("unreadable", str(error) or "not a notebook")
    else:
        run(job, cells, note)
    note("end")
    os._exit(0)  # whatever threads the cells have left


def code_cells(path: Path) -> list[str]:
    """The sources of a notebook's code cells. ValueError, or another of those above, if it is not a notebook."""
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        raise ValueError("the file is empty")
    try:
        notebook = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not a notebook: not JSON ({error})") from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise ValueError("not a notebook: it has no list of cells")
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def official_calls(source: str) -> dict[str, list[str]]:
    """Check name → the expressions it is given, for each `check.name(…)` in the source of a cell."""
    return {
        node.func.attr: [ast.unparse(argument) for argument in node.args]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) == "check"
    }


def run(job: dict[str, Any], cells: list[str], note: Callable[..., None]) -> None:
    """Runs the cells and notes the verdicts, except for the steps in job["skip"] and the exercises in job["done"]."""
    note("step", "the start")
    from course_lib.checks.core import Verdict, exercises

    official = [(source, official_calls(source)) for source in code_cells(Path(job["official"]))]
    calls = {name: expressions for _, found in official for name, expressions in found.items()}
    checks = [check for check in exercises() if check.lesson == job["lesson"] and check.number not in job["done"]]
    names = {
        check.number: sorted(set(re.findall(r"[^\W\d]\w*", " ".join(calls[check.name])))) for check in checks
    }
    for module in [name for name in sys.modules if name.startswith("course_lib.checks")]:
        del sys.modules[module]
    from course_lib.checks.core import Exercise  # the notebook's copy

    Exercise.__call__ = lambda self, *answers: None  # every answer is judged once, below

    shell = _shell()
    failed: dict[str, str] = dict(job["skip"])
    verdicts: dict[str, Verdict] = {}

    def execute(step: str, source: str) -> None:
        note("step", step)
        result = shell.run_cell(source, store_history=True)
        error = result.error_before_exec or result.error_in_exec
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            note("guilty", f"ran out of memory ({job['memory']:g} GiB)")  # which the cells to come would miss
            os._exit(1)
        if error is not None:
            failed[step] = f"raised {type(error).__name__}: {error}"

    def mentions(source: str, number: str) -> bool:
        return any(re.search(rf"\b{name}\b", source) for name in names[number])

    def judge(check: Exercise) -> None:
        number = check.number
        absent = [name for name in names[number] if name not in shell.user_ns]
        if absent:
            reasons = [f"{step} {why}" for step, why in failed.items() if mentions(sources[step], number)]
            reasons.append(f"no cell defines {absent[0]}. Was its cell deleted?")
            verdicts[number] = Verdict("error", reasons[0])
        else:
            note("step", f"check {number}")
            verdicts[number] = check.judge(*(eval(answer, shell.user_ns) for answer in calls[check.name]))
        note("verdict", number, verdicts[number].status, verdicts[number].message)

    def not_passed() -> list[Exercise]:
        return [check for check in checks if verdicts.get(check.number, Verdict("", "")).status != "passed"]

    # What the exercise notebook gives comes first: if the learner's cell with the imports is gone, that costs nothing.
    for source in [source for source, found in official if not found]:
        execute("the start", source)
    sources = {f"code cell {number}": source for number, source in enumerate(cells, 1)}
    for step, source in sources.items():
        if step in job["skip"]:
            continue
        execute(step, source)
        for check in not_passed():  # at once: a later cell may use its names for something else
            if mentions(source, check.number) and all(name in shell.user_ns for name in names[check.number]):
                judge(check)
    for check in not_passed():  # a helper may stand further down
        judge(check)


def _shell() -> Any:
    """IPython without a terminal or a kernel around it: magics and `await` work, and a crash is this process's."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class Shell(InteractiveShell):
        def ask_exit(self) -> None:
            """`exit()` and `quit()` let the cell go on, as in Jupyter."""

        def enable_gui(self, gui: str | None = None) -> None:
            """`%matplotlib` asks for this."""

    config = Config()
    config.HistoryManager.enabled = False
    return Shell.instance(config=config)


def _set_limits(memory: int, cpu: int) -> None:
    """What the guard's clock and scales would see too late, or not at all once a process has left the group.

    RLIMIT_DATA and not RLIMIT_AS: JAX reserves address space that it never uses, five times what it takes.
    """
    try:
        import resource
    except ImportError:  # Windows, where the guard is alone
        return
    wanted = {
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_FSIZE: memory,  # nor may one fill the disk
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_CORE: 0,
    }
    for kind, amount in wanted.items():
        hard = resource.getrlimit(kind)[1]
        amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(kind, (amount, amount))


if __name__ == "__main__":
    main()
