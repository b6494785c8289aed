"""Between config.json, as the Hugging Face Hub has it, and `bert.BertConfig`."""

from __future__ import annotations

import json
from pathlib import Path

from course_lib import HALF_A_CHARACTER, CourseError
from course_lib.bert import ACTIVATIONS, BertConfig


def read_config(folder: str | Path) -> tuple[BertConfig, tuple[str, ...]]:
    """config.json → the model's shape, and the class names it was fine-tuned for (none: an empty tuple).

    Raises CourseError naming everything that this BERT cannot represent.
    """
    path = Path(folder) / "config.json"
    try:
        raw = json.loads(path.read_text("utf-8"))
        if not isinstance(raw, dict):
            raise ValueError("not a JSON object")
    except FileNotFoundError:
        raise CourseError(f"{folder}: no config.json; a model folder has config.json and model.safetensors") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CourseError(f"{path}: cannot be read as JSON ({error})") from None
    if raw.get("model_type") != "bert":
        raise CourseError(f"{path}: model_type is {raw.get('model_type')!r}, not 'bert'; choose a BERT")

    problems, sizes = [], {}
    for field in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
                  "max_position_embeddings", "type_vocab_size"):  # fmt: skip
        value = raw.get(field, getattr(BertConfig, field))
        most = 1_000 if field == "num_hidden_layers" else 2**31 - 1  # layers are laid out before weights are compared
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            problems.append(f"{field} is {value!r}, not a whole number from 1 to {most:,}")
        sizes[field] = value
    for field in ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps"):
        value = raw.get(field, getattr(BertConfig, field))
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
            problems.append(f"{field} is {value!r}, not a number from 0 to 1")
        sizes[field] = value
    sizes["hidden_act"] = raw.get("hidden_act", BertConfig.hidden_act)
    if sizes["hidden_act"] not in tuple(ACTIVATIONS):  # a tuple: what stands there may be a list, which has no hash
        problems.append(f"hidden_act is {sizes['hidden_act']!r}, supported are {', '.join(ACTIVATIONS)}")
    if raw.get("position_embedding_type", "absolute") != "absolute":
        problems.append(f"position_embedding_type is {raw['position_embedding_type']!r}, supported is 'absolute'")
    for field in ("is_decoder", "add_cross_attention"):
        if raw.get(field):
            problems.append(f"{field} is true, this model is an encoder")
    if raw.get("tie_word_embeddings", True) is not True:
        problems.append("tie_word_embeddings is false, this model's vocabulary layer is the word table")
    id2label = raw.get("id2label") or {}
    if not isinstance(id2label, dict) or sorted(id2label) != sorted(str(i) for i in range(len(id2label))):
        problems.append("id2label does not number its labels from 0")
    elif len({name for name in id2label.values() if isinstance(name, str)}) < len(id2label):
        problems.append("id2label has labels that are not text, or the same one twice")
    elif HALF_A_CHARACTER.search("".join(id2label.values())):
        problems.append("id2label has a label with half a character (\\ud800 to \\udfff)")
    if problems:
        raise CourseError(f"{path}: " + "; ".join(problems))
    try:
        return BertConfig(**sizes), tuple(id2label[str(i)] for i in range(len(id2label)))
    except ValueError as error:
        raise CourseError(f"{path}: {error}") from None


def config_to_json(model) -> dict:
    """What config.json says of a model of `bert.py`, so that transformers opens it."""
    fields = {name: value for name, value in vars(model.config).items() if name != "labels"}
    names = dict(enumerate(model.config.labels))
    return {
        "architectures": [type(model).__name__],
        "model_type": "bert",
        **fields,
        **({"id2label": names, "label2id": {name: i for i, name in names.items()}} if names else {}),
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
    }
