"""Training: what it optimises, that it learns, and that an interrupted run ends where an uninterrupted one does."""

import gc
import inspect
import shutil
from dataclasses import asdict, replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tqdm import tqdm

from course_lib import CourseError
from course_lib.checkpoint import load_pretrained
from course_lib.data import Examples, batches, empty_batch
from course_lib.evaluate import evaluate
from course_lib.predict import predict_logits
from course_lib.train import (
    TrainConfig,
    best_epoch,
    classification_loss,
    fit,
    fit_seeds,
    loss_and_gradients,
    make_optimizer,
    programs,
)

LABELS = ("delivery", "refund", "product")
CONFIG = TrainConfig(epochs=3, batch_size=8, learning_rate=1e-3, dropout=True)


def examples(n: int, seed: int, noise: float = 0.0) -> Examples:
    """Texts of 3 to 20 tokens that hold one word of their class, and with probability `noise` a wrong label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(LABELS), size=n)
    ids = []
    for label in labels:
        text = rng.integers(2000, 2050, size=rng.integers(1, 19))
        text[rng.integers(len(text))] = 3000 + label
        ids.append([101, *map(int, text), 102])
    wrong = rng.random(n) < noise
    return Examples(ids, np.where(wrong, (labels + 1) % len(LABELS), labels).astype(np.int32))


@pytest.fixture
def model(tiny_folder):
    return load_pretrained(tiny_folder, labels=LABELS)


def parameters(model):
    return jax.tree.leaves(nnx.state(model, nnx.Param))


def test_it_learns_and_ends_with_the_parameters_of_the_best_epoch(model):
    train, validation = examples(96, 0), examples(48, 1, noise=0.3)
    history = fit(model, train, validation, replace(CONFIG, epochs=8, learning_rate=3e-3, patience=8))
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    result = evaluate(validation.labels, predict_logits(model, validation).argmax(-1), LABELS)
    assert result.macro_f1 == max(epoch["validation_macro_f1"] for epoch in history)
    assert [epoch["epoch"] for epoch in history] == list(range(1, 9))
    assert all(epoch["examples_per_second"] > 0 for epoch in history)


def test_the_defaults_are_the_recipe_that_was_measured():
    """benchmarks/recipes.md chose them, and README's scores are theirs: measure again before they change."""
    assert asdict(TrainConfig()) == dict(
        epochs=3, batch_size=16, learning_rate=None, head_factor=10.0, warmup=0.1, weight_decay=0.01, clip_norm=1.0,
        dropout=False, patience=2, accumulate=1, remat=False, seed=0,
    )  # fmt: skip
    assert inspect.signature(fit_seeds).parameters["seeds"].default == (0, 1, 2)


def test_the_rate_follows_the_models_width_unless_it_is_given():
    assert TrainConfig().suited_to(384).learning_rate == 2e-4
    assert TrainConfig().suited_to(768).learning_rate == TrainConfig().suited_to(1024).learning_rate == 5e-5
    assert TrainConfig(learning_rate=1e-3).suited_to(768).learning_rate == 1e-3


def test_it_stops_when_patience_runs_out(model):
    train = examples(24, 0)
    validation = Examples(train.token_ids, np.roll(train.labels, 1))  # nothing to learn for it: no epoch gets better
    history = fit(model, train, validation, replace(CONFIG, epochs=9, patience=2, learning_rate=1e-5))
    assert len(history) == best_epoch(history) + 2 < 9


def test_the_schedule_is_as_long_as_the_run_also_where_the_last_batch_is_not_full(model, monkeypatch):
    planned, data = [], examples(20, 0)

    def spy(config, total_steps):
        planned.append(total_steps)
        return make_optimizer(config, total_steps)

    monkeypatch.setattr("course_lib.train.make_optimizer", spy)
    fit(model, data, examples(8, 1), replace(CONFIG, epochs=2))
    assert planned == [2 * len(list(batches(data, CONFIG.batch_size, (24,))))] == [6]


def test_the_bar_counts_examples_shows_the_loss_of_the_step_before_and_goes(model, monkeypatch):
    bars, shown = [], []

    class Bar(tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            bars.append(self)

        def set_postfix(self, **values):
            shown.append(values)

    gradients_of, update_of = programs()
    losses = []

    def spy(*arguments):
        loss, gradients = gradients_of(*arguments)
        losses.append(f"{loss:.3f}")
        return loss, gradients

    spy.lower = gradients_of.lower
    monkeypatch.setattr("course_lib.train.programs", lambda: (spy, update_of))
    monkeypatch.setattr("course_lib.train.tqdm", Bar)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    fit(model, examples(20, 0), examples(8, 1), replace(CONFIG, epochs=1))
    assert [(bar.n, bar.total, bar.leave) for bar in bars] == [(20, 20, False)]
    assert len(set(losses)) == 3
    assert shown == [{"epoch": "1/1", "loss": loss, "refresh": False} for loss in losses[:-1]]


def test_best_epoch_is_the_earliest_of_equals():
    assert best_epoch([{"epoch": n, "validation_macro_f1": f1} for n, f1 in ((1, 0.5), (2, 0.7), (3, 0.7))]) == 2
    assert best_epoch([]) == 0


def test_an_interrupted_run_resumes_to_the_same_parameters_bit_for_bit(model, tiny_folder, tmp_path):
    train, validation = examples(40, 0), examples(20, 1)
    whole = fit(model, train, validation, CONFIG)

    def interrupt(line):
        if line.startswith("epoch 2/3"):
            raise KeyboardInterrupt

    started = load_pretrained(tiny_folder, labels=LABELS)
    with pytest.raises(KeyboardInterrupt):
        fit(started, train, validation, CONFIG, checkpoints=tmp_path / "run", report=interrupt)
    resumed, lines = load_pretrained(tiny_folder, labels=LABELS, seed=99), []  # where it starts must not matter
    history = fit(resumed, train, validation, CONFIG, checkpoints=tmp_path / "run", resume=True, report=lines.append)
    assert [line[:9] for line in lines] == ["epoch 3/3"]
    speed = {"examples_per_second"}
    assert [{k: v for k, v in e.items() if k not in speed} for e in history] == [
        {k: v for k, v in e.items() if k not in speed} for e in whole
    ]
    assert all((a == b).all() for a, b in zip(parameters(model), parameters(resumed), strict=True))


ONE_EPOCH = replace(CONFIG, epochs=1)


@pytest.fixture(scope="module")
def saved(tiny_folder, tmp_path_factory):
    """A folder with the state of a run of one epoch."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    model = load_pretrained(tiny_folder, labels=LABELS)
    fit(model, examples(16, 0), examples(8, 1), ONE_EPOCH, checkpoints=folder, about={"model": "a"})
    return folder


@pytest.mark.parametrize(
    ("config", "data", "about", "said"),
    [
        (replace(ONE_EPOCH, epochs=2), 0, {"model": "a"}, "epochs was 1 and is 2"),
        (ONE_EPOCH, 5, {"model": "a"}, "data was"),
        (ONE_EPOCH, 0, {"model": "b"}, "model was 'a' and is 'b'"),
        (ONE_EPOCH, 0, None, "model was 'a' and is None"),
    ],
    ids=["settings", "data", "model", "nothing about the model"],
)
def test_another_runs_checkpoint_is_refused(model, saved, config, data, about, said):
    with pytest.raises(CourseError, match=said):
        fit(model, examples(16, data), examples(8, 1), config, checkpoints=saved, resume=True, about=about)


def test_without_resume_a_run_begins_at_its_first_epoch(model, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    lines = []
    fit(model, examples(16, 0), examples(8, 1), ONE_EPOCH, checkpoints=tmp_path / "run", report=lines.append)
    assert [line[:9] for line in lines] == ["epoch 1/1"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("damaged", "keep"), [("about/metadata", 0.5), ("state/manifest.ocdbt", 0), ("state/ocdbt.process_0/d/*", 0.5)]
)
def test_a_damaged_checkpoint_is_one_line_with_what_to_do(model, saved, tmp_path, damaged, keep):
    shutil.copytree(saved, tmp_path / "run")
    for path in (tmp_path / "run" / "1").glob(damaged):
        path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    config, about = ONE_EPOCH, {"model": "a"}
    with pytest.raises(CourseError) as caught:
        fit(model, examples(16, 0), examples(8, 1), config, checkpoints=tmp_path / "run", resume=True, about=about)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'run'}: the saved state of the run cannot be read (") and "\n" not in said
    assert said.endswith("; start again with --overwrite")
    gc.collect()  # orbax leaves the reads that it gave up to the collector, which says so of each: here, not later


def test_equal_seeds_give_equal_models_and_other_seeds_others(tiny_folder):
    train, validation, test = examples(24, 0), examples(12, 1), examples(40, 2, noise=0.2)

    def make(seed):
        return load_pretrained(tiny_folder, labels=LABELS, seed=seed)

    config = replace(CONFIG, epochs=1, dropout=False)
    first = fit_seeds(make, train, validation, test, config, seeds=(0, 1, 0))
    assert first["macro_f1"][0] == first["macro_f1"][2]
    assert first["mean"] == pytest.approx(np.mean(first["macro_f1"]))
    assert first["sd"] == pytest.approx(np.std(first["macro_f1"], ddof=1))
    models = [make(0), make(0)]
    for model, seed in zip(models, (0, 1), strict=True):  # the same start, another order
        fit(model, train, validation, replace(config, seed=seed))
    assert any((a != b).any() for a, b in zip(*map(parameters, models), strict=True))


def test_a_second_fit_compiles_nothing(model, tiny_folder):
    train, validation = examples(24, 0), examples(12, 1)
    fit(model, train, validation, replace(CONFIG, epochs=1))
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        compiled = []
        patch.setattr(jax._src.compiler, "compile_or_get_cached", lambda *a, **k: compiled.append(a) or 1 / 0)
        again = load_pretrained(tiny_folder, labels=LABELS, seed=3)
        fit(again, train, validation, replace(CONFIG, epochs=1, seed=3))
    assert not compiled


def test_rows_of_weight_zero_change_neither_loss_nor_gradient(model):
    data = examples(5, 0)
    graph, params = nnx.split(model, nnx.Param)
    [whole] = batches(data, 5, (24,))
    [padded] = batches(data, 8, (24,))
    assert padded.weights.sum() == 5

    def loss_of(params, batch):
        return classification_loss(nnx.merge(graph, params)(batch.input_ids, batch.attention_mask), batch)

    both = jax.jit(jax.value_and_grad(loss_of))
    (one, one_grad), (other, other_grad) = (both(params, batch) for batch in (whole, padded))
    assert one == pytest.approx(float(other), rel=1e-5)
    for a, b in zip(jax.tree.leaves(one_grad), jax.tree.leaves(other_grad), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_loss_is_the_mean_cross_entropy_of_the_real_rows():
    logits = jnp.array([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [9.0, 9.0, 9.0]])
    batch = empty_batch(3, 4)._replace(labels=np.array([0, 2, 1]), weights=np.array([1.0, 1.0, 0.0], np.float32))
    by_hand = np.mean([-np.log(np.exp(2) / np.exp([2, 0, -1]).sum()), -np.log(1 / np.exp([0, 1, 0]).sum())])
    assert float(classification_loss(logits, batch)) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_dropout_follows_the_key_and_without_one_there_is_none(model, accumulate):
    graph, params = nnx.split(model, nnx.Param)
    [batch] = batches(examples(4, 0), 4, (24,))
    loss_of = jax.jit(lambda params, key: loss_and_gradients(graph, params, batch, key, accumulate)[0])
    a, b, c = (float(loss_of(params, jax.random.key(seed))) for seed in (1, 1, 2))
    assert a == b != c
    plain = classification_loss(model(batch.input_ids, batch.attention_mask), batch)
    assert float(loss_of(params, None)) == pytest.approx(float(plain), rel=1e-5) != a


def test_dropout_is_off_unless_it_is_asked_for(tiny_folder):
    train, validation = examples(16, 0), examples(8, 1)
    models = [load_pretrained(tiny_folder, labels=LABELS) for _ in range(3)]
    for model, dropout in zip(models, (TrainConfig().dropout, False, True), strict=True):
        fit(model, train, validation, replace(CONFIG, epochs=1, dropout=dropout))
    default, without, dropped = map(parameters, models)
    assert all((a == b).all() for a, b in zip(default, without, strict=True))
    assert any((a != b).any() for a, b in zip(default, dropped, strict=True))


def test_the_optimiser_warms_up_decays_clips_and_spares_biases(model):
    params = nnx.split(model, nnx.Param)[1]
    config = replace(CONFIG, learning_rate=0.01, warmup=0.2, weight_decay=0.5)
    optimizer = make_optimizer(config, 10)
    step = jax.jit(optimizer.update)
    zero = jax.tree.map(jnp.zeros_like, params)
    kernel = params["bert"]["layers"][0]["output"]["kernel"]
    state, decays = optimizer.init(params), []
    for _ in range(10):  # with gradient 0 only weight decay moves anything: − rate · decay · parameter
        updates, state = step(zero, state, params)
        assert not jnp.any(updates["bert"]["layers"][0]["output"]["bias"][...])
        assert not jnp.any(updates["bert"]["embeddings"]["norm"]["scale"][...])
        decays.append(float(jnp.sum(updates["bert"]["layers"][0]["output"]["kernel"][...]) / jnp.sum(kernel[...])))
    rates = np.array(decays) / -0.5
    np.testing.assert_allclose(
        rates, 0.01 * np.array([0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]), rtol=1e-3
    )

    classifier = params["classifier"]["kernel"]
    ratio = jnp.sum(updates["classifier"]["kernel"][...]) / jnp.sum(classifier[...]) / decays[-1]
    assert float(ratio) == pytest.approx(config.head_factor, rel=1e-3)

    huge = jax.tree.map(lambda p: 1e3 * jnp.ones_like(p), params)
    clipped, state = step(huge, optimizer.init(params), params)
    first_moment = optax.tree.get(state, "mu")
    assert float(optax.tree.norm(first_moment)) == pytest.approx(0.1 * config.clip_norm, rel=1e-3)  # (1 − b1) · g
    assert all(jnp.isfinite(u).all() for u in jax.tree.leaves(clipped))


def test_a_loss_that_is_not_finite_is_an_error_and_keeps_the_model(model):
    before = [np.asarray(p) for p in parameters(model)]
    with pytest.raises(CourseError, match="the loss became .* lower the learning rate"):
        fit(model, examples(64, 0), examples(8, 1), replace(CONFIG, learning_rate=1e30, warmup=0.01, clip_norm=1e30))
    assert all((a == b).all() for a, b in zip(before, parameters(model), strict=True))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("epochs", 0), ("batch_size", 0), ("patience", 0), ("learning_rate", 0.0), ("seed", -1), ("seed", 2**32)],
)
def test_impossible_settings_are_refused(setting, value):
    with pytest.raises(CourseError, match=f"{setting} must be"):
        TrainConfig(**{setting: value})


def test_a_full_disk_is_one_error_before_anything_is_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=2**20))
    with pytest.raises(CourseError, match="1 MiB are free; make room"):
        fit(model, examples(8, 0), examples(4, 1), replace(CONFIG, epochs=1), checkpoints=tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())
