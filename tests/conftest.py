"""What several test files need: a small BERT that trains in seconds, the real tokenizer, the command, a full disk."""

import contextlib
import sys

import pytest


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """JAX keeps every program that it compiled: over the whole suite that came to 5 GB."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="session")
def tokenizer():
    from course_lib.data import load_tokenizer
    from course_lib.pretrained import fetch

    return load_tokenizer(fetch())


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory, tokenizer):
    """bert_folder(layers) → the folder of a BERT of width 32, 64 positions, BERT's vocabulary; no classifier yet."""
    from flax import nnx

    from course_lib.bert import BertConfig, BertModel
    from course_lib.checkpoint import save_pretrained

    def make(layers):
        config = BertConfig.tiny(num_hidden_layers=layers, max_position_embeddings=64, initializer_range=0.1)
        return save_pretrained(BertModel(config, rngs=nnx.Rngs(0)), tmp_path_factory.mktemp("bert") / "bert", tokenizer)

    return make


@pytest.fixture(scope="session")
def tiny_folder(bert_folder):
    return bert_folder(2)


@pytest.fixture
def course(monkeypatch, capsys):
    """course("evaluate", …) → (exit code, stdout, stderr)."""
    from course_lib import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["course", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def full_disk():
    """full_disk(size): no file may grow beyond `size` bytes; the system refuses, as it does when a disk is full."""
    import resource

    @contextlib.contextmanager
    def limit(size: int):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture
def compilations():
    """with compilations() as names: … → the names of JAX's events that have to do with compiling, as they happen."""
    from jax import monitoring

    @contextlib.contextmanager
    def listen():
        names = []

        def listener(name, *_, **__):
            if "compile" in name:
                names.append(name)

        monitoring.register_event_duration_secs_listener(listener)
        try:
            yield names
        finally:
            monitoring.unregister_event_duration_listener(listener)

    return listen
