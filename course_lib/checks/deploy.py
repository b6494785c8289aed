"""Checks of lesson 14. The truth is counted out: a queue played through, every rounding tried, every answer traced."""

from __future__ import annotations

import numpy as np

from course_lib.checks.compare import compare, hinted
from course_lib.checks.core import Failed, Wrong, exercise


def _unguarded(answer):
    """The learner's function itself: what a function that *we* hand to it raises must come through as it is."""
    return getattr(answer, "__wrapped__", answer)


@exercise("14.1", minutes=5, difficulty=1)
def little(milliseconds_64, milliseconds_32, rng):
    for callers, answer in ((64, milliseconds_64), (32, milliseconds_32)):
        if isinstance(answer, bool) or not isinstance(answer, int | float | np.number):
            raise Wrong(f"{callers} callers: a number was expected, a {type(answer).__name__} came.")
        sent, free = [0.0] * callers, 0.0  # each caller waits; whoever is answered asks again at once
        for turn in range(10 * callers):
            free += 1 / 160
            wait, sent[turn % callers] = free - sent[turn % callers], free
        if np.isclose(answer, 1000 * wait, rtol=0.01):
            continue
        because = {  # the expected value is not shown: the learner can still run it and look
            "That is in seconds. Milliseconds were asked for.": wait,
            "Those are the others' answers. Your own message takes its time, too.": 1000 * (callers - 1) / 160,
            "That is what one answer takes the service. But whoever sends a message has others before it.": 1000 / 160,
            "Half of the others are before you, on average? Nobody overtakes: all who wait were there first.": 500
            * wait,
            "That is for the other number of callers. Does it matter how many are in the queue before you?": (
                1000 * (96 - callers) / 160
            ),
            "Look at the units. Callers, divided by answers a second, gives seconds.": 1000 * 160 / callers,
            "Look at the units: callers times answers a second is not a time.": callers * 160,
        }
        why = "Imagine the service with one caller, then with two: what does the second one add?"
        why = next((why for why, value in because.items() if np.isclose(answer, value, rtol=0.01)), why)
        raise Wrong(f"{callers} callers: {answer:g} ms is not what happens. {why}")


@exercise("14.2", minutes=8, difficulty=2)
def leaving(answer, rng):
    cases = [  # came at, now, max_batch, max_wait, how many leave
        ([], 5.0, 4, 2.0, 0),
        ([1.0], 1.5, 4, 2.0, 0),
        ([1.0, 2.9], 3.25, 4, 2.0, 2),
        ([1.0], 3.0, 4, 2.0, 1),
        ([1.0, 1.1, 1.2, 1.3], 1.4, 4, 2.0, 4),
        ([1.0, 1.1, 1.2, 1.3, 1.35], 1.4, 4, 2.0, 4),
        ([1.0, 1.1, 1.2, 1.3, 1.35], 9.0, 4, 2.0, 4),
        ([1.0, 1.1, 1.2], 1.4, 4, 2.0, 0),
        ([7.0], 7.0, 8, 0.0, 1),
        ([2.0], 2.5, 1, 60.0, 1),
    ]
    for _ in range(20):
        came = sorted(rng.uniform(0, 4, size=rng.integers(1, 9)).round(3).tolist())
        now, most, patience = came[-1] + float(rng.uniform(0, 1)), int(rng.integers(2, 7)), float(rng.uniform(0.5, 4))
        early = [time for time in came if now - time < patience]
        cases.append((came, now, most, patience, 0 if early == came and len(came) < most else min(most, len(came))))
    for came, now, most, patience, want in cases:
        given = f"came at {came}, now {now:.4g}, max_batch {most}, max_wait {patience:.3g}"
        with hinted("`waiting` may be empty, or shorter than max_batch.", IndexError):
            got = answer(list(came), now, most, patience)
        compare(got, want, given, mistakes=_why_not(came, now, most, patience, want))


def _why_not(came, now, most, patience, want):
    if not came:
        return {"Nobody waits, so nobody leaves.": 1}
    if not want:
        why = "The batch is not full and the oldest has not waited max_wait: wait on."
        return {why: min(len(came), most), f"{why} ": 1}
    if len(came) >= most:
        why = "The batch is full, so it leaves, however short anybody has waited."
    elif now - came[0] == patience:
        why = "Has the oldest not waited long enough? At exactly max_wait it leaves."
    else:
        why = "The oldest has waited max_wait, so they leave, though the batch is not full."
    mistakes = {why: 0}
    if len(came) < most:
        mistakes["Only those can leave who are there."] = most
    if len(came) > most:
        mistakes[f"No more than max_batch fit into one run: {most}."] = len(came)
    mistakes["When the oldest's time has come, everybody who is there goes with it, up to max_batch."] = sum(
        now - time >= patience for time in came
    )
    return mistakes


@exercise("14.3", minutes=10, difficulty=2)
def to_int8(answer, rng):
    wide = rng.normal(size=(40, 6)).astype(np.float32) * np.float32([1e-3, 1, 100, 0.1, 5, 1])
    zero = wide.copy()
    zero[:, 2] = 0
    for name, kernel in (
        ("a [40, 6] kernel", wide),
        ("a kernel with a column of zeros", zero),
        ("a [1, 3] kernel", wide[:1, :3]),
        ("a square kernel", wide[:6]),
    ):
        before = kernel.copy()
        result = answer(kernel)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise Wrong(f"{name}: a pair was expected, (values, steps).")
        values, steps = map(np.asarray, result)
        if not np.array_equal(kernel, before):
            raise Wrong(f"{name}: the kernel itself was changed. It belongs to the caller: make a new array.")
        if values.shape != kernel.shape:
            raise Wrong(f"{name}: values of shape {values.shape}, {kernel.shape} was expected.")
        if steps.shape != (1, kernel.shape[1]):
            hint = ""
            if steps.size == 1:
                hint = " One step for all? A large weight makes it coarse for everybody: one for each column."
            elif steps.size == kernel.shape[0] and steps.size != kernel.shape[1]:
                hint = " Those are steps for rows (inputs): which axis does the maximum run along?"
            elif steps.shape == (kernel.shape[1],):
                hint = " keepdims=True keeps the axis."
            raise Wrong(f"{name}: steps of shape {steps.shape}, {(1, kernel.shape[1])} was expected.{hint}")
        if steps.dtype.kind == "f" and not (np.isfinite(steps).all() and (steps > 0).all()):
            raise Wrong(f"{name}: a step is {steps.min():g}. What happens where the largest weight of a column is 0?")
        if values.dtype != np.int8:
            raise Wrong(f"{name}: values are {values.dtype}, int8 was expected: saving bits is the point.")
        if steps.dtype != np.float32:
            raise Wrong(f"{name}: steps are {steps.dtype}, float32 was expected.")
        to_largest = np.allclose(steps, np.abs(kernel).max(axis=0) / 127, atol=0)
        if values.min() == -128 and to_largest:
            raise Wrong(
                f"{name}: −128 came up, though the steps are right. Round to the nearest, not always downwards."
            )
        if values.min() == -128 and np.allclose(steps, steps[0, 0]):
            raise Wrong(f"{name}: −128 came up, and all columns have the same step. One for each column was asked for.")
        if values.min() == -128:
            raise Wrong(f"{name}: −128 came up. Steps go from −127 to 127: divide the largest weight by 127, not 128.")
        if any(np.allclose(steps, one_side / 127) for one_side in (kernel.max(axis=0), -kernel.min(axis=0))):
            if not np.allclose(steps, np.abs(kernel).max(axis=0) / 127):
                raise Wrong(
                    f"{name}: a step has to reach the weight that is largest *in size*, be it above 0 or below."
                )
        error = (np.abs(values * steps.astype(np.float64) - kernel) / steps).max()  # in steps
        if 0.501 < error <= 1.001:
            raise Wrong(
                f"{name}: off by up to a whole step, half a step is possible. Round before you convert: astype cuts "
                "towards zero."
            )
        largest = np.abs(values.astype(int)).max(axis=0)
        if (largest[np.abs(kernel).max(axis=0) > 0] < 127).any():
            if (largest.max() == 127) and len(set(np.round(steps.ravel(), 9))) == 1:
                raise Wrong(f"{name}: all columns have the same step. One for each column was asked for.")
            raise Wrong(
                f"{name}: in a column the largest value is {largest.min()}. It should be 127: what is the largest "
                "weight divided by?"
            )
        if error > 1.001:
            raise Wrong(
                f"{name}: values * steps is off by up to {error:.3g} steps. Did numbers above 127 wrap round, or is it "
                "another step than was divided by?"
            )


@exercise("14.4", minutes=10, difficulty=2)
def in_batches(answer, rng):
    for count, most in ((7, 3), (1, 4), (0, 4), (8, 4), (5, 1), (13, 5), (3, 64)):
        lengths = rng.permutation(count) + 1
        texts = [f"{'x' * length}{i}" for i, length in enumerate(lengths)]
        if count == 13:
            texts[3] = texts[8]  # two people may write the same
        sizes, padding = [], []

        def run(batch, sizes=sizes, padding=padding, most=most):
            if not isinstance(batch, list) or not all(isinstance(text, str) for text in batch):
                raise Wrong(f"`run` takes a list of texts; a {type(batch).__name__} came.")
            if len(batch) > most:
                raise Wrong(f"{len(batch)} texts were handed to `run` at once, with max_batch {most}.")
            if not batch:
                raise Wrong("`run` was called with no texts at all.")
            sizes.append(len(batch))
            padding.append(sum(max(map(len, batch)) - len(text) for text in batch))
            return [text.upper() for text in batch]

        got = _unguarded(answer)(list(texts), run, most)
        given = f"{count} texts, max_batch {most}"
        want = [text.upper() for text in texts]
        if got is None:
            raise Failed(f"{given}: nothing came back. Is a `return` missing?")
        if not isinstance(got, list):
            raise Wrong(f"{given}: a list was expected, a {type(got).__name__} came back.")
        if len(got) < len(want) or None in got:
            there = len([one for one in got if one is not None])
            raise Wrong(f"{given}: {there} answers came back for {count} texts. What becomes of those that do not "
                        "fill a batch?")  # fmt: skip
        if len(got) > len(want):
            raise Wrong(f"{given}: {len(got)} answers came back for {count} texts.")
        if got != want:
            if sorted(got) == sorted(want) and got == sorted(want, key=len):
                raise Wrong(
                    f"{given}: all answers are there, but in the order of length: text 0 was {texts[0]!r} and got "
                    f"{got[0]!r}. Each belongs to the text that it was asked for."
                )
            wrong = next(i for i in range(count) if got[i] != want[i])
            raise Wrong(f"{given}: text {wrong} was {texts[wrong]!r} and got {got[wrong]!r}, somebody else's answer.")
        if sum(sizes) < len(set(texts)):
            raise Wrong(
                f"{given}: right, but only {sum(sizes)} texts went through `run`. It knows the answers, not you."
            )
        if len(sizes) > -(-count // most):
            raise Wrong(f"{given}: `run` was called {len(sizes)} times, {-(-count // most)} would do: batch them.")
        ordered = sorted(map(len, texts))
        least = sum(
            max(part) * len(part) - sum(part) for part in (ordered[i : i + most] for i in range(0, count, most))
        )
        if sum(padding) > least:
            raise Wrong(f"{given}: right answers, but neighbours in length were not run together any more, and the "
                        "padding that it was written to save is back.")  # fmt: skip


@exercise("14.5", minutes=12, difficulty=3)
def ask(answer, rng):
    busy, here = (503, 2, None), (200, None, "delivery")
    cases = [  # what the service says, tries, what should come of it, how long is waited
        ("200 at once", [here], 3, "delivery", []),
        ("503 with Retry-After 2, then 200", [busy, here], 3, "delivery", [2]),
        ("503 without Retry-After, then 200", [(503, None, None), here], 3, "delivery", [1]),
        ("503 with Retry-After 0, then 200", [(503, 0, None), here], 3, "delivery", [0]),
        ("503 with 2, 503 with 7, then 200", [busy, (503, 7, None), here], 3, "delivery", [2, 7]),
        ("503 for ever, 3 tries", [busy] * 9, 3, None, [2, 2]),
        ("503 for ever, 1 try", [busy] * 9, 1, None, []),
        ("422", [(422, None, None), here], 3, None, []),
        ("503, then 401", [busy, (401, None, None), here], 5, None, [2]),
        ("500", [(500, None, None), here], 3, None, []),
    ]
    for given, script, tries, want, waits in cases:
        calls, slept = [], []

        def call(calls=calls, script=script, slept=slept):
            calls.append(len(slept))
            return script[len(calls) - 1]

        sent = next((i + 1 for i, step in enumerate(script) if step[0] != 503), len(script))
        sent = min(sent, tries)
        try:
            got = _unguarded(answer)(call, slept.append, tries)  # a RuntimeError is what some of these ask for
        except RuntimeError as error:
            if isinstance(error, NotImplementedError):
                raise
            got = error
        except IndexError:
            raise Wrong(f"{given}: {len(calls)} requests were sent, where {sent} should be.") from None
        except Exception as error:
            if want is None and len(calls) == sent and type(error) in (Exception, ValueError, ConnectionError):
                raise Wrong(f"{given}: raised {type(error).__name__}, a RuntimeError was asked for.") from None
            raise
        raised = isinstance(got, RuntimeError)
        if len(calls) > sent:
            if script[sent - 1][0] not in (200, 503):
                raise Wrong(f"{given}: it asked again after {script[sent - 1][0]}. Only 503 gets better by waiting.")
            raise Wrong(f"{given}: {len(calls)} requests were sent, {sent} were expected. tries counts all requests, "
                        "the first one too.")  # fmt: skip
        if want is None and not raised:
            if got is None:
                raise Wrong(f"{given}: nothing was raised. The caller would take None for an answer: RuntimeError.")
            raise Wrong(f"{given}: {got!r} came back, a RuntimeError was expected.")
        if want is not None and raised:
            raise Wrong(f"{given}: RuntimeError({str(got)!r}) after {len(calls)} requests, {want!r} was expected. "
                        "Is there a try left?")  # fmt: skip
        if want is not None and got is None:
            raise Failed(f"{given}: nothing came back. Is a `return` missing?")
        if want is not None and got != want:
            raise Wrong(f"{given}: {got!r} came back, {want!r} was expected: the answer alone.")
        if len(calls) < sent:
            raise Wrong(f"{given}: {len(calls)} requests were sent, {sent} were expected.")
        if slept != waits:
            if slept == [*waits, 2] and raised:
                raise Wrong(f"{given}: it waited {slept}, and the last wait was for nothing: no request follows.")
            if not slept:
                raise Wrong(f"{given}: it asked again without waiting. A crowd that does so keeps the service down.")
            if waits == [0]:
                raise Wrong(f"{given}: it waited {slept}. 0 is an answer, and `or` takes it for none: "
                            "ask `is None`.")  # fmt: skip
            raise Wrong(f"{given}: it waited {slept}, {waits} was expected: what the service says, or 1 second.")


@exercise("14.6", minutes=7, difficulty=2)
def fit_to_go_live(answer, rng):
    teams = ["delivery", "refund", "faulty", "change"]
    cases = [  # true team, old, new: by their first letters
        ("both get all right", "drfc", "drfc", "drfc", True),
        ("the new one mixes up all teams", "drfc", "drfc", "rfcd", False),
        ("the new one loses one and wins none", "drfc", "drfc", "drff", False),
        ("the new one wins one and loses another", "drfc", "drff", "ddfc", False),
        ("the new one wins two and loses one", "drfcd", "drrrd", "dffcd", False),
        ("both get the same one wrong", "drfc", "drff", "drff", True),
        ("both get one wrong, each in its own way", "drfc", "drff", "drfd", True),
        ("the new one wins one and loses none", "drfc", "drff", "drfc", True),
        ("the old one gets nothing right", "dr", "rd", "dr", False),
        ("there are no canaries", "", "", "", False),
        ("the old one gets only the last right", "drf", "rdf", "rdd", False),
    ]
    for given, true, old, new, want in cases:
        true, old, new = (
            [next(team for team in teams if team[0] == letter) for letter in row] for row in (true, old, new)
        )
        canaries = {f"message {i}": team for i, team in enumerate(true)}

        def version(name, says, canaries=canaries):
            def ask(texts):
                if not isinstance(texts, list):
                    raise Wrong(
                        f"`{name}` takes a list of texts; a {type(texts).__name__} came. `list(canaries)` is one."
                    )
                by_text = dict(zip(canaries, says, strict=True))
                return [by_text[text] for text in texts]

            return ask

        got = _unguarded(answer)(version("old", old), version("new", new), dict(canaries))
        right = [sum(o == t for o, t in zip(row, true, strict=True)) for row in (old, new)]
        if got is None:
            raise Failed(f"{given}: nothing came back. Is a `return` missing?")
        if not isinstance(got, bool | np.bool_):
            raise Wrong(f"{given}: True or False was expected, {got!r} came back.")
        if bool(got) == want:
            continue
        if want:
            hint = " What the old one gets wrong, the new one may get wrong, too." if right[1] < len(true) else ""
            raise Wrong(f"{given}: fit, but False came back.{hint}")
        if not right[0]:
            raise Wrong(f"{given}: True came back, but there is nothing to judge by. `all([])` is True.")
        if right[1] >= right[0]:
            raise Wrong(f"{given}: True came back. As many right as before is not enough: a canary that was right is "
                        "wrong now.")  # fmt: skip
        raise Wrong(f"{given}: True came back, but a canary that was right is wrong now.")
