# %% [markdown]
# # 00 · What will I build?
#
# | reading | runs in | needs | afterwards you can |
# |---|---|---|---|
# | 5 min | half a minute | nothing | say what the course builds, and know that it works on your machine |
#
# An online shop has a support desk with eight teams. Messages arrive all day; someone reads each one and sends it to
# the team that can help. You will build the reader: a real pretrained BERT, in Flax, that runs on a laptop. This page
# shows a first version of it at work. By lesson 11 you will have trained a better one yourself, and by lesson 14
# others can call it.
#
# **How to use a page.** Read, guess what the next cell will show, then run it with Shift-Enter. Nothing here needs the
# network.

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

from course_lib.bert import BertModel
from course_lib.checkpoint import load_pretrained
from course_lib.data import load_tokenizer, tokenize
from course_lib.predict import embed
from course_lib.pretrained import fetch

folder = fetch()
bert = load_pretrained(folder, architecture=BertModel)
tokenizer = load_tokenizer(folder)

from flax import nnx

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
router = LogisticRegression(C=10, class_weight="balanced", max_iter=1000)
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
# How often is it right? Five messages show nothing. The test split holds messages that nothing here was fitted to:

# %%
from course_lib.evaluate import evaluate, tfidf_baseline

test = load_tickets("test")
true = [tickets.classes.index(team) for team in test.labels]


def score(predicted_teams):
    return evaluate(true, [tickets.classes.index(team) for team in predicted_teams], tickets.classes)


words = score(tfidf_baseline(tickets.texts, tickets.labels).predict(test.texts))
meaning = score(router.predict(embed(bert, tokenize(tokenizer, test.texts, max_length=128))))
print(f"counting words (TF-IDF): {words.accuracy:.0%} of {words.n} right")
print(f"BERT as it came:         {meaning.accuracy:.0%} of {meaning.n} right")

# %% [markdown]
# Both numbers are starting points. The words' score says how far counting gets; the second says what a pretrained model
# knows before anyone has trained it on this desk's work. Lesson 11 trains all of it, and measures what that adds.
#
# ## What you now know
#
# 1. The task: a message in, one of eight teams out, and how probable that is.
# 2. A pretrained BERT turns a text into a vector; texts that mean the same lie close together.
# 3. A simple classifier on those vectors already routes messages.
# 4. A score is worth something when it is measured on messages the model has not seen, beside a baseline.
# 5. Your machine runs all of it, offline.
#
# **Next:** [11 · How do I make it mine?](11_finetune_bert.ipynb)
#
# **Read more:** Devlin et al., [BERT](https://arxiv.org/abs/1810.04805), sections 1 and 3; Reimers and Gurevych,
# [Sentence-BERT](https://arxiv.org/abs/1908.10084), section 3.
