"""What a compiled step needs of a device's memory, and a message where that is more than there is."""

from typing import Any

from qsnet_jax import memory


def needed(compiled: Any) -> int:
    """Bytes of arguments, results and buffers between, on each device."""
    sizes = compiled.memory_analysis()
    size = sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes
    return size - sizes.alias_size_in_bytes


def check(compiled: Any, device: Any) -> None:
    """Raises Shortage where a card has less memory than a step needs; CPUs do not tell what they have."""
    limit = (device.memory_stats() or {}).get('bytes_limit')
    if limit is None or needed(compiled) <= limit:
        return
    raise memory.Shortage(
        f'A training step needs {needed(compiled) / 2**30:.1f} GiB and {device.device_kind} lets JAX have '
        f'{limit / 2**30:.1f} GiB of its memory. Take more of it (XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 in the '
        'environment), compute the units anew (--config.train.remat), in half precision '
        '(--config.model.dtype=bfloat16), or take a smaller --config.data.batch or --config.data.crop.'
    )
