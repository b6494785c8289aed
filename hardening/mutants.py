"""Do the tests notice when the code is wrong? Cosmic Ray changes one operator, number or condition at a time.

    make mutants ARGS="evaluate --sample 40"     all modules, and all mutants, where none is said

Works on a copy of the tree in runs/mutants, a folder and a session each module, so that two modules can run at once.
The same command goes on where an interrupted one stopped; ARGS="evaluate --new" begins again, ARGS="evaluate
--survivors" tries those that survived once more, with the tests as they are now. The table is in hardening/mutants.md,
and the mutants that no test noticed, as diffs, in runs/mutants/MODULE/survivors.txt.

Left out: annotations, which nothing evaluates, and the texts of errors. Of the replacements of an operator only the
nearest is made (+ becomes -, < becomes <=): most others raise an error at once, and flatter.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkResult

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "runs" / "mutants"
TABLE = ROOT / "hardening" / "mutants.md"
TESTS = {  # module → what must notice, first what most often does
    "bert": ["test_bert.py::test_tiny_bert_equals_pytorch_at_every_depth", "test_bert.py", "test_checkpoint.py"],
    "checkpoint": ["test_checkpoint.py"],
    "config_json": ["test_checkpoint.py"],
    "data": ["test_data.py"],
    "evaluate": ["test_evaluate.py"],
    "table_files": ["test_data.py"],
    "train": [
        "test_train.py::test_an_interrupted_run_resumes_to_the_same_parameters_bit_for_bit",
        "test_train.py",
        "test_sharding.py::test_parts_of_a_batch_give_the_gradient_of_the_whole",
        "test_sharding.py::test_rows_that_cannot_be_divided_among_the_devices_are_refused",
    ],
}
COPIED = ("course_lib", "tests", "lessons", "exercises", "pyproject.toml")  # conftest.py serves notebooks, in 8 s
NEAREST = {
    "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Div", "Mod_FloorDiv", "Pow_Mul", "BitOr_BitAnd",
    "BitAnd_BitOr", "LShift_RShift", "RShift_LShift", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Eq_NotEq", "NotEq_Eq",
    "Is_IsNot", "IsNot_Is", "In_NotIn", "NotIn_In",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", help=", ".join(TESTS))
    parser.add_argument("--sample", type=int, help="so many mutants of each module")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--new", action="store_true", help="begin again")
    parser.add_argument("--survivors", action="store_true", help="try only those that survived, with today's tests")
    arguments = parser.parse_args()
    if unknown := set(arguments.modules) - TESTS.keys():
        parser.error(f"no tests are named for {', '.join(sorted(unknown))}; there are {', '.join(TESTS)}")
    for module in arguments.modules or TESTS:
        session = WORK / module / "session.sqlite"
        if arguments.new or not session.exists():
            start(module, arguments.sample, arguments.seed)
        # A mutant that was interrupted has left its change in the tree.
        shutil.copy(WORK / module / "original.py", WORK / module / "tree" / "course_lib" / f"{module}.py")
        if arguments.survivors:
            forget_survivors(module)
        cosmic_ray("exec", module)
        report()


def start(module: str, sample: int | None, seed: int) -> None:
    """A copy of the tree that passes its tests, and a session that holds the mutants to try."""
    folder = WORK / module
    shutil.rmtree(folder, ignore_errors=True)
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / "tree" / name)
    shutil.copy(ROOT / "course_lib" / f"{module}.py", folder / "original.py")
    configure(module)
    cosmic_ray("init", module)
    source = (folder / "original.py").read_text("utf-8")
    with use_db(folder / "session.sqlite", WorkDB.Mode.open) as db:
        items = {item.job_id: item.mutations[0] for item in db.pending_work_items}
        real = sorted(
            (m.start_pos, m.operator_name, m.occurrence, job) for job, m in items.items() if is_real(source, m)
        )
        chosen = real if sample is None else random.Random(seed).sample(real, min(sample, len(real)))
        (folder / "all").write_text(f"{len(real)}\n")
        db.set_multiple_results(
            list(items.keys() - {job for *_, job in chosen}), WorkResult(worker_outcome=WorkerOutcome.SKIPPED)
        )


def test_command(module: str) -> str:
    tests = " ".join(f"tests/{name}" for name in TESTS[module])
    return f"{ROOT}/.venv/bin/python -m pytest -x -q -o addopts= -p no:cacheprovider {tests}"


def configure(module: str) -> None:
    """See that the tests pass without a fault, and how long they take; write what Cosmic Ray runs, and its limit."""
    folder, seconds = WORK / module, []
    for _ in range(2):  # the second finds JAX's programs compiled, as the mutants will
        began = time.monotonic()
        subprocess.run(test_command(module).split(), cwd=folder / "tree", env=environment(folder), check=True)
        seconds.append(time.monotonic() - began)
    (folder / "seconds").write_text(f"{seconds[-1]:.1f}\n")
    (folder / "config.toml").write_text(
        f'[cosmic-ray]\nmodule-path = "course_lib/{module}.py"\ntimeout = {30 + 3 * max(seconds):.0f}.0\n'
        f'excluded-modules = []\ntest-command = "{test_command(module)}"\n[cosmic-ray.distributor]\nname = "local"\n'
    )


def forget_survivors(module: str) -> None:
    """What survived is pending again, and meets the tests as they are now."""
    shutil.copytree(ROOT / "tests", WORK / module / "tree" / "tests", dirs_exist_ok=True)
    configure(module)
    session, half = (WORK / module / name for name in ("session.sqlite", "half.sqlite"))
    shutil.copy(session, half)  # renamed once it is complete: interrupted, nothing that was tried is lost
    with use_db(half, WorkDB.Mode.open) as db:
        tried, all_items = db.completed_work_items, db.work_items
        db.clear()
        db.add_work_items(all_items)
        for item, result in tried:
            if result.test_outcome != TestOutcome.SURVIVED:
                db.set_result(item.job_id, result)
    half.replace(session)


def is_real(source: str, mutation: MutationSpec) -> bool:
    kind = mutation.operator_name.removeprefix("core/")
    if found := re.fullmatch(r"Replace(?:Binary|Comparison)Operator_(\w+)", kind):
        if found[1] not in NEAREST:
            return False
    place = tuple(mutation.start_pos)
    return not any(begin <= place < end for begin, end in unmutated(source))


def unmutated(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """(line, column) of the begin and of the end of each annotation, alias of a type, and text of an error."""
    for node in ast.walk(ast.parse(source)):
        skipped = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.Raise):
            skipped += [one for one in ast.walk(node) if isinstance(one, ast.JoinedStr)]
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.BitOr):
            names = [one for one in ast.walk(node.value) if isinstance(one, ast.Name)]
            skipped += [node.value] if all(one.id[:1].isupper() for one in names) and names else []
        for one in filter(None, skipped):
            yield (one.lineno, one.col_offset), (one.end_lineno, one.end_col_offset)


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        # Before the clone, which is installed in place; and the network is off, as conftest.py has it.
        "PYTHONPATH": os.pathsep.join([str(folder / "tree" / "tests" / "offline"), str(folder / "tree")]),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def cosmic_ray(command: str, module: str) -> None:
    folder = WORK / module
    tool = [Path(sys.executable).with_name("cosmic-ray"), command, folder / "config.toml", folder / "session.sqlite"]
    subprocess.run(tool, cwd=folder / "tree", env=environment(folder), check=True)


def report() -> None:
    """Writes the table of all sessions that there are, and beside each session what survived."""
    rows = []
    for module in TESTS:
        folder = WORK / module
        if not (folder / "all").exists():
            continue
        with use_db(folder / "session.sqlite", WorkDB.Mode.open) as db:
            results = [result for _, result in db.results if result.worker_outcome != WorkerOutcome.SKIPPED]
        count = Counter("timed out" if "timeout" in (one.output or "")[:20] else one.test_outcome for one in results)
        survived = [one.diff or "" for one in results if one.test_outcome == TestOutcome.SURVIVED]
        (folder / "survivors.txt").write_text("\n\n".join(survived) + "\n", "utf-8")
        caught = len(results) - len(survived)
        share = f"{caught / len(results):.0%}" if results else ""
        cells = [f"`{module}.py`", (folder / "all").read_text().strip(), len(results), caught, count["timed out"],
                 len(survived), share, (folder / "seconds").read_text().strip()]  # fmt: skip
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    head = [
        "| module | mutants | tried | caught | of these by time | survived | caught | its tests, s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    before, rest = TABLE.read_text("utf-8").split("<!-- table -->\n")
    after = rest.partition("<!-- end -->\n")[2]
    TABLE.write_text("\n".join([f"{before}<!-- table -->", *head, *rows, f"<!-- end -->\n{after}"]), "utf-8")
    print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
