"""The helper package of the course "Loss to BERT". Importing it imports nothing heavy; its modules hold the rest."""


class CourseError(Exception):
    """Something that the person at the keyboard can put right: one line that says what, where and what to do."""


def one_line(error: Exception | str) -> str:
    """Its first line, at most 200 characters; its type's name where it says nothing. For use in a CourseError."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
