"""Feature maps in the order, grouping and padding that a device computes fastest, and the convolutions on them.

A feature map is a few arrays, and for each the numbers of the channels that it holds; what a number means never depends
on where it lies. So a channel shuffle only renumbers, and the kernel of the next convolution is permuted instead of the
data. Three forms compute the same network:

  plain   one array in natural order and XLA's own grouped convolution, data shuffled: the definition, slow
  split   one array per group and one convolution per group, widths rounded up with zeros: CPUs
  dense   one array, grouped kernels filled up with zeros, widths rounded up with zeros: GPUs

Why, measured on 2 CPU cores: results/bench/README.md.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qsnet_jax import UserError

Array = jax.Array
PAD = -1  # number of a channel that holds zeros
# Widths of arrays are multiples of these. XLA's convolution on CPUs packs its input in fours: 22 -> 22 channels run at
# 64 GFLOP/s and 24 -> 24 at 95 on one core. cuDNN's tensor-core kernels for 16-bit NHWC arrays want eights.
MULTIPLES = {'plain': 1, 'split': 4, 'dense': 8}
# In the split form, up to this many input channels a group one kernel with zeros beats one convolution per group. So it
# does for 1x1 kernels up to this many outputs a group: one product takes a fifth of what slices would.
DENSE_DEPTH = 12


@partial(jax.tree_util.register_dataclass, data_fields=['parts'], meta_fields=['channels', 'form'])
@dataclasses.dataclass(frozen=True)
class Blocks:
    """A feature map (B, H, W, C): arrays (B, H, W, P), and for each which of 0 .. C - 1, or PAD, its channels are.

    form: how convolutions compute on it, see above; what they return carries the same.
    """

    parts: tuple[Array, ...]
    channels: tuple[tuple[int, ...], ...]
    form: str = 'plain'

    @property
    def width(self) -> int:
        """C, the number of channels without padding."""
        return sum(channel != PAD for held in self.channels for channel in held)

    def map(self, function: Callable[..., Array], *others: 'Blocks') -> 'Blocks':
        """A function that works on every channel alone, and keeps zeros, applied to every part.

        others: further arguments of it, feature maps or `spread` values whose parts hold the same channels.
        """
        parts = zip(self.parts, *(other.parts for other in others), strict=True)
        return dataclasses.replace(self, parts=tuple(function(*each) for each in parts))

    def spread(self, values: Array) -> 'Blocks':
        """C values as (1, 1, 1, P) for each part, in the part's order, with zeros where it is padded."""
        parts = tuple(_select(values, held, 0).reshape(1, 1, 1, -1) for held in self.channels)
        return dataclasses.replace(self, parts=parts)

    def array(self) -> Array:
        """The feature map as one array (B, H, W, C) in natural order."""
        joined = _join(self, 1)
        return _select(joined.parts[0], np.argsort(joined.channels[0])[-self.width :], 3)


def default_form() -> str:
    """The fastest form on the devices that JAX computes on by default."""
    return 'split' if jax.default_backend() == 'cpu' else 'dense'


def of(array: Array, form: str = 'plain') -> Blocks:
    """A feature map that holds (B, H, W, C) as it is. form: 'plain', 'split', 'dense', or 'auto', the fastest here.

    Raises UserError for another form.
    """
    form = default_form() if form == 'auto' else form
    if form not in MULTIPLES:
        raise UserError(f"form is {form!r}; it must be one of {tuple(MULTIPLES)}, or 'auto'.")
    return Blocks((array,), (tuple(range(array.shape[-1])),), form)


def concatenate(maps: Sequence[Blocks], groups: int = 1) -> Blocks:
    """The channels of several feature maps one after another, group by group; moves nothing but in the plain form.

    groups: into which each map is cut; the g-th pieces of all maps follow each other and are the g-th group of the
    result, so that a convolution with as many groups gives each its share of every map.
    """
    width = sum(x.width for x in maps)
    parts: list[Array] = []
    channels: list[tuple[int, ...]] = []
    start = 0
    for x in maps:
        size = x.width // groups
        if size * groups != x.width:
            raise ValueError(f'concatenate: {x.width} channels cannot be split into {groups} equal groups.')
        numbers = [channel // size * (width // groups) + start + channel % size for channel in range(x.width)]
        parts += x.parts
        channels += [tuple(PAD if channel == PAD else numbers[channel] for channel in held) for held in x.channels]
        start += size
    joined = Blocks(tuple(parts), tuple(channels), maps[0].form)
    return of(joined.array()) if joined.form == 'plain' else joined


def channel_shuffle(x: Blocks, groups: int) -> Blocks:
    """Interleaves `groups` equal blocks of channels; ShuffleNet (1707.01083), Fig. 1.

    Output channel j * groups + g is input channel g * (C / groups) + j. Shuffling by C / groups undoes it.
    """
    if x.width % groups:
        raise ValueError(f'channel_shuffle: {x.width} channels cannot be split into {groups} equal groups.')
    size = x.width // groups
    if x.form == 'plain':
        array = x.array()
        blocks = array.reshape(*array.shape[:-1], groups, size)
        return of(jnp.swapaxes(blocks, -1, -2).reshape(array.shape))
    shuffled = tuple(tuple(c if c == PAD else c % size * groups + c // size for c in held) for held in x.channels)
    return dataclasses.replace(x, channels=shuffled)


def add_and_rectify(x: Blocks, y: Blocks) -> Blocks:
    """relu(x + y) of two feature maps of the same channels, each wherever it lies; laid out as x."""
    if x.channels != y.channels:
        array = y.array()
        y = dataclasses.replace(x, parts=tuple(_select(array, held, 3) for held in x.channels))
    if x.form != 'split':  # one fused call with the convolution before it on GPUs
        return x.map(lambda before, change: jnp.maximum(before + change, 0), y)
    # A shape that XLA does not take for cheap: the sum itself it would compute anew for every reader, each time from
    # all units before (on CPUs a fifth of the time of the network).
    return x.map(lambda before, change: jnp.where(before <= -change, 0, before + change), y)


def convolve(
    x: Blocks, kernel: Array, *, groups: int = 1, rate: int = 1, stride: int = 1, padding: str = 'zeros'
) -> Blocks:
    """Convolves (B, H, W, C_in) with (k, k, C_in / groups, C_out), k odd -> (B, H / stride, W / stride, C_out).

    Padding is rate * (k // 2) on every side, of zeros or by reflection, so that only `stride` changes the size.
    Output channels [g * C_out / groups, (g + 1) * C_out / groups) see only the g-th block of input channels.

    XLA's own grouped convolution (`feature_group_count`) is for the plain form alone: on CPUs it runs several times
    slower than the others, its weight gradient up to 200 times, and with the batch split over devices it gathers the
    whole batch.
    """
    size, _, depth, features = kernel.shape
    if depth * groups != x.width or features % groups:
        raise ValueError(
            f'convolve: {x.width} input and {features} output channels do not fit {groups} groups of a kernel '
            f'{kernel.shape}; both must be multiples of the number of groups.'
        )
    multiple = MULTIPLES[x.form]

    def dense(part: Array, weights: Array, groups: int = 1) -> Array:
        return _convolve(part, weights, rate, stride, padding, groups, x.form)

    if x.form == 'plain':
        return of(dense(x.array(), kernel, groups))
    if depth == 1 and features == groups:
        kernels = dataclasses.replace(x, parts=tuple(_select(kernel[:, :, 0], held, 2) for held in x.channels))
        return x.map(lambda part, weights: _depthwise(part, weights, rate, stride, padding), kernels)
    narrowest = min(depth, features // groups) if size == 1 else depth
    if x.form == 'dense' or groups == 1 or narrowest <= DENSE_DEPTH:
        x = _join(x, multiple)
        weights = _select(_with_zeros(kernel, groups), x.channels[0], 2)
        held = _rounded(range(features), multiple)
        return Blocks((dense(x.parts[0], _select(weights, held, 3)),), (held,), x.form)
    x = _regroup(x, groups, multiple)
    parts, channels = [], []
    for group, (part, held) in enumerate(zip(x.parts, x.channels, strict=True)):
        made = _rounded(range(group * features // groups, (group + 1) * features // groups), multiple)
        rows = [PAD if channel == PAD else channel - group * depth for channel in held]
        parts.append(dense(part, _select(_select(kernel, made, 3), rows, 2)))
        channels.append(made)
    return Blocks(tuple(parts), tuple(channels), x.form)


def _convolve(x: Array, kernel: Array, rate: int, stride: int, padding: str, groups: int, form: str) -> Array:
    """Convolution of one array, by what the form's devices are fast at."""
    size = kernel.shape[0]
    margin = rate * (size // 2)
    if padding == 'reflect' and margin:
        x = _pad(x, margin, padding)
        if form == 'split' and stride == 1:  # the frame is computed too, and cut off
            return _same(x, kernel, rate)[:, margin:-margin, margin:-margin]
        return _general(x, kernel, 0, rate, stride, groups)
    if form == 'split' and stride == 1:
        return _same(x, kernel, rate)
    if size == 1 and stride == 1 and groups == 1 and form == 'plain':
        return x @ kernel[0, 0]
    return _general(x, kernel, margin, rate, stride, groups)


def _general(x: Array, kernel: Array, margin: int, rate: int, stride: int, groups: int) -> Array:
    """XLA's convolution with `margin` zeros on every side."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((margin, margin), (margin, margin)),
        rhs_dilation=(rate, rate),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups,
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _same(x: Array, kernel: Array, rate: int) -> Array:
    """Convolution of stride 1 that keeps the size, for CPUs: the only kind that XLA computes there without im2col.

    At 256x256, 68 -> 132 channels take 73 ms, and 235 ms where the input comes padded. XLA's gradient for the kernel
    transposes all images and runs on one core; `_kernel_gradient` replaces it. No forward-mode derivatives.
    """
    if kernel.shape[0] == 1:
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)
    return _general(x, kernel, rate * (kernel.shape[0] // 2), rate, 1, 1)


def _same_forward(x: Array, kernel: Array, rate: int) -> tuple[Array, tuple[Array, Array]]:
    return _same(x, kernel, rate), (x, kernel)


def _same_backward(rate: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    return _same(dy, jnp.swapaxes(kernel[::-1, ::-1], 2, 3), rate), _kernel_gradient(x, dy, kernel.shape[0], rate)


_same.defvjp(_same_forward, _same_backward)


def _kernel_gradient(x: Array, dy: Array, size: int, rate: int) -> Array:
    """Gradient (k, k, C, F) of a convolution that keeps the size, from its input and its output's gradient.

    One matrix product per tap, (F, pixels) with (pixels, C): with every image padded and written as one line of pixels,
    a tap is a shift along the line, and what is shifted is the narrower of the two. At 96x96 two to three times as fast
    as XLA's, but for few input channels, and for few outputs best with all taps side by side.
    """
    batch, height, width, depth = x.shape
    features, margin = dy.shape[-1], rate * (size // 2)
    if size == 1:
        return (x.reshape(-1, depth).T @ dy.reshape(-1, features))[None, None]
    if depth <= 8:
        kernel = jnp.zeros((size, size, depth, features), x.dtype)
        return jax.vjp(lambda kernel: _general(x, kernel, margin, rate, 1, 1), kernel)[1](dy)[0]
    taps = [rate * (i * (width + 2 * margin) + j) for i in range(size) for j in range(size)]
    reach = taps[-1]
    images = _pad(x, margin, 'zeros').reshape(batch, -1, depth)
    errors = jnp.pad(dy, ((0, 0), (0, 2 * margin), (0, 2 * margin), (0, 0))).reshape(batch, -1, features)
    length = images.shape[1]

    def product(errors: Array, images: Array) -> Array:
        return errors.reshape(-1, errors.shape[-1]).T @ images.reshape(-1, depth)

    if features < depth:
        errors = jnp.pad(errors, ((0, 0), (reach, 0), (0, 0)))
        shift = partial(lax.dynamic_slice_in_dim, errors, slice_size=length, axis=1)
        if features * size**2 <= 64:
            side_by_side = jnp.concatenate([shift(reach - tap) for tap in taps], axis=-1)
            found = product(side_by_side, images).reshape(-1, features, depth)
        else:
            found = lax.map(lambda tap: product(shift(reach - tap), images), np.asarray(taps))
    else:
        errors = errors[:, : length - reach]
        shift = partial(lax.dynamic_slice_in_dim, images, slice_size=length - reach, axis=1)
        found = lax.map(lambda tap: product(errors, shift(tap)), np.asarray(taps))
    return jnp.swapaxes(found, 1, 2).reshape(size, size, depth, features)


def _depthwise(x: Array, kernel: Array, rate: int, stride: int, padding: str) -> Array:
    """One kernel (k, k, C) per channel, as a sum of shifted and scaled images; fuses into one pass over memory."""
    size = kernel.shape[0]
    height, width = x.shape[1:3]
    x = _pad(x, rate * (size // 2), padding)
    terms = [
        x[:, rate * i : rate * i + height : stride, rate * j : rate * j + width : stride]
        * kernel[i, j].reshape(1, 1, 1, -1)
        for i in range(size)
        for j in range(size)
    ]
    return sum(terms[1:], start=terms[0])


def _pad(x: Array, margin: int, padding: str) -> Array:
    """Continues images by `margin` pixels on every side, by zeros or by reflection."""
    mode = 'reflect' if padding == 'reflect' else 'constant'
    return jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode=mode)


def _with_zeros(kernel: Array, groups: int) -> Array:
    """The dense kernel (k, k, C_in, C_out) that computes a grouped one: its blocks on the diagonal, zeros elsewhere."""
    if groups == 1:
        return kernel
    size, _, depth, features = kernel.shape
    blocks = kernel.reshape(size, size, depth, groups, features // groups)
    diagonal = np.eye(groups, dtype=kernel.dtype)
    return jnp.einsum('ijdgf,gh->ijgdhf', blocks, diagonal).reshape(size, size, groups * depth, features)


def _select(array: Array, index: Sequence[int] | np.ndarray, axis: int) -> Array:
    """The entries of one axis in the order of `index`, zeros where it says PAD."""
    index, length = np.asarray(index), array.shape[axis]
    count = int((index != PAD).sum())
    first = int(index[0])
    if first != PAD and np.array_equal(index[:count], np.arange(first, first + count)):  # a slice, then zeros
        array = array if count == length else lax.slice_in_dim(array, first, first + count, axis=axis)
        widths = [(0, len(index) - count if number == axis else 0) for number in range(array.ndim)]
        return array if count == len(index) else jnp.pad(array, widths)
    index = np.where(index == PAD, length, index)
    return jnp.take(array, index, axis=axis, mode='fill', fill_value=0, unique_indices=count == len(index))


def _rounded(channels: Sequence[int], multiple: int) -> tuple[int, ...]:
    """The channels, padded to a multiple."""
    return (*channels, *[PAD] * (-len(channels) % multiple))


def _join(x: Blocks, multiple: int) -> Blocks:
    """All parts as one, whose width is a multiple; moves data only where there are several."""
    if len(x.parts) == 1:
        return x
    held = tuple(channel for part in x.channels for channel in part)
    return _assemble(x, [tuple(range(len(held)))], multiple)


def _regroup(x: Blocks, groups: int, multiple: int) -> Blocks:
    """One part per group of channels, in whatever order within the group."""
    size = x.width // groups
    wanted = [set(range(group * size, (group + 1) * size)) for group in range(groups)]
    if [set(held) - {PAD} for held in x.channels] == wanted:
        return x
    flat = [channel for held in x.channels for channel in held]
    return _assemble(x, [[at for at, channel in enumerate(flat) if channel in group] for group in wanted], multiple)


def _assemble(x: Blocks, wanted: Sequence[Sequence[int]], multiple: int) -> Blocks:
    """New parts from the entries at ascending positions of the old ones, counted through all of them."""
    flat = [channel for held in x.channels for channel in held]
    starts = np.cumsum([0, *(len(held) for held in x.channels)])
    parts, channels = [], []
    for positions in wanted:
        pieces = []
        for number, part in enumerate(x.parts):
            inside = [at - starts[number] for at in positions if starts[number] <= at < starts[number + 1]]
            for run in np.split(np.asarray(inside, int), np.flatnonzero(np.diff(inside) != 1) + 1):
                if len(run):
                    pieces.append(part[..., run[0] : run[-1] + 1])
        held = _rounded([flat[at] for at in positions], multiple)
        if len(held) > len(positions):
            pieces.append(jnp.zeros((*x.parts[0].shape[:-1], len(held) - len(positions)), x.parts[0].dtype))
        parts.append(jnp.concatenate(pieces, axis=-1))
        channels.append(held)
    return Blocks(tuple(parts), tuple(channels), x.form)
