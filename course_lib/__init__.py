"""The helper package of the course "Loss to BERT". Importing it imports nothing heavy; its modules hold the rest."""

import os
import re

# For JAX, if it comes later. Up to 0.10 it logs two long lines for each program that it finds compiled on disk (on a
# CPU), about tunings of its compiler; what goes wrong comes as an exception in any case.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# What drives a terminal, ends a line of a log or turns the text beside it round, and halves of characters, which
# cannot be written at all. Not the joiners, which Persian words and some emoji need.
UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")


class CourseError(Exception):
    """Something that the person at the keyboard can put right: one line that says what, where and what to do.

    The message may quote files and names of any kind: it is kept to one line and 2,000 characters here.
    """

    def __init__(self, message: str):
        super().__init__(shown(message, 2_000))


def shown(text: object, most: int) -> str:
    """`text` on one line of at most `most` characters: control characters and the like as \\x1b, the middle as …."""
    line = UNSHOWABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))
    tail = most // 10  # an error says at its end what to do
    return line if len(line) <= most else f"{line[: most - tail - 1]}…{line[len(line) - tail :]}"


def one_line(error: Exception | str) -> str:
    """Its first line, at most 200 characters; its type's name where it says nothing. For use in a CourseError."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
