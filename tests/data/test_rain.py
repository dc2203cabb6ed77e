"""Drawn rain: determinism, the additive model, the look of each style in numbers, and measured layers beside it."""

import concurrent.futures
import dataclasses
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
import skimage.data

from qsnet_jax.data import rain

LIGHT, HEAVY, WIDE = (rain.STYLES[name] for name in ('light', 'heavy', 'wide'))


def draw(style, count, height=192, width=192, seed=0):
    """Draws layers 0 to count - 1."""
    return [rain.draw_layer(style, height, width, seed, index) for index in range(count)]


def stripes(angle, stripe_width, size=256, period=64, level=200):
    """Paints endless stripes at `angle` degrees from the vertical, falling to the right."""
    y, x = np.mgrid[:size, :size]
    across = x * np.cos(np.radians(angle)) - y * np.sin(np.radians(angle))
    away = np.abs((across + 1000 * period) % period - period / 2)
    return np.uint8(level * np.clip(stripe_width / 2 - away + 0.5, 0, 1))


def mean_psnr(style):
    """Scores rainy photos against clean ones, mean over photos and layers, dB over RGB."""
    photos = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    scores = []
    for index in range(24):
        clean = photos[index % 3]
        rainy = rain.add_rain(clean, rain.draw_layer(style, *clean.shape[:2], seed=1, index=index))
        scores.append(10 * np.log10(255**2 / np.mean((rainy.astype(np.float64) - clean) ** 2)))
    return np.mean(scores)


@pytest.mark.parametrize('name', rain.STYLES)
def test_draw_is_a_function_of_seed_and_index(name):
    """The same (seed, index) gives the same bytes; another seed, another index or the two swapped do not."""
    first = rain.draw_layer(rain.STYLES[name], 96, 96, 3, 5)
    assert first.dtype == np.uint8 and first.shape == (96, 96)
    np.testing.assert_array_equal(first, rain.draw_layer(rain.STYLES[name], 96, 96, 3, 5))
    for other in ((3, 6), (4, 5), (5, 3)):
        assert (rain.draw_layer(rain.STYLES[name], 96, 96, *other) != first).any()


def test_draw_ignores_and_keeps_global_state():
    """NumPy's global generator neither changes a layer nor is changed by one."""
    np.random.seed(0)
    before = rain.draw_layer(HEAVY, 48, 48, 0, 0)
    untouched = np.random.random()
    np.random.seed(0)
    assert np.random.random() == untouched
    np.testing.assert_array_equal(before, rain.draw_layer(HEAVY, 48, 48, 0, 0))


def test_draw_is_the_same_in_threads_and_processes():
    """Layers drawn at once in threads, or in a new process, equal layers drawn in order."""
    layers = draw(LIGHT, 12, 64, 64)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda index: rain.draw_layer(LIGHT, 64, 64, 0, index), range(12)))
    np.testing.assert_array_equal(threaded, layers)
    program = (
        'import sys; from qsnet_jax.data import rain;'
        "sys.stdout.buffer.write(rain.draw_layer(rain.STYLES['light'], 64, 64, 0, 7).tobytes())"
    )
    run = subprocess.run([sys.executable, '-c', program], capture_output=True, check=True)
    assert run.stdout == layers[7].tobytes()


@pytest.mark.parametrize('name', rain.STYLES)
@pytest.mark.parametrize('size', [(1, 1), (1, 200), (200, 1), (2, 3), (37, 61), (129, 33)])
def test_any_size_is_drawn(name, size):
    """Any size from 1 x 1 up comes out at that size, and across many layers every size catches rain."""
    layers = draw(rain.STYLES[name], 60, *size)
    assert all(layer.shape == size and layer.dtype == np.uint8 for layer in layers)
    assert max(layer.max() for layer in layers) > 8


@pytest.mark.parametrize('name', ['cos', 'tan'])
def test_last_digits_of_a_processor_do_not_show(name, monkeypatch):
    """Processors round the last digit of a cosine or tangent otherwise; what is drawn is the same."""
    before = [rain.draw_layer(HEAVY, 300, 400, 0, index) for index in range(3)]
    original = getattr(np, name)

    def rounded_up(x):
        value = original(x)
        return np.nextafter(value, value.dtype.type(np.inf))

    monkeypatch.setattr(np, name, rounded_up)
    for index, layer in enumerate(before):
        np.testing.assert_array_equal(rain.draw_layer(HEAVY, 300, 400, 0, index), layer)


@pytest.mark.parametrize('size', [(0, 5), (5, 0), (-1, 5)])
def test_size_below_one_is_refused(size):
    """A height or width below 1 is an error that names both."""
    with pytest.raises(ValueError, match=f'found {size[0]} x {size[1]}'):
        rain.draw_layer(LIGHT, *size, 0, 0)


def test_style_that_is_too_flat_is_refused():
    """Streaks close to the horizontal, which rows cannot paint, are an error."""
    with pytest.raises(ValueError, match='angle'):
        dataclasses.replace(LIGHT, angle=(-80, 80))


def test_add_rain_is_the_saturating_sum():
    """All 65,536 pairs of levels give min(255, clean + layer), as wider integers do."""
    layer, level = np.meshgrid(np.arange(256), np.arange(256))
    clean = np.stack([level, level[::-1], np.full_like(level, 255)], axis=-1)
    expected = np.minimum(255, clean.astype(np.int64) + layer[..., None])
    rainy = rain.add_rain(clean.astype(np.uint8), layer.astype(np.uint8))
    assert rainy.dtype == np.uint8
    np.testing.assert_array_equal(rainy, expected)


@pytest.mark.parametrize(
    ('clean', 'layer', 'message'),
    [
        (np.zeros((4, 5, 3), np.float32), np.zeros((4, 5), np.uint8), 'clean: expected uint8 .* found float32'),
        (np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint8), r'clean: .* found uint8 \(4, 5\)'),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.int32), 'layer: expected uint8 .* found int32'),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.uint8), r'layer: expected uint8 \(4, 5\), .*\(5, 4\)'),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5, 3), np.uint8), r'layer: .* found uint8 \(4, 5, 3\)'),
    ],
)
def test_add_rain_refuses_other_arrays(clean, layer, message):
    """A wrong dtype or shape is an error that says what was found and expected."""
    with pytest.raises(ValueError, match=message):
        rain.add_rain(clean, layer)


def test_heavy_photos_score_like_rain100h():
    """Heavy rain on photos scores 12 to 14 dB, as the rainy images of Rain100H do."""
    assert 12 < mean_psnr(HEAVY) < 14


def test_light_photos_score_like_rain100l():
    """Light rain on photos scores 24 to 28 dB, as the rainy images of Rain100L do."""
    assert 24 < mean_psnr(LIGHT) < 28


def test_wide_streaks_are_wide():
    """Wide streaks measure 7 to 15 px across in nine of ten layers, those of the other styles about 3."""
    widths = [rain.statistics([layer])['width'] for layer in draw(WIDE, 12, 320, 320)]
    assert 7 <= np.percentile(widths, 10) and np.percentile(widths, 90) <= 15
    assert rain.statistics(draw(LIGHT, 8))['width'] < 3.5
    assert rain.statistics(draw(HEAVY, 8))['width'] < 4


def test_wide_edges_are_blurred():
    """No step between neighbours across a wide streak exceeds a third of the layer's peak."""
    for layer in draw(WIDE, 8, 256, 256):
        assert np.abs(np.diff(layer.astype(int), axis=1)).max() < layer.max() / 3


def test_light_has_one_direction_and_heavy_several():
    """Inside a light layer streaks are parallel; heavy layers of several directions spread more."""
    light = rain.statistics(draw(LIGHT, 12))
    fanned = rain.statistics(draw(dataclasses.replace(HEAVY, directions=(3, 3)), 12))
    single = rain.statistics(draw(dataclasses.replace(HEAVY, directions=(1, 1)), 12))
    assert light['angle_within'] < 5  # jitter of 1 degree, pixel steps and the ends of streaks
    assert light['angle_between'] > 10
    assert fanned['angle_within'] > 1.25 * single['angle_within']


@pytest.mark.parametrize('angle', [-25, 0, 10, 30])
def test_layer_follows_the_angle_of_its_style(angle):
    """A style with one angle gives layers of that measured angle, within 2 degrees."""
    style = dataclasses.replace(LIGHT, angle=(angle, angle))
    measured = rain.statistics(draw(style, 6))
    assert measured['angle'] == pytest.approx(angle, abs=2)
    assert measured['angle_between'] < 2


@pytest.mark.parametrize('name', rain.STYLES)
def test_small_draw_looks_like_a_crop_of_a_large_one(name):
    """64 x 64 draws and crops of 160 x 160 draws have the same mean, covered share and percentiles."""
    # Other seeds, so that the two sets are independent samples. With 300 layers each, the standard error of the mean
    # is 2 % (heavy) to 6 % (wide); the tolerance is three times the standard error of the difference.
    small = rain.statistics(draw(rain.STYLES[name], 300, 64, 64, seed=1))
    rows = slice(48, 112), slice(0, 64)  # at the left border, halfway down
    large = rain.statistics([layer[rows] for layer in draw(rain.STYLES[name], 300, 160, 160, seed=2)])
    tolerance = {'light': 0.15, 'heavy': 0.1, 'wide': 0.25}[name]
    for key in ('mean', 'covered', 'p95', 'p99'):
        assert small[key] == pytest.approx(large[key], rel=tolerance), key


@pytest.mark.parametrize('name', rain.STYLES)
def test_rain_is_even_over_the_frame(name):
    """Borders and centre of a frame have the same mean: streaks enter from outside on all sides."""
    count, tolerance = {'light': (200, 0.2), 'heavy': (200, 0.1), 'wide': (800, 0.25)}[name]
    mean = np.mean(draw(rain.STYLES[name], count, 96, 96), axis=0)
    centre = mean[24:72, 24:72].mean()
    for border in (mean[:12], mean[-12:], mean[:, :12], mean[:, -12:]):
        # Standard error of a border's mean against the centre's: 3 % (heavy), 5 % (light), 7 % (wide).
        assert border.mean() == pytest.approx(centre, rel=tolerance)


@pytest.mark.parametrize('angle', [-40, -12, 0, 20])
@pytest.mark.parametrize('stripe_width', [3, 6, 10])
def test_statistics_find_known_angle_and_width(angle, stripe_width):
    """Stripes of known angle and width give that angle and, less their share of the frame, that width."""
    measured = rain.statistics([stripes(angle, stripe_width)])
    assert measured['angle'] == pytest.approx(angle, abs=1)
    assert measured['angle_within'] < 3
    # Taking off the mean shortens the half width by the covered share; half-covered pixels at the sides lengthen it.
    assert measured['width'] == pytest.approx(stripe_width * (1 - stripe_width / 64), abs=0.75)
    assert measured['length'] > 100


def test_statistics_find_crossed_directions():
    """Two equal sets of stripes at +-20 degrees spread by about 20 degrees around the vertical."""
    crossed = np.maximum(stripes(20, 3), stripes(-20, 3))
    measured = rain.statistics([crossed])
    assert measured['angle'] == pytest.approx(0, abs=1)
    assert measured['angle_within'] == pytest.approx(20, abs=4)  # where stripes cross, both directions mix
    apart = rain.statistics([stripes(20, 3), stripes(-20, 3)])
    assert apart['angle_within'] < 3
    assert apart['angle_between'] == pytest.approx(np.degrees(np.sqrt(-2 * np.log(np.cos(np.radians(40)))) / 2), abs=1)


def test_statistics_count_levels():
    """Mean, shares above 8 and 64 and percentiles are those of the pixels of all layers together."""
    layers = [np.arange(256, dtype=np.uint8).reshape(16, 16), np.zeros((16, 48), np.uint8)]
    pixels = np.concatenate([layer.ravel() for layer in layers])
    measured = rain.statistics(layers)
    assert measured['mean'] == pytest.approx(pixels.mean())
    assert measured['covered'] == pytest.approx((pixels > 8).mean())
    assert measured['bright'] == pytest.approx((pixels > 64).mean())
    for percentile in (50, 75, 90, 95, 99, 99.9):
        expected = np.percentile(pixels, percentile, method='inverted_cdf')
        assert measured[f'p{percentile:g}'] == expected
    assert all(type(value) is float for value in measured.values())


def test_statistics_of_no_rain_have_no_angle():
    """A black layer has mean zero and neither angle nor width."""
    measured = rain.statistics([np.zeros((32, 32), np.uint8)])
    assert measured['mean'] == 0
    assert all(np.isnan(measured[key]) for key in ('angle', 'angle_between', 'angle_within', 'width', 'length'))


@pytest.mark.parametrize('layer', [np.zeros((15, 40), np.uint8), np.zeros((40, 40)), np.zeros((40, 40, 3), np.uint8)])
def test_statistics_refuse_other_arrays(layer):
    """Arrays that are too small, not uint8 or not grey are an error."""
    with pytest.raises(ValueError, match='expected uint8'):
        rain.statistics([layer])


def test_statistics_refuse_no_layers():
    """An empty list, such as an empty folder gives, is an error."""
    with pytest.raises(ValueError, match='at least one layer'):
        rain.statistics([])


def measured_layers(name, step):
    """Reads every step-th measured layer of a data set; skips the test where the data is absent."""
    data_dir = pathlib.Path(os.environ.get('QSNET_DATA', pathlib.Path(__file__).parents[3] / 'shared' / 'data'))
    paths = sorted((data_dir / name / 'train' / 'layer').glob('*.png'))[::step]
    if not paths:
        pytest.skip(f'no layers of {name} in {data_dir}; QSNET_DATA names the folder')
    return [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]


@pytest.mark.parametrize(('name', 'step', 'style'), [('RainTrainL', 3, LIGHT), ('RainTrainH', 1, HEAVY)])
def test_drawn_layers_have_the_statistics_of_measured_ones(name, step, style):
    """Mean, covered share, upper percentiles, width and angles agree with measured layers."""
    measured = rain.statistics(measured_layers(name, step))
    drawn = rain.statistics(draw(style, 150))
    # Layers differ by 30 to 45 % from each other in mean: standard errors of 6 % with 52 measured ones, 11 % with 18.
    for key in ('mean', 'covered', 'p90', 'p95', 'p99', 'p99.9'):
        assert drawn[key] == pytest.approx(measured[key], rel=0.3), key
    assert drawn['width'] == pytest.approx(measured['width'], abs=1)
    assert drawn['length'] == pytest.approx(measured['length'], rel=0.6)
    assert drawn['angle'] == pytest.approx(measured['angle'], abs=10)
    assert drawn['angle_between'] == pytest.approx(measured['angle_between'], abs=6)
    # Bright backgrounds cut pieces out of RainTrainH's layers; their outlines add to the spread there.
    assert drawn['angle_within'] == pytest.approx(measured['angle_within'], abs=4)
