"""The queue before the model: who shares a run, who waits how long, who is turned away, and that nobody is lost."""

import asyncio
import threading
import time

import numpy as np
import pytest

from course_lib.batching import Batcher, QueueFull, ServedModel, row_counts
from course_lib.checkpoint import load_pretrained, save_pretrained
from course_lib.predict import Predictor

TEXTS = ["where is it", "a", "the lamp that I sent back a month ago is still not paid back " * 3, "b c d " * 9]


class Doubler:
    """A run that doubles numbers, remembers its batches, and can be held up."""

    def __init__(self):
        self.started, self.batches, self.go = 0, [], threading.Event()
        self.go.set()

    def __call__(self, group, items):
        self.started += 1
        self.go.wait(5)
        self.batches.append((group, items))
        if "bad" in items:
            raise ValueError("bad item")
        return [2 * item for item in items]


def play(scenario, most=4, **settings):
    """Run `scenario(batcher, run)` with a working batcher; what it returns, and the batches that were run."""

    async def inside():
        run = Doubler()
        batcher = Batcher(run, lambda group, waiting: min(waiting, most), **settings)
        batcher.start()
        try:
            return await scenario(batcher, run), run.batches
        finally:
            run.go.set()
            await batcher.close()

    return asyncio.run(asyncio.wait_for(inside(), 20))


async def until(condition):
    while not condition():
        await asyncio.sleep(0.002)


def test_everybody_gets_the_own_answer_in_order_and_groups_are_not_mixed():
    async def scenario(batcher, run):
        requests = [[(n % 3, 10 * n + i) for i in range(1 + n % 4)] for n in range(20)]
        answers = await asyncio.gather(*map(batcher.submit, requests))
        return [(request, answer) for request, answer in zip(requests, answers, strict=True)]

    pairs, batches = play(scenario)
    for request, answer in pairs:
        assert answer == [2 * item for _, item in request]
    group_of = {item: group for request, _ in pairs for group, item in request}
    assert all({group_of[item] for item in items} == {group} for group, items in batches)
    assert all(len(items) <= 4 for _, items in batches)


def test_what_comes_together_is_run_together():
    async def scenario(batcher, run):
        return await asyncio.gather(*(batcher.submit([("g", n)]) for n in range(10)))

    _, batches = play(scenario, max_wait=0.2)
    assert [items for _, items in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_full_batch_does_not_wait_and_a_lone_item_waits_no_longer_than_max_wait():
    async def timed(batcher, jobs):
        started = time.monotonic()
        await batcher.submit(jobs)
        return time.monotonic() - started

    async def scenario(batcher, run):
        return await timed(batcher, [("g", n) for n in range(4)]), await timed(batcher, [("g", 1)])

    (full, alone), _ = play(scenario, max_wait=1)
    assert full < 0.9 and 1 <= alone < 3


def test_while_the_model_is_busy_a_batch_builds_up_and_the_longest_waiting_group_goes_first():
    async def scenario(batcher, run):
        run.go.clear()
        first = asyncio.create_task(batcher.submit([("a", 0)]))
        await until(lambda: run.started)
        rest = [asyncio.create_task(batcher.submit([(group, n)])) for n, group in enumerate("bab", start=1)]
        await until(lambda: len(batcher) == 3)
        run.go.set()
        await asyncio.gather(first, *rest)

    _, batches = play(scenario, max_wait=0)
    assert batches == [("a", [0]), ("b", [1, 3]), ("a", [2])]


def test_a_full_queue_refuses_at_once_and_accepts_no_part():
    async def scenario(batcher, run):
        run.go.clear()
        first = asyncio.create_task(batcher.submit([("g", 0)]))
        await until(lambda: run.started)
        waiting = asyncio.create_task(batcher.submit([("g", n) for n in (1, 2)]))
        await until(lambda: len(batcher) == 2)
        with pytest.raises(QueueFull) as refused:
            await batcher.submit([("g", n) for n in (3, 4)])
        left = len(batcher)
        run.go.set()
        await asyncio.gather(first, waiting)
        return refused.value.retry_after, left, await batcher.submit([("g", 5)])

    (retry_after, left, later), batches = play(scenario, max_queue=3, max_wait=0)
    assert retry_after >= 1 and isinstance(retry_after, int) and left == 2 and later == [10]
    assert not {3, 4} & {item for _, items in batches for item in items}


def test_no_work_is_done_for_somebody_who_has_gone():
    async def scenario(batcher, run):
        run.go.clear()
        first = asyncio.create_task(batcher.submit([("g", 0)]))
        await until(lambda: run.started)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await batcher.submit([("g", 1), ("h", 2)])
        left = len(batcher)
        run.go.set()
        return left, await first

    (left, first), batches = play(scenario, max_wait=0)
    assert left == 0 and first == [0] and batches == [("g", [0])]


def test_who_is_not_served_in_time_leaves_and_who_has_begun_is_finished():
    async def scenario(batcher, run):
        run.go.clear()
        begun = asyncio.create_task(batcher.submit([("g", n) for n in range(6)]))
        await until(lambda: run.started)
        with pytest.raises(TimeoutError):
            await batcher.submit([("h", 9)])
        left = len(batcher)
        run.go.set()
        return left, await begun

    (left, begun), batches = play(scenario, max_wait=0, timeout=0.1)
    assert left == 2 and begun == [2 * n for n in range(6)]
    assert batches == [("g", [0, 1, 2, 3]), ("g", [4, 5])]


def test_an_error_reaches_its_own_batch_and_the_next_is_answered():
    async def scenario(batcher, run):
        together = await asyncio.gather(
            batcher.submit([("g", "bad")]), batcher.submit([("g", "x")]), return_exceptions=True
        )
        return together, await batcher.submit([("g", 3)])

    (together, after), _ = play(scenario, max_wait=0.05)
    assert [type(error) for error in together] == [ValueError, ValueError] and after == [6]


def test_a_run_that_gives_too_few_answers_is_an_error_and_not_a_wait_for_ever():
    async def scenario():
        batcher = Batcher(lambda group, items: items[:-1], lambda group, waiting: waiting)
        batcher.start()
        with pytest.raises(ValueError):
            await batcher.submit([("g", 1), ("g", 2)])
        await batcher.close()

    asyncio.run(asyncio.wait_for(scenario(), 5))


def test_closing_answers_what_was_accepted_and_refuses_what_comes_after():
    async def scenario(batcher, run):
        run.go.clear()
        accepted = [asyncio.create_task(batcher.submit([("g", n)])) for n in range(9)]
        await until(lambda: len(batcher) >= 5)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.01)
        with pytest.raises(QueueFull):
            await batcher.submit([("g", 99)])
        run.go.set()
        await closing
        return await asyncio.gather(*accepted)

    answers, _ = play(scenario, max_wait=1)
    assert answers == [[2 * n] for n in range(9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_folder, tokenizer):
    model = load_pretrained(tiny_folder, labels=("delivery", "refund", "product"))
    return save_pretrained(model, tmp_path_factory.mktemp("batching") / "router", tokenizer)


def test_row_counts_double_up_to_the_most():
    assert row_counts(1) == (1,) and row_counts(8) == (1, 2, 4, 8) and row_counts(20) == (1, 2, 4, 8, 16, 20)


def test_a_served_model_gives_what_the_predictor_gives_whatever_shape_it_takes(folder):
    model, predictor = ServedModel(folder, lengths=(16, 32, 512), max_batch=8), Predictor(folder)
    assert model.lengths == (16, 32, 64)  # this model has 64 positions
    assert model.name == "router" and model.labels == ("delivery", "refund", "product")
    logits = predictor.logits(TEXTS)
    want = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for n in (1, 3, 4):
        ids = model.encode(TEXTS[:n])
        length = max(map(model.padded_length, ids))
        np.testing.assert_allclose(model.run(length, ids), want[:n], atol=1e-5)


def test_of_those_that_wait_as_many_go_as_fill_a_batch_and_fewer_of_the_long_ones(folder):
    model = ServedModel(folder, lengths=(16, 32, 64), max_batch=6)
    assert [model.fitting(16, waiting) for waiting in (1, 2, 3, 4, 5, 6, 7, 99)] == [1, 2, 2, 4, 4, 6, 6, 6]
    assert [model.fitting(64, waiting) for waiting in (1, 2, 3, 99)] == [1, 2, 3, 3]


def test_nothing_compiles_after_it_was_made(folder, compilations):
    with compilations() as made:
        model = ServedModel(folder, lengths=(16, 64), max_batch=8)
    with compilations() as later:
        for n in range(1, 5):
            for text in TEXTS:
                ids = model.encode([text] * n)
                model.run(model.padded_length(ids[0]), ids)
    assert made and not later
