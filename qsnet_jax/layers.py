"""Building blocks of QSNet: grouped, atrous and depthwise convolution, norm, ShuffleNet unit.

Modules take and give feature maps as `blocks.Blocks`; `form` says how they compute, never what.
"""

from collections.abc import Callable
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


class BatchNorm(nn.Module):
    """Statistics, scale and bias of batch norm: those of the global batch in training, running ones otherwise.

    Both variances are the biased ones; running = 0.9 running + 0.1 batch.
    """

    features: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        kept, shape = at_least_float32(self.dtype), (self.features,)
        self.scale = self.param('scale', nn.initializers.ones_init(), shape, kept)
        self.bias = self.param('bias', nn.initializers.zeros_init(), shape, kept)
        self.mean = self.variable('batch_stats', 'mean', jnp.zeros, shape, kept)
        self.var = self.variable('batch_stats', 'var', jnp.ones, shape, kept)

    def folded(self) -> tuple[Array, Array]:
        """Factor and addend per channel, (C,) each, that inference comes down to."""
        factor = self.scale * lax.rsqrt(self.var.value + EPSILON)
        return factor, self.bias - self.mean.value * factor

    def __call__(self, x: Blocks) -> Blocks:
        """Normalises by the batch, and moves the running statistics where they are mutable."""
        means, variances = zip(*(_moments(part, (0, 1, 2)) for part in x.parts), strict=True)
        if not self.is_initializing() and self.is_mutable_collection('batch_stats'):
            for variable, values in ((self.mean, means), (self.var, variances)):
                natural = Blocks(values, x.channels).array().reshape(-1)
                variable.value = BATCH_NORM_MOMENTUM * variable.value + (1 - BATCH_NORM_MOMENTUM) * natural
        return _standardize(x, means, variances, self.scale, self.bias)


class InstanceNorm(nn.Module):
    """Normalises every channel of every image by itself, then scale and bias per channel."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Blocks) -> Blocks:
        kept, shape = at_least_float32(self.dtype), (self.features,)
        scale = self.param('scale', nn.initializers.ones_init(), shape, kept)
        bias = self.param('bias', nn.initializers.zeros_init(), shape, kept)
        means, variances = zip(*(_moments(part, (1, 2)) for part in x.parts), strict=True)
        return _standardize(x, means, variances, scale, bias)


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and biased variance over some axes, which stay with length 1, in float32 at least."""
    x = x.astype(at_least_float32(x.dtype))
    mean = jnp.mean(x, axes, keepdims=True)
    variance = jnp.mean(jnp.square(x), axes, keepdims=True) - jnp.square(mean)  # one pass over memory
    return mean, jnp.maximum(variance, 0.0)


def _standardize(x: Blocks, means: Any, variances: Any, scale: Array, bias: Array) -> Blocks:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, computed in the precision of the statistics."""
    parts = [
        ((part - mean) * (lax.rsqrt(variance + EPSILON) * factor) + addend).astype(part.dtype)
        for part, mean, variance, factor, addend in zip(
            x.parts, means, variances, x.spread(scale), x.spread(bias), strict=True
        )
    ]
    return Blocks(tuple(parts), x.channels)


def _shift(x: Blocks, addend: Array) -> Blocks:
    """Adds one value per channel, (C,)."""
    shifts = x.spread(addend.astype(x.parts[0].dtype))
    return Blocks(tuple(part + shift for part, shift in zip(x.parts, shifts, strict=True)), x.channels)


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
            self.bias = self.param('bias', nn.initializers.zeros_init(), (self.features,), kept)
        else:
            raise UserError(f"norm is {self.kind!r}; it must be 'batch', 'instance' or 'none'.")

    def folded(self) -> tuple[Array, Array] | None:
        """Factor and addend per channel that inference comes down to, or None where it depends on the image."""
        if self.kind == 'instance':
            return None
        return self.batch.folded() if self.kind == 'batch' else (jnp.ones_like(self.bias), self.bias)

    def __call__(self, x: Blocks) -> Blocks:
        """Normalises as in training."""
        if self.kind == 'none':
            return _shift(x, self.bias)
        return self.batch(x) if self.kind == 'batch' else self.instance(x)


class Conv(nn.Module):
    """`blocks.convolve` with a Xavier-initialised kernel; (B, H, W, C) -> (B, H / stride, W / stride, features)."""

    features: int
    size: int = 3
    groups: int = 1
    rate: int = 1
    stride: int = 1
    padding: str = 'zeros'
    use_bias: bool = False
    dtype: Any = jnp.float32
    form: str = 'plain'
    in_one: bool = False

    @nn.compact
    def __call__(self, x: Blocks, factor: Array | None = None) -> Blocks:
        """factor: multiplies the kernel per output channel, (features,)."""
        shape = (self.size, self.size, x.width // self.groups, self.features)
        kept = at_least_float32(self.dtype)
        kernel = self.param('kernel', nn.initializers.xavier_uniform(), shape, kept)
        if factor is not None:
            kernel = kernel * factor.reshape(1, 1, 1, -1)
        y = blocks.convolve(
            x.map(lambda part: part.astype(self.dtype)),
            kernel.astype(self.dtype),
            groups=self.groups,
            rate=self.rate,
            stride=self.stride,
            padding=self.padding,
            form=self.form,
            in_one=self.in_one,
        )
        if self.use_bias:
            y = _shift(y, self.param('bias', nn.initializers.zeros_init(), (self.features,), kept))
        return y


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
    form: str = 'plain'
    in_one: bool = False

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
            form=self.form,
            in_one=self.in_one,
            name='conv',
        )
        norm = Norm(self.norm, self.features, self.dtype, name='norm')
        folded = None if train else norm.folded()
        x = norm(convolve(x)) if folded is None else _shift(convolve(x, folded[0]), folded[1])
        return x if self.activation is None else x.map(self.activation)


class ShuffleUnit(nn.Module):
    """ShuffleNet-v1 unit of stride 1, (B, H, W, C) -> same; 1707.01083, Fig. 2 (b), bottleneck C / 4.

    Its norm is batch norm whatever the network uses elsewhere, and its shuffle stays when sharing is switched off.
    """

    groups: int
    dtype: Any = jnp.float32
    form: str = 'plain'

    @nn.compact
    def __call__(self, x: Blocks, train: bool) -> Blocks:
        width = x.width // 4
        # All in one array: of small 1x1 groups, one matrix product with zeros takes a fifth of what slices would.
        common: dict[str, Any] = {'dtype': self.dtype, 'form': self.form, 'in_one': True}
        y = ConvNorm(width, size=1, groups=self.groups, name='reduce', **common)(x, train)
        y = blocks.channel_shuffle(y, self.groups, self.form)
        y = ConvNorm(width, groups=width, activation=None, name='depthwise', **common)(y, train)
        y = ConvNorm(x.width, size=1, groups=self.groups, activation=None, name='expand', **common)(y, train)
        if x.channels != y.channels:
            raise ValueError('ShuffleUnit: what is added lies in another order; give it one array in natural order.')
        before, change = x.parts[0], y.parts[0]
        # relu(before + change), in a shape that XLA does not take for cheap: the sum itself it would compute anew for
        # every reader, each time from all units before (on CPUs a fifth of the time of the network).
        return Blocks((jnp.where(before <= -change, 0, before + change),), x.channels)
