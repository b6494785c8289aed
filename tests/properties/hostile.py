"""What the property tests feed to the course: texts, JSON and files that nobody in their right mind would send."""

import json
from collections.abc import Iterator

from hypothesis import strategies as st

from course_lib import UNSHOWABLE, CourseError

NASTY = [
    "", " ", "\0", "\x1b[2J", "\r", "\n", "\t", "\x85", "\u2028", "\u202e", "\u200f", "\ufeff", "\ud800", "\udfff", "'",
    '"', ",", ";", "=1+1", "+1", "-1", "@a", "＝1", "<script>alert(1)</script>", "&amp;", "$", "\\", "$\\frac{$", "nan",
    "null", "😡", "👩\u200d💻", "é", "e\u0301" * 50, "中文", "[CLS]", "[PAD]", "##s", "__proto__", "text", "label", "{",
    "[",
]  # fmt: skip
# Any code point, halves of characters included.
texts = st.lists(st.sampled_from(NASTY) | st.text(max_size=8) | st.characters(), max_size=6).map("".join)
# Those that a file in UTF-8 can hold, and a table.
writable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    [text for text in NASTY if not any(part in text for part in "\0\ud800\udfff")]
)
numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 1, 3, 2**31, 2**63, 2**64, 10**400, 1e308])
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(texts, values, max_size=4),
    max_leaves=8,
)


def places(tree: object, above: tuple = ()) -> Iterator[tuple]:
    """The way to each value in a tree of dicts and lists, the tree's own () first."""
    yield above
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in children:
        yield from places(child, (*above, key))


@st.composite
def changed_json(draw, tree: object) -> object:
    """`tree` with one to three values replaced, removed, doubled under another name, or scaled."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 3))):
        way = draw(st.sampled_from(list(places(tree))))
        if not way:
            if draw(st.integers(0, 9)) == 0:  # rarely: nothing else is left to look at
                tree = draw(json_values)
            continue
        parent = tree
        for key in way[:-1]:
            parent = parent[key]
        how = draw(st.sampled_from(["replace", "remove", "rename", "scale"]))
        value = parent[way[-1]]
        if how == "remove":
            del parent[way[-1]]
        elif how == "rename" and isinstance(parent, dict):
            parent[draw(texts)] = parent.pop(way[-1])
        elif how == "scale" and isinstance(value, int):
            parent[way[-1]] = value * draw(st.integers(-2, 2)) + draw(st.integers(-2, 2))
        else:
            parent[way[-1]] = draw(json_values)
    return tree


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """`content` cut off, with bits flipped, bytes put in, or a piece in it twice."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        how = draw(st.sampled_from(["cut", "flip", "insert", "double"]))
        if how == "cut":
            del content[at:]
        elif how == "flip" and at < len(content):
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "insert":
            content[at:at] = draw(st.binary(max_size=8))
        else:
            content[at:at] = content[at : at + draw(st.integers(1, 40))]
    return bytes(content)


def assert_one_line(error: CourseError) -> None:
    """The project's own error, as the person at the keyboard sees it."""
    message = str(error)
    assert message and len(message) <= 2_000 and not UNSHOWABLE.search(message), message
