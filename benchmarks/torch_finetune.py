"""The other side of score.py: transformers' Trainer, in the environment of peers.py.

python torch_finetune.py FOLDER TRAIN DEV EPOCHS RATE BATCH PADDING     PADDING: longest (of the batch) or 128

TRAIN and DEV are tables text,label. Prints "epoch N: ACCURACY" after each epoch.
"""

import csv
import sys
import tempfile

from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

folder, train, dev, epochs, rate, batch, padding = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
fixed = {} if padding == "longest" else {"padding": "max_length"}


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=128, **fixed)
    return [{**{key: encoded[key][i] for key in encoded}, "labels": int(row["label"])} for i, row in enumerate(rows)]


class Say(TrainerCallback):
    def on_evaluate(self, args, state, control, metrics, **_):
        print(f"epoch {state.epoch:.0f}: {metrics['eval_accuracy']:.4f}", flush=True)


with tempfile.TemporaryDirectory() as out:
    settings = TrainingArguments(
        out, num_train_epochs=int(epochs), learning_rate=float(rate), warmup_steps=0.1, weight_decay=0.01,
        per_device_train_batch_size=int(batch), per_device_eval_batch_size=int(batch), eval_strategy="epoch",
        save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, seed=0,
    )  # fmt: skip
    Trainer(
        AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2),
        settings,
        train_dataset=read(train),
        eval_dataset=read(dev),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda got: {"accuracy": float((got.predictions.argmax(-1) == got.label_ids).mean())},
        callbacks=[Say()],
    ).train()
