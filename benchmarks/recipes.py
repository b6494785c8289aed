"""Which recipe? Cross-validation on training and validation messages, so that the test messages choose nothing.

    .venv/bin/python benchmarks/recipes.py

Counting words, fine-tuning as `course finetune` does it, and the same with dropout, on five folds of the tickets' 1,061
training and validation messages. Messages alike in meaning (cosine of the pretrained model's sentence vectors above
0.65, as in the data card) stay in one fold. Each counts as it is after its last epoch: nothing is chosen on a
held-out fold either. About a quarter of an hour on 2 cores. Writes benchmarks/recipes.md.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from machine import machine
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from course_lib.bert import BertModel
from course_lib.checkpoint import load_pretrained
from course_lib.data import Examples, class_indices, load_tickets, load_tokenizer, tokenize
from course_lib.evaluate import evaluate, mean_sd, tfidf_baseline
from course_lib.predict import embed
from course_lib.pretrained import MODEL, fetch
from course_lib.train import TrainConfig, fit

ALIKE = 0.65
RECIPES = {
    "count words": None,
    "fine-tuned": TrainConfig(patience=99),
    "fine-tuned, with dropout": TrainConfig(patience=99, dropout=True),
}


def main() -> None:
    tables = [load_tickets(split) for split in ("train", "validation")]
    teams, tokenizer = tables[0].classes, load_tokenizer(fetch(MODEL))
    texts = [text for table in tables for text in table.texts]
    labels = np.concatenate([class_indices(table, teams) for table in tables])
    examples = tokenize(tokenizer, texts, 128, labels)
    vectors = embed(load_pretrained(fetch(MODEL), architecture=BertModel), examples)
    groups = connected_components(vectors @ vectors.T > ALIKE)[1]
    folds = list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(labels, labels, groups))

    def part(rows):
        return Examples([examples.token_ids[i] for i in rows], labels[rows])

    def score(config, fold, train, held_out):
        if config is None:
            model = tfidf_baseline([texts[i] for i in train], [teams[labels[i]] for i in train])
            predicted = [teams.index(team) for team in model.predict([texts[i] for i in held_out])]
            return evaluate(labels[held_out], np.array(predicted), teams).macro_f1
        model = load_pretrained(fetch(MODEL), labels=teams, seed=fold)
        return fit(model, part(train), part(held_out), config)[-1]["validation_macro_f1"]

    words, lines = [], []
    for name, config in RECIPES.items():
        scores = [score(config, fold, *rows) for fold, rows in enumerate(folds)]
        words = words or scores
        (mean, sd), lead = mean_sd(scores), 100 * np.subtract(scores, words)
        each = " ".join(f"{value:.3f}" for value in scores)
        ahead = f"{lead.mean():+.1f} ± {lead.std(ddof=1):.1f}" if config else ""
        lines.append(f"| {name} | {mean:.3f} ± {sd:.3f} | {each} | {ahead} |")
        print(lines[-1], flush=True)
    text = f"""\
# Which recipe?

Written by `benchmarks/recipes.py`, which says how. Macro-F1 on five folds of the tickets' training and validation
messages, mean ± sd of the folds; on {machine()}, jax {jax.__version__}.

| | macro-F1 | each fold | points ahead of counting words |
|---|---|---|---|
{chr(10).join(lines)}
"""
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
