"""Devices: a one-dimensional mesh over which the batch is split and everything else is replicated."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qsnet_jax import UserError


def start(processes: str) -> None:
    """Joins this process with the others of a run, before anything else uses JAX.

    processes: 'auto' for what the cluster's environment says (Slurm, Kubernetes, Open MPI, TPU pods), or
      'HOST:PORT,PROCESSES,INDEX', HOST that of process 0. Every process runs the same command but for INDEX.
    Raises UserError for another form, and where the others do not come.
    """
    address, *numbers = processes.split(',')
    is_valid = len(numbers) == 2 and all(number.isdecimal() for number in numbers) and ':' in address
    if processes != 'auto' and not is_valid:
        raise UserError(f'--distributed={processes} is neither auto nor HOST:PORT,PROCESSES,INDEX.')
    try:
        if processes == 'auto':
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(address, int(numbers[0]), int(numbers[1]))
    except (RuntimeError, ValueError) as error:
        raise UserError(f'--distributed={processes} did not start: {error}') from error


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh ('data',) over the given devices, or over all devices of all processes."""
    return Mesh(np.asarray(jax.devices() if devices is None else devices), ('data',))


def check_batch(batch: int, mesh: Mesh) -> None:
    """Refuses a global batch that the devices cannot share equally."""
    if batch < 1 or batch % mesh.size:
        raise UserError(
            f'data.batch is {batch} and there are {mesh.size} devices; it must be a positive multiple of that. '
            'Change --config.data.batch, or hide devices (CUDA_VISIBLE_DEVICES).'
        )


def agree(value: int, is_time: bool) -> int:
    """The largest value of all processes, at once with one process; with several only when `is_time`, 0 until then.

    All must act on a signal after the same step, and asking the others in every step would cost too much.
    """
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.process_allgather(np.int32(value)).max()) if is_time else 0


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Places a tree of arrays on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a global batch, (B / processes, ...), as global arrays split along the first axis."""
    sharding = NamedSharding(mesh, PartitionSpec('data'))
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
