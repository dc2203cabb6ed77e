"""Convolutions of one array (B, H, W, C), each by what the devices of its form (see `blocks`) are fast at."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array


def stored(kernel: Array, form: str) -> Array:
    """A kernel (k, k, C, F) as `convolve` takes it: (F, k, k, C) in the dense form, in which cuDNN reads it."""
    return kernel.transpose(3, 0, 1, 2) if form == 'dense' else kernel


def convolve(x: Array, kernel: Array, rate: int, stride: int, padding: str, groups: int, form: str) -> Array:
    """Convolution with a stored kernel, by what the form's devices are fast at."""
    size = kernel.shape[1]
    margin = rate * (size // 2)
    order = 'OHWI' if form == 'dense' else 'HWIO'
    if padding == 'reflect' and margin:
        x = _pad(x, margin, padding)
        if form == 'split' and stride == 1:  # the frame is computed too, and cut off
            return _same(x, kernel, rate)[:, margin:-margin, margin:-margin]
        return _general(x, kernel, 0, rate, stride, groups, order)
    if form == 'split' and stride == 1:
        return _same(x, kernel, rate)
    if size == 1 and stride == 1 and groups == 1 and form == 'plain':
        return x @ kernel[0, 0]
    return _general(x, kernel, margin, rate, stride, groups, order)


def _general(
    x: Array, kernel: Array, margin: int, rate: int, stride: int = 1, groups: int = 1, order: str = 'HWIO'
) -> Array:
    """XLA's convolution with `margin` zeros on every side."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((margin, margin), (margin, margin)),
        rhs_dilation=(rate, rate),
        dimension_numbers=('NHWC', order, 'NHWC'),
        feature_group_count=groups,
    )


def _same(x: Array, kernel: Array, rate: int) -> Array:
    """Convolution of stride 1 that keeps the size, for CPUs: the only kind that XLA computes there without im2col.

    At 256x256, 68 -> 132 channels take 73 ms, and 235 ms where the input comes padded. XLA's gradient for the kernel
    transposes all images and runs on one core; `_kernel_gradient` replaces it. No forward-mode derivatives.
    """
    return _same_in(x, kernel, rate, jax.config.values['jax_default_matmul_precision'])


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _same_in(x: Array, kernel: Array, rate: int, precision: str | None) -> Array:
    """The same, whose gradients are in that precision too: they are traced when the caller has left it."""
    with jax.default_matmul_precision(precision):
        if kernel.shape[0] == 1:
            return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)
        return _general(x, kernel, rate * (kernel.shape[0] // 2), rate)


def _same_forward(x: Array, kernel: Array, rate: int, precision: str | None) -> tuple[Array, tuple[Array, Array]]:
    return _same_in(x, kernel, rate, precision), (x, kernel)


def _same_backward(rate: int, precision: str | None, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    with jax.default_matmul_precision(precision):
        return _same_in(dy, turned, rate, precision), _kernel_gradient(x, dy, kernel.shape[0], rate)


_same_in.defvjp(_same_forward, _same_backward)


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
        return jax.vjp(lambda kernel: _general(x, kernel, margin, rate), kernel)[1](dy)[0]
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


def depthwise(x: Array, kernel: Array, rate: int, stride: int, padding: str) -> Array:
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
