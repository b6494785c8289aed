"""The other side of predict.py: a transformers pipeline on PyTorch, in the environment of peers.py.

python torch_predict.py FOLDER TEXTS     TEXTS: a .json file, a list of texts

Reads lines "BATCH COUNT": labels the first COUNT texts in one call of the pipeline, BATCH at a time, and answers the
seconds; "0 COUNT" calls it once for each text and answers the median seconds of a call.
"""

import json
import statistics
import sys
import time

from transformers import pipeline

folder, path = sys.argv[1:]
with open(path, encoding="utf-8") as file:
    texts = json.load(file)
classify = pipeline("text-classification", model=folder, device="cpu")

for line in sys.stdin:
    batch, count = map(int, line.split())
    if batch:
        started = time.perf_counter()
        assert len(classify(texts[:count], batch_size=batch)) == count
        print(time.perf_counter() - started, flush=True)
        continue
    took = []
    for text in texts[:count]:
        started = time.perf_counter()
        classify(text)
        took.append(time.perf_counter() - started)
    print(statistics.median(took), flush=True)
