"""The harness is tested too: a good notebook passes, and each kind of damage is found and named."""

import json
import os
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from nbval.plugin import get_sanitize_patterns

from course_lib.notebook_build import build

ROOT = Path(__file__).resolve().parent.parent
SANITIZER = ROOT / "tests" / "nbval_sanitize.cfg"
# As in `make test`.
FLAGS = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=300", f"--nbval-sanitize-with={SANITIZER}"]

# What nbval alone gets wrong, and what must come out the same twice although it is not the same twice.
LESSON = """\
# %% [markdown]
# # A lesson

# %%
import logging, os, socket, sys, tempfile, time, warnings
from IPython.display import HTML
from tqdm import tqdm

print(f"loss = {0.693:.3f}")

# %%
HTML("<table><tr><td>41.5</td></tr></table>")

# %%
logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s")
logging.warning("epoch 1")

# %%
5 + 5;

# %%
written = os.write(1, b"from the file descriptor\\n")
time.sleep(0.5)  # a thread of the kernel passes it on; on a busy machine the cell would end before

# %%
warnings.warn("a warning names the cell's file")

# %%
with tempfile.TemporaryDirectory() as folder:
    print(folder, object())

# %%
for _ in tqdm(range(3)):
    print("not in the kernel:", os.environ.get("PYTEST_CURRENT_TEST"))

# %%
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(("localhost", server.getsockname()[1])).close()
print(len(socket.socketpair()))

# %% tags=["nbval-ignore-output"] reason="the time of day is the lesson"
print(time.time())

# %% tags=["raises-exception"] reason="shows the error"
1 / 0

# %%
total = 2
print(total)
"""


def cell_with(notebook, text):
    return next(cell for cell in notebook["cells"] if text in "".join(cell["source"]))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """(notebook, test) → what nbval said, "" if it passed; from one build and one nested pytest over four notebooks."""
    root = tmp_path_factory.mktemp("course")
    (root / "lessons").mkdir()
    (root / "lessons" / "01_clean.py").write_text(LESSON)
    shutil.copytree(ROOT / "tests" / "offline", root / "tests" / "offline")
    [clean] = build(root, report=lambda line: None)

    damaged = json.loads(clean.read_text())
    changes = {"loss = 0.693": "loss = 0.694", "<td>41.5</td>": "<td>41.6</td>", "WARNING epoch 1": "WARNING epoch 2"}
    for stored, changed in changes.items():
        for cell in damaged["cells"]:
            cell["outputs"] = json.loads(json.dumps(cell.get("outputs", [])).replace(stored, changed))
    cell_with(damaged, "5 + 5;")["source"] = ["raise KeyError('changed since')"]
    cell_with(damaged, "total = 2")["source"] = ["socket.create_connection(('192.0.2.1', 80), timeout=5)"]
    cell_with(damaged, "tempfile.TemporaryDirectory()")["source"] = [
        "import urllib.request\n",
        "urllib.request.urlopen('http://example.org')",
    ]
    clean.with_name("damaged.ipynb").write_text(json.dumps(damaged))

    unexecuted = json.loads(clean.read_text())
    unexecuted["cells"] = [cell_with(unexecuted, "import logging"), cell_with(unexecuted, "total = 2")]
    unexecuted["cells"][1].update(execution_count=None, outputs=[])
    clean.with_name("unexecuted.ipynb").write_text(json.dumps(unexecuted))
    clean.with_name("empty.ipynb").write_text(json.dumps(unexecuted | {"cells": []}))

    report = root / "report.xml"
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", f"--rootdir={root}"]
    command += [*FLAGS, f"--junitxml={report}", "--color=no", str(clean.parent)]
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 1, run.stdout + run.stderr
    assert re.search(r"^notebooks/01_clean.ipynb +\d+ s +0\.\d\d GiB$", run.stdout, re.MULTILINE), run.stdout
    return {
        (case.get("classname").split(".")[-2], case.get("name")): "".join(case.itertext())
        for case in ElementTree.parse(report).iter("testcase")
    }


def test_a_notebook_that_gives_what_is_stored_passes(outcomes):
    clean = {name: said for (notebook, name), said in outcomes.items() if notebook == "01_clean"}
    assert clean == dict.fromkeys(["every cell was executed", *(f"Cell {n}" for n in range(12))], "")


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        pytest.param(
            0, ["Cell outputs differ", "'loss = 0.694\\n' == 'loss = 0.693\\n'"], id="a changed stored number"
        ),
        pytest.param(1, ["mismatch 'text/html'", "<td>41.6</td>", "<td>41.5</td>"], id="a changed HTML table"),
        pytest.param(2, ["mismatch 'stderr'", "WARNING epoch 2"], id="a changed log line"),
        pytest.param(3, ["caused an exception", "KeyError", "changed since"], id="an exception"),
        pytest.param(6, ["the network is off", "the look-up of 'example.org'"], id="a look-up of a name"),
        pytest.param(11, ["the network is off", "a connection to 192.0.2.1 port 80"], id="a connection"),
    ],
)
def test_damage_to_a_cell_fails_that_cell_and_is_named(outcomes, cell, said):
    assert [part for part in said if part not in outcomes["damaged", f"Cell {cell}"]] == []


def test_the_other_cells_of_a_damaged_notebook_still_pass(outcomes):
    assert {n for n in range(12) if outcomes["damaged", f"Cell {n}"]} == {0, 1, 2, 3, 6, 11}


def test_a_notebook_with_an_unexecuted_cell_fails_and_names_the_cell(outcomes):
    assert outcomes["unexecuted", "Cell 1"] == "", "nbval alone lets it pass"
    said = outcomes["unexecuted", "every cell was executed"]
    assert "unexecuted.ipynb has cells that were never executed: total = 2" in said


def test_a_notebook_without_code_fails(outcomes):
    assert "empty.ipynb has no code cells" in outcomes["empty", "every cell was executed"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("<object object at 0x7f04>", "<object object at 0x55aa10>"),
        ("/tmp/ipykernel_12/345.py:1: UserWarning: x", "C:\\Temp\\ipykernel_6\\789.py:1: UserWarning: x"),
        ("saved in '/tmp/tmpab_c0123/model'", "saved in '/var/folders/x1/T/tmp01234567/model'"),
    ],
)
def test_what_is_volatile_is_left_out_of_the_comparison(first, second):
    assert sanitize(first) == sanitize(second) != first


@pytest.mark.parametrize("text", ["mask = 0xff", "2.5 s, 0.913 ± 0.004", "/tmp/tmp", "py:12: UserWarning", "id 140234"])
def test_everything_else_is_compared(text):
    assert sanitize(text) == text


def sanitize(text):
    for pattern, replacement in get_sanitize_patterns(SANITIZER.read_text()):
        text = re.sub(pattern, replacement, text)
    return text


@pytest.mark.parametrize(
    "reach_out",
    [
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
        lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)),
        lambda: socket.socket().connect_ex(("192.0.2.1", 80)),
        lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"", ("192.0.2.1", 53)),
        lambda: socket.getaddrinfo("example.org", 443),
        lambda: socket.getaddrinfo(b"example.org", 443),
        lambda: socket.gethostbyname("example.org"),
        lambda: socket.gethostbyaddr("192.0.2.1"),
        lambda: socket.getnameinfo(("192.0.2.1", 80), 0),
    ],
)
def test_unit_tests_have_no_network(reach_out):
    with pytest.raises(OSError, match="the network is off in lessons and tests: refused"):
        reach_out()


def test_processes_that_unit_tests_start_have_no_network():
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1 and "the network is off" in run.stderr


def test_this_machine_can_be_reached():
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        for host in ("127.0.0.1", "localhost"):
            socket.create_connection((host, server.server_address[1]), timeout=5).close()
    assert socket.getaddrinfo("localhost", 80) and socket.getaddrinfo(None, 80) and socket.getaddrinfo("192.0.2.1", 80)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here")
def test_unix_sockets_are_allowed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    server, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    with server, client:
        server.bind("s")
        server.listen()
        client.connect("s")
