"""Many devices and many processes compute what one does; where one is lost, the rest say so and the run goes on later.

The devices are simulated (XLA splits the CPU) and the processes are real, on this machine, over gloo.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from course_lib import CourseError
from course_lib.bert import BertConfig, BertForSequenceClassification
from course_lib.data import empty_batch
from course_lib.sharding import data_mesh, join_processes, split_rows
from course_lib.train import TrainConfig, fit, loss_and_gradients, make_optimizer, update

HERE = Path(__file__).parent
COURSE = str(Path(sys.executable).with_name("course"))
LABELS = ("delivery", "refund", "product")

TRAIN = """
import json, sys
from dataclasses import replace
from flax import nnx
from course_lib.bert import BertConfig, BertForSequenceClassification
from course_lib.sharding import data_mesh
from course_lib.train import fit
from test_train import CONFIG, LABELS, examples

config = BertConfig.tiny(num_hidden_layers=1, max_position_embeddings=64, initializer_range=0.1, labels=LABELS)
for devices in (1, 8):
    model = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
    history = fit(model, examples(96, 0), examples(48, 1), replace(CONFIG, epochs=2), mesh=data_mesh(devices))
    print(json.dumps([[epoch["train_loss"], epoch["validation_loss"]] for epoch in history]))
"""


def environment(devices: int = 1) -> dict:
    return {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        "TQDM_DISABLE": "1",
        "JAX_PLATFORMS": "cpu",
    }


@pytest.fixture
def start(tmp_path):
    """start(model, out, *options) → a running `course finetune` of that model on a small table."""
    table = tmp_path / "table.csv"
    table.write_text("text,label\n" + "".join(f"{word} {n},{word}\n" for n in range(40) for word in ("late", "broken")))
    running = []

    def start(model, out, *options, devices=1):
        command = [COURSE, "finetune", str(table), "--model", str(model), "--out", str(tmp_path / out)]
        log = (tmp_path / f"{out}-{len(running)}.log").open("w+")
        process = subprocess.Popen(
            [*command, "--batch-size", "8", *map(str, options)], stdout=log, stderr=log, env=environment(devices)
        )
        process.said = lambda: Path(log.name).read_text()
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()


def together(start, *arguments) -> list[subprocess.Popen]:
    both = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2]
    return [start(*arguments, *both, "--process-id", number) for number in (0, 1)]


def test_eight_devices_give_the_losses_of_one():
    done = subprocess.run([sys.executable, "-c", TRAIN], env=environment(8), capture_output=True, text=True, check=True)
    one, eight = map(json.loads, done.stdout.splitlines())
    np.testing.assert_allclose(one, eight, atol=1e-5)


def test_two_processes_train_to_the_parameters_of_one(start, tmp_path, tiny_folder):
    alone = start(tiny_folder, "alone", "--epochs", 2)
    assert alone.wait(200) == 0, alone.said()
    for process in together(start, tiny_folder, "both", "--epochs", 2):
        assert process.wait(200) == 0, process.said()
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "both"))
    # Adam divides by the gradient's size, and so enlarges the last bits of sums that two machines add in another order.
    assert max(np.abs(one[key] - two[key]).max() for key in one) < 1e-3
    assert json.loads((tmp_path / "both" / "metrics.json").read_text())["devices"]["processes"] == 2


def test_a_killed_process_ends_the_run_and_it_resumes_on_other_devices(start, bert_folder):
    run = (bert_folder(1), "out", "--epochs", 500, "--learning-rate", 1e-5)  # one layer: each process compiles
    first, second = together(start, *run)
    limit = time.monotonic() + 200
    while "epoch 2/" not in first.said():
        assert first.poll() is None and time.monotonic() < limit, first.said()
        time.sleep(0.2)
    second.send_signal(signal.SIGKILL)
    assert first.wait(100) == 2
    last = first.said().strip().splitlines()[-1]
    assert last.startswith("error: another process of this run is gone") and "--resume" in last

    resumed = start(*run, "--devices", 4, "--resume", devices=4)
    while "epoch" not in resumed.said():
        assert resumed.poll() is None and time.monotonic() < limit + 200, resumed.said()
        time.sleep(0.2)
    assert "epoch 1/" not in resumed.said()


def join(call="", **variables) -> subprocess.Popen:
    """A process that calls join_processes(`call`) under these environment variables, says which it is, and waits."""
    script = f"""
import sys, time
sys.modules["kubernetes"] = None  # as if it were not installed
import jax
from course_lib import CourseError
from course_lib.sharding import join_processes
try:
    join_processes({call})
except CourseError as error:
    sys.exit(f"error: {{error}}")
print("process", jax.process_index(), "of", jax.process_count(), flush=True)
time.sleep(100)
"""
    clean = {name: value for name, value in environment().items() if not name.startswith(("SLURM", "KUBERNETES"))}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, "-c", script], env={**clean, **variables}, **pipes)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_slurm_says_who_is_who_and_sigterm_ends_a_process():
    job = dict(
        SLURM_JOB_ID="1", SLURM_STEP_NODELIST="127.0.0.1", SLURM_NTASKS="2", JAX_COORDINATOR_PORT=f"{free_port()}"
    )
    both = [join(SLURM_PROCID=str(number), SLURM_LOCALID=str(number), **job) for number in (0, 1)]
    try:
        assert [process.stdout.readline() for process in both] == ["process 0 of 2\n", "process 1 of 2\n"]
        for process in reversed(both):
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == -signal.SIGTERM
    finally:
        for process in both:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("number", [0, 1])
def test_where_nobody_comes_a_process_ends_with_one_line(number):
    process = join(f"'127.0.0.1:{free_port()}', 2, {number}, timeout=2")
    said = process.communicate(timeout=60)[1].strip().splitlines()
    assert process.returncode == 2
    assert said[-1].startswith("error: not all processes met at 127.0.0.1:") and "within 2 s" in said[-1]
    assert not any("Traceback" in line or "Fatal" in line for line in said)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "needs the package kubernetes: "), ({}, "is neither Slurm nor ")],
)
def test_where_no_cluster_is_found_it_says_what_is_missing(variables, reason):
    process = join(**variables)
    last = process.communicate(timeout=60)[1].strip().splitlines()[-1]
    assert process.returncode == 1 and last.startswith("error: --cluster: ") and reason in last


@pytest.mark.parametrize(
    "address", ["junk", "127.0.0.1", "127.0.0.1:", ":1234", "host:0", "host:65536", "::1", "http://host:1", "a b:1"]
)
def test_an_address_without_host_or_port_is_refused(address):
    with pytest.raises(CourseError, match="give HOST:PORT"):
        join_processes(address, 2, 0)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_step_lowers_for_gpu_and_tpu(accumulate):
    config = BertConfig.tiny(labels=LABELS)
    model = nnx.eval_shape(lambda: BertForSequenceClassification(config, dtype="bfloat16", rngs=nnx.Rngs(0)))
    graph, params = nnx.split(model, nnx.Param)
    optimizer = make_optimizer(TrainConfig(learning_rate=2e-4), 10)

    def step(params, opt_state, batch, key):
        loss, gradients = loss_and_gradients(graph, params, batch, key, accumulate, remat=True)
        return loss, update(optimizer, params, opt_state, gradients)

    opt_state = jax.eval_shape(optimizer.init, params)
    export = partial(jax.export.export, jax.jit(step), platforms=["cuda", "tpu"])
    lowered = export()(params, opt_state, empty_batch(8, 16), jax.random.key(0))
    assert lowered.platforms == ("cuda", "tpu") and "stablehlo.dot_general" in lowered.mlir_module()


def test_parts_of_a_batch_give_the_gradient_of_the_whole():
    config = BertConfig.tiny(
        num_hidden_layers=1, labels=LABELS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    graph, params = nnx.split(BertForSequenceClassification(config, rngs=nnx.Rngs(0)), nnx.Param)
    batch = empty_batch(8, 16)
    rng = np.random.default_rng(0)
    batch.input_ids[:] = rng.integers(1, 1000, (8, 16))
    batch.attention_mask[:] = 1
    batch.labels[:] = rng.integers(3, size=8)
    batch.weights[:5] = 1  # the last rows only fill the batch, and two of the four parts have less than the others
    step = jax.jit(partial(loss_and_gradients, graph), static_argnames="accumulate")
    whole, parts = (step(params, batch, jax.random.key(0), accumulate=n) for n in (1, 4))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), whole, parts)
    of_all_rows = f"f32[8,16,{config.hidden_size}]"  # what the parts are there to avoid
    traced = [str(step.trace(params, batch, jax.random.key(0), accumulate=n).jaxpr) for n in (1, 4)]
    assert [of_all_rows in program for program in traced] == [True, False]


def test_more_devices_than_there_are_is_refused_with_what_to_do():
    with pytest.raises(CourseError, match="there are 1 .*JAX_NUM_CPU_DEVICES=3"):
        data_mesh(3)


def test_rows_that_cannot_be_divided_are_refused():
    config = BertConfig.tiny(labels=LABELS)
    model = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
    with pytest.raises(CourseError, match="batch_size 8 cannot be divided into 3"):
        fit(model, None, None, TrainConfig(batch_size=8, accumulate=3))


@pytest.mark.parametrize("accumulate, parts", [(1, "3 devices"), (2, "3 devices × 2 parts")])
def test_rows_that_cannot_be_divided_among_the_devices_are_refused(accumulate, parts):
    config = TrainConfig(batch_size=8, accumulate=accumulate)
    with pytest.raises(CourseError, match=f"batch_size 8 cannot be divided among {parts}$"):
        fit(None, None, None, config, mesh=jax.sharding.AbstractMesh((3,), ("data",)))


def test_a_batch_lies_on_the_mesh_in_rows():
    batch = split_rows(empty_batch(8, 16), data_mesh(1))
    assert {shard.data.shape for shard in batch.input_ids.addressable_shards} == {(8, 16)}
