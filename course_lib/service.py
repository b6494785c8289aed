"""What the endpoints of serve.py share: the model in use, the one before it, the queue in front of them, the counts.

Nothing here knows of HTTP.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import BaseModel, Field

from course_lib import CourseError
from course_lib.batching import MAX_BATCH, Batcher, ServedModel
from course_lib.predict import LENGTHS


@dataclass(frozen=True)
class Settings:
    """How the service behaves under load. Times are in seconds."""

    max_batch: int = MAX_BATCH
    max_wait: float = 0.002  # how long a text waits for company
    max_queue: int = 256  # texts that may wait; beyond it callers get 503 and are told when to come back
    timeout: float = 10.0  # until it is a request's turn, and for a body to arrive
    lengths: tuple[int, ...] = LENGTHS
    key: str | None = field(default=None, repr=False)
    admin_key: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, **changes) -> Settings:
        """With the keys in COURSE_SERVE_KEY and COURSE_SERVE_ADMIN_KEY. CourseError for one that is easy to guess."""
        keys = {}
        for name, variable in (("key", "COURSE_SERVE_KEY"), ("admin_key", "COURSE_SERVE_ADMIN_KEY")):
            value = os.environ.get(variable) or None
            if value is not None and not re.fullmatch(r"[\x21-\x7e]{16,}", value):
                raise CourseError(f"{variable}: use 16 or more letters, digits and signs, such as openssl rand -hex 16")
            keys[name] = value
        return cls(**keys, **changes)


class Answer(BaseModel):
    label: str
    probability: float
    probabilities: dict[str, float]


class PredictResponse(BaseModel):
    model: str
    predictions: list[Answer]


class Word(BaseModel):
    word: str
    effect: float = Field(description="By how much the label's probability falls when this word is left out.")


class ExplainResponse(Answer):
    model: str
    words: list[Word]


class Metrics:
    """What /metrics shows. One registry an app, so that two can live in one process."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.requests = Counter("course_requests", "Answers given.", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(
            "course_request_seconds", "From the first byte to the answer.", ["path"], registry=self.registry,
            buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
        )  # fmt: skip
        self.batch = Histogram(
            "course_batch_texts", "Texts in one run.", registry=self.registry, buckets=(1, 2, 4, 8, 16, 32)
        )
        self.waiting = Gauge("course_waiting_texts", "Texts in the queue.", registry=self.registry)
        # These two are what drift shows in (lesson 14): what is predicted, and how surely.
        self.labels = Counter("course_predictions", "Texts answered.", ["model", "label"], registry=self.registry)
        self.confidence = Histogram(
            "course_confidence", "Probability of the predicted label.", ["model"], registry=self.registry,
            buckets=tuple(tenth / 10 for tenth in range(1, 11)),
        )  # fmt: skip


class Service:
    """The model in use, the one before it, and the queue in front of them."""

    def __init__(self, folder: Path, settings: Settings):
        self.folder, self.settings = Path(folder).resolve(), settings
        self.metrics = Metrics()
        self.model, self.previous = self._load(self.folder), None
        self._changing = asyncio.Lock()
        # A text waits together with the model that cut it into tokens: after a change, what was accepted before is
        # still answered by the model that it was meant for.
        self.batcher = Batcher(
            self._run,
            lambda group, waiting: group[0].fitting(group[1], waiting),
            max_wait=settings.max_wait,
            max_queue=settings.max_queue,
            timeout=settings.timeout,
        )
        self.metrics.waiting.set_function(lambda: len(self.batcher))

    def _load(self, folder: Path) -> ServedModel:
        """The model, once it has answered a text. Raises CourseError where it cannot."""
        model = ServedModel(folder, self.settings.lengths, self.settings.max_batch)
        [ids] = model.encode(["where is my parcel"])
        [row] = model.run(model.padded_length(ids), [ids])
        if not abs(row.sum() - 1) < 1e-3:  # nor where it is NaN
            raise CourseError(f"{folder}: this model answers with {row[0]}, not with probabilities; fine-tune it again")
        try:
            model.name.encode()
        except UnicodeEncodeError as error:  # made on a system that is not set to UTF-8
            raise CourseError(f"{folder}: this name cannot be sent as text in UTF-8; rename the folder") from error
        return model

    def _run(self, group: tuple[ServedModel, int], texts: list[list[int]]) -> np.ndarray:
        self.metrics.batch.observe(len(texts))
        model, length = group
        return model.run(length, texts)

    async def probabilities(self, model: ServedModel, texts: Sequence[str]) -> np.ndarray:
        """float32 [texts, classes]. Raises QueueFull, and TimeoutError when its turn does not come in time.

        Raises CourseError where one is no number: weights may be so large that it shows with some texts only.
        """
        jobs = [((model, model.padded_length(ids)), ids) for ids in model.encode(texts)]
        rows = np.stack(await self.batcher.submit(jobs))
        if not np.isfinite(rows).all():
            raise CourseError(f"{model.name} answers this text with no number; fine-tune it again")
        return rows

    async def predict(self, texts: Sequence[str]) -> tuple[ServedModel, list[Answer]]:
        """The model that answered, and its answers in order."""
        model = self.model  # one and the same for the whole request, whatever happens meanwhile
        answers = [_answer(model, row) for row in await self.probabilities(model, texts)]
        for answer in answers:
            self.metrics.labels.labels(model.name, answer.label).inc()
            self.metrics.confidence.labels(model.name).observe(answer.probability)
        return model, answers

    async def explain(self, text: str) -> ExplainResponse:
        """Leave each word out in turn and see how the predicted label's probability falls."""
        model, words = self.model, text.split()
        texts = [text, *(" ".join(words[:i] + words[i + 1 :]) for i in range(len(words)))]
        whole, *without = await self.probabilities(model, texts)
        effects = (whole[whole.argmax()] - row[whole.argmax()] for row in without)
        scored = [Word(word=word, effect=float(effect)) for word, effect in zip(words, effects, strict=True)]
        return ExplainResponse(model=model.name, words=scored, **_answer(model, whole).model_dump())

    async def swap(self, version: str) -> str:
        """Load another model, compile its programs, and only then change over. Raises CourseError; nothing changed.

        The name of the model in use loads its folder again, retrained perhaps; the one to go back to stays.
        """
        async with self._changing:
            model = await asyncio.to_thread(self._load, self.folder.parent / version)
            if model.name != self.model.name:
                self.previous = self.model
            self.model = model
        return self.model.name

    async def roll_back(self) -> str:
        """Change places with the model before: no loading, no compiling. Raises CourseError where there is none."""
        async with self._changing:
            if self.previous is None:
                raise CourseError("there is no earlier model to go back to")
            self.model, self.previous = self.previous, self.model
        return self.model.name


def _answer(model: ServedModel, row: np.ndarray) -> Answer:
    best, values = int(row.argmax()), row.tolist()
    return Answer(
        label=model.labels[best],
        probability=values[best],
        probabilities=dict(zip(model.labels, values, strict=True)),
    )
