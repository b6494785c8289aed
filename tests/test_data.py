"""Reading tables, every bad one with a one-line error; splitting, tokenising, buckets and batches."""

import itertools
import json
import re
from collections import Counter

import numpy as np
import pytest

from course_lib import CourseError
from course_lib.data import (
    Batch,
    Examples,
    Table,
    batches,
    bucket_lengths,
    class_indices,
    load_tickets,
    load_tokenizer,
    read_table,
    split_off,
    tokenize,
)
from course_lib.pretrained import fetch

GOOD = b"text,label\nWhere is it?,delivery\n"


def table_of(texts, labels=None) -> Table:
    labels = None if labels is None else tuple(labels)
    return Table(tuple(texts), labels, "some.csv", tuple(range(2, len(texts) + 2)))


# Reading


def test_csv_with_quotes_commas_line_breaks_and_blank_lines(tmp_path):
    path = tmp_path / "messages.csv"
    path.write_text(
        'id,label,text\n1,delivery,"late, again"\n\n2,faulty,"it says ""E4""\nand stops"\n3, refund ,5" too short\n',
        "utf-8",
    )
    table = read_table(path, text="text", label="label")
    assert table.texts == ("late, again", 'it says "E4"\nand stops', '5" too short')
    assert table.labels == ("delivery", "faulty", "refund"), "blanks around a label are not another label"
    assert table.lines == (2, 4, 6), "the lines at which the rows begin"
    assert table.source == str(path)
    assert table.classes == ("delivery", "faulty", "refund")
    assert len(table) == 3 and table[[2, 0]].texts == ('5" too short', "late, again")
    assert table[[2, 0]].labels == ("refund", "delivery") and table[[2, 0]].lines == (6, 2)


def test_tsv_and_jsonl_hold_the_same_table_as_csv(tmp_path):
    expected = (("late, again", "ça ne marche pas 😡"), ("1", "2"))
    (tmp_path / "a.csv").write_text('label,text\n1,"late, again"\n2,ça ne marche pas 😡\n', "utf-8")
    (tmp_path / "a.tsv").write_text("label\ttext\n1\tlate, again\n2\tça ne marche pas 😡\n", "utf-8")
    records = [{"text": text, "label": int(label)} for text, label in zip(*expected, strict=True)]
    (tmp_path / "a.JSONL").write_text("\n\n".join(map(json.dumps, records)), "utf-8")  # 😡 as \ud83d\ude21
    for name in ("a.csv", "a.tsv", "a.JSONL"):
        table = read_table(tmp_path / name, text="text", label="label")
        assert (table.texts, table.labels) == expected, name
    assert table.lines == (1, 3)


def test_labels_are_read_only_where_they_are_asked_for(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text,label\nhello,\n")
    table = read_table(tmp_path / "a.csv", text="text")
    assert table.labels is None and table[[0]].labels is None and table.classes == ()


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "byte-order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_byte_order_mark_and_line_endings_of_other_systems(tmp_path, name, mark, end):
    separator = "\t" if name == "a.tsv" else ","
    rows = [["text", "label"], ["Wo ist es?", "délivré"], ["half\u2028line", "b"]]
    lines = [separator.join(row) for row in rows]
    if name == "a.jsonl":
        lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in rows[1:]]
    (tmp_path / name).write_bytes((mark + end.join(lines) + end).encode())
    table = read_table(tmp_path / name, text="text", label="label")
    assert table.texts == ("Wo ist es?", "half\u2028line") and table.labels == ("délivré", "b")


def test_blank_lines_before_the_header_are_no_header(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\n\n" + GOOD)
    table = read_table(tmp_path / "a.csv", text="text", label="label")
    assert table.texts == ("Where is it?",) and table.lines == (4,)


def test_lines_may_end_as_in_the_macintosh_csv_of_excel(tmp_path):
    (tmp_path / "a.csv").write_bytes(GOOD.replace(b"\n", b"\r"))
    assert read_table(tmp_path / "a.csv", text="text", label="label").texts == ("Where is it?",)


def test_a_line_break_written_by_windows_inside_a_text_stays_there(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'text,label\r\n"one\r\ntwo",a\r\nthree,b\r\n')
    table = read_table(tmp_path / "a.csv", text="text", label="label")
    assert table.texts == ("one\r\ntwo", "three") and table.lines == (2, 4)


BAD = {  # what is wrong: (file name, content, what the error says after the file's name)
    "wrong ending": ("a.xlsx", GOOD, "the name must end in .csv, .tsv or .jsonl"),
    "no ending": ("a", GOOD, "the name must end in .csv, .tsv or .jsonl"),
    "missing column": ("a.csv", b"message,team\nhi,a\n", "no column 'text'; there are: 'message', 'team'"),
    "column in other letters": ("a.csv", b"Text,label\nhi,a\n", "no column 'text'; there are: 'Text', 'label'"),
    "semicolons": ("a.csv", b"text;label\nhi;a\n", "no column 'text'; there are: 'text;label'"),
    "duplicate column": ("a.csv", b"text,label,text\nhi,a,ho\n", "more than one column 'text'"),
    "empty file": ("a.csv", b"", "the table is empty"),
    "empty JSONL": ("a.jsonl", b"\n \n", "the table is empty"),
    "blank file": ("a.tsv", b"\n\n", "the table is empty"),
    "header only": ("a.csv", b"text,label\n", "the table is empty"),
    "empty text": ("a.csv", GOOD + b",b\n  ,b\n", "column 'text' is empty or NaN at line 3, 4; fill or remove these"),
    "empty label": ("a.csv", GOOD + b"hi,\n", "column 'label' is empty or NaN at line 3"),
    "NaN text": ("a.csv", GOOD + b"NaN,b\n", "column 'text' is empty or NaN at line 3"),
    "nan label": ("a.tsv", b"text\tlabel\nhi\tnan\n", "column 'label' is empty or NaN at line 2"),
    "many empty": ("a.csv", GOOD + b",b\n" * 9, "column 'text' is empty or NaN at line 3, 4, 5, 6, 7, …; fill"),
    "null text": ("a.jsonl", b'{"text": null, "label": "a"}', "column 'text' is empty or NaN at line 1"),
    "JSON NaN": ("a.jsonl", b'{"text": "hi", "label": NaN}', "column 'label' is empty or NaN at line 1"),
    "latin-1": ("a.csv", GOOD + b"caf\xe9,b\n", "line 3 is not UTF-8 (byte 0xe9); save it as UTF-8, for example: i"),
    "latin-1 after a mark": ("a.csv", b"\xef\xbb\xbftext,label\n\xe9t\xe9,b\n", "line 2 is not UTF-8 (byte 0xe9)"),
    "latin-1 JSONL": ("a.jsonl", b'\n{"text": "caf\xe9"}', "line 2 is not UTF-8 (byte 0xe9)"),
    "UTF-16": ("a.csv", GOOD.decode().encode("utf-16"), "iconv -f UTF-16 -t UTF-8 a.csv"),
    "a picture": ("a.csv", b"\x89PNG\r\n\x1a\n", "line 1 is not UTF-8 (byte 0x89)"),
    "quote never closed": ("a.csv", GOOD + b'ok,b\n"so I said,b\n', "quotes in the row that begins at line 4 do not"),
    "quote never closed in mid-file": ("a.csv", GOOD + b'"so I said,b\n"ho",b\n', "row that begins at line 3 do not"),
    "quotes inside quotes": ("a.csv", GOOD + b'"I said "no" twice",b\nhi,a\n', "the row that begins at line 3 do not"),
    "quote never closed, long file": ("a.csv", GOOD + b'"so,b\n' + b"hi,a\n" * 40_000, "that begins at line 3 do not"),
    "UTF-16 without a mark": ("a.csv", GOOD.decode().encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8 a.csv"),
    "the other UTF-16": ("a.jsonl", '{"text": "é"}'.encode("utf-16-be"), "iconv -f UTF-16BE"),
    "a NUL byte": ("a.csv", GOOD + b"hi\0,a\n", "line 3 holds a NUL byte"),
    "comma too many": ("a.csv", GOOD + b"late, again,b\n", "line 3 has 3 fields, the header 2; quote the text"),
    "field too few": ("a.tsv", b"text\tlabel\n\nhi\n", "line 3 has 1 fields, the header 2"),
    "ragged after a line break in a text": ("a.csv", b'text,label\n"a\nb",c\nd\n', "line 4 has 1 fields"),
    "not JSON": ("a.jsonl", b'{"text": "hi", "label": "a"}\nhi\n', "line 2 is not JSON (Expecting value)"),
    "one object over many lines": ("a.jsonl", b'{\n"text": "hi"\n}', "line 1 is not JSON (Expecting property name"),
    "nested without end": ("a.jsonl", b'{"text": "hi", "label": "a"}\n' + b"[" * 10**6, "line 2 is nested too deeply"),
    "not an object": ("a.jsonl", b'["hi", "a"]\n', "line 1 is not an object such as"),
    "a list of labels": ("a.jsonl", b'{"text": "hi", "label": [1, 2]}', "line 1: 'label' is [1, 2], not a text"),
    "an object for a text": ("a.jsonl", b'{"text": {}, "label": "a"}', "line 1: 'text' is {}, not a text"),
    "true for a label": ("a.jsonl", b'{"text": "hi", "label": true}', "line 1: 'label' is true, not a text"),
    "key missing later": ("a.jsonl", b'{"text": 1, "label": 2}\n{"text": 3}', "line 2: no column 'label'; there"),
    "NUL as an escape": ("a.jsonl", b'{"text": "so \\u0000", "label": "a"}', "line 1: 'text' holds a NUL character"),
    "half a character": ("a.jsonl", b'{"text": "so \\ud83d", "label": "a"}', "line 1: 'text' holds half a character"),
}  # fmt: skip


@pytest.mark.parametrize("name, content, says", BAD.values(), ids=BAD)
def test_a_bad_table_gets_one_line_that_names_the_file_and_what_is_wrong(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    assert says in one_line(lambda: read_table(path, text="text", label="label"), path)


def one_line(call, path) -> str:
    """The error's words after `path: `."""
    with pytest.raises(CourseError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) - len(str(path)) < 200, message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("length", [200_000, 10_000_000])
def test_a_text_may_be_long(tmp_path, length):
    (tmp_path / "a.csv").write_bytes(GOOD + b'"' + b"so, " * (length // 4) + b'",a\n')
    assert [len(text) for text in read_table(tmp_path / "a.csv", "text", "label").texts] == [12, length]


def test_one_column_cannot_be_text_and_label(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(GOOD)
    assert "'text' cannot be both" in one_line(lambda: read_table(path, "text", "text"), path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for name, says in {
        "none.csv": "no such file",
        "nowhere/none.csv": "no such file",
        "folder.csv": "cannot be read (Is a directory)",
    }.items():
        path = tmp_path / name
        assert one_line(lambda path=path: read_table(path, text="text"), path).startswith(says)


def test_tickets_come_by_split_and_by_label():
    whole, parts = load_tickets(), [load_tickets(split) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(whole)
    assert sorted(text for part in parts for text in part.texts) == sorted(whole.texts)
    assert load_tickets("test", label="sentiment").classes == ("neg", "neu", "pos")
    with pytest.raises(CourseError, match="no column 'message'; there are: "):
        load_tickets("test", text="message")
    with pytest.raises(ValueError, match="'dev' is not one of test, train, validation"):
        load_tickets("dev")


# Splitting


def test_split_off_holds_out_every_class_in_proportion():
    labels = ["a"] * 700 + ["b"] * 210 + ["c"] * 70
    table = table_of([f"message {i}" for i in range(980)], labels)
    rest, held_out = split_off(table)
    assert sorted(rest.texts + held_out.texts) == sorted(table.texts)
    assert Counter(held_out.labels) == {"a": 100, "b": 30, "c": 10}, "one in seven is about 15 %"
    assert held_out.labels == tuple(labels[table.texts.index(text)] for text in held_out.texts)
    assert Counter(split_off(table, fraction=0.5)[1].labels) == {"a": 350, "b": 105, "c": 35}


def test_split_off_gives_the_same_rows_for_the_same_seed_only():
    table = table_of([f"message {i}" for i in range(100)], ["a", "b"] * 50)
    first, again, other = split_off(table, seed=1), split_off(table, seed=1), split_off(table, seed=2)
    assert first == again
    assert set(first[1].texts) != set(other[1].texts)


def test_rows_with_the_same_words_stay_on_one_side():
    rng = np.random.default_rng(0)
    ways = ("{}", "{}!", "  {} ??", "“{}”")
    texts = [ways[rng.integers(4)].format(rng.choice([f"Still Waiting {i}", f"still waiting {i}"])) for i in
             rng.integers(0, 60, 300)]  # fmt: skip
    for seed in range(5):
        sides = split_off(table_of(texts, rng.choice(["a", "b"], 300)), seed=seed)
        rest, held_out = ({" ".join(re.findall(r"\w+", text.lower())) for text in side.texts} for side in sides)
        assert held_out and not rest & held_out
        assert sum(map(len, sides)) == 300


def test_texts_without_words_are_not_all_the_same_text():
    rest, held_out = split_off(table_of([mark * n for mark in "😡🙂?" for n in range(1, 11)], ["a", "b"] * 15))
    assert len(rest) and len(held_out)


def test_a_rare_class_is_always_among_what_is_trained():
    """With a row or two a class, chance alone puts all of a class on the held-out side in some of these."""
    rng = np.random.default_rng(0)
    for seed in range(100):
        labels = [str(label) for label in rng.choice(["a", "b", "c", "d"], 40, p=[0.5, 0.42, 0.05, 0.03])]
        texts = [f"message {i}" for i in rng.integers(0, 35, 40)]
        table = table_of(texts, labels)
        rest, held_out = split_off(table, seed=seed)
        assert rest.classes == table.classes
        assert len(held_out) and not set(rest.texts) & set(held_out.texts)
        assert sorted(rest.lines + held_out.lines) == list(table.lines)


def test_too_few_rows_to_split_are_refused():
    ten = [f"message {i}" for i in range(10)]
    with pytest.raises(CourseError, match=r"^some.csv: 10 different rows are too few to hold some out for validation$"):
        split_off(table_of(ten * 3, ["a", "b"] * 15))
    twenty = [f"message {i}" for i in range(20)]
    with pytest.raises(CourseError, match=r"^some.csv: cannot hold rows out for validation \(.*\)$"):
        split_off(table_of(twenty, twenty))
    with pytest.raises(CourseError, match="^some.csv: cannot hold rows out .*: too few rows a class$"):
        for seed in range(20):  # a class of seven rows, all alike, beside classes of one row
            split_off(table_of(["so"] * 7 + twenty[:13], ["a"] * 7 + twenty[:13]), seed=seed)


def test_class_indices_are_places_in_the_trained_order():
    table = table_of(["x", "y", "z"], ["late", "broken", "late"])
    indices = class_indices(table, ("broken", "late"))
    assert indices.tolist() == [1, 0, 1] and indices.dtype == np.int32


def test_a_label_that_training_has_not_seen_is_named_with_its_line():
    with pytest.raises(CourseError, match=r"^some.csv: line 3 has label 'lost', training knows broken, late$"):
        class_indices(table_of(["x", "y"], ["late", "lost"]), ("broken", "late"))


# Tokens


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(fetch())


def test_tokenize_equals_transformers_bert_tokenizer(tokenizer):
    from transformers import BertTokenizer

    texts = [*load_tickets("validation").texts[:20], "", "😡", "naïve CAFÉ\u00a0£12.50\n#7"]
    reference = BertTokenizer.from_pretrained(fetch())
    examples = tokenize(tokenizer, texts, 512)
    assert examples.token_ids == [reference.encode(text) for text in texts]
    assert examples.lengths.tolist() == [len(ids) for ids in examples.token_ids]
    assert examples.labels.tolist() == [0] * len(texts) and examples.labels.dtype == np.int32


def test_tokenize_cuts_long_texts_and_keeps_their_ends_marked(tokenizer):
    examples = tokenize(tokenizer, ["money " * 50, "money"], 8, labels=np.array([3, 1]))
    assert examples.lengths.tolist() == [8, 3] and examples.labels.tolist() == [3, 1]
    for ids in examples.token_ids:
        assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
        assert set(ids[1:-1]) == {tokenizer.convert_tokens_to_ids("money")}


def test_half_a_character_is_refused(tokenizer):
    with pytest.raises(CourseError, match=r"text 'late \\ud83d' is not UTF-8"):
        tokenize(tokenizer, ["late", "late \ud83d"], 8)


def test_no_texts_are_no_examples(tokenizer):
    examples = tokenize(tokenizer, [], 8)
    assert len(examples) == 0 and examples.lengths.dtype == int and list(batches(examples, 4, (8,))) == []


@pytest.mark.parametrize(
    "files, says",
    [
        (None, "no tokenizer there; it needs tokenizer.json or vocab.txt"),
        ({}, "no tokenizer there; it needs tokenizer.json or vocab.txt"),
        ({"config.json": '{"model_type": "bert"}'}, "no tokenizer there; it needs tokenizer.json or vocab.txt"),
        ({"config.json": '{"model_type": "bert"}', "tokenizer.json": "{}"}, "its tokenizer cannot be read (KeyError: "),
        ({"config.json": '{"model_type": "bert"}', "tokenizer.json": '{"v'}, "its tokenizer cannot be read ("),
    ],
    ids=["no folder", "empty folder", "weights only", "other JSON", "cut off"],
)  # fmt: skip
def test_a_folder_without_a_tokenizer_is_refused(tmp_path, files, says):
    folder = tmp_path / "model"
    if files is not None:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(content)
    assert one_line(lambda: load_tokenizer(folder), folder).startswith(says)


def test_a_tokenizer_fits_a_model_that_has_all_its_tokens_and_room_for_one(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path, 30_522).vocab_size == 30_522
    with pytest.raises(CourseError, match="30,522 tokens and the model 30,521"):
        load_tokenizer(tmp_path, 30_521)
    settings = tmp_path / "tokenizer_config.json"
    fields = json.loads(settings.read_text())
    settings.write_text(json.dumps(fields | {"model_max_length": 2}))
    with pytest.raises(CourseError, match="model_max_length is 2"):
        load_tokenizer(tmp_path)
    settings.write_text(json.dumps(fields | {"model_max_length": 3}))  # [CLS], a token, [SEP]
    assert load_tokenizer(tmp_path).model_max_length == 3


# Buckets and batches


def padded_tokens(lengths, buckets) -> int:
    return sum(min(bucket for bucket in buckets if bucket >= length) for length in lengths)


@pytest.mark.parametrize("seed", [*range(20), 112, 188])  # the last two notice a count that is off by one
def test_bucket_lengths_pad_the_least_of_all_choices(seed):
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.geometric(1 / rng.integers(2, 30), rng.integers(1, 60)), 79)
    most, multiple = int(rng.integers(1, 5)), int(rng.choice([1, 8]))
    buckets = bucket_lengths(lengths, most, multiple)
    possible = sorted({-(-int(length) // multiple) * multiple for length in lengths})
    assert 1 <= len(buckets) <= most and set(buckets) <= set(possible) and buckets == tuple(sorted(buckets))
    best = min(
        padded_tokens(lengths, (*shorter, possible[-1]))
        for size in range(min(most, len(possible)))
        for shorter in itertools.combinations(possible[:-1], size)
    )
    assert padded_tokens(lengths, buckets) == best


def test_there_are_at_most_four_buckets_and_each_is_a_multiple_of_eight():
    buckets = bucket_lengths(np.random.default_rng(0).integers(1, 500, 2000))
    assert len(buckets) == 4 and not any(length % 8 for length in buckets) and buckets[-1] in (496, 504)
    assert bucket_lengths([3, 4, 4]) == (8,), "no more buckets than are of use"
    assert bucket_lengths([0, 17]) == (8, 24)


def random_case(seed):
    """Examples whose tokens say which example they are of, a batch size and buckets; some texts are too long."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, rng.integers(1, 90))
    examples = Examples([[i + 1] * length for i, length in enumerate(lengths)], rng.integers(0, 8, len(lengths)))
    buckets = tuple(sorted(rng.choice([8, 16, 24, 32, 40], rng.integers(1, 5), replace=False).tolist()))
    return examples, int(rng.integers(1, 20)), buckets


@pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "shuffled"])
@pytest.mark.parametrize("seed", range(25))
def test_batches_hold_every_example_once_padded_on_the_right(seed, shuffled):
    examples, batch_size, buckets = random_case(seed)
    found = list(batches(examples, batch_size, buckets, np.random.default_rng(seed) if shuffled else None))
    index = np.concatenate([batch.index for batch in found])
    assert sorted(index[index >= 0]) == list(range(len(examples)))
    assert sum((batch.weights == 0).any() for batch in found) <= 1, "at most one batch is filled up"
    assert len(found) == -(-len(examples) // batch_size)
    for batch in found:
        rows, length = batch.input_ids.shape
        assert rows == batch_size and length in buckets and batch.attention_mask.shape == (rows, length)
        assert [part.dtype for part in batch] == [np.int32, np.int32, np.int32, np.float32, np.int32]
        assert batch.weights.tolist() == (batch.index >= 0).tolist()
        for ids, mask, label, i in zip(batch.input_ids, batch.attention_mask, batch.labels, batch.index, strict=True):
            kept = min(len(examples.token_ids[i]), buckets[-1]) if i >= 0 else 0
            assert kept <= length, "only what is longer than the last bucket is cut"
            assert ids.tolist() == [i + 1] * kept + [0] * (length - kept)
            assert mask.tolist() == [1] * kept + [0] * (length - kept)
            assert label == (examples.labels[i] if i >= 0 else 0)


def test_texts_go_into_the_shortest_bucket_that_holds_them_and_what_is_left_moves_up():
    examples = Examples([[7] * length for length in (8, 9, 3, 16, 2)], np.zeros(5, int))
    shapes = [(batch.input_ids.shape, batch.index.tolist()) for batch in batches(examples, 2, (8, 16))]
    assert shapes == [((2, 8), [0, 2]), ((2, 16), [4, 1]), ((2, 16), [3, -1])]


def orders(examples, batch_size, buckets, seed) -> list[list[int]]:
    rng = None if seed is None else np.random.default_rng(seed)
    return [batch.index.tolist() for batch in batches(examples, batch_size, buckets, rng)]


def test_batches_are_shuffled_by_the_generator_and_by_nothing_else():
    examples = Examples([[1] * (i % 30 + 1) for i in range(90)], np.zeros(90, int))
    case = (examples, 8, (8, 16, 32))
    assert orders(*case, seed=1) == orders(*case, seed=1)
    assert orders(*case, seed=None) == orders(*case, seed=None)
    different = [orders(*case, seed=seed) for seed in (1, 2, None)]
    assert different[0] != different[1] and different[0] != different[2]
    together = [{frozenset(rows) for rows in order} for order in different]
    assert not together[0] & together[1], "who shares a batch changes too, not only the order of the batches"
    rng = np.random.default_rng(1)  # one generator over the epochs: each epoch has an order of its own
    epochs = [[batch.index.tolist() for batch in batches(*case, rng)] for _ in range(2)]
    assert epochs[0] == different[0] and epochs[1] != epochs[0]


def test_shuffled_batches_do_not_come_in_order_of_length():
    examples = Examples([[1] * (i % 30 + 1) for i in range(300)], np.zeros(300, int))
    lengths = [batch.input_ids.shape[1] for batch in batches(examples, 8, (8, 16, 32), np.random.default_rng(0))]
    assert lengths != sorted(lengths) and set(lengths) == {8, 16, 32}
    lengths = [batch.input_ids.shape[1] for batch in batches(examples, 8, (8, 16, 32))]
    assert lengths == sorted(lengths)


def test_a_batch_goes_through_jit_as_it_is():
    import jax

    examples, batch_size, buckets = random_case(3)
    total = jax.jit(lambda batch: (batch.weights * batch.attention_mask.sum(-1)).sum())
    tokens = sum(float(total(batch)) for batch in batches(examples, batch_size, buckets))
    assert tokens == np.minimum(examples.lengths, buckets[-1]).sum()
    assert Batch._fields == ("input_ids", "attention_mask", "labels", "weights", "index")


def test_a_few_short_texts_are_not_padded_to_the_longest_bucket():
    few = Examples([[101, 7, 102], [101, 102]], np.zeros(2, np.int32))
    assert [batch.input_ids.shape for batch in batches(few, 4, (8, 64, 512))] == [(4, 8)]
