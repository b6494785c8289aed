"""The course with the network cut: in a network namespace that has no interface but the machine's own, `lo`.

    .venv/bin/python hardening/offline.py                the command line, the service, JupyterLab and three notebooks
    .venv/bin/python hardening/offline.py cli service …  some of these: cli, service, lab, notebooks
    .venv/bin/python hardening/offline.py suite          everything: `make test`

Run it after the set-up, which is the last to need the network. Linux only; without root, the system must let users
make namespaces of their own. What was found goes to hardening/offline.md.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
NOTEBOOKS = (
    "exercises/01_losses_exercises",
    "solutions/04_autodiff_exercises",
    "solutions/07_text_to_tensors_exercises",
)
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # linux/sockios.h, linux/if.h


def enter_namespace() -> None:
    """Start this program again where there is no network; come back only there."""
    if os.environ.get("OFFLINE") == "1":
        return
    if sys.platform != "linux" or shutil.which("unshare") is None:
        sys.exit("error: needs Linux with the program unshare (of util-linux)")
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", *as_root, "--net", sys.executable, *sys.argv]
    os.execvpe("unshare", command, {**os.environ, "OFFLINE": "1"})


def bring_up_loopback() -> None:
    """What `ip link set lo up` does: kernels and the service are reached at 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        name, flags = struct.unpack_from(
            "16sH", fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        )
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", name, flags | IFF_UP))


def show_that_the_network_is_cut() -> str:
    interfaces = [name for _, name in socket.if_nameindex()]
    routes = Path("/proc/net/route").read_text().splitlines()[1:]
    assert interfaces == ["lo"] and not routes, f"there is a network here: {interfaces}, {routes}"
    refused = []
    for address in (("192.0.2.1", 443), ("2001:db8::1", 443), ("example.org", 443)):
        try:
            socket.create_connection(address, timeout=5).close()
        except OSError as error:
            refused.append(f"{address[0]}: {error.strerror}")
        else:
            raise AssertionError(f"{address[0]} answers")
    return f"interfaces: {', '.join(interfaces)}; routes: none; " + "; ".join(refused)


def run(*command, cwd: Path = ROOT) -> str:
    """What it prints; RuntimeError where it fails."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def listens(address: str) -> bool:
    host, port = address.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def server(*command) -> Iterator[tuple[str, Callable]]:
    """A server that says its address on stderr: (address, a function that asks it)."""
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"http://(?:127\.0\.0\.1|localhost):\d+", line):
                break
        else:
            raise RuntimeError(f"it ended: {''.join(said)[-2000:]}")
        address, end = found.group(), time.monotonic() + 30
        while not listens(address):  # JupyterLab says its address a little early
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"nothing listens at {address}: {''.join(said)[-2000:]}")
            time.sleep(0.2)

        def ask(path: str, content: dict | None = None) -> str:
            data = None if content is None else json.dumps(content).encode()
            request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
                return answer.read().decode(errors="replace")

        yield address, ask
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        process.stderr.close()


def check_page(page: str) -> None:
    """Nothing that a browser would fetch from elsewhere by itself."""
    fetched = re.findall(r"""(?:<(?:script|img|iframe|source)[^>]*\ssrc|<link[^>]*\shref|url\(|@import)\s*=?\s*["'(]?"""
                         r"""((?:https?:)?//[^"'\s)>]+)""", page)  # fmt: skip
    assert not fetched, f"a page asks for {fetched}"


def cli(work: Path, fine_tuned: Path) -> str:
    """The model that set-up fetched, and every command that works with it."""
    course = BIN / "course"
    run(course, "doctor")
    assert "sentence-transformers" in run(course, "model")
    assert (fine_tuned / "metrics.json").is_file()
    run(course, "evaluate", fine_tuned, work / "data.csv", "--json", work / "scores.json")
    answer = run(course, "predict", fine_tuned, "where is my parcel").split()[0]
    run(course, "predict", fine_tuned, "--input", work / "data.csv", "--output", work / "answers.csv")
    run(course, "export", fine_tuned, "--out", work / "exported")
    exported = run(sys.executable, work / "exported" / "predict.py", "where is my parcel").split()[0]
    assert exported == answer, f"{exported} is not {answer}"
    run(course, "build", "--check")
    run(course, "progress")
    (work / "learner").mkdir()
    shutil.copy(ROOT / "solutions" / "01_losses_exercises.ipynb", work / "learner")
    run(course, "grade", work / "learner", "--out", work / "grades.csv")
    assert "passed" in (work / "grades.csv").read_text()
    return "doctor, model, finetune, evaluate, predict, export and its script, build --check, progress, grade"


def service(work: Path, fine_tuned: Path) -> str:
    with server(BIN / "course", "serve", fine_tuned, "--port", 0) as (_, ask):
        assert json.loads(ask("/health"))
        answer = json.loads(ask("/predict", {"text": "where is my parcel"}))
        for page in ("/", "/docs"):
            check_page(ask(page))
        for asset in re.findall(r'(?:src|href)="(/[^"]+)"', ask("/docs")):
            ask(asset)
        assert "course_" in ask("/metrics")
    return f"/health, /predict ({json.dumps(answer)[:60]}…), /, /docs with its scripts, /metrics"


def lab(work: Path, fine_tuned: Path) -> str:
    options = [
        "--no-browser",
        "--allow-root",
        "--IdentityProvider.token=",
        "--ServerApp.disable_check_xsrf=True",
        "--port=8899",
    ]
    with server(BIN / "course", "lab", *options) as (_, ask):
        check_page(ask("/lab"))
        kernel = json.loads(ask("/api/kernels", {"name": "python3"}))
        end = time.monotonic() + 60
        while json.loads(ask(f"/api/kernels/{kernel['id']}"))["execution_state"] not in ("idle", "starting"):
            assert time.monotonic() < end, "no kernel"
            time.sleep(0.5)
    return "the page, and a kernel"


def notebooks(work: Path, fine_tuned: Path) -> str:
    said = run(BIN / "pytest", "-q", "-p", "no:cacheprovider", *(f"{name}.ipynb" for name in NOTEBOOKS))
    return f"{', '.join(NOTEBOOKS)}: {re.findall(r'[0-9]+ passed', said)[-1]}"


def suite(work: Path, fine_tuned: Path) -> str:
    said = run("make", "test")
    return f"`make test`: {re.findall(r'[0-9]+ passed[^=]*', said)[-1].strip()}"


PARTS = {"cli": cli, "service": service, "lab": lab, "notebooks": notebooks, "suite": suite}
TITLES = {"cli": "the command line", "service": "the service", "lab": "JupyterLab", "notebooks": "notebooks",
          "suite": "every test and every notebook"}  # fmt: skip


def finetune(work: Path) -> Path:
    """A few rows of the course's tickets and the model that set-up fetched."""
    with (ROOT / "course_lib" / "data" / "tickets.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["intent"]) for row in csv.DictReader(file)][:120]
    with (work / "data.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    run(BIN / "course", "finetune", work / "data.csv", "--out", work / "fine-tuned", "--epochs", 1, "--max-length", 32)
    return work / "fine-tuned"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all but suite)")
    parts = parser.parse_args().parts or [name for name in PARTS if name != "suite"]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no {', '.join(unknown)}")
    enter_namespace()
    bring_up_loopback()
    cut, rows, failed = show_that_the_network_is_cut(), [], False
    print(cut, flush=True)
    with tempfile.TemporaryDirectory(prefix="offline-") as work:
        work = Path(work)
        fine_tuned = finetune(work) if {"cli", "service"} & set(parts) else work
        for name in parts:
            started = time.monotonic()
            try:
                result = PARTS[name](work, fine_tuned)
            except (AssertionError, RuntimeError, OSError) as error:
                result, failed = f"FAILED: {error}", True
            print(f"{TITLES[name]}: {result}", flush=True)
            rows.append(f"| {TITLES[name]} | {time.monotonic() - started:.0f} s | {' '.join(result.split())[:300]} |")
    assert show_that_the_network_is_cut() == cut
    text = (
        f"# With the network cut\n\n`.venv/bin/python hardening/offline.py {' '.join(parts)}`, in a network namespace "
        f"of its own ({cut}).\n\n| part | took | what ran |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )
    (ROOT / "hardening" / "offline.md").write_text(text, "utf-8")
    sys.exit(failed)


if __name__ == "__main__":
    main()
