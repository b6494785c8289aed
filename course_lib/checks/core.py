"""What every exercise check is made of.

    @exercise("1.3", minutes=8, difficulty=2)
    def softmax_cross_entropy(answer, rng):
        logits, labels = rng.normal(size=(5, 3)), rng.integers(3, size=5)
        want = ...  # in NumPy float64, by finite differences or from a library: never by the course's own answer
        compare(answer(logits, labels), want, "batch of 5", mistakes={"Sum or mean over the batch?": 5 * want})

The check gets the learner's answer, or several, and a generator that is seeded from its name: inputs that the learner
has not seen, and messages that are the same at every run. It raises `Wrong`; that, what the learner's code raises,
an endless loop and an untouched stub all become one `Verdict`. No traceback leaves this file.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import io
import pkgutil
import signal
import textwrap
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import course_lib.checks
from course_lib.checks import progress

SECONDS = 10  # of work; a check takes well under one


class Wrong(Exception):
    """The answer is wrong: what input, what was expected, what came, and the likely misconception."""


class Failed(Exception):
    """The learner's code raised something or gave nothing: wrong, or a stub that is not filled in yet."""


class _TimeUp(BaseException):  # not an Exception: the learner's own `except Exception` must not catch it
    pass


@dataclass(frozen=True)
class Verdict:
    status: str  # "passed", "not yet" or "not attempted"
    message: str  # what the learner reads


@dataclass(frozen=True)
class Exercise:
    """A check with what is known about its exercise. Call it with the learner's answer."""

    number: str  # "1.3"
    name: str
    minutes: int
    difficulty: int  # 1 to 3
    check: Callable[..., None]

    @property
    def lesson(self) -> str:
        return self.number.partition(".")[0].zfill(2)

    def __call__(self, *answers: Any) -> None:
        """Print the verdict and keep it; what the cell shows is one line."""
        verdict = self.judge(*answers)
        kept = verdict.status == "not attempted" or progress.record(
            self.number, self.name, verdict.status, verdict.message
        )
        print(verdict.message if kept else f"{verdict.message} (This could not be saved for `course progress`.)")

    def judge(self, *answers: Any) -> Verdict:
        """The verdict on the learner's answers. Nothing is printed or kept, and only Ctrl-C gets through."""
        *takes, _ = inspect.signature(self.check).parameters
        if len(answers) != len(takes):
            return _not_yet(f"the check takes {', '.join(takes)}; {len(answers)} came. Restore its line as it was.")
        if any(is_empty(answer) for answer in answers):
            return NOT_ATTEMPTED
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        try:
            with _quiet(), _time_limit():
                self.check(*(_guard(answer) for answer in answers), rng)
        except Wrong as wrong:
            return _not_yet(wrong)
        except _TimeUp:
            return _not_yet(f"stopped after {SECONDS} seconds of work. Is there a loop that never ends?")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, too
            if _is_not_implemented(error) or any(_has_placeholder(answer) for answer in answers):
                return NOT_ATTEMPTED
            called = "is not callable" in str(error) and not all(map(callable, answers))
            hint = " Hand in the function itself, not what it returns." if called else ""
            return _not_yet(error if isinstance(error, Failed) else _describe_error(error) + hint)
        return Verdict("passed", "passed")


def _not_yet(why: object) -> Verdict:
    return Verdict("not yet", f"not yet: {why}")


NOT_ATTEMPTED = Verdict("not attempted", "not attempted yet")
_registry: dict[str, Exercise] = {}


def exercise(number: str, *, minutes: int, difficulty: int) -> Callable[[Callable[..., None]], Exercise]:
    """Makes a check of the function below it, named as that is, and lists it. Difficulty 1, 2, 3 is ●○○, ●●○, ●●●."""

    def register(check: Callable[..., None]) -> Exercise:
        _registry[number] = Exercise(number, check.__name__, minutes, difficulty, check)
        return _registry[number]

    return register


def exercises() -> list[Exercise]:
    """All exercises of the course, in order."""
    for module in pkgutil.iter_modules(course_lib.checks.__path__):
        importlib.import_module(f"{course_lib.checks.__name__}.{module.name}")
    return sorted(_registry.values(), key=lambda exercise: [int(part) for part in exercise.number.split(".")])


def is_empty(answer: Any) -> bool:
    """None, `...`, or a container in which a `...` is left."""
    if isinstance(answer, (tuple, list, dict)):
        parts = answer.values() if isinstance(answer, dict) else answer
        return any(part is not None and is_empty(part) for part in parts)
    return answer is None or answer is Ellipsis


def _guard(answer: Any) -> Any:
    """The learner's function; what it raises, or that it returns nothing, is told with the shapes it was given."""
    if not callable(answer) or inspect.isclass(answer) or not hasattr(answer, "__name__"):
        return answer  # a value, a class, a module: their errors are told without the arguments

    @functools.wraps(answer)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        given = ", ".join([*map(_describe, args), *(f"{key}={_describe(value)}" for key, value in kwargs.items())])
        try:
            result = answer(*args, **kwargs)
        except Exception as error:
            raise Failed(f"{answer.__name__}({given}) {_describe_error(error)}") from error
        if is_empty(result):
            raise Failed(f"{answer.__name__}({given}) returned nothing. Is a `return` missing?")
        return result

    return guarded


def _describe(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    return repr(value) if isinstance(value, (bool, int, float, str)) else type(value).__name__


def _describe_error(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"raised {type(error).__name__}{f': {lines[0][:200]}' if lines else ''}".rstrip(".") + "."


def _is_not_implemented(error: BaseException) -> bool:
    return isinstance(error, NotImplementedError) or isinstance(error.__cause__, NotImplementedError)


def _has_placeholder(answer: Any) -> bool:
    """Whether a `...` is left in the source. The one in `x[..., 0]` is not a placeholder."""
    functions = [answer, *vars(answer).values()] if inspect.isclass(answer) else [inspect.unwrap(answer)]
    for function in filter(inspect.isfunction, functions):
        try:
            nodes = [ast.parse(textwrap.dedent(inspect.getsource(function)))]
        except (OSError, SyntaxError):  # typed at a prompt, or a lambda in the middle of an expression
            continue
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.Constant) and node.value is Ellipsis:
                return True
            nodes += [node.value] if isinstance(node, ast.Subscript) else ast.iter_child_nodes(node)
    return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A check calls the function many times: its prints and warnings would bury the verdict."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Ends an endless loop, where the system can interrupt one (not on Windows, not outside the main thread).

    It counts the process's own seconds of work, not the clock's: on a busy machine nobody's answer is stopped for that.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS, 1)  # and every second after: a bare `except:` swallows the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
