"""Write a file in full or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from course_lib import CourseError


def check_target(path: Path) -> None:
    """CourseError where `write_text` could not write `path`, as far as that shows before: ask it before long work."""
    if os.path.isdir(path):
        raise CourseError(f"{path}: could not be written: it is a folder; give the name of a file in it")
    if not os.path.isdir(path.parent):
        raise CourseError(f"{path}: could not be written: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise CourseError(f"{path}: could not be written: nothing may be put into {path.parent}; choose another folder")


def write_text(path: Path, content: str) -> None:
    """UTF-8, written beside its final name and then renamed; raises CourseError, the old file being as it was."""
    check_target(path)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(content, encoding="utf-8", newline="\n")
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise CourseError(
            f"{path}: could not be written ({error.strerror}); what was there before is unchanged"
        ) from error
