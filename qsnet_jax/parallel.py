"""Devices: a one-dimensional mesh over which the batch is split and everything else is replicated."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qsnet_jax import UserError


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


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Places a tree of arrays on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a global batch, (B / processes, ...), as global arrays split along the first axis."""
    sharding = NamedSharding(mesh, PartitionSpec('data'))
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
