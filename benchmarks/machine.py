"""What a table was measured on, in words."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """Cores, processor where the system tells it, architecture and system."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    named = f" of {names[0]}" if names else ""
    return f"{os.cpu_count()} cores{named} ({platform.machine()}, {platform.system()})"
