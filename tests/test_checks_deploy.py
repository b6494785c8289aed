"""The exercises of lesson 14: every mistake that its checks name is made here."""

import numpy as np
from exercise_contract import ExerciseContract, from_notebook


def leave(full=lambda n, most: n >= most, due=lambda waited, most: waited >= most, count=min, empty=0, early=0):
    def leaving(waiting, now, max_batch, max_wait):
        if not waiting:
            return empty
        if not (full(len(waiting), max_batch) or due(now - waiting[0], max_wait)):
            return early
        return count(len(waiting), max_batch)

    return leaving


def only_the_patient(waiting, now, max_batch, max_wait):
    if len(waiting) >= max_batch:
        return max_batch
    return sum(now - time >= max_wait for time in waiting)


def newest(waiting, now, max_batch, max_wait):
    return min(len(waiting), max_batch) if len(waiting) >= max_batch or (
        waiting and now - waiting[-1] >= max_wait
    ) else 0  # fmt: skip


def bits(axis=0, divide=127, round=np.round, size=np.abs, safe=True, keep=True, dtype=np.int8, swap=None):
    def to_int8(kernel):
        steps = size(kernel).max(axis=axis, keepdims=keep) / divide
        if safe:
            steps = np.where(steps > 0, steps, 1)
        steps = np.float32(steps)
        values = round(kernel / steps).astype(dtype)
        return (values, steps) if swap is None else swap(values, steps)

    return to_int8


def one_step_repeated(kernel):
    steps = np.full((1, kernel.shape[1]), np.abs(kernel).max() / 127, np.float32)
    return np.round(kernel / steps).astype(np.int8), steps


def in_place(kernel):
    steps = np.abs(kernel).max(axis=0, keepdims=True) / 127
    kernel /= np.where(steps > 0, steps, 1)
    return np.round(kernel).astype(np.int8), np.where(steps > 0, steps, 1)


def batches(order=lambda texts: sorted(range(len(texts)), key=lambda i: len(texts[i])), all_of_them=True, one=None):
    def in_batches(texts, run, max_batch):
        places, answers = order(texts), [None] * len(texts)
        size = one or max_batch
        end = len(places) if all_of_them else len(places) // size * size
        for start in range(0, end, size):
            chosen = places[start : start + size]
            for place, answer in zip(chosen, run([texts[i] for i in chosen]), strict=True):
                answers[place] = answer
        return answers

    return in_batches


def sorted_answers(texts, run, max_batch):
    texts, answers = sorted(texts, key=len), []
    for start in range(0, len(texts), max_batch):
        answers += run(texts[start : start + max_batch])
    return answers


def the_rest_is_lost(texts, run, max_batch):
    return [answer for answer in batches(all_of_them=False)(texts, run, max_batch) if answer is not None]


def by_text(texts, run, max_batch):
    """Repairs the order by looking texts up, and forgets that `order` was applied the other way round."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    answers = sorted_answers(texts, run, max_batch)
    return [answers[i] for i in order]


def caller(
    retry=(503,), wait=lambda after: 1 if after is None else after, last=False, extra=0, give_up=True, whole=False
):
    def ask(call, sleep, tries):
        for attempt in range(tries + extra):
            status, after, answer = call()
            if status == 200:
                return (status, after, answer) if whole else answer
            if status not in retry:
                raise RuntimeError(status)
            if (last or attempt < tries + extra - 1) and wait is not None:
                sleep(wait(after))
        if give_up:
            raise RuntimeError("no answer")

    return ask


def with_value_error(call, sleep, tries):
    try:
        return caller()(call, sleep, tries)
    except RuntimeError as error:
        raise ValueError("no answer") from error


def judge(rule):
    def fit(old, new, canaries):
        texts, true = list(canaries), list(canaries.values())
        rows = [(o == t, n == t) for o, n, t in zip(old(texts), new(texts), true, strict=True)]
        return rule([o for o, _ in rows], [n for _, n in rows])

    return fit


class TestDeploy(ExerciseContract):
    lesson = "14_deploy"
    wrong = {
        "little": [
            ("in seconds", (0.4, 0.2)),
            ("what one answer takes the service", (6.25, 6.25)),
            ("Nobody overtakes", (200, 100)),
            ("the other number of callers", (400, 400)),
            ("Callers, divided by answers", (2500, 5000)),
            ("Your own message takes its time, too", (393.75, 193.75)),
            ("is not a time", (64 * 160, 32 * 160)),
            ("Imagine the service with one caller", (17, 17)),
            ("a str came", ("400", "200")),
        ],
        "leaving": [
            ("The batch is full, so it leaves", leave(full=lambda n, most: False)),
            ("The batch is full, so it leaves", leave(full=lambda n, most: n > most)),
            ("The oldest has waited max_wait", leave(due=lambda waited, most: False)),
            ("At exactly max_wait it leaves", leave(due=lambda waited, most: waited > most)),
            ("Only those can leave who are there", leave(count=max)),
            ("No more than max_batch fit", leave(count=lambda n, most: n)),
            ("wait on", leave(full=lambda n, most: True)),
            ("Nobody waits, so nobody leaves", leave(empty=1)),
            ("everybody who is there goes with it", only_the_patient),
            ("The oldest has waited max_wait", newest),
            ("may be empty", lambda waiting, now, most, wait: len(waiting) * (now - waiting[0] >= wait)),
        ],
        "to_int8": [
            ("cuts towards zero", bits(round=lambda x: x)),
            ("One step for all?", bits(axis=None)),
            ("One for each column was asked for", one_step_repeated),
            ("which axis does the maximum run along", bits(axis=1)),
            ("keepdims=True keeps the axis", bits(keep=False)),
            ("What happens where the largest weight", bits(safe=False)),
            ("*in size*, be it above 0 or below", bits(size=lambda kernel: kernel)),
            ("*in size*, be it above 0 or below", bits(size=lambda kernel: -np.minimum(kernel, 0))),
            ("the largest value is 63", bits(divide=63)),
            ("int8 was expected", bits(dtype=np.int32)),
            ("divide the largest weight by 127, not 128", bits(divide=128)),
            ("Round to the nearest", bits(round=np.floor)),
            ("steps are float16", bits(swap=lambda values, steps: (values, steps.astype(np.float16)))),
            ("a pair was expected", bits(swap=lambda values, steps: values)),
            ("another step than was divided by", bits(swap=lambda values, steps: (values, steps * 127))),
            ("It belongs to the caller", in_place),
            ("values of shape (1, 6)", bits(swap=lambda values, steps: (steps, values))),
        ],
        "in_batches": [
            ("do not fill a batch", from_notebook(lambda notebook: notebook["broken_in_batches"])),
            ("in the order of length", sorted_answers),
            ("do not fill a batch", batches(all_of_them=False)),
            ("do not fill a batch", the_rest_is_lost),
            ("somebody else's answer", by_text),
            ("padding that it was written to save is back", batches(order=lambda texts: range(len(texts)))),
            ("batch them", batches(one=1)),
            ("at once, with max_batch", batches(one=100)),
            ("`run` takes a list of texts", lambda texts, run, most: [run(text) for text in texts]),
            ("texts went through `run`", lambda texts, run, most: [text.upper() for text in texts]),
            ("a tuple came back", lambda texts, run, most: tuple(batches()(texts, run, most))),
        ],
        "ask": [
            ("Only 503 gets better by waiting", caller(retry=(503, 422, 401, 500))),
            ("Only 503 gets better by waiting", caller(retry=(503, 500))),
            ("tries counts all requests", caller(extra=1)),
            ("last wait was for nothing", caller(last=True)),
            ("asked again without waiting", caller(wait=None)),
            ("`or` takes it for none", caller(wait=lambda after: after or 1)),
            ("what the service says, or 1 second", caller(wait=lambda after: 1)),
            ("nothing was raised", caller(give_up=False)),
            ("the answer alone", caller(whole=True)),
            ("a RuntimeError was asked for", with_value_error),
            ("Is there a try left?", caller(retry=())),
        ],
        "fit_to_go_live": [
            ("As many right as before is not enough", judge(lambda old, new: sum(new) >= sum(old) > 0)),
            ("the new one may get wrong, too", judge(lambda old, new: bool(new) and all(new))),
            ("nothing to judge by", judge(lambda old, new: all(n for o, n in zip(old, new, strict=True) if o))),
            ("a canary that was right is wrong now", judge(lambda old, new: True)),
            ("fit, but False came back", judge(lambda old, new: False)),
            ("True or False was expected", judge(lambda old, new: sum(new))),
            ("takes a list of texts", lambda old, new, canaries: old(canaries) == new(canaries)),
        ],
    }
