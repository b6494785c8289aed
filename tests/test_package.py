"""The course as an installed package, away from its clone, as on Colab: the wheel must hold what the lessons need."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UV = [Path(sys.executable).with_name("uv"), "--offline", "--quiet"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what `make wheel` makes, installed. What it depends on comes from this environment."""
    folder = tmp_path_factory.mktemp("elsewhere")
    subprocess.run(
        [*UV, "build", "--wheel", "--no-build-isolation", "--out-dir", folder / "dist", ROOT], check=True, timeout=120
    )
    (wheel,) = (folder / "dist").glob("loss_to_bert-*.whl")
    site = folder / "site"
    subprocess.run(
        [*UV, "pip", "install", "--python", sys.executable, "--no-deps", "--target", site, wheel],
        check=True,
        timeout=120,
    )
    return site


def test_it_holds_every_file_of_the_course_lib(installed):
    files = (path for path in (ROOT / "course_lib").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    names = {path.relative_to(ROOT).as_posix() for path in files}
    assert len(names) > 50 and not {name for name in names if not (installed / name).is_file()}


@pytest.mark.parametrize("lesson", ["07_text_to_tensors", "12_evaluate_explain"])
def test_a_notebook_runs_outside_the_clone(installed, tmp_path, lesson):
    source = (ROOT / "lessons" / f"{lesson}_exercises.py").read_text("utf-8")
    (tmp_path / "page.py").write_text(source + "\nimport course_lib\nprint(course_lib.__file__)\n", "utf-8")
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(installed), os.environ["PYTHONPATH"]]),
        "COURSE_PROGRESS": "off",
    }
    page = subprocess.run(
        [sys.executable, "-P", "page.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert page.returncode == 0, page.stderr[-1000:]
    *said, where = page.stdout.splitlines()
    assert Path(where).is_relative_to(installed)
    assert sum(line.startswith("passed") for line in said) >= 4


def test_no_lesson_reads_a_file_of_the_clone():
    for path in (ROOT / "lessons").glob("*.py"):
        code = "\n".join(line for line in path.read_text("utf-8").splitlines() if not line.startswith("#"))
        assert not re.search(r"""["'](\.\./|lessons/|notebooks/|course_lib/|tests/)""", code), path.name
