"""The licence of every package in requirements.lock, as its own metadata states it: hardening/licences.md.

    .venv/bin/python hardening/licences.py

The lock holds packages for other systems and other versions of Python, too. Their metadata is read from the wheels
that uv fetches for those, checked against the lock's hashes. A licence that is unknown or not allowed is an error.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from email.message import Message
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "hardening" / "licences.md"
PIN = re.compile(r"^([\w.-]+)==([^\s;]+).*\\\n(?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", re.MULTILINE)
OTHER_SYSTEMS = [("linux", "3.11.0"), ("linux", "3.13"), ("macos", "3.13"), ("windows", "3.13")]

# All but MPL-2.0 only ask to be named. MPL-2.0 asks that changes to its own files stay open; we change none.
ALLOWED = {"0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-0",
           "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib"}  # fmt: skip
# What packages wrote before there were licence expressions (PEP 639) → SPDX identifier.
SPELLINGS = {
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def pins(lock: str) -> dict[tuple[str, str], str]:
    """(package, version) → its part of requirements.lock."""
    return {(found[1], found[2]): found[0] for found in PIN.finditer(lock)}


def licence(metadata: Message) -> str:
    """An SPDX expression, or UNKNOWN. The field License often holds a text, of which only a known first line counts."""
    if stated := metadata.get("License-Expression"):
        return stated
    stated = (metadata.get("License") or "").strip().partition("\n")[0]
    if SPELLINGS.get(stated, stated) in ALLOWED or re.fullmatch(r"[\w.-]+( (AND|OR) [\w.-]+)+", stated):
        return SPELLINGS.get(stated, stated)
    kinds = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", []) if line.startswith("License ::")]
    kinds = [SPELLINGS.get(kind, kind) for kind in kinds if kind != "OSI Approved"]
    return " AND ".join(sorted(set(kinds))) or "UNKNOWN"


def is_allowed(expression: str) -> bool:
    """Whether every licence that applies is in ALLOWED; of alternatives (OR), one is enough."""
    parts = expression.replace("(", " ").replace(")", " ").split(" AND ")
    return all(any(one.strip() in ALLOWED for one in part.split(" OR ")) for part in parts)


def installed(packages: Iterable[tuple[str, str]], folder: Path | None = None) -> Iterator[tuple[tuple[str, str], str]]:
    """((package, version), licence) for those of `packages` that are installed, here or in `folder`."""
    packages = set(packages)
    where = {} if folder is None else {"path": [str(folder)]}
    for found in importlib.metadata.distributions(**where):
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
        if (name, found.version) in packages:
            yield (name, found.version), licence(found.metadata)


def table(licences: dict[tuple[str, str], str]) -> str:
    rows = [f"| {name} | {version} | {licences[name, version]} |" for name, version in sorted(licences)]
    return "\n".join(
        [
            "# The licences of what is installed",
            "",
            "Made by `make licences` from the packages' own metadata; `tests/test_supply_chain.py` holds it against",
            "`requirements.lock`. Binary wheels also bundle libraries, and carry their licences in their `dist-info`.",
            "",
            "Not here, because nobody gets it who does not ask for it: `requirements-cuda12.lock` holds libraries",
            "under NVIDIA's own licence, `requirements-tpu.lock` one under Google's; both are free of charge, closed.",
            "",
            "| package | version | licence |",
            "| --- | --- | --- |",
            *rows,
            "",
        ]
    )


def main() -> None:
    wanted = pins((ROOT / "requirements.lock").read_text("utf-8"))
    licences = dict(installed(wanted))
    for system, python in OTHER_SYSTEMS:
        missing = wanted.keys() - licences.keys()
        if not missing:
            break
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "missing.txt").write_text("".join(wanted[pin] for pin in missing), "utf-8")
            command = f"pip install --quiet --require-hashes --no-deps --only-binary :all: --python-platform {system}"
            command += f" --python-version {python} --target {folder}/site -r {folder}/missing.txt"
            subprocess.run([Path(sys.executable).with_name("uv"), *command.split()], check=True)
            licences |= installed(missing, Path(folder) / "site")
    licences |= dict.fromkeys(wanted.keys() - licences.keys(), "UNKNOWN")
    wrong = [f"{name} {version}: {licences[name, version]}" for name, version in sorted(licences)
             if not is_allowed(licences[name, version])]  # fmt: skip
    if wrong:
        print(f"error: licences that are not allowed: {'; '.join(wrong)}", file=sys.stderr)
        sys.exit(2)
    TABLE.write_text(table(licences), "utf-8")
    print(f"{TABLE.relative_to(ROOT)}: {len(licences)} packages")


if __name__ == "__main__":
    main()
