"""What a notebook passes for a picture: taken if it is uint8 (H, W, 3), else told what to give."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from qsnet_jax import UserError, derain
from qsnet_jax.data import arrays, images

RGB = np.random.default_rng(0).integers(256, size=(16, 20, 3), dtype=np.uint8)

# What people pass, and an expression of x that the message must hold; evaluated, it must be a picture.
MENDED = [
    (Image.fromarray(RGB), "np.asarray(image.convert('RGB'))"),
    (Image.fromarray(RGB).convert('P'), "np.asarray(image.convert('RGB'))"),
    (RGB.tolist(), 'np.asarray(image, np.uint8)'),
    (tuple(RGB), 'np.asarray(image, np.uint8)'),
    (jnp.asarray(RGB), 'np.asarray(image)'),
    (np.ma.masked_array(RGB, RGB > 9), 'np.asarray(image)'),
    (RGB[..., 0], 'np.stack([image] * 3, axis=-1)'),
    (RGB[..., :1], 'np.repeat(image, 3, axis=-1)'),
    (np.dstack([RGB, RGB[..., 0]]), 'image[..., :3]'),
    (np.moveaxis(RGB, -1, 0), 'np.moveaxis(image, 0, -1)'),
    (RGB.astype(np.float32) / 255, 'qsnet_jax.images.to_uint8(image)'),
    (RGB.astype(np.float64), 'image.astype(np.uint8)'),
    (RGB.astype(jnp.bfloat16), 'image.astype(np.uint8)'),
    (RGB.astype(np.uint16) * 257, '(image // 257).astype(np.uint8)'),
]


@pytest.mark.parametrize(('image', 'remedy'), MENDED)
def test_the_remedy_of_the_message_works(image, remedy):
    """Refused with one line; doing what it says gives a picture."""
    import qsnet_jax.images

    with pytest.raises(UserError, match=r'expected uint8 \(H, W, 3\), a NumPy array') as caught:
        arrays.check_picture(image)
    assert remedy in str(caught.value) and '\n' not in str(caught.value)
    arrays.check_picture(eval(remedy, {'np': np, 'qsnet_jax': qsnet_jax, 'image': image}))


@pytest.mark.parametrize(
    'image',
    [
        *(
            None,
            'photo.png',
            pathlib.Path('photo.png'),
            b'\x89PNG',
            bytearray(3),
            memoryview(b'123'),
            3,
            2.5,
            {},
            object(),
        ),
        *(np.zeros(()), np.zeros((0, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8), np.zeros((4, 4, 2), np.uint8)),
        *(np.zeros((4, 4, 3), bool), np.zeros((4, 4, 3), complex), np.zeros((4, 4, 3), object), np.zeros(5, np.uint8)),
        *(np.array('photo.png'), [], [[1, 2], [3]], iter([RGB])),
    ],
    ids=lambda image: type(image).__name__,
)
def test_everything_else_is_refused_in_one_line(image):
    """Never an AttributeError, whatever it is."""
    with pytest.raises(UserError, match='expected uint8') as caught:
        arrays.check_picture(image)
    assert '\n' not in str(caught.value)


def test_tensors_of_pytorch_are_refused():
    """Their dtype is no NumPy dtype, and their channels usually come first."""
    torch = pytest.importorskip('torch')
    with pytest.raises(UserError, match=r'torch.Tensor torch.uint8; .* np.asarray\(image\)'):
        arrays.check_picture(torch.zeros((4, 4, 3), dtype=torch.uint8))


@pytest.mark.parametrize('view', [RGB, RGB[::-1], RGB[:, ::-2], RGB[..., ::-1], np.asfortranarray(RGB), RGB[:1, :1]])
def test_every_array_of_bytes_in_three_channels_is_taken(view):
    """However it lies in memory, also read-only."""
    arrays.check_picture(view)
    frozen = view.copy()
    frozen.flags.writeable = False
    arrays.check_picture(frozen)


def test_the_derainer_says_so():
    """The message comes from a call, before anything is computed."""
    derainer = derain.load()
    for image in (Image.fromarray(RGB), 'photo.png', RGB / 255, RGB.tolist(), None):
        with pytest.raises(UserError, match='expected uint8'):
            derainer(image)


def test_the_public_names_stay():
    """Scripts find them in images."""
    assert images.to_float is arrays.to_float and images.to_uint8 is arrays.to_uint8


# uint8 and float


def test_all_levels_survive_the_round_trip():
    """to_uint8(to_float(x)) == x for all 256 levels, in any shape, through float32."""
    levels = np.arange(256, dtype=np.uint8).reshape(2, 8, 16)
    floats = images.to_float(levels)
    assert floats.dtype == np.float32 and floats.min() == 0 and floats.max() == 1
    np.testing.assert_array_equal(floats, levels / np.float32(255))
    back = images.to_uint8(floats)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, levels)


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_to_uint8_rounds_to_the_nearest(dtype):
    """A value 0.4 of a level away goes back to its level, and nothing is truncated."""
    levels = np.arange(1, 255)
    for offset in (-0.3, 0.3):  # float16 resolves an eighth of a level near 1
        np.testing.assert_array_equal(images.to_uint8(((levels + offset) / 255).astype(dtype)), levels)


def test_to_uint8_clips():
    """Values outside 0..1, infinities included, become black or white and never wrap around."""
    np.testing.assert_array_equal(
        images.to_uint8(np.array([-np.inf, -0.1, 1.01, 300.0, np.inf])), [0, 0, 255, 255, 255]
    )


def test_what_is_no_array_and_what_float32_cannot_hold():
    """Rows of different lengths are refused in one line; a value beyond float32 is white without a warning."""
    for convert in (images.to_uint8, images.to_float):
        with pytest.raises(UserError, match='A list is no array of pixels: '):
            convert([[1], [1, 2]])
    np.testing.assert_array_equal(images.to_uint8(np.array([1e300, -1e300, np.inf])), [255, 0, 255])


def test_wrong_types_and_nan_are_refused():
    """NaN, integers to to_uint8 and floats to to_float are errors."""
    with pytest.raises(ValueError, match='1 NaN'):
        images.to_uint8(np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match='floats in 0..1, got uint8'):
        images.to_uint8(RGB)
    with pytest.raises(ValueError, match='uint8, got float64'):
        images.to_float(RGB / 255)
