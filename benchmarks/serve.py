"""`course serve` under load, beside the server of transformers' documentation on the same weights.

    .venv/bin/python benchmarks/serve.py [--seconds 10] [--env FOLDER]

Takes about 5 minutes on 2 cores, and once some minutes more to make the other server's environment, with PyTorch,
transformers and Locust, under the course's cache (or FOLDER). All of it stays on this machine: every server listens on
127.0.0.1, and every load is bounded in callers and in time. Writes benchmarks/serve.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
from machine import machine
from peers import FOLDER, peers_python, peers_versions

from course_lib.data import load_tickets
from course_lib.finetune import tickets_router
from course_lib.start import large_pages

HERE = Path(__file__).resolve().parent
CALLERS = (1, 8, 64)
OVERLOAD = 400  # callers: more than the queue takes


@contextlib.contextmanager
def running(command: list) -> Iterator[str]:
    """The server that `command` starts on the port that it is given last → its URL, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([str(part).replace("PORT", str(port)) for part in command], stderr=subprocess.PIPE)
    try:
        for _ in range(600):
            assert process.poll() is None, process.stderr.read().decode()
            with contextlib.suppress(httpx.TransportError):
                answer = httpx.post(f"{url}/predict", json={"text": "where is it"}, timeout=60, trust_env=False)
                assert answer.status_code == 200, answer.text
                break
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(60)
        process.stderr.close()


def load(python: Path, url: str, callers: int, seconds: float, folder: Path) -> dict:
    """What `callers` got in `seconds`, once all of them are there: {"seconds": …, "answers": {status: […]}}."""
    result, warm_up = folder / "result.json", 2 + callers / 100
    names = {"LOAD_TEXTS": str(folder / "texts.json"), "LOAD_RESULT": str(result), "LOAD_WARM_UP": str(warm_up)}
    command = [python, "-m", "locust", "-f", HERE / "load.py", "--headless", "--users", callers, "--spawn-rate", 100,
               "--run-time", f"{round(seconds + warm_up)}s", "--stop-timeout", "20", "--host", url]  # fmt: skip
    ran = subprocess.run(list(map(str, command)), env=os.environ | names, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(result.read_text())


def row(name: str, callers: int, measured: dict) -> tuple[str, float]:
    answers = measured["answers"]
    right = 1000 * np.array(answers.get("200", []))
    rate = len(right) / measured["seconds"]
    refused = len(answers.get("503", []))
    lost = sum(len(times) for status, times in answers.items() if status not in ("200", "503"))
    p50, p99 = np.percentile(right, [50, 99])
    line = f"| {name} | {callers} | {rate:.0f} | {p50:.0f} | {p99:.0f} | {refused} | {lost} |"
    print(line, flush=True)
    return line, rate


def main() -> None:
    os.environ |= large_pages()  # for all servers, as the script `course` has it
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="for one measurement")
    parser.add_argument("--env", type=Path, default=FOLDER, help="the other environment")
    arguments = parser.parse_args()
    python = peers_python(arguments.env)
    router = tickets_router()
    course = [Path(sys.executable).with_name("course"), "serve", router, "--port", "PORT"]
    servers = {
        "transformers, one at a time": [python, HERE / "plain_server.py", router, "PORT", "plain"],
        "transformers, batched": [python, HERE / "plain_server.py", router, "PORT", "batched"],
        "`course serve`": course,
    }
    lines, rates = [], {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "texts.json").write_text(json.dumps(load_tickets("test").texts))
        for name, command in servers.items():
            with running(command) as url:
                for callers in CALLERS:
                    line, rates[name, callers] = row(
                        name, callers, load(python, url, callers, arguments.seconds, folder)
                    )
                    lines.append(line)
        with running(course) as url:
            measured = load(python, url, OVERLOAD, arguments.seconds, folder)
            lines.append(row("`course serve`, overloaded", OVERLOAD, measured)[0])
    import jax

    plain, batched, ours = (rates[name, max(CALLERS)] for name in servers)
    software = f"jax {jax.__version__}, {peers_versions(python)}"
    text = f"""\
# The service under load

Written by `benchmarks/serve.py`. Servers and callers share {machine()}; {software};
the same weights everywhere, in float32. Each caller sends one of the tickets' test messages, waits for the answer and
sends the next, for {arguments.seconds:g} seconds. *Refused* are answers 503 with Retry-After, which these callers
do not obey; *lost* are requests without an answer.

| server | callers | answers/s | p50, ms | p99, ms | refused | lost |
|---|---:|---:|---:|---:|---:|---:|
{chr(10).join(lines)}

With {max(CALLERS)} callers `course serve` gives {ours / plain:.1f} times the answers of transformers' server that
takes one at a time, and {ours / batched:.1f} times those of the one that batches.
"""
    (HERE / "serve.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
