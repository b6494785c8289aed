"""The script `course` begins again with large pages where that helps, once, with the same arguments."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from course_lib import cli, start

COURSE = str(Path(sys.executable).with_name("course"))
ASKED_FOR = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@pytest.fixture
def linux(tmp_path, monkeypatch):
    """What Linux says of large pages, to be written by the test."""
    monkeypatch.setattr(start, "LARGE_PAGES", tmp_path)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)

    def says(enabled: str, size: int | str = 2**21) -> None:
        (tmp_path / "enabled").write_text(f"{enabled}\n")
        (tmp_path / "hpage_pmd_size").write_text(f"{size}\n")

    return says


@pytest.mark.parametrize(
    ("said", "variables"),
    [
        (("always [madvise] never",), ASKED_FOR),
        (("[always] madvise never",), {}),
        (("always madvise [never]",), {}),
        (("always [madvise] never", 2**29), {}),
        (("always [madvise] never", "?"), {}),
    ],
)
def test_large_pages_are_asked_for_where_linux_leaves_it_to_the_program(linux, said, variables):
    linux(*said)
    assert start.large_pages() == variables


def test_elsewhere_and_beside_other_tunables_nothing_is_asked_for(linux, monkeypatch):
    assert start.large_pages() == {}
    linux("always [madvise] never")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    assert start.large_pages() == {}


def test_the_script_begins_again_once_with_the_same_arguments(linux, monkeypatch):
    linux("always [madvise] never")
    began, ran = [], []

    def begin_again(program, arguments):
        began.append((program, arguments, os.environ["GLIBC_TUNABLES"]))
        raise SystemExit

    monkeypatch.setattr(os, "execv", begin_again)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-X", "utf8", "/bin/course", "predict", "a b"])
    monkeypatch.setattr(cli, "main", lambda: ran.append(True))
    with pytest.raises(SystemExit):
        start.main()
    again = [sys.executable, "-X", "large_pages", "-X", "utf8", "/bin/course", "predict", "a b"]
    assert began == [(sys.executable, again, "glibc.malloc.hugetlb=1")] and not ran
    start.main()
    assert len(began) == 1 and len(ran) == 1
    del os.environ["GLIBC_TUNABLES"]  # a program with rights of its own loses it
    monkeypatch.setattr(sys, "_xoptions", {"large_pages": True})
    start.main()
    assert len(began) == 1 and len(ran) == 2


def test_under_a_debugger_the_script_goes_on(linux, monkeypatch):
    linux("always [madvise] never")
    ran = []
    monkeypatch.setattr(os, "execv", lambda *again: pytest.fail("the breakpoints are lost"))
    monkeypatch.setattr(sys, "gettrace", lambda: print)
    monkeypatch.setattr(cli, "main", lambda: ran.append(True))
    start.main()
    assert ran


def test_the_real_script_keeps_its_arguments_its_streams_and_its_exit_code():
    [script] = entry_points(group="console_scripts", name="course")
    assert script.value == "course_lib.start:main"
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    ran = subprocess.run([COURSE, "predict", "not there", "a text"], env=env, capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stdout == "" and ran.stderr.startswith("error: not there")
