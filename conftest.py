"""Two promises for every test: the network is off, and a notebook is run as it was built.

`pytest --nbval` runs each notebook's cells and compares what they give with what is stored. nbval 0.11 needs help in
three places. Its kernel must be the one that built the outputs (same environment, and cells entered into the history,
without which IPython does not honour a trailing `;`). A cell without stored outputs compares nothing and passes, and so
does a notebook without cells: both must fail.
"""

import os
import runpy
import subprocess
from pathlib import Path

import nbformat
import nbval.plugin
import pytest
from nbval.kernel import RunningKernel, start_new_kernel

from course_lib.notebook_build import kernel_env

ROOT = Path(__file__).resolve().parent

runpy.run_path(str(ROOT / "tests" / "offline" / "sitecustomize.py"))  # this process
os.environ["PYTHONPATH"] = kernel_env(ROOT)["PYTHONPATH"]  # those that tests start


class Kernel(RunningKernel):
    def __init__(self, kernel_name, cwd=None, startup_timeout=60):
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
