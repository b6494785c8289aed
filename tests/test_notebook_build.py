"""What the build writes, when it writes, and what it says about lessons that it cannot build."""

import json
import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

from course_lib import CourseError, notebook_build
from course_lib.notebook_build import build, kernel_env

ROOT = Path(__file__).resolve().parent.parent

LESSON = """\
# %% [markdown]
# # 01 · Losses

# %%
print("one")

# %%
1 + 1
"""

EXERCISES = """\
# %%
def double(x):
    # BEGIN SOLUTION
    twice = 2 * x

    return twice
    # END SOLUTION


print(double(21))

# %%
# BEGIN SOLUTION
answer = 42
# END SOLUTION
"""


@pytest.fixture
def course(tmp_path):
    """A course with one lesson and its exercises."""
    (tmp_path / "lessons").mkdir()
    (tmp_path / "lessons" / "01_losses.py").write_text(LESSON)
    (tmp_path / "lessons" / "01_losses_exercises.py").write_text(EXERCISES)
    return tmp_path


@pytest.fixture
def executed(monkeypatch):
    """No kernels: every cell gets a count, and the names of the executed notebooks are listed."""
    names = []

    def pretend(root, path, notebook):
        path.parent.mkdir(exist_ok=True)
        names.append(f"{path.parent.name}/{path.name}")
        for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1):
            cell.execution_count = number

    monkeypatch.setattr(notebook_build, "_execute", pretend)
    return names


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def sources(path):
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


BUILT = ["exercises/01_losses_exercises.ipynb", "notebooks/01_losses.ipynb", "solutions/01_losses_exercises.ipynb"]


def test_a_lesson_and_its_exercises_become_three_notebooks(course, executed):
    assert sorted(path.relative_to(course).as_posix() for path in build(course)) == BUILT == sorted(executed)
    assert sources(course / BUILT[1]) == ["# 01 · Losses", 'print("one")', "1 + 1"]
    assert sources(course / BUILT[2]) == [
        "def double(x):\n    twice = 2 * x\n\n    return twice\n\n\nprint(double(21))",
        "answer = 42",
    ]
    assert sources(course / BUILT[0]) == ["def double(x):\n    ...\n\n\nprint(double(21))", "..."]


def test_what_is_up_to_date_is_left_alone(course, executed):
    build(course)
    before = {path: path.stat().st_mtime_ns for path in course.rglob("*.ipynb")}
    lines = []
    assert build(course, report=lines.append) == []
    assert {path: path.stat().st_mtime_ns for path in course.rglob("*.ipynb")} == before
    assert lines == ["0 notebooks built, 3 were up to date."]


def test_only_what_changed_is_executed_again(course, executed):
    build(course)
    executed.clear()
    edit(course / "lessons" / "01_losses_exercises.py", "2 * x", "x + x")  # in the answer: the exercise stays as it is
    build(course)
    assert executed == ["solutions/01_losses_exercises.ipynb"]


@pytest.mark.parametrize("damage", ["source", "metadata", "id", "type", "not executed", "not JSON", "no notebook"])
def test_a_built_notebook_that_was_changed_is_built_again(course, executed, damage):
    build(course)
    path = course / "notebooks" / "01_losses.ipynb"
    good = path.read_bytes()
    notebook = json.loads(good)
    cell = notebook["cells"][2]
    if damage == "source":
        cell["source"] = ["1 + 2"]
    elif damage == "metadata":
        cell["metadata"] = {"tags": ["nbval-skip"]}
    elif damage == "id":
        cell["id"] = "another"
    elif damage == "type":
        cell["cell_type"] = "raw"
    elif damage == "not executed":
        cell["execution_count"] = None
    path.write_text({"not JSON": "<<<<<<< HEAD", "no notebook": "[]"}.get(damage, json.dumps(notebook)))
    executed.clear()
    build(course)
    assert executed == ["notebooks/01_losses.ipynb"]
    assert path.read_bytes() == good


def test_force_executes_everything(course, executed):
    build(course)
    executed.clear()
    build(course, force=True)
    assert sorted(executed) == BUILT


@pytest.mark.parametrize("only", ["01", "01_losses", "lessons/01_losses.py"])
def test_only_builds_one_lesson_with_its_exercises_and_does_not_look_at_others(course, executed, only):
    (course / "lessons" / "02_broken.py").write_text("")
    (course / "notebooks").mkdir()
    (course / "notebooks" / "00_gone.ipynb").write_text("{}")
    build(course, only=only)
    assert sorted(executed) == BUILT
    assert (course / "notebooks" / "00_gone.ipynb").exists()


def test_only_with_an_unknown_lesson_names_those_there_are(course):
    with pytest.raises(CourseError, match="no lesson '7' in lessons/. There are: 01_losses, 01_losses_exercises"):
        build(course, only="7")


def test_orphans_are_removed(course, executed):
    build(course)
    (course / "lessons" / "01_losses_exercises.py").unlink()
    lines = []
    build(course, report=lines.append)
    assert sorted(path.name for path in course.rglob("*.ipynb")) == ["01_losses.ipynb"]
    assert "solutions/01_losses_exercises.ipynb: removed, it has no source" in lines


def test_a_wrong_root_removes_nothing(course, executed):
    build(course)
    shutil.rmtree(course / "lessons")
    with pytest.raises(CourseError, match="No lessons found"):
        build(course)
    assert len(list(course.rglob("*.ipynb"))) == 3


def test_check_executes_nothing_and_names_everything_that_is_wrong(course, executed):
    build(course)
    build(course, check=True)
    executed.clear()
    (course / "solutions" / "01_losses_exercises.ipynb").unlink()
    (course / "notebooks" / "09_gone.ipynb").write_text("{}")
    edit(course / "lessons" / "01_losses.py", "1 + 1", "1 + 2")
    before = {path: path.read_bytes() for path in course.rglob("*.ipynb")}
    with pytest.raises(CourseError) as error:
        build(course, check=True)
    assert str(error.value) == (
        "Built notebooks do not match lessons/: notebooks/01_losses.ipynb (differs from its source); "
        "solutions/01_losses_exercises.ipynb (missing); notebooks/09_gone.ipynb (orphaned, has no source). "
        "Run `course build`, commit the result."
    )
    assert executed == [] and before == {path: path.read_bytes() for path in course.rglob("*.ipynb")}


def test_cells_keep_their_ids_when_another_is_inserted(course, executed):
    def ids():
        return {
            cell.source: cell.id for cell in nbformat.read(course / "notebooks/01_losses.ipynb", as_version=4).cells
        }

    build(course)
    before = ids()
    edit(course / "lessons" / "01_losses.py", "# %%\n1 + 1", "# %%\nprint('new')\n\n# %%\n1 + 1")
    build(course)
    assert before.items() < ids().items()


def test_equal_cells_have_different_ids_and_blank_lines_between_cells_leave_no_trace(course, executed):
    (course / "lessons" / "01_losses.py").write_text("# %%\nx = 1\n# %%\nx = 1\n\n\n\n# %%\nx = 1\n")
    build(course)
    cells = nbformat.read(course / "notebooks" / "01_losses.ipynb", as_version=4).cells
    assert len({cell.id for cell in cells}) == 3 and {cell.source for cell in cells} == {"x = 1"}
    assert all(cell.metadata == {} for cell in cells)


def test_tags_and_their_reasons_stay(course, executed):
    edit(course / "lessons" / "01_losses.py", "# %%\n1 + 1", '# %% tags=["nbval-skip"] reason="slow"\n1 + 1')
    build(course)
    cell = nbformat.read(course / "notebooks" / "01_losses.ipynb", as_version=4).cells[2]
    assert cell.metadata == {"tags": ["nbval-skip"], "reason": "slow"}


LESSON_ERRORS = {
    "": "lessons/01_losses.py: the file is empty",
    "x = 1\n": "not py:percent: its first line must be '# %%'",
    "x = 1\n\n# %%\ny = 2\n": "not py:percent: its first line must be '# %%'",
    "# %% [markdown]\nforgotten hash signs\n": "lessons/01_losses.py, line 2: invalid syntax",
    "# %%\n%matplotlib inline\n": "line 2: invalid syntax.*magics are written as comments",
    "# %% [markdwn]\n# text\n": r"'# %% \[markdwn\]' is neither a cell type nor metadata",
    "# %% tags=[nbval-skip]\nx = 1\n": r"'# %% tags=\[nbval-skip\]' is neither",
    '# %% tags="nbval-skip"\nx = 1\n': "not py:percent: 'nbval-skip' is not of type 'array'",
    '# %% tags=["nbval-skip"]\nx = 1\n': "cell 'x = 1': tag 'nbval-skip' needs a reason",
    '# %% tags=["raises-exception"] reason=" "\nx = 1\n': "tag 'raises-exception' needs a reason",
    '# %% tags=["nbval-skp"] reason="slow"\nx = 1\n': "tag 'nbval-skp' is not used here. There are nbval-ignore-output",
    "# %%\n# NBVAL_SKIP\nx = 1\n": "nbval's switch as a tag with a reason",
    "# %%\nx = 1\n# BEGIN SOLUTION\n# END SOLUTION\n": "cell 'x = 1': solution markers belong in 01_losses_exerc",
}


@pytest.mark.parametrize("text", LESSON_ERRORS)
def test_a_bad_lesson_gets_one_clear_error(course, executed, text):
    (course / "lessons" / "01_losses.py").write_text(text)
    with pytest.raises(CourseError, match=LESSON_ERRORS[text]) as error:
        build(course)
    assert str(error.value).startswith("lessons/01_losses.py") and "\n" not in str(error.value)
    assert executed == []


BEGIN, END = "# BEGIN SOLUTION\n", "# END SOLUTION\n"


@pytest.mark.parametrize(
    "rest", [f"{BEGIN}y = 2\n", f"y = 2\n{END}", f"{BEGIN}{BEGIN}y = 2\n{END}", f"{BEGIN}\n# %%\ny = 2\n{END}"]
)
def test_unmatched_solution_markers_name_the_cell(course, executed, rest):
    (course / "lessons" / "01_losses_exercises.py").write_text(f"# %%\nx = 1\n{rest}")
    with pytest.raises(CourseError, match="lessons/01_losses_exercises.py, cell 'x = 1': unmatched '# (BEGIN|END) SOL"):
        build(course)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("02_other_exercises.py", b"# %%\nx = 1\n", "its lesson lessons/02_other.py is missing"),
        ("losses.py", b"# %%\nx = 1\n", "a lesson's file is named NN_topic.py"),
        ("02_other.py", b"# %%\nx = '\xe9'\n", "not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_a_lesson_is_named(course, executed, name, text, message):
    (course / "lessons" / name).write_bytes(text)
    with pytest.raises(CourseError, match=f"lessons/{name}: {message}"):
        build(course)


def test_a_write_that_fails_leaves_the_old_notebook(course, executed, monkeypatch):
    build(course)
    path = course / "notebooks" / "01_losses.ipynb"
    before = path.read_bytes()
    edit(course / "lessons" / "01_losses.py", "1 + 1", "1 + 2")

    def disk_full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", disk_full)
    with pytest.raises(CourseError, match="No space left on device"):
        build(course)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["01_losses.ipynb"]


def test_kernels_get_an_environment_that_does_not_depend_on_whose_it_is(monkeypatch):
    for name in ("PYTEST_CURRENT_TEST", "MPLBACKEND", "XLA_FLAGS", "JAX_ENABLE_X64", "COLUMNS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PYTHONPATH", "mine")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    env = kernel_env(ROOT)
    assert not env.keys() & {"PYTEST_CURRENT_TEST", "MPLBACKEND", "XLA_FLAGS", "JAX_ENABLE_X64", "COLUMNS"}
    assert env["PYTHONPATH"] == f"{ROOT / 'tests' / 'offline'}{os.pathsep}mine"
    assert env["JAX_PLATFORMS"] == "cpu" and env["TQDM_DISABLE"] == "1"
    folder = Path(env["IPYTHONDIR"])  # a kernel that ran before this test may have put its profile there
    assert folder.is_dir() and folder != Path.home() / ".ipython"
    assert not list(folder.glob("profile_default/startup/*.py"))


# Real kernels from here on.

EXECUTED_LESSON = """\
# %%
import os, socket, sys, time, warnings
from pathlib import Path
from tqdm import tqdm

for word in tqdm(["a", "b"]):
    print(word, flush=True)
    time.sleep(0.3)  # two messages
print("error", file=sys.stderr, flush=True)

# %%
print(Path.cwd().name, Path(sys.executable) == Path(os.environ["EXPECTED_PYTHON"]))

# %% tags=["raises-exception"] reason="the network is off"
socket.create_connection(("192.0.2.1", 80), timeout=1)

# %%
2 * 21;

# %%
2 * 21
"""


def test_executed_notebooks_hold_their_outputs_and_nothing_of_the_run(course, monkeypatch):
    monkeypatch.setenv("EXPECTED_PYTHON", sys.executable)
    shutil.copytree(ROOT / "tests" / "offline", course / "tests" / "offline")
    (course / "lessons" / "01_losses.py").write_text(EXECUTED_LESSON)
    build(course)

    notebook = nbformat.read(course / "notebooks" / "01_losses.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == notebook_build.METADATA
    assert all("version" not in key for key in notebook.metadata.language_info)
    words, where, error, quiet, last = notebook.cells
    assert [cell.execution_count for cell in notebook.cells] == [1, 2, 3, 4, 5]
    assert all(set(cell.metadata) <= {"tags", "reason"} for cell in notebook.cells)
    assert [(out.name, out.text) for out in words.outputs] == [("stdout", "a\nb\n"), ("stderr", "error\n")]
    assert where.outputs[0].text == "notebooks True\n"
    assert "the network is off" in error.outputs[0].evalue
    assert not any(str(course) in line or sys.prefix in line for line in error.outputs[0].traceback)
    assert quiet.outputs == []
    assert last.outputs[0].data == {"text/plain": "42"} and last.outputs[0].execution_count == 5

    solution, stub = (
        nbformat.read(course / f / "01_losses_exercises.ipynb", as_version=4) for f in ("solutions", "exercises")
    )
    assert solution.cells[0].outputs[0].text == "42\n" and stub.cells[0].outputs[0].text == "None\n"
    build(course, check=True)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            "def fail():\n    raise ValueError('first\\nsecond')\n\n\nfail()",
            "cell 'def fail\\(\\):': ValueError: first$",
        ),
        ("import time\n\ntime.sleep(60)", "cell 'import time': took longer than 2 s"),
        ("import os\n\nos._exit(1)", "cell 'import os': the kernel died there"),
        ("import sys\n\nprint('from', sys.prefix)", "cell 'import sys': shows .*, a folder of this machine"),
    ],
)
def test_a_cell_that_fails_stops_the_build_and_is_named(course, monkeypatch, cell, message):
    monkeypatch.setattr(notebook_build, "CELL_TIMEOUT", 2)
    (course / "lessons" / "01_losses.py").write_text(f"# %%\nprint('before')\n\n# %%\n{cell}\n")
    with pytest.raises(CourseError, match=message) as error:
        build(course)
    assert str(error.value).startswith("lessons/01_losses.py (as notebooks/01_losses.ipynb), cell ")
    assert list(course.rglob("*.ipynb")) == []
