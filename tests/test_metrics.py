import json
import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import skimage.metrics
from PIL import Image

from qsnet_jax import metrics


def _pair(height, width, seed=0):
    """A random image and a noisy copy of it, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    clean = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    noise = rng.integers(-40, 41, clean.shape)
    return np.clip(clean.astype(np.int64) + noise, 0, 255).astype(np.uint8), clean


def _grey(value, size=11):
    """A constant grey image, uint8 (size, size, 3)."""
    return np.full((size, size, 3), value, np.uint8)


def _plain_ssim(x, y):
    """SSIM of two float64 (H, W) planes, window by window from the definition."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    scores = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            a, b = (plane[row : row + 11, column : column + 11] for plane in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
            scores.append(luminance * (2 * covariance + c2) / (var_a + var_b + c2))
    return np.mean(scores)


def _degraded(name):
    """A photo of scikit-image and the same photo after JPEG, uint8 (H, W, 3)."""
    clean = getattr(skimage.data, name)()
    encoded = cv2.imencode('.jpg', clean, [cv2.IMWRITE_JPEG_QUALITY, 20])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR), clean


@pytest.fixture(scope='module')
def golden_cases():
    """Result and target pairs with the scores that independent code gave them; not shipped with the package."""
    shared = Path(__file__).parents[2] / 'shared' / 'data'
    folder = Path(os.environ.get('QSNET_DATA', shared)) / 'metric_cases'
    if not (folder / 'expected.json').exists():
        pytest.skip(f'no metric cases in {folder}; set QSNET_DATA to the folder that holds metric_cases')

    def read(name):
        return cv2.cvtColor(cv2.imread(str(folder / name)), cv2.COLOR_BGR2RGB)

    expected = json.loads((folder / 'expected.json').read_text())
    stems = {name.removesuffix('.png'): scores for name, scores in expected.items()}
    return [(read(f'{stem}_result.png'), read(f'{stem}_target.png'), scores) for stem, scores in stems.items()]


@pytest.mark.parametrize('protocol', metrics.PROTOCOLS)
def test_identical_images(protocol):
    """A perfect result scores infinite PSNR and an SSIM of exactly one."""
    image = _pair(17, 13)[0]
    assert metrics.psnr(image, image, protocol) == math.inf
    assert metrics.ssim(image, image, protocol) == 1.0


def test_psnr_of_one_level_in_rgb():
    """An error of one level everywhere is 20 log10 255 = 48.13 dB."""
    assert metrics.psnr(_grey(101), _grey(100), 'rgb') == pytest.approx(48.1308036, abs=1e-6)


def test_psnr_of_one_level_in_y():
    """One grey level is 219/255 of a luma level, so the y protocol reads 1.32 dB higher than rgb."""
    expected = 48.1308036 + 20 * math.log10(255 / 219)
    assert metrics.psnr(_grey(101), _grey(100), 'y') == pytest.approx(expected, abs=1e-6)


def test_psnr_counts_every_channel_alike_in_rgb():
    """An error of three levels in one channel of a third of the pixels is a mean square of one."""
    clean = np.zeros((3, 4, 3), np.uint8)
    restored = clean.copy()
    restored[0, :, 2] = 3
    assert metrics.psnr(restored, clean, 'rgb') == pytest.approx(10 * math.log10(255**2), abs=1e-12)


@pytest.mark.parametrize(
    'protocol, low, high', [('rgb', 50.0, 200.0), ('y', 16 + 219 * 50 / 255, 16 + 219 * 200 / 255)]
)
def test_ssim_of_constant_images(protocol, low, high):
    """Without any structure only the luminance term of SSIM is left."""
    c1 = (0.01 * 255) ** 2
    expected = (2 * low * high + c1) / (low**2 + high**2 + c1)
    assert metrics.ssim(_grey(50), _grey(200), protocol) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize('height, width', [(11, 11), (16, 23)])
def test_ssim_equals_its_definition(height, width):
    """The filtered maps give what a loop over windows gives, per channel and on luma."""
    restored, clean = _pair(height, width)
    channels = [_plain_ssim(restored[..., c].astype(float), clean[..., c].astype(float)) for c in range(3)]
    # The tolerance is the cancellation in E[x^2] - E[x]^2 at 255^2, far above what OpenCV's filter adds.
    assert metrics.ssim(restored, clean, 'rgb') == pytest.approx(np.mean(channels), abs=1e-10)
    on_luma = _plain_ssim(metrics.luma(restored), metrics.luma(clean))
    assert metrics.ssim(restored, clean, 'y') == pytest.approx(on_luma, abs=1e-10)


@pytest.mark.parametrize('name', ['astronaut', 'chelsea', 'coffee'])
def test_ssim_equals_scikit_image(name):
    """On photos the score is that of scikit-image, set to Wang's window and cut to the valid region."""
    restored, clean = _degraded(name)
    similarity = skimage.metrics.structural_similarity(
        restored,
        clean,
        win_size=11,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=-1,
        full=True,
    )[1]
    assert metrics.ssim(restored, clean, 'rgb') == pytest.approx(similarity[5:-5, 5:-5].mean(), abs=1e-10)


@pytest.mark.parametrize(
    'key, score, protocol',
    [('psnr_rgb', metrics.psnr, 'rgb'), ('psnr_y_float', metrics.psnr, 'y'), ('ssim_y_float', metrics.ssim, 'y')],
)
def test_golden_values(golden_cases, key, score, protocol):
    """Published result images get the scores that independent implementations give them."""
    deviations = [abs(score(restored, clean, protocol) - scores[key]) for restored, clean, scores in golden_cases]
    assert len(deviations) > 0
    assert max(deviations) < 1e-4  # the values agree to rounding; looser, so that another OpenCV build also passes


def test_large_images_are_not_downsampled():
    """SSIM of a large image is the mean over its windows at full size, unlike in the script of Wang et al."""
    restored, clean = _pair(600, 12)
    planes = [image[..., 0].astype(float) for image in (restored, clean)]
    channels = [np.repeat(image[..., :1], 3, axis=-1) for image in (restored, clean)]
    assert metrics.ssim(*channels, 'rgb') == pytest.approx(_plain_ssim(*planes), abs=1e-10)


@pytest.mark.parametrize('score', [metrics.psnr, metrics.ssim])
@pytest.mark.parametrize('protocol', metrics.PROTOCOLS)
def test_order_of_the_pair_does_not_matter(score, protocol):
    """Both scores are symmetric in restored and clean."""
    restored, clean = _pair(20, 31)
    assert score(restored, clean, protocol) == score(clean, restored, protocol)


def test_luma_is_that_of_matlab():
    """Black, white and the three primaries have the luma that rgb2ycbcr documents."""
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    np.testing.assert_allclose(metrics.luma(colours), [[16, 235, 81.481, 144.553, 40.966]], rtol=0, atol=1e-12)


def test_luma_is_not_rounded():
    """One level of green moves luma by half a level and is kept."""
    colours = np.array([[[10, 20, 30], [10, 21, 30]]], np.uint8)
    assert np.diff(metrics.luma(colours)[0])[0] == pytest.approx(128.553 / 255, abs=1e-12)


@pytest.mark.parametrize('score', [metrics.psnr, metrics.ssim])
@pytest.mark.parametrize('protocol', metrics.PROTOCOLS)
def test_memory_layout_does_not_matter(score, protocol):
    """A view of an image, flipped or cropped, scores as its copy does."""
    views = [image[3:, ::-1, ::-1] for image in _pair(30, 19)]
    assert score(*views, protocol) == score(*[view.copy() for view in views], protocol)


@pytest.mark.parametrize('score', [metrics.psnr, metrics.ssim])
def test_floats_are_refused(score):
    """An image in [0, 1], whose range would have to be guessed, is refused with the conversion to make."""
    image = _grey(9)
    with pytest.raises(TypeError, match='restored must be uint8.*found float32'):
        score((image / 255).astype(np.float32), image, 'rgb')
    with pytest.raises(TypeError, match='clean must be uint8.*found int64'):
        score(image, image.astype(np.int64), 'rgb')
    with pytest.raises(TypeError, match='clean is the path a.png; give the image, as qsnet_jax.images.read'):
        score(image, 'a.png', 'rgb')


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (None, 'NoneType; expected an array of pixels'),
        (b'abc', 'bytes; expected an array of pixels'),
        (np.ma.masked_less(_grey(9), 7), 'MaskedArray; expected an array of pixels, all of which count'),
        ([[[0, 0, 0]], [[0, 0, 0], [1, 1, 1]]], 'no array of pixels'),
        (_grey(9).tolist(), r'found int64. Give np.clip\(np.round\(x\), 0, 255\).astype\(np.uint8\) of 0 to 255'),
        (_grey(9).astype('>u2'), r'found >u2.*\(x // 257\).astype\(np.uint8\) of 16 bits'),
        (_grey(9) * 1.0, 'found float64.* of 0 to 255, qsnet_jax.images.to_uint8.* of 0 to 1'),
        (_grey(9) > 3, 'found bool.$'),
        (_grey(9).astype(np.int8), r'found int8. Give .* of 0 to 255\.$'),
        (Image.fromarray(_grey(9)).convert('HSV'), 'Pillow image of mode HSV; give image.convert'),
    ],
)
def test_what_is_no_image_is_named(image, message):
    """By all three functions, with what to do."""
    for score in (metrics.psnr, metrics.ssim):
        with pytest.raises(TypeError, match=f'clean .*{message}'):
            score(_grey(9), image, 'rgb')
    with pytest.raises(TypeError, match=f'clean .*{message}'):
        metrics.score(_grey(9), image)


@pytest.mark.parametrize('score', [metrics.psnr, metrics.ssim])
@pytest.mark.parametrize('shape', [(16, 16), (16, 16, 1), (16, 16, 4), (1, 16, 16, 3), (0, 16, 3)])
def test_other_shapes_are_refused(score, shape):
    """Grey images, alpha channels, batches and empty images are refused, not broadcast."""
    image = np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match=r'one RGB image \(H, W, 3\); found shape'):
        score(image, image, 'y')


@pytest.mark.parametrize('score', [metrics.psnr, metrics.ssim])
def test_unequal_sizes_are_refused(score):
    """A pair of two sizes is refused with both sizes, even where NumPy would broadcast it."""
    with pytest.raises(ValueError, match=r'restored \(16, 16, 3\) and clean \(1, 16, 3\)'):
        score(_grey(1, 16), _grey(1, 16)[:1], 'rgb')


@pytest.mark.parametrize('score', [metrics.psnr, metrics.ssim])
def test_unknown_protocols_are_refused(score):
    """A protocol other than rgb and y is refused with the choices."""
    with pytest.raises(ValueError, match="'Y'.*'rgb', 'y'"):
        score(_grey(1), _grey(1), 'Y')


@pytest.mark.parametrize('protocol', metrics.PROTOCOLS)
def test_images_below_the_window_have_a_psnr_only(protocol):
    """An image of ten pixels' height has a PSNR, but its SSIM is refused with the size found."""
    restored, clean = _pair(10, 40)
    assert math.isfinite(metrics.psnr(restored, clean, protocol))
    with pytest.raises(ValueError, match='at least 11x11 pixels.*found 10x40'):
        metrics.ssim(restored, clean, protocol)


def test_tensors_of_pytorch_are_arrays():
    """Of uint8 they are scored; of floats they are refused as arrays are."""
    torch = pytest.importorskip('torch')
    assert metrics.psnr(torch.from_numpy(_grey(9)), _grey(9), 'rgb') == math.inf
    with pytest.raises(TypeError, match='found float32'):
        metrics.psnr(torch.zeros(9, 9, 3), _grey(9), 'rgb')
