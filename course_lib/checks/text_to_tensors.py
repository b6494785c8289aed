"""The exercise checks of lesson 07, from text to tensors."""

from __future__ import annotations

import numpy as np

from course_lib.checks.compare import compare
from course_lib.checks.core import Failed, Wrong, exercise, is_empty

REFUNDS = ("re", "##fund", "refund", "refunda", "##able", "##all", "##ble", "##s", "un", "##refund", "[UNK]")


def _wordpiece(vocab):
    """word → its pieces, by the tokenizers library: the independent truth."""
    from tokenizers.models import WordPiece

    model = WordPiece({piece: i for i, piece in enumerate(dict.fromkeys((*vocab, "[UNK]")))}, unk_token="[UNK]")
    return lambda word: [token.value for token in model.tokenize(word)]


@exercise("7.1", minutes=5, difficulty=1)
def longest_first(refundable, unrefundable, refundall, rng):
    pieces = _wordpiece(REFUNDS)
    mark = "Only a word's first piece stands without ##."
    nicer = "Those pieces do make up the word. But which is the longest piece that the word begins with?"
    because = {
        "refundable": {"refund ##able": nicer, "re ##fund ##able": nicer},
        "unrefundable": {
            "un ##re ##fund ##able": "Is ##re in the list? And look for a longer piece after un.",
            "un re ##fund ##able": mark,
            "[UNK]": "Start with the longest piece that it begins with, then go on from there: each step finds one.",
        },
        "refundall": {
            "refund ##all": "A reader would cut it like that. The rule takes the longest piece and never goes back.",
            "re ##fund ##all": "A longer piece than re begins the word, and the rule never goes back.",
            "refunda": "Each letter has to belong to a piece. What happens to the rest of this word?",
            "refunda [UNK]": "A word is found as a whole or not at all: what was found before goes, too.",
            "refunda ##ll": "Is ##ll in the list?",
            "refunda ##l ##l": "Is ##l in the list?",
        },
    }
    answers = {"refundable": refundable, "unrefundable": unrefundable, "refundall": refundall}
    for word, answer in answers.items():
        if not isinstance(answer, str):
            raise Wrong(f"{word}: {answer!r} came, a text with the pieces was expected, such as 'refund ##s'.")
        got = answer.split()
        if got == pieces(word):
            continue
        hint = because[word].get(" ".join(got))
        letters = "".join(piece.removeprefix("##") for piece in got)
        unmarked = [piece for piece in got[1:] if not piece.startswith("##") and piece != "[UNK]"]
        if hint is None and unmarked:
            hint = mark
        unknown = [piece for piece in got if piece not in REFUNDS]
        if hint is None and answer.strip("[] ").lower() == "unk":
            hint = "Write [UNK] in capitals, with its brackets." if answer.strip() != "[UNK]" else None
        elif hint is None and "[UNK]" in got:
            hint = "A word is found as a whole or not at all: what was found before goes, too."
        elif hint is None and unknown:
            glued = "##" in unknown[0][2:]
            hint = "A space goes between two pieces." if glued else f"{unknown[0]} is not in the list."
        elif hint is None and letters != word:
            hint = f"Put together, these pieces spell {letters}."
        raise Wrong(f"{word}: {answer!r} is not what comes out. {hint or 'Take one step at a time, longest first.'}")


def _cut(word, vocab, *, longest=True, mark=True, whole=True):
    """The pieces of `word`, with the mistakes of 7.2 that are set to False."""
    found, start = [], 0
    while start < len(word):
        ends = range(len(word), start, -1) if longest else range(start + 1, len(word) + 1)
        prefix = "##" if mark and start else ""
        end = next((end for end in ends if prefix + word[start:end] in vocab), None)
        if end is None:
            return ["[UNK]"] if whole else [*found, "[UNK]"]
        found.append(prefix + word[start:end])
        start = end
    return found


@exercise("7.2", minutes=10, difficulty=2)
def pieces(answer, rng):
    whole = "Where no piece fits, the whole word becomes [UNK]: what was found before goes, too."
    longest = "Which piece is tried first? The longest, then shorter and shorter."
    mark = "A piece inside a word is looked up with ## in front, and stored like that."
    hints = {  # the single mistakes first, so that who repaired two of three is told of the third
        whole: dict(whole=False),
        longest: dict(longest=False),
        mark: dict(mark=False),
        f"{longest} {mark}": dict(longest=False, mark=False),
        f"{longest} {whole}": dict(longest=False, whole=False),
        f"{mark} {whole}": dict(mark=False, whole=False),
        f"{longest} {mark} {whole}": dict(longest=False, mark=False, whole=False),
    }

    def ask(word, vocab):
        want = _wordpiece(vocab)(word)
        got = answer(word, vocab)
        if not isinstance(got, (list, tuple)) or not all(isinstance(piece, str) for piece in got):
            raise Wrong(f"{word!r}: a list of texts was expected, {type(got).__name__} came back.")
        if list(got) == want:
            return
        hint = next((h for h, changes in hints.items() if list(got) == _cut(word, vocab, **changes)), "")
        if not got and word:
            hint = "No piece at all came back."
        new = [piece for piece in got if piece not in (*vocab, "[UNK]")]
        if not hint and new:
            hint = f"{new[0]} is not among the pieces. What is left to do where none fits?"
        elif not hint and want == ["[UNK]"] and "[UNK]" not in got:
            hint = "These pieces fit, but the rule takes the longest, every time, and never a step back."
        listed = ", ".join(sorted(vocab))
        raise Wrong(f"{word!r} with the pieces {listed}: expected {want}, got {list(got)}. {hint}".rstrip())

    ask("stands", {"stand", "st", "##s", "##and", "s"})
    ask("stand", {"stand", "st", "##and"})
    ask("aab", {"a", "##a"})
    ask("cab", {"a", "##a", "##b"})
    ask("aba", {"a", "b"})
    ask("x", {"x"})
    ask("x", {"##x"})
    letters = np.array(list("abc"))
    for _ in range(60):
        size = rng.integers(1, 4, 9)
        parts = ["".join(rng.choice(letters, n)) for n in size]
        vocab = {("##" if rng.random() < 0.6 else "") + part for part in parts} | {"a", "##b"}
        ask("".join(rng.choice(letters, rng.integers(1, 8))), vocab)


@exercise("7.3", minutes=10, difficulty=2)
def to_batch(answer, rng):
    def rectangle(rows, length, pad_id, cut=None, left=False):
        """ids and mask, int32 [B, T], built place by place."""
        ids, mask = np.full((len(rows), length), pad_id, np.int32), np.zeros((len(rows), length), np.int32)
        for b, row in enumerate(rows):
            row = row if len(row) <= length else (cut or (lambda r: r[: length - 1] + r[-1:]))(row)
            for t, token in enumerate(row):
                place = t + (length - len(row) if left else 0)
                ids[b, place], mask[b, place] = token, 1
        return ids, mask

    def ask(rows, length, pad_id, given):
        ids, mask = rectangle(rows, length, pad_id)
        kept = [row[:] for row in rows]
        got = answer(rows, length, pad_id)
        if rows != kept:
            raise Wrong(f"{given}: the lists that came in were changed. Build new ones: row[:n] is a copy.")
        if not isinstance(got, (list, tuple)) or len(got) != 2:
            raise Wrong(f"{given}: two arrays were expected, ids and mask; {type(got).__name__} came back.")
        lost = rectangle(rows, length, pad_id, cut=lambda r: r[:length])[0]
        front = rectangle(rows, length, pad_id, cut=lambda r: r[-length:])[0]
        compare(got[0], ids, f"{given}, ids", mistakes={
            "Cutting must not cost the last token: keep [SEP] and give up what stands before it.": lost,
            "Cut at the end, not at the beginning: [CLS] has to stay.": front,
            "Padding goes behind the text: BERT's positions count from the first token.":
                rectangle(rows, length, pad_id, left=True)[0],
            "Which id is padding? It came in as pad_id.": np.where(mask == 1, ids, 0),
            "A row's last token is row[-1]; 102 is [SEP] in one vocabulary only.":
                rectangle(rows, length, pad_id, cut=lambda r: [*r[: length - 1], 102])[0],
            "That is the mask. The ids come first.": mask,
        })  # fmt: skip
        compare(got[1], mask, f"{given}, mask", mistakes={
            "The mask is 1 at a token and 0 at padding; this one is the other way round.": 1 - mask,
            "Take the mask from the lengths: here pad_id is a real token as well, as in GPT-2, which pads with its end "
            "token.": (ids != pad_id).astype(int),
            "Is 0 always padding? Take the mask from the lengths.": (ids != 0).astype(int),
            "Padding must be 0 in the mask.": np.ones_like(mask),
        })  # fmt: skip
        for name, part in (("ids", got[0]), ("mask", got[1])):
            if part.dtype != np.int32:
                raise Wrong(
                    f"{given}, {name}: int32 was asked for, {part.dtype} came back. Say so where the array is made."
                )

    def row(n):
        return [101, *rng.integers(200, 900, n - 2).tolist(), 102]

    ask([row(4), row(6), row(3)], 6, 0, "three texts, length 6")
    ask([row(4), row(5)], 9, 0, "two short texts, length 9")
    ask([row(9), row(4), row(7)], 6, 0, "texts of 9, 4 and 7 tokens cut to 6")
    ask([row(5)], 5, 0, "one text that just fits")
    ask([[8, 5, 5, 3], [8, 3]], 5, 3, "pad_id = 3, which is the end token, too")
    ask([[8, 0, 5, 9], [8, 9]], 4, 7, "pad_id = 7, and 0 is a real token")
    ask([[2, 40, 41, 42, 3], [2, 43, 3]], 4, 0, "another vocabulary, in which [SEP] is 3")
    ask([row(12)], 2, 0, "length 2")


@exercise("7.4", minutes=8, difficulty=2)
def padding_share(answer, rng):
    def ask(lengths, batch_size, given):
        def batches_of(lengths):
            return np.split(lengths, range(batch_size, len(lengths), batch_size))

        lengths = np.asarray(lengths)
        groups = batches_of(lengths)
        computed = np.array([group.max() * len(group) for group in groups])
        full = [group for group in groups if len(group) == batch_size]
        needed, all_longest = lengths.sum(), lengths.max() * len(lengths)
        mistakes = {
            "That is the share of real tokens. What is the rest?": needed / computed.sum(),
            "Divide by the tokens that are computed, padding included.": computed.sum() / needed - 1,
            "All batches at the longest text of all? Each has a longest of its own.": 1 - needed / all_longest,
            "Add up tokens first and divide once: a small last batch must not weigh as much as a full one.": np.mean(
                [1 - group.sum() / (group.max() * len(group)) for group in groups]
            ),
            "The last batch holds fewer texts; do not count rows that are not there.": 1
            - needed / sum(group.max() * batch_size for group in groups),
            "The order counts: take the texts as they come, do not sort them.": 1
            - needed / sum(group.max() * len(group) for group in batches_of(np.sort(lengths))),
            "That is a number of tokens. Which share of all that are computed?": computed.sum() - needed,
            "A share goes from 0 to 1; this is in percent.": 100 * (1 - needed / computed.sum()),
            "That is how many are computed for one that is needed. Which share of them is padding?": computed.sum()
            / needed,
        }  # fmt: skip
        if full and len(full) < len(groups):
            mistakes["Is the last batch, the small one, counted?"] = 1 - sum(g.sum() for g in full) / sum(
                g.max() * batch_size for g in full
            )
        got = answer(list(map(int, lengths)), batch_size)
        compare(got, 1 - needed / computed.sum(), given, mistakes=mistakes)

    ask([4, 10, 7, 3, 9], 2, "texts of 4, 10, 7, 3, 9 tokens, two a batch")
    ask(rng.integers(4, 90, 50), 16, "50 texts, 16 a batch")
    ask([7, 7, 7], 3, "three texts of 7 tokens")
    ask([5, 9], 8, "two texts, 8 a batch")
    ask([12], 4, "one text")


@exercise("7.5", minutes=12, difficulty=3)
def accuracy(answer, rng):
    def ask(n, batch_size, given, right_share=0.7):
        length, classes = 6, 3
        real = rng.integers(2, length + 1, n)
        mask = (np.arange(length) < real[:, None]).astype(np.int32)
        ids = rng.integers(1, 50, (n, length)).astype(np.int32)  # what stands at padding is not 0 on purpose

        def classify(ids, mask):  # which class follows from the tokens that the mask shows; none: class 0
            return (np.asarray(ids) * np.asarray(mask)).sum(1) % classes

        truth = classify(ids, mask)
        wrong = rng.random(n) > right_share
        wrong[-1:] = n % batch_size != 0  # an error in the small batch, so that dropping it shows
        labels = np.where(wrong, (truth + 1) % classes, truth).astype(np.int32)
        seen = []

        def predict(ids, mask):
            if np.shape(ids) != (batch_size, length) or np.shape(mask) != (batch_size, length):
                shapes = f"{list(np.shape(ids))} and {list(np.shape(mask))}"
                raise ValueError(f"compiled for ids and mask of shape [{batch_size}, {length}], got {shapes}")
            seen.append((np.asarray(ids), np.asarray(mask)))
            return np.eye(classes)[classify(ids, mask)]

        hits = truth == labels
        parts = np.split(hits, range(batch_size, n, batch_size))
        full = [part for part in parts if len(part) == batch_size]
        fill = -n % batch_size
        no_mask = classify(ids, np.ones_like(mask)) == labels
        mistakes = {
            "Is the mask passed on? Padding was read as if it were words.": no_mask.mean(),
            "Is the mask passed on? And is the mean over examples, not over batches?": np.mean(
                [part.mean() for part in np.split(no_mask, range(batch_size, n, batch_size))]
            ),
            "The mean is over examples: a small last batch must not weigh as much as a full one.": np.mean(
                [part.mean() for part in parts]
            ),
            "Rows that only fill the batch up were counted as examples.": (hits.sum() + fill) / (n + fill),
            "Rows that only fill the batch up were counted as examples, as wrong ones.": hits.sum() / (n + fill),
            "Rows that only fill the batch up were counted as right answers.": (hits.sum() + fill) / n,
            "That is how many are right. Which share?": hits.sum(),
            "Some examples were counted twice: the last batch reaches back into the one before it.": (
                hits[: n - n % batch_size].sum() + hits[-batch_size:].sum() * (n % batch_size > 0)
            )
            / n,
        }
        if full and fill:
            mistakes = {
                "The last batch is dropped: every example counts, once.": np.mean([part.mean() for part in full]),
                "The rows of the last batch are missing from the count of right answers.": sum(map(sum, full)) / n,
            } | mistakes
        mistakes = {hint: share for hint, share in mistakes.items() if abs(share - hits.mean()) > 1e-4}
        try:
            got = answer(predict, ids, mask, labels, batch_size)
        except Failed as failed:
            if "compiled for" not in str(failed):
                raise
            hint = "Fill the last batch up to batch_size rows, ids and mask alike, and do not count these rows."
            raise Wrong(f"{given}: {failed} {hint}") from failed
        compare(got, hits.mean(), given, mistakes=mistakes, nan="Is there a batch without examples?")

    ask(24, 8, "24 examples, 8 a batch")
    ask(21, 8, "21 examples, 8 a batch")
    ask(5, 8, "5 examples, 8 a batch")
    ask(33, 16, "33 examples, 16 a batch")
    ask(1, 1, "one example", right_share=1.0)


@exercise("7.6", minutes=10, difficulty=3)
def honest_split(answer, rng):
    openings = ["My order {} never came", "Card declined on order {}", "Where is parcel {}", "Please cancel {} today"]
    endings = ["", "!", "?", " ...", " please", " thanks"]

    def mailbox(n):
        texts = []
        for i in range(n):
            text = openings[i % 4].format(i) + endings[rng.integers(6)]
            copies = [text, text, text.upper(), text + "!!", f"  {text.lower()}"]
            texts += copies[: rng.integers(1, 6)]
        return [texts[i] for i in rng.permutation(len(texts))]

    def ask(texts, fraction, seed, given):
        got = answer(list(texts), fraction, seed)
        if not isinstance(got, (tuple, list)) or len(got) != 2 or is_empty(got):
            raise Wrong(f"{given}: two lists of row numbers were expected, {type(got).__name__} came back.")
        rest, held_out = (np.asarray(part).ravel() for part in got)
        if any(part.size and part.dtype.kind not in "iu" for part in (rest, held_out)):
            raise Wrong(f"{given}: row numbers were expected, not the texts themselves.")
        rows = np.concatenate([rest, held_out]).astype(int)
        twice = len(rows) - len(set(rows.tolist()))
        if twice:
            raise Wrong(f"{given}: {twice} rows came twice. Each row belongs to one side.")
        if set(rows.tolist()) - set(range(len(texts))):
            raise Wrong(f"{given}: there are row numbers that the texts do not have.")
        if len(rows) < len(texts):
            lost = len(texts) - len(rows)
            raise Wrong(f"{given}: {lost} rows are in neither part. Keep copies, but keep them together.")
        left, right = ({_same_words(texts[i]) for i in part} for part in (rest.astype(int), held_out.astype(int)))
        if both := left & right:
            examples = [i for i in range(len(texts)) if _same_words(texts[i]) in both]
            exact = {texts[i] for i in rest.astype(int)} & {texts[i] for i in held_out.astype(int)}
            capitals = "The same text in capitals is the same text: group by same_words."
            hint = "Draw groups, not rows." if exact else capitals
            raise Wrong(f"{given}: {len(both)} texts are on both sides, such as {texts[examples[0]].strip()!r}. {hint}")
        share = len(held_out) / len(texts)
        if abs(share - fraction) > 0.1:
            swapped = " Are the two parts in the right order?" if abs(1 - share - fraction) <= 0.1 else ""
            raise Wrong(f"{given}: {share:.0%} of the rows are held out, about {fraction:.0%} was asked for.{swapped}")
        return sorted(held_out.astype(int).tolist())

    texts = mailbox(80)
    first = ask(texts, 0.25, 0, "80 messages with copies, a quarter held out")
    if ask(texts, 0.25, 0, "the same once more") != first:
        raise Wrong("the same texts and the same seed gave another split: is the generator seeded with `seed`?")
    if ask(texts, 0.25, 1, "another seed") == first:
        raise Wrong("seed 0 and seed 1 gave the same split: is `seed` used, and are the groups shuffled?")
    ask(mailbox(60), 0.5, 3, "60 messages with copies, half held out")
    ask([f"message {'abcdefghijklmnopqrst'[i]}" for i in range(20)], 0.2, 0, "20 messages without copies")


def _same_words(text):
    """The words of a text and nothing else: no capitals, no punctuation, no spaces at its ends."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
