"""`course grade` and notebooks that are out for harm: what they may not reach, and what they may not leave behind."""

import json
import os
from pathlib import Path

import psutil
import pytest
from test_grade import ROOT, hand_in

from course_lib import fence, grade

NAME = "00_start_here_exercises.ipynb"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no such limits on Windows")

# Each of these takes the answer away where it gets through.
SPY = """
import os, signal, socket, subprocess, sys
def refused(act):
    try:
        act()
    except OSError:
        return True
theirs, guard = {theirs!r}, {guard}
for path in [theirs, {solution!r}, {lesson!r}]:
    cat = lambda: subprocess.run(["cat", path], check=True, stdin=-3, stderr=-3)
    for act in [lambda: open(path).read(), lambda: open(path, "a"), lambda: os.truncate(path, 9),
                lambda: os.remove(path), lambda: os.link(path, "mine"), cat]:
        try:
            assert refused(act)
        except subprocess.CalledProcessError:
            pass
assert refused(lambda: os.listdir(os.path.dirname(theirs))) and refused(lambda: open(f"/proc/{{guard}}/mem"))
assert not os.getuid() or refused(lambda: open(f"/proc/{{guard}}/environ").read())  # root reads all
assert refused(lambda: open(os.path.dirname(theirs) + "/new", "w")) and refused(lambda: open({clone!r} + "/new", "w"))
"""
KILLER = """
for number in [os.getppid(), guard]:
    assert refused(lambda: os.kill(number, signal.SIGKILL))
"""
SECRETS = """
assert limited  # the cell before wrote a file too large
assert not [name for name in os.environ if "SECRET" in os.environ[name]]
assert os.path.expanduser("~") == os.environ["TMPDIR"] == os.path.dirname(os.getcwd())
import tempfile; tempfile.NamedTemporaryFile().write(b"here I may")
"""
DAEMON = """
import os
if not os.fork():
    os.setsid()
    if not os.fork():
        os.execvp("sleep", [{name!r}, "600"])
    os._exit(0)
os._exit(7)
"""
BOMB = """
import os, time
for _ in range(400):
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.execvp("sleep", [{name!r}, "600"])
        os._exit(0)
time.sleep(600)
"""
PARENT = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nwhile True: pass\n"
DISK = """
for number in range(4):
    with open(f"big{number}", "wb") as file:
        file.write(bytes(2**25))
import time; time.sleep(600)
"""
LARGE = """
try:
    open("large", "wb").write(bytes(2**27))
    raise SystemError("nobody stopped it")
except OSError:
    os = __import__("os")
    os.remove("large")
    limited = True
"""
JUNK = """
import os
for number in range(3, 99):
    try:
        os.write(number, b'["verdict", "0.1", "splendid", ""]\\n[]\\n7\\n')
    except OSError:
        pass
os._exit(0)
"""


LEFT = f"hostile-{os.getpid()}"


def left_over():
    return [one.pid for one in psutil.process_iter(["cmdline"]) if (one.info["cmdline"] or [])[:1] == [LEFT]]


def notebook(first="", **before):
    """The solutions of lesson 00, with a cell of its own before all others, and text at the start of an exercise's."""
    loaded = json.loads((ROOT / "solutions" / NAME).read_text("utf-8"))
    for cell in loaded["cells"]:
        source = "".join(cell["source"])
        cell["source"] = "".join(text for name, text in before.items() if f"check.{name}(" in source) + source
    loaded["cells"].insert(0, {"cell_type": "code", "source": first})
    return json.dumps(loaded)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    hand_in(folder / "ada", {NAME: notebook()})
    spy = SPY.format(theirs=str(folder / "ada" / NAME), solution=str(ROOT / "solutions" / NAME), clone=str(ROOT),
                     lesson=str(ROOT / "lessons" / "00_start_here_exercises.py"), guard=os.getpid())  # fmt: skip
    spy = (spy if fence.version() else "import os") + (KILLER if fence.version() >= 6 else "") + SECRETS
    bomb, daemon = BOMB.format(name=LEFT), DAEMON.format(name=LEFT)
    hand_in(folder / "spy", {NAME: notebook(LARGE, break_even=spy)})
    hand_in(folder / "fork", {NAME: notebook(daemon, break_even=bomb)})
    hand_in(folder / "disk", {NAME: notebook(break_even=DISK, weighted_score=PARENT)})
    hand_in(folder / "junk", {NAME: notebook(JUNK)})
    hand_in(folder / "thief", {})
    (folder / "thief" / NAME).symlink_to(folder / "ada" / NAME)
    (folder / "thief" / "week").symlink_to(folder / "ada")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_TOKEN", "COURSE_SERVE_KEY", "JAX_SECRET", "PGPASSWORD"):
            patch.setenv(name, "SECRET")
        patch.setattr(grade, "DISK", 2**26)
        folders = [folder / name for name in ("spy", "fork", "disk", "junk", "thief")]
        rows = grade.grade(ROOT, folders, folder / "grades.csv", jobs=2, seconds=60, memory=1, report=str)
    assert (folder / "ada" / NAME).read_text("utf-8") == notebook()
    return {(row.learner, row.exercise): (row.status, row.message) for row in rows}


def test_what_belongs_to_others_cannot_be_read_changed_or_killed_and_no_secret_is_in_the_environment(graded):
    assert graded["spy", "0.1"] == graded["spy", "0.2"] == ("passed", "passed")


def test_too_many_processes_cost_their_exercise_only(graded):
    status, why = graded["fork", "0.1"]
    assert status == "error" and "code cell 3 started more than 200 processes" in why
    assert graded["fork", "0.2"] == ("passed", "passed")


def test_too_much_on_disk_costs_its_exercise_only(graded):
    status, why = graded["disk", "0.1"]
    assert status == "error" and "wrote more than 0.0625 GiB to disk" in why


def test_who_ends_what_watches_over_him_is_ended_himself(graded):
    status, why = graded["disk", "0.2"]
    assert status == "error" and ("raised PermissionError" if fence.version() >= 6 else "(SIGKILL)") in why


def test_no_process_is_left_behind_also_one_that_hid_from_its_group(graded):
    assert not left_over()


def test_a_damaged_journal_costs_its_learner_only(graded):
    status, why = graded["junk", "0.1"]
    assert status == "error" and "could not be run (its journal is damaged)" in why


def test_a_link_to_what_another_learner_handed_in_is_not_followed(graded):
    assert graded["thief", "0.1"] == graded["thief", "0.2"] == ("not attempted", f"no notebook {NAME}")


@pytest.mark.parametrize(
    "line",
    ['"step"', "[]", "7", "{}", "[[]]", '["step"]', '["step", 1]', '["verdict", "1.1", "splendid", ""]', '["end", ""]',
     '["other", ""]', "null", "nonsense", "\\udcff"],
)  # fmt: skip
def test_a_line_that_no_notebook_writes_is_refused(line):
    with pytest.raises(ValueError):
        grade._lines(f'["step", "code cell 1"]\n{line}\n'.encode())


def test_half_a_line_is_none():
    assert grade._lines(b'["step", "check 1.1"]\n["verdict", "1.1", "passed", "passed"]\n["ver') == [
        ["step", "check 1.1"],
        ["verdict", "1.1", "passed", "passed"],
    ]


def test_without_a_fence_the_command_says_so(tmp_path, monkeypatch):
    hand_in(tmp_path / "kim", {NAME: ""})
    said = []
    monkeypatch.setattr(fence, "version", lambda: 0)
    grade.grade(ROOT, [tmp_path / "kim"], tmp_path / "grades.csv", report=said.append)
    assert said[0].startswith("note: here, notebooks can read what you can read") and len(said) == 2


def test_the_environment_of_a_notebook_is_a_short_list(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    names = set(grade._environment(Path(ROOT)))
    assert (
        {"PATH", "PYTHONPATH", "COURSE_CACHE"} <= names <= grade.KEPT_VARIABLES | grade.SET_VARIABLES | {"COURSE_CACHE"}
    )
    assert json.dumps(sorted(names)).count("SECRET") == 0
