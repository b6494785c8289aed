# %% [markdown]
# # 00 · What will I build, and is it worth building?
#
# | reading | runs in | needs | afterwards you can |
# |---|---|---|---|
# | 20 min | half a minute | a little Python | say what the course builds, know that it works on your machine, and choose a use case with reasons |
#
# An online shop has a support desk with eight teams. Messages arrive all day; someone reads each one and sends it to
# the team that can help. You will build the reader: a real pretrained BERT, in Flax, that runs on a laptop. This page
# shows a first version of it at work. By lesson 11 you will have trained a better one yourself, and by lesson 14
# others can call it.
#
# **How to use a page.** Read, guess what the next cell will show, then run it with Shift-Enter. Nothing here needs the
# network. If a cell fails, open a terminal (File → New → Terminal) and type `.venv/bin/course doctor` (Windows:
# `.venv\Scripts\course doctor`): it says what is wrong and what to do.

# %%
from course_lib.data import load_tickets

tickets = load_tickets("train")
print(f"{len(tickets)} messages with a known team, for example:")
for text, team in list(zip(tickets.texts, tickets.labels))[:3]:
    print(f"  {team:9} {text}")

# %% [markdown]
# These messages belong to the course. They were written for it one by one and imitate nobody; `course_lib/data/README.md`
# says how. Eight teams, and more work for some than for others:

# %%
from collections import Counter

for team, count in Counter(tickets.labels).most_common():
    print(f"{team:9} {count:4}  {'▪' * (count // 5)}")

# %% [markdown]
# ## The model
#
# BERT (2018) was trained to read by guessing hidden words in a great deal of text. Ours has six layers and was
# trained further to put texts of similar meaning close together. `course model` fetched it when you set up, and checked
# every file.

# %%
import jax
from flax import nnx

from course_lib.bert import BertModel
from course_lib.checkpoint import load_pretrained
from course_lib.data import load_tokenizer, tokenize
from course_lib.predict import embed
from course_lib.pretrained import fetch

folder = fetch()
bert = load_pretrained(folder, architecture=BertModel)
tokenizer = load_tokenizer(folder)
parameters = sum(array.size for array in jax.tree.leaves(nnx.state(bert)))
print(f"{parameters:,} numbers, on {jax.devices()[0].platform}")

# %% [markdown]
# ## Texts become vectors
#
# For the model, a message is a point in a space of 384 dimensions. Which of these three belong together?
#
# **Predict.** They share hardly a word. Will the first be closer to the second or to the third?

# %%
trio = [
    "The card was declined, but my bank says all is well.",
    "Checkout refuses my Visa and there is money in the account.",
    "The kettle leaks from the bottom.",
]
vectors = embed(bert, tokenize(tokenizer, trio, max_length=128))
closeness = vectors @ vectors.T  # 1 is the same direction
print(f"first and second: {closeness[0, 1]:.2f}")
print(f"first and third:  {closeness[0, 2]:.2f}")
assert closeness[0, 1] > closeness[0, 2] + 0.2

# %% [markdown]
# ## A router in four lines
#
# If messages for one team lie near each other, a straight boundary between the regions will do. Embed the messages
# whose team is known, fit a logistic regression on the vectors, and route five messages that it has not seen.

# %%
from sklearn.linear_model import LogisticRegression

known = embed(bert, tokenize(tokenizer, tickets.texts, max_length=128))
router = LogisticRegression(C=10, class_weight="balanced", max_iter=1000)  # balanced: rare teams get their say
router.fit(known, tickets.labels);

# %%
new = [
    "Tracking says it was handed to me at 14:02. At 14:02 I was at the dentist.",
    "How do I get the newsletter to stop, I have clicked the link three times",
    "The jumper is lovely but the sleeves end at my elbows. Can it come back?",
    "Boots went back on the 3rd, it is the 29th, still nothing on my statement",
    "does the lid fit the 24 cm pan as well",
]
probabilities = router.predict_proba(embed(bert, tokenize(tokenizer, new, max_length=128)))
for text, row in zip(new, probabilities):
    print(f"{router.classes_[row.argmax()]:9} {row.max():4.0%}  {text}")

# %% [markdown]
# The percentage is the router's own: how probable it thinks its answer. All five went where a person would have sent them, with most doubt
# about the newsletter. But five messages show nothing. How often is it right? The test split holds messages that nothing
# here was fitted to, and beside the router we try the oldest recipe: count words, whatever they mean (*TF-IDF*; lesson 07).

# %%
from course_lib.evaluate import evaluate, tfidf_baseline

test = load_tickets("test")
true = [tickets.classes.index(team) for team in test.labels]


def score(teams):
    return evaluate(true, [tickets.classes.index(team) for team in teams], tickets.classes)


words = score(tfidf_baseline(tickets.texts, tickets.labels).predict(test.texts))
unseen = embed(bert, tokenize(tokenizer, test.texts, max_length=128))  # [messages, 384]
answers = router.predict_proba(unseen)  # [messages, 8 teams]
meaning = score(router.classes_[answers.argmax(axis=1)])
print(f"counting words (TF-IDF): {words.accuracy:.0%} of {words.n} right")
print(f"BERT as it came:         {meaning.accuracy:.0%} of {meaning.n} right")
assert abs(words.accuracy - meaning.accuracy) < 0.03

# %% [markdown]
# A tie. So far 22.7 million numbers do no better than counting words, and it is good to know that before anyone is
# impressed. But these numbers have never been trained on this desk's work: only the boundary was. Lesson 11 trains all of
# them, and measures what that adds.
#
# ## The way there
#
# What you saw used finished parts. The course builds each of them, beginning with the smallest.
#
# | lessons | the question | you build |
# |---|---|---|
# | [01](01_losses.ipynb), [02](02_activations.ipynb) | How wrong is a prediction, and why does a network need a bend? | losses that survive any input, activations that let 30 layers learn |
# | [03](03_jax_arrays.ipynb), [04](04_autodiff.ipynb), [05](05_training.ipynb), [06](06_flax_modules.ipynb) | How does a model learn, and how does it grow large? | your own engine for gradients, your own Adam, a deep network in Flax |
# | [07](07_text_to_tensors.ipynb), [08](08_attention.ipynb), [09](09_bert.ipynb), [10](10_pretraining.ipynb) | How does a network read? | a tokenizer, attention, BERT with its real weights, a tiny BERT from scratch |
# | [11](11_finetune_bert.ipynb), [12](12_evaluate_explain.ipynb) | How do I make it mine, and can I trust it? | a fine-tuned model, with errors read and doubts measured |
# | [13](13_gpu_tpu_scale.ipynb), [14](14_deploy.ipynb) | How do others use it? | training on larger machines, a service that answers |
#
# ## Is your machine ready?
#
# Most of the answer stands above: a BERT has just run on it. Two things could still differ from the machine on which this page
# was made: the versions of the packages, and what JAX computes on (a CPU, a GPU, a TPU).

# %%
from pathlib import Path

import numpy as np

from course_lib import doctor

course = Path("..")  # this page lies in notebooks/, one folder down
matrix = np.arange(64, dtype=np.float32).reshape(8, 8) % 7  # [64] → [8, 8]: small whole numbers
products = [jax.jit(lambda m: m @ m.T)(jax.device_put(matrix, device)) for device in jax.devices()]
agree = all(np.array_equal(product, matrix @ matrix.T) for product in products)  # exact on any device
ready = {
    "Python is one of the versions that the course is tested with": doctor.check_python(course)[0],
    "every package is the version that the course is tested with": doctor.check_versions(course)[0],
    "every device that JAX sees multiplies as NumPy does": agree,
}
for what, ok in ready.items():
    print("ok  " if ok else "FAIL", what)
print("ready" if all(ready.values()) else "in a terminal, `course doctor` says what to do")

# %% [markdown]
# Which versions and which device? `course doctor` names them, and looks at memory, disk, the model's files and Jupyter, too.
# A laptop's CPU is enough for every lesson; a GPU or TPU runs the same cells, faster.
#
# ## How lessons and exercises work
#
# - **Predict.** Where this word stands, decide before you run the cell. Guessing first helps you to remember the answer, even when
#   the guess was wrong (Richland and others, 2009).
# - **Change things.** A cell uses what the cells above it made. Edit one, run it again, see what happens. Tangled up? *Kernel →
#   Restart Kernel and Run All Cells* starts afresh.
# - **Common claim, tested.** A sentence that popular articles repeat, then a cell that measures whether it is true.
# - **Exercises** are pages of their own. An answer goes where `...` stands, and the last line of its cell checks it.
#
# Here is such a check at work, on an example that counts for nothing. The task: *what share of the customers waited longer
# than `limit` hours?* Untouched, it looks like this.

# %%
from course_lib.checks import start_here as check


def share_late(hours, limit):
    ...


check.share_late(share_late)

# %% [markdown]
# **Predict.** Here is a first try. It looks right. What will the check have to say?

# %%
def share_late(hours, limit):
    return (hours >= limit).mean()


check.share_late(share_late)

# %% [markdown]
# It names the input, what was expected, what came, and what may be behind it. It does not compare with one published example:
# it computes the truth in another way, on inputs that you have not seen, the awkward ones too. An error in your code or a loop
# that never ends becomes one such line as well. Try as often as you like.

# %%
def share_late(hours, limit):
    return (hours > limit).mean()


check.share_late(share_late)

# %% [markdown]
# What you have passed is kept in a small file on this machine and sent nowhere. In a terminal, `.venv/bin/course progress` shows
# the lessons, what is done and how long the rest takes. Stuck? Each exercise has two hints to click on, and `solutions/` has
# an answer to each.
#
# ## Is it worth building?
#
# A model that nobody needs is not saved by good mathematics. The course asks four things of a use case, by five
# criteria. All marks go from 1 to 5 **and point the same way: 5 is good**. So effort is marked as *ease*, and risk as *safety*.
#
# | it should be | criterion | it asks | 1 | 5 |
# |---|---|---|---|---|
# | **targeted** | value | Who does what differently once the answer is there? | nobody | saves hours of work, daily |
# | **scalable** | reach | What share of the messages does it serve? | hardly any | all, and ten times as many tomorrow |
# | **efficient** | data | Are there examples with the right answer? | none, and no way to them | hundreds, today |
# | **efficient** | ease | How much has to be built? | a research project | a page like this one |
# | **economical** | safety | What does a mistake cost, and who notices? | money or a customer, and nobody does | a minute, and the next person does |
#
# A mark should rest on something that can be counted. What can we count?

# %%
moods = Counter(load_tickets(label="sentiment").labels)
teams = Counter(load_tickets().labels)
total = teams.total()
print(f"messages with their team and the customer's mood: {total:,}")
print(f"from unhappy customers: {moods['neg'] / total:.0%}")
print(f"about money to be paid back: {teams['refund'] / total:.0%}")

# %% [markdown]
# There are labels for the team and for the mood. Of what the desk answered, or whether a refund was granted, we have nothing. Seven
# things that the shop could do with its messages, and our marks:

# %%
import pandas as pd

criteria = ["value", "reach", "data", "ease", "safety"]
marks = {
    "send each message to its team": [4, 5, 5, 4, 4],  # reading takes hours; a wrong team passes it on
    "flag unhappy customers": [3, 4, 5, 4, 5],  # a false alarm costs one look
    "suggest an earlier answer": [4, 4, 2, 4, 5],  # a person reads it first; no answers collected yet
    "answer without a person": [5, 5, 2, 1, 1],  # customers act on what it says
    "grant or refuse refunds": [5, 2, 1, 3, 1],  # money goes, or an angry customer does
    "spot fake reviews": [3, 2, 1, 2, 3],  # nobody knows for certain which ones were fake
    "confirm that it arrived": [1, 5, 5, 5, 5],  # no model needed, and nobody is helped
}
table = pd.DataFrame(marks, index=criteria).T
display(table)

# %% [markdown]
# The *weighted score* is the mean of a row's marks, each counted as often as its criterion's weight says:
#
# $$s = \frac{\sum_c w_c\, m_c}{\sum_c w_c}$$
#
# with $m_c$ the mark and $w_c$ the weight of criterion $c$. Dividing by the sum of the weights keeps $s$ on the marks' own scale. By
# hand for the first row, with value counted three times, data and safety twice:

# %%
by_hand = (3 * 4 + 1 * 5 + 2 * 5 + 1 * 4 + 2 * 4) / (3 + 1 + 2 + 1 + 2)
print(f"(3·4 + 1·5 + 2·5 + 1·4 + 2·4) / (3 + 1 + 2 + 1 + 2) = {by_hand:.2f}")

# %%
import matplotlib.pyplot as plt

from course_lib import plots


def score_all(weights):
    return table @ pd.Series(weights) / sum(weights.values())  # [7 candidates]


def draw_ranking(weights):
    scores = score_all(weights).sort_values(kind="stable")
    has_a_one = table.loc[scores.index].min(axis=1) == 1
    colours = np.where(has_a_one, plots.ORANGE, plots.BLUE)
    fig, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
    ax.bar_label(ax.barh(scores.index, scores, color=colours, height=0.6), fmt="%.2f", padding=4)
    ax.set_xlim(0, 5.5)
    plots.finish(ax, f"First: {scores.index[-1]}", "weighted score, 5 is best (orange: has a mark of 1)", "")


# %% [markdown]
# **Your turn.** Change the weights, the numbers only, and run the cell again. Who comes first when all weights are equal? When
# only ease counts?

# %%
weights = {"value": 3, "reach": 1, "data": 2, "ease": 1, "safety": 2}
draw_ranking(weights)

# %% [markdown]
# Routing comes first, and that is why the course builds it. But look at *confirm that it arrived*: easy, safe, reaches everyone and helps
# nobody, yet it comes close behind a tool that the desk would use every day. Good marks elsewhere hide its 1. A sum lets one criterion
# pay for another, and some things cannot be paid for. So a plain rule goes before the sum: **a mark of 1 puts a candidate out**
# until that mark has been improved.
#
# > **Common claim, tested.** *"Start with the use case that has the highest business value."*
#
# **Predict.** Only value counts. Which two come first?

# %%
only_value = dict.fromkeys(criteria, 0) | {"value": 1}
scores = score_all(only_value)
for name in scores.index[scores == scores.max()]:
    ones = " and ".join(table.columns[table.loc[name] == 1])
    print(f"{name}: score {scores[name]:.0f}, and a mark of 1 for {ones}")
    assert table.loc[name, "safety"] == 1

# %% [markdown]
# **Not by itself.** The rule puts both of them out, and both times safety is one of the reasons. They are worth much because they
# decide something, and so their mistakes cost much.
#
# > **Common claim, tested.** *"A scoring table takes opinion out of the choice."*
#
# Leave the marks as they are, and let each weight be 0, 1, 2, 3 or 4: all combinations. **Predict.** How many of the seven can be put
# first by nothing but the weights?

# %%
from itertools import product

first = Counter()
for choice in product(range(5), repeat=len(criteria)):
    sums = table.to_numpy() @ choice  # [7], whole numbers: a tie is a tie
    if (sums == sums.max()).sum() == 1:
        first[table.index[sums.argmax()]] += 1

for name in table.index:
    print(f"{first[name]:5,} of {first.total():,} weightings with one winner: {name}")

# %% [markdown]
# **False.** Whoever sets the weights can put six of the seven first. Only *spot fake reviews* has no chance: routing is at least as good on
# every criterion. The table does something else. It makes people say *why*, shows which answers hang on a weight, and
# which do not. Agree on the weights before anyone sees the marks.

# %%
assert len(first) == 6
assert (table.loc["send each message to its team"] >= table.loc["spot fake reviews"]).all()
allowed = table.index[table.min(axis=1) > 1]
print(f"no mark of 1: {', '.join(allowed)}")

# %% [markdown]
# Three are left. The course builds the first; the second is the same model with other labels; the third is what you saw when
# two messages about a declined card lay close together.
#
# ## How good must it be?
#
# *Economical* means: it saves more than its mistakes cost. Say that a message sent to the right team saves two minutes, and one sent
# to the wrong team costs six, because someone reads it, wonders, and passes it on. With $p$ the share of right ones, a
# message saves on average
#
# $$\text{saved} \cdot p - \text{lost} \cdot (1 - p), \qquad \text{which is 0 at} \quad p = \frac{\text{lost}}{\text{saved} + \text{lost}}$$
#
# **Predict.** You know the score of the router. Does it save time?

# %%
saved, lost = 2, 6  # minutes: guesses, to be replaced by what a stopwatch says
needed = lost / (saved + lost)
right = answers.argmax(axis=1) == np.array(true)  # [messages]
everything = np.where(right, saved, -lost)  # minutes won by each message, if all are routed
print(f"needed: {needed:.0%} right, reached: {right.mean():.0%}")
print(f"100 messages: {100 * everything.mean():+.0f} minutes")

# %% [markdown]
# Just short of what is needed, so on these messages it costs more than it saves. (How far another sample might differ is lesson
# 12's business.) But the router also says how probable its answer is. Let it act only where it is at least 60 % sure, and leave
# the rest to a person, as today:

# %%
sure = answers.max(axis=1) >= 0.6
print(f"routed: {sure.mean():.0%} of the messages, {right[sure].mean():.0%} of them right")
gained = 100 * np.where(sure, everything, 0).mean()
print("100 messages save more than half an hour:", bool(gained > 30))
assert gained > 30

# %%
limits = np.linspace(0, 1, 101)
minutes = [100 * np.where(answers.max(axis=1) >= limit, everything, 0).mean() for limit in limits]
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
ax.axhline(0, color=plots.BLACK, linewidth=0.8)
ax.plot(100 * limits, minutes, color=plots.BLUE)
ax.plot(60, minutes[60], "o", color=plots.VERMILLION)
ax.annotate("60 %", (60, minutes[60]), xytext=(-8, 4), textcoords="offset points", ha="right")
title = "Knowing when not to answer decides whether it pays"
plots.finish(ax, title, "routes only if at least this sure (%)", "minutes saved\nper 100 messages")

# %% [markdown]
# The same model, with the same mistakes, loses time under one rule and saves it under another. On the far left it routes everything; on
# the far right it is never sure enough and saves nothing. Our 60 % is a round number, not the top of the
# curve: whoever picks the top has chosen by the test data, and has no honest score left. Lesson 12 chooses properly, and asks whether "60 %
# sure" is right six times in ten.
#
# ## What you now know
#
# 1. The system: a message in, one of eight teams out, and how probable that is. A pretrained BERT turns the text into a vector
#    in which meaning is closeness; a simple classifier does the rest.
# 2. Your machine runs it, offline. Where something is wrong, `course doctor` says what to do.
# 3. A lesson: read, predict, run, change. An exercise: replace `...`, and a check says what is wrong and why.
# 4. A use case should be targeted, scalable, efficient and economical. A scoring table shows on what the choice hangs; a
#    mark of 1 is not outweighed.
# 5. A score is good or bad only beside a baseline, on unseen messages, and against what a mistake costs.
#
# **Exercises:** [00 · Exercises](../exercises/00_start_here_exercises.ipynb), two of them, 12 minutes.
#
# **Next:** [01 · How wrong is a prediction?](01_losses.ipynb) In a hurry? [11 · How do I make it mine?](11_finetune_bert.ipynb)
# needs only this page.
#
# **Read more:** Devlin et al., [BERT](https://arxiv.org/abs/1810.04805), sections 1 and 3; Reimers and Gurevych,
# [Sentence-BERT](https://arxiv.org/abs/1908.10084), section 3; Zinkevich, [Rules of Machine
# Learning](https://developers.google.com/machine-learning/guides/rules-of-ml), rules 1 to 3, on when to do without; Richland, Kornell and
# Kao, *The pretesting effect*, Journal of Experimental Psychology: Applied 15(3), 2009.
