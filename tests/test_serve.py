"""The service as a stranger meets it: real HTTP, on this machine, to a real server with a tiny BERT behind it."""

import asyncio
import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest
from flax import nnx
from prometheus_client.parser import text_string_to_metric_families

from course_lib import CourseError, cli
from course_lib.batching import ServedModel
from course_lib.bert import BertConfig, BertForSequenceClassification
from course_lib.checkpoint import load_pretrained, save_pretrained
from course_lib.predict import Predictor
from course_lib.serve import MAX_BODY, running, serve
from course_lib.service import Settings

LABELS = ("delivery", "refund", "product")
TEXTS = ["where is it", "a", "the lamp that I sent back a month ago is still not paid back", "b c d " * 12]
KEY, ADMIN_KEY = "callers-0123456789", "admin-0123456789abc"
SMALL = dict(lengths=(16, 64), max_batch=4)  # few shapes: quick to start


@pytest.fixture(scope="module")
def versions(tmp_path_factory, tiny_folder, tokenizer):
    """A folder with two models that disagree, router-1 and router-2."""
    parent = tmp_path_factory.mktemp("versions")
    for seed, name in enumerate(["router-1", "router-2"]):
        model = load_pretrained(tiny_folder, labels=LABELS, seed=seed)
        model.classifier.bias[...] += np.array([3.0, 0, 0] if seed else [0, 0, 3.0], np.float32)
        save_pretrained(model, parent / name, tokenizer)
    return parent


@pytest.fixture(scope="module")
def client(versions):
    with running(versions / "router-1", Settings(**SMALL)) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


@pytest.fixture
def slow(monkeypatch):
    """Every run of a model takes this many seconds; set slow.seconds."""

    class slow:
        seconds = 0.0

    run = ServedModel.run

    def slowly(self, *arguments):
        time.sleep(slow.seconds)
        return run(self, *arguments)

    monkeypatch.setattr(ServedModel, "run", slowly)
    return slow


def probabilities(folder, texts):
    logits = Predictor(folder).logits(texts)
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def works(client):
    answer = client.post("/predict", json={"text": "where is it"})
    return answer.status_code == 200 and answer.json()["predictions"][0]["label"] in LABELS


def at_once(count, call):
    """`call(i)` from `count` threads at the same time → what they gave, in order."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


def post(url, text="where is it", **changes):
    """One request on a connection of its own. (verify=False: it is not HTTPS, and reading certificates is slow.)"""
    return httpx.post(f"{url}/predict", **{"json": {"text": text}, "timeout": 20, "verify": False, **changes})


def test_one_text_and_many_get_what_the_predictor_gives(client, versions):
    want = probabilities(versions / "router-1", TEXTS)
    one = client.post("/predict", json={"text": TEXTS[0]}).json()
    many = client.post("/predict", json={"text": TEXTS}).json()
    assert one["model"] == many["model"] == "router-1"
    assert len(one["predictions"]) == 1 and len(many["predictions"]) == len(TEXTS)
    for answer, row in zip([*many["predictions"], *one["predictions"]], [*want, want[0]], strict=True):
        assert list(answer["probabilities"]) == list(LABELS)
        np.testing.assert_allclose(list(answer["probabilities"].values()), row, atol=1e-5)
        assert answer["label"] == LABELS[row.argmax()]
        assert answer["probability"] == pytest.approx(row.max(), abs=1e-5)


def test_the_whole_list_of_64_is_taken(client):
    assert len(client.post("/predict", json={"text": ["where is it"] * 64}).json()["predictions"]) == 64


def test_explaining_leaves_each_word_out(client, versions):
    text = "the lamp is broken"
    answer = client.post("/explain", json={"text": text}).json()
    without = ["lamp is broken", "the is broken", "the lamp broken", "the lamp is"]
    whole, *rest = probabilities(versions / "router-1", [text, *without])
    best = whole.argmax()
    assert [word["word"] for word in answer["words"]] == text.split()
    effects = [word["effect"] for word in answer["words"]]
    np.testing.assert_allclose(effects, [whole[best] - row[best] for row in rest], atol=1e-5)
    assert np.abs(effects).max() > 1e-4 and answer["label"] == LABELS[best]


def test_nothing_compiles_after_start_up(client, compilations):
    with compilations() as later:
        for count in range(1, 6):
            for text in TEXTS:
                assert client.post("/predict", json={"text": [text] * count}).status_code == 200
    assert not later


def test_health_page_and_openapi_say_what_is_there(client):
    assert client.get("/health").json() == {"status": "ok", "model": "router-1"}
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html") and "Which team" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r'(src|href)="(https?:)?//', page.text), "the page must work without the internet"
    schema = client.get("/openapi.json").json()
    assert {"/predict", "/explain", "/model", "/model/rollback", "/health", "/metrics"} == set(schema["paths"])
    page = client.get("/docs").text
    needed = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(needed) >= 2 and all(client.get(one).status_code == 200 for one in needed)  # nothing from elsewhere
    assert "//" not in "".join(needed)


def test_metrics_count_requests_labels_and_confidence(client):
    def read():
        families = text_string_to_metric_families(client.get("/metrics").text)
        return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}

    before = read()
    client.post("/predict", json={"text": ["where is it", "a"]})
    client.post("/predict", content="{", headers={"Content-Type": "application/json"})
    client.post("/predict", content=b"a" * (MAX_BODY + 1))
    client.get("/no/such/path")
    after = read()

    def grew(*key):
        return after.get(key, 0) - before.get(key, 0)

    assert grew("course_requests_total", "/predict", "200") == 1
    assert grew("course_requests_total", "/predict", "400") == 1
    assert grew("course_requests_total", "404", "other") == 1
    assert grew("course_requests_total", "/predict", "413") == 1  # refused before it is known where it would go
    assert sum(grew("course_predictions_total", label, "router-1") for label in LABELS) == 2
    assert grew("course_confidence_count", "router-1") == 2
    assert grew("course_batch_texts_sum") == 2
    assert grew("course_request_seconds_count", "/predict") == 3 and after["course_waiting_texts",] == 0


BAD = {
    "not JSON": (
        400,
        "the body is not JSON",
        dict(content=b"{text: hello", headers={"Content-Type": "application/json"}),
    ),
    "no body": (422, "must be a JSON object such as", dict(headers={"Content-Type": "application/json"})),
    "not UTF-8": (
        400,
        "cannot be read as JSON in UTF-8",
        dict(content=b'{"text": "\xff"}', headers={"Content-Type": "application/json"}),
    ),
    "another content type": (
        422,
        "sent as application/json",
        dict(content=b'{"text": "hi"}', headers={"Content-Type": "text/plain"}),
    ),
    "nested too deep": (
        400,
        "cannot be read as JSON",
        dict(content=b"[" * 100_000, headers={"Content-Type": "application/json"}),
    ),
    "an endless number": (
        422,
        "text: must be a text",
        dict(content=b'{"text": 1e999}', headers={"Content-Type": "application/json"}),
    ),
    "a list": (422, "must be a JSON object such as", dict(json=["hello"])),
    "no text": (422, "text: Field required", dict(json={"txt": "hello"})),
    "a number": (422, "text: must be a text or a list of texts", dict(json={"text": 5})),
    "null": (422, "text: must be a text or a list of texts", dict(json={"text": None})),
    "an object": (422, "text: must be a text or a list of texts", dict(json={"text": {"a": "b"}})),
    "a number in the list": (422, "text: must be a text or a list of texts", dict(json={"text": ["hello", 5]})),
    "lists in the list": (422, "text: must be a text or a list of texts", dict(json={"text": [["hello"]]})),
    "empty": (422, "text: is empty", dict(json={"text": ""})),
    "only spaces": (422, "text: is empty", dict(json={"text": " \n\t "})),
    "one empty": (422, "text: is empty", dict(json={"text": ["hello", ""]})),
    "an empty list": (422, "text: must hold 1 to 64 texts, not 0", dict(json={"text": []})),
    "a long list": (422, "text: must hold 1 to 64 texts, not 65", dict(json={"text": ["a"] * 65})),
    "100,000 characters": (422, "text: has 100,000 characters, at most 5,000", dict(json={"text": "a" * 100_000})),
    "10 MB": (413, "at most 262,144 are taken", dict(json={"text": "a" * 10_000_000})),
    "NUL": (422, "text: holds the control character U+0000 at position 5", dict(json={"text": "hello\0"})),
    "escape": (422, "text: holds the control character U+001B", dict(json={"text": "\x1b[31mred"})),
    "half a character": (
        422,
        "text: holds the control character U+D800",
        dict(content=b'{"text": "\\ud800"}', headers={"Content-Type": "application/json"}),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_with_a_reason_and_harms_nobody(client, name):
    status, reason, request = BAD[name]
    answer = client.post("/predict", **request)
    assert answer.status_code == status, answer.text
    assert reason in answer.json()["error"]
    assert "aaaa" not in answer.text and len(answer.text) < 300  # what was sent is not sent back
    assert works(client)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/predict", 405), ("POST", "/nowhere", 404), ("POST", "/../etc/passwd", 404), ("DELETE", "/", 405)],
)
def test_wrong_paths_and_methods_get_a_reason_too(client, method, path, status):
    answer = client.request(method, path, json={"text": "hi"})
    assert answer.status_code == status and answer.json()["error"]


def test_too_many_words_are_not_explained(client):
    answer = client.post("/explain", json={"text": "a " * 101})
    assert answer.status_code == 422 and "101 words" in answer.json()["error"]
    assert client.post("/explain", json={"text": "a " * 100}).status_code == 200


def raw(url, request: bytes, wait=5.0) -> bytes:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        connection.sendall(request)
        received = b""
        with contextlib.suppress(TimeoutError):
            while chunk := connection.recv(65536):
                received += chunk
        return received


def test_what_is_not_http_gets_400(client):
    assert raw(str(client.base_url).rstrip("/"), b"\x16\x03\x01\x02\x00\x01hello\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert works(client)


def test_a_body_without_a_stated_length_is_measured_as_it_comes(client):
    def endless():
        for _ in range(MAX_BODY // 1000 + 100):
            yield b"a" * 1000

    answer = client.post("/predict", content=endless())
    assert answer.status_code == 413 and works(client)


def test_a_body_that_never_ends_is_given_up(versions):
    with running(versions / "router-1", Settings(**SMALL, timeout=0.5)) as url:
        request = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 100\r\n\r\n{"
        answer = raw(url, request)
        assert answer.startswith(b"HTTP/1.1 408") and b"within 0.5 seconds" in answer
        assert post(url).status_code == 200


def test_a_page_of_another_site_cannot_reach_it_under_a_name_of_its_own(client):
    for host in ("evil.example", "", "127.0.0.1.evil.example:8000", "127.0.0.2"):
        answer = client.get("/health", headers={"Host": host})
        assert answer.status_code == 400 and "must name this machine" in answer.json()["error"]
    for host in ("localhost:8000", "LOCALHOST", "[::1]:8000", "127.0.0.1"):
        assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is not this machine")
def test_it_can_be_reached_under_the_address_that_it_listens_on(versions, monkeypatch):
    class Asked:
        def __init__(self, app, settings):
            self.app = app

        def run(self, sockets):
            asyncio.run(self._ask(f"http://127.0.0.2:{sockets[0].getsockname()[1]}/health"))

        async def _ask(self, url):
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app)) as caller:
                assert (await caller.get(url)).json() == {"status": "ok", "model": "router-1"}

    monkeypatch.setattr("course_lib.serve._server", Asked)
    serve(versions / "router-1", host="127.0.0.2", port=0, settings=Settings(**SMALL), report=lambda line: None)


def test_with_a_key_only_its_owner_is_answered(versions):
    with running(versions / "router-1", Settings(**SMALL, key=KEY, admin_key=ADMIN_KEY)) as url:
        for path in ("/predict", "/explain"):
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": KEY},
                {"Authorization": "Basic eDp5"},
            ):
                answer = httpx.post(url + path, json={"text": "hi"}, headers=headers)
                assert answer.status_code == 401 and "Authorization: Bearer" in answer.json()["error"]
                assert answer.headers["www-authenticate"] == "Bearer"
        assert httpx.get(url + "/metrics").status_code == 401
        assert httpx.get(url + "/health").status_code == 200
        right = {"Authorization": f"Bearer {KEY}"}
        assert post(url, headers=right).status_code == 200
        # The callers' key does not change the model.
        assert httpx.put(url + "/model", json={"version": "router-2"}, headers=right).status_code == 401
        assert httpx.post(url + "/model/rollback", headers=right).status_code == 401
        admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
        assert httpx.post(url + "/model/rollback", headers=admin).status_code == 409  # nothing to go back to


def test_without_an_admin_key_nobody_changes_the_model(client):
    answer = client.put("/model", json={"version": "router-2"})
    assert answer.status_code == 403 and "COURSE_SERVE_ADMIN_KEY" in answer.json()["error"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "shop.example"])
def test_other_machines_only_with_a_key(versions, host):
    with pytest.raises(CourseError, match="set COURSE_SERVE_KEY"):
        serve(versions / "router-1", host=host, port=0)


def test_keys_come_from_the_environment_and_must_be_hard_to_guess(monkeypatch):
    monkeypatch.setenv("COURSE_SERVE_KEY", KEY)
    monkeypatch.delenv("COURSE_SERVE_ADMIN_KEY", raising=False)
    settings = Settings.from_environment(max_batch=8)
    assert settings.key == KEY and settings.admin_key is None and settings.max_batch == 8
    assert KEY not in repr(settings)
    monkeypatch.setenv("COURSE_SERVE_ADMIN_KEY", "secret")
    with pytest.raises(CourseError, match="COURSE_SERVE_ADMIN_KEY: use 16 or more"):
        Settings.from_environment()


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(versions):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(CourseError, match="cannot listen"):
        serve(versions / "router-1", port=taken.getsockname()[1])


def test_requests_at_the_same_time_share_a_run_and_get_their_own_answers(versions, slow):
    slow.seconds = 0.1
    texts = [" ".join(["where"] * (n % 10 + 1)) for n in range(24)]
    want = probabilities(versions / "router-1", texts)
    with running(versions / "router-1", Settings(**SMALL)) as url:
        answers = at_once(24, lambda n: post(url, texts[n]).json()["predictions"][0])
        metrics = httpx.get(url + "/metrics").text
    for answer, row in zip(answers, want, strict=True):
        np.testing.assert_allclose(list(answer["probabilities"].values()), row, atol=1e-5)
    runs = float(re.search(r"course_batch_texts_count (\S+)", metrics)[1])
    assert runs <= 16  # 24 texts, 4 at most in one run, and the first one alone


def test_above_saturation_everybody_gets_an_answer_or_503_with_a_time_to_come_back(versions, slow):
    slow.seconds = 0.3
    with running(versions / "router-1", Settings(**SMALL, max_queue=8)) as url:
        answers = at_once(48, lambda _: post(url))
        assert works(httpx.Client(base_url=url, timeout=20))  # and afterwards it is as before
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 503} and statuses.count(200) >= 8
    for answer in answers:
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1 and "try again" in answer.json()["error"]
        else:
            assert answer.json()["predictions"][0]["label"] in LABELS


def test_who_waits_too_long_gets_504_and_costs_no_more_work(versions, slow):
    slow.seconds = 0.5
    with running(versions / "router-1", Settings(**SMALL, timeout=0.7)) as url:
        statuses = [answer.status_code for answer in at_once(16, lambda _: post(url))]
        slow.seconds = 0
        time.sleep(0.6)
        assert post(url).status_code == 200
    assert statuses.count(504) >= 8 and statuses.count(200) >= 1


def test_a_request_may_need_more_time_than_it_may_wait(versions, slow):
    slow.seconds = 0.2
    with running(versions / "router-1", Settings(**SMALL, timeout=0.5)) as url:
        answer = post(url, ["where is it"] * 32)  # 8 runs
    assert answer.status_code == 200 and len(answer.json()["predictions"]) == 32


def test_more_requests_at_once_than_it_holds_are_refused_and_counted_and_health_is_not(versions, slow, monkeypatch):
    monkeypatch.setattr("course_lib.serve.MAX_REQUESTS", 4)
    slow.seconds = 1
    with running(versions / "router-1", Settings(**SMALL)) as url, concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(post, url) for _ in range(4)]
        time.sleep(0.5)
        refused, health = post(url), httpx.get(url + "/health")
        assert [one.result().status_code for one in asked] == [200] * 4
        metrics = httpx.get(url + "/metrics").text
    assert refused.status_code == 503 and "4 requests are being answered" in refused.json()["error"]
    assert refused.headers["retry-after"] == "1" and health.status_code == 200
    assert 'course_requests_total{path="/predict",status="503"} 1.0' in metrics


def test_the_same_change_twice_leaves_the_way_back(versions):
    admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
    with (
        running(versions / "router-1", Settings(**SMALL, admin_key=ADMIN_KEY)) as url,
        httpx.Client(base_url=url, headers=admin, timeout=60) as admin,
    ):
        for _ in range(2):  # a retry, or a folder that was trained again
            assert admin.put("/model", json={"version": "router-2"}).json() == {"model": "router-2"}
        assert [admin.post("/model/rollback").json()["model"] for _ in range(2)] == ["router-1", "router-2"]


@pytest.mark.parametrize("fault", ["huge weights", "another tokenizer", "half a character"])
def test_a_model_that_cannot_answer_is_not_changed_over_to(versions, tmp_path, tokenizer, fault):
    shutil.copytree(versions / "router-1", tmp_path / "router-1")
    model = load_pretrained(versions / "router-2")
    if fault == "huge weights":
        model.classifier.kernel[...] = np.full_like(model.classifier.kernel[...], 3e38)
    if fault == "another tokenizer":
        config = BertConfig.tiny(max_position_embeddings=64, vocab_size=1000, labels=LABELS)
        model = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
    save_pretrained(model, tmp_path / "router-2", tokenizer)
    if fault == "half a character":
        config = tmp_path / "router-2" / "config.json"
        config.write_text(config.read_text().replace('"refund"', '"\\ud800"'))
    reason = {
        "huge weights": "not with probabilities",
        "another tokenizer": "the tokenizer has 30,522 tokens and the model 1,000",
        "half a character": "id2label has a label with half a character",
    }[fault]
    with running(tmp_path / "router-1", Settings(**SMALL, admin_key=ADMIN_KEY)) as url:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        refused = httpx.put(url + "/model", json={"version": "router-2"}, headers=headers, timeout=60)
        assert refused.status_code == 409 and reason in refused.json()["error"], refused.text
        assert "\n" not in refused.json()["error"]
        assert post(url).json()["model"] == "router-1"


def test_an_answer_that_is_no_number_is_refused(client, monkeypatch):
    run = ServedModel.run
    monkeypatch.setattr(ServedModel, "run", lambda *arguments: run(*arguments) * np.nan)
    for path in ("/predict", "/explain"):
        answer = client.post(path, json={"text": "where is it"})
        assert answer.status_code == 409 and "no number; fine-tune it again" in answer.json()["error"]
    monkeypatch.undo()
    assert works(client)


def test_the_model_changes_and_goes_back_under_load_without_a_lost_request(versions):
    want = {
        name: LABELS[probabilities(versions / name, ["where is it"])[0].argmax()] for name in ("router-1", "router-2")
    }
    assert want["router-1"] != want["router-2"]
    answers, over = [], threading.Event()

    def keep_asking():
        while not over.is_set():
            answers.append(post(url))

    admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
    with running(versions / "router-1", Settings(**SMALL, admin_key=ADMIN_KEY)) as url:
        callers = [threading.Thread(target=keep_asking) for _ in range(4)]
        for caller in callers:
            caller.start()
        time.sleep(0.2)
        swapped = httpx.put(url + "/model", json={"version": "router-2"}, headers=admin, timeout=60)
        time.sleep(0.2)
        back = httpx.post(url + "/model/rollback", headers=admin)
        time.sleep(0.2)
        over.set()
        for caller in callers:
            caller.join()
        for version, status in (("router-9", 409), ("../router-2", 422), (".hidden", 422), ("a/b", 422), ("", 422)):
            refused = httpx.put(url + "/model", json={"version": version}, headers=admin)
            assert refused.status_code == status and refused.json()["error"], refused.text
        assert httpx.get(url + "/health").json()["model"] == "router-1"  # a failed change leaves what was there

    assert swapped.json() == {"model": "router-2"} and back.json() == {"model": "router-1"}
    assert {answer.status_code for answer in answers} == {200}
    given = [(answer.json()["model"], answer.json()["predictions"][0]["label"]) for answer in answers]
    assert set(given) == set(want.items())  # both were asked, and each answer is that of the model it names
    assert [given[0][0], given[-1][0]] == ["router-1", "router-1"]


def test_it_ends_when_what_was_accepted_is_answered(versions, slow):
    slow.seconds = 0.3
    stack = contextlib.ExitStack()
    url = stack.enter_context(running(versions / "router-1", Settings(**SMALL)))
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(post, url) for _ in range(12)]  # three runs: about a second
        time.sleep(0.25)
        stack.close()
        assert [one.result().status_code for one in asked] == [200] * 12
    with pytest.raises(httpx.ConnectError):
        post(url)


def test_at_its_end_it_hears_who_came_while_it_was_busy(versions, monkeypatch):
    encode = ServedModel.encode

    def slowly(self, texts):  # nothing is accepted or read meanwhile
        if "wait" in texts:
            time.sleep(1)
        return encode(self, texts)

    monkeypatch.setattr(ServedModel, "encode", slowly)
    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        with running(versions / "router-1", Settings(**SMALL)) as url:
            asked = [pool.submit(post, url, "wait")]
            time.sleep(0.5)
            asked += [pool.submit(post, url) for _ in range(8)]
            time.sleep(0.3)
        assert [one.result().status_code for one in asked] == [200] * 9


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_the_command_serves_and_ends_cleanly_at_sigterm(versions):
    command = [sys.executable, "-c", "from course_lib.cli import main; main()", "serve", str(versions / "router-1")]
    process = subprocess.Popen([*command, "--port", "0", "--batch", "2"], stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        while not lines or "serving on" not in lines[-1]:
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        url = re.search(r"http://127\.0\.0\.1:\d+", lines[-1])[0]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            long = ["where is it"] * 64  # 32 runs each
            asked = [pool.submit(post, url, long) for _ in range(4)]
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            answers = [one.result() for one in asked]
        assert [len(answer.json()["predictions"]) for answer in answers] == [64] * 4
        assert process.wait(20) in (0, -signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.stderr.close()


def test_the_command_says_in_one_line_what_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["course", "serve", str(tmp_path), "--port", "0"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr().err
    assert end.value.code == 2 and "error: " in said and "no config.json" in said and "Traceback" not in said


@pytest.fixture
def browser():
    """A page in headless Chromium; skipped where there is no browser, or no driver for it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("the browser test needs Chromium, on Debian: apt install chromium")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
    with playwright.sync_playwright() as driver:
        chrome = driver.chromium.launch(executable_path=chromium, args=quiet)
        page = chrome.new_page()
        page.set_default_timeout(15_000)
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda line: line.type == "error" and page.problems.append(line.text))
        yield page
        chrome.close()


def test_a_person_types_a_message_and_sees_team_confidence_and_words(browser, client, versions):
    text = "where <b>is</b> my lamp"
    browser.goto(str(client.base_url))
    browser.get_by_label("A message from a customer").fill(text)
    browser.get_by_role("button", name="Route it").click()
    browser.wait_for_selector("#words span")
    row = probabilities(versions / "router-1", [text])[0]
    assert browser.inner_text("#label") == f"{LABELS[row.argmax()]}, {100 * row.max():.1f} % sure"
    teams = browser.locator("#teams th").all_inner_texts()
    assert teams == [LABELS[i] for i in np.argsort(-row)]
    assert browser.locator("#words span").all_inner_texts() == text.split()  # and <b> is a word, not bold
    assert browser.locator("#words span").first.get_attribute("title").startswith("without it: ")
    assert browser.problems == []


def test_a_person_sees_why_a_message_is_refused(browser, client):
    browser.goto(str(client.base_url))
    browser.get_by_label("A message from a customer").fill("   ")
    browser.get_by_role("button", name="Route it").click()
    browser.wait_for_function("document.getElementById('error').textContent")
    assert "is empty" in browser.inner_text("#error") and not browser.is_visible("#result")


def test_a_person_is_asked_for_the_key(browser, versions):
    with running(versions / "router-1", Settings(**SMALL, key=KEY)) as url:
        browser.goto(url)
        browser.get_by_role("button", name="Route it").click()
        browser.get_by_label("Key").fill(KEY)
        browser.get_by_role("button", name="Route it").click()
        browser.wait_for_selector("#words span")


def test_the_openapi_file_is_json_and_names_the_key(client):
    schema = json.loads(client.get("/openapi.json").text)
    assert schema["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
