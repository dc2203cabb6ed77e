"""Pictures as arrays: uint8 (H, W, 3) at the edges, float 0..1 inside; the only place that converts or refuses them."""

import os
from typing import Any

import numpy as np
from PIL import Image

from qsnet_jax import UserError


class NotANumber(UserError):
    """Values that are NaN where an image is to be made of them."""


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 0..255 -> float32 0..1, any shape."""
    image = _array(image)
    if image.dtype != np.uint8:
        raise UserError(f'to_float takes uint8, got {image.dtype}; other types do not say what white is')
    return image.astype(np.float32) / np.float32(255)


def to_uint8(array: np.ndarray) -> np.ndarray:
    """Float 0..1 -> uint8 0..255 of any shape; clips, then rounds to the nearest. NaN is an error."""
    array = _array(array)
    if array.dtype.kind in 'biucSUO':
        raise UserError(f'to_uint8 takes floats in 0..1, got {array.dtype}; of uint8 there is nothing to convert.')
    with np.errstate(over='ignore'):  # what is beyond float32 is beyond 1
        array = array.astype(np.float32)
    if np.isnan(array).any():
        raise NotANumber(
            f'An image of floats holds {np.isnan(array).sum()} NaN of {array.size} values; expected 0 to 1. Where a '
            'network made it, its training has diverged: take other weights.'
        )
    return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)


def _array(values: Any) -> np.ndarray:
    """Values as an array. Raises UserError for rows of different lengths and for tensors with their gradient."""
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f'A {type(values).__name__} is no array of pixels: {error}.') from error


def check_picture(image, takes_grey: bool = False) -> None:
    """Raises UserError for all that is not a NumPy array, uint8 (H, W, 3) with pixels, and says how to make one.

    takes_grey: (H, W) is one too.
    Channels are RGB, which no check can tell: of OpenCV, whose images are BGR, take `image[..., ::-1]`.
    """
    found, remedy = _misfit(image, takes_grey)
    if found:
        shapes = '(H, W, 3) or (H, W)' if takes_grey else '(H, W, 3)'
        raise UserError(f'The image is {found}; expected uint8 {shapes}, a NumPy array; {remedy}.')


def _misfit(image, takes_grey: bool) -> tuple[str, str]:
    """What something is that is no picture, and what to give instead; two empty strings for a picture."""
    if not isinstance(image, np.ndarray) or isinstance(image, np.ma.MaskedArray):
        others: dict[Any, tuple[str, str]] = {
            Image.Image: (f'a Pillow image of mode {getattr(image, "mode", "")}', "np.asarray(image.convert('RGB'))"),
            (str, os.PathLike): (f'the path {image}', 'qsnet_jax.images.read(path)'),
            (bytes, bytearray, memoryview): ('bytes', "qsnet_jax.images.decode(content, 'name') of a file's content"),
            (list, tuple): (f'a {type(image).__name__}', 'np.asarray(image, np.uint8)'),
            type(None): ('None, as cv2.imread returns it for what it cannot read', 'qsnet_jax.images.read(path)'),
        }
        named = next((words for kinds, words in others.items() if isinstance(image, kinds)), None)
        kind = f'{type(image).__module__}.{type(image).__name__}'
        found, remedy = named or (f'a {kind} {getattr(image, "dtype", "")}'.strip(), 'np.asarray(image)')
        return found, f'give {remedy}'
    found = f'{image.dtype} {image.shape}'
    if 0 in image.shape:
        return found, 'it has no pixels'
    if image.ndim == 4:
        return found, 'give one image after another'
    if image.ndim == 3 and image.shape[-1] == 1:
        return found, 'give np.repeat(image, 3, axis=-1) of a grey (H, W, 1)'
    if image.ndim == 2 and not takes_grey:
        return found, 'give np.stack([image] * 3, axis=-1) of a grey (H, W)'
    if image.ndim == 3 and image.shape[-1] == 4:
        return found, 'give image[..., :3], without alpha'
    if image.ndim == 3 and image.shape[-1] != 3 and image.shape[0] in (1, 3, 4):
        return found, 'give np.moveaxis(image, 0, -1), with channels last'
    if image.ndim != 2 and (image.ndim != 3 or image.shape[-1] != 3):
        return found, 'give rows, columns and three channels'
    if image.dtype.kind == 'f' or 'float' in image.dtype.name:  # bfloat16 and its like are of kind V
        return found, 'give qsnet_jax.images.to_uint8(image) of 0 to 1, image.astype(np.uint8) of 0 to 255'
    if image.dtype != np.uint8:
        is_deep = image.dtype.kind in 'iu' and image.dtype.itemsize > 1
        return found, 'give 0 to 255 as uint8' + ('; of 16 bits, (image // 257).astype(np.uint8)' if is_deep else '')
    return '', ''
