"""Feature maps in the order, grouping and padding that a device computes fastest, and the convolutions on them.

A feature map is a few arrays, and for each the numbers of the channels that it holds; what a number means never depends
on where it lies. So a channel shuffle only renumbers, and the kernel of the next convolution is permuted instead of the
data. Three forms compute the same network:

  plain   one array in natural order and XLA's own grouped convolution, data shuffled: the definition, slow
  split   one array per group and one convolution per group, widths rounded up with zeros: CPUs
  dense   one array, grouped kernels filled up with zeros, widths rounded up with zeros; deep groups as in split: GPUs

Why, measured on 2 CPU cores and compiled for GPUs: results/bench/README.md.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qsnet_jax import UserError, convolutions

Array = jax.Array
PAD = -1  # number of a channel that holds zeros
# Widths of arrays are multiples of these. XLA's convolution on CPUs packs its input in fours: 22 -> 22 channels run at
# 64 GFLOP/s and 24 -> 24 at 95 on one core. cuDNN's tensor-core kernels for 16-bit NHWC arrays want eights.
MULTIPLES = {'plain': 1, 'split': 4, 'dense': 8}
# In the split form, up to this many input channels a group one kernel with zeros beats one convolution per group. So it
# does for 1x1 kernels up to this many outputs a group: one product takes a fifth of what slices would.
DENSE_DEPTH = 12
# In the dense form, groups of at least so many input channels are convolved one by one: of 16 where each has its own
# array anyway, of 32 also where it must be brought there. Filled up with zeros they are bound by arithmetic.
APART_DEPTHS = (16, 32)


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
        return x.map(lambda before, change: jax.nn.relu(before + change), y)
    # A shape that XLA does not take for cheap: the sum itself it would compute anew for every reader, each time from
    # all units before (on CPUs a fifth of the time of the network).
    return x.map(lambda before, change: jnp.where(before <= -change, 0, before + change), y)


def convolve(
    x: Blocks, kernel: Array, *, groups: int = 1, rate: int = 1, stride: int = 1, padding: str = 'zeros'
) -> Blocks:
    """Convolves (B, H, W, C_in) with (k, k, C_in / groups, C_out) -> (B, H / stride, W / stride, C_out)."""
    convolution = Convolution(kernel.shape[0], kernel.shape[3], groups, rate, stride, padding)
    x = convolution.arrange(x)
    return convolution.apply(x, convolution.prepare(x, kernel))


@dataclasses.dataclass(frozen=True)
class Convolution:
    """How a convolution is computed, in steps: arrange(x), prepare(x, kernel), which needs no image, apply(x, kernels).

    Padding is rate * (size // 2) on every side, of zeros or by reflection, so that only `stride` changes the size.
    Output channels [g * features / groups, (g + 1) * features / groups) see only the g-th block of input channels.

    XLA's own grouped convolution (`feature_group_count`) is for the plain form alone: on CPUs it runs several times
    slower than the others, its weight gradient up to 200 times, and with the batch split over devices it gathers the
    whole batch.
    """

    size: int
    features: int
    groups: int = 1
    rate: int = 1
    stride: int = 1
    padding: str = 'zeros'

    def arrange(self, x: Blocks) -> Blocks:
        """The input in the arrays that are convolved."""
        if x.width % self.groups or self.features % self.groups:
            raise ValueError(
                f'convolve: {x.width} input and {self.features} output channels do not fit {self.groups} groups; both '
                'must be multiples of the number of groups.'
            )
        if x.form == 'plain':
            return of(x.array())
        if self._is_depthwise(x):
            return x
        depth = x.width // self.groups
        narrowest = min(depth, self.features // self.groups) if self.size == 1 else depth
        is_split = self.groups > 1 and _is_split(x, self.groups, narrowest)
        return _regroup(x, self.groups, MULTIPLES[x.form]) if is_split else _join(x, MULTIPLES[x.form])

    def prepare(self, x: Blocks, kernel: Array) -> tuple[Array, ...]:
        """The kernel (size, size, C_in / groups, features) as arrays that fit those of the arranged x."""
        depth = x.width // self.groups
        if kernel.shape != (self.size, self.size, depth, self.features):
            raise ValueError(
                f'convolve: {x.width} input and {self.features} output channels in {self.groups} groups do not fit a '
                f'kernel {kernel.shape}; expected {(self.size, self.size, depth, self.features)}.'
            )
        if x.form == 'plain':
            return (kernel,)
        if self._is_depthwise(x):
            return tuple(_select(kernel[:, :, 0], held, 2) for held in x.channels)
        if len(x.parts) == 1:
            kernel, depth = _with_zeros(kernel, self.groups), x.width
        kernels = []
        for number, (held, made) in enumerate(zip(x.channels, self._made(x), strict=True)):
            rows = [PAD if channel == PAD else channel - number * depth for channel in held]
            kernels.append(convolutions.stored(_select(_select(kernel, made, 3), rows, 2), x.form))
        return tuple(kernels)

    def apply(self, x: Blocks, kernels: tuple[Array, ...]) -> Blocks:
        """The arranged x convolved with prepared kernels."""
        pairs = list(zip(x.parts, kernels, strict=True))
        rate, stride, padding = self.rate, self.stride, self.padding
        if x.form != 'plain' and self._is_depthwise(x):
            parts = [convolutions.depthwise(*pair, rate, stride, padding) for pair in pairs]
            return dataclasses.replace(x, parts=tuple(parts))
        groups = self.groups if x.form == 'plain' else 1
        parts = [convolutions.convolve(*pair, rate, stride, padding, groups, x.form) for pair in pairs]
        return Blocks(tuple(parts), self._made(x), x.form)

    def _is_depthwise(self, x: Blocks) -> bool:
        return self.groups == self.features == x.width

    def _made(self, x: Blocks) -> tuple[tuple[int, ...], ...]:
        """Channels of the results of an arranged input, one per part of it."""
        count = self.features // len(x.parts)
        starts = range(0, self.features, count)
        return tuple(_rounded(range(start, start + count), MULTIPLES[x.form]) for start in starts)


def _is_split(x: Blocks, groups: int, depth: int) -> bool:
    """Whether groups of so many channels are best convolved one by one."""
    if x.form == 'split':
        return depth > DENSE_DEPTH
    return depth >= APART_DEPTHS[0 if _lies_in_groups(x, groups) else 1]


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
    held = [channel for part in x.channels for channel in part]
    return _assemble(x, [[at for at, channel in enumerate(held) if channel != PAD]], multiple)


def _regroup(x: Blocks, groups: int, multiple: int) -> Blocks:
    """One part per group of channels, in whatever order within the group."""
    if _lies_in_groups(x, groups):
        return x
    size = x.width // groups
    wanted = [range(group * size, (group + 1) * size) for group in range(groups)]
    flat = [channel for held in x.channels for channel in held]
    return _assemble(x, [[at for at, channel in enumerate(flat) if channel in group] for group in wanted], multiple)


def _lies_in_groups(x: Blocks, groups: int) -> bool:
    """Whether each part holds one group of channels, in their order."""
    size = x.width // groups
    wanted = [set(range(group * size, (group + 1) * size)) for group in range(groups)]
    return [set(held) - {PAD} for held in x.channels] == wanted


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
