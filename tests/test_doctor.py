"""Each check of `course doctor` finds what it is there to find, says what to type, and stands alone."""

import dataclasses
import errno
import hashlib
import json
import os
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from course_lib import doctor, pretrained

ROOT = Path(__file__).resolve().parent.parent
CONFIG = b"{}"
GIB = 2**30


@pytest.fixture(autouse=True)
def tiny_machine(tmp_path, monkeypatch):
    """A cache of the test's own with a model of one small file; no GPU, no settings from outside."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    for name in ("COURSE_MODEL", "JUPYTER_PATH", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    model = dataclasses.replace(pretrained.PINNED, sha256={"config.json": hashlib.sha256(CONFIG).hexdigest()})
    monkeypatch.setattr(pretrained, "PINNED", model)


def put_model(tmp_path: Path, content: bytes = CONFIG) -> None:
    folder = tmp_path / "cache" / "models" / pretrained.MODEL
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(content)


def put_program(folder: Path, name: str, output: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{output}'\n")
    (folder / name).chmod(0o755)


def put_jax(tmp_path, monkeypatch, code: str) -> None:
    """A jax of the test's own for processes that start from now on."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "jax.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "fake"), os.environ["PYTHONPATH"]]))


def fake_jax(platform: str = "cpu", result: str = "f(m)") -> str:
    return f"""
class Device:
    platform, device_kind = "{platform}", "Pretender 3000"
    def __str__(self): return "pretender:0"
devices = lambda: [Device(), Device()]
device_count = lambda: 2
device_put = lambda value, device: value
vmap = lambda f: lambda rows: [f(row) for row in rows]
jit = lambda f: lambda m: {result}
"""


def failed(finding: tuple[bool, str, str]) -> tuple[str, str]:
    ok, found, advice = finding
    assert not ok
    assert found and advice and "\n" not in found + advice
    return found, advice


def test_all_is_well_on_this_machine(tmp_path):
    put_model(tmp_path)
    checks = list(doctor.run_checks(ROOT))
    assert [check.name for check in checks] == [
        "python", "versions", "device", "memory", "disk", "cache", "model", "kernel"
    ]  # fmt: skip
    assert [check for check in checks if not check.ok] == []
    found = {check.name: check.found for check in checks}
    assert sys.executable in found["python"]
    assert "x cpu; a jitted computation agrees" in found["device"]
    assert sys.executable in found["kernel"]


def test_a_check_that_breaks_or_cannot_import_fails_alone(monkeypatch):
    def breaks(root):
        raise OSError("first line\nthe disk is on fire")

    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(doctor.CHECKS, "device", breaks)
    monkeypatch.setitem(doctor.CHECKS, "kernel", lambda root: (True, "reached", ""))
    monkeypatch.setitem(sys.modules, "psutil", None)  # importing it raises ImportError
    checks = {check.name: check for check in doctor.run_checks(ROOT)}
    assert "OSError: the disk is on fire" in checks["device"].found
    assert "psutil" in checks["memory"].found
    for name in ("device", "memory"):
        assert not checks[name].ok
        assert "pip install --force-reinstall --require-hashes --no-deps -r requirements.lock" in checks[name].advice
    assert checks["versions"].ok and checks["disk"].ok and checks["kernel"].found == "reached"


def test_each_result_comes_before_the_next_check_starts(monkeypatch):
    started = []
    for name in list(doctor.CHECKS):
        monkeypatch.setitem(doctor.CHECKS, name, lambda root, name=name: (not started.append(name), name, ""))
    assert [(check.name, len(started)) for check in doctor.run_checks(ROOT)][:3] == [
        ("python", 1), ("versions", 2), ("device", 3)
    ]  # fmt: skip


@pytest.mark.parametrize(("version", "ok"), [((3, 10, 9), False), ((3, 11, 0), True), ((3, 13, 5), True),
                                             ((3, 14, 0), False)])  # fmt: skip
def test_python_outside_the_supported_versions(monkeypatch, version, ok):
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(version_info=version, executable="/x/bin/python"))
    assert doctor.check_python(ROOT)[0] is ok
    if not ok:
        found, advice = failed(doctor.check_python(ROOT))
        assert ".".join(map(str, version)) in found and "3.11 to 3.13" in found
        assert advice.endswith(f"cd {ROOT} && rm -rf .venv && make lab PYTHON=python3.13")


def write_lock(root: Path, *lines: str) -> None:
    hashed = [f"{line} \\\n    --hash=sha256:{'0' * 64}\n" for line in lines]
    (root / "requirements.lock").write_text("# made by\n#    make lock\n" + "".join(hashed))


def test_versions_that_are_missing_half_installed_or_differ_are_named_and_no_others(tmp_path, monkeypatch):
    (tmp_path / "halfway-1.0.dist-info").mkdir()  # without METADATA, as an interrupted installation leaves it
    monkeypatch.syspath_prepend(str(tmp_path))
    here = metadata.version("numpy")
    write_lock(tmp_path, "flax==0.0.1 ; python_version >= '3.11'", "halfway==1.0", f"numpy=={here}", "no-such-thing==2",
               "pywinpty==3 ; sys_platform == 'never'", "jax==0.0.2 ; python_version < '3.11'")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    found, advice = failed(doctor.check_versions(tmp_path))
    flax = metadata.version("flax")
    assert found == f"flax==0.0.1 (here: {flax}), halfway==1.0 (here: missing), no-such-thing==2 (here: missing)"
    assert "pip install --require-hashes --no-deps -r requirements.lock" in advice


def test_versions_without_a_lock_are_the_direct_dependencies(tmp_path, monkeypatch):
    assert doctor.check_versions(tmp_path)[0]
    needs = ["flax", "transformers>=99", "no-such-thing", 'not-this; extra == "test"']
    monkeypatch.setattr(metadata, "requires", lambda name: needs)
    found, advice = failed(doctor.check_versions(tmp_path))
    assert found.startswith("transformers>=99 (here: ") and found.endswith("no-such-thing (here: missing)")
    assert "pip install 'transformers>=99' no-such-thing" in advice


@pytest.mark.parametrize(
    ("version", "why"),
    [("0.10.1", None), ("0.10.2", "wrong"), ("0.11.0", None), ("0.11.1", "minutes"), ("0.12.0", None)],
)
def test_a_version_known_to_be_bad_is_named_with_the_reason_and_not_installed(tmp_path, monkeypatch, version, why):
    monkeypatch.setattr(metadata, "requires", lambda name: ["jax"])
    monkeypatch.setattr(doctor, "_installed", lambda name: version)
    ok, found, advice = doctor.check_versions(tmp_path)
    assert ok is (why is None)
    assert ok or (f"jaxlib {version} " in found and why in found and "install" in advice)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    [jax] = [need for need in map(Requirement, project["dependencies"]) if need.name == "jax"]
    assert jax.specifier.contains(version) is ok
    locked = "".join(path.read_text("utf-8") for path in ROOT.glob("requirements*.lock"))
    assert ok or f"\njaxlib=={version} " not in locked


def test_advice_installs_into_this_environment_from_wherever_it_is_typed(tmp_path, monkeypatch):
    write_lock(tmp_path, "no-such-thing==2")
    put_program(tmp_path / ".venv", "x", "")
    put_program(tmp_path / ".venv" / "bin", "uv", "")
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(executable=str(tmp_path / ".venv" / "bin" / "python")))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "requirements-cuda12.lock").touch()
    assert doctor._gpu_advice(tmp_path) == (
        ".venv/bin/uv pip install --require-hashes --no-deps -r requirements-cuda12.lock --python .venv/bin/python"
    )
    monkeypatch.chdir(tmp_path / ".venv")
    assert failed(doctor.check_versions(tmp_path))[1] == (
        f"bin/uv pip install --require-hashes --no-deps -r {tmp_path}/requirements.lock --python bin/python"
    )
    (tmp_path / ".venv" / "bin" / "uv").unlink()
    assert doctor._gpu_advice(tmp_path / "elsewhere") == "bin/python -m pip install 'jax[cuda12]'"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ImportError('no AVX here')", "ImportError: no AVX here"),
        ("import os; os.abort()", "exit code -6"),
        (fake_jax(result="[*f(m)[:-1], 7]"), "a jitted computation on pretender:0 disagrees with NumPy"),
    ],
)
def test_device_where_jax_is_broken_crashes_or_computes_nonsense(tmp_path, monkeypatch, code, reason):
    put_jax(tmp_path, monkeypatch, code)
    found, advice = failed(doctor.check_device(ROOT))
    assert reason in found
    assert "pip install --force-reinstall" in advice


def test_device_that_jax_platforms_asks_for_in_vain(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    found, advice = failed(doctor.check_device(ROOT))
    assert found.startswith("JAX (JAX_PLATFORMS=nonsense): ") and advice == "unset JAX_PLATFORMS"


def test_device_that_never_answers(tmp_path, monkeypatch):
    put_jax(tmp_path, monkeypatch, "import time; time.sleep(60)")
    run = doctor._run_python
    monkeypatch.setattr(doctor, "_run_python", lambda seconds, *arguments: run(0.5, *arguments))
    found, advice = failed(doctor.check_device(ROOT))
    assert "no answer within 0.5 s" in found and "end other programs" in advice


def test_a_gpu_that_jax_does_not_see_is_a_failure_and_one_that_it_sees_is_not(tmp_path, monkeypatch):
    put_program(tmp_path / "bin", "nvidia-smi", "GPU 0: NVIDIA T4 (UUID: GPU-12)")
    put_jax(tmp_path, monkeypatch, fake_jax())
    monkeypatch.chdir(ROOT)
    found, advice = failed(doctor.check_device(ROOT))
    assert found == "2 x Pretender 3000; not seen by JAX: GPU 0: NVIDIA T4"
    assert "pip install --require-hashes --no-deps -r requirements-cuda12.lock" in advice

    plugin = tmp_path / "fake" / "jax_cuda12_plugin-1.0.dist-info"  # installed, so that something else is wrong
    plugin.mkdir()
    (plugin / "METADATA").write_text("Name: jax-cuda12-plugin\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "fake"))
    assert failed(doctor.check_device(ROOT))[1] == "unset JAX_PLATFORMS"
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert failed(doctor.check_device(ROOT))[1] == "unset CUDA_VISIBLE_DEVICES"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "JAX_PLATFORMS=cuda" in failed(doctor.check_device(ROOT))[1]

    (tmp_path / "fake" / "jax.py").write_text(fake_jax(platform="gpu"))
    assert doctor.check_device(ROOT)[:2] == (True, "2 x Pretender 3000; a jitted computation agrees with NumPy")


def test_a_driver_without_a_gpu_is_no_failure(tmp_path, monkeypatch):
    put_program(tmp_path / "bin", "nvidia-smi", "NVIDIA-SMI has failed because it could not talk to the driver")
    put_jax(tmp_path, monkeypatch, fake_jax())
    assert doctor.check_device(ROOT)[0]


@pytest.mark.parametrize(
    ("machine", "container", "advice"),
    [(1.9, float("inf"), "close other programs"), (64, 1.9, "docker run --memory=4g"), (2, 3, None), (3, 2, None)],
)
def test_memory_below_2_gib_on_the_machine_or_in_the_container(monkeypatch, machine, container, advice):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=machine * GIB))
    monkeypatch.setattr(doctor, "_room_in_container", lambda groups: container * GIB)
    if advice is None:
        assert doctor.check_memory(ROOT)[:2] == (True, "2.0 GiB available (needed: 2 GiB)")
    else:
        found, said = failed(doctor.check_memory(ROOT))
        assert found.startswith("1.9 GiB") and advice in said


@pytest.mark.parametrize(
    ("folder", "cap", "used"),
    [("v2", "memory.max", "memory.current"), ("v1/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")],
)
def test_room_in_a_container_is_its_limit_less_what_cannot_be_dropped(tmp_path, folder, cap, used):
    groups = tmp_path / folder
    groups.mkdir(parents=True)
    (groups / used).write_text("700\n")
    (groups / "memory.stat").write_text("anon 550\nactive_file 50\ninactive_file 100\n")
    assert doctor._room_in_container(tmp_path / folder[:2]) == float("inf")  # no limit file, as outside a container
    (groups / cap).write_text("max\n")
    assert doctor._room_in_container(tmp_path / folder[:2]) == float("inf")
    (groups / cap).write_text("1000\n")
    assert doctor._room_in_container(tmp_path / folder[:2]) == 1000 - 700 + 150


def test_disk_that_is_full_is_named_and_asked_where_the_cache_will_be(tmp_path, monkeypatch):
    free = {tmp_path: 1.9e9, ROOT: 2.1e9}  # the cache folder is not there yet
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free[path]))
    found, advice = failed(doctor.check_disk(ROOT))
    assert f"1.9 GB free at {tmp_path}" in found and f"2.1 GB free at {ROOT}" in found
    assert advice == f"move or delete files on the disk that holds {tmp_path}"
    free.update({tmp_path: 2.1e9, ROOT: 1e9})
    assert failed(doctor.check_disk(ROOT))[1].endswith(f"holds {ROOT}")


def test_cache_that_cannot_be_written_to_or_renamed_in(tmp_path, monkeypatch):
    assert doctor.check_cache(ROOT)[0]
    assert list((tmp_path / "cache").iterdir()) == []  # leaves nothing

    def refuse(source, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        found, advice = failed(doctor.check_cache(ROOT))
        assert found == f"{tmp_path / 'cache'}: Operation not permitted" and "export COURSE_CACHE=" in advice
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file" / "cache"))
    assert "Not a directory" in failed(doctor.check_cache(ROOT))[0]


def test_model_that_is_missing_or_damaged_is_reported_and_not_fetched(tmp_path, monkeypatch):
    for name in ("fetch", "fetch_pinned", "_hub_snapshot"):
        monkeypatch.setattr(pretrained, name, lambda *args, **options: pytest.fail("fetches"))
    found, advice = failed(doctor.check_model(ROOT))
    assert f"{pretrained.MODEL}: not fetched yet" in found and advice.endswith("course model")
    assert not (tmp_path / "cache").exists()
    put_model(tmp_path, b"{ }")
    found, advice = failed(doctor.check_model(ROOT))
    assert "config.json: sha256 expected" in found and advice.endswith("course model")


def test_model_that_course_model_names(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_MODEL", str(tmp_path / "own"))
    found, advice = failed(doctor.check_model(ROOT))
    assert found == f"COURSE_MODEL={tmp_path / 'own'}: not here" and advice.endswith("course model")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_bytes(CONFIG)
    assert doctor.check_model(ROOT)[0]
    monkeypatch.setenv("COURSE_MODEL", "nobody/has-this-model")
    assert "not here" in failed(doctor.check_model(ROOT))[0]


def put_kernel(data: Path, *argv: str) -> None:
    folder = data / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec = {"argv": [*argv, "{connection_file}"], "display_name": "Python 3", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))


def test_kernel_of_another_python(tmp_path, monkeypatch):
    put_kernel(tmp_path / "share", "/opt/other/bin/python", "-m", "ipykernel_launcher", "-f")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    assert failed(doctor.check_kernel(ROOT)) == ("python3 runs /opt/other/bin/python", "unset JUPYTER_PATH")

    monkeypatch.delenv("JUPYTER_PATH")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "share"))  # the user's own kernels
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    assert failed(doctor.check_kernel(ROOT))[1].endswith("python -m ipykernel install --user")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))  # as if they were this environment's
    assert failed(doctor.check_kernel(ROOT))[1].endswith("python -m ipykernel install --sys-prefix")


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="not in a virtual environment")
def test_kernel_of_the_python_that_the_environment_was_made_from(tmp_path, monkeypatch):
    put_kernel(tmp_path, os.path.realpath(sys.executable), "-m", "ipykernel_launcher", "-f")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert os.path.realpath(sys.executable) in failed(doctor.check_kernel(ROOT))[0]


def test_kernel_that_dies(tmp_path, monkeypatch):
    put_kernel(tmp_path, sys.executable, "-c", "raise SystemExit('no kernel today')")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    found, advice = failed(doctor.check_kernel(ROOT))
    assert found.startswith(f"python3 runs {sys.executable}; ") and "died" in found
    assert "pip install --force-reinstall" in advice


def test_kernel_that_does_not_answer(tmp_path, monkeypatch):
    put_kernel(tmp_path, sys.executable, "-c", "import time; time.sleep(20)")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    run, limits = doctor._run_python, []
    monkeypatch.setattr(doctor, "_run_python", lambda seconds, *a, **k: run(limits.append(seconds) or 3, *a, **k))
    assert "no answer within 3 s" in failed(doctor.check_kernel(ROOT))[0]
    assert limits == [60]


def test_kernel_that_computes_something_else(monkeypatch):
    monkeypatch.setattr(doctor, "_run_python", lambda *arguments, **options: ("3\n", ""))
    assert failed(doctor.check_kernel(ROOT))[0].endswith("; 1 + 1 = 3")
