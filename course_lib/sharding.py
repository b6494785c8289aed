"""Many devices and many processes: a mesh of one axis, over which a batch is split while everyone holds all parameters.

Data parallelism (Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 3) needs no other code than this. `jit`
sees that the batch is split and the parameters are whole, lets each device compute the gradient of its rows, and adds
them up. The loss is a mean over all rows of all devices, so N devices compute what one would, in another order of
addition. Dropout draws the same bits for a row, whichever device it lies on.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import threading

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from course_lib import CourseError, one_line


def join_processes(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    timeout: int = 300,
) -> None:
    """Make this process one of many; call it before anything else touches JAX. `jax.devices()` are then those of all.

    `coordinator` is HOST:PORT of process 0, which the others can reach. Under Slurm, on Kubernetes and on Cloud TPUs
    leave all three out: JAX reads them from there. Raises CourseError where they are not as they should be or not
    found. Where the others are not all met within `timeout` seconds, says so in one line and ends this process with
    exit code 2: JAX waits outside Python, where no exception reaches it.
    """
    if coordinator is not None:
        _check_address(coordinator)
    if jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if hasattr(jax.config, "jax_enable_preemption_service"):  # it would catch SIGTERM, and nobody here listens to it
        jax.config.update("jax_enable_preemption_service", False)
    watchdog = threading.Timer(timeout, _give_up, (coordinator or "the cluster's first process", timeout))
    watchdog.daemon = True
    watchdog.start()
    try:
        # JAX itself would end the process at its own time-out, with a core dump: the watchdog comes first.
        jax.distributed.initialize(coordinator, processes, process_id, initialization_timeout=timeout + 60)
    except Exception as error:  # each kind of cluster has its own
        if coordinator is None:
            raise CourseError(f"--cluster: {_why_no_cluster(error)}") from error
        raise CourseError(f"could not join the other processes at {coordinator}: {one_line(error)}") from error
    finally:
        watchdog.cancel()


def _check_address(coordinator: str) -> None:
    found = re.fullmatch(r"(?:\[[\da-fA-F:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})", coordinator)
    if not (found and 1 <= int(found[1]) <= 65535):
        raise CourseError(f"--coordinator {coordinator}: give HOST:PORT of process 0, such as 10.0.0.1:1234")


def _give_up(where: str, timeout: int) -> None:
    message = f"error: not all processes met at {where} within {timeout} s; start all of them with the same coordinator"
    print(message, file=sys.stderr, flush=True)
    os._exit(2)


def _why_no_cluster(error: Exception) -> str:
    if "coordinator_address" not in str(error):
        return one_line(error)
    if "KUBERNETES_SERVICE_HOST" in os.environ and importlib.util.find_spec("kubernetes") is None:
        install = ".venv/bin/uv pip install --require-hashes --no-deps -r requirements-k8s.lock"
        return f"on Kubernetes this needs the package kubernetes: {install}"
    return "this is neither Slurm nor Kubernetes nor a Cloud TPU; give --coordinator, --processes, --process-id"


def data_mesh(devices: int | None = None) -> Mesh:
    """The first `devices` of all devices, or all of them; in a run of several processes always all.

    Raises CourseError where there are fewer.
    """
    there = jax.devices()
    if devices is None or jax.process_count() > 1:
        devices = len(there)
    if devices > len(there):
        hint = f"; JAX_NUM_CPU_DEVICES={devices} simulates them on a CPU"
        kind = there[0].platform
        raise CourseError(f"--devices {devices}: there are {len(there)} ({kind}){hint if kind == 'cpu' else ''}")
    return Mesh(np.array(there[:devices]), ("data",))


def whole(mesh: Mesh) -> NamedSharding:
    """Every device holds all of it: parameters."""
    return NamedSharding(mesh, PartitionSpec())


def put_whole(tree, mesh: Mesh):
    """The arrays in `tree`, which are the same in all processes, on every device of `mesh`."""
    return jax.tree.map(lambda array: _place(array, whole(mesh)), tree)


def split_rows(tree, mesh: Mesh):
    """The arrays in `tree`, [B, …], with B / devices rows on each device. B must be a multiple of the devices."""
    return jax.tree.map(lambda array: _place(array, NamedSharding(mesh, PartitionSpec("data"))), tree)


def local_copy(tree):
    """Of arrays that every device holds whole, the copy on this process's first device, without communication."""
    return jax.tree.map(lambda array: array.addressable_data(0), tree)


def _place(array, sharding: NamedSharding) -> jax.Array:
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    values = np.asarray(array)  # other processes hold the rest, and each has all values: take what is ours
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])
