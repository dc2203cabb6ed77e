"""Building blocks of QSNet: grouped, atrous and depthwise convolution, channel shuffle, norm, ShuffleNet unit.

Arrays are (B, H, W, C). Every convolution of the network goes through `convolve`, which fixes padding and precision
in one place and chooses how a grouped kernel is computed.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qsnet_jax import UserError

Array = jax.Array
BATCH_NORM_MOMENTUM = 0.9  # running = 0.9 running + 0.1 batch; PyTorch writes the same rule as momentum=0.1
BATCH_NORM_EPSILON = 1e-5
INSTANCE_NORM_EPSILON = 1e-5
# Up to this many input channels a group, one dense kernel with zeros beats one convolution per group. Training step on
# 2 CPU cores, 8 x 64 x 64: at 24 channels (4 to 21 a group) 320 against 390 ms, at 36 channels 520 against 610.
DENSE_DEPTH = 12


def channel_shuffle(x: Array, groups: int) -> Array:
    """Interleaves `groups` equal blocks of channels, (..., C) -> (..., C); ShuffleNet (1707.01083), Fig. 1.

    Output channel j * groups + g is input channel g * (C / groups) + j. Shuffling by C / groups undoes it.
    """
    channels = x.shape[-1]
    if channels % groups:
        raise ValueError(f'channel_shuffle: {channels} channels cannot be split into {groups} equal groups.')
    x = x.reshape(*x.shape[:-1], groups, channels // groups)
    return jnp.swapaxes(x, -1, -2).reshape(*x.shape[:-2], channels)


def convolve(
    x: Array, kernel: Array, *, groups: int = 1, rate: int = 1, stride: int = 1, padding: str = 'zeros'
) -> Array:
    """Convolves (B, H, W, C_in) with (k, k, C_in / groups, C_out), k odd -> (B, H / stride, W / stride, C_out).

    Padding is rate * (k // 2) on every side, of zeros or by reflection, so that only `stride` changes the size.
    Output channels [g * C_out / groups, (g + 1) * C_out / groups) see only the g-th block of input channels.

    XLA's own grouped convolution (`feature_group_count`) is avoided: on CPUs it runs several times slower than the
    forms below, its weight gradient up to 200 times, and with the batch split over devices it gathers the whole batch.
    """
    size, _, depth, features = kernel.shape
    if depth * groups != x.shape[-1] or features % groups:
        raise ValueError(
            f'convolve: {x.shape[-1]} input and {features} output channels do not fit {groups} groups of a kernel '
            f'{kernel.shape}; both must be multiples of the number of groups.'
        )
    margin = rate * (size // 2)
    if padding == 'reflect' and margin:
        x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode='reflect')
        margin = 0
    if groups == 1:
        return _dense(x, kernel, margin, rate, stride)
    if depth == 1 and features == groups:
        return _depthwise(x, kernel, margin, rate, stride)
    if size == 1 and stride == 1:
        return x @ _with_zeros(kernel, groups)[0, 0]
    if depth <= DENSE_DEPTH:
        return _dense(x, _with_zeros(kernel, groups), margin, rate, stride)
    outputs = [
        _dense(part, weights, margin, rate, stride)
        for part, weights in zip(jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), strict=True)
    ]
    return jnp.concatenate(outputs, axis=-1)


def _dense(x: Array, kernel: Array, margin: int, rate: int, stride: int) -> Array:
    """Ordinary convolution, zero-padded by `margin` on every side."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((margin, margin), (margin, margin)),
        rhs_dilation=(rate, rate),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )


def _depthwise(x: Array, kernel: Array, margin: int, rate: int, stride: int) -> Array:
    """One kernel per channel, as a sum of shifted and scaled images; fuses into one pass over memory."""
    size = kernel.shape[0]
    x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    height, width = (extent - rate * (size - 1) for extent in x.shape[1:3])
    terms = [
        x[:, rate * i : rate * i + height : stride, rate * j : rate * j + width : stride] * _channelwise(kernel[i, j])
        for i in range(size)
        for j in range(size)
    ]
    return sum(terms[1:], start=terms[0])


def _with_zeros(kernel: Array, groups: int) -> Array:
    """The dense kernel (k, k, C_in, C_out) that computes a grouped one: its blocks on the diagonal, zeros elsewhere."""
    size, _, depth, features = kernel.shape
    blocks = kernel.reshape(size, size, depth, groups, features // groups)
    diagonal = np.eye(groups, dtype=kernel.dtype)
    return jnp.einsum('ijdgf,gh->ijgdhf', blocks, diagonal).reshape(size, size, groups * depth, features)


def at_least_float32(dtype: Any) -> jnp.dtype:
    """What parameters, statistics and outputs are kept in when the computation is in `dtype`."""
    return jnp.dtype('float64' if dtype == 'float64' else 'float32')


def _channelwise(values: Array) -> Array:
    """C values as (1, 1, 1, C), to meet (B, H, W, C) without implicit rank promotion."""
    return values.reshape(1, 1, 1, -1)


def space_to_depth(x: Array, stride: int) -> Array:
    """(B, H, W, C) -> (B, H / stride, W / stride, stride^2 C); channel (i * stride + j) * C + c is offset (i, j)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // stride, stride, width // stride, stride, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // stride, width // stride, stride * stride * channels)


def depth_to_space(x: Array, stride: int) -> Array:
    """(B, H, W, stride^2 C) -> (B, H stride, W stride, C); undoes `space_to_depth`."""
    batch, height, width, depth = x.shape
    x = x.reshape(batch, height, width, stride, stride, depth // stride**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * stride, width * stride, depth // stride**2)


class Norm(nn.Module):
    """Normalises (B, H, W, C) over the batch, over each image, or not at all; then scale and bias per channel.

    kind: 'batch' (statistics of the global batch in training, running ones otherwise), 'instance', or 'none'
    (only a bias, which the convolutions of this network leave out).
    """

    kind: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        if self.kind == 'batch':
            return nn.BatchNorm(
                use_running_average=not train,
                momentum=BATCH_NORM_MOMENTUM,
                epsilon=BATCH_NORM_EPSILON,
                dtype=self.dtype,
                param_dtype=at_least_float32(self.dtype),
                name='batch',
            )(x)
        if self.kind == 'instance':
            return nn.InstanceNorm(
                epsilon=INSTANCE_NORM_EPSILON,
                dtype=self.dtype,
                param_dtype=at_least_float32(self.dtype),
                name='instance',
            )(x)
        if self.kind == 'none':
            bias = self.param('bias', nn.initializers.zeros_init(), (x.shape[-1],), at_least_float32(self.dtype))
            return x + _channelwise(bias.astype(x.dtype))
        raise UserError(f"norm is {self.kind!r}; it must be 'batch', 'instance' or 'none'.")


class Conv(nn.Module):
    """`convolve` with its own Xavier-initialised kernel; (B, H, W, C) -> (B, H / stride, W / stride, features)."""

    features: int
    size: int = 3
    groups: int = 1
    rate: int = 1
    stride: int = 1
    padding: str = 'zeros'
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.size, self.size, x.shape[-1] // self.groups, self.features)
        kept = at_least_float32(self.dtype)
        kernel = self.param('kernel', nn.initializers.xavier_uniform(), shape, kept)
        y = convolve(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            groups=self.groups,
            rate=self.rate,
            stride=self.stride,
            padding=self.padding,
        )
        if self.use_bias:
            bias = self.param('bias', nn.initializers.zeros_init(), (self.features,), kept)
            y = y + _channelwise(bias.astype(self.dtype))
        return y


class ConvNorm(nn.Module):
    """Convolution, norm and an optional ReLU; (B, H, W, C) -> (B, H / stride, W / stride, features)."""

    features: int
    size: int = 3
    groups: int = 1
    rate: int = 1
    stride: int = 1
    padding: str = 'zeros'
    norm: str = 'batch'
    activation: Callable[[Array], Array] | None = nn.relu
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = Conv(
            self.features, self.size, self.groups, self.rate, self.stride, self.padding, dtype=self.dtype, name='conv'
        )(x)
        x = Norm(self.norm, self.dtype, name='norm')(x, train)
        return x if self.activation is None else self.activation(x)


class ShuffleUnit(nn.Module):
    """ShuffleNet-v1 unit of stride 1, (B, H, W, C) -> same; 1707.01083, Fig. 2 (b), bottleneck C / 4.

    Its norm is batch norm whatever the network uses elsewhere, and its shuffle stays when sharing is switched off.
    """

    groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        channels = x.shape[-1]
        width = channels // 4
        y = ConvNorm(width, size=1, groups=self.groups, dtype=self.dtype, name='reduce')(x, train)
        y = channel_shuffle(y, self.groups)
        y = ConvNorm(width, groups=width, activation=None, dtype=self.dtype, name='depthwise')(y, train)
        y = ConvNorm(channels, size=1, groups=self.groups, activation=None, dtype=self.dtype, name='expand')(y, train)
        return nn.relu(x + y)
