"""The script `course`: the command line, in a process that keeps arrays in large pages of memory where it can."""

import os
import sys
from pathlib import Path

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")  # Linux has it


def large_pages() -> dict[str, str]:
    """Environment variables for processes that are yet to start: memory in pages of 2 MiB where Linux has 4 KiB.

    A training step of BERT asks for a gigabyte and gives it back, and pays for each page with a fault;
    benchmarks/step.md has what that costs. Empty where Linux does not leave it to the program, where its large pages
    are larger (512 MiB on some ARM machines), and where GLIBC_TUNABLES is set, to this or to something else.
    """
    if "GLIBC_TUNABLES" in os.environ:
        return {}
    try:
        asks_the_program = "[madvise]" in (LARGE_PAGES / "enabled").read_text()
        size = int((LARGE_PAGES / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return {}
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if asks_the_program and size == 2**21 else {}


def main() -> None:
    # The C library reads them once, when a process starts: start again. The -X option, which Python passes over, says
    # that this was done, should the variables get lost on the way. A debugger would lose its breakpoints.
    if "large_pages" not in sys._xoptions and sys.gettrace() is None and (variables := large_pages()):
        os.environ |= variables
        os.execv(sys.executable, [sys.executable, "-X", "large_pages", *sys.orig_argv[1:]])
    from course_lib.cli import main

    main()
