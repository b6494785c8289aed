"""What every exercise check promises: one clear answer to whatever a learner hands in, and progress that is kept."""

import json
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from course_lib.checks import core, progress
from course_lib.checks.compare import choose, compare
from course_lib.checks.core import Exercise, Wrong, exercises
from course_lib.notebook_build import kernel_env

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = np.array([1.0, 2.0, 3.0])


def double_check(answer, rng):
    x = rng.normal(size=3)
    compare(answer(x), 2 * x, "three numbers", mistakes={"That is the square.": x * x})


double = Exercise("1.9", "double", minutes=1, difficulty=1, check=double_check)


def verdict(answer):
    return double.judge(answer).message


def stub(x): ...


def documented_stub(x):
    """Twice x."""
    ...


def half_filled_stub(x):
    two = ...
    return two * x


def stub_that_returns_its_placeholder(x):
    result = ...
    return result


def not_implemented(x):
    raise NotImplementedError


@pytest.mark.parametrize(
    "answer",
    [None, ..., (1.0, ...), {"w": ...}, stub, documented_stub, half_filled_stub, stub_that_returns_its_placeholder,
     not_implemented, jax.jit(half_filled_stub)],
)  # fmt: skip
def test_whatever_is_not_filled_in_is_not_attempted(answer):
    assert verdict(answer) == "not attempted yet"


def test_a_class_whose_methods_are_not_filled_in_is_not_attempted():
    class Doubler:
        def apply(self, x): ...

    def check(answer, rng):
        compare(answer().apply(NUMBERS), 2 * NUMBERS, "three numbers")

    assert Exercise("1.9", "doubler", 1, 1, check).judge(Doubler).status == "not attempted"


def test_an_ellipsis_that_is_an_index_is_no_placeholder():
    def answer(x):
        return x[..., 0] + undefined  # noqa: F821

    assert verdict(answer).startswith("not yet: answer(float64[3]) raised NameError: name 'undefined' is not defined.")


def test_an_answer_above_a_forgotten_placeholder_is_judged():
    def right(x):
        return 2 * x
        ...

    def wrong(x):
        return 3 * x
        ...

    assert verdict(right) == "passed"
    assert verdict(wrong).startswith("not yet: three numbers: expected [")


def test_a_forgotten_return_is_named():
    def answer(x):
        2 * x

    assert verdict(answer) == "not yet: answer(float64[3]) returned nothing. Is a `return` missing?"


def raises(error):
    def answer(x):
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (raises(ValueError("first line\nsecond line")), "answer(float64[3]) raised ValueError: first line."),
        (raises(ZeroDivisionError()), "answer(float64[3]) raised ZeroDivisionError."),
        (raises(SystemExit(3)), "raised SystemExit: 3."),
        (lambda: 1, "raised TypeError: "),
        (3.0, "'float' object is not callable. Hand in the function itself, not what it returns."),
    ],
)
def test_what_the_learners_code_raises_becomes_one_line(answer, message):
    assert message in verdict(answer)
    assert "\n" not in verdict(answer)


def test_a_check_line_that_was_changed_is_told_what_it_takes():
    assert double.judge().message == "not yet: the check takes answer; 0 came. Restore its line as it was."


def test_endless_recursion_and_tracing_errors_become_one_line():
    def endless(x):
        return endless(x)

    def branches(x):
        return x if x[0] > 0 else -x

    assert "raised RecursionError" in verdict(endless)
    assert "raised TracerBoolConversionError" in verdict(jax.jit(branches))


def test_the_learner_can_interrupt_a_check():
    with pytest.raises(KeyboardInterrupt):
        verdict(raises(KeyboardInterrupt()))


@pytest.mark.skipif(sys.platform == "win32", reason="nothing interrupts a loop there")
def test_an_endless_loop_is_stopped_even_if_it_catches_what_it_can(monkeypatch):
    monkeypatch.setattr(core, "SECONDS", 0.1)
    caught = []

    def stubborn(x):
        while True:
            try:
                while True:
                    pass
            except:  # noqa: E722
                caught.append(1)
                if len(caught) > 1:
                    raise

    def plain(x):
        while True:
            pass

    for answer in (plain, stubborn):
        assert verdict(answer) == "not yet: stopped after 0.1 seconds of work. Is there a loop that never ends?"
    assert len(caught) == 2
    assert verdict(lambda x: 2 * x) == "passed"  # and the limit does not outlive the check


@pytest.mark.parametrize(
    ("got", "message"),
    [
        ([1.0, 2.0, 3.0], "x: an array of shape (3,) was expected, a list came back."),
        ("1 2 3", "x: an array of shape (3,) was expected, a str came back."),
        (5.0, "x: a single number came back, an array of shape (3,) was expected."),
        (NUMBERS[:, None], "x: shape (3, 1) came back, an array of shape (3,) was expected."),
        (np.array([1, 2, 3]), "x: int64 came back, floating-point numbers were expected."),
        (NUMBERS > 1, "x: bool came back, floating-point numbers were expected."),
        (NUMBERS * 1j, "x: complex128 came back, floating-point numbers were expected."),
        (np.array([1.0, np.nan, 3.0]), "x gave nan. Look at the logarithm."),
        (np.array([1.0, np.inf, 3.0]), "x gave infinity. Look at the logarithm."),
        (NUMBERS[::-1], "x: expected [1, 2, 3], got [3, 2, 1]. Turned round?"),
        (NUMBERS.sum(), "x: a single number came back, an array of shape (3,) was expected. Why the sum?"),
        (np.array([1.0, 2.0, 3.0004]), "x: expected [1, 2, 3], got [1, 2, 3.0004]."),
    ],
)
def test_compare_says_what_came_and_what_was_expected(got, message):
    mistakes = {"Turned round?": NUMBERS[::-1], "Why the sum?": 6.0}
    with pytest.raises(Wrong) as error:
        compare(got, NUMBERS, "x", mistakes=mistakes, nan="Look at the logarithm.")
    assert str(error.value) == message


def test_compare_of_many_numbers_shows_the_first_that_is_wrong():
    got = np.zeros((4, 4))
    got[2, 1], got[3, 3] = 0.5, 7
    with pytest.raises(Wrong, match=r"x: expected 0 at \[2, 1\], got 0.5\."):
        compare(got, np.zeros((4, 4)), "x")


@pytest.mark.parametrize(
    ("got", "want"),
    [(jnp.float32(2), 2.0), (2.0, 2.0), (2, 2.0), (jnp.bfloat16(2), 2.0), (jnp.arange(3), np.arange(3)),
     (np.uint8(3), 3), (True, True)],
)  # fmt: skip
def test_compare_takes_whatever_is_that_number(got, want):
    compare(got, want, "x")


def test_compare_of_nothing_is_a_missing_return():
    with pytest.raises(core.Failed, match="x: nothing came back"):
        compare(None, 1.0, "x")


@pytest.mark.parametrize(
    ("got", "want", "message"),
    [
        ("mse", "both", "'mse' is not what happens. Which has no ceiling?"),
        ("MSE", "both", "'MSE' is none of the choices: 'both', 'mse'."),
        (3, "both", "3 came, a word was expected, such as 'mse'."),
        ([3, 8], (8, 3), "(3, 8) is not what happens. Run it in a cell of your own and look."),
    ],
)
def test_choose_answers_a_wrong_prediction(got, want, message):
    with pytest.raises(Wrong) as error:
        choose(got, want, {"mse": "Which has no ceiling?"})
    assert str(error.value) == message
    choose(want, want, {})


def test_a_check_prints_one_line_whatever_the_answer_prints_and_warns(capfd, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", "off")

    def chatty(x):
        print("here", x)
        print("there", file=sys.stderr)
        warnings.warn("careful", stacklevel=1)
        return 2 * x + np.log(np.zeros(1)) * 0

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert double(chatty) is None
        double(lambda x: 2 * x)
    assert capfd.readouterr() == ("not yet: three numbers gave nan.\npassed\n", "")


def test_a_message_is_the_same_at_every_run():
    assert verdict(lambda x: x * x) == verdict(lambda x: x * x)
    assert "That is the square." in verdict(lambda x: x * x)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    path = tmp_path / "new folder" / "progress.json"
    monkeypatch.setenv("COURSE_PROGRESS", str(path))
    return path


def test_progress_is_kept_and_what_was_passed_stays_passed(kept):
    double(stub)
    assert not kept.exists() and progress.load() == {}
    double(lambda x: x)
    assert progress.load()["1.9"]["status"] == "not yet"
    assert progress.load()["1.9"]["message"].startswith("not yet: three numbers: expected")
    progress.record("2.1", "other", "passed")
    double(lambda x: 2 * x)
    double(lambda x: x)
    both = {"1.9": {"name": "double", "status": "passed"}, "2.1": {"name": "other", "status": "passed"}}
    assert json.loads(kept.read_text(encoding="utf-8")) == progress.load() == both


@pytest.mark.parametrize("content", ["{", "[]", '{"1.9": 3}', b"\xff"])
def test_a_progress_file_that_cannot_be_read_is_begun_anew(kept, content):
    kept.parent.mkdir()
    kept.write_bytes(content if isinstance(content, bytes) else content.encode())
    double(lambda x: 2 * x)
    assert progress.load() == {"1.9": {"name": "double", "status": "passed"}}


def test_a_check_passes_where_its_progress_cannot_be_kept(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "file" / "progress.json"))
    double(lambda x: 2 * x)
    assert capsys.readouterr().out == "passed (This could not be saved for `course progress`.)\n"


def test_nothing_is_kept_where_progress_is_off_as_it_is_for_built_and_tested_notebooks(monkeypatch):
    assert kernel_env(ROOT)["COURSE_PROGRESS"] == "off"
    monkeypatch.setenv("COURSE_PROGRESS", "off")
    assert progress.progress_file() is None
    assert progress.record("1.9", "double", "passed") and progress.load() == {}


def test_progress_lies_in_the_users_data_folder(monkeypatch):
    monkeypatch.delenv("COURSE_PROGRESS", raising=False)
    assert progress.progress_file().parts[-2:] == ("loss-to-bert", "progress.json")


def test_all_exercises_are_listed_in_order():
    listed = exercises()
    numbers = [tuple(int(part) for part in exercise.number.split(".")) for exercise in listed]
    assert numbers == sorted(set(numbers)) and (1, 3) in numbers
    assert len({exercise.name for exercise in listed}) == len(listed)
    assert all(exercise.minutes > 0 and exercise.difficulty in (1, 2, 3) for exercise in listed)
    assert next(exercise for exercise in listed if exercise.number == "1.3").lesson == "01"
