"""PyTorch's side of step.py: one training step of transformers' BERT, as a program that waits to be asked.

python torch_step.py FOLDER DTYPE     in the environment of peers.py

Reads lines "LENGTH BATCH STEPS", answers "SECONDS PEAK": the seconds of a step, and the most bytes held on the GPU. On
a GPU the model is compiled and bfloat16 is autocast, with transformers' SDPA attention, its default.
"""

import sys
import time

import torch
from transformers import AutoModelForSequenceClassification

folder, dtype = sys.argv[1:]
device = "cuda" if torch.cuda.is_available() else "cpu"
model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=8, ignore_mismatched_sizes=True)
model.to(device).train()  # dropout on, as on the other side
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01, fused=device == "cuda")
run = torch.compile(model, dynamic=False) if device == "cuda" else model


def step(ids, mask, labels):
    with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
        loss = run(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


for line in sys.stdin:
    length, batch, steps = map(int, line.split())
    ids = torch.randint(1000, 20_000, (batch, length), device=device)
    mask, labels = torch.ones_like(ids), torch.randint(8, (batch,), device=device)
    started = time.perf_counter()
    for _ in range(steps):
        step(ids, mask, labels)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / steps
    print(seconds, torch.cuda.max_memory_allocated() if device == "cuda" else 0, flush=True)
