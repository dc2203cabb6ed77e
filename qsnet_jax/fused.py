"""The encoder's units on a card, one launch each: depthwise and expanding convolution, sum, the next unit's reduction.

A Pallas kernel in Triton's dialect, for inference with prepared weights alone. As launches of their own, a unit's parts
write and read again what here stays in registers: of a map of 136 channels and its 40 reduced ones, a unit then moves
each once in and once out. Elsewhere than on NVIDIA's cards the kernel is interpreted, which is slow. JAX deprecates the
way to Triton from 0.11 on: unless a card shows a gain, the form goes with it.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

Array = jax.Array
PIXELS = 64  # of one row, in one block


def units(x: Array, weights: Sequence[dict[str, Any]]) -> Array:
    """ShuffleNet units one after the other, (B, H, W, P) -> the same.

    weights: of each unit, what is prepared for the dense form: {'reduce': {'conv': {'kernels', 'addends'}}, ...}.
    """
    prepared = [
        [value for name in ('reduce', 'depthwise', 'expand') for value in _arrays(unit[name])] for unit in weights
    ]
    kernel, addend = prepared[0][:2]
    reduced = lax.conv_general_dilated(x, kernel, (1, 1), 'VALID', dimension_numbers=('NHWC', 'OHWI', 'NHWC'))
    reduced = jax.nn.relu(reduced + addend)
    for number, (_, _, *own) in enumerate(prepared):
        following = prepared[number + 1][:2] if number + 1 < len(prepared) else []
        shapes = [value.reshape(-1, value.shape[-1]) for value in (*own, *following)]
        x, *rest = _on_any_platform(x, reduced, *shapes)
        reduced = rest[0] if rest else reduced
    return x


def _arrays(convolution: dict[str, Any]) -> tuple[Array, Array]:
    """Kernel and addend of a prepared convolution of one array."""
    (kernel,), (addend,) = convolution['conv']['kernels'], convolution['conv']['addends']
    return kernel, addend


def _on_any_platform(*arguments: Array) -> Sequence[Array]:
    """The kernel on NVIDIA's cards, interpreted elsewhere."""
    return lax.platform_dependent(
        *arguments, cuda=partial(_unit, interpret=False), default=partial(_unit, interpret=True)
    )


def _unit(x: Array, reduced: Array, *weights: Array, interpret: bool) -> Sequence[Array]:
    """A unit from its reduced map on, and with the next one's weights also that one's reduced map."""
    batch, height, width, _ = x.shape
    results = [x, reduced][: len(weights) // 2 - 1]
    call = pl.pallas_call(
        partial(_kernel, count=len(results)),
        out_shape=[jax.ShapeDtypeStruct(result.shape, result.dtype) for result in results],
        grid=(batch * height, pl.cdiv(width, PIXELS)),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name='shuffle_unit',
    )
    return call(x, reduced, *weights)


def _kernel(x: Any, reduced: Any, *references: Any, count: int) -> None:
    """Some pixels of a row. references: weights (taps, h), (1, h), (P, h), (1, P), maybe (h, P), (1, h); results."""
    weights, results = references[:-count], references[-count:]
    taps, tap_addend, expand, expand_addend = weights[:4]
    _, height, width, channels = x.shape
    image, row = pl.program_id(0) // height, pl.program_id(0) % height
    columns = pl.program_id(1) * PIXELS + jnp.arange(PIXELS)
    middle = [
        (held, _depthwise(reduced, taps, tap_addend, (image, row, columns), held))
        for held in _chunks(reduced.shape[-1])
    ]
    following = [jnp.zeros((PIXELS, len(held)), jnp.float32) for held in _chunks(reduced.shape[-1])]
    is_inside = (columns < width)[:, None]
    for held in _chunks(channels):
        made = _load(expand_addend, (0, held[None]), held[None] < channels).astype(jnp.float32)
        for inner, values in middle:
            matrix = _load(expand, (held[None], inner[:, None]), (held[None] < channels) & _is_one(inner, reduced))
            made += jnp.dot(values, matrix, preferred_element_type=jnp.float32)
        place, mask = (image, row, columns[:, None], held[None]), is_inside & (held[None] < channels)
        made = jax.nn.relu(made + _load(x, place, mask).astype(jnp.float32)).astype(x.dtype)
        _store(results[0], place, mask, made)
        if count == 1:
            continue
        for number, inner in enumerate(_chunks(reduced.shape[-1])):
            mask = (held[:, None] < channels) & (inner[None] < reduced.shape[-1])
            matrix = _load(weights[4], (inner[None], held[:, None]), mask)
            following[number] += jnp.dot(made, matrix, preferred_element_type=jnp.float32)
    for inner, values in zip(_chunks(reduced.shape[-1]), following, strict=True):
        if count == 2:
            mask = inner[None] < reduced.shape[-1]
            values = jax.nn.relu(values + _load(weights[5], (0, inner[None]), mask).astype(jnp.float32))
            _store(results[1], (image, row, columns[:, None], inner[None]), is_inside & mask, values.astype(x.dtype))


def _depthwise(reduced: Any, taps: Any, addend: Any, place: tuple[Any, Any, Any], held: Any) -> Array:
    """The 3x3 depthwise convolution of some channels at some pixels of a row, zeros around the image."""
    (image, row, columns), (height, width, channels) = place, reduced.shape[1:]
    known = held[None] < channels
    total = jnp.broadcast_to(_load(addend, (0, held[None]), known).astype(jnp.float32), (PIXELS, len(held)))
    for number in range(9):
        line, across = row + number // 3 - 1, columns[:, None] + number % 3 - 1
        is_inside = known & (line >= 0) & (line < height) & (across >= 0) & (across < width)
        where = (image, jnp.clip(line, 0, height - 1), jnp.clip(across, 0, width - 1), held[None])
        values = _load(reduced, where, is_inside).astype(jnp.float32)
        total += values * _load(taps, (number, held[None]), known).astype(jnp.float32)
    return total.astype(reduced.dtype)


def _is_one(inner: Array, reduced: Any) -> Array:
    """Which of the numbers are channels of the reduced map, as a column."""
    return inner[:, None] < reduced.shape[-1]


def _chunks(count: int) -> Iterator[Array]:
    """Numbers from 0 on in powers of two, at least 16, which is what Triton multiplies; the last may go beyond."""
    start = 0
    while start < count:
        size = 1 << max(4, (count - start).bit_length() - 1)
        yield start + jnp.arange(size)
        start += size


def _load(reference: Any, place: tuple[Any, ...], mask: Array) -> Array:
    """What lies there, zero where the mask is not set."""
    return triton.load(reference.at[place], mask=mask, other=0)


def _store(reference: Any, place: tuple[Any, ...], mask: Array, values: Array) -> None:
    """Writes where the mask is set."""
    triton.store(reference.at[place], values, mask=mask)
