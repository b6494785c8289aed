"""Whatever is sent to the service: it is answered, or refused with a reason. Never a 500, and no log has it."""

import json
import logging
import math
from urllib.parse import quote

import pytest
from hostile import json_values, texts
from hypothesis import event, given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from course_lib import UNSHOWABLE
from course_lib.checkpoint import load_pretrained, save_pretrained
from course_lib.serve import create_app
from course_lib.service import Settings

LABELS = ("delivery", "<b>refund</b>", "=1+1\x1b[31m\u202e")
ADMIN_KEY = "admin-0123456789abc"
PATHS = ("/predict", "/explain", "/model", "/model/rollback", "/health", "/metrics", "/", "/openapi.json")
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture(scope="module")
def client(tmp_path_factory, tiny_folder, tokenizer):
    folder = tmp_path_factory.mktemp("service") / "router-1"
    save_pretrained(load_pretrained(tiny_folder, labels=LABELS), folder, tokenizer)
    settings = Settings(lengths=(16, 64), max_batch=4, admin_key=ADMIN_KEY)
    with TestClient(create_app(folder, settings), base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def logged(client):
    """What the service, or what it is built on, says in logs; the client's own lines left out."""
    records = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not record.name.startswith(("httpx", "httpcore", "asyncio")):
                records.append(record.getMessage())

    handler, root = Keep(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield records
    root.removeHandler(handler)
    root.setLevel(level)


def is_refused(answer) -> None:
    assert answer.status_code in (400, 401, 404, 405, 409, 413, 422), (answer.status_code, answer.text)
    [(key, reason)] = answer.json().items()
    assert key == "error" and reason and len(reason) < 2_100 and not UNSHOWABLE.search(reason)


bodies = st.one_of(
    json_values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(["text", "version", "txt"]), json_values | st.lists(texts, max_size=70)).map(
        lambda value: json.dumps(value).encode()
    ),
    texts.map(lambda text: json.dumps({"text": text}).encode()),
    st.text(min_size=1, max_size=40).map(lambda text: json.dumps({"text": text}, ensure_ascii=False).encode()),
    st.binary(max_size=60),
    st.integers(1, 8_000).map(lambda count: json.dumps({"text": "a " * count}).encode()),
    st.integers(1, 50_000).map(lambda depth: b'{"text": ' + b"[" * depth),
)
kinds = st.sampled_from(["application/json"] * 8 + ["text/plain", "application/json; charset=utf-16", "", "a/b\xff"])


@given(path=st.sampled_from(["/predict", "/predict", "/explain"]), body=bodies, kind=kinds)
def test_any_body_is_answered_or_refused(client, logged, path, body, kind):
    answer = client.post(path, content=body, headers={"Content-Type": kind.encode("latin-1")})
    event(str(answer.status_code))
    assert not logged, "messages from customers do not belong into logs"
    if answer.status_code != 200:
        return is_refused(answer)
    for one in answer.json().get("predictions", [answer.json()]):
        assert list(one["probabilities"]) == list(LABELS) and one["label"] in LABELS
        assert math.isclose(sum(one["probabilities"].values()), 1, abs_tol=1e-3)


@given(text=st.text(st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), min_size=1, max_size=60))
def test_any_text_without_control_characters_is_answered(client, text):
    answer = client.post("/explain", json={"text": text})
    assert answer.status_code == 200 and [word["word"] for word in answer.json()["words"]] == text.split()


keys = st.sampled_from([{}, ADMIN, {"Authorization": "Bearer"}, {"Authorization": b"Bearer \xff\xfe"}])
paths = st.sampled_from(
    ["/model", "/model", "/model/rollback", "/metrics", "/health", "/", "/openapi.json", "/predict"]
)
anywhere = texts.map(lambda text: "/" + quote(text.encode("utf-8", "surrogatepass")))


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "NONSENSE"]),
    path=paths | anywhere,
    key=keys,
    body=bodies | texts.map(lambda text: json.dumps({"version": text}).encode()),
)
def test_any_request_is_answered_or_refused(client, method, path, key, body):
    answer = client.request(method, path, content=body, headers={"Content-Type": "application/json", **key})
    event(str(answer.status_code))
    if answer.status_code != 200:
        is_refused(answer)
    metrics = client.get("/metrics").text
    assert {dict(sample.labels)["path"] for family in text_string_to_metric_families(metrics)
            if family.name == "course_requests" for sample in family.samples} <= {*PATHS, "other"}  # fmt: skip
