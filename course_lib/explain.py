"""Which words made the model say that? Two answers, each a page long, and neither to be believed before it is tested.

*Integrated gradients* ask the logit of one class: along a straight way from an input that says nothing to the real
one, how much does each token contribute to the rise? *Attention rollout* asks the attention weights alone: how much of
each token could have reached [CLS]? It knows neither the class nor the values that were passed on.

    T  tokens    H  hidden size    L  layers    N  heads    K  classes
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from course_lib.bert import BertForSequenceClassification

POINTS_AT_ONCE = 32  # on the path, in one batch
MULTIPLE = 16  # texts are padded to multiples of this: a few shapes to compile and not one a length


@dataclass(frozen=True, eq=False)
class Attribution:
    """What each token added to the logit of one class, and that logit at both ends of the path."""

    scores: np.ndarray  # float32 [T], in logits; their sum should be at_input − at_baseline
    at_input: float
    at_baseline: float

    @property
    def gap(self) -> float:
        """How far completeness is missed: |sum of the scores − the rise|, as a share of the rise. 0.01 is 1 %."""
        rise = self.at_input - self.at_baseline
        return abs(float(self.scores.sum()) - rise) / abs(rise)


def integrated_gradients(
    model: BertForSequenceClassification,
    token_ids: Sequence[int],
    baseline_ids: Sequence[int],
    target: int,
    points: int = 128,
) -> Attribution:
    """Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks", section 3, https://arxiv.org/abs/1703.01365:

        score_t = Σ_h (x_th − x'_th) ∫₀¹ ∂F(x' + α (x − x')) / ∂x_th dα

    F is the logit of class `target`, x and x' are what `BertEmbeddings` makes of `token_ids` and `baseline_ids`, and
    the integral is a trapezoid sum over `points` values of α, both ends included. The scores add up to F(x) − F(x') but
    for the error of that sum, which `Attribution.gap` measures: take more points if it is above 0.01. A token that is
    the same in both inputs scores 0.

    token_ids, baseline_ids: int [T], with [CLS] and [SEP]. Raises ValueError where their lengths differ.
    """
    if len(token_ids) != len(baseline_ids):
        raise ValueError(f"token_ids has {len(token_ids)} tokens and baseline_ids {len(baseline_ids)}: give as many")
    graph, params = nnx.split(model, nnx.Param)
    ids, mask = _pad([token_ids, baseline_ids])  # [2, T padded]
    x, start = _embed(graph, params, ids)  # [T padded, H] each
    alphas = np.linspace(0, 1, points)
    weights = np.full(points, 1 / (points - 1))
    weights[[0, -1]] /= 2  # the trapezoid rule
    missing = -points % POINTS_AT_ONCE  # fill the last batch up with points that count for nothing
    alphas, weights = (np.pad(a, (0, missing)).reshape(-1, POINTS_AT_ONCE, 1, 1) for a in (alphas, weights))
    logits, gradient = [], 0.0
    for alpha, weight in zip(alphas, weights, strict=True):  # [32, 1, 1]
        path = start + alpha * (x - start)  # [32, T, H]
        logit, slope = _logit_and_gradient(graph, params, path, mask[:1], target)
        logits.append(logit)
        gradient += (weight * slope).sum(axis=0)  # [T, H]
    scores = (gradient * (x - start)).sum(axis=-1)[: len(token_ids)]  # [T]
    logits = np.concatenate(logits)
    return Attribution(np.asarray(scores), float(logits[points - 1]), float(logits[0]))


def attention_maps(model: BertForSequenceClassification, token_ids: Sequence[int]) -> np.ndarray:
    """Every attention weight of one text, float32 [L, N, T from, T to]; each row sums to 1."""
    maps = _attention_maps(*nnx.split(model, nnx.Param), *_pad([token_ids]))  # [L, N, T padded, T padded]
    return np.asarray(maps)[:, :, : len(token_ids), : len(token_ids)]


def attention_rollout(maps: np.ndarray) -> np.ndarray:
    """[L, N, T, T] → float [T, T]: the share of each input token (column) in each last vector (row); row 0 is [CLS].

    Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers" (https://arxiv.org/abs/2005.00928), section 3.
    Heads are averaged; half of what leaves a layer came through attention, half by the residual; layers multiply.
    """
    rollout = np.eye(maps.shape[-1])
    for layer in maps.mean(axis=1):  # [T, T], from the first layer to the last
        rollout = (layer + np.eye(len(layer))) / 2 @ rollout
    return rollout


def _pad(texts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask, int32 [B, T padded]; all texts have one length."""
    ids = np.asarray(texts, np.int32)
    space = ((0, 0), (0, -ids.shape[1] % MULTIPLE))
    return np.pad(ids, space), np.pad(np.ones_like(ids), space)


@functools.partial(jax.jit, static_argnames="graph")
def _embed(graph, params, ids: jax.Array) -> jax.Array:
    return nnx.merge(graph, params).bert.embeddings(ids)


@functools.partial(jax.jit, static_argnames="graph")
def _logit_and_gradient(graph, params, x: jax.Array, mask: jax.Array, target: int) -> tuple[jax.Array, jax.Array]:
    """x: embedded tokens [B, T, H]; mask: [1, T] → the logit of `target` [B], and its gradient in x [B, T, H]."""

    def total(x):
        model = nnx.merge(graph, params)
        hidden = model.bert.encode(x, jnp.broadcast_to(mask, x.shape[:2]))
        logits = model.classifier(model.bert.pool(hidden))  # [B, K]
        return logits[:, target].sum(), logits[:, target]  # rows do not meet: the sum's gradient is each row's own

    (_, logit), gradient = jax.value_and_grad(total, has_aux=True)(x)
    return logit, gradient


@functools.partial(jax.jit, static_argnames="graph")
def _attention_maps(graph, params, ids: jax.Array, mask: jax.Array) -> jax.Array:
    bert = nnx.merge(graph, params).bert
    x, maps = bert.embeddings(ids), []
    for layer in bert.layers:
        maps.append(layer.attention.weights(x, mask)[0])  # [N, T, T]
        x = layer(x, mask)
    return jnp.stack(maps)
