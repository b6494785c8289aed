"""From the text that people edit to the notebooks that people run.

    lessons/NN_topic.py            →  notebooks/NN_topic.ipynb
    lessons/NN_topic_exercises.py  →  solutions/NN_topic_exercises.ipynb   with the answers
                                      exercises/NN_topic_exercises.ipynb   each answer replaced by `...`

A source is jupytext's py:percent text, and an answer stands between `# BEGIN SOLUTION` and `# END SOLUTION` (nbgrader's
markers). Every notebook is executed and keeps its outputs, so that `pytest --nbval` can run it again and compare. The
kernel of both runs, here and there, gets the environment that `kernel_env` makes: what is stored is what is compared.

The same source always gives the same file apart from outputs: ids come from the cells' text, and nothing of this run
(times, versions, widget state) is kept.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib import CourseError
from course_lib.cache import compile_cache_variables
from course_lib.files import write_text

if TYPE_CHECKING:
    from nbformat import NotebookNode

# jupytext, nbclient and nbformat are imported where they are used: nbformat alone takes seconds.

CELL_TIMEOUT = 900  # seconds, for one cell on a slow and busy machine; the nbval run has the same limit
FOLDERS = ("notebooks", "exercises", "solutions")
NAME = re.compile(r"\d\d_[a-z0-9_]+")
FIRST_CELL = re.compile(r"(# ---\n(#.*\n)*?# ---\n)?\s*# %%")  # after the header that jupytext may have written
MARKER = re.compile(r"(?P<indent>\s*)#+\s*(?P<kind>BEGIN|END) SOLUTION\b", re.IGNORECASE)
COMMENT_SWITCH = re.compile(r"^\s*#+\s*(NBVAL_|PYTEST_VALIDATE_)", re.MULTILINE)  # nbval obeys these; we want reasons
# Under PYTEST_CURRENT_TEST ipykernel loses text written to the file descriptors; the others change what cells show.
DROPPED_VARIABLES = (
    "PYTEST_", "JAX_", "XLA_", "COURSE_MODEL", "PYTHONSTARTUP", "PYTHONWARNINGS", "MPLBACKEND", "COLUMNS", "LINES",
)  # fmt: skip
EXCEPTIONS = {"nbval-skip", "nbval-ignore-output", "raises-exception"}
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}


def build(
    root: Path | str,
    only: str | None = None,
    check: bool = False,
    force: bool = False,
    report: Callable[[str], object] = print,
) -> list[Path]:
    """Brings notebooks/, exercises/ and solutions/ under `root` up to date with lessons/, and returns what it changed.

    only    a lesson's number, name or file ("11", "11_finetune_bert"): that lesson and its exercises, nothing else
    check   change nothing and run nothing; raise if something is out of date
    force   execute again although the source is the same, after a change in course_lib or in a dependency
    report  is called with one line for every file written or removed, and a last one that sums up

    Raises CourseError for a lesson that cannot be built, a cell that fails, and, with `check`, once for all files that
    are missing, orphaned or unlike their source. All lessons are read before the first is executed. Notebooks that
    were finished before a failure stay.
    """
    import nbformat

    root = Path(root).resolve()
    planned = plan(root, only)
    problems = {path: problem for path, notebook in planned.items() if (problem := _problem(path, notebook))}
    built = [path for folder in FOLDERS for path in sorted((root / folder).glob("*.ipynb"))]
    orphans = [path for path in built if path not in planned] if only is None else []
    if check:
        problems |= dict.fromkeys(orphans, "orphaned, has no source")
        if problems:
            named = "; ".join(f"{path.relative_to(root).as_posix()} ({problem})" for path, problem in problems.items())
            raise CourseError(f"Built notebooks do not match lessons/: {named}. Run `course build`, commit the result.")
        report(f"{len(planned)} notebooks match lessons/.")
        return []

    stale = [path for path in planned if force or path in problems]
    for path in stale:
        start = time.perf_counter()
        _execute(root, path, planned[path])
        write_text(path, nbformat.writes(planned[path]) + "\n")
        report(f"{path.relative_to(root).as_posix()}: executed in {time.perf_counter() - start:.0f} s")
    for path in orphans:
        path.unlink()
        report(f"{path.relative_to(root).as_posix()}: removed, it has no source")
    report(f"{len(stale)} notebooks built, {len(planned) - len(stale)} were up to date.")
    return stale + orphans


def kernel_env(root: Path) -> dict[str, str]:
    """The environment of every kernel that makes or tests stored outputs: this process's, made the same everywhere."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED_VARIABLES)}
    offline = str(root / "tests" / "offline")  # its sitecustomize.py refuses the network
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [offline, env.get("PYTHONPATH")]))
    env["IPYTHONDIR"] = _ipython_folder().name
    env["JAX_PLATFORMS"] = "cpu"  # the stored numbers are the CPU's, also where there is a GPU
    env |= compile_cache_variables()
    env["TF_CPP_MIN_LOG_LEVEL"] = "3"  # XLA's log lines carry the time and the thread
    env["TQDM_DISABLE"] = "1"  # progress bars show seconds
    env["COURSE_PROGRESS"] = "off"  # what a build or a test passes is not the learner's progress
    if not os.access(os.path.expanduser("~"), os.W_OK):  # matplotlib would say in each notebook that it keeps no files
        env.setdefault("MPLCONFIGDIR", str(Path(_ipython_folder().name, "matplotlib")))
    return env


@functools.cache
def _ipython_folder() -> tempfile.TemporaryDirectory[str]:
    """An empty IPython folder for as long as this process lives: no start-up files, and nobody's history written to."""
    return tempfile.TemporaryDirectory(prefix="course-ipython-")


def plan(root: Path, only: str | None = None) -> dict[Path, NotebookNode]:
    """Every file that should be built (for `only` see `build`) and its notebook, not yet executed."""
    sources = sorted((root / "lessons").glob("*.py"))
    if not sources:
        raise CourseError(f"No lessons found in {root / 'lessons'}. Run this in the root of the course.")
    if only is not None:
        names = ", ".join(source.stem for source in sources)
        sources = [source for source in sources if f"{source.stem}_".startswith(f"{Path(only).stem}_")]
        if not sources:
            raise CourseError(f"There is no lesson {only!r} in lessons/. There are: {names}.")

    planned = {}
    for source in sources:
        where = f"lessons/{source.name}"
        if not NAME.fullmatch(source.stem):
            raise CourseError(f"{where}: a lesson's file is named NN_topic.py, in small letters. Rename or move it.")
        cells = _read_cells(source, where)
        if source.stem.endswith("_exercises"):
            lesson = source.with_name(f"{source.stem.removesuffix('_exercises')}.py")
            if not lesson.exists():
                raise CourseError(f"{where}: its lesson lessons/{lesson.name} is missing. Add it, or rename this.")
            answered, stubbed = deepcopy(cells), cells
            for with_answer, stub in zip(answered, stubbed, strict=True):
                with_answer.source, stub.source = _split_answers(stub, where)
            planned[root / "solutions" / f"{source.stem}.ipynb"] = _notebook(answered)
            planned[root / "exercises" / f"{source.stem}.ipynb"] = _notebook(stubbed)
        else:
            for cell in cells:
                if any(MARKER.match(line) for line in cell.source.splitlines()):
                    raise _error(where, cell, f"solution markers belong in {source.stem}_exercises.py.")
            planned[root / "notebooks" / f"{source.stem}.ipynb"] = _notebook(cells)
    return planned


def _read_cells(source: Path, where: str) -> list[NotebookNode]:
    """A py:percent file's cells. jupytext lets nearly everything pass, so what it would take amiss is refused here."""
    import jupytext

    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CourseError(f"{where}: not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    if not text.strip():
        raise CourseError(f"{where}: the file is empty. Write its first cell, or remove it.")
    if not FIRST_CELL.match(text):
        raise CourseError(f"{where}: not py:percent: its first line must be '# %%' or '# %% [markdown]'.")
    try:
        # `await` is allowed at the top level of a notebook
        compile(text, where, "exec", flags=ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError as error:
        raise CourseError(
            f"{where}, line {error.lineno}: {error.msg}. (Text cells and magics are written as comments.)"
        ) from error
    try:
        cells = jupytext.reads(text, fmt="py:percent").cells
    except Exception as error:  # YAML, JSON and schema errors of several libraries
        reason = str(error).splitlines()[0]
        raise CourseError(f"{where}: not py:percent: {reason}. Look at the metadata behind '# %%'.") from error

    for cell in cells:
        cell.source = cell.source.strip("\n")
        cell.metadata.pop("lines_to_next_cell", None)  # jupytext's note on blank lines
        unread = cell.metadata.get("title") or cell.metadata.get("incorrectly_encoded_metadata")
        if unread:
            raise CourseError(f"{where}: '# %% {unread}' is neither a cell type nor metadata such as tags=[\"name\"].")
        _check_tags(cell, where)
    return cells


def _check_tags(cell: NotebookNode, where: str) -> None:
    """Strict is the rule: who wants an exception for a cell says why, beside the tag, where readers see it."""
    for tag in cell.metadata.get("tags", []):
        if tag in EXCEPTIONS:
            if not str(cell.metadata.get("reason", "")).strip():
                raise _error(where, cell, f'tag {tag!r} needs a reason: # %% tags=["{tag}"] reason="why".')
        elif tag.startswith("nbval-") or tag == "skip-execution":
            raise _error(where, cell, f"tag {tag!r} is not used here. There are {', '.join(sorted(EXCEPTIONS))}.")
    if COMMENT_SWITCH.search(cell.source):
        raise _error(where, cell, "write nbval's switch as a tag with a reason, not as a comment.")


def _split_answers(cell: NotebookNode, where: str) -> tuple[str, str]:
    """The cell's source with its answers and without the markers, and with `...` in place of each answer."""
    answered, stubbed, inside = [], [], False
    for line in cell.source.splitlines():
        marker = MARKER.match(line)
        if marker is None:
            answered.append(line)
            if not inside:
                stubbed.append(line)
            continue
        begins = marker["kind"].upper() == "BEGIN"
        if begins == inside or cell.cell_type != "code":
            raise _error(where, cell, f"unmatched '{line.strip()}'. An answer has a BEGIN and an END in one code cell.")
        inside = begins
        if inside:
            stubbed.append(f"{marker['indent']}...")
    if inside:
        raise _error(where, cell, "unmatched '# BEGIN SOLUTION'. Add '# END SOLUTION' in the same cell.")
    return "\n".join(answered), "\n".join(stubbed)


def _error(where: str, cell: NotebookNode, what: str) -> CourseError:
    return CourseError(f"{where}, cell '{cell.source.strip().partition(chr(10))[0]}': {what}")


def _notebook(cells: list[NotebookNode]) -> NotebookNode:
    """A notebook whose ids follow from the cells' text, so that a cell keeps its own when others come and go."""
    from nbformat.v4 import new_notebook

    seen: Counter[str] = Counter()
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return new_notebook(cells=cells, metadata=deepcopy(METADATA))


def _problem(path: Path, notebook: NotebookNode) -> str | None:
    """What is wrong with the built file, held against the notebook that its source asks for; None if nothing is."""
    import nbformat

    def without_outputs(stored: dict) -> dict:
        results = ("outputs", "execution_count")
        cells = [{key: value for key, value in cell.items() if key not in results} for cell in stored["cells"]]
        return stored | {"cells": cells}

    if not path.exists():
        return "missing"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if without_outputs(stored) != without_outputs(json.loads(nbformat.writes(notebook))):
            return "differs from its source"
    except (ValueError, KeyError, TypeError, AttributeError):  # half a file, a merge conflict, not a notebook
        return "not a readable notebook"
    code = [cell for cell in stored["cells"] if cell["cell_type"] == "code" and cell["source"]]
    if any(cell.get("execution_count") is None for cell in code):
        return "has cells that were never executed"
    return None


def _execute(root: Path, path: Path, notebook: NotebookNode) -> None:
    """Runs the notebook, in place, in its own folder and with the interpreter that runs this."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    path.parent.mkdir(parents=True, exist_ok=True)
    # No kernel folders: a "python3" that somebody has installed elsewhere must not win over the running interpreter.
    kernels = KernelSpecManager(kernel_dirs=[])
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=kernels)
    folder = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, km=manager, resources=folder, timeout=CELL_TIMEOUT, record_timing=False)
    # What cells print is stored; ipykernel would say it again in the terminal.
    start = {"env": kernel_env(root), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    where = f"lessons/{path.stem}.py (as {path.relative_to(root).as_posix()})"
    with client.setup_kernel(cleanup_kc=True, **start):  # client.execute() would do it all, but not let Ctrl-C through
        for index, cell in enumerate(notebook.cells):
            try:
                client.execute_cell(cell, index)
            except CellExecutionError as error:
                raise _error(where, cell, f"{error.ename}: {error.evalue}".splitlines()[0]) from error
            except CellTimeoutError as error:
                raise _error(where, cell, f"took longer than {CELL_TIMEOUT} s. Make it smaller.") from error
            except DeadKernelError as error:
                raise _error(where, cell, "the kernel died there, perhaps out of memory.") from error
            if cell.cell_type == "code":
                cell.outputs = _merge_streams(cell.outputs)
                _keep_out_machine_paths(root, cell, where)


def _merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """How text was cut into messages depends on the clock: neighbours of one stream become one output."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and last.output_type == output.output_type == "stream" and last.name == output.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def _keep_out_machine_paths(root: Path, cell: NotebookNode, where: str) -> None:
    """Refuses text that names a folder of this machine, since on every other the comparison would fail.

    In tracebacks, which are not compared and name many files, the folders are cut off.
    """
    folders = [sys.prefix, str(root), os.path.expanduser("~")]  # which stays `~` where there is no home
    folders = [folder for folder in folders if os.path.isabs(folder) and folder != os.sep]
    for output in cell.outputs:
        compared = [output.get("text", ""), output.get("evalue", "")]
        compared += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
        for folder in folders:
            if any(re.search(rf"{re.escape(folder)}(?![\w.-])", text) for text in compared):
                raise _error(where, cell, f"shows {folder}, a folder of this machine. Print a name or a relative path.")
            if output.output_type == "error":
                output.traceback = [line.replace(f"{folder}{os.sep}", "") for line in output.traceback]
