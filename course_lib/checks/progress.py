"""What the learner has done: one small JSON file, written whenever a check has something new to say.

    {"1.3": {"name": "softmax_cross_entropy", "status": "passed"},
     "1.4": {"name": "fix_bce", "status": "not yet", "message": "…"}}

An exercise once passed stays passed. COURSE_PROGRESS names another file, or is `off` where nothing may be kept: while
notebooks are built and tested.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from course_lib import CourseError
from course_lib.files import write_text


def progress_file() -> Path | None:
    """COURSE_PROGRESS where that is set (None for `off`), else a file in the system's folder for the user's data."""
    import platformdirs

    chosen = os.environ.get("COURSE_PROGRESS")
    if chosen:
        return None if chosen == "off" else Path(chosen).expanduser().absolute()
    return Path(platformdirs.user_data_dir("loss-to-bert")) / "progress.json"


def load() -> dict[str, dict[str, str]]:
    """Exercise number → what is known of it. Empty where there is no file, or none that can be read."""
    path = progress_file()
    try:
        entries = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {number: entry for number, entry in entries.items() if isinstance(entry, dict)}


def record(number: str, name: str, status: str, message: str = "") -> bool:
    """Keep a verdict. Never raises; False if it should have been kept and could not be."""
    path = progress_file()
    entries = load()
    if path is None or entries.get(number, {}).get("status") == "passed":
        return True
    entry = {"name": name, "status": status} | ({"message": message} if status != "passed" else {})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(entries | {number: entry}, indent=1, ensure_ascii=False) + "\n")
    except (OSError, CourseError):
        return False
    return True
