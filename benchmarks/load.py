"""The callers, for Locust: each sends one of the course's messages, waits for the answer and sends the next.

    locust -f load.py --headless --users 8 --spawn-rate 1000 --run-time 10s --host http://127.0.0.1:8000

LOAD_TEXTS names a JSON file with the messages, LOAD_RESULT the JSON file to write: status → seconds of each answer,
"lost" for a request that got none. The first LOAD_WARM_UP seconds are not counted.
"""

import itertools
import json
import os
import time
from collections import defaultdict

from locust import FastHttpUser, constant, events, task

TEXTS = json.loads(open(os.environ["LOAD_TEXTS"], encoding="utf-8").read())
WARM_UP = float(os.environ.get("LOAD_WARM_UP", "2"))
places = itertools.count()
answers, started = defaultdict(list), time.perf_counter()


class Caller(FastHttpUser):
    wait_time = constant(0)

    def on_start(self):
        self.place = 97 * next(places)  # everyone begins somewhere else

    @task
    def predict(self):
        self.place += 1
        sent = time.perf_counter()
        with self.client.post(
            "/predict", json={"text": TEXTS[self.place % len(TEXTS)]}, catch_response=True
        ) as response:
            took = time.perf_counter() - sent
            status = str(response.status_code or "lost")
            if status == "200" and "label" not in response.text:
                status = "lost"
            response.success()
        if sent - started > WARM_UP:
            answers[status].append(took)


@events.test_start.add_listener
def begin(**_):
    global started
    started = time.perf_counter()


@events.quitting.add_listener
def write(**_):
    seconds = time.perf_counter() - started - WARM_UP
    with open(os.environ["LOAD_RESULT"], "w", encoding="utf-8") as file:
        json.dump({"seconds": seconds, "answers": answers}, file)
