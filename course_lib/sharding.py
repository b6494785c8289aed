"""Many devices and many processes: a mesh of one axis, over which a batch is split while everyone holds all parameters.

Data parallelism (Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 3) needs no other code than this. `jit`
sees that the batch is split and the parameters are whole, lets each device compute the gradient of its rows, and adds
them up. The loss is a mean over all rows of all devices, so N devices compute what one would, in another order of
addition. Dropout draws the same bits for a row, whichever device it lies on.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from course_lib import CourseError


def join_processes(coordinator: str | None = None, processes: int | None = None, process_id: int | None = None) -> None:
    """Make this process one of many; call it before anything else touches JAX. `jax.devices()` are then those of all.

    `coordinator` is HOST:PORT of process 0, which the others can reach. Under Slurm and on Cloud TPUs leave all three
    out: JAX reads them from there. Raises CourseError where the others are not met within five minutes.
    """
    if jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(coordinator, processes, process_id)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CourseError(f"could not join the other processes at {coordinator or 'the cluster'}: {reason}") from error


def data_mesh(devices: int | None = None) -> Mesh:
    """The first `devices` of all devices, or all of them; in a run of several processes always all.

    Raises CourseError where there are fewer.
    """
    there = jax.devices()
    if devices is None or jax.process_count() > 1:
        devices = len(there)
    if devices > len(there):
        hint = f"; XLA_FLAGS=--xla_force_host_platform_device_count={devices} simulates them on a CPU"
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
