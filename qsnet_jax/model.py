"""QSNet as the paper draws it (Sec. 4.1, Figs. 3 and 4): encoder, five scales, five auxiliary decoders, main decoder.

The paper leaves widths, kernel sizes and stem open. Stem, units and decoders are those of the first author's sibling
code where it has them and our reading elsewhere; widths, rates, stride, norm and sharing are fields. Full size: 0.53 M
parameters, 137 GMAC at 512x512.
"""

import math
import zlib
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from qsnet_jax import UserError, blocks, layers
from qsnet_jax.blocks import Blocks

Array = jax.Array


class Output(NamedTuple):
    """What the network predicts from rainy images I of shape (B, H, W, 3), as float32 (or float64), not clipped.

    rain: R = S(I), (B, H, W, 3); the restored image is I - R.
    aux_rain: one R_i per scale C_1, C_2, ..., each (B, H, W, 3); decoded from that scale alone, I - R_i its image.
    """

    rain: Array
    aux_rain: tuple[Array, ...]


class Decoder(nn.Module):
    """Group convolutions that share between groups by shuffling, then the rain layer; Fig. 4.

    (B, h, w, C) -> (B, h stride, w stride, 3).
    """

    widths: tuple[int, ...]
    groups: int
    stride: int
    norm: str
    share_groups: bool
    dtype: Any
    form: str = 'plain'

    @nn.compact
    def __call__(self, x: Blocks, train: bool) -> Array:
        common: dict[str, Any] = {'dtype': self.dtype, 'form': self.form}
        for number, width in enumerate(self.widths, start=1):
            x = layers.ConvNorm(width, groups=self.groups, norm=self.norm, name=f'conv_{number}', **common)(x, train)
            if self.share_groups:
                x = blocks.channel_shuffle(x, self.groups, self.form)
        x = layers.Conv(3 * self.stride**2, use_bias=True, name='rain', **common)(x)
        return layers.depth_to_space(x.array(), self.stride)


class QSNet(nn.Module):
    """Predicts the rain in (B, H, W, 3) images in [0, 1]; H and W are multiples of `encoder_stride`.

    apply(variables, images, train=False) -> Output. With train=True batch norm uses the statistics of the batch and
    `mutable=['batch_stats']` returns the updated running ones.

    channels: width of the encoder; the stem, the bottleneck and the main decoder follow from it.
    groups: of every group convolution. units: ShuffleNet units in the encoder. scale_channels: width of each scale.
    rates: of the atrous convolutions C_2, C_3, ...; C_1 is pointwise.
    encoder_stride: 1 as printed ("features keep the same size"); with 2 or 4 everything after the stem's first
        convolution runs at that fraction of the size.
    norm: 'batch', 'instance' or 'none', outside the encoder's units, which always have batch norm.
    share_groups: shuffles between the groups in all decoders. share_scales: the exchange between scales before the
        main decoder. Both False is "without sharing" of Table 5.
    dtype: of the computation, 'float32', 'bfloat16' or 'float64'; parameters and statistics are float32 at least.
    form: how it is computed, never what: 'plain', 'split', 'dense' (see `blocks`), or 'auto', the fastest here. On CPUs
        that has no forward-mode derivatives (jvp); 'dense' has.

    Raises UserError where widths do not divide into groups or the size does not suit the stride.
    """

    channels: int = 132
    groups: int = 3
    units: int = 12
    scale_channels: int = 66
    rates: tuple[int, ...] = (1, 2, 4, 6)
    encoder_stride: int = 1
    norm: str = 'batch'
    share_groups: bool = True
    share_scales: bool = True
    dtype: str = 'float32'
    form: str = 'auto'

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Output:
        self._check(images)
        form = blocks.default_form() if self.form == 'auto' else self.form
        dtype, stride = jnp.dtype(self.dtype), self.encoder_stride
        kept = layers.at_least_float32(dtype)
        images = images.astype(kept)
        common: dict[str, Any] = {'norm': self.norm, 'dtype': dtype, 'form': form}
        stem_strides = (1, min(stride, 2), stride // min(stride, 2))

        x = blocks.of(((images - 0.5) / 0.5).astype(dtype))
        widths = (self.channels // 4, self.channels // 2, self.channels)
        for number, (width, size, step) in enumerate(zip(widths, (9, 3, 3), stem_strides, strict=True), start=1):
            x = layers.ConvNorm(width, size=size, stride=step, padding='reflect', name=f'stem_{number}', **common)(
                x, train
            )
        for number in range(1, self.units + 1):
            x = layers.ShuffleUnit(self.groups, dtype, form, name=f'unit_{number}')(x, train)

        decoder: dict[str, Any] = {'groups': self.groups, 'stride': stride, 'share_groups': self.share_groups, **common}
        features, aux_rain = [], []
        for number, rate in enumerate((0, *self.rates), start=1):
            scale = layers.ConvNorm(
                self.scale_channels,
                size=3 if rate else 1,
                groups=self.groups,
                rate=rate or 1,
                name=f'C_{number}',
                **common,
            )(x, train)
            rain = Decoder((self.scale_channels, self.scale_channels // 2), name=f'A_{number}', **decoder)(scale, train)
            rain = rain.astype(kept)
            restored = layers.space_to_depth(images - rain, stride).astype(dtype)  # B_i; no stop-gradient, no clipping
            features += [scale, blocks.of(restored)]
            aux_rain.append(rain)

        x = blocks.concatenate(features)
        if self.share_scales:
            x = blocks.channel_shuffle(x, len(aux_rain), form)
        rain = Decoder(widths[::-1], name='main', **decoder)(x, train)
        return Output(rain.astype(kept), tuple(aux_rain))

    def check_settings(self) -> None:
        """Raises UserError for settings that no network can be built of."""
        if self.groups < 1 or self.units < 0 or min(self.rates, default=1) < 1:
            raise UserError(
                f'groups, units, rates are {self.groups}, {self.units}, {self.rates}; expected positive numbers.'
            )
        step = 4 * self.groups
        if self.channels % step or self.channels < step:
            raise UserError(f'channels is {self.channels}; it must be a multiple of 4 x groups = {step}.')
        if self.scale_channels % (2 * self.groups) or self.scale_channels < 2 * self.groups:
            raise UserError(f'scale_channels is {self.scale_channels}; it must be a multiple of 2 x groups.')
        merged = (len(self.rates) + 1) * (self.scale_channels + 3 * self.encoder_stride**2)
        if merged % self.groups:
            raise UserError(f'{merged} channels enter the main decoder; not a multiple of groups = {self.groups}.')
        if self.dtype not in ('float32', 'bfloat16', 'float64'):
            raise UserError(f"dtype is {self.dtype!r}; it must be 'float32', 'bfloat16' or 'float64'.")
        if self.norm not in ('batch', 'instance', 'none'):
            raise UserError(f"norm is {self.norm!r}; it must be 'batch', 'instance' or 'none'.")
        if self.encoder_stride not in (1, 2, 4):
            raise UserError(f'encoder_stride is {self.encoder_stride}; it must be 1, 2 or 4.')

    def check_size(self, height: int, width: int) -> None:
        """Raises UserError for an image size that does not suit the stride."""
        if height % self.encoder_stride or width % self.encoder_stride:
            raise UserError(
                f'images are {height}x{width}; both must be multiples of encoder_stride = {self.encoder_stride}. '
                'Pad them first, as qsnet_jax.derain does.'
            )

    def _check(self, images: Array) -> None:
        """Refuses what the network cannot be built or run with."""
        self.check_settings()
        if self.dtype == 'float64' and not jax.config.values['jax_enable_x64']:
            raise UserError("dtype is 'float64', which JAX computes only where JAX_ENABLE_X64=1 is set.")
        if images.ndim != 4 or images.shape[-1] != 3 or not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(f'images are {images.dtype} {images.shape}; expected floats in [0, 1] of (B, H, W, 3).')
        self.check_size(*images.shape[1:3])


def shapes(network: QSNet) -> dict[str, Any]:
    """Shape and type of every variable, as {'params': ..., 'batch_stats': ...}, without computing anything."""
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return dict(jax.eval_shape(network.init, jax.random.key(0), images))


def initialize(network: QSNet, seed: int) -> dict[str, Any]:
    """Initial variables as NumPy arrays: Xavier-uniform kernels, each a function of (seed, its path, its shape).

    The same distribution as `network.init`, but a parameter is the same in every network that has it, on every device,
    and nothing is compiled: `init` takes 16 s to compile on two CPU cores.
    """

    dtype = layers.at_least_float32(network.dtype)  # also of running statistics, which Flax would start as float32

    def draw(path: tuple[Any, ...], like: Any) -> np.ndarray:
        if path[-1] != 'kernel':
            return np.full(like.shape, path[-1] in ('scale', 'var'), dtype)
        generator = np.random.Generator(np.random.Philox(key=(seed, zlib.crc32('/'.join(path).encode()))))
        fan = like.shape[0] * like.shape[1] * (like.shape[2] + like.shape[3])
        return (generator.uniform(-1, 1, like.shape) * math.sqrt(6 / fan)).astype(dtype)

    return dict(flax.traverse_util.path_aware_map(draw, shapes(network)))


def multiply_adds(network: QSNet, height: int, width: int) -> int:
    """Multiply-adds of one image's forward pass: every kernel weight times the pixels it is applied to.

    137e9 for the full size at 512x512; norms and activations do not count.
    """
    kernels = {
        path: math.prod(value.shape)
        for path, value in flax.traverse_util.flatten_dict(shapes(network)['params'], sep='/').items()
        if path.endswith('kernel')
    }
    half = min(network.encoder_stride, 2)
    steps = {'stem_1': 1, 'stem_2': half}
    return sum(
        weights * (height * width) // steps.get(path.split('/')[0], network.encoder_stride) ** 2
        for path, weights in kernels.items()
    )


def receptive_radius(model: QSNet) -> int:
    """Pixels to each side of a pixel that its rain depends on: 31 at full size. The halo that tiles need.

    Raises UserError for instance norm, where every pixel depends on the whole image.
    """
    if model.norm == 'instance':
        raise UserError('With instance norm every pixel depends on the whole image: it cannot be cut into tiles.')
    stem = 4 + 1 + min(model.encoder_stride, 2)  # 9x9 and 3x3 at full size, 3x3 after the first stride
    coarse = model.units + max(model.rates, default=0) + 3 + 4  # auxiliary decoders have 3 convolutions, the main one 4
    return stem + model.encoder_stride * coarse + model.encoder_stride - 1


def from_config(settings: Any) -> QSNet:
    """The network of `config.model`, or of the settings stored with weights (any mapping of QSNet's fields)."""
    settings = dict(settings)
    return QSNet(**{**settings, 'rates': tuple(settings['rates'])})
