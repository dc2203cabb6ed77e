"""Building blocks of QSNet: grouped, atrous and depthwise convolution, norm, ShuffleNet unit.

Modules take and give feature maps as `blocks.Blocks`, (B, H, W, C) in whatever layout suits the device.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from qsnet_jax import UserError, blocks
from qsnet_jax.blocks import Blocks

Array = jax.Array
BATCH_NORM_MOMENTUM = 0.9  # running = 0.9 running + 0.1 batch; PyTorch writes the same rule as momentum=0.1
EPSILON = 1e-5  # of both norms


def at_least_float32(dtype: Any) -> jnp.dtype:
    """What parameters, statistics and outputs are kept in when the computation is in `dtype`."""
    return jnp.dtype('float64' if dtype == 'float64' else 'float32')


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


@partial(jax.jit, static_argnums=(1, 2))  # traced once for each shape
def xavier_uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Initial kernels."""
    return nn.initializers.xavier_uniform()(key, shape, dtype)


def parameter(module: nn.Module, name: str, initial: Callable, shape: tuple[int, ...], dtype: Any) -> Array:
    """`module.param`, which traces how a parameter begins also where it is there: that is a fifth of a trace."""
    given: Any = module.get_variable('params', name)
    if given is not None and jnp.shape(given) == shape:
        return given
    return module.param(name, initial, shape, dtype)


class BatchNorm(nn.Module):
    """Statistics, scale and bias of batch norm: those of the global batch in training, running ones otherwise.

    Both variances are the biased ones; running = 0.9 running + 0.1 batch.
    """

    features: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        kept, shape = at_least_float32(self.dtype), (self.features,)
        self.scale = parameter(self, 'scale', nn.initializers.ones_init(), shape, kept)
        self.bias = parameter(self, 'bias', nn.initializers.zeros_init(), shape, kept)
        self.mean = self.variable('batch_stats', 'mean', jnp.zeros, shape, kept)
        self.var = self.variable('batch_stats', 'var', jnp.ones, shape, kept)

    def folded(self) -> tuple[Array, Array]:
        """Factor and addend per channel, (C,) each, that inference comes down to."""
        factor = self.scale * lax.rsqrt(self.var.value + EPSILON)
        return factor, self.bias - self.mean.value * factor

    def __call__(self, x: Blocks) -> Blocks:
        """Normalises by the batch, and moves the running statistics where they are mutable."""
        mean, variance = _moments(x, (0, 1, 2))
        if not self.is_initializing() and self.is_mutable_collection('batch_stats'):
            for variable, values in ((self.mean, mean), (self.var, variance)):
                natural = values.array().reshape(-1)
                variable.value = BATCH_NORM_MOMENTUM * variable.value + (1 - BATCH_NORM_MOMENTUM) * natural
        return _standardize(x, mean, variance, self.scale, self.bias)


class InstanceNorm(nn.Module):
    """Normalises every channel of every image by itself, then scale and bias per channel."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Blocks) -> Blocks:
        kept, shape = at_least_float32(self.dtype), (self.features,)
        scale = parameter(self, 'scale', nn.initializers.ones_init(), shape, kept)
        bias = parameter(self, 'bias', nn.initializers.zeros_init(), shape, kept)
        return _standardize(x, *_moments(x, (1, 2)), scale, bias)


def _moments(x: Blocks, axes: tuple[int, ...]) -> tuple[Blocks, Blocks]:
    """Mean and biased variance over some axes, which stay with length 1, in float32 at least."""
    x = x.map(lambda part: part.astype(at_least_float32(part.dtype)))
    mean = x.map(lambda part: jnp.mean(part, axes, keepdims=True))
    square = x.map(lambda part: jnp.mean(jnp.square(part), axes, keepdims=True))  # one pass over memory with the mean
    return mean, square.map(lambda square, mean: jnp.maximum(square - jnp.square(mean), 0.0), mean)


def _standardize(x: Blocks, mean: Blocks, variance: Blocks, scale: Array, bias: Array) -> Blocks:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, computed in the precision of the statistics."""

    def standardize(part: Array, mean: Array, variance: Array, factor: Array, addend: Array) -> Array:
        return ((part - mean) * (lax.rsqrt(variance + EPSILON) * factor) + addend).astype(part.dtype)

    return x.map(standardize, mean, variance, x.spread(scale), x.spread(bias))


def _shift(x: Blocks, addend: Blocks) -> Blocks:
    """Adds a `spread` value per channel."""
    return x.map(lambda part, shift: part + shift.astype(part.dtype), addend)


class Norm(nn.Module):
    """Normalises (B, H, W, C) over the batch, over each image, or not at all; then scale and bias per channel.

    kind: 'batch' (statistics of the global batch in training, running ones otherwise), 'instance', or 'none'
    (only a bias, which the convolutions of this network leave out).
    """

    kind: str
    features: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        if self.kind == 'batch':
            self.batch = BatchNorm(self.features, self.dtype)
        elif self.kind == 'instance':
            self.instance = InstanceNorm(self.features, self.dtype)
        elif self.kind == 'none':
            kept = at_least_float32(self.dtype)
            self.bias = parameter(self, 'bias', nn.initializers.zeros_init(), (self.features,), kept)
        else:
            raise UserError(f"norm is {self.kind!r}; it must be 'batch', 'instance' or 'none'.")

    def folded(self) -> tuple[Array, Array]:
        """Factor and addend per channel that inference comes down to; not for 'instance'."""
        return self.batch.folded() if self.kind == 'batch' else (jnp.ones_like(self.bias), self.bias)

    def __call__(self, x: Blocks) -> Blocks:
        """Normalises as in training."""
        if self.kind == 'none':
            return _shift(x, x.spread(self.bias))
        return self.batch(x) if self.kind == 'batch' else self.instance(x)


class Conv(nn.Module):
    """`blocks.Convolution` with a Xavier-initialised kernel; (B, H, W, C) -> (B, H / stride, W / stride, features).

    What it computes with, kernel and bias folded and laid out for the device, may be given instead of parameters as the
    collection 'prepared', and is written there where that is mutable; see `model.prepare`.
    """

    features: int
    size: int = 3
    groups: int = 1
    rate: int = 1
    stride: int = 1
    padding: str = 'zeros'
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Blocks, fold: Callable[[], tuple[Array, Array]] | None = None) -> Blocks:
        """fold: says by what the kernel is multiplied and what is added, per output channel, (features,) each."""
        convolution = blocks.Convolution(self.size, self.features, self.groups, self.rate, self.stride, self.padding)
        x = convolution.arrange(x.map(lambda part: part.astype(self.dtype)))
        addends: tuple[Array, ...]
        if self.has_variable('prepared', 'kernels'):
            kernels: tuple[Array, ...] = self.get_variable('prepared', 'kernels')
            addends = self.get_variable('prepared', 'addends')
            y = convolution.apply(x, kernels)
        else:
            kernel, addend = self._parameters(x.width, fold)
            kernels = convolution.prepare(x, kernel.astype(self.dtype))
            y = convolution.apply(x, kernels)
            addends = () if addend is None else y.spread(addend.astype(self.dtype)).parts
            if self.is_mutable_collection('prepared') and not self.is_initializing():
                self.put_variable('prepared', 'kernels', kernels)
                self.put_variable('prepared', 'addends', addends)
        return _shift(y, dataclasses.replace(y, parts=addends)) if addends else y

    def _parameters(self, width: int, fold: Callable[[], tuple[Array, Array]] | None) -> tuple[Array, Array | None]:
        """Kernel and addend of a convolution of so many channels."""
        shape = (self.size, self.size, width // self.groups, self.features)
        kept = at_least_float32(self.dtype)
        kernel = parameter(self, 'kernel', xavier_uniform, shape, kept)
        if fold is not None:
            factor, addend = fold()
            return kernel * factor.reshape(1, 1, 1, -1), addend
        bias = parameter(self, 'bias', nn.initializers.zeros_init(), (self.features,), kept) if self.use_bias else None
        return kernel, bias


class ConvNorm(nn.Module):
    """Convolution, norm and an optional ReLU; (B, H, W, C) -> (B, H / stride, W / stride, features).

    In inference, batch norm is folded into the kernel.
    """

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
    def __call__(self, x: Blocks, train: bool) -> Blocks:
        convolve = Conv(
            self.features,
            self.size,
            self.groups,
            self.rate,
            self.stride,
            self.padding,
            dtype=self.dtype,
            name='conv',
        )
        norm = Norm(self.norm, self.features, self.dtype, name='norm')
        is_folded = not train and self.norm != 'instance'  # which depends on the image
        x = convolve(x, norm.folded) if is_folded else norm(convolve(x))
        return x if self.activation is None else x.map(self.activation)


class ShuffleUnit(nn.Module):
    """ShuffleNet-v1 unit of stride 1, (B, H, W, C) -> same; 1707.01083, Fig. 2 (b), bottleneck C / 4.

    Its norm is batch norm whatever the network uses elsewhere, and its shuffle stays when sharing is switched off.
    """

    groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Blocks, train: bool) -> Blocks:
        width = x.width // 4
        y = ConvNorm(width, size=1, groups=self.groups, dtype=self.dtype, name='reduce')(x, train)
        y = blocks.channel_shuffle(y, self.groups)
        y = ConvNorm(width, groups=width, activation=None, dtype=self.dtype, name='depthwise')(y, train)
        y = ConvNorm(x.width, size=1, groups=self.groups, activation=None, dtype=self.dtype, name='expand')(y, train)
        return blocks.add_and_rectify(x, y)
