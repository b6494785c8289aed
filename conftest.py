"""Two promises for every test: the network is off, and a notebook is run as it was built.

`pytest --nbval` runs each notebook's cells and compares what they give with what is stored. nbval 0.11 needs help in
three places. Its kernel must be the one that built the outputs (same environment, and cells entered into the history,
without which IPython does not honour a trailing `;`). A cell without stored outputs compares nothing and passes, and so
does a notebook without cells: both must fail.
"""

import os
import runpy
import subprocess
import time
from pathlib import Path

import nbformat
import nbval.plugin
import psutil
import pytest
from nbval.kernel import RunningKernel, start_new_kernel

from course_lib.cache import compile_cache_variables
from course_lib.notebook_build import kernel_env
from course_lib.start import large_pages

ROOT = Path(__file__).resolve().parent
STARTED = time.perf_counter()

runpy.run_path(str(ROOT / "tests" / "offline" / "sitecustomize.py"))  # this process
os.environ["PYTHONPATH"] = kernel_env(ROOT)["PYTHONPATH"]  # those that tests start
os.environ |= compile_cache_variables()  # most programs are needed by many tests
os.environ |= large_pages()  # as `course lab` and `course build` have it

if hasattr(os, "sched_setaffinity") and "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker, and what it starts, on cores of its own, so that none waits for threads of another.
    number, workers = int(os.environ["PYTEST_XDIST_WORKER"][2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[number % workers :: workers] or cores)


class Kernel(RunningKernel):
    def __init__(self, kernel_name, cwd=None, startup_timeout=60):
        self.started = time.perf_counter()
        self.km, self.kc = start_new_kernel(
            startup_timeout, kernel_name, cwd=cwd, env=kernel_env(ROOT), stderr=subprocess.DEVNULL
        )
        self._ensure_iopub_up()

    def execute_cell_input(self, cell_input, allow_stdin=None):
        return self.kc.execute(cell_input, store_history=True, allow_stdin=allow_stdin, stop_on_error=False)


nbval.plugin.RunningKernel = Kernel


def pytest_collect_file(file_path, parent):
    """Beside the cells that nbval collects, one test a notebook that there is something to compare."""
    if parent.config.option.nbval and file_path.suffix == ".ipynb":
        return StoredOutputs.from_parent(parent, path=file_path)


def pytest_collection_modifyitems(items):
    """Lesson 11 comes first: it trains the model that 12 to 14 use, and whoever comes before it trains its own."""
    items.sort(key=lambda item: item.path.name != "11_finetune_bert.ipynb")


class StoredOutputs(pytest.File):
    def collect(self):
        yield EveryCellWasExecuted.from_parent(self, name="every cell was executed")


class EveryCellWasExecuted(pytest.Item):
    def runtest(self):
        cells = nbformat.read(self.path, as_version=4).cells
        code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
        if not code:
            pytest.fail(f"{self.path.name} has no code cells: it tests nothing.", pytrace=False)
        names = "; ".join(cell.source.splitlines()[0] for cell in code if cell.execution_count is None)
        if names:
            pytest.fail(f"{self.path.name} has cells that were never executed: {names}", pytrace=False)


# What each notebook took: measured where it ran, carried by its last cell's report (also from another process, under
# xdist), shown as a table at the end and kept for `make bench`, which puts it into the README.


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item, nextitem):
    kernel = getattr(item.parent, "kernel", None)
    if kernel is not None and (nextitem is None or nextitem.parent is not item.parent):
        seconds = time.perf_counter() - kernel.started
        row = (
            item.path.relative_to(item.config.rootpath).as_posix(),
            seconds,
            _peak_memory(kernel.km.provisioner.process.pid),
        )
        item.user_properties.append(("notebook", row))


def _peak_memory(pid: int) -> float:
    """GiB; where the system does not tell the highest, the present one."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**20
    return psutil.Process(pid).memory_info().rss / 2**30


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    reports = [
        report for group in terminalreporter.stats.values() for report in group if hasattr(report, "user_properties")
    ]
    rows = sorted({tuple(row) for report in reports for name, row in report.user_properties if name == "notebook"})
    if rows:
        # The README tells of the whole suite: a part of it, or one that failed, is not kept.
        everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword
        if everything and not exitstatus and hasattr(config, "cache"):  # `-p no:cacheprovider` takes it away
            config.cache.set("course/notebooks", rows)
            passed = len(terminalreporter.stats.get("passed", []))
            config.cache.set("course/suite", {"tests": passed, "seconds": time.perf_counter() - STARTED})
        terminalreporter.section("what each notebook took")
        for path, seconds, memory in rows:
            terminalreporter.line(f"{path:50} {seconds:5.0f} s {memory:6.2f} GiB")
