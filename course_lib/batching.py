"""Dynamic batching: texts that different people send at about the same time share one run of the model.

A request that is answered alone leaves most of a processor idle. So what arrives is put into a queue, and whenever the
model is free, the oldest text leaves together with others of about its length. Nobody waits for a batch to fill up for
longer than `max_wait`; under load nobody waits at all, because the queue fills while the model is busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from course_lib.cache import compiled, hand_back_memory
from course_lib.predict import LENGTHS, Predictor

MAX_BATCH = 32  # texts in one run, of up to 32 tokens; of longer ones fewer, so that nobody waits for seconds


class QueueFull(Exception):
    """More is waiting than may wait. `retry_after`: in how many seconds (whole, at least 1) there should be room."""

    def __init__(self, retry_after: int):
        super().__init__(f"too many texts are waiting; try again in {retry_after} s")
        self.retry_after = retry_after


def _probabilities(graph, params, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
    return jax.nn.softmax(nnx.merge(graph, params)(input_ids, attention_mask))


class ServedModel:
    """A fine-tuned model with one compiled program for each shape that a batch can have.

    All are compiled when it is made, and only those are called: no request ever waits for a compiler.
    """

    def __init__(self, folder: str | Path, lengths: Sequence[int] = LENGTHS, max_batch: int = MAX_BATCH):
        """Raises CourseError where `folder` holds no fine-tuned classifier with its tokenizer."""
        predictor = Predictor(folder)
        self.name = Path(folder).resolve().name
        self.labels = predictor.labels
        longest = predictor.max_length
        self.lengths = (*(length for length in sorted(lengths) if length < longest), min(max(lengths), longest))
        # transformers sets padding and truncation anew in every call, which two threads must not do at once. What
        # does the work underneath is set once, here, and is then safe to share.
        self._tokenizer = predictor.tokenizer.backend_tokenizer
        self._tokenizer.enable_truncation(self.lengths[-1])
        self._tokenizer.no_padding()

        graph, self._params = nnx.split(predictor.model, nnx.Param)

        def program(shape: tuple[int, int]):
            ids = jax.ShapeDtypeStruct(shape, np.int32)
            return compiled(_probabilities, "graph").lower(graph, self._params, ids, ids).compile()

        self._rows = {length: row_counts(min(max_batch, 32 * max_batch // length or 1)) for length in self.lengths}
        shapes = [(rows, length) for length, counts in self._rows.items() for rows in counts]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self._programs = dict(zip(shapes, pool.map(program, shapes), strict=True))
        hand_back_memory()

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(texts, tokens) of every compiled program."""
        return list(self._programs)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cut to the longest padded length."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def padded_length(self, token_ids: Sequence[int]) -> int:
        """Which of `lengths` a text is padded to."""
        return next(length for length in self.lengths if len(token_ids) <= length)

    def fitting(self, length: int, waiting: int) -> int:
        """Of so many texts of one padded length, how many to run now: the largest batch size that they fill.

        On a processor that is busy, rows of padding cost as much as texts; the few left over go with the next.
        """
        return max(rows for rows in self._rows[length] if rows <= waiting)

    def run(self, length: int, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Token ids of texts, at most as many as fit one run → probabilities, float32 [texts, classes]."""
        rows = next(rows for rows in self._rows[length] if len(texts) <= rows)
        input_ids = np.zeros((rows, length), np.int32)  # 0 is [PAD] in every BERT vocabulary
        mask = np.zeros((rows, length), np.int32)
        for row, ids in enumerate(texts):
            input_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        return np.asarray(self._programs[rows, length](self._params, input_ids, mask))[: len(texts)]


def row_counts(most: int) -> tuple[int, ...]:
    """The batch sizes that get a program: 1, 2, 4, … and `most`."""
    return (*(2**i for i in range(20) if 2**i < most), most)


@dataclass(eq=False)
class _Waiting:
    item: Any
    since: float
    answer: asyncio.Future
    begun: asyncio.Event  # one for all items of a request: set when the first of them is run


class Batcher:
    """A bounded queue before a function that is faster when it gets several items at once.

    Items of one group are run together, the group whose oldest item has waited longest first. Of so many that wait,
    `fitting(group, waiting)` says how many go at once, and `run(group, items)` gives one answer an item. It runs on a
    thread of its own, one batch after the other, while the event loop takes in what comes next.
    """

    def __init__(
        self,
        run: Callable[[Any, list], Sequence],
        fitting: Callable[[Any, int], int],
        *,
        max_wait: float = 0.002,
        max_queue: int = 256,
        timeout: float = 10.0,
    ):
        """`max_wait`: seconds that the oldest item waits for company. `max_queue`: items that may wait.

        `timeout`: seconds until the first item of a request must be run. From then on nobody else's go before the
        rest of them, so how long it still takes is the request's own work.
        """
        self._run, self._fitting = run, fitting
        self.max_wait, self.max_queue, self.timeout = max_wait, max_queue, timeout
        self._groups: defaultdict[Hashable, deque[_Waiting]] = defaultdict(deque)
        self._changed = asyncio.Event()
        self._closing = False
        self._seconds_an_item = 0.01  # a moving average, for retry_after
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._worker: asyncio.Task | None = None

    def __len__(self) -> int:
        """Items that wait."""
        return sum(map(len, self._groups.values()))

    def start(self) -> None:
        """Begin to work; call it inside the event loop."""
        self._worker = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """Answer all that was accepted, then stop."""
        self._closing = True
        self._changed.set()
        await self._worker
        self._thread.shutdown()

    async def submit(self, jobs: Sequence[tuple[Hashable, Any]]) -> list:
        """(group, item) of each job → their answers, in order. Raises QueueFull at once, before any is accepted.

        Raises TimeoutError where their turn does not come in time. Whoever is late, or cancelled while waiting, leaves
        the queue: no work is done for somebody who has gone.
        """
        if self._closing:
            raise QueueFull(1)
        if len(self) + len(jobs) > self.max_queue:
            raise QueueFull(max(1, math.ceil(len(self) * self._seconds_an_item)))
        loop, begun, now = asyncio.get_running_loop(), asyncio.Event(), time.monotonic()
        mine = [(group, _Waiting(item, now, loop.create_future(), begun)) for group, item in jobs]
        for group, waiting in mine:
            self._groups[group].append(waiting)
        self._changed.set()
        try:
            async with asyncio.timeout(self.timeout):
                await begun.wait()
            return await asyncio.gather(*(waiting.answer for _, waiting in mine))
        except (asyncio.CancelledError, TimeoutError):
            for group, waiting in mine:
                if waiting in self._groups.get(group, ()):
                    self._groups[group].remove(waiting)
                    self._forget_if_empty(group)
            raise

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while (group := await self._due()) is not None:
            waiting = self._groups[group]
            batch = [waiting.popleft() for _ in range(self._fitting(group, len(waiting)))]
            self._forget_if_empty(group)
            for one in batch:
                one.begun.set()
            started = time.monotonic()
            try:
                answers = await loop.run_in_executor(self._thread, self._run, group, [one.item for one in batch])
                answered = list(zip(batch, answers, strict=True))
            except Exception as error:  # whatever it is, the people in this batch must hear of it, and nobody else
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            for one, answer in answered:
                if not one.answer.done():
                    one.answer.set_result(answer)
            took = (time.monotonic() - started) / len(batch)
            self._seconds_an_item += 0.1 * (took - self._seconds_an_item)

    async def _due(self) -> Hashable | None:
        """Wait until a batch should go, and say of which group; None when there will be no more."""
        while True:
            timeout = None
            if self._groups:
                group = min(self._groups, key=lambda group: self._groups[group][0].since)
                waiting = self._groups[group]
                timeout = waiting[0].since + self.max_wait - time.monotonic()
                full = len(waiting) >= self._fitting(group, self.max_queue)
                if timeout <= 0 or full or self._closing:
                    return group
            elif self._closing:
                return None
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), timeout)

    def _forget_if_empty(self, group: Hashable) -> None:
        if not self._groups[group]:  # a group may hold a model that has been replaced: let it go
            del self._groups[group]
