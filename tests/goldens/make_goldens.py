"""Write the golden arrays that the parity tests compare with: what PyTorch transformers computes.

Needs an environment of its own, since PyTorch is no dependency of the course:

    python -m venv /tmp/goldens && /tmp/goldens/bin/pip install torch transformers
    .venv/bin/python tests/goldens/make_ours.py
    /tmp/goldens/bin/python tests/goldens/make_goldens.py --minilm FOLDER

FOLDER is what `course model` prints. make_ours.py saves a model with the course's own `save_pretrained`; the second
script opens that folder with AutoModelForSequenceClassification and records its logits, which shows that what the
course saves, transformers opens.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
)

HERE = Path(__file__).parent
MINILM = HERE.parent.parent / "course_lib" / "data" / "minilm_reference.npz"  # in the package: lesson 09 shows it


def batch(vocab_size: int, lengths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Random token ids, padded: row i has lengths[i] real tokens; the last row has two segments."""
    rng = np.random.default_rng(0)
    ids = np.zeros((len(lengths), max(lengths)), np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = rng.integers(1, vocab_size, length)
        mask[row, :length] = 1
    types = np.zeros_like(ids)
    types[-1, lengths[-1] // 2 : lengths[-1]] = 1
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return {name: torch.tensor(array) for name, array in arrays.items()}


@torch.no_grad()
def record(file: Path, encoder, inputs: dict, **heads) -> None:
    hidden = encoder(**inputs, output_hidden_states=True).hidden_states
    arrays = {key: value.numpy().astype(np.int32) for key, value in inputs.items()}
    arrays |= {"after_embeddings": hidden[0], "after_layer_1": hidden[1], "at_the_end": hidden[-1]}
    arrays |= {head: model(**inputs).logits for head, model in heads.items()}
    np.savez_compressed(file, **{key: np.asarray(value) for key, value in arrays.items()})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minilm", type=Path, required=True)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    # Large initial values: with BERT's own 0.02 every logit is near zero and a wrong model agrees by luck.
    tiny = BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
                      max_position_embeddings=64, initializer_range=0.3, num_labels=3)  # fmt: skip
    classifier = BertForSequenceClassification(tiny).eval()
    masked_lm = BertForMaskedLM(tiny).eval()
    for module in (classifier, masked_lm):
        for value in module.parameters():  # biases and LayerNorms away from their 0 and 1
            if value.ndim == 1:
                value.data += 0.2 * torch.randn_like(value)
    masked_lm.bert.load_state_dict(classifier.bert.state_dict(), strict=False)
    classifier.save_pretrained(HERE / "tiny")
    masked_lm.save_pretrained(HERE / "tiny_masked_lm")
    inputs = batch(tiny.vocab_size, lengths=(12, 7, 1, 10))
    record(HERE / "tiny.npz", classifier.bert, inputs, classifier=classifier, masked_lm=masked_lm)

    minilm = AutoModel.from_pretrained(arguments.minilm).eval()
    record(MINILM, minilm, batch(minilm.config.vocab_size, lengths=(16, 5, 11)))

    ours = AutoModelForSequenceClassification.from_pretrained(HERE / "ours").eval()
    inputs = batch(ours.config.vocab_size, lengths=(9, 4))
    with torch.no_grad():
        logits = ours(**inputs).logits
    np.savez_compressed(
        HERE / "ours.npz", logits=logits.numpy(), **{k: v.numpy().astype(np.int32) for k, v in inputs.items()}
    )
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "labels": ours.config.id2label}
    (HERE / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
