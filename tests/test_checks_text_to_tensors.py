"""The exercises of lesson 07: every mistake that its checks name is made here."""

import re

import numpy as np
from exercise_contract import ExerciseContract, from_notebook


def cut(longest=True, mark=True, whole=True):
    """The search for pieces of 7.2, with the mistakes that are set to False."""

    def pieces(word, vocab):
        found, start = [], 0
        while start < len(word):
            ends = range(len(word), start, -1) if longest else range(start + 1, len(word) + 1)
            for end in ends:
                piece = ("##" if mark and start else "") + word[start:end]
                if piece in vocab:
                    break
            else:
                return ["[UNK]"] if whole else [*found, "[UNK]"]
            found.append(piece)
            start = end
        return found

    return pieces


def unchecked(word, vocab):
    """Without an `else`: where no piece fits, the last one that was tried is taken."""
    found, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab:
                break
        found.append(piece)
        start = end
    return found


def steps_back(word, vocab):
    def search(start):
        if start == len(word):
            return []
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab and (rest := search(end)) is not None:
                return [piece, *rest]
        return None

    return search(0) or ["[UNK]"]


def batch(
    cut=lambda row, n: row[: n - 1] + row[-1:],
    mask_of=None,
    left=False,
    pad=None,
    change=False,
    dtype=np.int32,
    only_ids=False,
):
    """The answer of 7.3 with one thing done otherwise."""

    def to_batch(rows, length, pad_id):
        ids = np.full((len(rows), length), pad_id if pad is None else pad, dtype)
        mask = np.zeros((len(rows), length), dtype)
        for b, row in enumerate(rows):
            if change:
                row[length - 1 : -1] = []
            row = cut(row, length) if len(row) > length else row
            places = slice(length - len(row), None) if left else slice(len(row))
            ids[b, places], mask[b, places] = row, 1
        if mask_of:
            mask = mask_of(ids, mask, pad_id)
        return ids if only_ids else (ids, mask)

    return to_batch


def share(of_groups, order=lambda lengths: lengths):
    """`of_groups(groups, lengths, batch_size)` on the batches of 7.4."""

    def padding_share(lengths, batch_size):
        lengths = order(list(lengths))
        groups = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
        return of_groups(groups, lengths, batch_size)

    return padding_share


def computed(groups):
    return sum(max(group) * len(group) for group in groups)


def padding(groups, lengths, batch_size):
    return 1 - sum(lengths) / computed(groups)


def mean_of_shares(groups, lengths, batch_size):
    return np.mean([1 - sum(group) / (max(group) * len(group)) for group in groups])


def full_rows(groups, lengths, batch_size):
    return 1 - sum(lengths) / sum(max(group) * batch_size for group in groups)


def full_batches(groups, lengths, batch_size):
    full = [group for group in groups if len(group) == batch_size]
    return 1 - sum(map(sum, full)) / computed(full)


def evaluation(masked=True, whole=True, count="examples", fill=True):
    """The answer of 7.5 with one thing done otherwise."""

    def accuracy(predict, ids, mask, labels, batch_size):
        hits, means, counted = 0, [], 0
        stop = len(labels) if whole else len(labels) // batch_size * batch_size
        for start in range(0, stop, batch_size):
            rows = slice(start, start + batch_size)
            missing = batch_size - len(labels[rows]) if fill else 0
            padded = [np.pad(part[rows], ((0, missing), (0, 0))) for part in (ids, mask)]
            predicted = predict(padded[0], padded[1] if masked else np.ones_like(padded[1])).argmax(-1)
            real = predicted[: len(labels[rows])] == labels[rows]
            means.append(real.mean())
            hits, counted = hits + real.sum(), counted + batch_size
            if count == "fill":
                hits += (predicted[len(labels[rows]) :] == 0).sum()
        counted = max(counted, 1)
        return {
            "examples": hits / len(labels),
            "means": np.mean(means),
            "hits": float(hits),
            "fill": hits / counted,
            "padded": hits / counted,
        }[count]

    return accuracy


def reaching_back(predict, ids, mask, labels, batch_size):
    """The last batch is filled up with rows of the one before it."""
    n = len(labels)
    starts = [*range(0, n - batch_size + 1, batch_size), *([max(n - batch_size, 0)] if n % batch_size else [])]
    rows = [slice(start, start + batch_size) for start in starts]
    return sum((predict(ids[r], mask[r]).argmax(-1) == labels[r]).sum() for r in rows) / n


def words(text):
    return " ".join(re.findall(r"\w+", text.lower()))


def split(key=words, shuffled=True, seeded=True, once=False):
    """The answer of 7.6 with one thing done otherwise."""

    def honest_split(texts, fraction, seed):
        keys = [key(text) for text in texts]
        groups = sorted(set(keys))
        if shuffled:
            groups = np.random.default_rng(seed if seeded else None).permutation(groups).tolist()
        chosen = set(groups[: round(fraction * len(groups))])
        sides = [], []
        seen = set()
        for i, name in enumerate(keys):
            if not (once and name in seen):
                sides[name in chosen].append(i)
            seen.add(name)
        return sides

    return honest_split


def random_rows(texts, fraction, seed):
    order = np.random.default_rng(seed).permutation(len(texts))
    count = round(fraction * len(texts))
    return order[count:].tolist(), order[:count].tolist()


def backwards(texts, fraction, seed):
    return split()(texts, fraction, seed)[::-1]


def the_texts(texts, fraction, seed):
    return [[texts[i] for i in side] for side in split()(texts, fraction, seed)]


def overlapping(texts, fraction, seed):
    rest, held_out = split()(texts, fraction, seed)
    return list(range(len(texts))), held_out


def from_one(texts, fraction, seed):
    return [[i + 1 for i in side] for side in split()(texts, fraction, seed)]


class TestTextToTensors(ExerciseContract):
    lesson = "07_text_to_tensors"
    right = ("refunda ##ble", "un ##refund ##able", "[UNK]")
    wrong = {
        "longest_first": [
            ("which is the longest piece that the word begins with?", ("refund ##able", *right[1:])),
            ("which is the longest piece that the word begins with?", ("re ##fund ##able", *right[1:])),
            ("Only a word's first piece", ("refunda ble", *right[1:])),
            ("Is ##re in the list?", (right[0], "un ##re ##fund ##able", right[2])),
            ("Only a word's first piece", (right[0], "un re ##fund ##able", right[2])),
            ("each step finds one", (right[0], "[UNK]", right[2])),
            ("never goes back", (*right[:2], "refund ##all")),
            ("never goes back", (*right[:2], "re ##fund ##all")),
            ("What happens to the rest", (*right[:2], "refunda")),
            ("as a whole or not at all", (*right[:2], "refunda [UNK]")),
            ("Is ##ll in the list?", (*right[:2], "refunda ##ll")),
            ("Is ##l in the list?", (*right[:2], "refunda ##l ##l")),
            ("ref is not in the list", ("ref ##undable", *right[1:])),
            ("a text with the pieces was expected", (["refunda", "##ble"], *right[1:])),
            ("in capitals, with its brackets", (*right[:2], "unk")),
            ("A space goes between", ("refunda##ble", *right[1:])),
            ("as a whole or not at all", (*right[:2], "refund [UNK]")),
            ("these pieces spell refundaall", (*right[:2], "refunda ##all")),
        ],
        "pieces": [
            ("The longest, then shorter", cut(longest=False)),
            ("looked up with ## in front", cut(mark=False)),
            ("what was found before goes, too", cut(whole=False)),
            ("The longest, then shorter", cut(longest=False, mark=False)),
            ("looked up with ## in front", cut(mark=False, whole=False)),
            ("The longest, then shorter", from_notebook(lambda nb: nb["broken_pieces"])),
            ("stored like that", lambda word, vocab: [piece.removeprefix("##") for piece in cut()(word, vocab)]),
            ("What is left to do where none fits?", unchecked),
            ("never a step back", steps_back),
            ("a list of texts was expected", lambda word, vocab: " ".join(cut()(word, vocab))),
            ("No piece at all", lambda word, vocab: []),
            ("returned nothing", lambda word, vocab: None),
        ],
        "to_batch": [
            ("keep [SEP]", batch(cut=lambda row, n: row[:n])),
            ("[CLS] has to stay", batch(cut=lambda row, n: row[-n:])),
            ("Padding goes behind the text", batch(left=True)),
            ("It came in as pad_id", batch(pad=0)),
            ("the other way round", batch(mask_of=lambda ids, mask, pad: 1 - mask)),
            ("as in GPT-2", batch(mask_of=lambda ids, mask, pad: (ids != pad).astype(np.int32))),
            ("Is 0 always padding?", batch(mask_of=lambda ids, mask, pad: (ids != 0).astype(np.int32))),
            ("Padding must be 0 in the mask", batch(mask_of=lambda ids, mask, pad: np.ones_like(mask))),
            ("integers were expected", batch(dtype=np.float32)),
            ("integers were expected", batch(mask_of=lambda ids, mask, pad: mask == 1)),
            ("were changed", batch(change=True)),
            ("two arrays were expected", batch(only_ids=True)),
            ("int32 was asked for, int64", batch(dtype=np.int64)),
            ("102 is [SEP] in one vocabulary", batch(cut=lambda row, n: [*row[: n - 1], 102])),
            ("The ids come first", lambda *given: batch()(*given)[::-1]),
        ],
        "padding_share": [
            ("the share of real tokens", share(lambda groups, lengths, size: sum(lengths) / computed(groups))),
            ("padding included", share(lambda groups, lengths, size: computed(groups) / sum(lengths) - 1)),
            ("a longest of its own", share(lambda g, lengths, size: 1 - sum(lengths) / max(lengths) / len(lengths))),
            ("divide once", share(mean_of_shares)),
            ("rows that are not there", share(full_rows)),
            ("do not sort them", share(padding, order=sorted)),
            ("a number of tokens", share(lambda groups, lengths, size: float(computed(groups) - sum(lengths)))),
            ("the small one, counted?", share(full_batches)),
            ("this is in percent", share(lambda *given: 100 * padding(*given))),
            ("for one that is needed", share(lambda groups, lengths, size: computed(groups) / sum(lengths))),
        ],
        "accuracy": [
            ("Is the mask passed on?", evaluation(masked=False)),
            ("Is the mask passed on?", from_notebook(lambda nb: nb["broken_accuracy"])),
            ("The last batch is dropped", evaluation(whole=False, count="means")),
            ("The rows of the last batch are missing", evaluation(whole=False)),
            ("must not weigh as much as a full one", evaluation(count="means")),
            ("were counted as examples", evaluation(count="fill")),
            ("as wrong ones", evaluation(count="padded")),
            ("Which share?", evaluation(count="hits")),
            ("Fill the last batch up", evaluation(fill=False)),
            ("were counted twice", reaching_back),
        ],
        "honest_split": [
            ("Draw groups, not rows", random_rows),
            ("in capitals is the same text", split(key=lambda text: text)),
            ("are in neither part", split(once=True)),
            ("in the right order", backwards),
            ("is `seed` used", split(shuffled=False)),
            ("seeded with `seed`", split(seeded=False)),
            ("row numbers were expected", the_texts),
            ("came twice", overlapping),
            ("that the texts do not have", from_one),
            ("were expected, dict came back", lambda texts, fraction, seed: {"rest": [], "held_out": [0]}),
        ],
    }
