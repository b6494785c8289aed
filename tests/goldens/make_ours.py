"""Save a small classifier as the course does, into the folder `ours` beside this file. See make_goldens.py."""

from pathlib import Path

from flax import nnx

from course_lib.bert import BertConfig, BertForSequenceClassification
from course_lib.checkpoint import save_pretrained

config = BertConfig.tiny(
    vocab_size=50, max_position_embeddings=32, initializer_range=0.3, labels=("delivery", "refund", "Überraschung")
)
save_pretrained(BertForSequenceClassification(config, rngs=nnx.Rngs(7)), Path(__file__).parent / "ours")
