"""The training losses, Eqs. (8)-(13): pure functions of arrays to a scalar.

Images are float (B, H, W, 3) in [0, 1]. In print every term is a sum over pixels; here each is divided by the same
B * H * W * 3, a factor that Adam ignores, so that values do not depend on batch and crop size while the terms keep
their printed proportions. The sum over the filters in L_Q and the mean over the decoders in L_A stay as printed.
Arithmetic is in float32 (float64 for float64 arrays), also for bfloat16 predictions.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from qsnet_jax import UserError, priors

TERMS = ('content', 'quasi_sparsity', 'detail', 'auxiliary')


def quasi_sparsity(rain, rainy, filters: Sequence[np.ndarray]) -> jax.Array:
    """L_Q, absolute filter responses of both layers; two (B, H, W, 3) -> scalar >= 0. Eq. (9), per image Eq. (8).

    Removing nothing is a minimum of this term alone: |w * R| + |w * (I - R)| >= |w * I|, with equality at R = 0.
    """
    rain, rainy = _floats(rain=rain, rainy=rainy)
    background = rainy - rain
    responses = [priors.respond(layer, kernel) for layer in (rain, background) for kernel in filters]
    return sum(jnp.sum(jnp.abs(response)) for response in responses) / rain.size


def content(rain, rainy, clean) -> jax.Array:
    """L_C, mean absolute error of the restored image; three (B, H, W, 3) -> scalar >= 0. Eq. (10)."""
    rain, rainy, clean = _floats(rain=rain, rainy=rainy, clean=clean)
    return jnp.sum(jnp.abs(rainy - rain - clean)) / rain.size


def detail(rain, rainy, clean, threshold: float) -> jax.Array:
    """L_D, rain predicted where none fell; three (B, H, W, 3) -> scalar >= 0. Eq. (11).

    `rainy`, `clean` and `threshold` only locate the rain, see `rain_map`.
    """
    rain, rainy, clean = _floats(rain=rain, rainy=rainy, clean=clean)
    return jnp.sum(jnp.abs((1 - rain_map(rainy, clean, threshold)) * rain)) / rain.size


def rain_map(rainy, clean, threshold: float) -> jax.Array:
    """L of Eq. (11), 1 where some channel brightened by more than `threshold`; two (B, H, W, 3) -> 0 or 1 (B, H, W, 1).

    This is the mask of JORDER, the paper's [24]. `threshold` is in [0, 1] units, 0 for lossless pairs and about 8 / 255
    for JPEG. The map is exact for 8-bit images held in float32; bfloat16 cannot tell neighbouring levels apart.
    """
    if not 0 <= threshold < 1:
        raise UserError(
            f'threshold must be in [0, 1), as the images are; found {threshold}. Divide 8-bit levels by 255.'
        )
    rainy, clean = _floats(rainy=rainy, clean=clean)
    # Brightening comes in steps of 1/255 but float differences miss them by some 1e-7. So the comparison is made half
    # a step above the highest level that is not rain: at 0.5/255 for a threshold of 0, at 8.5/255 for 8/255.
    level = math.floor(threshold * 255 + 1e-6)
    brightened = jnp.max(rainy - clean, axis=-1, keepdims=True)
    return (brightened > (level + 0.5) / 255).astype(rainy.dtype)


def auxiliary(aux_rain: Sequence[jax.Array], rainy, clean) -> jax.Array:
    """L_A, mean over the decoders of the squared error; five and two (B, H, W, 3) -> scalar >= 0. Eq. (12).

    `aux_rain` holds one rain layer per auxiliary decoder: a sequence, or an array with a leading axis of decoders.
    """
    if len(aux_rain) == 0:
        raise ValueError('aux_rain is empty; expected one rain layer (B, H, W, 3) per auxiliary decoder.')
    rainy, clean, *layers = _floats(
        rainy=rainy, clean=clean, **{f'aux_rain[{index}]': layer for index, layer in enumerate(aux_rain)}
    )
    return sum(jnp.sum(jnp.square(rainy - layer - clean)) for layer in layers) / (len(layers) * rainy.size)


def total(rain, aux_rain: Sequence[jax.Array], rainy, clean, config) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted sum that is trained on. Eq. (13); images in [0, 1], (B, H, W, 3) -> (scalar, scalars by name).

    Args:
      rain: the rain layer of the main decoder.
      aux_rain: the rain layers of the auxiliary decoders.
      rainy: the network's input.
      clean: the truth.
      config: the `loss` section of the configuration, a ConfigDict: the weight of each of TERMS, `filters`,
        `pixel_range` and `detail_threshold`.

    Returns:
      The sum, and a dict with every term before weighting, also of weight 0, and the sum as `total`.
    """
    if config.filters not in priors.FILTERS:
        raise UserError(f'Unknown loss.filters {config.filters!r}; choose one of {tuple(priors.FILTERS)}.')
    if config.pixel_range not in (1, 255):
        raise UserError(f'loss.pixel_range must be 1.0 or 255.0; found {config.pixel_range!r}.')
    scale = float(config.pixel_range)
    # Images in 0..255 make the absolute terms 255 times larger and the squared one 255^2 times.
    terms = {
        'content': scale * content(rain, rainy, clean),
        'quasi_sparsity': scale * quasi_sparsity(rain, rainy, priors.FILTERS[config.filters]),
        'detail': scale * detail(rain, rainy, clean, config.detail_threshold),
        'auxiliary': scale**2 * auxiliary(aux_rain, rainy, clean),
    }
    # A term of weight 0 is left out, not multiplied by 0: it costs no gradient and cannot make the sum non-finite.
    weighted = [getattr(config, name) * terms[name] for name in TERMS if getattr(config, name) != 0]
    if not weighted:
        raise UserError(f'All weights of the loss are 0; give at least one of loss.{{{", ".join(TERMS)}}} a value.')
    loss = sum(weighted)
    return loss, {**terms, 'total': loss}


def _floats(**arrays):
    """The arrays in float32 or wider, refused unless all are floating and of one shape (B, H, W, C)."""
    arrays = {name: jnp.asarray(array) for name, array in arrays.items()}
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f'{name} must be floating, in [0, 1]; found {array.dtype}. Divide 8-bit images by 255.')
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 4 for shape in shapes.values()):
        raise ValueError(f'All images must have one shape (B, H, W, 3); found {shapes}. Crop them alike.')
    # Only 16-bit arrays are widened: float64 stays.
    return [array.astype(jnp.float32) if array.dtype.itemsize < 4 else array for array in arrays.values()]
