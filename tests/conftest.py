"""What several test files need: a folder with a BERT small enough to train in seconds, and the real tokenizer."""

import pytest


@pytest.fixture(scope="session")
def tokenizer():
    from course_lib.data import load_tokenizer
    from course_lib.pretrained import fetch

    return load_tokenizer(fetch())


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, tokenizer):
    """Two layers, width 32, 64 positions, BERT's vocabulary; no classifier yet."""
    from flax import nnx

    from course_lib.bert import BertConfig, BertModel
    from course_lib.checkpoint import save_pretrained

    config = BertConfig.tiny(max_position_embeddings=64, initializer_range=0.1)
    return save_pretrained(BertModel(config, rngs=nnx.Rngs(0)), tmp_path_factory.mktemp("tiny") / "bert", tokenizer)
