"""Devices: a one-dimensional mesh over which the batch is split and everything else is replicated."""

import json
import os
import signal
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qsnet_jax import UserError, memory
from qsnet_jax.training import rendezvous

_tether: rendezvous.Tether | None = None  # to the other processes, where there are any


def start(processes: str, wait: int = rendezvous.WAIT) -> None:
    """Joins this process with the others of a run, before anything else uses JAX.

    processes: 'auto' for what the cluster's environment says (Slurm, Kubernetes, Open MPI, TPU pods), or
      'HOST:PORT,PROCESSES,INDEX', HOST that of process 0. Every process runs the same command but for INDEX.
    wait: seconds for the others to come.
    Raises UserError for another form, and where the others do not come.
    """
    global _tether
    handler = signal.getsignal(signal.SIGTERM)
    address, *numbers = processes.split(',')
    host, _, port = address.rpartition(':')
    is_valid = len(numbers) == 2 and all(number.isdecimal() for number in (port, *numbers)) and host
    if processes != 'auto' and not is_valid:
        raise UserError(f'--distributed={processes} is neither auto nor HOST:PORT,PROCESSES,INDEX.')
    if processes == 'auto':
        place = rendezvous.find_in_slurm(os.environ)
    else:
        place = rendezvous.Place(host.strip('[]'), int(port), int(numbers[0]), int(numbers[1]))
    try:
        if place is None:
            print(f'waiting up to {wait} s for the other processes', flush=True)
            jax.distributed.initialize(initialization_timeout=wait)
        else:
            _tether = rendezvous.meet(place, wait)
            jax.distributed.initialize(
                rendezvous.relay(place),
                place.count,
                place.index,
                local_device_ids=place.devices,
                cluster_detection_method='deactivate',
                initialization_timeout=wait,
            )
    except (RuntimeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f'--distributed={processes} did not start: {error}') from error
    signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)  # JAX's notifier would swallow one before the first step


def leave(status: int) -> int:
    """For a process that has failed: ends it at once where others would wait for it, else returns `status`."""
    if _tether is not None:
        _tether.leave(status)
    return status


def agree_on(values: dict[str, Any]) -> None:
    """Raises UserError in all processes where they hold different values, which must be JSON, under the same names."""
    _find_devices()  # which is what counts the processes
    if jax.process_count() == 1:
        return
    content = np.frombuffer(json.dumps(values).encode(), np.uint8)
    size = int(multihost_utils.process_allgather(np.int32(content.size)).max())
    padded = np.pad(content, (0, size - content.size), constant_values=ord(' '))
    first, *others = (json.loads(bytes(each)) for each in multihost_utils.process_allgather(padded))
    different = [
        f'{name} is {first.get(name)!r} in process 0 and {other.get(name)!r} in process {index}'
        for index, other in enumerate(others, start=1)
        for name in sorted(first.keys() | other.keys())
        if first.get(name) != other.get(name)
    ]
    if different:
        raise UserError(
            f'The processes of this run do not agree: {"; ".join(different[:8])}. Start all with the same command, on '
            'the same files.'
        )


def _find_devices() -> list[jax.Device]:
    """All devices of all processes. Raises UserError where JAX cannot use what it was told to use."""
    try:
        return jax.devices()
    except (AssertionError, RuntimeError) as error:  # of a driver that fails JAX makes an assertion without words
        reason = f' ({str(error).splitlines()[0]})' if str(error) else ''
        raise UserError(
            f'JAX finds no device of JAX_PLATFORMS={os.environ.get("JAX_PLATFORMS", "")}{reason}. For a GPU nvidia-smi '
            'must work and the extra [cuda12] or [cuda13] be installed; JAX_PLATFORMS=cpu computes on the CPU.'
        ) from error


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh ('data',) over the given devices, or over all devices of all processes.

    Raises UserError where JAX cannot use the devices that it was told to use.
    """
    return Mesh(np.asarray(_find_devices() if devices is None else devices), ('data',))


def check_batch(data: Any, mesh: Mesh) -> None:
    """Refuses a global batch of `config.data` that the devices cannot share equally, or whose crops fill the memory."""
    batch, crop = data.batch, data.crop
    if batch < 1 or batch % mesh.size:
        raise UserError(
            f'data.batch is {batch} and there are {mesh.size} devices; it must be a positive multiple of that. '
            'Change --config.data.batch, or hide devices (CUDA_VISIBLE_DEVICES).'
        )
    needed, free = batch // jax.process_count() * crop**2 * 6, memory.free()  # rainy and clean, uint8
    if needed > free:
        raise UserError(
            f'A batch of {batch} x {crop} x {crop} takes {needed / 2**30:,.1f} GiB of memory and {free / 2**30:,.1f} '
            'are free. Change --config.data.batch or --config.data.crop.'
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
