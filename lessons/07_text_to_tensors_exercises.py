# %% [markdown]
# # 07 · Exercises: how does text become numbers?
#
# Six exercises, 55 minutes. Replace each `...` by your answer and run the cell: its last line says `passed`, or what is wrong.
# You have as many tries as you like. Difficulty is ●○○, ●●○ or ●●●; hints open with a click. The lesson is
# [here](../notebooks/07_text_to_tensors.ipynb).

# %%
import re

import numpy as np

from course_lib.checks import text_to_tensors as check

# %% [markdown]
# ## 7.1 Longest first · 5 min · ●○○
#
# **Predict, then run.** A small vocabulary holds these pieces and no others:
#
#     re   un   refund   refunda   ##fund   ##refund   ##able   ##ble   ##all   ##s
#
# What does WordPiece make of the words *refundable*, *unrefundable* and *refundall*? Write the pieces with spaces between them. For
# *refunds* it would be `"refund ##s"`. Where the rule finds no way through, the answer is `"[UNK]"`.
#
# <details><summary>Nudge</summary>
#
# The rule is greedy: the longest piece that the rest of the word begins with, every time, and never a step back. It does not look for the
# pieces that you would like best.
#
# </details>
# <details><summary>Outline</summary>
#
# For each word: which pieces are the beginning of it? Strike out all but the longest. Go on with the letters that are left, now among the
# pieces with `##`. If letters are left and no piece fits, the *whole* word is unknown.
#
# </details>

# %%
refundable = (
    # BEGIN SOLUTION
    "refunda ##ble"
    # END SOLUTION
)
unrefundable = (
    # BEGIN SOLUTION
    "un ##refund ##able"
    # END SOLUTION
)
refundall = (
    # BEGIN SOLUTION
    "[UNK]"
    # END SOLUTION
)

check.longest_first(refundable, unrefundable, refundall)

# %% [markdown]
# ## 7.2 Three bugs in a tokenizer · 10 min · ●●○
#
# **Find the bugs.** Somebody wrote the search for pieces from memory. It runs, and for many words it is even right. Find the three
# bugs by calling it on small vocabularies of your own, then write it as it should be.


# %%
def broken_pieces(word, vocab):
    """'tracker', {'track', '##er', …} → ['track', '##er']; a word that cannot be cut into pieces → ['[UNK]']."""
    found, start = [], 0
    while start < len(word):
        for end in range(start + 1, len(word) + 1):
            piece = word[start:end]
            if piece in vocab:
                break
        else:
            return found + ["[UNK]"]
        found.append(piece)
        start = end
    return found


# %% [markdown]
# <details><summary>Nudge</summary>
#
# Try `broken_pieces("stand", {"st", "stand"})`, then `("tracker", {"track", "##er"})`, then `("trackx", {"track"})`. What should each give?
#
# </details>
# <details><summary>Outline</summary>
#
# `end` has to run from `len(word)` *down* to `start + 1`. A piece that does not begin the word is looked up with `"##"` in front, and
# stored like that. And where no piece fits, what was found before is not returned.
#
# </details>


# %%
def pieces(word, vocab):
    # BEGIN SOLUTION
    found, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab:
                break
        else:
            return ["[UNK]"]
        found.append(piece)
        start = end
    return found
    # END SOLUTION


check.pieces(pieces)

# %% [markdown]
# ## 7.3 A rectangle and its mask · 10 min · ●●○
#
# Write `to_batch(rows, length, pad_id)`. `rows` is a list of lists of token ids; each begins with `[CLS]` and ends with `[SEP]`. Return
# two NumPy arrays of type int32 and shape `[len(rows), length]`: the ids, filled up with `pad_id` behind the text, and the mask, 1 at a
# token and 0 at padding. A row that is too long is cut so that it still ends with its last token, `[SEP]`. Leave `rows` as they are.
#
# <details><summary>Nudge</summary>
#
# What does a row of 9 tokens look like at length 6? Write it down: which six are kept? And can you be sure that `pad_id` never stands
# inside a text?
#
# </details>
# <details><summary>Outline</summary>
#
# Start with `np.full((len(rows), length), pad_id, np.int32)` and `np.zeros` for the mask. For each row: if it is too long,
# `row[: length - 1] + row[-1:]`. Then fill the first `len(row)` places of both arrays.
#
# </details>


# %%
def to_batch(rows, length, pad_id):
    # BEGIN SOLUTION
    ids = np.full((len(rows), length), pad_id, np.int32)
    mask = np.zeros((len(rows), length), np.int32)
    for b, row in enumerate(rows):
        if len(row) > length:
            row = row[: length - 1] + row[-1:]
        ids[b, : len(row)] = row
        mask[b, : len(row)] = 1
    return ids, mask
    # END SOLUTION


check.to_batch(to_batch)

# %% [markdown]
# ## 7.4 The padding bill · 8 min · ●●○
#
# Write `padding_share(lengths, batch_size)`: the share of all computed tokens that are padding, from 0 to 1. `lengths` is a list of
# token counts. The texts go into batches in the order in which they come, each batch padded to its own longest text; the last batch
# may hold fewer texts.
#
# Texts of 4, 10 and 7 tokens, two a batch: the first batch computes 2 × 10, the second 1 × 7. That is 27 tokens for 21.
#
# <details><summary>Nudge</summary>
#
# Two sums, then one division at the end.
#
# </details>
# <details><summary>Outline</summary>
#
# Loop over `range(0, len(lengths), batch_size)`, take `lengths[start : start + batch_size]` and add `max(group) * len(group)` to
# what is computed. What is needed is `sum(lengths)`.
#
# </details>


# %%
def padding_share(lengths, batch_size):
    # BEGIN SOLUTION
    computed = 0
    for start in range(0, len(lengths), batch_size):
        group = lengths[start : start + batch_size]
        computed += max(group) * len(group)
    return 1 - sum(lengths) / computed
    # END SOLUTION


check.padding_share(padding_share)

# %% [markdown]
# ## 7.5 Every example, once · 12 min · ●●●
#
# **Find the bugs.** This evaluation hides three mistakes, all of them from the lesson's script or close to it. `predict(ids, mask)`
# is compiled for exactly `batch_size` rows: with any other number it raises an error. It returns logits of shape `[batch_size, classes]`.


# %%
def broken_accuracy(predict, ids, mask, labels, batch_size):
    """The share of right answers. ids, mask: int [n, T]; labels: int [n]."""
    shares = []
    for batch in range(len(labels) // batch_size):
        rows = slice(batch * batch_size, (batch + 1) * batch_size)
        logits = predict(ids[rows], np.ones_like(ids[rows]))
        shares.append((logits.argmax(-1) == labels[rows]).mean())
    return np.mean(shares)


# %% [markdown]
# Write it as it should be: every example counts, once, the small last batch included.
#
# <details><summary>Nudge</summary>
#
# Of 21 examples in batches of 8, how many does it look at? What is the mean of batch means, when a batch is smaller than the others?
# And what does it tell the model about padding?
#
# </details>
# <details><summary>Outline</summary>
#
# Count right answers over all batches and divide once, by `len(labels)`. For the last batch, fill `ids[rows]` and `mask[rows]` with rows
# of zeros up to `batch_size` (`np.pad(x, ((0, missing), (0, 0)))`), and compare only the first `len(labels[rows])` predictions.
#
# </details>


# %%
def accuracy(predict, ids, mask, labels, batch_size):
    # BEGIN SOLUTION
    right = 0
    for start in range(0, len(labels), batch_size):
        rows = slice(start, start + batch_size)
        missing = batch_size - len(labels[rows])
        fill = ((0, missing), (0, 0))
        logits = predict(np.pad(ids[rows], fill), np.pad(mask[rows], fill))  # [batch_size, classes]
        predicted = logits.argmax(-1)[: batch_size - missing]
        right += (predicted == labels[rows]).sum()
    return right / len(labels)
    # END SOLUTION


check.accuracy(accuracy)

# %% [markdown]
# ## 7.6 Keep copies together · 10 min · ●●●
#
# Mailboxes are full of copies: the customer wrote twice, in capitals the second time. Write `honest_split(texts, fraction, seed)`, which
# returns two lists of row numbers, `(rest, held_out)`. Every row is in exactly one of them, about `fraction` of the rows in `held_out`. Texts
# with the same words, as `same_words` sees them, are on the same side. The split is random, and the same `seed` gives the same one.


# %%
def same_words(text):
    return " ".join(re.findall(r"\w+", text.lower()))


# %% [markdown]
# <details><summary>Nudge</summary>
#
# What you draw at random are not rows.
#
# </details>
# <details><summary>Outline</summary>
#
# `keys = [same_words(text) for text in texts]`. Shuffle the *different* keys, sorted first so that their order does not depend on the
# run, with `np.random.default_rng(seed)`. The first `fraction` of them are held out: a set. Then go through the rows and look where
# each one's key is.
#
# </details>


# %%
def honest_split(texts, fraction, seed):
    # BEGIN SOLUTION
    keys = [same_words(text) for text in texts]
    groups = np.random.default_rng(seed).permutation(sorted(set(keys)))
    chosen = set(groups[: round(fraction * len(groups))].tolist())
    held_out = [i for i, key in enumerate(keys) if key in chosen]
    rest = [i for i, key in enumerate(keys) if key not in chosen]
    return rest, held_out
    # END SOLUTION


check.honest_split(honest_split)
