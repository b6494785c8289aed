"""Fine-tune a model on labelled texts: AdamW, warm-up then linear decay, best epoch kept, resumable.

`fit` splits the module into its graph (static) and its parameters (arrays) once, and then steps pure functions from
parameters to parameters under `jax.jit`. The old arrays are donated, so a step needs no second copy of the model.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm.auto import tqdm

from course_lib import CourseError
from course_lib.cache import compiled, enable_compile_cache, hand_back_memory
from course_lib.data import Batch, Examples, batches, empty_batch
from course_lib.evaluate import evaluate, mean_sd
from course_lib.predict import buckets_for, predict_logits
from course_lib.run_state import RunState


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults suit a thousand short texts and the course's model."""

    epochs: int = 3
    batch_size: int = 16
    learning_rate: float = 2e-4  # at the end of warm-up
    head_factor: float = 10.0  # times that for pooler and classifier, which start from nothing useful
    warmup: float = 0.1  # this fraction of all steps
    weight_decay: float = 0.01  # on matrices, not on biases and LayerNorm
    clip_norm: float = 1.0  # largest allowed norm of the whole gradient
    patience: int = 2  # stop after so many epochs without a better macro-F1 on the validation set
    seed: int = 0

    def __post_init__(self):
        for field in ("epochs", "batch_size", "patience"):
            if getattr(self, field) < 1:
                raise CourseError(f"{field} must be 1 or more, got {getattr(self, field)}")
        if not self.learning_rate > 0:
            raise CourseError(f"learning_rate must be above 0, got {self.learning_rate}")


@functools.lru_cache  # one object for equal settings, so that a second run with them compiles nothing
def make_optimizer(config: TrainConfig, total_steps: int) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101) with the schedule and clipping of `config`.

    Warm-up and linear decay as in Devlin et al. 2019, appendix A.2.
    """
    warmup_steps = max(1, round(config.warmup * total_steps))
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, warmup_steps),
            optax.linear_schedule(config.learning_rate, 0.0, max(1, total_steps - warmup_steps)),
        ],
        [warmup_steps],
    )
    is_matrix = functools.partial(jax.tree.map, lambda parameter: parameter.ndim > 1)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(schedule, weight_decay=config.weight_decay, mask=is_matrix),
        optax.masked(optax.scale(config.head_factor), _is_head),
    )


def _is_head(params):
    """Larger steps where nothing has been learned yet: Howard & Ruder 2018, section 3.2, https://arxiv.org/abs/1801.06146.

    With one rate for all, a few hundred examples either teach the head too little or shake the rest too much.
    """
    names = ("pooler", "classifier")
    return jax.tree_util.tree_map_with_path(lambda path, _: any(n in jax.tree_util.keystr(path) for n in names), params)


def classification_loss(logits: jax.Array, batch: Batch) -> jax.Array:
    """Mean cross-entropy over the rows that count. logits: float32 [B, classes] → float32 scalar."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)  # [B]
    return (losses * batch.weights).sum() / batch.weights.sum()


def loss_and_gradients(graph, params, batch: Batch, key: jax.Array):
    """The loss of `batch` under dropout from `key`, and its gradient by `params`."""

    def loss_of(params):
        model = nnx.merge(graph, params)
        logits = model(batch.input_ids, batch.attention_mask, rngs=nnx.Rngs(dropout=key))
        return classification_loss(logits, batch)

    return jax.value_and_grad(loss_of)(params)


def update(optimizer, params, opt_state, gradients):
    """One step of the optimiser → (params, opt_state). `fit` donates both: it never needs the old ones again."""
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


# Two programs instead of one: the gradient's shapes follow the batch, so it is compiled once a bucket; the update's are
# those of the parameters, so it is compiled once.


def _programs() -> tuple[Callable, Callable]:
    return compiled(loss_and_gradients, "graph"), compiled(update, "optimizer", ("params", "opt_state"))


def fit(
    model: nnx.Module,
    train: Examples,
    validation: Examples,
    config: TrainConfig,
    *,
    checkpoints: Path | None = None,
    resume: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> list[dict]:
    """Train `model` in place; it ends with the parameters of the epoch with the best macro-F1 on `validation`.

    Interrupted, it holds those of the best epoch so far.

    Returns the history, a dict an epoch: epoch, train_loss, validation_loss, validation_accuracy,
    validation_macro_f1, examples_per_second. `report` gets one line an epoch.

    With `checkpoints`, a folder, everything needed to go on is saved there after each epoch; with `resume` too, a
    run goes on after its last whole epoch and reaches the parameters that it would have reached uninterrupted.

    Raises CourseError where the loss is no longer finite, or a checkpoint belongs to another run.
    """
    enable_compile_cache()
    buckets = buckets_for(model, train)
    steps_per_epoch = -(-len(train) // config.batch_size)
    optimizer = make_optimizer(dataclasses.replace(config, seed=0), config.epochs * steps_per_epoch)
    # A step gives its arguments away: work on copies. `model` itself keeps the best epoch's parameters so far.
    graph, params = nnx.split(model, nnx.Param)
    params = _copy(params)
    opt_state = optimizer.init(params)
    history: list[dict] = []
    store = None if checkpoints is None else RunState(checkpoints, _fingerprint(config, train, validation))
    if store is not None and resume:
        state = {"params": params, "opt_state": opt_state, "best": nnx.state(model, nnx.Param)}
        state, history = store.restore(state)
        params, opt_state = state["params"], state["opt_state"]
        nnx.update(model, state.pop("best"))
        del state

    key = jax.random.key(config.seed)
    gradients_of, update_of = _programs()
    _compile(graph, optimizer, params, opt_state, config.batch_size, buckets, key)
    total, done = config.epochs * len(train), len(history) * len(train)
    with tqdm(total=total, initial=done, unit="ex", leave=False, disable="TQDM_DISABLE" in os.environ) as bar:
        for epoch in range(len(history) + 1, config.epochs + 1):
            if epoch - best_epoch(history) > config.patience:
                break
            started = time.perf_counter()
            losses = []
            order = np.random.default_rng((config.seed, epoch))
            for batch in batches(train, config.batch_size, buckets, order):
                step = (epoch - 1) * steps_per_epoch + len(losses)
                loss, gradients = gradients_of(graph, params, batch, jax.random.fold_in(key, step))
                params, opt_state = update_of(optimizer, params, opt_state, gradients)
                losses.append(loss)
                if len(losses) > 1:  # show the step before: waiting for this one would leave the device idle
                    bar.set_postfix(epoch=f"{epoch}/{config.epochs}", loss=f"{losses[-2]:.3f}", refresh=False)
                bar.update(int(batch.weights.sum()))
            train_loss = float(np.mean(losses))
            if not math.isfinite(train_loss):
                raise CourseError(f"the loss became {train_loss} in epoch {epoch}: lower the learning rate")
            seconds = time.perf_counter() - started
            scores = _validate(graph, params, validation, config.batch_size)
            history.append(
                {"epoch": epoch, "train_loss": train_loss, **scores, "examples_per_second": len(train) / seconds}
            )
            if best_epoch(history) == epoch:
                nnx.update(model, _copy(params))
            if store is not None:
                best = nnx.state(model, nnx.Param)
                store.save({"params": params, "opt_state": opt_state, "best": best}, history)
            if not bar.disable:
                bar.clear()
            report(
                f"epoch {epoch}/{config.epochs}: train loss {train_loss:.3f}, validation loss "
                f"{scores['validation_loss']:.3f}, macro-F1 {scores['validation_macro_f1']:.3f}, "
                f"{len(train) / seconds:.0f} examples/s"
            )
    return history


def best_epoch(history: list[dict]) -> int:
    """The number of the epoch with the best macro-F1 on the validation set, the earliest of equals; 0 for none."""
    return max(history, key=lambda epoch: (epoch["validation_macro_f1"], -epoch["epoch"]), default={"epoch": 0})[
        "epoch"
    ]


def fit_seeds(
    make_model: Callable[[int], nnx.Module],
    train: Examples,
    validation: Examples,
    test: Examples,
    config: TrainConfig,
    seeds: tuple[int, ...] = (0, 1, 2),
    report: Callable[[str], None] = lambda line: None,
) -> dict:
    """Train once a seed and score each on `test` → {"macro_f1": [a seed each], "mean": …, "sd": …}.

    `make_model(seed)` gives a fresh model. One run's score says little: on a few hundred examples the order of the
    data and the new classifier's random start move macro-F1 by a point or two (Dodge et al. 2020,
    https://arxiv.org/abs/2002.06305).
    """
    scores = []
    for seed in seeds:
        model = make_model(seed)
        fit(model, train, validation, dataclasses.replace(config, seed=seed), report=report)
        predicted = predict_logits(model, test, config.batch_size).argmax(-1)
        scores.append(evaluate(test.labels, predicted, model.config.labels).macro_f1)
    mean, sd = mean_sd(scores)
    return {"macro_f1": scores, "mean": mean, "sd": sd}


def _compile(graph, optimizer, params, opt_state, batch_size: int, buckets: tuple[int, ...], key: jax.Array) -> None:
    """Compile what training will call, side by side: one compilation keeps one core busy. jit remembers the results."""
    gradients_of, update_of = _programs()

    def gradients(length: int) -> None:
        gradients_of.lower(graph, params, empty_batch(batch_size, length), key).compile()

    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, len(buckets) + 1)) as pool:
        waiting = [pool.submit(gradients, length) for length in reversed(buckets)]
        update_of.lower(optimizer, params, opt_state, params).compile()
        for one in waiting:
            one.result()
    hand_back_memory()


def _validate(graph, params, validation: Examples, batch_size: int) -> dict:
    model = nnx.merge(graph, params)
    logits = predict_logits(model, validation, batch_size)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, validation.labels)
    result = evaluate(validation.labels, logits.argmax(-1), model.config.labels)
    return {
        "validation_loss": float(losses.mean()),
        "validation_accuracy": result.accuracy,
        "validation_macro_f1": result.macro_f1,
    }


def _copy(tree):
    return jax.tree.map(jnp.copy, tree)


def _fingerprint(config: TrainConfig, *parts: Examples) -> dict:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr((part.token_ids, part.labels.tolist())).encode())
    return {**dataclasses.asdict(config), "data": digest.hexdigest()[:16]}
