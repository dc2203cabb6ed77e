"""Sources of images: pairing by name, clear refusals, the additive rain model, drawn sets."""

import pathlib
import re

import numpy as np
import pytest
from ml_collections import config_dict
from PIL import Image
from qsnet_jax.configs import default

from qsnet_jax import UserError
from qsnet_jax.data import images, rain, sets, sources, unread
from tests.drawn import draw_pair


@pytest.fixture
def data(tmp_path):
    """`config.data` whose root is an empty folder."""
    data = default.get_config().data
    data.root = str(tmp_path)
    return data


def write(root, name, image):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    images.save(path, image)


def open_source(name, data, role='eval'):
    return sets.open_source(name, data, role, sources.Cache(1e9))


@pytest.mark.parametrize(
    ('rainy', 'clean'),
    [
        ('rain-{}.png', 'norain-{}.png'),
        ('rainy/rain-{}.png', 'norain-{}.png'),
        ('input/{}.png', 'target/{}.png'),
        ('rainy/{}.png', 'clean/{}.jpg'),
        ('rain/{}.png', 'norain/{}.png'),
    ],
)
def test_layouts_pair_by_key(tmp_path, data, rainy, clean):
    """Each known layout is recognised, and 2 meets 2 although 10 sorts before it as text."""
    for number in (10, 2, 1):
        write(tmp_path, rainy.format(number), np.full((8, 8, 3), number + 100, np.uint8))
        write(tmp_path, clean.format(number), np.full((8, 8, 3), number, np.uint8))
    source = open_source('pairs', data)
    assert source.names == ['1', '2', '10']
    for index, number in enumerate((1, 2, 10)):
        first, second = source.load(index)
        assert abs(int(first[0, 0, 0]) - number - 100) <= 1 and abs(int(second[0, 0, 0]) - number) <= 1


@pytest.mark.parametrize(('rainy', 'clean'), [('rainy_image', 'ground_truth'), ('input', 'target'), ('rainy', 'clean')])
def test_several_rainy_images_of_one_clean_image_are_pairs(tmp_path, data, rainy, clean):
    """Numbered from 1 on, without patterns; they are one scene. A file without a number among them is named."""
    for number in (1, 2):
        write(tmp_path, f'{clean}/{number}.png', np.full((4, 4, 3), number, np.uint8))
        for version in (1, 2, 10):
            write(tmp_path, f'{rainy}/{number}_{version}.png', np.full((4, 4, 3), 10 * number + version, np.uint8))
    source = open_source('pairs', data)
    assert source.names == ['1_1', '1_2', '1_10', '2_1', '2_2', '2_10'] and source.groups == ['1'] * 3 + ['2'] * 3
    assert [int(image[0, 0, 0]) for image in source.load(2)] == [20, 1]
    write(tmp_path, f'{rainy}/first.png', np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UserError, match=rf'1 problem .*first\.png is not called {rainy}/\*_\+'):
        open_source('pairs', data)


def test_patterns_name_any_layout(tmp_path, data):
    """Own patterns pair by what the star stands for."""
    write(tmp_path, 'a/x_7_wet.png', np.full((4, 4, 3), 9, np.uint8))
    write(tmp_path, 'b/y_7.png', np.full((4, 4, 3), 5, np.uint8))
    data.rainy, data.clean = 'a/x_*_wet.png', 'b/y_*.png'
    source = open_source('pairs', data)
    assert source.names == ['7']
    assert [int(image[0, 0, 0]) for image in source.load(0)] == [9, 5]


def test_roles_have_their_folders(pairs_root, data):
    """Below root, training reads train/ and evaluation val/, without being told."""
    data.root = str(pairs_root)
    assert len(open_source('pairs', data, 'train').names) == 6
    assert len(open_source('pairs', data, 'eval').names) == 3
    assert len(open_source('pairs/train', data, 'eval').names) == 6


LONGER = {'train': 'Training', 'test': 'Testing', 'val': 'Val'}


@pytest.mark.parametrize('spell', [str, str.upper, LONGER.get])
def test_evaluation_takes_test_before_val_and_says_so(tmp_path, data, capsys, spell):
    """As with public sets, in any case and also in the longer names; the other folder can be named."""
    for number, folder in enumerate(('train', 'val', 'test')):
        for side in ('rain', 'norain'):
            write(tmp_path, f'A/{spell(folder)}/{side}-{number}.png', np.full((4, 4, 3), 9, np.uint8))
    assert open_source('pairs/A', data, 'train').names == ['0']
    assert capsys.readouterr().out == ''
    source, folder = open_source('pairs/A', data), spell('test')
    assert source.names == ['2'] and sources.fingerprint(source)['folder'] == folder
    told = capsys.readouterr().out
    assert told == f'note: pairs/A is read from {tmp_path}/A/{folder}, not from {tmp_path}/A/{spell("val")}\n'
    for name, role in ((f'pairs/A/{spell("val")}', 'eval'), ('pairs/A', 'validation')):  # by name, or to watch a run
        assert open_source(name, data, role).names == ['1']
    assert 'folder' not in sources.fingerprint(open_source(f'pairs/A/{spell("val")}', data))


@pytest.mark.parametrize('side', ['A/clean', 'B/layer'])
def test_a_layer_or_background_of_another_kind_is_a_problem_that_is_named(tmp_path, data, side):
    """With what files of that side look like, and what to do."""
    plain(tmp_path, 'A/clean', (1, 2), (20, 30, 3), 1)
    plain(tmp_path, 'B/layer', (4, 5), (20, 30), 10)
    write(tmp_path, f'{side}/9.png', np.zeros((20, 30), np.uint8))
    (tmp_path / side / '9.png').rename(tmp_path / side / '9.heic')
    folder, kind = side.split('/')
    expected = rf'images under .*/{folder}, recognised as {kind}/\*: .*9\.heic.* Convert, rename or remove'
    with pytest.raises(UserError, match=expected):
        open_source('layers/A+B', data, 'train')


def test_a_held_out_folder_of_layers_is_known_in_any_case(tmp_path, data):
    """None of its layers is then kept from training, and none of training's scored."""
    plain(tmp_path, 'A/clean', (1, 2), (20, 30, 3), 1)
    plain(tmp_path, 'B/Train/layer', (4, 5, 6), (20, 30), 10)
    plain(tmp_path, 'B/Testing/layer', (7,), (20, 30), 10)
    names = [[path.stem for path in open_source('layers/A+B', data, role).layers] for role in ('train', 'eval')]
    assert names == [['4', '5', '6'], ['7']]


def test_orphans_are_named(tmp_path, data):
    """Files without a partner stop the program with their names and their number."""
    for number in range(12):
        write(tmp_path, f'rain-{number}.png', np.zeros((4, 4, 3), np.uint8))
    write(tmp_path, 'norain-99.png', np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(
        UserError, match=r'13 problems .*rain-\* with norain-\*: rain-0\.png has no norain-\*.*and 3 more'
    ):
        open_source('pairs', data)


def test_unequal_sizes_and_broken_files_are_listed_together(tmp_path, data):
    """One error for all pairs that cannot be used."""
    for number in range(3):
        write(tmp_path, f'rain-{number}.png', np.zeros((4, 4, 3), np.uint8))
        write(tmp_path, f'norain-{number}.png', np.zeros((4, 4 + number % 2, 3), np.uint8))
    (tmp_path / 'rain-2.png').write_text('no image')
    with pytest.raises(UserError, match=r'(?s)2 problems.*4x4 and .*4x5.*rain-2\.png'):
        open_source('pairs', data)


def test_two_files_of_one_name_are_refused(tmp_path, data):
    """rain-1.png and rain-1.jpg leave open which is meant."""
    for name in ('rain-1.png', 'rain-1.jpg', 'norain-1.png'):
        write(tmp_path, name, np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UserError, match='are both called'):
        open_source('pairs', data)


def test_a_slip_in_the_word_for_what_is_held_out(data):
    """Of validation alone, which knows that word."""
    with pytest.raises(UserError, match="Unknown data set 'heldout' .did you mean held_out"):
        open_source('heldout', data, 'validation')


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        ('pairs', {}, r'No images to pair under .* Tried rain-\* with norain-\* \(0 and 0 files\)'),
        ('pairs', {}, r"Write how yours are called, as --config.data.rainy='FOLDER/\*_rainy.png' --config.data.clean="),
        ('pairs', {'root': None}, 'config.data.root'),
        ('pairs/none', {}, 'is not a folder'),
        ('pairs', {'rainy': 'a/*.png'}, 'both'),
        ('pairs', {'rainy': 'a/x.png', 'clean': 'b/*.png'}, 'exactly one'),
        ('pairs', {'rainy': '*/rainy.png', 'clean': 'b/*.png'}, 'exactly one'),
        ('layers', {}, r'clean/\* with layer/\* \(0 and 0 files\)'),
        ('rain100', {}, r"Unknown data set 'rain100' \(did you mean rain100h or rain100l\?\)"),
        ('rain100x', {}, "Unknown data set 'rain100x' .did you mean rain1"),
        ('drawn_none', {}, 'Unknown'),
        ('nothing', {}, r'\(there are .*drawn_light, .*pairs, .*\); pairs and layers also as pairs/FOLDER'),
    ],
)
def test_what_is_missing_is_said(data, name, change, message):
    """Nothing is guessed; the message names what was looked for."""
    data.update(change)
    with pytest.raises(UserError, match=message):
        open_source(name, data)


def test_layers_are_added_exactly(tmp_path, data):
    """rainy = min(255, clean + layer), pixel by pixel."""
    generator = np.random.default_rng(0)
    clean = generator.integers(256, size=(9, 7, 3), dtype=np.uint8)
    layer = generator.integers(256, size=(9, 7), dtype=np.uint8)
    write(tmp_path, 'clean/a.png', clean)
    write(tmp_path, 'layer/a.png', layer)
    rainy, found = open_source('layers', data).load(0)
    np.testing.assert_array_equal(rainy, np.minimum(clean.astype(int) + layer[..., None], 255))
    np.testing.assert_array_equal(found, clean)


def test_any_layer_meets_any_background(tmp_path, data):
    """With any_layer, training mixes them, whatever their sizes, and evaluation does not."""
    for number in range(2):
        write(tmp_path, f'clean/{number}.png', np.full((20, 30, 3), number, np.uint8))
        write(tmp_path, f'layer/{number}.png', np.full((20, 30), 10 + 10 * number, np.uint8))
    write(tmp_path, 'layer/lone.png', np.full((5, 60), 40, np.uint8))
    data.any_layer = True
    source = open_source('layers', data, 'train')
    seen = set()
    for seed in range(60):
        rainy, clean = source.sample(seed % 2, 16, np.random.default_rng(seed))
        seen.add((int(clean[0, 0, 0]), int(rainy[0, 0, 0]) - int(clean[0, 0, 0])))
    assert seen == {(background, layer) for background in (0, 1) for layer in (10, 20, 40)}
    with pytest.raises(UserError, match='lone'):
        open_source('layers', data, 'eval')


def plain(root, folder, numbers, size, level):
    """Plain pictures NUMBER.png of `size` whose value is `level` times the number."""
    for number in numbers:
        write(root, f'{folder}/{number}.png', np.full(size, level * number, np.uint8))


def drawn_pairs(source, crop=16, draws=80):
    """(background, light that was added) of random crops of plain pictures, in the middle of the crop."""
    pairs = [source.sample(i % len(source.names), crop, np.random.default_rng(i)) for i in range(draws)]
    middle = crop // 2
    return {(int(clean[middle, middle, 0]), int(rainy[middle, middle, 0]) - int(clean[middle, middle, 0]))
            for rainy, clean in pairs}  # fmt: skip


def test_layers_of_one_folder_on_backgrounds_of_another(tmp_path, data):
    """Every third layer is for evaluation alone; backgrounds follow their own split; nothing is in both roles."""
    plain(tmp_path, 'A/train/clean', (1, 2), (20, 30, 3), 1)
    plain(tmp_path, 'A/val/clean', (3, 4, 5), (20, 30, 3), 1)
    plain(tmp_path, 'B/train/layer', range(1, 8), (25, 40), 10)
    train, held_out = (open_source('layers/A+B', data, role) for role in ('train', 'eval'))
    assert drawn_pairs(train) == {(clean, layer) for clean in (1, 2) for layer in (20, 30, 50, 60)}
    scored = [held_out.load(index) for index in range(3)]
    assert [(int(c[0, 0, 0]), int(r[0, 0, 0]) - int(c[0, 0, 0])) for r, c in scored] == [(3, 10), (4, 40), (5, 70)]
    assert train.names == ['1', '2'] and held_out.names == ['3+1', '4+4', '5+7']
    data.hold_out = 0
    assert {layer for _, layer in drawn_pairs(open_source('layers/A+B', data, 'train'))} == set(range(10, 80, 10))
    plain(tmp_path, 'B/val/layer', (9,), (25, 40), 10)
    data.hold_out = 3  # a split of the folder's own comes first
    assert {layer for _, layer in drawn_pairs(open_source('layers/A+B', data, 'train'))} == set(range(10, 80, 10))
    assert [path.name for path in open_source('layers/A+B', data, 'eval').layers] == ['9.png']


def test_layers_without_a_folder_of_their_own_name(tmp_path, data):
    """Pictures that lie in the folder itself are its layers; a side without any is an error."""
    plain(tmp_path, 'A/clean', (1, 2), (20, 30, 3), 1)
    plain(tmp_path, 'streaks', (4, 5, 6), (20, 30), 10)
    assert [path.name for path in open_source('layers/A+streaks', data, 'train').layers] == ['5.png', '6.png']
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='0 layers in'):
        open_source('layers/A+empty', data)
    with pytest.raises(UserError, match='0 backgrounds in'):  # those must lie in clean/: nothing is guessed
        open_source('layers/streaks+streaks', data)
    data.hold_out = 1
    with pytest.raises(UserError, match=r'0 layers in .*data\.hold_out'):
        open_source('layers/A+streaks', data, 'train')
    (tmp_path / 'streaks/4.png').write_bytes(b'broken')
    with pytest.raises(UserError, match=r'1 problem .*4\.png'):
        open_source('layers/A+streaks', data)


def test_layers_that_fit_are_scored_first_and_small_ones_continued(tmp_path, data):
    """A background gets a layer at least of its size where there is one; else a layer is continued by reflection."""
    for number, size in enumerate(((20, 30, 3), (30, 20, 3), (33, 24, 3)), start=1):
        plain(tmp_path, 'A/clean', (number,), size, 1)
    ramp = np.tile(np.arange(20, dtype=np.uint8), (30, 1))
    for number, layer in enumerate((ramp, np.full((20, 30), 100, np.uint8)), start=1):
        write(tmp_path, f'B/layer/{number}.png', layer)
    data.hold_out = 0
    source = open_source('layers/A+B', data)
    wide, tall, larger = (source.load(index) for index in range(3))
    assert source.groups == ['2', '1', '1']  # of one layer: no independent evidence
    np.testing.assert_array_equal(wide[0], wide[1] + 100)
    np.testing.assert_array_equal(tall[0][..., 0], ramp + 2)
    np.testing.assert_array_equal(larger[0][:30, :20, 0], ramp + 3)
    np.testing.assert_array_equal(larger[0][:30, 20:, 0], ramp[:, 18:14:-1] + 3)
    np.testing.assert_array_equal(larger[0][30:], larger[0][28:25:-1])


def test_varied_layers_are_enlarged_and_brightened_within_bounds(tmp_path, data):
    """A line of 8 pixels and 100 levels comes out 4 to 16 pixels wide and 50 to 200 levels bright, and in between."""
    plain(tmp_path, 'A/clean', (0,), (96, 96, 3), 1)
    layer = np.zeros((96, 96), np.uint8)
    layer[:, 44:52] = 100
    write(tmp_path, 'B/layer/1.png', layer)
    data.hold_out, data.vary_layers = 0, 2.0
    source = open_source('layers/A+B', data, 'train')
    found = []
    for seed in range(60):
        rain_row = source.sample(0, 64, np.random.default_rng(seed))[0][32, :, 0].astype(int)
        if rain_row[0] == rain_row[-1] == 0 and rain_row.any():  # the whole width is inside
            found.append((rain_row.sum() / rain_row.max(), rain_row.max()))
    widths, levels = np.array(found).T
    assert 3.5 <= widths.min() < 6 and 11 < widths.max() <= 17
    assert 50 <= levels.min() < 70 and 150 < levels.max() <= 200
    data.vary_layers = 1.0
    rainy, _ = open_source('layers/A+B', data, 'train').sample(0, 64, np.random.default_rng(0))
    assert set(np.unique(rainy)) == {0, 100}


def line_layer(data, tmp_path):
    """A black background, and two layers with a vertical line each."""
    write(tmp_path, 'B/clean/a.png', np.zeros((90, 90, 3), np.uint8))
    for name, column in (('x', 40), ('y', 50)):
        layer = np.zeros((90, 90), np.uint8)
        layer[:, column : column + 3] = 200
        write(tmp_path, f'L/{name}.png', layer)
    data.root, data.hold_out = str(tmp_path), 0


def test_turned_layers_have_streaks_of_other_directions(tmp_path, data):
    """The line leans by up to the stated angle to both sides, and the patch is filled to its corners."""
    line_layer(data, tmp_path)
    data.turn_layers = 30.0
    source, leaning = open_source('layers/B+L', data, 'train'), []
    for seed in range(60):
        rainy, _ = source.sample(0, 48, np.random.default_rng(seed))
        rows, columns = np.nonzero(rainy[..., 0] > 100)
        if len(rows) and np.ptp(rows) > 40:
            leaning.append(np.degrees(np.arctan(np.polyfit(rows, columns, 1)[0])))
    assert len(leaning) > 20 and max(leaning) > 15 and min(leaning) < -15 and np.abs(leaning).max() < 31


def test_joined_layers_lie_together(tmp_path, data):
    """With a share of one, two layers are on every patch, weighted so that their squares add up to one."""
    line_layer(data, tmp_path)
    data.join_layers = 1.0
    source, pairs = open_source('layers/B+L', data, 'train'), 0
    for seed in range(40):
        rainy, _ = source.sample(0, 90, np.random.default_rng(seed))
        found = sorted({int(value) for value in rainy[5, :, 0]} - {0})
        if len(found) == 2:
            pairs += 1
            assert np.hypot(*found) == pytest.approx(200, abs=2)
    assert pairs > 5


def test_backgrounds_that_training_and_evaluation_share_are_left_out_of_any_layer(tmp_path, data):
    """data.exclude works on backgrounds without layers of their own."""
    for number in range(3):
        write(tmp_path, f'A/train/clean/{number}.png', draw_pair(number)[1])
    write(tmp_path, 'A/val/clean/9.png', draw_pair(1)[1])
    plain(tmp_path, 'B/layer', (1, 2), (48, 56), 1)
    data.train, data.exclude, data.validation = 'layers/A+B', 'layers/A+B', 'layers/A+B'
    assert sets.open_training(data, sources.Cache(1e9))['layers/A+B'].names == ['0', '2']


def test_a_broken_layer_is_met_before_training_whatever_is_left_out(tmp_path, data):
    """Also where the first background is that of an excluded set: any item may get any layer."""
    for number in range(3):
        write(tmp_path, f'A/train/clean/{number}.png', draw_pair(number)[1])
    write(tmp_path, 'A/val/clean/9.png', draw_pair(0)[1])
    for number in range(1, 10):
        write(tmp_path, f'B/layer/{number}.png', draw_pair(number)[1][..., 0])
    broken = tmp_path / 'B/layer/9.png'
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    data.train, data.exclude, data.validation, data.eval = ('layers/A+B',) * 4
    with pytest.raises(UserError, match=r'1 of the \d files of data set layers/A\+B cannot be read: .*9\.png'):
        sets.open_run(data, sources.Cache(1e9))


def test_layer_of_another_size_is_refused(tmp_path, data):
    """A paired layer must fit its background."""
    write(tmp_path, 'clean/a.png', np.zeros((8, 8, 3), np.uint8))
    write(tmp_path, 'layer/a.png', np.zeros((8, 9), np.uint8))
    with pytest.raises(UserError, match='8x8 and .*8x9'):
        open_source('layers', data)


@pytest.mark.parametrize('kind', ['transparent', 'coloured'])
def test_layers_that_are_no_grey_light_are_refused(tmp_path, data, kind):
    """White streaks with transparency, as editors save them, would make everything white."""
    layer = np.full((8, 9, 4), 255, np.uint8)
    layer[:4, :, 3 if kind == 'transparent' else 0] = 0
    write(tmp_path, 'clean/a.png', np.zeros((8, 9, 3), np.uint8))
    (tmp_path / 'layer').mkdir()
    Image.fromarray(layer).save(tmp_path / 'layer/a.png')
    found = 'has transparent parts' if kind == 'transparent' else 'channels 255 levels apart'
    with pytest.raises(UserError, match=f'a.png: {found}; expected a rain layer, grey on black'):
        open_source('layers', data).load(0)


def test_a_folder_that_may_not_be_read_is_named(tmp_path, data, monkeypatch):
    """Not as a trouble with the folder of the run."""

    def refuse(path):
        raise PermissionError(13, 'Permission denied')

    (tmp_path / 'clean').mkdir()
    monkeypatch.setattr(pathlib.Path, 'iterdir', refuse)
    with pytest.raises(UserError, match=f'{tmp_path}.* cannot be read: Permission denied. Take the rights to read'):
        open_source('layers', data)


def test_crops_are_aligned_and_cover_the_image(pairs_root, data):
    """Both sides of a crop come from one place, and every place is drawn."""
    data.root = str(pairs_root)
    source = open_source('pairs', data)
    whole = np.concatenate(source.load(0), axis=-1)
    found = set()
    for seed in range(200):
        crop = np.concatenate(source.sample(0, 40, np.random.default_rng(seed)), axis=-1)
        matches = [
            (i, j)
            for i in range(whole.shape[0] - 40 + 1)
            for j in range(whole.shape[1] - 40 + 1)
            if np.array_equal(whole[i : i + 40, j : j + 40], crop)
        ]
        assert len(matches) == 1
        found.add(matches[0])
    assert {i for i, _ in found} == set(range(9)) and {j for _, j in found} == set(range(17))


@pytest.mark.parametrize('shape', [(1, 1, 3), (5, 40, 3), (40, 7, 3)])
def test_small_images_are_continued_by_reflection(shape):
    """A crop larger than the image is its reflection, as NumPy pads."""
    image = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    window = sources.random_window(shape, 24, np.random.default_rng(0))
    patch = sources.cut(image, window, 24)
    assert patch.shape == (24, 24, 3)
    top, left = window
    inside = image[top : top + 24, left : left + 24]
    np.testing.assert_array_equal(patch[: inside.shape[0], : inside.shape[1]], inside)
    if shape[0] == 5:
        np.testing.assert_array_equal(patch[5], patch[3])


def test_drawn_sets_are_fixed_and_held_out(data):
    """The evaluation set is the same whenever it is opened, and shares no photo with training."""
    first, second = open_source('drawn_heavy', data), open_source('drawn_heavy', data)
    assert len(first.names) == len(set(first.names)) == 12
    for one, other in zip(first.load(5), second.load(5), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not set(first.photos) & set(open_source('drawn_heavy', data, 'train').photos)
    other = open_source('drawn_light', data)
    assert sources.fingerprint(first) == sources.fingerprint(second) != sources.fingerprint(other)


def test_drawn_training_samples_vary_and_repeat(data):
    """A sample is a function of the generator, and rain only brightens."""
    source = open_source('drawn_light', data, 'train')
    rainy, clean = source.sample(0, 32, np.random.default_rng(1))
    again, _ = source.sample(0, 32, np.random.default_rng(1))
    other, _ = source.sample(0, 32, np.random.default_rng(2))
    np.testing.assert_array_equal(rainy, again)
    assert not np.array_equal(rainy, other)
    assert (rainy >= clean).all() and (rainy > clean).any()


def test_cache_gives_the_same_images_with_and_without_room(pairs_root, data):
    """A budget of nothing decodes anew; a budget of one image keeps one."""
    data.root = str(pairs_root)
    roomy, narrow = (sets.open_source('pairs', data, 'eval', sources.Cache(size)) for size in (1e9, 0))
    for index in range(3):
        for one, other in zip(roomy.load(index), narrow.load(index), strict=True):
            np.testing.assert_array_equal(one, other)
    assert roomy.load(0)[0] is roomy.load(0)[0]
    assert narrow.load(0)[0] is not narrow.load(0)[0]


def test_fingerprint_follows_content_not_order(tmp_path, data):
    """Changing one pixel of one file changes it; nothing else does."""

    def fingerprint():
        return sources.fingerprint(open_source('pairs', data))

    for number in range(3):
        rainy, clean = draw_pair(number)
        write(tmp_path, f'rain-{number}.png', rainy)
        write(tmp_path, f'norain-{number}.png', clean)
    before = fingerprint()
    assert before == fingerprint()
    assert before['count'] == 3
    rainy[0, 0, 0] ^= 1
    write(tmp_path, 'rain-2.png', rainy)
    assert fingerprint()['sha256'] != before['sha256']


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        ('pairs', [('pairs', 1.0)]),
        ('drawn_light:2, pairs/a:0.5', [('drawn_light', 2.0), ('pairs/a', 0.5)]),
        (('pairs', 'layers'), [('pairs', 1.0), ('layers', 1.0)]),
        ("('pairs',)", [('pairs', 1.0)]),
        (['pairs:3'], [('pairs', 3.0)]),
    ],
)
def test_names_are_read_as_people_write_them(names, expected):
    """Text, tuples and lists, as they come from a command line or a script."""
    assert sets.parse_names(names) == expected


@pytest.mark.parametrize(
    ('train', 'scored', 'is_learning', 'is_told'),
    [
        ('drawn_light', 'drawn_heavy', True, True),
        ('drawn_light', 'pairs', True, False),
        ('drawn_light/own', 'drawn_heavy', True, False),
        ('pairs', 'drawn_heavy', False, True),
        ('drawn_light', 'rain100h,drawn_light', False, False),
        ('drawn_light', 'test_iii_stand_in', True, True),
    ],
)
def test_a_root_that_no_set_reads_is_told(capsys, train, scored, is_learning, is_told):
    config = default.get_config()
    config.data.update({'root': 'mine', 'train': train, 'eval': scored})
    unread.note(config, is_learning)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == is_told
    assert all(line.startswith('note: no named set reads --config.data.root=mine;') for line in lines)


@pytest.mark.parametrize(
    ('name', 'unread_fields'),
    [('rain100l', ['rainy', 'clean', 'layer']), ('pairs/mine', ['layer']), ('layers', ['rainy']), ('pairs,layers', [])],
)
def test_patterns_that_no_set_reads_are_told(capsys, name, unread_fields):
    """Public sets are found by layouts of their own."""
    config = default.get_config()
    config.data.update({'root': 'mine', 'eval': name, 'rainy': 'a/*', 'clean': 'b/*', 'layer': 'c/*'})
    unread.note(config, False)
    assert re.findall(r'note: no named set reads --config.data.(\w+)=./\*;', capsys.readouterr().out) == unread_fields


@pytest.mark.parametrize('variants', [None, 5, {'a': None}, {'a': 5}, {'a': {'data': 5}}])
def test_a_study_that_is_none_is_left_to_be_told_later(capsys, variants):
    """The note on the root comes first, and reads of variants what there is."""
    config = default.get_config()
    config.data.update({'root': 'mine', 'eval': 'pairs'})
    config.study = config_dict.ConfigDict({'variants': variants})
    unread.note(config, True)
    assert not capsys.readouterr().out


def test_a_variant_that_reads_the_root_is_heeded(capsys):
    """Also where the config itself does not."""
    config = default.get_config()
    config.data.update({'root': 'mine', 'train': 'drawn_light', 'eval': 'drawn_light'})
    config.study = config_dict.ConfigDict({'variants': {'a': {'data': {'eval': 'pairs'}}}})
    unread.note(config, True)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    'names', ['', 'pairs:x', 'pairs:0', 'pairs:-1', 'pairs:nan', 'a:1,pairs:inf', (), 'pairs,layers,pairs:2']
)
def test_names_without_sense_are_refused(names):
    """No name, no positive weight or a name given twice is an error."""
    with pytest.raises(UserError):
        sets.parse_names(names)


def test_two_sets_that_would_share_a_folder_of_results_are_refused(tmp_path, data):
    """Before anything is trained: the scores of one would replace those of the other."""
    for folder in ('a-b', 'a/b'):
        for name in ('rain-1.png', 'norain-1.png'):
            write(tmp_path, f'{folder}/{name}', np.full((16, 16, 3), 9, np.uint8))
    data.update({'train': 'pairs/a-b', 'validation': 'pairs/a-b', 'eval': 'pairs/a-b,pairs/a/b'})
    with pytest.raises(UserError, match='pairs/a-b and pairs/a/b would both go to the folder pairs-a-b'):
        sets.open_run(data, sources.Cache(0))
    assert sets.folder_names(['pairs/a', 'rain100h']) == {'pairs/a': 'pairs-a', 'rain100h': 'rain100h'}


def test_fingerprint_covers_every_layer_that_training_may_draw(tmp_path, data):
    """With any_layer, also of layers beyond the number of backgrounds."""
    write(tmp_path, 'clean/a.png', np.zeros((4, 4, 3), np.uint8))
    for number in range(3):
        write(tmp_path, f'layer/{number}.png', np.zeros((4, 4), np.uint8))
    data.any_layer = True
    before = sources.fingerprint(open_source('layers', data, 'train'))
    write(tmp_path, 'layer/2.png', np.ones((4, 4), np.uint8))
    assert sources.fingerprint(open_source('layers', data, 'train')) != before


def test_digest_ignores_order_and_sees_names_and_contents():
    """One hash over a set of named contents."""
    parts = [('a', '1'), ('b', '2')]
    digest = sources.digest(parts)
    assert digest == sources.digest(parts[::-1])
    assert digest != sources.digest([('a', '2'), ('b', '1')])
    assert digest != sources.digest([('c', '1'), ('b', '2')])


def test_real_pairs_are_what_they_are_known_to_be(data_root, data):
    """RainTrainL's validation layers give rainy images of 25.64 dB RGB and 26.99 dB Y, 0.845 SSIM Y."""
    from qsnet_jax import metrics

    data.root = str(data_root)
    source = open_source('layers/RainTrainL', data)
    assert len(source.names) == 35
    pairs = [source.load(index) for index in range(35)]
    assert np.mean([metrics.psnr(*pair, 'rgb') for pair in pairs]) == pytest.approx(25.64, abs=0.005)
    assert np.mean([metrics.psnr(*pair, 'y') for pair in pairs]) == pytest.approx(26.99, abs=0.005)
    assert np.mean([metrics.ssim(*pair, 'y') for pair in pairs]) == pytest.approx(0.845, abs=0.0005)


def test_every_style_can_be_drawn_on(data):
    """A drawn set for each style of rain."""
    for style in rain.STYLES:
        assert open_source(f'drawn_{style}', data).load(0)[0].shape == (300, 451, 3)


def test_rain_can_be_drawn_on_a_folder_of_photos(tmp_path, data):
    """drawn_STYLE/FOLDER draws on the images of that folder, in their own colours, once each for scoring."""
    for number in range(2):
        write(tmp_path, f'photos/{number}.png', np.full((30, 40, 3), (10, 100, 200), np.uint8))
    source = open_source('drawn_heavy/photos', data)
    assert source.names == ['0-0', '1-0']
    rainy, clean = source.load(0)
    assert clean[0, 0].tolist() == [10, 100, 200] and (rainy > clean).any()
    _, crop = open_source('drawn_heavy/photos', data, 'train').sample(1, 16, np.random.default_rng(0))
    assert (crop == (10, 100, 200)).all()
    (tmp_path / 'none').mkdir()
    with pytest.raises(UserError, match='no images'):
        open_source('drawn_heavy/none', data)
    (tmp_path / 'photos/2.heic').write_bytes(b'')
    with pytest.raises(UserError, match=r"2\.heic' is of a kind that is not read"):
        open_source('drawn_heavy/photos', data)


def test_photos_to_draw_on_that_differ_in_their_suffix_are_two(tmp_path, data):
    """Their names keep it, in items and scenes; other names, the order and the rain are as without them."""
    for number, name in enumerate(('a.jpg', 'a.png', 'a.png.png', 'b.png')):
        write(tmp_path, f'photos/{name}', np.full((30, 40, 3), 50 * number, np.uint8))
    source = open_source('drawn_heavy/photos', data)
    assert source.groups == ['a.jpg', 'a.png', 'a.png.png', 'b'] and len(set(source.names)) == 4
    assert source.names[3] == 'b-0' and source.load(3)[1][0, 0].tolist() == [150, 150, 150]


def test_the_stand_in_of_test_iii_is_called_one(tmp_path, data):
    """Its name and its record say what it is, on the bundled photos and on a folder of one's own."""
    opened = sets.open_evaluation(data, 'test_iii', sources.Cache(1e9))
    assert list(opened) == ['test_iii_stand_in']
    source = opened['test_iii_stand_in']
    assert source.style == 'wide' and len(source.names) == 12
    assert 'stand-in' in sources.fingerprint(source)['stand_in']
    write(tmp_path, 'photos/a.png', np.zeros((30, 40, 3), np.uint8))
    assert 'stand-in' in open_source('test_iii_stand_in/photos', data).notes['stand_in']


def test_the_layout_that_pairs_most_files_is_taken(tmp_path, data):
    """rain/norain-1x2.png beside norain/norain-1.png fits two patterns, and only one of them pairs."""
    for number in range(3):
        write(tmp_path, f'rain/{number}.png', np.zeros((4, 4, 3), np.uint8))
        write(tmp_path, f'norain/{number}.png', np.zeros((4, 4, 3), np.uint8))
    write(tmp_path, 'rainy/x.png', np.zeros((4, 4, 3), np.uint8))
    write(tmp_path, 'clean/y.png', np.zeros((4, 4, 3), np.uint8))
    assert open_source('pairs', data).names == ['0', '1', '2']
