"""What comes from elsewhere runs no program here: hashes for what is installed, no pickles, no code out of a model."""

import ast
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib import CourseError
from course_lib.checkpoint import load_pretrained, save_pretrained
from course_lib.data import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
LICENCES = runpy.run_path(str(ROOT / "hardening" / "licences.py"))
SOURCES = sorted(
    path
    for folder in ("course_lib", "lessons", "benchmarks", "hardening", "tests")
    for path in [*(ROOT / folder).rglob("*.py"), ROOT / "conftest.py"]
    if path.name != "conftest.py" or folder == "tests"
)

# Each of these runs what stands in the file that it opens.
LOADERS = re.compile(
    r"(_?pickle|dill|cloudpickle)\.(loads?|Unpickler|_?loads?)|marshal\.loads?|shelve\.open|joblib\.load|torch\.(load|hub\.load)"
    r"|pandas\.read_pickle|yaml\.(unsafe_load(_all)?|full_load(_all)?|load(_all)?)|.*\.deserialize_and_load"
)
# The answer's expression comes from exercises/; a lesson's own cells are run to test them.
EVALUATES = {("course_lib/grade_one.py", "eval"), ("tests/exercise_contract.py", "exec")}


def dangers(source, file="some.py"):
    """(line, what) for each call that unpickles, runs text as a program or lets a model bring its own."""
    tree, names = ast.parse(source), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                one.asname or one.name.partition(".")[0]: one.name if one.asname else one.name.partition(".")[0]
                for one in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            names |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):  # also where it is passed on: map(pickle.loads, …)
            first, dot, rest = ast.unparse(node).partition(".")
            called = names.get(first, first) + dot + rest
            if LOADERS.fullmatch(called) and (first in names or called == ".deserialize_and_load"):
                yield node.lineno, called
            elif called in ("eval", "exec") and (file, called) not in EVALUATES:
                yield node.lineno, called
        elif isinstance(node, ast.Call):
            for word in node.keywords:
                wrong = word.arg in ("allow_pickle", "trust_remote_code")
                if wrong and not (isinstance(word.value, ast.Constant) and word.value.value is False):
                    yield node.lineno, word.arg


def test_no_source_unpickles_or_runs_what_it_reads():
    assert len(SOURCES) > 100
    found = {}
    for path in SOURCES:
        file = path.relative_to(ROOT).as_posix()
        found |= {f"{file}:{line}": what for line, what in dangers(path.read_text("utf-8"), file)}
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(file)",
        "import pickle as p\nlist(map(p.loads, rows))",
        "from pickle import Unpickler as U\nU(file).load()",
        "import torch\ntorch.load(path, weights_only=False)",
        "from joblib import load\nload(path)",
        "import pandas as pd\npd.read_pickle(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=choice)",
        "AutoTokenizer.from_pretrained(folder, trust_remote_code=True)",
        "AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)",
        "import yaml\nyaml.load(file)",
        "exec(response.text)",
        "def f():\n    import marshal\n    return eval(marshal.loads(rest))",
    ],
)
def test_the_search_finds(source):
    assert list(dangers(source))


@pytest.mark.parametrize(
    "source",
    [
        "'''pickle.load(file) and eval(text)'''",
        "import pickle\npickle.dumps(hostile)",
        "import numpy as np\nnp.load(path)\nnp.load(path, allow_pickle=False)",
        "import json\njson.load(file)\nmodel.eval()",
        "AutoTokenizer.from_pretrained(folder, trust_remote_code=False)",
    ],
)
def test_the_search_leaves_alone(source):
    assert not list(dangers(source))


# A process in which whatever looks up a class or a function for a pickle is written down.
WATCHED = """
import sys
found = []
sys.addaudithook(lambda event, args: found.append(args) if event == "pickle.find_class" else None)
{}
print("unpickled:", found)
"""
USE = """
import numpy as np
from course_lib.checkpoint import load_pretrained
from course_lib.predict import Predictor
from course_lib.pretrained import fetch
load_pretrained(fetch(), labels=["a", "b"])
assert len(Predictor(sys.argv[1])(["where is my parcel"])) == 1
"""


def watched(code, *arguments):
    command = [sys.executable, "-c", WATCHED.format(code), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr[-1000:]
    return ran.stdout


@pytest.fixture
def folder(tmp_path, tiny_folder, tokenizer):
    return save_pretrained(load_pretrained(tiny_folder, labels=["no", "yes"]), tmp_path / "model", tokenizer)


def test_loading_a_model_and_using_it_unpickles_nothing(folder):
    assert watched("import pickle, pathlib; pickle.loads(pickle.dumps(pathlib.Path('x')))").count("Path") == 1
    assert watched(USE, folder) == "unpickled: []\n"


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | fields), "utf-8")


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("folder", "BertTokenizerFast"),
        ("folder", "OwnTokenizer"),
        ("hub", "OwnTokenizer"),
        ("no config", "OwnTokenizer"),
    ],
)
def test_a_models_own_program_is_never_run(folder, tmp_path, monkeypatch, where, name):
    ran = tmp_path / "it ran"
    program = f"open({str(ran)!r}, 'w')\nfrom transformers import BertConfig, BertTokenizerFast\n"
    program += "class OwnTokenizer(BertTokenizerFast): pass\nclass OwnConfig(BertConfig): pass\nclass OwnModel: pass\n"
    (folder / "own.py").write_text(program, "utf-8")
    place = "somebody/else--own" if where == "hub" else "own"
    auto_map = {"AutoTokenizer": [None, f"{place}.OwnTokenizer"]}
    change(folder / "tokenizer_config.json", tokenizer_class=name, auto_map=auto_map)
    change(
        folder / "config.json",
        auto_map={"AutoConfig": f"{place}.OwnConfig", "AutoModelForSequenceClassification": f"{place}.OwnModel"},
    )
    monkeypatch.setattr("builtins.input", lambda _: "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert load_pretrained(folder).config.labels == ("no", "yes")
    if where == "no config":  # then transformers knows no tokenizer of its own for it, and asks
        (folder / "config.json").unlink()
    try:
        assert load_tokenizer(folder)("where")["input_ids"]
    except CourseError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
    assert not ran.exists()


def test_that_program_would_run_if_it_were_let(folder, tmp_path, monkeypatch):
    """Without this, the test above could pass because the folder is no temptation."""
    import transformers

    ran = tmp_path / "it ran"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    program = f"open({str(ran)!r}, 'w')\nfrom transformers import BertTokenizerFast\n"
    (folder / "own.py").write_text(program + "class OwnTokenizer(BertTokenizerFast): pass\n", "utf-8")
    auto_map = {"AutoTokenizer": [None, "own.OwnTokenizer"]}
    change(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=auto_map)
    trusting = {"trust_remote_code": True}
    transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, **trusting)
    assert ran.exists()


def test_every_pin_has_its_hashes():
    locks = [*ROOT.glob("requirements*.lock"), *ROOT.glob("hardening/requirements*.lock")]
    assert len(locks) == 5
    for path in locks:
        lock = path.read_text("utf-8")
        lines = [line for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
        assert lines and len(LICENCES["pins"](lock)) == len(lines), path.name
        assert not re.search(r"(?m)^(-e|--?\w+index|git\+|https?:)|@ ", lock), path.name


# Installs without hashes that the course speaks of, and why.
UNHASHED = {
    "--no-deps --no-build-isolation -e .": "the course itself, from its clone",
    "./loss_to_bert-0.1.0-py3-none-any.whl": "on Colab, whose own packages stay",
}


def test_installs_are_checked_against_hashes():
    commands = []
    for name in ("README.md", "Makefile"):
        text = (ROOT / name).read_text("utf-8").replace("\\\n", " ")
        commands += re.findall(r"pip\S* install ([^\n`&]*)", text)
    assert len(commands) >= 6
    wrong = [one for one in commands if "--require-hashes" not in one and not any(why in one for why in UNHASHED)]
    assert not wrong


def test_the_table_of_licences_is_that_of_the_lock():
    rows = re.findall(r"^\| (\S+) \| (\d\S*) \| (.+) \|$", LICENCES["TABLE"].read_text("utf-8"), re.MULTILINE)
    licences = {(name, version): licence for name, version, licence in rows}
    assert licences.keys() == LICENCES["pins"](LOCK).keys(), "run: make licences"
    assert not [row for row in licences.items() if not LICENCES["is_allowed"](row[1])]
    installed = dict(LICENCES["installed"](licences))
    assert len(installed) > 150 and {pin: licences[pin] for pin in installed} == installed, "run: make licences"


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("MPL-2.0 AND MIT", True),
        ("MIT OR GPL-3.0-only", True),
        ("(MIT OR GPL-3.0-only) AND BSD-3-Clause", True),
        ("GPL-3.0-only", False),
        ("MIT AND LGPL-2.1-or-later", False),
        ("MIT OR Apache-2.0 AND GPL-2.0", False),
        ("UNKNOWN", False),
        ("", False),
    ],
)
def test_which_licences_are_allowed(licence, allowed):
    assert LICENCES["is_allowed"](licence) is allowed


def test_the_bill_of_materials_names_what_is_installed(tmp_path):
    """`make sbom`, without the validation against its schema, which takes half a minute."""
    lines = (ROOT / "Makefile").read_text("utf-8").replace("\\\n", " ").split("\nsbom:")[1].splitlines()
    command = next(line for line in lines if "cyclonedx-py" in line).split("&&")[0].strip().removeprefix("@")
    command = command.replace("$(BIN)", str(Path(sys.executable).parent)).replace("dist/sbom.json", f"{tmp_path}/bom")
    subprocess.run([*command.split(), "--no-validate"], cwd=ROOT, check=True, timeout=60, capture_output=True)
    bom = json.loads((tmp_path / "bom").read_text("utf-8"))
    assert bom["bomFormat"] == "CycloneDX" and bom["metadata"]["component"]["name"] == "loss-to-bert"
    named = {(re.sub(r"[-_.]+", "-", one["name"]).lower(), one["version"]) for one in bom["components"]}
    assert dict(LICENCES["installed"](LICENCES["pins"](LOCK))).keys() <= named
    assert str(ROOT) not in (tmp_path / "bom").read_text("utf-8")
