"""How a check holds what came against what was expected, and names the mistake where it knows it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from course_lib.checks.core import Failed, Wrong, is_empty

KINDS = {"f": "floating-point numbers", "i": "integers", "b": "True or False"}


def compare(
    got: Any,
    want: Any,
    given: str,
    *,
    mistakes: Mapping[str, Any] | None = None,
    nan: str = "",
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> None:
    """Raise Wrong unless `got` is `want` in type, shape, kind of number and value.

    Args:
        want: a number or array; its shape and its kind (float, integer, bool) are asked for as well.
        given: the input in words, as the message begins: "batch of 4".
        mistakes: hint → what someone who makes this mistake would get, in whatever shape. The first that fits is named.
        nan: the hint where nan or infinity came back.
    """
    want = np.asarray(want)
    if is_empty(got):
        raise Failed(f"{given}: nothing came back. Is a `return` missing?")
    if not isinstance(got, (bool, int, float, complex)) and not (hasattr(got, "dtype") and hasattr(got, "shape")):
        raise Wrong(f"{given}: {_kind(want)} was expected, a {type(got).__name__} came back.")
    value = np.asarray(got)
    if value.dtype.kind == "V":  # bfloat16 is no number to NumPy
        value = value.astype(np.float32)

    def close(other: Any) -> bool:
        other = np.asarray(other)
        return value.shape == other.shape and np.allclose(value, other, rtol, atol)

    same = value.dtype.kind in "biuf" and close(want)
    hint = "" if same else next((f" {hint}" for hint, other in (mistakes or {}).items() if close(other)), "")
    if value.shape != want.shape:
        shape = "a single number" if value.ndim == 0 else f"shape {value.shape}"
        raise Wrong(f"{given}: {shape} came back, {_kind(want)} was expected.{hint}")
    kind = value.dtype.kind.replace("u", "i")
    if kind != want.dtype.kind and type(got) is not int:  # Python's own 0 may stand for 0.0
        came = getattr(got, "dtype", type(got).__name__)
        raise Wrong(f"{given}: {came} came back, {KINDS[want.dtype.kind]} were expected.{hint}")
    if not np.isfinite(value).all():
        raise Wrong(f"{given} gave {'nan' if np.isnan(value).any() else 'infinity'}. {nan}".rstrip())
    if same:
        return
    at, expected, came = "", want, value
    if want.size > 6:  # too many to show: the first that is wrong
        index = tuple(np.argwhere(~np.isclose(value, want, rtol, atol))[0].tolist())
        at, expected, came = f" at {list(index)}", want[index], value[index]
    digits = 4 if _show(expected, 4) != _show(came, 4) else 8
    raise Wrong(f"{given}: expected {_show(expected, digits)}{at}, got {_show(came, digits)}.{hint}")


def choose(got: Any, want: Any, because: Mapping[Any, str]) -> None:
    """For a prediction with few possible answers: raise Wrong unless `got` is `want`.

    Args:
        want: a string, a whole number, a bool, or a tuple of those, such as a shape.
        because: the wrong answers people give → what to think about. Strings outside it are told what they may be.
    """
    got = tuple(got) if isinstance(got, list) else got
    if type(want) is int and isinstance(got, np.number) and np.isfinite(got) and got == int(got):
        got = int(got)  # such as np.int64(3), or 4 * np.ceil(0.7)
    if type(got) is not type(want):
        asked = {str: "a word", int: "a whole number", bool: "True or False", tuple: "a tuple"}[type(want)]
        example = next(other for other in because if other != want)
        raise Wrong(f"{got!r} came, {asked} was expected, such as {example!r}.")
    if got == want:
        return
    if isinstance(want, str) and got not in because:
        raise Wrong(f"{got!r} is none of the choices: {', '.join(map(repr, sorted([want, *because])))}.")
    raise Wrong(f"{got!r} is not what happens. {because.get(got, 'Run it in a cell of your own and look.')}")


def guess(got: Any, want: Any, given: str, because: Mapping[str, Any], *, atol: float) -> None:
    """For a prediction in numbers: raise Wrong unless `got` is within `atol` of `want`, and do not say what that is.

    Args:
        want: a number or an array.
        given: what was to be predicted, as the message begins.
        because: why a wrong answer is tempting, and what to look at → that answer.
    """
    value, shape = np.asarray(got), np.shape(want)
    if value.dtype.kind not in "iuf" or value.shape != shape:
        asked = f"{shape[0]} numbers were" if shape else "a single number was"
        came = f"{value.size} came" if value.dtype.kind in "iuf" else f"{got!r} came"
        raise Wrong(f"{given}: {asked} expected, {came}.")

    def near(other: Any, atol: float) -> bool:
        return np.shape(other) == shape and np.allclose(value, other, rtol=0, atol=atol)

    if not near(want, atol):
        shown = ", ".join(f"{number:.4g}" for number in value.ravel())
        known = (hint for hint, other in because.items() if near(other, 2 * atol))
        raise Wrong(f"{given}: not {shown}. {next(known, 'The hints lead to it, step by step.')}")


@contextlib.contextmanager
def hinted(hint: str, errors: type[Exception] | tuple[type[Exception], ...]) -> Iterator[None]:
    """Adds `hint` to the message, where the learner's function raised one of `errors`."""
    try:
        yield
    except Failed as failed:
        if isinstance(failed.__cause__, errors):
            raise Wrong(f"{failed} {hint}") from failed
        raise


def _show(value: Any, digits: int) -> str:
    if np.ndim(value):
        return "[" + ", ".join(_show(entry, digits) for entry in value) + "]"
    return f"{value + 0.0:.{digits}g}" if np.asarray(value).dtype.kind == "f" else str(value)


def _kind(want: np.ndarray) -> str:
    return f"an array of shape {want.shape}" if want.ndim else "a single number"
