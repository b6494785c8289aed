"""`course grade`: what breaks a notebook costs its exercise and no other, and nothing that it shows is believed."""

import csv
import functools
import json
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from course_lib import grade
from course_lib.checks.core import exercises
from course_lib.grade_one import official_calls

ROOT = Path(__file__).resolve().parent.parent
NAME = "01_losses_exercises.ipynb"
NUMBERS = [one.number for one in exercises() if one.lesson == "01"]
ALL = dict.fromkeys(NUMBERS, "passed")
SHARED_HOG = """
import mmap
block = mmap.mmap(-1, 2**34)  # shared memory, which no limit of the system counts
for page in range(0, 2**34, 4096):
    block[page] = 1
"""
ONLINE = """
import socket
try:
    socket.create_connection(("192.0.2.1", 80))
except OSError as error:
    if "network is off" not in str(error):
        weighted_smooth_loss = None
"""
FAKES = """
from course_lib.checks import core, losses
core.Exercise.judge = core.Exercise.__call__ = lambda self, *answers: core.Verdict("passed", "passed")
losses.compare = losses.choose = lambda *_, **__: None
check.fixed_bce = check.softmax_cross_entropy = lambda answer: print("passed")
"""


def notebook(folder, change=lambda cells: None):
    """The notebook in solutions/ or exercises/, after change(exercise number → its cell, "imports" → the first)."""
    loaded = json.loads((ROOT / folder / NAME).read_text("utf-8"))
    code = [cell for cell in loaded["cells"] if cell["cell_type"] == "code"]
    numbers = {one.name: one.number for one in exercises() if one.lesson == "01"}
    cells = {"imports": code[0]}
    for cell in code:
        cell["source"] = "".join(cell["source"])
        cells |= {numbers[name]: cell for name in official_calls(cell["source"])}
    change(cells)
    loaded["cells"] = [cell for cell in loaded["cells"] if cell.get("source") is not None]
    return json.dumps(loaded)


def crashes(cells):
    cells["1.1"]["source"] = "while True:\n    pass\n" + cells["1.1"]["source"]
    cells["1.2"]["source"] = "import os\nos._exit(0)\n" + cells["1.2"]["source"]
    cells["1.3"]["source"] += "\nimport ctypes\nctypes.string_at(0)"
    cells["1.4"]["source"] = "exit()\n" + cells["1.4"]["source"] + "\nraise SystemExit(3)"
    cells["1.5"]["source"] = None
    cells["imports"]["source"] = None


def hogs(cells):
    cells["1.1"]["source"] = SHARED_HOG + cells["1.1"]["source"]
    cells["1.2"]["source"] = "hog = bytearray(2**34)\n" + cells["1.2"]["source"]
    cells["1.3"]["source"] = cells["1.3"]["source"].replace("):", ")", 1)
    cells["1.4"]["source"] = "def softmax_cross_entropy_gradient(logits, labels):\n    import os\n    os._exit(1)"
    cells["1.5"]["source"] += (
        "\nimport subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', 'left'])"
        "\nopen('01_losses_exercises.ipynb', 'w').write('gone')\nawait __import__('asyncio').sleep(0)"
        "\n%matplotlib inline"
    )
    cells["1.6"]["source"] += ONLINE + "\nfixed_bce = 'used again'\n1 / 0"


def fakes(cells):
    cells["imports"]["source"] += FAKES
    cells["1.1"]["source"] = cells["1.1"]["source"].replace("check.", "print('passed')  # check.")
    cells["1.5"]["source"] = "fixed_bce = broken_bce\ncheck.fixed_bce(fixed_bce)"
    cells["1.5"]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "passed\n"}]


def wrecks(cells):
    cells["imports"]["source"] = "import shutil\nshutil.rmtree('..')"


LEARNERS = {  # folder → what is in it
    "Ada L/week 1": {NAME: notebook("solutions")},
    "crashes": {NAME: notebook("solutions", crashes), "notes.txt": "not a notebook"},
    "hogs": {NAME: notebook("solutions", hogs)},
    "stubs": {NAME: notebook("exercises"), "01_losses_exercises-Copy1.ipynb": "an older one"},
    "fakes": {NAME: notebook("exercises", fakes)},
    "=1+1": {NAME: "{'not': JSON}"},
    "empty": {NAME: ""},
    "list": {"01_losses_exercises (1).ipynb": "[1, 2]"},
    "two": {f"a/{NAME}": "", f"b/{NAME}": ""},
    "wrecks": {NAME: notebook("solutions", wrecks)},
    "nobody": {},
}


def hand_in(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """What one run gives: learner → {exercise number → row of the CSV}, the lines reported, and the folders."""
    folder, reported = tmp_path_factory.mktemp("class"), []
    for learner, files in LEARNERS.items():
        hand_in(folder / learner, files)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grade, "NOTEBOOK_FACTOR", 30)  # this machine may be busy
        folders = [folder / learner.partition("/")[0] for learner in LEARNERS]
        out = folder / "grades.csv"
        grade.grade(ROOT, folders, out, jobs=2, seconds=10, memory=1, report=reported.append)
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    out.unlink()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    learners = {row["learner"]: {} for row in rows}
    for row in rows:
        learners[row["learner"]][row["exercise"]] = row
    return learners, reported


def statuses(rows):
    return {number: row["status"] for number, row in rows.items()}


def test_the_table_has_a_row_for_each_learner_and_exercise(graded):
    learners, reported = graded
    names = "Ada L,crashes,hogs,stubs,fakes,'=1+1,empty,list,two,wrecks,nobody"
    assert ",".join(learners) == names
    assert all(list(rows) == NUMBERS for rows in learners.values())
    row = learners["Ada L"]["1.3"]
    assert row == {"learner": "Ada L", "lesson": "01_losses", "exercise": "1.3", "name": "softmax_cross_entropy",
                   "status": "passed", "message": "passed"}  # fmt: skip
    assert reported[:2] == ["Ada L: 6 of 6 passed", "crashes: 2 of 6 passed, 4 error"]
    assert len(reported) == len(LEARNERS)


def test_solutions_pass_and_stubs_are_not_attempted(graded):
    assert statuses(graded[0]["Ada L"]) == ALL
    assert statuses(graded[0]["stubs"]) == dict.fromkeys(NUMBERS, "not attempted")


def test_loops_crashes_exits_and_deleted_cells_cost_their_exercise_only(graded):
    rows = graded[0]["crashes"]
    assert statuses(rows) == ALL | dict.fromkeys(["1.1", "1.2", "1.3", "1.5"], "error")
    for number, said in {
        "1.1": "code cell 1 ran longer than 10 s",
        "1.2": "code cell 2 ended the process (exit code 0)",
        "1.3": "code cell 3 ended the process (SIGSEGV)",
        "1.5": "no cell defines fixed_bce. Was its cell deleted?",
    }.items():
        assert said in rows[number]["message"]


def test_memory_syntax_and_a_crash_while_checked_cost_their_exercise_only(graded):
    rows = graded[0]["hogs"]
    assert statuses(rows) == ALL | dict.fromkeys(["1.1", "1.2", "1.3", "1.4"], "error")
    for number, said in {
        "1.1": "took more than 1 GiB of memory",
        "1.2": "ran out of memory (1 GiB)",
        "1.3": "raised SyntaxError",
        "1.4": "the check 1.4 ended the process (exit code 1)",
    }.items():
        assert said in rows[number]["message"]


def test_what_a_cell_started_is_ended_with_it(graded):
    assert not [one for one in psutil.process_iter(["cmdline"]) if (one.info["cmdline"] or [])[-1:] == ["left"]]


def test_replaced_checks_and_stored_outputs_are_not_believed(graded):
    rows = graded[0]["fakes"]
    assert statuses(rows) == dict.fromkeys(NUMBERS, "not attempted") | {"1.5": "not yet"}
    assert rows["1.5"]["message"].startswith("not yet: ") and "\n" not in rows["1.5"]["message"]


@pytest.mark.parametrize(
    ("learner", "status", "said"),
    [
        ("'=1+1", "error", "the notebook is not JSON"),
        ("empty", "error", "the notebook is an empty file"),
        ("list", "error", "the notebook is not JSON with cells"),
        ("two", "error", f"2 notebooks, keep one: a/{NAME}, b/{NAME}"),
        ("wrecks", "passed", "passed"),  # what it deletes is its own
        ("nobody", "not attempted", f"no notebook {NAME}"),
    ],
)
def test_what_is_no_notebook_is_named_and_deleting_everything_harms_nobody(graded, learner, status, said):
    rows = graded[0][learner].values()
    assert {row["status"] for row in rows} == {status} and all(said in row["message"] for row in rows)


def test_a_cell_of_the_table_is_one_printable_line():
    assert grade._cell("not yet:\r\nfirst\u2028second\0\x1b[31m\udc80") == "not yet: first second [31m"
    assert len(grade._cell("x" * 9999)) == 300


@pytest.fixture
def course(course):
    """course(folder, …): of `course grade`."""
    return functools.partial(course, "grade")


def test_the_command_grades_folders_and_tells_learners_of_one_name_apart(course, tmp_path):
    for week in ("1", "2"):
        hand_in(tmp_path / week / "kim", {NAME: ""})
    out = tmp_path / "grades.csv"
    code, printed, _ = course(tmp_path / "1" / "kim", tmp_path / "2" / "kim", "--out", out, "--jobs", 1)
    assert code == 0 and f"{2 * len(NUMBERS)} rows written to {out}" in printed
    assert f"{tmp_path / '1' / 'kim'}: 0 of 6 passed, 6 error" in printed
    assert len({line.partition(",")[0] for line in out.read_text().splitlines()[1:]}) == 2


def test_what_cannot_be_graded_is_one_line_before_anything_runs(course, tmp_path):
    hand_in(tmp_path / "kim", {NAME: ""})
    hand_in(tmp_path / "none", {})
    for arguments, said in [
        ([tmp_path / "kim", tmp_path / "typo", "--out", tmp_path / "grades.csv"], "typo: no such folder"),
        ([tmp_path / "none", "--out", tmp_path / "grades.csv"], "no notebook such as 01_losses_exercises.ipynb"),
        ([tmp_path / "kim", "--out", tmp_path / "typo" / "grades.csv"], "a folder that exists"),
    ]:
        code, _, error = course(*arguments)
        assert code == 2 and error.startswith("error: ") and said in error and error.count("\n") == 1
    assert not (tmp_path / "grades.csv").exists()


def test_ctrl_c_leaves_no_process_and_no_table(tmp_path, monkeypatch):
    hand_in(tmp_path / "a", {NAME: ""})
    hand_in(tmp_path / "b", {NAME: notebook("solutions", lambda cells: cells["1.1"].update(source="while 1: pass"))})
    started, popen = [], subprocess.Popen

    def start(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[-1]

    def interrupt(_):
        while len(started) < 2:
            time.sleep(0.05)
        assert [process.poll() is None for process in started].count(True) == 1  # which of them started first varies
        raise KeyboardInterrupt

    monkeypatch.setattr(grade.subprocess, "Popen", start)
    with pytest.raises(KeyboardInterrupt):
        grade.grade(ROOT, [tmp_path / "a", tmp_path / "b"], tmp_path / "grades.csv", jobs=2, report=interrupt)
    assert [process.poll() is None for process in started] == [False, False]
    assert not (tmp_path / "grades.csv").exists()
