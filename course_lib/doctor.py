"""What `course doctor` looks at: this machine and this installation, each finding with advice that can be typed."""

from __future__ import annotations

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

from course_lib import CourseError, pretrained
from course_lib.cache import cache_folder

# Versions that install, import and are wrong. pyproject.toml excludes them; an environment made some other way, as on
# Colab, may hold one all the same.
KNOWN_BAD = {
    "jaxlib==0.10.2": "computes wrong numbers on a CPU without a warning: github.com/jax-ml/jax/issues/39103",
    "jaxlib==0.11.1": "takes minutes to fill a long array in a loop on a CPU, where others take a moment",
}


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
        except CourseError as error:  # there is no folder for the cache
            finding = False, str(error).partition(";")[0], "export COURSE_CACHE=/a/folder/of/yours"
        except Exception as error:  # a broken import, above all
            finding = False, f"could not check: {type(error).__name__}: {_last_line(str(error))}", _repair(root)
        yield Check(name, *finding)


def check_python(root: Path) -> tuple[bool, str, str]:
    found = f"{'.'.join(map(str, sys.version_info[:3]))} at {sys.executable} (needed: 3.11 to 3.13)"
    advice = f"install Python 3.13, then: cd {shlex.quote(str(root))} && rm -rf .venv && make lab PYTHON=python3.13"
    return (3, 11) <= sys.version_info[:2] <= (3, 13), found, advice


def check_versions(root: Path) -> tuple[bool, str, str]:
    from packaging.requirements import Requirement

    lock = root / "requirements.lock"  # lines `name==version ; marker \`, each followed by indented hashes
    lines = lock.read_text("utf-8").splitlines() if lock.is_file() else metadata.requires("loss-to-bert") or []
    needs = [Requirement(line.rstrip("\\")) for line in lines if line[:1].isalnum()]
    needs = [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    wrong = {}  # what is needed → what is there
    for need in needs:
        have = _installed(need.name)
        if have is None or not need.specifier.contains(have, prereleases=True):  # None: half installed, too
            wrong[f"{need.name}{need.specifier}"] = have or "missing"
    found = ", ".join(f"{need} (here: {have})" for need, have in wrong.items())
    for bad, why in KNOWN_BAD.items():
        have = _installed(Requirement(bad).name)
        if have is not None and Requirement(bad).specifier.contains(have):
            found += f"{'; ' if found else ''}{Requirement(bad).name} {have} {why}"
    advice = _install(*_hashed(lock)) if lock.is_file() else _install(*wrong)
    return not found, found or f"{len(needs)} packages as needed", advice


def _installed(name: str) -> str | None:
    return next((found.version for found in metadata.distributions(name=name)), None)


def check_device(root: Path) -> tuple[bool, str, str]:
    printed, trouble = _run_python(120, "-c", "from course_lib.doctor import probe_devices; probe_devices()")
    asked = os.environ.get("JAX_PLATFORMS", "")
    if trouble.startswith("no answer"):
        return False, f"JAX: {trouble}", "end other programs that use the GPU or TPU, then try again"
    if trouble:
        advice = _repair(root) if asked in ("", "cpu") else "unset JAX_PLATFORMS"
        return False, f"JAX (JAX_PLATFORMS={asked}): {trouble}", advice
    platform, devices = printed.splitlines()[-2:]
    smi = shutil.which("nvidia-smi")
    gpus = subprocess.run([smi, "-L"], capture_output=True, text=True, timeout=30).stdout if smi else ""
    if platform == "cpu" and gpus.startswith("GPU"):
        return False, f"{devices}; not seen by JAX: {gpus.split(' (UUID')[0]}", _gpu_advice(root)
    return True, f"{devices}; a jitted computation agrees with NumPy", ""


def probe_devices() -> None:
    """Print the platform, then what JAX computes on. Raises ValueError where a result is not the one of NumPy."""
    import jax
    import numpy as np

    # Small whole numbers, exact in TF32 and bf16, too; so many since jaxlib 0.10.2 errs from row 32,768 on.
    rows = np.arange(120_000, dtype=np.float32).reshape(-1, 3) % 7
    lengths = jax.jit(jax.vmap(lambda row: ((rows[:3] @ row) ** 2).sum()))
    for device in jax.devices():
        if not np.array_equal(lengths(jax.device_put(rows, device)), ((rows @ rows[:3].T) ** 2).sum(axis=1)):
            raise ValueError(f"a jitted computation on {device} disagrees with NumPy")
    print(f"{device.platform}\n{jax.device_count()} x {device.device_kind}")


def _gpu_advice(root: Path) -> str:
    if not any(any(metadata.distributions(name=f"jax-cuda{version}-plugin")) for version in (12, 13)):
        lock = root / "requirements-cuda12.lock"
        return _install(*_hashed(lock) if lock.is_file() else ["jax[cuda12]"])
    see = f"see why: JAX_PLATFORMS=cuda {_program('python')} -c 'import jax; jax.devices()'"
    return next((f"unset {name}" for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES") if name in os.environ), see)


def check_memory(root: Path) -> tuple[bool, str, str]:
    import psutil

    advice = {
        psutil.virtual_memory().available: "close other programs and notebook kernels",
        _room_in_container(Path("/sys/fs/cgroup")): "give the container more, e.g. docker run --memory=4g",
    }
    room = min(advice)
    return room >= 2 * 2**30, f"{room / 2**30:.1f} GiB available (needed: 2 GiB)", advice[room]


def _room_in_container(groups: Path) -> float:
    """Bytes that its limit leaves; infinite where there is none (Linux: cgroup-v2.rst, cgroup-v1/memory.rst)."""
    for cap, used in ("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"):
        try:
            counts = dict(line.split() for line in (groups / used).with_name("memory.stat").read_text().splitlines())
            cached = int(counts["active_file"]) + int(counts["inactive_file"])  # count as used, but give way
            return int((groups / cap).read_text()) - int((groups / used).read_text()) + cached
        except (OSError, ValueError):  # not this version of control groups, or "max": no limit
            continue
    return float("inf")


def check_disk(root: Path) -> tuple[bool, str, str]:
    near = next(place for place in (cache_folder(), *cache_folder().parents) if os.path.exists(place))
    free = {folder: shutil.disk_usage(folder).free / 1e9 for folder in (near, root)}
    full = " and ".join(str(folder) for folder, size in free.items() if size < 2)
    found = ", ".join(f"{size:.1f} GB free at {folder}" for folder, size in free.items())
    return not full, f"{found} (needed: 2 GB)", f"move or delete files on the disk that holds {full}"


def check_cache(root: Path) -> tuple[bool, str, str]:
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=cache_folder()) as work:
            Path(work, "part").write_text("")
            os.replace(Path(work, "part"), Path(work, "whole"))
    except OSError as error:
        return False, f"{cache_folder()}: {error.strerror}", "use a folder of yours: export COURSE_CACHE=~/course-cache"
    return True, f"{cache_folder()} can be written to", ""


def check_model(root: Path) -> tuple[bool, str, str]:
    from huggingface_hub import try_to_load_from_cache

    name, advice = pretrained.default_model(), f"{_program('course')} model"
    if name == pretrained.MODEL:
        folder, wrong = pretrained.inspect_cache()
        return wrong is None, f"{name}: {wrong or 'verified'} ({folder})", advice
    kept = pretrained.HUB_ID.fullmatch(name) and try_to_load_from_cache(name, "config.json")
    here = isinstance(kept, str) or Path(os.path.expanduser(name), "config.json").is_file()
    return here, f"COURSE_MODEL={name}: {'here; no hash of it is known' if here else 'not here'}", advice


def check_kernel(root: Path) -> tuple[bool, str, str]:
    from jupyter_client import KernelManager

    manager = KernelManager(kernel_name="python3")
    program = manager.format_kernel_cmd()[0]
    # The folder counts, too: a virtual environment's python may be a link to the one outside.
    if len({(os.path.realpath(os.path.dirname(p)), os.path.realpath(p)) for p in (program, sys.executable)}) > 1:
        inside = Path(manager.kernel_spec.resource_dir).is_relative_to(sys.prefix)
        advice = f"{_program('python')} -m ipykernel install {'--sys-prefix' if inside else '--user'}"
        return False, f"python3 runs {program}", "unset JUPYTER_PATH" if "JUPYTER_PATH" in os.environ else advice
    printed, trouble = _run_python(60, "-m", "jupyter_client.runapp", "--kernel=python3", code="print(1 + 1)")
    return printed.strip() == "2", f"python3 runs {program}; {trouble or f'1 + 1 = {printed.strip()}'}", _repair(root)


def _run_python(seconds: float, *arguments: str, code: str = "") -> tuple[str, str]:
    """What this Python prints, and what went wrong. What hangs or crashes there does neither here."""
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_TRACEBACK_FILTERING": "off"}
    call = [sys.executable, "-P", *arguments]
    try:
        done = subprocess.run(call, input=code, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return "", f"no answer within {seconds} s"
    return done.stdout, (_last_line(done.stderr) or f"exit code {done.returncode}") if done.returncode else ""


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:200]


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _program(name: str) -> str:  # as it can be called from here, whether or not the environment is activated
    return shlex.quote(_short(Path(sys.executable).with_name(name)))


def _install(*what: str) -> str:
    if os.path.exists(Path(sys.executable).with_name("uv")):  # by itself, uv would at times take another environment
        return f"{_program('uv')} pip install {shlex.join(what)} --python {_program('python')}"
    return f"{_program('python')} -m pip install {shlex.join(what)}"


def _hashed(lock: Path) -> tuple[str, ...]:
    return "--require-hashes", "--no-deps", "-r", _short(lock)  # it names everything, and leaves out what it means to


def _repair(root: Path) -> str:
    again = _install("--force-reinstall", *_hashed(root / "requirements.lock"))
    return again if (root / "requirements.lock").is_file() else "install the course again, as you did at first"


CHECKS = {"python": check_python, "versions": check_versions, "device": check_device, "memory": check_memory,
          "disk": check_disk, "cache": check_cache, "model": check_model, "kernel": check_kernel}  # fmt: skip
