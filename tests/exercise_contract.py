"""The contract of every exercise, as tests that a lesson inherits. What is tested is what learners are given.

    class TestLosses(ExerciseContract):
        lesson = "01_losses"
        wrong = {
            "softmax_cross_entropy": [
                # a part of its message, the wrong answer
                ("Sum or mean over the batch?", lambda logits, labels: rows(logits, labels).sum()),
            ],
        }

A wrong answer is what a learner would pass to the check: a tuple of them where that takes several, and `from_notebook`
where it is something that the exercise notebook defines, such as the function with the bug.
"""

import contextlib
import functools
import io
import linecache
import re
import time
from pathlib import Path

import matplotlib
import nbformat
import pytest

from course_lib.checks.core import Exercise, exercises
from course_lib.notebook_build import plan

ROOT = Path(__file__).resolve().parent.parent
matplotlib.use("Agg")


class from_notebook:
    """A wrong answer that needs names of the exercise notebook: from_notebook(lambda nb: nb["broken_bce"])."""

    def __init__(self, make):
        self.make = make


@functools.cache
def run_notebook(folder, lesson):
    """Every code cell of the planned notebook, run here: its names, and check name → what that check was given."""
    notebook = plan(ROOT, f"{lesson}_exercises")[ROOT / folder / f"{lesson}_exercises.ipynb"]
    names, given = {"__name__": "__main__"}, {}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(Exercise, "__call__", lambda self, *answers: given.__setitem__(self.name, answers))
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                file = f"<{folder}/{lesson}, cell {number}>"
                # Sources can be read, as in a notebook: that is how a check sees that a `...` is left.
                linecache.cache[file] = (len(cell.source), None, cell.source.splitlines(keepends=True), file)
                exec(compile(cell.source, file, "exec"), names)
    return names, given


class ExerciseContract:
    lesson: str
    wrong: dict

    def pytest_generate_tests(self, metafunc):
        cls = metafunc.cls
        if "says" in metafunc.fixturenames:
            cases = [(name, i, says) for name, cases in cls.wrong.items() for i, (says, _) in enumerate(cases)]
            ids = [f"{name}: {says}" for name, _, says in cases]
            metafunc.parametrize(("name", "i", "says"), cases, ids=ids)
        elif "name" in metafunc.fixturenames:
            metafunc.parametrize("name", cls.wrong)

    @classmethod
    def checks(cls):
        return {exercise.name: exercise for exercise in exercises() if exercise.lesson == cls.lesson[:2]}

    def answers(self, folder):
        return run_notebook(folder, self.lesson)[1]

    @classmethod
    @functools.cache  # judging takes its time, and two tests need each verdict
    def wrong_verdict(cls, name, i):
        answer = cls.wrong[name][i][1]
        if isinstance(answer, from_notebook):
            answer = answer.make(run_notebook("exercises", cls.lesson)[0])
        return cls.checks()[name].judge(*(answer if isinstance(answer, tuple) else (answer,)))

    def test_each_check_is_called_by_both_notebooks_and_tells_three_wrong_answers_apart(self):
        assert list(self.answers("solutions")) == list(self.answers("exercises")) == list(self.checks())
        assert set(self.wrong) == set(self.checks())
        for name, cases in self.wrong.items():
            messages = {self.wrong_verdict(name, i).message for i in range(len(cases))}
            assert len(messages) >= 3, (name, messages)

    @pytest.mark.parametrize(("folder", "verdict"), [("solutions", "passed"), ("exercises", "not attempted yet")])
    def test_the_built_notebooks_show_it(self, folder, verdict):
        notebook = nbformat.read(ROOT / folder / f"{self.lesson}_exercises.ipynb", as_version=4)
        last_lines = [cell.outputs[-1].text.splitlines()[-1] for cell in notebook.cells if "\ncheck." in cell.source]
        assert last_lines == [verdict] * len(self.checks())

    def test_headings_state_the_minutes_and_the_difficulty_that_are_registered(self):
        text = (ROOT / "lessons" / f"{self.lesson}_exercises.py").read_text(encoding="utf-8")
        stated = re.findall(r"^# ## (\d+\.\d+) .+ · (\d+) min · ([●○]{3})$", text, re.MULTILINE)
        circles = ("", "●○○", "●●○", "●●●")
        known = [(check.number, str(check.minutes), circles[check.difficulty]) for check in self.checks().values()]
        assert stated == known

    def test_the_published_solution_passes_in_under_a_second(self, name):
        seconds = []
        for _ in range(2):  # the first may compile
            start = time.process_time()  # of this process: the machine may be busy
            verdict = self.checks()[name].judge(*self.answers("solutions")[name])
            seconds.append(time.process_time() - start)
            assert verdict.status == "passed", verdict.message
        assert min(seconds) < 1

    def test_the_published_stub_is_not_attempted(self, name):
        assert self.checks()[name].judge(*self.answers("exercises")[name]).message == "not attempted yet"

    def test_a_wrong_answer_gets_the_message_meant_for_it(self, name, i, says):
        verdict = self.wrong_verdict(name, i)
        assert verdict.status == "not yet", verdict.message
        assert says in verdict.message, verdict.message
