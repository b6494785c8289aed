"""Label the texts that it is given: python predict.py "where is it" "I was charged twice"."""

import json
import sys
from pathlib import Path

import jax.export
import numpy as np
from safetensors.flax import load_file
from tokenizers import Tokenizer

if not sys.argv[1:]:
    print(__doc__, file=sys.stderr)
    sys.exit(2)

here = Path(__file__).parent
labels = json.loads((here / "about.json").read_text("utf-8"))["labels"]
tokenizer = Tokenizer.from_file(str(here / "tokenizer.json"))  # it cuts and pads
program = jax.export.deserialize(bytearray((here / "model.stablehlo").read_bytes()))
weights = load_file(here / "weights.safetensors")

texts = tokenizer.encode_batch(sys.argv[1:])
input_ids, mask = np.array([(text.ids, text.attention_mask) for text in texts], np.int32).swapaxes(0, 1)
for row in np.asarray(program.call(weights, input_ids, mask)):
    print(repr(labels[row.argmax()])[1:-1], f"{row.max():.6f}", sep="\t")  # repr: no label drives the terminal
