# %% [markdown]
# # 12 · Can I trust it?
#
# | reading | runs in | needs | afterwards you can |
# |---|---|---|---|
# | 45 min | about a minute; the first time a minute and a half more, to train the router of lesson 11 | 11 | say how good a classifier is and how sure you are of that, set the point where a human takes over, test its behaviour, and tell an explanation from a pretty picture |
#
# The router of lesson 11 is to go live on Monday. Before she agrees, the head of the support desk has five questions. **How often is it
# wrong? Does it know when? Which messages should a human read? Does it serve anybody worse? Why does it say what it says?** Each has an
# answer that only looks measured, and one that is.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.special import softmax

from course_lib import plots
from course_lib.cache import enable_compile_cache
from course_lib.checkpoint import load_pretrained
from course_lib.data import class_indices, load_tickets, load_tokenizer, tokenize
from course_lib.finetune import tickets_router
from course_lib.predict import predict_logits

enable_compile_cache()  # the second run of this page compiles nothing
folder = tickets_router()  # trained at the first call, kept for all others
model, tokenizer = load_pretrained(folder), load_tokenizer(folder)
teams = list(model.config.labels)

# %%
def logits_of(texts):  # → [n, 8]
    return predict_logits(model, tokenize(tokenizer, texts, 128), buckets=(16, 32, 64, 128))


validation, test = load_tickets("validation"), load_tickets("test")
validation_logits, test_logits = logits_of(validation.texts), logits_of(test.texts)  # [150, 8], [452, 8]
validation_true, test_true = class_indices(validation, teams), class_indices(test, teams)
test_said = test_logits.argmax(-1)  # [452], the team that gets the message
test_right = test_said == test_true
print(f"{len(validation_true)} messages to choose with, {len(test_true)} to be examined on")
print(f"of these, {(~test_right).sum()} go to the wrong team")

# %% [markdown]
# All that follows is computed from these two tables of logits. The rule of lesson 11 stays: validation chooses, test only measures.
#
# ## How often is it wrong?
#
# Not all teams fare alike. For one team, *precision* is the share of the messages sent there that belonged there; *recall* is the share of
# its own messages that arrived. F1 is their harmonic mean, which is low as soon as one of the two is. By hand for one team:

# %%
from course_lib.evaluate import evaluate

refund = teams.index("refund")
arrived = ((test_said == refund) & (test_true == refund)).sum()
precision, recall = arrived / (test_said == refund).sum(), arrived / (test_true == refund).sum()
f1 = 2 * precision * recall / (precision + recall)
result = evaluate(test_true, test_said, teams)
assert np.isclose(f1, result.per_class[refund].f1)
display(result.table())

# %% [markdown]
# `refund` gets most of its own messages and some of others; `product` gets hardly a wrong one and misses more of its own. The F1 of
# the two is nearly the same. *Macro-F1*, the mean of that column, counts every team alike, however small.
#
# Now the trap: this is an *estimate*. 452 other messages would have given another number. **Predict.** How far could macro-F1 have come
# out from where it did, by nothing but the luck of which customers wrote: 0.3 points, 4 points, 10 points?
#
# We cannot ask other customers, but we can imitate the drawing. The *bootstrap* draws 452 messages out of our 452, with replacement:
# some come twice, some not at all. It scores that set, and does so five hundred times.

# %%
from sklearn.metrics import f1_score

rng = np.random.default_rng(0)
scores = []
for _ in range(500):
    rows = rng.integers(len(test_true), size=len(test_true))  # one resample
    scores.append(f1_score(test_true[rows], test_said[rows], average="macro"))
low, high = np.quantile(scores, [0.025, 0.975])
print(f"macro-F1 {result.macro_f1:.2f}; 95 % of the resamples lie between {low:.2f} and {high:.2f}")
assert abs(result.macro_f1_interval.low - low) < 0.01 and abs(result.macro_f1_interval.high - high) < 0.01

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained", width_ratios=[1, 1.3])
left.hist(scores, bins=30, color=plots.SKY)
for limit in (low, high):
    left.axvline(limit, color=plots.VERMILLION)
plots.finish(left, "Four points up or down are luck", "macro-F1 of a resample (red: 95 % lie between)", "resamples")
plots.confusion(right, result);

# %% [markdown]
# `evaluate` has computed the same interval all along (the `assert` above). Whoever compares two routers by one point of macro-F1, on 452
# messages, compares luck. There is a sharper way if both answered the *same* messages: exercise 12.3. And what the interval does not
# cover is the luck of the training run.
#
# ## Read the errors
#
# The matrix says *which* teams are mixed up. *Why*, only the messages say. Read them, the surest first: nobody will ask about those.

# %%
probabilities = softmax(test_logits, axis=-1)  # [452, 8]
confidence = probabilities.max(axis=-1)
wrong = np.flatnonzero(~test_right)
surest = wrong[np.argsort(-confidence[wrong])][:12]
for number, i in enumerate(surest, start=1):
    print(f"{number:2}  {test.labels[i]} taken for {teams[test_said[i]]}, {confidence[i]:.0%} sure: {test.texts[i]}")

# %% [markdown]
# **Predict.** Sort them before you read on: what do the causes have in common, and which cause is most frequent? One reader's piles:

# %%
piles = {
    "names a team that it does not mean": (1, 4, 7, 9, 12),
    "holds no everyday word that points to its team": (2, 3, 6, 8, 11),
    "is plain; there is no excuse": (5, 10),
}
assert sorted(sum(piles.values(), ())) == list(range(1, 13))
for pile, numbers in piles.items():
    print(f"{len(numbers)} of 12: {pile}")

second = np.argsort(-test_logits, axis=-1)[:, 1]  # [452], the second choice
print(f"all {len(wrong)} errors: for {np.mean(second[wrong] == test_true[wrong]):.0%} the right team was the second choice")

# %% [markdown]
# The second number is a product idea: show a human the two best teams, and more than half of the corrections are one click.
#
# Numbers 6 and 11 are alike: nothing is broken, it lies there *unopened* or *unused*, and shall go back. Reading on down the list, more of
# them come. A pile that you suspect, you count.

# %%
def untouched_returns(table):
    said = [any(word in text.lower() for word in ("unopened", "unused", "sealed", "no longer")) for text in table.texts]
    return np.array(said) & (np.array(table.labels) == "return")


untouched, train = untouched_returns(test), load_tickets("train")
print(f"returns of what is untouched or no longer needed: {(untouched & ~test_right).sum()} of {untouched.sum()} go wrong")
print(f"all other messages: {(~test_right)[~untouched].mean():.0%} go wrong")
print(f"such messages in the training data: {untouched_returns(train).sum()} of {len(train)}")

# %% [markdown]
# Who writes "unopened" is about to send it back. People know that; the training data hardly says it. Ten messages prove little, but
# twenty more examples would cost an hour, and no score would have told us.
#
# ## Does it know when it is wrong?
#
# With each answer comes a probability. The model is *calibrated* if it keeps that promise: of the answers it calls 90 % sure, 90 % are
# right. To see it, put answers of like confidence into one bin and compare what they promise with what they keep. The mean gap, each
# bin weighted by its answers, is the *expected calibration error*, ECE (you write it in exercise 12.2). By hand for one bin:

# %%
inside = (confidence > 0.9) & (confidence <= 1.0)
promised, kept = confidence[inside].mean(), test_right[inside].mean()
print(f"{inside.sum()} answers in the top bin promise {promised:.0%} and keep {kept:.0%}")

# %% [markdown]
# The usual cure is one number. *Temperature scaling* divides all logits by $T$ before the softmax: above 1 it takes certainty away.
#
# $$\hat p_k = \frac{e^{z_k / T}}{\sum_j e^{z_j / T}}$$
#
# The largest logit stays the largest, so no message changes its team. $T$ is fitted like any parameter, to the smallest cross-entropy.
# **Predict.** On which data, training or validation messages? And what would the other give?

# %%
from course_lib.calibrate import cross_entropy, expected_calibration_error, fit_temperature, reliability

temperature = fit_temperature(validation_logits, validation_true)
some = train[range(300)]
train_logits, train_true = logits_of(some.texts), class_indices(some, teams)
from_training = fit_temperature(train_logits, train_true)
print(f"right on training messages: {(train_logits.argmax(-1) == train_true).mean():.0%}")
for name, t in {"none": 1.0, "from validation": temperature, "from training": from_training}.items():
    print(f"temperature {name:16} T = {t:.2f}   loss on test {cross_entropy(test_logits, test_true, t):.2f} nats")
assert from_training < 1 < temperature

# %% [markdown]
# The model knows its training messages by heart. Seen from there it is too modest, so $T$ comes out far below 1 and makes it *surer* of
# its mistakes. Calibrate on data that no parameter has seen.

# %%
def draw_reliability(ax, confidence, title):
    cells = reliability(confidence, test_right, bins=10)
    x, y = [cell.confidence for cell in cells], [cell.accuracy for cell in cells]
    ends = [[cell.accuracy - cell.interval.low for cell in cells], [cell.interval.high - cell.accuracy for cell in cells]]
    ax.plot([0, 1], [0, 1], color=plots.BLACK, linestyle=":", label="promise kept")
    ax.errorbar(x, y, yerr=ends, fmt="o-", color=plots.BLUE, capsize=3, label="measured, 95 %")
    ax.set(xlim=(0.2, 1.02), ylim=(0, 1.02))
    ax.legend(frameon=False, loc="lower right")
    plots.finish(ax, title, "confidence", "share that is right")


calibrated = softmax(test_logits / temperature, axis=-1).max(axis=-1)  # [452]
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
draw_reliability(left, confidence, "As trained: promises too much")
draw_reliability(right, calibrated, f"With T = {temperature:.2f}: better")

# %% [markdown]
# Part of the gap is gone. Is what is left real? **Predict:** what ECE would a *perfectly* calibrated model show on 452 messages?
# We can make one: keep the probabilities, and draw the true team of each message from them.

# %%
def honest_errors(logits, trials=300):
    probabilities, rng = softmax(logits, axis=-1), np.random.default_rng(0)
    errors = []
    for _ in range(trials):
        truth = (probabilities.cumsum(axis=-1) > rng.random((len(logits), 1))).argmax(axis=-1)  # [452], drawn
        right = probabilities.argmax(axis=-1) == truth
        errors.append(expected_calibration_error(probabilities.max(axis=-1), right, 10))
    return np.array(errors)


for name, t, c in (("as trained", 1.0, confidence), ("calibrated", temperature, calibrated)):
    luck, ece = honest_errors(test_logits / t), expected_calibration_error(c, test_right, 10)
    print(f"{name}: ECE {ece:.3f}")
    print(f"  an honest model: {luck.mean():.3f} on average, above {ece:.3f} in {np.mean(luck > ece):.0%} of the draws")

# %% [markdown]
# An honest model does not score 0; on 452 messages it scores about 0.03. As trained, ours is far outside what luck explains, and after
# scaling still outside. Why is $T$ too small?

# %%
print(f"right: {(validation_logits.argmax(-1) == validation_true).mean():.0%} on validation, {test_right.mean():.0%} on test")
print(f"the test messages would have asked for T = {fit_temperature(test_logits, test_true):.2f}")

# %% [markdown]
# The validation messages also chose the best epoch, and there are only 150 of them: on these the model looks better than it is. Whoever
# can spare messages calibrates on some that chose nothing. (Taking $T$ from the test messages would be choosing by them.)
#
# > **Common claim, tested.** *"Softmax outputs are not probabilities, so do not use them."*
# >
# > **Too strong.** They are promises, and promises can be checked: here they were broken by more than ten points and, one division
# > later, by six or seven, of which luck explains three. Unchecked, the claim is right.
#
# ## Which messages should a human read?
#
# A probability is worth something once it decides. The desk has timed itself: to read and route a message takes a human 1 minute. A
# message at the wrong team costs 8, since it is read twice, apologised for and sent on. What the router is less sure of than a
# threshold, a human gets.
#
# If a message is kept, the expected cost is $8 \times (1 - p)$; handing it over costs 1. So with *honest* probabilities, keep it where
# $8(1 - p) < 1$, that is above
#
# $$p^* = 1 - \frac{\text{hand-over}}{\text{mistake}} = 1 - \tfrac18 = 0.875$$
#
# That is Chow's rule, of 1970. The alternative trusts no probability and tries all thresholds. **Predict.** Which is cheapest: no human
# at all, a human for every message, or the threshold? Sort the three.

# %%
from course_lib.calibrate import best_threshold, handover_cost

costs = {"mistake": 8.0, "handover": 1.0}  # minutes
validation_calibrated = softmax(validation_logits / temperature, axis=-1).max(axis=-1)  # [150]
validation_right = validation_logits.argmax(-1) == validation_true
chosen = best_threshold(validation_calibrated, validation_right, **costs)
chow = 1 - costs["handover"] / costs["mistake"]
for name, threshold in {"no human": 0.0, "only humans": 1.1, "Chow's rule": chow, "best on validation": chosen}.items():
    promised = handover_cost(validation_calibrated, validation_right, threshold, **costs)
    paid = handover_cost(calibrated, test_right, threshold, **costs)
    print(f"{name:18} threshold {threshold:.2f}: promised {promised:.2f}, paid {paid:.2f} minutes a message")

# %%
thresholds = np.linspace(0, 1, 201)
chooses = [handover_cost(validation_calibrated, validation_right, t, **costs) for t in thresholds]
pays = [handover_cost(calibrated, test_right, t, **costs) for t in thresholds]

fig, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
ax.plot(thresholds, chooses, color=plots.ORANGE, label="validation: chooses")
ax.plot(thresholds, pays, color=plots.BLUE, label="test: pays")
ax.axhline(1, color=plots.BLACK, linestyle=":", linewidth=1, label="only humans")
ax.axvline(chow, color=plots.GREEN, linestyle="--", label="threshold by Chow's rule")
ax.axvline(chosen, color=plots.PURPLE, linestyle="-.", label="threshold best on validation")
ax.set(xlim=(0, 1), ylim=(0, 1.8))
ax.legend(frameon=False, loc="lower left")
plots.finish(ax, "Full automation costs more than none; a threshold beats both", "threshold (a human reads below)", "minutes a message")

# %% [markdown]
# Full automation is *worse than none at all*. With a threshold, the same model saves a fifth of the work. The decision was worth
# more than several points of F1.
#
# And read "promised" against "paid": the best of many noisy costs is always too good to be true. What the threshold costs is what it
# costs on messages that did not choose it. Is the search better than the rule, then? Both were paid on the same test messages, so bootstrap
# the *difference*:

# %%
def cost_of_each(threshold):  # [452] minutes
    return np.where(calibrated < threshold, costs["handover"], np.where(test_right, 0.0, costs["mistake"]))


difference = cost_of_each(chow) - cost_of_each(chosen)
draws = np.random.default_rng(0).integers(len(difference), size=(2000, len(difference)))
low, high = np.quantile(difference[draws].mean(axis=1), [0.025, 0.975])
print(f"Chow's rule minus the search: {difference.mean():+.2f} minutes, 95 % interval {low:+.2f} to {high:+.2f}")
print(f"a human reads {np.mean(calibrated < chow):.0%} with Chow's rule and {np.mean(calibrated < chosen):.0%} with the search")
assert max(abs(low), abs(high)) < 0.1

# %% [markdown]
# A few hundredths of a minute, one way or the other: no reason to search. Chow's rule needs no search, changes with the costs on the spot, and asks only for
# calibrated probabilities. Take it, and the desk's minutes are the only numbers left to argue about. What the rule says here is sobering:
# with mistakes this dear and nearly one error in five, three messages in ten still belong to a human.
#
# ## Does it react to what matters, and only to that?
#
# A test score says how often, not what for. Behavioural tests (CheckList, Ribeiro and colleagues 2020) change one thing in a message
# and ask whether the answer changes as it should. The course has 60 such pairs, twelve of each kind, none of them in the training data.

# %%
from course_lib.data import TICKETS

pairs = pd.read_csv(TICKETS.parent / "ticket_pairs.csv")
pair_logits = logits_of([*pairs.text_a, *pairs.text_b]).reshape(2, 60, 8)  # [120, 8] → [a or b, pair, team]
said_a, said_b = np.array(teams)[pair_logits.argmax(-1)]  # [60] each
both_right = (said_a == pairs.intent_a) & (said_b == pairs.intent_b)
with pd.option_context("display.max_colwidth", None):
    display(pairs.groupby("kind", sort=False)[["kind", "text_a", "text_b"]].nth(1).set_index("kind"))
print(both_right.groupby(pairs.kind, sort=False).sum().to_string())

# %% [markdown]
# Nine of twelve for negation. So it understands "not"? **Predict** before you go on: in how many of the twelve pairs does "not" change
# the *team*? (In the others it only changes the mood.) Score what each pair tests: where the team must change, it has to change to the
# right one; where it must not, both halves have to get the same.

# %%
from scipy.stats import binomtest

must_change = pairs.intent_a != pairs.intent_b
pairs["passes"] = np.where(must_change, both_right, said_a == said_b)
pairs["asked"] = np.where(must_change, "must change", "must stay")
for (kind, asked), passes in pairs.groupby(["kind", "asked"], sort=False).passes:
    good, n = int(passes.sum()), len(passes)
    wilson = binomtest(good, n).proportion_ci(method="wilson")
    print(f"{kind:10} {asked:11} {good:2} of {n:2} pass   95 % interval {wilson.low:4.0%} to {wilson.high:4.0%}")

# %% [markdown]
# Where "not" decides, the router passes one of four. The eight others that looked good never needed it. It is also weak where only the
# request at the end differs: it hears what the message is about and not what is asked for. And a typing error that changes nothing
# about the task changes the team in three pairs of twelve.
#
# Names, origins, age and gender changed no answer. Is that proof of fairness? The interval says what twelve passes are worth. A finer
# look is at the probabilities, which may shift before the answer does:

# %%
a, b = softmax(pair_logits / temperature, axis=-1)  # [60, 8] each
moved = np.abs(a - b).sum(axis=-1) / 2  # [60], the probability that changes sides
print(pd.Series(moved).groupby(pairs.kind, sort=False).agg(["mean", "max"]).map("{:.2f}".format).to_string())

# %% [markdown]
# A changed name moves almost nothing, less than a "please" and far less than a typing error. That is good evidence, for these twelve, and no more than that.
#
# ## Does it serve anybody worse?
#
# Pairs change one thing and keep all others. *Slices* compare real groups: do those who write briefly, politely or carelessly get worse
# service? The tempting way is to print accuracies and point at the lowest. Let us first see what that finds where there is nothing to
# find, in groups made by tossing a coin.

# %%
def gap(inside, right=test_right):
    return right[inside].mean() - right[~inside].mean()


rng = np.random.default_rng(0)
coins = [gap(rng.random(len(test_true)) < 0.3) for _ in range(1000)]
print(f"gap between two groups made by a coin: above 5 points in {np.mean(np.abs(coins) > 0.05):.0%} of 1000 tries")

# %% [markdown]
# A gap of five points is what a coin gets now and then. So each slice gets an interval: bootstrap the gap. And the groups are *defined
# before* anybody looks at the scores.

# %%
import re

polite = re.compile(r"\b(please|pls|plz|thanks?|thx|kindly|grateful|(could|would) you)\b", re.IGNORECASE)
words = np.array([len(text.split()) for text in test.texts])
slices = {
    "short: at most the median of 20 words": words <= np.median(words),
    "polite: please, thank you, would you": np.array([bool(polite.search(text)) for text in test.texts]),
    "careless: begins with a small letter": np.array([text[0].islower() for text in test.texts]),
    "a coin": rng.random(len(test_true)) < 0.3,
}

# %%
def gap_interval(inside, right=test_right, level=0.95):
    rng = np.random.default_rng(0)
    draws = rng.integers(len(right), size=(2000, len(right)))
    gaps = [gap(inside[rows], right[rows]) for rows in draws]
    return np.quantile(gaps, [(1 - level) / 2, (1 + level) / 2])


fig, ax = plt.subplots(figsize=(9, 2.8), layout="constrained")
for row, (name, inside) in enumerate(slices.items()):
    low, high = gap_interval(inside)
    print(f"{name:38} {inside.sum():3} messages   gap {100 * gap(inside):+.0f} points, {100 * low:+.0f} to {100 * high:+.0f}")
    ax.plot([100 * low, 100 * high], [row, row], color=plots.BLUE)
    ax.plot(100 * gap(inside), row, "o", color=plots.BLUE)
ax.axvline(0, color=plots.BLACK, linestyle=":")
ax.set_yticks(range(len(slices)), list(slices))
ax.invert_yaxis()
assert all(np.prod(gap_interval(inside)) < 0 for inside in slices.values())
plots.finish(ax, "No gap is more than noise; even the coin has one", "accuracy in the slice minus accuracy outside (points), 95 %", "")

# %% [markdown]
# Zero is inside each of them, and the coin has a gap, too. That is not "no bias"; it is "nobody is served
# worse by more than about thirteen points", and on 452 messages we cannot say more.
#
# The gap of the careless nearly leaves zero out. If it did, two more questions would come before anybody writes "served better" into a report.
# We looked at three slices, so one false alarm is likelier than 5 %: what is left with an interval widened for three looks (98.3 %
# instead of 95 %)? And a slice is a definition that somebody chose: does the gap hang on it? "Short" is at most 20 words; try others.

# %%
low, high = gap_interval(slices["careless: begins with a small letter"], level=1 - 0.05 / 3)
print(f"careless, widened for three looks: {100 * low:+.0f} to {100 * high:+.0f} points")
assert low < 0 < high
for cut in (12, 16, 20, 24, 28):
    low, high = gap_interval(words <= cut)
    print(f"at most {cut} words: gap {100 * gap(words <= cut):+.0f} points, {100 * low:+.0f} to {100 * high:+.0f}")
validation_short = np.array([len(text.split()) for text in validation.texts]) <= 20
print(f"the cut at 20 on validation: {100 * gap(validation_short, validation_right):+.0f} points")

# %% [markdown]
# Short messages come out better or worse, as the cut goes, and on validation worse again. Who may choose the definition after looking can
# choose the finding; had we tried all cuts and reported the widest gap, its interval would have meant nothing. An honest report says: *nobody
# is served worse by more than thirteen points; whether by less, the next 500 messages will tell, in slices fixed today.* And as with F1, the intervals
# know nothing of the luck of the training run: train again, and the gaps move.
#
# One more thing to notice: the careless are not served worse, yet a typing error put into the *same* message changed its team in three
# pairs of twelve. No contradiction. People who write carelessly also write about other things, in other words. A slice shows who is served worse;
# only a pair shows why.
#
# ## Why does it say that?
#
# Take a message that never says "refund" and gets there. Which words did it? Nearest at hand is the gradient of the refund logit $F$ in
# each token's vector $x_t$. But a gradient is local: it knows what the next small step would do, not how the logit came to be as high
# as it is. *Integrated gradients* (Sundararajan and colleagues 2017) walk from a *baseline* $x'$ that says nothing to the input $x$,
# and collect the gradients on the way:
#
# $$\text{score}_t = \sum_h (x_{th} - x'_{th}) \int_0^1 \frac{\partial F}{\partial x_{th}}\bigl(x' + \alpha (x - x')\bigr)\, d\alpha$$
#
# $t$ counts tokens and $h$ the 384 numbers of a token's vector. The scores add up to $F(x) - F(x')$, which is called *completeness*:
# the whole rise of the logit is shared out, none twice.
#
# What says nothing? All zeros is a vector that the model has never met. We keep [CLS] and [SEP] and put one special token in place of
# every word. **Predict** which special token makes the router least sure of any team: [PAD], which training always masked out, or [MASK],
# which pretraining used for "a word is missing"?

# %%
text = "no store credit thank you. I sent the bike stand back a month ago and I want it in actual pounds"
ids = tokenizer(text)["input_ids"]  # T token ids


def emptied(ids, token="[PAD]"):  # the same message, every word replaced
    return [ids[0], *[tokenizer.convert_tokens_to_ids(token)] * (len(ids) - 2), ids[-1]]


ones = jnp.ones((1, len(ids)), int)  # the mask: everything may be seen
for token in ("[PAD]", "[MASK]"):
    p = softmax(model(jnp.array([emptied(ids, token)]), ones)[0])
    print(f"nothing but {token:6}: {p.max():.0%} sure of {teams[p.argmax()]}")

# %% [markdown]
# [MASK] has the stronger opinion, and what the baseline says is taken from the explanation. So [PAD], for this model: measure, do not copy
# it from a tutorial. Now by hand, with the integral as a mean over the midpoints of 32 steps:

# %%
target = teams.index("refund")
x, start = model.bert.embeddings(jnp.array([ids, emptied(ids)]))  # [T, H] each


def logit(x):  # [T, H] → the logit of `target`
    return model.classifier(model.bert.pool(model.bert.encode(x[None], ones)))[0, target]


alphas = jnp.append((jnp.arange(32) + 0.5) / 32, 1.0)  # 32 midpoints, and the message itself
path = start + alphas[:, None, None] * (x - start)  # [33, T, H]
gradients = jax.jit(jax.vmap(jax.grad(logit)))(path)  # [33, T, H]
scores = np.asarray((gradients[:-1].mean(axis=0) * (x - start)).sum(axis=-1))  # [T]
rise, at_the_end = float(logit(x) - logit(start)), float((gradients[-1] * (x - start)).sum())
print(f"the logit rises by {rise:.2f}, and the scores add up to {scores.sum():.2f}")
print(f"with the gradient at the message alone: {at_the_end:.2f}")
assert abs(scores.sum() - rise) < 0.01 * rise

# %% [markdown]
# Complete, to well under 1 %; the gradient at the message itself is not even near. If the sum were off, there would be too few steps or a bug, and you would know. `course_lib.explain` does the
# same in batches; how many points does it need?

# %%
from course_lib.explain import integrated_gradients

counts = (2, 3, 5, 9, 17, 32)
gaps = [integrated_gradients(model, ids, emptied(ids), target, points=count).gap for count in counts]
explained = integrated_gradients(model, ids, emptied(ids), target, points=64)
assert explained.gap < 0.01 and np.allclose(explained.scores, scores, atol=0.02 * np.abs(scores).max())

# %%
def draw_tokens(ax, ids, scores, title, xlabel):
    tokens = tokenizer.convert_ids_to_tokens(ids)
    colours = [plots.BLUE if score > 0 else plots.VERMILLION for score in scores]
    ax.barh(range(len(tokens)), scores, color=colours)
    ax.set_yticks(range(len(tokens)), tokens, fontsize=8)
    ax.invert_yaxis()
    plots.finish(ax, title, xlabel, "")


fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
left.semilogy(counts, gaps, "o-", color=plots.BLUE)
left.axhline(0.01, color=plots.VERMILLION, linestyle=":")
left.annotate("1 %", (30, 0.01), xytext=(0, 4), textcoords="offset points")
plots.finish(left, "With 17 points less than 1 % is missing", "points on the path", "completeness missed by (share of the rise)")
draw_tokens(right, ids, explained.scores, "What pulled the message to refund", "score (logits, with sign)")

# %% [markdown]
# *sent*, *credit*, *pounds*, *back*: sensible. Do not be charmed yet. First another picture, the one that most articles show.
#
# ## Attention rollout
#
# Attention weights are at hand in every forward pass, and lesson 08 drew them. *Attention rollout* (Abnar and Zuidema 2020) condenses
# all layers into one number a token: average the heads, add half an identity for the residual, multiply the layers. The row of [CLS]
# says how much of each token could have flowed into the vector that the classifier reads.

# %%
from course_lib.explain import attention_maps, attention_rollout

maps = attention_maps(model, ids)  # [layers, heads, T, T]
flow = np.eye(len(ids))
for layer in maps.mean(axis=1):  # [T, T]
    flow = (layer + np.eye(len(ids))) / 2 @ flow
assert np.allclose(flow, attention_rollout(maps)) and np.allclose(flow.sum(axis=-1), 1, atol=1e-4)

fig, ax = plt.subplots(figsize=(5.5, 4.8), layout="constrained")
draw_tokens(ax, ids[1:-1], flow[0, 1:-1], "What could flow into [CLS]", "share")

# %% [markdown]
# The first full stop, of all things, and then much the same for every word. Two explanations, and they disagree. Which of them is about
# *this model*?
#
# ## Fail-test the explanations
#
# Adebayo and colleagues (2018) asked a question that should have been asked first: *if I destroy the model, does the explanation
# change?* Put random weights in place of the learned ones, from the top down. An explanation that stays the same cannot be about what
# was learned. As a measure take Spearman's rank correlation between the scores before and after: 1 is the same order of words.
#
# **Predict.** Only the classifier, the very last layer, becomes random: the router now guesses. Which of the two explanations notices?

# %%
from flax import nnx

from course_lib.bert import BertForSequenceClassification

fresh = BertForSequenceClassification(model.config, rngs=nnx.Rngs(1))  # random weights


def destroyed(pooler=False, layers=0, embeddings=False):
    broken = nnx.clone(model)
    broken.classifier = fresh.classifier
    broken.bert.pooler = fresh.bert.pooler if pooler else broken.bert.pooler
    for number in range(6 - layers, 6):
        broken.bert.layers[number] = fresh.bert.layers[number]
    broken.bert.embeddings = fresh.bert.embeddings if embeddings else broken.bert.embeddings
    return broken


# %%
stages = {
    "classifier": {},
    "+ pooler": {"pooler": True},
    "+ 3 layers": {"pooler": True, "layers": 3},
    "+ 6 layers": {"pooler": True, "layers": 6},
    "everything": {"pooler": True, "layers": 6, "embeddings": True},
}


def explain(model, ids, target):  # the scores of the words, without [CLS] and [SEP]
    gradients = integrated_gradients(model, ids, emptied(ids), target, points=32).scores
    return {"integrated gradients": gradients[1:-1], "rollout": attention_rollout(attention_maps(model, ids))[0, 1:-1]}


encoded = [tokenizer(text)["input_ids"] for text in test.texts]
examples = [i for i in range(len(test)) if 12 <= len(encoded[i]) <= 16 and test_right[i]][:8]
before = [explain(model, encoded[i], int(test_said[i])) for i in examples]

# %%
from scipy.stats import spearmanr

after = {}
for name, parts in stages.items():
    broken = destroyed(**parts)
    after[name] = [explain(broken, encoded[i], int(test_said[i])) for i in examples]
alike = {
    method: np.array([[spearmanr(x[method], y[method])[0] for x, y in zip(before, after[name])] for name in stages])
    for method in ("integrated gradients", "rollout")
}  # each [stages, messages]
assert (alike["rollout"][:2] > 0.999).all() and alike["integrated gradients"][:2].mean() < 0.5

# %%
fig, ax = plt.subplots(figsize=(9, 4), layout="constrained")
for shift, (method, values), colour in zip((-0.12, 0.12), alike.items(), (plots.BLUE, plots.VERMILLION)):
    place = np.arange(len(stages)) + shift
    ax.plot(np.repeat(place, len(examples)), values.ravel(), "o", color=colour, alpha=0.35, markersize=5)
    ax.plot(place, values.mean(axis=1), "_", color=colour, markersize=22, markeredgewidth=3, label=method)
ax.axhline(0, color=plots.BLACK, linestyle=":", linewidth=1)
ax.set_xticks(range(len(stages)), list(stages))
ax.legend(frameon=False, loc="upper right")
plots.finish(ax, "Rollout does not notice that the classifier is gone", "random weights instead of", "rank correlation with before")

# %% [markdown]
# Rollout draws exactly the same picture for a router that guesses. It has to: neither classifier nor pooler appears in its formula, nor the
# class. Even with half the layers random it has changed little. Integrated gradients notice at the first stage, and in the end both are
# down to chance. So rollout may say where information *could* flow; about why *refund* it says nothing.
#
# > **Common claim, tested.** *"Attention shows which words the model used for its decision."*
#
# One more test, from the other side. If a word mattered, the logit must fall without it. Take each word away in turn ([MASK] in its
# place) and see what each method's favourite word was worth:

# %%
from course_lib.data import Examples

drops = {"integrated gradients": [], "rollout": [], "any word": []}
for i, scores in zip(examples, before):
    variants = [list(encoded[i]) for _ in encoded[i]]
    for position in range(1, len(variants) - 1):
        variants[position][position] = tokenizer.mask_token_id  # variant 0 stays whole
    batch = Examples(variants[:-1], np.zeros(len(variants) - 1, np.int32))
    logits = predict_logits(model, batch, buckets=(16,))[:, test_said[i]]
    drop = logits[0] - logits[1:]  # [words], what the logit loses without each
    for method in ("integrated gradients", "rollout"):
        drops[method].append(drop[scores[method].argmax()])
    drops["any word"].append(drop.mean())
for method, values in drops.items():
    print(f"{method:21} the logit falls by {np.mean(values):.1f} on average")
assert np.mean(drops["integrated gradients"]) > 2 * max(np.mean(drops["rollout"]), np.mean(drops["any word"]))

# %% [markdown]
# **Not by itself.** On these eight messages rollout's favourite word is worth no more than any word, that of integrated gradients more than
# twice as much. An explanation is a measurement like any other. It has a test, and pictures that were never tested belong in no report.
#
# What is it good for? Debugging. Here is number 1 of the surest errors, asked why it went to `delivery`:

# %%
i = surest[0]
why = integrated_gradients(model, encoded[i], emptied(encoded[i]), int(test_said[i]))
assert why.gap < 0.01 and tokenizer.convert_ids_to_tokens(encoded[i])[why.scores.argmax()] == "driver"
fig, ax = plt.subplots(figsize=(6, 4.8), layout="constrained")
draw_tokens(ax, encoded[i], why.scores, f"Why {teams[test_said[i]]}? It was {test.labels[i]}", "score (logits)")

# %% [markdown]
# *driver* alone carries it there, and the hinge that came off counts for next to nothing. That is pile 1 of the errors, and it says which training messages to write next:
# some that begin with somebody else's topic.
#
# ## What the head of the desk gets to read
#
# 1. **How often is it wrong?** Nearly one message in five. Macro-F1 0.82, and 0.78 to 0.85 would fit the data as well.
# 2. **Does it know when?** Not as trained. One temperature, fitted on validation data, makes it better, not honest.
# 3. **Which messages go to a human?** Those below $1 - \text{hand-over} / \text{mistake}$. That saves a fifth of the work; full automation
#    would cost more than none.
# 4. **Does it serve anybody worse?** No gap larger than noise; one above thirteen points would have shown. Where "not" decides the team, it
#    passed one of four tests.
# 5. **Why does it say that?** Integrated gradients, complete to 1 % and tested against random weights, name words. Rollout failed the test.
#
# **Exercises:** [12 · Exercises](../exercises/12_evaluate_explain_exercises.ipynb), six of them, 53 minutes.
#
# **Next:** [13 · How do I make it big and fast?](13_gpu_tpu_scale.ipynb)
#
# **Read more:** Guo et al., [On Calibration of Modern Neural Networks](https://arxiv.org/abs/1706.04599), sections 2 and 4.2; Ribeiro et al.,
# [Beyond Accuracy: CheckList](https://arxiv.org/abs/2005.04118), section 2; Sundararajan et al.,
# [Axiomatic Attribution](https://arxiv.org/abs/1703.01365), section 3; Abnar and Zuidema, [Quantifying Attention
# Flow](https://arxiv.org/abs/2005.00928), section 3; Adebayo et al., [Sanity Checks for Saliency Maps](https://arxiv.org/abs/1810.03292),
# section 3; Jain and Wallace, [Attention is not Explanation](https://arxiv.org/abs/1902.10186); Chow, "On optimum recognition error and
# reject tradeoff", IEEE Transactions on Information Theory 16 (1970).
