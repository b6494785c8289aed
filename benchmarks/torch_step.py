"""PyTorch's side of step.py: one training step of transformers' BERT, as a program that waits to be asked.

python torch_step.py FOLDER     in the environment of peers.py; reads lines "LENGTH BATCH STEPS", answers "SECONDS"
"""

import statistics
import sys
import time

import torch
from transformers import AutoModelForSequenceClassification

model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], num_labels=8, ignore_mismatched_sizes=True)
model.train()  # dropout on, as on the other side
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01)


def step(ids, mask, labels):
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


for line in sys.stdin:
    length, batch, steps = map(int, line.split())
    ids = torch.randint(1000, 20_000, (batch, length))
    mask, labels = torch.ones_like(ids), torch.randint(8, (batch,))
    took = []
    for _ in range(steps):
        started = time.perf_counter()
        step(ids, mask, labels)
        took.append(time.perf_counter() - started)
    print(statistics.median(took), flush=True)
