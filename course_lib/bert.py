"""BERT, the whole model, in one file of Flax NNX.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2019
(https://arxiv.org/abs/1810.04805), on the encoder of Vaswani et al., "Attention Is All You Need", 2017
(https://arxiv.org/abs/1706.03762), section 3. Read it from top to bottom: the numbers that fix a model's size, then
the parts in the order in which data meets them, then the two heads.

    token ids ── Embeddings ── Layer × L ──┬── Pooler ── classifier        BertForSequenceClassification
                                           └── transform ── vocabulary     BertForMaskedLM

Letters used for shapes, everywhere:

    B  examples in a batch          H  hidden size, the width of one token's vector
    T  tokens in an example         N  attention heads
    V  vocabulary size              D  size of one head, H / N

Three habits hold throughout.

*No rngs, no dropout.* Modules store parameters and nothing else. Dropout needs random numbers, and they are an
argument: call a model with `rngs=nnx.Rngs(0)` and it trains; call it without, and it is deterministic.

*Masks say what may be seen.* An attention mask is 1 at a real token and 0 at padding: [B, T], the same for every token
that looks. Where each has a view of its own, give [B, T from, T to]: `jnp.tril` of ones makes a decoder such as GPT.

*Parameters are float32; `dtype` is the type that is computed in.* bfloat16 halves the memory traffic. Softmax and
LayerNorm's statistics stay in float32 whatever `dtype` says, since sums of many small terms need its 24 bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    # BERT's GELU is x·Φ(x) with the exact normal distribution Φ. The tanh form is off by up to 5e-4 at every
    # activation: small, and enough to make a port that "almost agrees".
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The numbers that fix a BERT's shape, under the names that config.json uses on the Hugging Face Hub.

    The defaults are BERT-base (110 M parameters). `labels` are the class names of a fine-tuned classifier, in the
    order of its logits; empty for a model that has no classifier.
    """

    vocab_size: int = 30_522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3_072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    labels: tuple[str, ...] = ()

    def __post_init__(self):
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} cannot be divided among {self.num_attention_heads} attention heads"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act {self.hidden_act!r} is not one of {', '.join(ACTIVATIONS)}")

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def bert_base(cls, **changes) -> BertConfig:
        """google-bert/bert-base-uncased (Devlin et al., section 3)."""
        return cls(**changes)

    @classmethod
    def bert_large(cls, **changes) -> BertConfig:
        """google-bert/bert-large-uncased (Devlin et al., section 3)."""
        sizes = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
        return cls(**(sizes | changes))

    @classmethod
    def minilm_l6(cls, **changes) -> BertConfig:
        """sentence-transformers/all-MiniLM-L6-v2, the model of this course (22.7 M parameters)."""
        sizes = dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
        return cls(**(sizes | changes))

    @classmethod
    def tiny(cls, **changes) -> BertConfig:
        """Two layers of width 32: trains in seconds, for tests and for experiments from scratch."""
        sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
        return cls(**(sizes | changes))


def _linear(config: BertConfig, n_in: int, n_out: int, dtype, rngs: nnx.Rngs) -> nnx.Linear:
    """y = x W + b, with W of shape [n_in, n_out] and BERT's initial values."""
    kernel_init = nnx.initializers.normal(config.initializer_range)
    return nnx.Linear(n_in, n_out, kernel_init=kernel_init, dtype=dtype, rngs=rngs)


def _layer_norm(config: BertConfig, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # Flax's default epsilon is 1e-6; BERT was trained with 1e-12. The fast variance, E[x²] − E[x]², loses digits
    # where the mean is large against the spread, so ask for the plain one.
    return nnx.LayerNorm(
        config.hidden_size, epsilon=config.layer_norm_eps, use_fast_variance=False, dtype=dtype, rngs=rngs
    )


def _dropout(rate: float, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
    """Zero a share `rate` of `x` and make up for it in the rest (Srivastava et al. 2014); without rngs, `x` itself.

    nnx.Dropout draws 32 random bits a number, which on a CPU takes a good part of a training step. 8 will do, with
    `rate` rounded to the next 1/256.
    """
    dropped = round(rate * 256)
    if rngs is None or not dropped:
        return x
    *lead, last = x.shape
    bits = jax.random.bits(rngs.dropout(), (*lead, -(-last // 4)), jnp.uint32)  # each holds four numbers of 8 bits
    bits = jax.lax.bitcast_convert_type(bits, jnp.uint8).reshape(*lead, -1)[..., :last]
    return jnp.where(bits >= dropped, x * (256 / (256 - dropped)), 0)


class BertEmbeddings(nnx.Module):
    """Token ids to vectors: word + position + segment, then LayerNorm (Devlin et al., section 3 and figure 2)."""

    def __init__(self, config: BertConfig, *, dtype=None, rngs: nnx.Rngs):
        def table(rows: int) -> nnx.Embed:
            init = nnx.initializers.normal(config.initializer_range)
            return nnx.Embed(rows, config.hidden_size, embedding_init=init, rngs=rngs)

        self.word = table(config.vocab_size)
        self.position = table(config.max_position_embeddings)
        self.token_type = table(config.type_vocab_size)
        self.norm = _layer_norm(config, dtype, rngs)
        self.dropout_rate = config.hidden_dropout_prob

    def __call__(self, input_ids, token_type_ids=None, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """input_ids, token_type_ids: int [B, T] → float [B, T, H]."""
        length, longest = input_ids.shape[-1], self.position.num_embeddings
        if length > longest:  # indexing past a table's end would quietly repeat its last row
            raise ValueError(f"input_ids has {length} tokens a row, this model has positions for {longest}")
        # One segment: add its row as a row. Looked up for each token, its gradient would be B·T additions to one place,
        # which a GPU does one after the other.
        segment = self.token_type.embedding[0] if token_type_ids is None else self.token_type(token_type_ids)
        x = self.word(input_ids) + self.position.embedding[:length] + segment  # float32 [B, T, H]
        return _dropout(self.dropout_rate, self.norm(x), rngs)


class BertSelfAttention(nnx.Module):
    """Every token looks at every other and takes from it what it needs (Vaswani et al., section 3.2).

    For each head, weights = softmax(Q Kᵀ / √D) and the output is weights · V. Queries, keys and values of all heads
    come from one matrix each; the reshape to [B, T, N, D] is what makes them separate heads.

    `first` asks for the results of the first so many tokens only. They look at all tokens as before; what the others
    would have seen is not computed. None: all.
    """

    def __init__(self, config: BertConfig, *, dtype=None, rngs: nnx.Rngs):
        width = config.hidden_size
        self.query = _linear(config, width, width, dtype, rngs)
        self.key = _linear(config, width, width, dtype, rngs)
        self.value = _linear(config, width, width, dtype, rngs)
        self.output = _linear(config, width, width, dtype, rngs)
        self.num_heads, self.head_size = config.num_attention_heads, config.head_size
        self.dropout_rate = config.attention_probs_dropout_prob

    def weights(self, x: jax.Array, attention_mask: jax.Array, first: int | None = None) -> jax.Array:
        """How much each token attends to each other one, by head.

        x: float [B, T, H]; attention_mask: [B, T] or [B, T from, T to] → float32 [B, N, T from, T to], each row
        summing to 1.
        """
        batch, length, _ = x.shape
        if attention_mask.shape not in ((batch, length), (batch, length, length)):  # [T, T] would pass where B = T
            raise ValueError(
                f"attention_mask is {attention_mask.shape}, for {batch} × {length} tokens it must be "
                f"[{batch}, {length}] or [{batch}, {length}, {length}]"
            )
        query, key = self._split_heads(self.query(x[:, :first])), self._split_heads(self.key(x))  # [B, T, N, D]
        scores = jnp.einsum("bqnd,bknd->bnqk", query, key).astype(jnp.float32) / self.head_size**0.5
        # The most negative float instead of −inf: a row that sees nothing at all then gives 1/T and not NaN.
        if attention_mask.ndim == 2:
            attention_mask = attention_mask[:, None, :]  # [B, 1, T to]: the same for all queries
        visible = attention_mask[:, None, :first].astype(bool)  # [B, 1, T from or 1, T to]: the same for all heads
        return jax.nn.softmax(jnp.where(visible, scores, jnp.finfo(jnp.float32).min))

    def __call__(self, x, attention_mask, *, first: int | None = None, rngs: nnx.Rngs | None = None) -> jax.Array:
        """x: float [B, T, H]; attention_mask: [B, T] or [B, T from, T to] → float [B, T or first, H]."""
        value = self._split_heads(self.value(x))  # [B, T, N, D]
        weights = _dropout(self.dropout_rate, self.weights(x, attention_mask, first).astype(value.dtype), rngs)
        mixed = jnp.einsum("bnqk,bknd->bqnd", weights, value)  # [B, T, N, D]
        return self.output(mixed.reshape(*mixed.shape[:2], -1))  # [B, T, N·D = H]

    def _split_heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.num_heads, self.head_size)  # [B, T, H] → [B, T, N, D]


class BertLayer(nnx.Module):
    """Attention between tokens, then two dense layers within each token (Vaswani et al., section 3.1 and 3.3).

    Each half adds its result to what came in and normalises *after* the sum (post-norm). GPT-2 and later models
    normalise before; weights trained one way are useless the other.
    """

    def __init__(self, config: BertConfig, *, dtype=None, rngs: nnx.Rngs):
        self.attention = BertSelfAttention(config, dtype=dtype, rngs=rngs)
        self.attention_norm = _layer_norm(config, dtype, rngs)
        self.intermediate = _linear(config, config.hidden_size, config.intermediate_size, dtype, rngs)
        self.output = _linear(config, config.intermediate_size, config.hidden_size, dtype, rngs)
        self.output_norm = _layer_norm(config, dtype, rngs)
        self.activation = config.hidden_act
        self.dropout_rate = config.hidden_dropout_prob

    def __call__(self, x, attention_mask, *, first: int | None = None, rngs: nnx.Rngs | None = None) -> jax.Array:
        """x: float [B, T, H]; attention_mask: [B, T] or [B, T from, T to] → float [B, T or first, H]."""
        attended = self.attention(x, attention_mask, first=first, rngs=rngs)
        x = self.attention_norm(x[:, :first] + _dropout(self.dropout_rate, attended, rngs))
        widened = ACTIVATIONS[self.activation](self.intermediate(x))  # [B, T, intermediate_size]
        return self.output_norm(x + _dropout(self.dropout_rate, self.output(widened), rngs))


class BertModel(nnx.Module):
    """Embeddings and L layers, and the pooler where a head needs one."""

    def __init__(self, config: BertConfig, *, with_pooler: bool = True, dtype=None, rngs: nnx.Rngs):
        self.embeddings = BertEmbeddings(config, dtype=dtype, rngs=rngs)
        self.layers = nnx.List(BertLayer(config, dtype=dtype, rngs=rngs) for _ in range(config.num_hidden_layers))
        self.pooler = _linear(config, config.hidden_size, config.hidden_size, dtype, rngs) if with_pooler else None
        self.config = config

    def __call__(self, input_ids, attention_mask, token_type_ids=None, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """int [B, T] each, the mask also [B, T from, T to] → float [B, T, H], one vector a token."""
        return self.encode(self.embeddings(input_ids, token_type_ids, rngs=rngs), attention_mask, rngs=rngs)

    def encode(
        self, x, attention_mask, *, first: int | None = None, remat: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """The layers alone, on embedded tokens: float [B, T, H] → float [B, T or first, H].

        With `remat`, training keeps only what enters each layer and computes its inside again for the gradient
        (Chen et al. 2016, https://arxiv.org/abs/1604.06174): a third more arithmetic, a fraction of the memory.
        """

        def run(layer: BertLayer, x: jax.Array, rngs: nnx.Rngs | None, first: int | None) -> jax.Array:
            return layer(x, attention_mask, first=first, rngs=rngs)

        if remat:
            run = nnx.remat(run, static_argnums=3)
        for layer in self.layers[:-1]:
            x = run(layer, x, rngs, None)
        return run(self.layers[-1], x, rngs, first)

    def pool(self, hidden: jax.Array) -> jax.Array:
        """float [B, T, H] → float [B, H]: the vector of the first token, [CLS], through a dense layer and tanh."""
        if self.pooler is None:
            raise ValueError("this model was made with with_pooler=False")
        return jnp.tanh(self.pooler(hidden[:, 0]))


class BertForSequenceClassification(nnx.Module):
    """One label a text: a dense layer on the pooled vector (Devlin et al., section 4.1)."""

    def __init__(self, config: BertConfig, *, dtype=None, rngs: nnx.Rngs):
        if not config.labels:
            raise ValueError("a classifier needs class names: BertConfig(labels=('refund', 'delivery', …))")
        self.bert = BertModel(config, dtype=dtype, rngs=rngs)
        self.classifier = _linear(config, config.hidden_size, len(config.labels), dtype, rngs)
        self.dropout_rate = config.hidden_dropout_prob
        self.config = config

    def __call__(
        self, input_ids, attention_mask, token_type_ids=None, *, remat: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """int [B, T] each, the mask also [B, T from, T to] → float32 logits [B, classes]."""
        embedded = self.bert.embeddings(input_ids, token_type_ids, rngs=rngs)
        # Only [CLS] is read, so the last layer computes nothing else: a seventh of all the work in six layers.
        hidden = self.bert.encode(embedded, attention_mask, first=1, remat=remat, rngs=rngs)  # [B, 1, H]
        pooled = _dropout(self.dropout_rate, self.bert.pool(hidden), rngs)
        return self.classifier(pooled).astype(jnp.float32)


class BertForMaskedLM(nnx.Module):
    """Which word stood at [MASK]? (Devlin et al., section 3.1, task 1).

    The last matrix is the word table again, transposed: V·H parameters that need not be learned twice. Only the bias
    over the vocabulary is new.
    """

    def __init__(self, config: BertConfig, *, dtype=None, rngs: nnx.Rngs):
        self.bert = BertModel(config, with_pooler=False, dtype=dtype, rngs=rngs)
        self.transform = _linear(config, config.hidden_size, config.hidden_size, dtype, rngs)
        self.transform_norm = _layer_norm(config, dtype, rngs)
        self.vocab_bias = nnx.Param(jnp.zeros(config.vocab_size))
        self.config = config

    def __call__(self, input_ids, attention_mask, token_type_ids=None, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """int [B, T] each, the mask also [B, T from, T to] → float32 logits [B, T, V]."""
        hidden = self.bert(input_ids, attention_mask, token_type_ids, rngs=rngs)
        hidden = self.transform_norm(ACTIVATIONS[self.config.hidden_act](self.transform(hidden)))
        table = self.bert.embeddings.word.embedding[...].astype(hidden.dtype)
        logits = hidden @ table.T  # [B, T, H] · [H, V]
        return logits.astype(jnp.float32) + self.vocab_bias[...]
