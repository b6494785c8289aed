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
from jax.sharding import Mesh
from tqdm.auto import tqdm

from course_lib import CourseError
from course_lib.cache import compiled, enable_compile_cache, hand_back_memory
from course_lib.data import Batch, Examples, batches, empty_batch
from course_lib.evaluate import evaluate, mean_sd
from course_lib.predict import buckets_for, predict_logits
from course_lib.run_state import RunState
from course_lib.sharding import data_mesh, local_copy, put_whole, split_rows


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults suit a thousand short texts and the course's model."""

    epochs: int = 3
    batch_size: int = 16
    learning_rate: float | None = None  # at the end of warm-up; None: what suits the model's width
    head_factor: float = 10.0  # times that for pooler and classifier, which start from nothing useful
    warmup: float = 0.1  # this fraction of all steps
    weight_decay: float = 0.01  # on matrices, not on biases and LayerNorm
    clip_norm: float = 1.0  # largest allowed norm of the whole gradient
    dropout: bool = False  # at the rates in the model's configuration
    patience: int = 2  # stop after so many epochs without a better macro-F1 on the validation set
    accumulate: int = 1  # compute a batch's gradient in so many parts, one after the other: less memory, same step
    remat: bool = False  # compute activations a second time instead of keeping them: less memory, more time
    seed: int = 0

    def __post_init__(self):
        for field in ("epochs", "batch_size", "patience", "accumulate"):
            if getattr(self, field) < 1:
                raise CourseError(f"{field} must be 1 or more, got {getattr(self, field)}")
        if self.batch_size % self.accumulate:
            raise CourseError(f"batch_size {self.batch_size} cannot be divided into {self.accumulate} equal parts")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise CourseError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 <= self.seed < 2**32:  # beyond it, JAX takes some and not others
            raise CourseError(f"seed must be from 0 to {2**32 - 1}, got {self.seed}")

    def suited_to(self, hidden_size: int) -> TrainConfig:
        """With a learning rate, where none was given: 5e-5 from BERT-base's width on (768), 2e-4 below.

        Devlin et al. 2019, appendix A.3, chose among 2e-5, 3e-5 and 5e-5; narrower models bear more.
        """
        rate = 2e-4 if hidden_size < 768 else 5e-5
        return self if self.learning_rate else dataclasses.replace(self, learning_rate=rate)


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
    return (losses * batch.weights).sum() / jnp.maximum(batch.weights.sum(), 1)


def loss_and_gradients(graph, params, batch: Batch, key: jax.Array | None, accumulate: int = 1, remat: bool = False):
    """The loss of `batch`, under dropout from `key` (None: without dropout), and its gradient by `params`.

    With `accumulate`, part after part; each part counts by its rows, so the result is that of the whole batch.
    """

    def loss_of(params, part: Batch, key):
        model = nnx.merge(graph, params)
        rngs = None if key is None else nnx.Rngs(dropout=key)
        logits = model(part.input_ids, part.attention_mask, remat=remat, rngs=rngs)
        return classification_loss(logits, part)

    if accumulate == 1:
        return jax.value_and_grad(loss_of)(params, batch, key)

    def add(total, part_and_key):
        part, key = part_and_key
        share = part.weights.sum() / batch.weights.sum()
        found = jax.value_and_grad(loss_of)(params, part, key)
        return jax.tree.map(lambda t, x: t + share * x, total, found), None

    # [B, …] → [accumulate, B / accumulate, …]; a part takes every so-many-th row, and with it some of every device.
    parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    keys = None if key is None else jax.random.split(key, accumulate)
    return jax.lax.scan(add, zero, (parts, keys))[0]


def update(optimizer, params, opt_state, gradients):
    """One step of the optimiser → (params, opt_state). `fit` donates both: it never needs the old ones again."""
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


# Two programs instead of one: the gradient's shapes follow the batch, so it is compiled once a bucket; the update's are
# those of the parameters, so it is compiled once.


def programs() -> tuple[Callable, Callable]:
    """What `fit` runs, compiled at their first call: (loss_and_gradients, update)."""
    gradients = compiled(loss_and_gradients, ("graph", "accumulate", "remat"))
    return gradients, compiled(update, "optimizer", ("params", "opt_state"))


def fit(
    model: nnx.Module,
    train: Examples,
    validation: Examples,
    config: TrainConfig,
    *,
    mesh: Mesh | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
    about: dict | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[dict]:
    """Train `model` in place; it ends with the parameters of the epoch with the best macro-F1 on `validation`.

    Interrupted, it holds those of the best epoch so far.

    Returns the history, a dict an epoch: epoch, train_loss, validation_loss, validation_accuracy,
    validation_macro_f1, examples_per_second. `report` gets one line an epoch.

    `mesh` says which devices share the work, sharding.data_mesh(1) unless given; every process of a run calls this
    with the same data. With `checkpoints`, a folder, everything needed to go on is saved there after each epoch; with
    `resume` too, a run goes on after its last whole epoch, also on another number of devices, and reaches the
    parameters that it would have reached uninterrupted. `about`, JSON values under names, is what else must be as it
    was when the run was started: which model it starts from, and whatever `config` and the data do not say.

    Raises CourseError where the loss is no longer finite, a checkpoint belongs to another run, or the rows of a batch
    cannot be divided among the devices.
    """
    enable_compile_cache()
    mesh = data_mesh(1) if mesh is None else mesh
    if config.batch_size % (config.accumulate * mesh.size):
        parts = f"{mesh.size} devices" + (f" × {config.accumulate} parts" if config.accumulate > 1 else "")
        raise CourseError(f"batch_size {config.batch_size} cannot be divided among {parts}")
    config = config.suited_to(model.config.hidden_size)
    buckets = buckets_for(model, train)
    steps_per_epoch = -(-len(train) // config.batch_size)
    optimizer = make_optimizer(dataclasses.replace(config, seed=0), config.epochs * steps_per_epoch)
    # A step gives its arguments away: work on copies. `model` itself keeps the best epoch's parameters so far.
    graph, params = nnx.split(model, nnx.Param)
    params, opt_state = put_whole((_copy(params), optimizer.init(params)), mesh)
    history: list[dict] = []
    store = None if checkpoints is None else RunState(checkpoints, fingerprint(config, about, train, validation))
    if store is not None and resume:
        state = {"params": params, "opt_state": opt_state, "best": put_whole(nnx.state(model, nnx.Param), mesh)}
        state, history = store.restore(state)
        params, opt_state = state["params"], state["opt_state"]
        nnx.update(model, local_copy(state.pop("best")))
        del state

    key = jax.random.key(config.seed) if config.dropout else None
    gradients_of, update_of = programs()
    _compile(graph, optimizer, params, opt_state, config, mesh, buckets, key)
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
                step_key = None if key is None else jax.random.fold_in(key, step)
                loss, gradients = gradients_of(
                    graph, params, split_rows(batch, mesh), step_key, config.accumulate, config.remat
                )
                params, opt_state = update_of(optimizer, params, opt_state, gradients)
                del gradients  # as large as the model, and not needed while the next ones are computed
                losses.append(loss)
                if len(losses) > 1:  # show the step before: waiting for this one would leave the device idle
                    bar.set_postfix(epoch=f"{epoch}/{config.epochs}", loss=f"{losses[-2]:.3f}", refresh=False)
                bar.update(int(batch.weights.sum()))
            train_loss = float(np.mean(losses))
            if not math.isfinite(train_loss):
                raise CourseError(f"the loss became {train_loss} in epoch {epoch}: lower the learning rate")
            seconds = time.perf_counter() - started
            scores = _validate(graph, local_copy(params), validation, config.batch_size)
            history.append(
                {"epoch": epoch, "train_loss": train_loss, **scores, "examples_per_second": len(train) / seconds}
            )
            if best_epoch(history) == epoch:
                nnx.update(model, _copy(local_copy(params)))
            if store is not None:
                best = put_whole(nnx.state(model, nnx.Param), mesh)
                store.save({"params": params, "opt_state": opt_state, "best": best}, history)
                del best
            hand_back_memory()
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
    return max(history, key=lambda epoch: epoch["validation_macro_f1"], default={"epoch": 0})["epoch"]


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


def _compile(
    graph, optimizer, params, opt_state, config: TrainConfig, mesh: Mesh, buckets, key: jax.Array | None
) -> None:
    """Compile what training will call, side by side: one compilation keeps one core busy. jit remembers the results."""

    def gradients(length: int) -> None:
        batch = split_rows(empty_batch(config.batch_size, length), mesh)
        gradients_of.lower(graph, params, batch, key, config.accumulate, config.remat).compile()

    gradients_of, update_of = programs()
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
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


def fingerprint(config: TrainConfig, about: dict | None, *parts: Examples) -> dict:
    """What says whether two runs are the same one: `about`, the settings and, in a hash, the data."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr((part.token_ids, part.labels.tolist())).encode())
    return {**(about or {}), **dataclasses.asdict(config), "data": digest.hexdigest()[:16]}
