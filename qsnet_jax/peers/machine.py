"""What a machine can do at best, and how much memory a call takes there."""

import contextlib
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qsnet_jax import model
from qsnet_jax.training import memory

SHORTEST = 0.02  # seconds; calls that take less are repeated within a round until they last this long
Call = Callable[[], Any]  # runs once and waits for the device


def take_turns(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds per call of each, in every round; a round runs all of them, in an order of its own."""
    repeats: dict[str, int] = {}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        begun = time.perf_counter()
        call()
        repeats[name] = max(1, round(SHORTEST / (time.perf_counter() - begun)))
    for number in range(rounds):
        for name in np.random.default_rng(number).permutation(list(calls)):
            begun = time.perf_counter()
            for _ in range(repeats[name]):
                calls[name]()
            seconds[name].append((time.perf_counter() - begun) / repeats[name])
    return seconds


def ceilings(precision: str) -> dict[str, float]:
    """What the device can do at best: TFLOP/s of a large matrix product, GB/s of a large array read and written."""
    is_cpu = jax.default_backend() == 'cpu'
    side, length = (2048, 2**26) if is_cpu else (8192, 2**29)
    name, products = model.DTYPES[precision]
    dtype = jnp.dtype(name)
    with jax.default_matmul_precision(products):
        # random: cards are faster at what is constant
        matrix = jnp.asarray(np.random.default_rng(0).standard_normal((side, side), np.float32), dtype)
        line = jnp.ones(length, dtype)
        product, add = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1, donate_argnums=0)

        def copy() -> None:
            nonlocal line
            line = add(line).block_until_ready()  # in place: fresh memory would be timed too

        times = take_turns({'product': lambda: product(matrix, matrix).block_until_ready(), 'copy': copy}, 7)
    return {
        'tflops': 2 * side**3 / min(times['product']) / 1e12,
        'gigabytes_per_second': 2 * length * dtype.itemsize / min(times['copy']) / 1e9,
    }


def peak(call: Call) -> float | None:
    """MiB by which the process grows at most while a call runs; None where the system does not tell.

    None also where that is less than one: what runs keeps its memory between calls.
    """
    try:
        pathlib.Path('/proc/self/clear_refs').write_text('5')  # forgets the highest size so far
        before = _status('VmRSS')
        call()
        grown = round((_status('VmHWM') - before) / 2**10, 1)
        return grown if grown >= 1 else None
    except OSError:
        return None


def reason(error: Exception) -> str:
    """An error in one line that fits a table."""
    return ' '.join(str(error).replace('|', '/').split())[:200] or repr(error)


def processor() -> str:
    """The CPU's name, where the system tells."""
    with contextlib.suppress(OSError, StopIteration):
        lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return 'unknown'


def _status(field: str) -> int:
    """KiB of a line of /proc/self/status."""
    lines = pathlib.Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f'{field}:'))


def footprint(compiled: Any) -> float:
    """MiB of a compiled function's arguments, results and buffers between."""
    return round(memory.needed(compiled) / 2**20, 1)
