"""QSNet after Sec. 4.1 of the paper: encoder, five scales, five auxiliary decoders, main decoder.

The paper leaves widths, kernel sizes and stem open, and the words inside its Figs. 3 to 5 were not read. Stem, units
and decoders are those of the first author's sibling code where it has them and our reading elsewhere (FIDELITY.md);
widths, rates, stride, norm and sharing are fields. Full size: 0.53 M parameters, 137 GMAC at 512x512.
"""

import dataclasses
import math
import zlib
from functools import partial
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from qsnet_jax import UserError, blocks, fields, layers
from qsnet_jax.blocks import Blocks

Array = jax.Array
# Settings of `dtype`: what arrays are computed in, and the precision of products on cards that have a choice.
DTYPES = {
    'float32': ('float32', 'highest'),
    'tf32': ('float32', 'tensorfloat32'),
    'bfloat16': ('bfloat16', 'default'),
    'float64': ('float64', 'highest'),
}
EXCHANGES = ('features', 'all', 'none')


class Output(NamedTuple):
    """What the network predicts from rainy images I of shape (B, H, W, 3), as float32 (or float64), not clipped.

    rain: R = S(I), (B, H, W, 3); the restored image is I - R.
    aux_rain: one R_i per scale C_1, C_2, ..., each (B, H, W, 3); decoded from that scale alone, I - R_i its image.
    """

    rain: Array
    aux_rain: tuple[Array, ...]


class Decoder(nn.Module):
    """Group convolutions that share between groups by shuffling, then the rain layer; after Sec. 4.1.

    (B, h, w, C) -> (B, h stride, w stride, 3).
    """

    widths: tuple[int, ...]
    groups: int
    stride: int
    norm: str
    share_groups: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Blocks, train: bool) -> Array:
        for number, width in enumerate(self.widths, start=1):
            convolve = layers.ConvNorm(
                width, groups=self.groups, norm=self.norm, dtype=self.dtype, name=f'conv_{number}'
            )
            x = convolve(x, train)
            if self.share_groups:
                x = blocks.channel_shuffle(x, self.groups)
        x = layers.Conv(3 * self.stride**2, use_bias=True, dtype=self.dtype, name='rain')(x)
        return layers.depth_to_space(x.array(), self.stride)


class QSNet(nn.Module):
    """Predicts the rain in (B, H, W, 3) images in [0, 1]; H and W are multiples of `encoder_stride`.

    apply(variables, images, train=False) -> Output. With train=True batch norm uses the statistics of the batch and
    `mutable=['batch_stats']` returns the updated running ones.

    channels: width of the encoder; the stem, the bottleneck and the main decoder follow from it.
    groups: of every group convolution. decoder_groups: of those in the decoders, `groups` where it is None; 1 gives
        decoders without groups.
    units: ShuffleNet units in the encoder. scale_channels: width of each scale.
    rates: of the atrous convolutions C_2, C_3, ...; C_1 is pointwise.
    encoder_stride: 1 as printed ("features keep the same size"); with 2 or 4 everything after the stem's first
        convolution runs at that fraction of the size.
    norm: 'batch', 'instance' or 'none', outside the encoder's units, which always have batch norm.
    share_groups: shuffles between the groups in all decoders.
    share_scales: the exchange between scales before the main decoder, see `exchange`. 'none' with
        share_groups=False, or decoder_groups=1, are the two readings of "without sharing" in Table 5.
    dtype: of the computation, 'float32', 'tf32' (float32 whose products a GPU rounds to 10 bits), 'bfloat16' or
        'float64'; parameters and statistics are float32 at least.
    form: how it is computed, never what: 'plain', 'split', 'dense' (see `blocks`), or 'auto', the fastest here. On CPUs
        that has no forward-mode derivatives (jvp); 'dense' has. 'fused' is 'dense' with each unit as one launch where
        weights are prepared and groups are narrow (see `fused`): fewer bytes as compiled, and not timed yet.
    remat: as little how, not what: gradients compute the encoder's units anew instead of keeping what they computed.

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
    share_scales: str = 'features'
    decoder_groups: int | None = None
    dtype: str = 'float32'
    form: str = 'auto'
    remat: bool = False

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Output:
        self._check(images)
        with jax.default_matmul_precision(DTYPES[self.dtype][1]):
            return self._predict(images.astype(layers.at_least_float32(self.dtype)), train)

    def _predict(self, images: Array, train: bool) -> Output:
        """Encoder, scales with their decoders, exchange, main decoder."""
        dtype, stride = jnp.dtype(DTYPES[self.dtype][0]), self.encoder_stride
        common: dict[str, Any] = {'norm': self.norm, 'dtype': dtype}
        widths = (self.channels // 4, self.channels // 2, self.channels)
        strides = (1, min(stride, 2), stride // min(stride, 2))

        form = 'dense' if self.form == 'fused' else self.form
        x = blocks.of(((images - 0.5) / 0.5).astype(dtype), form)
        for number, (width, size, step) in enumerate(zip(widths, (9, 3, 3), strides, strict=True), start=1):
            stem = layers.ConvNorm(width, size=size, stride=step, padding='reflect', name=f'stem_{number}', **common)
            x = stem(x, train)
        x = self._encode(x, dtype, train)

        groups = self.decoder_groups or self.groups
        decoder: dict[str, Any] = {'groups': groups, 'stride': stride, 'share_groups': self.share_groups, **common}
        features, restored, aux_rain = [], [], []
        for number, rate in enumerate((0, *self.rates), start=1):
            scale = layers.ConvNorm(
                self.scale_channels,
                size=3 if rate else 1,
                groups=self.groups,
                rate=rate or 1,
                name=f'C_{number}',
                **common,
            )
            features.append(scale(x, train))
            auxiliary = Decoder((self.scale_channels, self.scale_channels // 2), name=f'A_{number}', **decoder)
            rain = auxiliary(features[-1], train).astype(images.dtype)
            image = layers.space_to_depth(images - rain, stride).astype(dtype)  # B_i; no stop-gradient, no clipping
            restored.append(blocks.of(image, form))
            aux_rain.append(rain)

        x = exchange(features, restored, self.share_scales, groups)
        rain = Decoder(widths[::-1], name='main', **decoder)(x, train)
        return Output(rain.astype(images.dtype), tuple(aux_rain))

    def _encode(self, x: Blocks, dtype: Any, train: bool) -> Blocks:
        """The ShuffleNet units."""
        weights = self._weights_of_launches()
        if weights:
            from qsnet_jax import fused  # which not every start needs

            return x.map(lambda part: fused.units(part, weights))
        unit = nn.remat(layers.ShuffleUnit, static_argnums=(2,)) if self.remat else layers.ShuffleUnit
        for number in range(1, self.units + 1):
            x = unit(self.groups, dtype, name=f'unit_{number}')(x, train)
        return x

    def _weights_of_launches(self) -> list[dict[str, Any]]:
        """What is prepared of each unit, if all are to be one launch each; wide groups are several kernels, and not."""
        if self.form != 'fused' or 'prepared' not in self.variables or self.is_mutable_collection('prepared'):
            return []
        given = self.variables['prepared']
        weights = [given[f'unit_{number}'] for number in range(1, self.units + 1)]
        kernels = [convolution['conv']['kernels'] for unit in weights for convolution in unit.values()]
        return weights if all(len(each) == 1 for each in kernels) else []

    def check_settings(self) -> None:
        """Raises UserError for settings that no network can be built of."""
        if not all(isinstance(rate, int) for rate in self.rates):
            raise UserError(f'rates is {self.rates}; expected whole numbers, as (1, 2, 4, 6).')
        for name in ('channels', 'groups', 'units', 'scale_channels', 'encoder_stride'):
            if not isinstance(getattr(self, name), int):
                raise UserError(f'{name} is {getattr(self, name)!r}; expected a whole number (int).')
        if self.groups < 1 or self.units < 0 or min(self.rates, default=1) < 1:
            raise UserError(
                f'groups, units, rates are {self.groups}, {self.units}, {self.rates}; expected positive numbers.'
            )
        step = 4 * self.groups
        if self.channels % step or self.channels < step:
            raise UserError(f'channels is {self.channels}; it must be a multiple of 4 x groups = {step}.')
        if self.scale_channels % (2 * self.groups) or self.scale_channels < 2 * self.groups:
            raise UserError(f'scale_channels is {self.scale_channels}; it must be a multiple of 2 x groups.')
        self._check_decoders()
        if self.dtype not in DTYPES:
            raise UserError(f'dtype is {self.dtype!r}; it must be one of {", ".join(DTYPES)}.')
        if self.norm not in ('batch', 'instance', 'none'):
            raise UserError(f"norm is {self.norm!r}; it must be 'batch', 'instance' or 'none'.")
        if not self.units and self.norm != 'batch':
            raise UserError(f"units is 0 and norm {self.norm!r}; a network without units is built with norm='batch'.")
        if self.encoder_stride not in (1, 2, 4):
            raise UserError(f'encoder_stride is {self.encoder_stride}; it must be 1, 2 or 4.')

    def _check_decoders(self) -> None:
        """Refuses sharing and groups that the decoders cannot be built with."""
        if self.share_scales not in EXCHANGES:
            raise UserError(f'share_scales is {self.share_scales!r}; it must be one of {", ".join(EXCHANGES)}.')
        groups = self.groups if self.decoder_groups is None else self.decoder_groups
        if groups < 1 or (self.scale_channels // 2) % groups or (self.channels // 4) % groups:
            raise UserError(
                f'decoder_groups is {groups}; it must divide scale_channels / 2 = {self.scale_channels // 2} and '
                f'channels / 4 = {self.channels // 4}.'
            )
        merged = (len(self.rates) + 1) * (self.scale_channels + 3 * self.encoder_stride**2)
        if merged % groups:
            raise UserError(f'{merged} channels enter the main decoder; not a multiple of its groups = {groups}.')

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
        is_batch = images.ndim == 4 and images.shape[-1] == 3 and 0 not in images.shape
        if not is_batch or not jnp.issubdtype(images.dtype, jnp.floating):
            expected = 'floats in [0, 1] of (B, H, W, 3), none of them 0'
            raise UserError(f'images are {images.dtype} {images.shape}; expected {expected}.')
        self.check_size(*images.shape[1:3])


def exchange(features: list[Blocks], restored: list[Blocks], kind: str, groups: int) -> Blocks:
    """What the main decoder sees of the scales' features F_i and restored images B_i: n (B, h, w, .) each -> one.

    kind: 'features', the paper's words: the F_i exchange by a shuffle over the scales, then the B_i are concatenated
        with them, spread evenly so that each of the decoder's `groups` has its share of both (with three groups one
        colour of every B_i). 'all': features and images are shuffled together, which puts all images into the last
        group. 'none': scale after scale, each followed by its image.
    """
    if kind == 'features':
        shared = blocks.channel_shuffle(blocks.concatenate(features), len(features))
        images = blocks.concatenate(restored)
        return blocks.concatenate([shared, blocks.channel_shuffle(images, images.width // groups)], groups)
    x = blocks.concatenate([x for pair in zip(features, restored, strict=True) for x in pair])
    return blocks.channel_shuffle(x, len(features)) if kind == 'all' else x


def shapes(network: QSNet) -> dict[str, Any]:
    """Shape and type of every variable, as {'params': ..., 'batch_stats': ...}, without computing anything."""
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    plain = network.clone(form='plain')  # which has the same ones and is traced in half the time
    return dict(jax.eval_shape(lambda images: plain.init(jax.random.key(0), images), images))


@partial(jax.jit, static_argnums=0)
def prepare(network: QSNet, variables: dict[str, Any]) -> dict[str, Any]:
    """What `apply` needs for inference in place of the variables: kernels folded and laid out, once for all images.

    With instance norm the parameters stay beside them.
    """
    side = 8 * network.encoder_stride  # reflection needs five pixels; XLA computes nothing of the image
    images = jnp.zeros((1, side, side, 3), layers.at_least_float32(network.dtype))
    prepared = dict(network.apply(variables, images, mutable=['prepared'])[1])
    return {**prepared, 'params': variables['params']} if network.norm == 'instance' else prepared


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
        fan = math.prod(like.shape[:-2]) * (like.shape[-2] + like.shape[-1])
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
    """The network of `config.model`, or of the settings stored with weights: any mapping of some of QSNet's fields.

    Fields that are not there have QSNet's defaults. Raises UserError for names that are none of its fields.
    """
    return QSNet(**current(settings))


def defaults() -> dict[str, Any]:
    """The network's settings with their defaults, but for how it is computed."""
    every = {field.name: field.default for field in dataclasses.fields(QSNet)}
    return {name: value for name, value in every.items() if name not in ('parent', 'name', 'form', 'remat')}


def current(settings: Any) -> dict[str, Any]:
    """Settings as they are written today, all of them, of those stored at any time.

    `share_scales` was a flag before there were several exchanges: True was 'all', False 'none'. Where
    `decoder_groups` is missing, decoders have as many groups as all else.
    """
    if not hasattr(settings, 'keys'):
        raise UserError(
            f'The network has settings of {type(settings).__name__}; expected a mapping, as config.model or what '
            'load_weights returns.'
        )
    known = defaults()
    unknown = [str(name) for name in settings if name not in (*known, 'form', 'remat')]
    if unknown:
        raise UserError(f'The network has no setting {", ".join(unknown)}; it has {", ".join(known)}.')
    settings = {**known, **settings}
    sharing = fields.of_today('model.share_scales', settings['share_scales'])
    return {**settings, 'rates': tuple(settings['rates']), 'share_scales': sharing}
