"""Write a file in full or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from course_lib import CourseError


def write_text(path: Path, content: str) -> None:
    """UTF-8, written beside its final name and then renamed; raises CourseError, the old file being as it was."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(content, encoding="utf-8", newline="\n")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CourseError(
            f"{path}: could not be written ({error.strerror}); what was there before is unchanged"
        ) from error
