"""The tickets are what their data card says: enough of them, no two alike, split without leakage, labels that hold."""

import csv
import difflib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import course_lib
from course_lib.bert import BertModel
from course_lib.checkpoint import load_pretrained
from course_lib.data import load_tokenizer, tokenize
from course_lib.predict import embed
from course_lib.pretrained import fetch

DATA = Path(course_lib.__file__).parent / "data"
INTENTS = {"account", "change", "delivery", "faulty", "payment", "product", "refund", "return"}
SENTIMENTS = {"neg", "neu", "pos"}
SPLITS = ("train", "validation", "test")

# How alike the two texts of a pair are, from 0 to 1, by letters (difflib). A request pair has another request in its
# last sentence; a polite form is long beside a short message; the other kinds change a word, a name or some letters.
LEAST_ALIKE = {"negation": 0.9, "spelling": 0.9, "person": 0.85, "request": 0.7, "politeness": 0.6}


def rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


TICKETS, PAIRS = rows("tickets.csv"), rows("ticket_pairs.csv")
PAIR_TEXTS = [pair[side] for pair in PAIRS for side in ("text_a", "text_b")]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def part(split: str) -> list[dict[str, str]]:
    return [ticket for ticket in TICKETS if ticket["split"] == split]


# What they say


def test_there_are_enough_messages_with_the_named_labels():
    assert len(TICKETS) >= 1200
    assert {ticket["intent"] for ticket in TICKETS} == INTENTS
    assert {ticket["sentiment"] for ticket in TICKETS} == SENTIMENTS
    assert {ticket["split"] for ticket in TICKETS} == set(SPLITS)
    assert len({(ticket["intent"], ticket["sentiment"]) for ticket in TICKETS}) == 24, "each intent in each mood"
    sizes = Counter(ticket["intent"] for ticket in TICKETS).values()
    assert 2 < max(sizes) / min(sizes) < 5, "as unequal as at a real desk, and no class too small to learn"


def test_messages_are_of_all_lengths_and_styles():
    lengths = np.array([len(ticket["text"].split()) for ticket in TICKETS])
    assert lengths.min() == 1 and 10 <= np.median(lengths) <= 30 and 60 < lengths.max() < 100
    for style in (
        r"^[^A-Z]+$",
        r"\b[A-Z]{4,}\b",
        r"\n",
        r"[\U0001F300-\U0001FAFF]",
        r"\d",
        r"\b(dont|cant|isnt|wont)\b",
    ):
        assert sum(bool(re.search(style, ticket["text"])) for ticket in TICKETS) >= 10, style


def test_no_opening_of_five_words_is_used_more_than_twice():
    openings = Counter(" ".join(words(ticket["text"])[:5]) for ticket in TICKETS)
    assert [opening for opening, count in openings.items() if count > 2] == []


def test_no_two_messages_have_the_same_words():
    same = Counter(" ".join(re.findall(r"\w+", ticket["text"].lower())) for ticket in TICKETS)
    assert [text for text, count in same.items() if count > 1] == []


def test_no_personal_data():
    texts = [ticket["text"] for ticket in TICKETS] + PAIR_TEXTS
    assert [text for text in texts if re.search(r"\S@\S|https?:|www\.", text)] == []
    numbers = [found[0] for text in texts for found in re.finditer(r"\+?\d(?:[ ().-]{0,2}\d){8,}", text)]
    assert numbers == ["0034 9981 7"], "one has nine digits, and calls itself a tracking number"


# How they are divided


@pytest.mark.parametrize("label", ["intent", "sentiment"])
@pytest.mark.parametrize("split", SPLITS)
def test_every_split_has_each_class_in_about_the_same_proportion(split, label):
    whole, some = Counter(ticket[label] for ticket in TICKETS), Counter(ticket[label] for ticket in part(split))
    assert some.keys() == whole.keys()
    for name, count in whole.items():
        assert abs(some[name] / some.total() - count / len(TICKETS)) < 0.02, name


def test_every_split_has_each_intent_in_each_sentiment():
    for split in SPLITS:
        assert len({(ticket["intent"], ticket["sentiment"]) for ticket in part(split)}) == 24, split


def test_the_data_card_states_the_counts_of_the_file():
    card = (DATA / "README.md").read_text("utf-8")
    table = {}
    for line in card.splitlines():
        cells = [cell.strip(" `*") for cell in line.strip("|").split("|")]
        if line.startswith("|") and all(cell.isdigit() for cell in cells[1:]):
            table[cells[0]] = [int(cell) for cell in cells[1:]]

    def counts(of: str, name: str) -> list[int]:
        each = [sum(ticket[of] == name for ticket in part(split)) for split in SPLITS]
        return [*each, sum(each)]

    sizes = [len(part(split)) for split in SPLITS]
    expected = {name: counts("intent", name) for name in INTENTS} | {
        name: counts("sentiment", name) for name in SENTIMENTS
    }
    assert table == {**expected, "all": [*sizes, sum(sizes)]}
    assert f"{len(TICKETS):,} messages" in card and f"{len(PAIRS)} pairs" in card


# How alike they are, by meaning


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Sentence vectors of length 1, float32 [n, 384]: the tickets, then the texts of the pairs."""
    folder = fetch()
    texts = [ticket["text"] for ticket in TICKETS] + PAIR_TEXTS
    examples = tokenize(load_tokenizer(folder), texts, max_length=512)
    found = embed(load_pretrained(folder, architecture=BertModel), examples)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)  # so a dot product is a cosine
    return found


def most_alike(cosines: np.ndarray, texts: list[str], others: list[str]) -> str:
    i, j = np.unravel_index(cosines.argmax(), cosines.shape)
    return f"cosine {cosines[i, j]:.3f}: {texts[i]!r} / {others[j]!r}"


def test_no_message_is_nearly_another_and_none_leaks_between_splits(vectors):
    texts = [ticket["text"] for ticket in TICKETS]
    cosines = np.triu(vectors[: len(texts)] @ vectors[: len(texts)].T, k=1)
    assert cosines.max() < 0.75, most_alike(cosines, texts, texts)
    splits = np.array([ticket["split"] for ticket in TICKETS])
    across = cosines * (splits[:, None] != splits[None])
    assert across.max() < 0.67, most_alike(across, texts, texts)


def test_the_measure_above_does_notice_a_message_with_a_word_changed(vectors):
    """Names, negations and courtesies changed: 36 near-copies on purpose. Nearly all are above 0.75."""
    first, second = vectors[len(TICKETS) :: 2], vectors[len(TICKETS) + 1 :: 2]
    small = [pair["kind"] in ("negation", "person", "politeness") for pair in PAIRS]
    assert ((first * second).sum(1)[small] > 0.75).mean() > 0.95


def test_no_pair_is_nearly_a_ticket(vectors):
    cosines = vectors[len(TICKETS) :] @ vectors[: len(TICKETS)].T
    assert cosines.max() < 0.8, most_alike(cosines, PAIR_TEXTS, [ticket["text"] for ticket in TICKETS])
    assert not set(PAIR_TEXTS) & {ticket["text"] for ticket in TICKETS}


# The pairs


def test_there_are_sixty_pairs_of_different_texts_twelve_a_kind():
    assert Counter(pair["kind"] for pair in PAIRS) == dict.fromkeys(LEAST_ALIKE, 12)
    assert len(set(PAIR_TEXTS)) == 120
    assert {pair[f"intent_{side}"] for pair in PAIRS for side in "ab"} == INTENTS
    assert {pair[f"sentiment_{side}"] for pair in PAIRS for side in "ab"} == SENTIMENTS


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{pair['kind']}-{i % 12 + 1}" for i, pair in enumerate(PAIRS)])
def test_a_pair_is_a_small_edit_that_changes_the_labels_only_where_its_kind_does(pair):
    intent_changes, sentiment_changes = pair["intent_a"] != pair["intent_b"], pair["sentiment_a"] != pair["sentiment_b"]
    if pair["kind"] == "request":
        assert intent_changes and not sentiment_changes, "what is asked for changes, not the mood"
    elif pair["kind"] == "negation":
        assert intent_changes != sentiment_changes, "a `not` changes just one of them"
    else:
        assert not intent_changes and not sentiment_changes
    alike = difflib.SequenceMatcher(None, pair["text_a"], pair["text_b"], autojunk=False).ratio()
    assert LEAST_ALIKE[pair["kind"]] <= alike < 1
