"""The environment of what this course is measured against: PyTorch, transformers and the load generator Locust.

It is made once, under the course's cache, and never mixed with the course's own.
"""

import os
import subprocess
import venv
from pathlib import Path

from course_lib.cache import cache_folder

FOLDER = cache_folder() / "benchmark-peers"
TORCH = "torch==2.13.0"


def peers_python(folder: Path = FOLDER) -> Path:
    """The Python of that environment; some minutes where it has to be made first."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / "ready").exists():
        print(f"making {folder} with {TORCH}, transformers and locust")
        venv.create(folder, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, TORCH], check=True)
        subprocess.run(
            [*install, "transformers>=5", "accelerate", "starlette", "uvicorn", "uvloop", "locust"], check=True
        )
        (folder / "ready").touch()
    return python


def peers_versions(python: Path) -> str:
    """Its versions, in words."""
    program = "import torch, transformers as t; print(f'torch {torch.__version__}, transformers {t.__version__}')"
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
