"""Tiles equal the whole, any size works, and what is no image is refused."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsnet_jax import UserError, derain, model
from qsnet_jax.data import images
from qsnet_jax.weights import files

SETTINGS = {
    'channels': 12, 'groups': 3, 'units': 1, 'scale_channels': 6, 'rates': (1, 2), 'encoder_stride': 1,
    'norm': 'batch', 'share_groups': True, 'share_scales': 'features', 'decoder_groups': None,
    'dtype': 'float32',
}  # fmt: skip


def make(tile=derain.TILE, few_shapes=False, **settings):
    """A Derainer with random weights."""
    settings = {**SETTINGS, **settings}
    variables = model.initialize(model.from_config(settings), seed=0)
    return derain.Derainer(variables, settings, tile, few_shapes)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize('stride', [1, 2, 4])
@pytest.mark.parametrize('size', [(150, 333), (96, 97)])
def test_tiled_equals_whole(stride, size):
    """Cutting into tiles changes no pixel of the main result or of any scale."""
    image = picture(*size)
    whole = make(tile=512, encoder_stride=stride).restore(image, scales=True)
    tile = 96 if stride == 1 else 192
    tiled = make(tile=tile, encoder_stride=stride, rates=(1, 2), units=1).restore(image, scales=True)
    assert whole.shape == (4, *size, 3)
    # Sums of another shape may round differently in float32, and so a value may fall on the other side of a half.
    difference = np.abs(whole.astype(int) - tiled)
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-4


def test_an_image_is_continued_by_reflection_to_the_stride():
    """The restored image is that of a canvas which is mirrored here, pixel by pixel, without its added rows."""
    image = picture(30, 41)
    rows, columns = [*range(30), 28, 27], [*range(41), 39, 38, 37]
    canvas = image[np.ix_(rows, columns)]
    derainer = make(encoder_stride=4)
    np.testing.assert_array_equal(derainer(image), derainer(canvas)[:30, :41])
    np.testing.assert_array_equal(derain.pad_to_stride(image, 4), canvas)


def test_a_fingerprint_is_of_weights_and_settings():
    """And of nothing that changes no result: the same with other tiles."""
    found = make().fingerprint
    assert make(tile=96, few_shapes=True).fingerprint == found == make().fingerprint
    other = make()
    other.variables = jax.tree.map(lambda leaf: leaf + 1, other.variables)
    assert len({found, other.fingerprint, make(dtype='bfloat16').fingerprint}) == 3


def test_a_margin_that_is_too_narrow_shows(monkeypatch):
    """The halo is needed: with a third of it the tiles' edges differ."""
    image = picture(96, 160)
    whole = make(tile=512).restore(image)
    monkeypatch.setattr(derain, '_halo', lambda network: 5)
    assert np.abs(whole.astype(int) - make(tile=64).restore(image)).max() > 1


def test_scores_take_tiles_that_wide_margins_need():
    """Of a network that sees far, more than the usual side; a given one that is too small is refused."""
    assert make(tile=None).tile == derain.TILE
    far = make(tile=None, rates=(1, 400))
    assert far.tile > 2 * derain._halo(far.network) > derain.TILE
    with pytest.raises(UserError, match=f'use --tile={far.tile} or more'):
        make(tile=derain.TILE, rates=(1, 400))


def test_cores_cover_every_pixel_once():
    """For many sizes: windows of one size, cores that join, margins of at least the halo."""
    for extent in range(32, 2000, 32):
        for tile, halo, stride in ((96, 16, 1), (256, 31, 1), (320, 110, 4)):
            spans = derain._spans(extent, tile, halo, stride)
            assert spans[0][2] == 0 and spans[-1][3] == extent
            for (_, stop, _, last), (start, _, first, _) in zip(spans, spans[1:], strict=False):
                assert last == first and stop - last >= halo and first - start >= halo
            assert len({stop - start for start, stop, _, _ in spans}) == 1
            assert all(start % stride == 0 for start, *_ in spans)
            if tile % 32 == 0 and tile < extent:  # none is larger than their number needs
                side = spans[0][1] - spans[0][0]
                assert side <= tile and (side - 32 - 2 * halo) * len(spans) + 2 * halo < extent


@pytest.mark.parametrize('size', [(1, 1), (1, 40), (3, 2), (33, 31), (64, 64)])
def test_any_size_comes_out_as_it_went_in(size):
    """From one pixel on."""
    assert make()(picture(*size)).shape == (*size, 3)


def test_result_is_the_image_minus_the_rain():
    """The Derainer is to_uint8(I - S(I)) and nothing else."""
    derainer, image = make(), picture(32, 64)
    rainy = images.to_float(image)
    rain = jax.jit(derainer.network.apply)(derainer.variables, jnp.asarray(rainy[None])).rain[0]
    np.testing.assert_array_equal(derainer(image), images.to_uint8(rainy - np.asarray(rain)))


def test_sizes_share_compilations():
    """On request, mixed sizes compile one program per multiple of 32, not per size, and the results stay."""
    derainer = make(units=2)  # a network that no other test has compiled
    pictures = [picture(height, 90) for height in range(97, 125, 9)]
    before = derain._predict._cache_size()
    shared = [make(units=2, few_shapes=True)(image) for image in pictures]
    assert derain._predict._cache_size() == before + 1
    for image, found in zip(pictures, shared, strict=True):
        difference = np.abs(found.astype(int) - derainer(image))
        assert difference.max() <= 1 and np.mean(difference > 0) < 1e-3
    assert derain._predict._cache_size() > before + 1


SCORED = [
    (1, 'batch', (52, 44)),
    (4, 'instance', (52, 44)),
    pytest.param(1, 'instance', (36, 60), marks=pytest.mark.slow),
    pytest.param(2, 'batch', (36, 60), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(('stride', 'norm', 'size'), SCORED)
def test_scores_are_those_of_the_image_alone(size, norm, stride):
    """At a multiple of the stride nothing is continued: the result is that of `apply` on the image, bit for bit."""
    derainer, image = make(norm=norm, encoder_stride=stride), picture(*size)
    rainy = images.to_float(image)
    rain = jax.jit(derainer.network.apply)(derainer.variables, jnp.asarray(rainy[None])).rain[0]
    np.testing.assert_array_equal(derainer(image), images.to_uint8(rainy - np.asarray(rain)))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['default', 'narrow'])
def test_real_rain_is_scored_on_the_image_alone(data_root, name):
    """All 35 pairs of RainTrainL/val with weights of the package: `apply` on each, bit for bit.

    A network of half the resolution takes even sizes, to which the image goes on by reflection.
    """
    derainer = derain.load(name)
    apply, stride = jax.jit(derainer.network.apply), derainer.network.encoder_stride
    pictures = sorted((data_root / 'RainTrainL/val/clean').glob('*.png'))
    assert len(pictures) == 35
    for path in pictures:
        layer = images.read(path.parent.parent / 'layer' / path.name)
        image = np.minimum(images.read(path).astype(int) + layer, 255).astype(np.uint8)
        rainy = images.to_float(image)
        height, width, _ = rainy.shape
        whole = np.pad(rainy, ((0, -height % stride), (0, -width % stride), (0, 0)), mode='reflect')
        rain = np.asarray(apply(derainer.variables, jnp.asarray(whole[None])).rain[0])[:height, :width]
        np.testing.assert_array_equal(derainer(image), images.to_uint8(rainy - rain))


def test_tiles_without_a_core_are_refused():
    """A tile must be larger than its two margins."""
    with pytest.raises(UserError, match='--tile=64 or more'):
        make(tile=32)


@pytest.mark.parametrize('settings', [{}, {**SETTINGS, 'units': 9}])
def test_variables_of_another_network_are_refused(settings):
    """In one line, where they are first used."""
    variables = model.initialize(model.from_config(SETTINGS), seed=0)
    with pytest.raises(UserError, match=r'not those of a network of these settings: .*"/(stem_1|unit_2)/[^\n]*$'):
        derain.Derainer(variables, settings)(picture(16, 16))


def test_instance_norm_runs_on_the_whole_image():
    """No tiles, whatever was asked for: the statistics are those of the image."""
    image = picture(64, 200)
    np.testing.assert_array_equal(make(tile=32, norm='instance')(image), make(norm='instance')(image))


@pytest.mark.parametrize('image', [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_refused(image):
    """Only uint8 (H, W, 3) with pixels in it."""
    with pytest.raises(UserError, match='expected uint8'):
        make()(image)


def test_load_reads_a_weights_file(tmp_path):
    """The Python interface: load(path)(image)."""
    derainer = make()
    files.save_weights(tmp_path / 'w.safetensors', derainer.variables, SETTINGS)
    image = picture(30, 40)
    np.testing.assert_array_equal(derain.load(tmp_path / 'w.safetensors')(image), derainer(image))


def test_half_precision_on_request(tmp_path):
    """The same weights computed in bfloat16 come within a few levels."""
    derainer = make()
    files.save_weights(tmp_path / 'w.safetensors', derainer.variables, SETTINGS)
    half = derain.load(tmp_path / 'w.safetensors', dtype='bfloat16')
    assert half.network.dtype == 'bfloat16'
    image = picture(30, 40)
    difference = np.abs(half(image).astype(int) - derainer(image))
    assert 0 < difference.max() <= 8


def test_photos_are_computed_in_single_precision_whatever_training_was(tmp_path):
    """As exports and other runtimes do, so that all give the same pixels."""
    derainer = make(dtype='bfloat16')
    files.save_weights(tmp_path / 'w.safetensors', derainer.variables, derainer.settings)
    loaded, image = derain.load(tmp_path / 'w.safetensors'), picture(30, 40)
    assert loaded.network.dtype == loaded.settings['dtype'] == 'float32'
    np.testing.assert_array_equal(loaded(image), make()(image))


@pytest.mark.parametrize('gib', [0, 0.5, 2, 6, 100])
def test_tile_follows_the_memory_that_is_free(monkeypatch, gib):
    """The largest multiple of 32 whose estimate is within half of what is free, up to 1024, at least two margins."""
    monkeypatch.setattr(derain, '_free_memory', lambda: int(gib * 2**30))
    full = {**SETTINGS, 'channels': 132, 'scale_channels': 66}
    side = derain.choose_tile(full)
    assert side % 32 == 0 and 64 <= side <= derain.LARGEST_TILE
    need = derain.ACTIVATIONS * 132 * 4 * side**2
    assert need <= gib * 2**29 or side == 64
    assert derain.ACTIVATIONS * 132 * 4 * (side + 32) ** 2 > gib * 2**29 or side == derain.LARGEST_TILE


@pytest.mark.parametrize('free', [0, None])
@pytest.mark.parametrize('stride', [1, 2, 4])
def test_chosen_tile_is_never_too_small(monkeypatch, stride, free):
    """Whatever memory there is, none at all included, the full-size network takes the choice."""
    if free is not None:
        monkeypatch.setattr(derain, '_free_memory', lambda: free)
    full = {'channels': 132, 'scale_channels': 66, 'units': 12, 'rates': (1, 2, 4, 6), 'encoder_stride': stride}
    tile = derain.choose_tile({**SETTINGS, **full})
    assert make(tile=tile, **full).tile == tile


def test_the_weights_that_come_with_the_package_remove_rain():
    """load() needs no file and brings drawn rain on a photo it has not seen closer to the clean photo."""
    from qsnet_jax.configs import default

    from qsnet_jax import metrics
    from qsnet_jax.data import sets, sources

    source = sets.open_source('drawn_light', default.get_config().data, 'eval', sources.Cache(1e9))
    rainy, clean = (image[:160, :160] for image in source.load(0))
    assert metrics.psnr(derain.load()(rainy), clean, 'rgb') > metrics.psnr(rainy, clean, 'rgb') + 1


@pytest.mark.parametrize('stride', [1, 2])
def test_another_runtime_takes_the_place_of_the_network(stride):
    """It is given tiles as they are in the image, and of what it returns the cores are stitched."""
    given = []

    def darken(rainy):
        given.append(rainy)
        return rainy // 2

    derainer = make(96, encoder_stride=stride)
    derainer.runtime = darken
    image = picture(101, 203)
    np.testing.assert_array_equal(derainer(image), image // 2)
    assert len(given) > 4 and {tile.dtype.name for tile in given} == {'uint8'} and {len(tile) for tile in given} == {1}
    np.testing.assert_array_equal(given[0][0], image[: given[0].shape[1], : given[0].shape[2]])
    with pytest.raises(UserError, match='leave scales, or the runtime, out'):
        derainer.restore(image, scales=True)
    with pytest.raises(UserError, match="scales='no'; expected True or False"):
        derainer.restore(image, scales='no')


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ({'weights': 3}, "3 names no weights; expected a path as str or Path, or one of 'default'"),
        ({'weights': b'light'}, "b'light' names no weights"),
        ({'weights': ['light']}, 'names no weights'),
        ({'weights': ''}, "'' names no weights"),
        ({'weights': 0}, '0 names no weights'),
        ({'weights': {}}, '{} names no weights'),
        ({'dtype': ''}, "dtype is ''; it must be one of float32"),
        (
            {'runtime': 'onnxruntime'},
            "runtime='onnxruntime'; expected a bool, and None or what qsnet_jax",
        ),
        ({'few_shapes': 'no'}, "few_shapes='no', runtime=None; expected a bool"),
        ({'tile': 'a'}, "tile is 'a'; expected a whole number"),
        ({'tile': 512.5}, 'tile is 512.5; expected a whole number'),
        ({'tile': False}, 'tile is False; expected a whole number'),
        ({'tile': np.array([256, 256])}, 'tile is array([256, 256]); expected a whole number'),
        ({'dtype': 'int8'}, "dtype is 'int8'; it must be one of float32"),
    ],
)
def test_what_load_does_not_take_is_said(given, message):
    """In one line, with what is expected, and not when the first image is restored."""
    with pytest.raises(UserError) as caught:
        derain.load(**given)
    assert message in str(caught.value)


def test_the_example_of_the_readme_restores_a_photo(tmp_path, monkeypatch):
    """As printed, on a photo of that name; of OpenCV's order of channels another image would come out."""
    text = (pathlib.Path(__file__).parents[1] / 'README.md').read_text()
    (code,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    assert 'RGB' in code
    monkeypatch.chdir(tmp_path)
    images.save('photo.jpg', picture(40, 40))
    names = {}
    exec(code, names)
    rainy = images.read('photo.jpg')
    np.testing.assert_array_equal(names['restored'], derain.load()(rainy))
    assert not np.array_equal(names['restored'], derain.load()(rainy[..., ::-1])[..., ::-1])
