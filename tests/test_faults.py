"""What goes wrong around the course: a full disk, no home, odd names, two runs at once, a kill, a clock set back.

The long proofs, with real kills and a real network cut, are hardening/kill.py and hardening/offline.py.
"""

import contextlib
import csv
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest
from test_cli import ROWS

from course_lib import CourseError, doctor
from course_lib.cache import cache_folder, enable_compile_cache
from course_lib.checks import progress
from course_lib.export import export
from course_lib.files import move_into, write_text
from course_lib.finetune import LOCK, finetune, tickets_router
from course_lib.notebook_build import kernel_env

ROOT = Path(__file__).resolve().parent.parent
ON_POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
SETTINGS = {"epochs": 2, "batch_size": 8, "max_length": 32, "learning_rate": 3e-3}


def contents(folder: Path) -> dict[str, bytes]:
    """All files but metrics.json, which holds how long the run took."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "metrics.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def train(tmp_path_factory, tiny_folder):
    """train(out, …): a small run of `course_lib.finetune.finetune` into `out`."""
    data = tmp_path_factory.mktemp("faults") / "data.csv"
    with data.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *ROWS])

    def run(out, **more):
        settings = {"report": lambda line: None, "model": str(tiny_folder), **SETTINGS, **more}
        return finetune(str(data), text="text", label="label", out=out, **settings)

    run.data = data
    return run


@pytest.fixture(scope="module")
def uninterrupted(train, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    train(out)
    return out


class Killed(BaseException):
    """In place of a process's end: nothing catches it, and what would be cleaned up is not part of the question."""


# --- a full disk --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_cannot_be_written_is_one_line(course, monkeypatch):
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        code, _, error = course("progress")
        assert code == 2 and error == "error: standard output cannot be written to (No space left on device)\n"
        print("what is written afterwards goes nowhere", flush=True)


@ON_POSIX
def test_a_reader_that_has_had_enough_ends_the_command_in_silence(course, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        assert course("progress") == (1, "", "")


def test_a_closed_output_does_not_end_the_work(course, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert course("progress") == (0, "", "")


@ON_POSIX
def test_an_export_onto_a_full_disk_leaves_the_old_one(full_disk, uninterrupted, tmp_path):
    export(uninterrupted, tmp_path / "out")
    before = contents(tmp_path / "out")
    with full_disk(2_000_000), pytest.raises(CourseError, match="could not be written") as caught:
        export(uninterrupted, tmp_path / "out")
    assert "\n" not in str(caught.value) and contents(tmp_path / "out") == before


@ON_POSIX
def test_a_state_that_does_not_fit_is_one_line_and_the_run_before_it_goes_on(full_disk, train, uninterrupted, tmp_path):
    """The disk fills up after RunState has asked how much is free."""

    def fill_up(line):
        if line.startswith("epoch 1/2"):
            stack.enter_context(full_disk(100_000))

    with contextlib.ExitStack() as stack, pytest.raises(CourseError, match="could not save the state") as caught:
        train(tmp_path / "out", report=fill_up)
    assert "\n" not in str(caught.value)
    train(tmp_path / "out", resume=True)
    assert contents(tmp_path / "out") == contents(uninterrupted)


# --- homes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def compile_cache():
    """JAX forgets where it keeps programs, before and afterwards."""
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield compilation_cache
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


@pytest.fixture
def no_home(monkeypatch):
    """As in a container that runs under a number nobody knows: HOME is not set, and the number has no entry."""
    for name in ("HOME", "COURSE_CACHE", "COURSE_PROGRESS", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(*_):
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)


@ON_POSIX
def test_without_a_home_the_cache_is_one_line_and_the_rest_works(no_home, compile_cache, course, monkeypatch):
    with pytest.raises(CourseError, match="no home folder is known.*COURSE_CACHE"):
        cache_folder()
    assert course("model")[0] == 2
    enable_compile_cache()
    assert jax.config.jax_compilation_cache_dir is None
    assert progress.record("1.1", "loss_before_training", "passed") is False
    code, printed, _ = course("progress")
    assert code == 0 and "in all" in printed
    monkeypatch.setattr(doctor, "CHECKS", {name: doctor.CHECKS[name] for name in ("disk", "cache", "model")})
    for finding in doctor.run_checks(ROOT):
        assert not finding.ok and "no home folder" in finding.found and "COURSE_CACHE=" in finding.advice


def test_a_cache_that_cannot_be_made_costs_nothing_but_time(compile_cache, tmp_path, monkeypatch, recwarn):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file" / "cache"))  # root may write into any folder, not here
    enable_compile_cache()
    assert jax.jit(lambda x: x * 3 + 1)(2.0) == 7 and not recwarn.list
    with pytest.raises(CourseError, match=r"cannot keep the model|cannot be kept.*set COURSE_CACHE"):
        tickets_router()


@ON_POSIX
def test_jupyterlab_gets_a_home_and_finds_the_model(course, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "none"))
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.delenv("COURSE_CACHE")
    before, started = cache_folder(), []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("course_lib.pretrained.fetch", lambda report: None)
    monkeypatch.setattr("os.execv", lambda *_: started.append((os.environ["HOME"], cache_folder())))
    code, _, error = course("lab")
    assert code == 0 and "cannot be written to; settings and progress go to" in error
    [(home, cache)] = started
    assert Path(home).is_dir() and cache == before


@ON_POSIX
def test_notebooks_say_nothing_of_a_home_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "none"))  # root may write into any folder, not here
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    code = "import matplotlib; matplotlib.get_configdir(), matplotlib.get_cachedir()"
    done = subprocess.run([sys.executable, "-c", code], env=kernel_env(ROOT), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@ON_POSIX
def test_a_compiled_program_that_cannot_be_kept_leaves_nothing_half(
    full_disk, compile_cache, tmp_path, monkeypatch, recwarn
):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    enable_compile_cache()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

    def compile_one():
        jax.clear_caches()
        compile_cache.reset_cache()
        return jax.jit(lambda x: x * 5 + 1)(2.0)

    def killed(*_):
        raise Killed

    with full_disk(100):
        assert compile_one() == 11
    assert list((tmp_path / "compiled").iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with contextlib.suppress(Killed):
            compile_one()
    assert not list((tmp_path / "compiled").glob("*-cache"))
    assert compile_one() == 11 and list((tmp_path / "compiled").glob("*-cache"))
    assert compile_one() == 11 and not recwarn.list


def test_any_folder_is_good_enough(train, uninterrupted, tiny_folder, tmp_path, monkeypatch):
    """Spaces, letters and signs in every path, and paths from where it was started."""
    here = tmp_path / "wörk 100%20 #1?"
    shutil.copytree(tiny_folder, here / "mödel")
    monkeypatch.chdir(here)
    train(Path("new/r üns"), model="mödel")
    assert contents(here / "new" / "r üns") == contents(uninterrupted)


def test_any_home_and_any_clock_are_good_enough(uninterrupted, tmp_path):
    home = tmp_path / "hö me ß#1?"
    shutil.copytree(uninterrupted, home / "mödel")
    code = "import time; now = time.time; time.time = lambda: now() - 3e8; from course_lib.cli import main; main()"
    ours = ("XDG_", "COURSE_", "JAX_", "TF_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home)}
    for _ in range(2):  # the second finds its programs on disk, and says no more than the first
        done = subprocess.run(
            [sys.executable, "-c", code, "predict", "mödel", "where is it"],
            cwd=home, env=environment, capture_output=True, encoding="utf-8", timeout=120,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(("delivery\t", "refund\t"))
    assert list(home.rglob("loss-to-bert/**/*-cache")) and not (home / "~").exists()


@ON_POSIX
def test_a_working_folder_that_is_gone_is_one_line(course, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, printed, error = course("progress")
    assert code == 2 and printed == "" and error.count("\n") == 1 and "cd to another one" in error


# --- two at once --------------------------------------------------------------------------------------------------


def test_a_second_run_into_the_same_folder_is_refused_and_the_first_ends_as_if_alone(train, uninterrupted, tmp_path):
    out, refused = tmp_path / "out", []
    (out / ".saving-half").mkdir(parents=True)  # of a run that was killed while it saved

    def second_run(line):
        if line.startswith("epoch 1/2"):
            for how in ({"resume": True}, {"overwrite": True}):
                with pytest.raises(CourseError, match="another run is at work there") as caught:
                    train(out, **how)
                refused.append(caught.value)

    train(out, overwrite=True, report=second_run)
    assert len(refused) == 2
    assert contents(out) == contents(uninterrupted) and not list(out.glob(".*"))


def test_a_run_that_came_and_went_since_the_folder_was_looked_at_is_not_overwritten(
    train, uninterrupted, tiny_folder, tmp_path, monkeypatch
):
    def meanwhile(*_, **__):
        shutil.copytree(uninterrupted, tmp_path / "out")
        return tiny_folder

    monkeypatch.setattr("course_lib.pretrained.fetch", meanwhile)
    with pytest.raises(CourseError, match="is not empty: --overwrite"):
        train(tmp_path / "out", seed=5)
    assert contents(tmp_path / "out") == contents(uninterrupted)


def together(*functions) -> None:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_two_that_write_one_file_at_once_leave_a_whole_one(tmp_path):
    path, problems = tmp_path / "scores.json", []

    def write(letter):
        try:
            for _ in range(40):
                write_text(path, letter * 50_000)
                if set(path.read_text()) not in ({"a"}, {"b"}):
                    problems.append("half a file")
        except (CourseError, OSError) as error:
            problems.append(error)

    together(lambda: write("a"), lambda: write("b"))
    assert not problems and list(tmp_path.iterdir()) == [path]


def test_two_notebooks_at_once_lose_no_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))

    def pass_all(lesson):
        for number in range(15):
            assert progress.record(f"{lesson}.{number}", "name", "passed")

    together(lambda: pass_all(1), lambda: pass_all(2))
    assert len(progress.load()) == 30


# --- killed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moves", range(4))
def test_killed_between_two_moves_a_folder_is_refused_and_never_mixed(tmp_path, monkeypatch, moves):
    folder, half = tmp_path / "folder", tmp_path / "half"
    for place, content in ((folder, "old"), (half, "new")):
        place.mkdir()
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (place / name).write_text(content)
    done, replace = [], os.replace

    def replace_so_many(*paths):
        if len(done) == moves:
            raise Killed
        done.append(paths)
        replace(*paths)

    monkeypatch.setattr(os, "replace", replace_so_many)
    with pytest.raises(Killed):
        move_into(folder, half, first="model.safetensors", last="config.json")
    there = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(there.values()) == {"old"} if moves == 0 else "config.json" not in there


def test_killed_while_it_deletes_its_checkpoints_the_model_is_whole_and_no_run_is_left(
    train, uninterrupted, tmp_path, monkeypatch
):
    def killed(folder, **_):
        if (Path(folder) / "2").is_dir():
            raise Killed

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(Killed):
        train(tmp_path / "out")
    monkeypatch.undo()
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {*contents(uninterrupted), "metrics.json"}
    with pytest.raises(CourseError, match="holds no interrupted run"):
        train(tmp_path / "out", resume=True)
    train(tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == contents(uninterrupted)


# --- the clock ----------------------------------------------------------------------------------------------------


def test_a_run_goes_on_after_the_clock_was_set_back(train, uninterrupted, tmp_path, monkeypatch):
    def stop(line):
        if line.startswith("epoch 1/2"):
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path / "out", report=stop)
    assert (tmp_path / "out" / "checkpoints" / "1").is_dir() and not (tmp_path / "out" / LOCK).exists()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3e8)  # what it saved is of a day that has not come yet
    train(tmp_path / "out", resume=True)
    assert contents(tmp_path / "out") == contents(uninterrupted)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_sets_up_once_after_the_clock_was_set_back(tmp_path):
    """Also where there is no network any more: a second set-up would fail there."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name, years in (("requirements.lock", 3), ("pyproject.toml", 2)):
        shutil.copy(ROOT / name, tmp_path)
        os.utime(tmp_path / name, (0, time.time() + years * 3e7))
    python = tmp_path / "python"  # makes what set-up calls; none of it does anything
    python.write_text("#!/bin/sh\nmkdir -p .venv/bin\ncp python .venv/bin/python\ncp python .venv/bin/uv\n")
    python.chmod(0o755)
    command = ["make", ".venv/ready", "PYTHON=./python"]
    first, second = (subprocess.run(command, cwd=tmp_path, capture_output=True, text=True) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr
    assert "installing the packages" in first.stdout and "up to date" in second.stdout
