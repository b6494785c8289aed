"""What `course doctor` looks at: this machine and this installation, each finding with advice that can be typed."""

from __future__ import annotations

import importlib.util
import math
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from course_lib.cache import cache_folder

Finding = tuple[bool, str, str]  # what follows the name in a Check


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    found: str
    advice: str  # one line, to be followed where not `ok`


def run_checks(root: Path) -> Iterable[Check]:
    """All of CHECKS, each as soon as it is done. `root` is the course's clone. Raises nothing, fetches nothing."""
    for name, check in CHECKS.items():
        try:
            finding = check(root)
        except Exception as error:  # a broken import, above all
            finding = False, f"could not check: {type(error).__name__}: {_last_line(str(error))}", _repair(root)
        yield Check(name, *finding)


def check_python(root: Path) -> Finding:
    found = f"{'.'.join(map(str, sys.version_info[:3]))} at {sys.executable} (needed: 3.11 to 3.13)"
    advice = f"install Python 3.13, then: cd {shlex.quote(str(root))} && rm -rf .venv && make lab PYTHON=python3.13"
    return (3, 11) <= sys.version_info[:2] <= (3, 13), found, advice


def check_versions(root: Path) -> Finding:
    from packaging.requirements import Requirement

    lock = root / "requirements.lock"  # lines `name==version ; marker \`, each followed by indented hashes
    lines = lock.read_text("utf-8").splitlines() if lock.is_file() else metadata.requires("loss-to-bert") or []
    needs = [Requirement(line.rstrip("\\")) for line in lines if line[:1].isalnum()]
    needs = [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    wrong = {}  # requirement, as pip takes it → what is wrong
    for need in needs:
        have = next((found.version for found in metadata.distributions(name=need.name)), None)
        if have is None or not need.specifier.contains(have, prereleases=True):  # None: half installed, too
            wrong[f"{need.name}{need.specifier}"] = f"{need.name} {have or 'missing'} (needed: {need.specifier or 'any'})"
    advice = _install("--require-hashes", "-r", _short(lock)) if lock.is_file() else _install(*wrong)
    return not wrong, ", ".join(wrong.values()) or f"{len(needs)} packages as needed", advice


def check_device(root: Path) -> Finding:
    # In a process of its own: a bad driver can end the process that asks it, or keep it waiting for ever.
    command = [sys.executable, "-P", "-c", "from course_lib.doctor import probe_devices; probe_devices()"]
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_TRACEBACK_FILTERING": "off"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return False, "no answer from JAX within 120 s", "end other programs that use the GPU or TPU, then try again"
    if done.returncode:
        reason = _last_line(done.stderr) or f"exit code {done.returncode}"
        return False, f"JAX: {reason}", "unset JAX_PLATFORMS" if "JAX_PLATFORMS" in reason else _repair(root)
    platform, devices = done.stdout.splitlines()[-2:]
    smi = shutil.which("nvidia-smi")
    gpus = subprocess.run([smi, "-L"], capture_output=True, text=True, timeout=30).stdout if smi else ""
    if platform == "cpu" and gpus.startswith("GPU"):
        return False, f"{devices}; not seen by JAX: {gpus.split(' (UUID')[0]}", _gpu_advice(root)
    return True, f"{devices}; a jitted computation agrees with NumPy", ""


def probe_devices() -> None:
    """Print the platform, then what JAX computes on. Raises ValueError where a result is not the one of NumPy."""
    import jax
    import numpy as np

    matrix = np.arange(64, dtype=np.float32).reshape(8, 8) % 7  # small whole numbers: exact in TF32 and bf16, too
    for device in jax.devices():
        if not np.array_equal(jax.jit(lambda m: m @ m.T)(jax.device_put(matrix, device)), matrix @ matrix.T):
            raise ValueError(f"a jitted computation on {device} disagrees with NumPy")
    print(f"{device.platform}\n{jax.device_count()} x {device.device_kind}")


def _gpu_advice(root: Path) -> str:
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        return _install("-e", f"{_short(root)}[cuda]") if (root / "pyproject.toml").is_file() else _install("jax[cuda12]")
    see = f"see why: JAX_PLATFORMS=cuda {_program('python')} -c 'import jax; jax.devices()'"
    return next((f"unset {name}" for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES") if name in os.environ), see)


def check_memory(root: Path) -> Finding:
    import psutil

    machine, container = psutil.virtual_memory().available, _room_in_container(Path("/sys/fs/cgroup"))
    ok, found = min(machine, container) >= 2 * 2**30, f"{min(machine, container) / 2**30:.1f} GiB (needed: 2 GiB)"
    if container < machine:
        return ok, f"{found} left to this container", "give it more, e.g. docker run --memory=4g"
    return ok, f"{found} available", "close other programs and notebook kernels"


def _room_in_container(groups: Path) -> float:
    """Bytes that its limit leaves; infinite where there is none (Linux: cgroup-v2.rst, cgroup-v1/memory.rst)."""
    for limit, used, stat in (("memory.max", "memory.current", "memory.stat"),
                              ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat")):  # fmt: skip
        try:
            counts = dict(line.split() for line in (groups / stat).read_text().splitlines())
            cached = int(counts["active_file"]) + int(counts["inactive_file"])  # count as used, but give way
            return int((groups / limit).read_text()) - int((groups / used).read_text()) + cached
        except (OSError, ValueError):  # not this version of control groups, or "max": no limit
            continue
    return math.inf


def check_disk(root: Path) -> Finding:
    folders = (next(place for place in (path, *path.parents) if os.path.exists(place)) for path in (cache_folder(), root))
    free = {folder: shutil.disk_usage(folder).free / 1e9 for folder in folders}
    full = " and ".join(str(folder) for folder, size in free.items() if size < 2)
    found = ", ".join(f"{size:.1f} GB free at {folder}" for folder, size in free.items())
    return not full, f"{found} (needed: 2 GB)", f"move or delete files on the disk that holds {full}"


def check_cache(root: Path) -> Finding:
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=cache_folder()) as work:
            Path(work, "part").write_text("")
            os.replace(Path(work, "part"), Path(work, "whole"))
    except OSError as error:
        return False, f"{cache_folder()}: {error.strerror}", "use a folder of yours: export COURSE_CACHE=~/course-cache"
    return True, f"{cache_folder()} can be written to", ""


def check_model(root: Path) -> Finding:
    from huggingface_hub import try_to_load_from_cache

    from course_lib import pretrained

    name, advice = pretrained.default_model(), f"{_program('course')} model"
    if name == pretrained.MODEL:
        folder = cache_folder() / "models" / name
        wrong = pretrained._difference(pretrained.PINNED, folder) if folder.is_dir() else "not fetched yet"
        return wrong is None, f"{name}: {wrong or 'verified'} ({folder})", advice
    kept = pretrained.HUB_ID.fullmatch(name) and try_to_load_from_cache(name, "config.json")
    here = isinstance(kept, str) or (Path(name).expanduser() / "config.json").is_file()
    return here, f"COURSE_MODEL={name}: {'here; no hash of it is known' if here else 'not here'}", advice


def check_kernel(root: Path) -> Finding:
    from jupyter_client import KernelManager
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    program = KernelManager(kernel_name="python3").format_kernel_cmd()[0]
    # The folder counts, too: a virtual environment's python may be a link to the one outside.
    if len({(os.path.realpath(os.path.dirname(path)), os.path.realpath(path)) for path in (program, sys.executable)}) > 1:
        advice = f"{_program('python')} -m ipykernel install --sys-prefix"
        return False, f"python3 runs {program}", "unset JUPYTER_PATH" if "JUPYTER_PATH" in os.environ else advice
    notebook = new_notebook(cells=[new_code_cell("1 + 1")])
    with tempfile.TemporaryFile("w+") as log:
        try:
            NotebookClient(notebook, kernel_name="python3", startup_timeout=50, timeout=10).execute(stderr=log)
        except Exception as error:
            log.seek(0)
            return False, f"python3 runs {program}: {_last_line(log.read()) or _last_line(str(error))}", _repair(root)
    answer = notebook.cells[0].outputs[0].data["text/plain"]
    return answer == "2", f"python3 runs {program}; 1 + 1 = {answer}", _repair(root)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:200]


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _program(name: str) -> str:
    """A program of this environment, as it can be called from the current folder, whether or not it is activated."""
    return shlex.quote(_short(Path(sys.executable).with_name(name)))


def _install(*what: str) -> str:
    if os.path.exists(Path(sys.executable).with_name("uv")):  # by itself, uv would at times take another environment
        return f"{_program('uv')} pip install {shlex.join(what)} --python {_program('python')}"
    return f"{_program('python')} -m pip install {shlex.join(what)}"


def _repair(root: Path) -> str:
    """For damage that version numbers do not show."""
    if (root / "requirements.lock").is_file():
        return _install("--force-reinstall", "--require-hashes", "-r", _short(root / "requirements.lock"))
    return "install the course again, the way you did at first"


CHECKS = {"python": check_python, "versions": check_versions, "device": check_device, "memory": check_memory,
          "disk": check_disk, "cache": check_cache, "model": check_model, "kernel": check_kernel}  # fmt: skip
