"""Folders of any program's results: paired by name, counted as our own, compared in pairs."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
from made_rows import write_study
from test_derain import make

from qsnet_jax import UserError, metrics, storage
from qsnet_jax.data import images
from qsnet_jax.evidence import evaluate, report, score
from qsnet_jax.weights import files


@pytest.fixture(scope='module')
def folders(pairs_root, tmp_path_factory):
    """out/ of a tiny network, clean/ and rainy/ of the generated pairs."""
    root, derainer = tmp_path_factory.mktemp('score'), make()
    files.save_weights(root / 'tiny.safetensors', derainer.variables, derainer.settings)
    for side in ('out', 'clean', 'rainy'):
        (root / side).mkdir()
    for number in (6, 7, 8):
        rainy, clean = (images.read(pairs_root / f'val/{side}-{number}.png') for side in ('rain', 'norain'))
        images.save(root / f'rainy/rain-{number}.png', rainy)
        images.save(root / f'clean/norain-{number}.png', clean)
        images.save(root / f'out/rain-{number}.png', derainer(rainy))
    return root


def run(root, folder, rainy=True, **options):
    sides = (str(root / 'out'), str(root / 'clean'), str(root / 'rainy') if rainy else None)
    return score.run(*sides, folder / 'results', 'tiny', folder / 'work', **options)


def test_scores_of_a_folder_equal_those_of_eval(folders, pairs_root, tmp_path):
    """What eval finds of a network is what its saved results score, with intervals, data and every image."""
    from qsnet_jax.configs import default

    config = default.get_config()
    config.data.update({'eval': 'pairs', 'root': str(pairs_root)})
    expected = evaluate.evaluate(make(), config, tmp_path / 'eval', {})['pairs']
    row = run(folders, tmp_path)
    for key in ('count', 'rgb', 'y', 'input', 'gain'):
        assert row[key] == pytest.approx(expected[key]) if key == 'count' else row[key] == _close(expected[key])
    for key in ('rgb', 'y', 'input', 'gain'):
        assert row['interval'][key] == _close(expected['interval'][key])
    dataset = expected['provenance']['dataset']
    dataset = {name: value for name, value in dataset.items() if name not in ('folder', 'backgrounds')}
    assert row['provenance']['dataset'] == dataset  # the same images, and so comparable
    with (tmp_path / 'work/per_image.csv').open() as ours, (tmp_path / 'eval/pairs/per_image.csv').open() as theirs:
        ours, theirs = list(csv.DictReader(ours)), list(csv.DictReader(theirs))
    for each, other in zip(ours, theirs, strict=True):
        assert each == {key: other[key] for key in each}  # scenes too


def _close(tree):
    """A tree of numbers, but for their last digits."""
    if isinstance(tree, dict):
        return {key: _close(value) for key, value in tree.items()}
    return pytest.approx(tree, abs=1e-9) if tree is not None else None


def test_files_that_are_left_behind(folders, tmp_path):
    """results.json as eval's, pictures of rainy, restored and clean, and a row that says how it came about."""
    row = run(folders, tmp_path, dataset='Rain100H')  # as papers write it
    stored = json.loads((tmp_path / 'work/results.json').read_text())
    assert {key: row[key] for key in stored} == stored
    panel = images.read(tmp_path / 'work/6.png')
    sides = [images.read(folders / name) for name in ('rainy/rain-6.png', 'out/rain-6.png', 'clean/norain-6.png')]
    np.testing.assert_array_equal(panel, np.concatenate(sides, axis=1))
    written = json.loads((tmp_path / 'results/rows/score-tiny.json').read_text())
    assert written == row and written['kind'] == 'score' and written['dataset'] == 'rain100h'
    assert {'count', 'sha256'} <= written['provenance']['dataset'].keys() & written['provenance']['restored'].keys()
    assert {'commit', 'command', 'versions', 'config', 'seed', 'device', 'precision'} <= written['provenance'].keys()
    assert written['images']['name'] == ['6', '7', '8']


def test_without_rainy_images_there_is_no_gain(folders, tmp_path):
    """Clean images are enough for the scores."""
    with_rainy, without = run(folders, tmp_path / 'a'), run(folders, tmp_path, rainy=False)
    assert without['rgb'] == with_rainy['rgb'] and without['input']['rgb']['psnr'] is None
    assert without['interval']['gain']['y']['ssim'] is None
    assert images.read(tmp_path / 'work/6.png').shape == (48, 2 * 56, 3)


def test_two_methods_are_compared_in_pairs(folders, tmp_path):
    """The rainy images as a method, and the network itself: differences by image, means, share of better ones."""
    row = run(folders, tmp_path, against=f'input={folders / "rainy"}')
    found = row['against']
    assert found['rgb'] == row['input']['rgb'] and found['method']['label'] == 'input'
    gaps = np.subtract(row['images']['output_y_psnr'], row['images']['against_y_psnr'])
    assert found['difference']['y']['psnr'] == pytest.approx(gaps.mean(), abs=1e-4)
    assert found['better']['y']['psnr'] == np.mean(gaps > 0)
    assert found['interval'] == _close(row['interval']['gain'] | {})
    itself = run(folders, tmp_path / 'itself', against=str(folders / 'tiny.safetensors'))['against']
    assert itself['difference']['rgb'] == {'psnr': 0.0, 'ssim': 0.0} and itself['better']['rgb']['psnr'] == 0.0
    with pytest.raises(UserError, match='give --rainy'):
        run(folders, tmp_path, rainy=False, against=str(folders / 'tiny.safetensors'))


def test_images_that_equal_their_true_ones_are_better_and_told(folders, tmp_path, capsys):
    """They have no finite PSNR, so no mean holds them, but they are won."""
    theirs = shutil.copytree(folders / 'out', tmp_path / 'theirs')
    for number in (6, 7):
        shutil.copy(folders / f'clean/norain-{number}.png', theirs / f'rain-{number}.png')
    sides = (str(theirs), str(folders / 'clean'), None)
    row = score.run(*sides, tmp_path / 'results', 'theirs', tmp_path / 'work', against=str(folders / 'out'))
    assert row['against']['better']['rgb']['psnr'] == row['against']['better']['y']['psnr'] == pytest.approx(2 / 3)
    assert row['against']['difference']['rgb']['psnr'] == 0  # of the third alone
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith('note: ')]
    assert len(notes) == 1 and notes[0].startswith('note: theirs: 2 of 3 images equal their true ones')


def test_results_are_found_by_one_pattern(folders, tmp_path):
    """Where that of one image lacks, an input beside it is not taken; two patterns that fit are for the user."""
    theirs = shutil.copytree(folders / 'out', tmp_path / 'theirs')
    for number in (6, 7):
        shutil.copy(theirs / f'rain-{number}.png', theirs / f'{number}.png')
    (theirs / 'rain-6.png').unlink()
    with pytest.raises(UserError, match=r'holds 2 images called like \* and as many like rain-\*\. Name the pattern'):
        run(folders, tmp_path, against=str(theirs))
    (theirs / 'rain-7.png').unlink()
    with pytest.raises(UserError, match="holds no result of '8'; expected files called like"):
        run(folders, tmp_path, against=str(theirs))
    with pytest.raises(UserError, match="holds no result of '6', '7'; expected files called like rain-"):
        run(folders, tmp_path, against=str(theirs / 'rain-*'))


def test_a_clean_image_is_no_rainy_one(folders, tmp_path):
    """Of a folder with both, under the names of the results; those called rain-* are found, and copies refused."""
    flat, named = shutil.copytree(folders / 'rainy', tmp_path / 'flat'), tmp_path / 'named'
    shutil.copytree(folders / 'clean', flat, dirs_exist_ok=True)
    named.mkdir()
    for number in (6, 7, 8):
        shutil.copy(folders / f'out/rain-{number}.png', named / f'norain-{number}.png')
    clean, rest = str(folders / 'clean'), (tmp_path / 'results', 'tiny', tmp_path / 'work')
    assert score.run(str(folders / 'out'), clean, str(flat), *rest)['input'] == run(folders, tmp_path)['input']
    with pytest.raises(UserError, match=r'flat/norain-6\.png, found as a rainy image, is the clean one .*/norain-6'):
        score.run(str(named), clean, str(flat), *rest)


def test_a_border_is_left_out_and_luma_rounded_on_demand(folders, tmp_path, capsys):
    """Cropped scores are those of cropped images; rounded luma moves y alone, and a little."""
    clean, restored = (images.read(folders / name) for name in ('clean/norain-6.png', 'out/rain-6.png'))
    cropped = score.Counting(border=4).score(restored, clean)
    assert cropped == metrics.score(restored[4:-4, 4:-4], clean[4:-4, 4:-4])
    plain, rounded = run(folders, tmp_path), run(folders, tmp_path / 'rounded', luma='rounded', border=0)
    assert rounded['rgb'] == plain['rgb'] and 0 < abs(rounded['y']['psnr'] - plain['y']['psnr']) < 0.2
    assert plain['counting'] == '' and rounded['counting'] == 'Y rounded'
    assert capsys.readouterr().out.count('not counted as ours: Y rounded') == 1
    for options, words in (({'border': 24}, 'leaves nothing'), ({'border': -1}, '0 or more'), ({'luma': 'x'}, 'exact')):
        with pytest.raises(UserError, match=words):
            run(folders, tmp_path / 'none', **options)


def test_rounded_luma_by_hand():
    """Black and white are levels 16 and 235, and (1, 2, 3) is 17.6, so 18."""
    image = np.array([[[0, 0, 0], [255, 255, 255], [1, 2, 3]]], np.uint8)
    assert score._rounded_luma(image)[0, :, 0].tolist() == [16, 235, 18]


def test_versions_of_one_scene_are_no_independent_evidence(tmp_path):
    """Names as in Rain1400, and equal clean pictures under other names, are one scene each."""
    generator = np.random.default_rng(0)
    for folder in ('out', 'clean', 'rainy'):
        (tmp_path / folder).mkdir()
    for number in (1, 2, 3):
        clean = generator.integers(30, 200, (16, 16, 3), dtype=np.uint8)
        for name in ('1', '3') if number == 1 else () if number == 3 else ('2',):
            images.save(tmp_path / f'clean/{name}.png', clean)
            for version in (1, 2):
                noise = generator.integers(0, 30, clean.shape, dtype=np.uint8)
                images.save(tmp_path / f'rainy/{name}_{version}.png', clean + noise)
                images.save(tmp_path / f'out/{name}_{version}.png', clean + noise // 2)
    row = run(tmp_path, tmp_path)
    assert row['count'] == 6 and row['scenes'] == 2
    assert row['images']['name'] == ['1_1', '1_2', '2_1', '2_2', '3_1', '3_2']
    assert row['gain']['rgb']['psnr'] > 5


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda root: (root / 'out/1.png').unlink(), r'1\.png has no restored image of that name'),
        (lambda root: (root / 'rainy/1.png').unlink(), "'1' has no rainy image"),
        (lambda root: images.save(root / 'out/1.png', np.zeros((8, 9, 3), np.uint8)), '8x9'),
        (lambda root: (root / 'out/1.png').write_bytes(b'no picture'), 'damaged or of another kind'),
        (lambda root: (root / 'clean').rename(root / 'gone'), 'clean is not a folder'),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, words):
    """One without a partner, other sizes, no picture, no folder."""
    for folder in ('out', 'clean', 'rainy'):
        for name in ('1', '2'):
            (tmp_path / folder).mkdir(exist_ok=True)
            images.save(tmp_path / folder / f'{name}.png', np.full((16, 16, 3), 9, np.uint8))
    change(tmp_path)
    with pytest.raises(UserError, match=words):
        run(tmp_path, tmp_path)


@pytest.mark.parametrize('place', ['clean', 'rainy', 'out', 'linked', 'theirs'])
def test_pictures_replace_no_image_that_is_scored(folders, tmp_path, place):
    """A folder of results that is one of images, by its name, by a link or as the other method's, is refused."""
    root = shutil.copytree(folders, tmp_path / 'root')
    for path in root.glob('*/*.png'):  # names that pictures would have
        path.rename(path.with_name(path.name.rpartition('-')[2]))
    shutil.copytree(root / 'out', root / 'theirs')
    (root / 'link').symlink_to(root / 'clean')
    workdir = root / {'linked': 'link'}.get(place, place)
    before = {path: path.read_bytes() for path in root.rglob('*') if path.is_file()}
    sides = (str(root / 'out'), str(root / 'clean'), str(root / 'rainy'), tmp_path / 'results', 'tiny')
    with pytest.raises(UserError, match='holds images to score'):
        score.run(*sides, workdir, against=str(root / 'theirs'))
    assert before == {path: path.read_bytes() for path in root.rglob('*') if path.is_file()}
    score.run(*sides, root / 'work', against=str(root / 'theirs'))


def test_an_odd_name_of_the_folder_is_printed_escaped(folders, tmp_path, capsys):
    """Bytes that are no UTF-8 do not reach the terminal."""
    score.run(str(folders / 'out'), str(folders / 'clean'), None, tmp_path, 'tiny', tmp_path / 'w\udce4')
    assert 'w\\xe4' in capsys.readouterr().out


def test_scenes_are_joined_as_eval_joins_them(tmp_path):
    """One picture under two names that each stand for versions is one scene, also by way of others."""
    generator = np.random.default_rng(0)
    pictures = [generator.integers(30, 200, (16, 16, 3), dtype=np.uint8) for _ in range(3)]
    for folder in ('out', 'clean'):
        (tmp_path / folder).mkdir()
    for name, picture in (('1', 0), ('2', 1), ('3', 0), ('4', 2)):
        images.save(tmp_path / f'clean/{name}.png', pictures[picture])
        images.save(tmp_path / f'out/{name}.png', pictures[picture] + 3)
    row = run(tmp_path, tmp_path, rainy=False)
    assert row['images']['scene'] == ['1', '2', '1', '4'] and row['scenes'] == 3


def test_three_folders_have_their_known_values(pairs_root, tmp_path):
    """Clean images shifted by 1, 5 and 20 levels: 20 lg(255 / shift) dB in rgb, as eval finds of such a network."""
    from qsnet_jax.configs import default

    clean = {path.stem: images.read(path) // 2 + 20 for path in sorted((pairs_root / 'val').glob('norain-*'))}
    root = tmp_path / 'pairs'
    for folder in ('val', 'clean', 'out-1', 'out-5', 'out-20'):
        (root / folder).mkdir(parents=True)
    for name, image in clean.items():
        images.save(root / f'val/{name}.png', image)
        images.save(root / f'val/{name.removeprefix("no")}.png', image)
        images.save(root / f'clean/{name}.png', image)
    config = default.get_config()
    config.data.update({'eval': 'pairs', 'root': str(root)})
    for shift in (1, 5, 20):

        class Shifting:
            """A network that makes everything lighter."""

            def restore(self, image, scales=False, shift=shift):
                return (image + shift)[None].astype(np.uint8)

        for name, image in clean.items():
            images.save(root / f'out-{shift}/{name.removeprefix("no")}.png', image + shift)
        expected = evaluate.evaluate(Shifting(), config, tmp_path / f'eval-{shift}', {})['pairs']
        row = score.run(
            str(root / f'out-{shift}'), str(root / 'clean'), None, tmp_path, f's{shift}', tmp_path / f'{shift}'
        )
        right = 20 * math.log10(255 / shift)
        assert row['rgb']['psnr'] == pytest.approx(right, abs=1e-9)
        assert row['y']['psnr'] == pytest.approx(right - 20 * math.log10((65.481 + 128.553 + 24.966) / 255), abs=1e-9)
        assert {key: row[key] for key in ('rgb', 'y')} == _close({key: expected[key] for key in ('rgb', 'y')})
        assert row['interval']['rgb'] == _close(expected['interval']['rgb']) and row['count'] == expected['count'] > 2


@pytest.mark.slow
def test_right_values_of_public_results(data_root, tmp_path):
    """Twelve results whose scores others computed, in luma as it is and rounded.

    Those rounded half a level to the even one, where MATLAB and we go up: it occurs in 31 pixels of the 24 images.
    """
    folder = data_root / 'metric_cases'
    expected = json.loads((folder / 'expected.json').read_text())
    sides = f'{folder}/*_result.png', f'{folder}/*_target.png', None
    for luma, suffix, tolerance in (('exact', 'float', 6e-6), ('rounded', 'uint8', 4e-5)):
        row = score.run(*sides, tmp_path, luma, tmp_path / luma, luma=luma)
        found = dict(zip(row['images']['name'], zip(*(row['images'][f'output_{key}'] for key in
                     ('rgb_psnr', 'y_psnr', 'y_ssim')), strict=True), strict=True))  # fmt: skip
        assert found.keys() == {name.removesuffix('.png') for name in expected} and len(found) == 12
        for name, each in expected.items():
            right = [each['psnr_rgb'], each[f'psnr_y_{suffix}'], each[f'ssim_y_{suffix}']]
            assert found[name.removesuffix('.png')] == pytest.approx(right, abs=tolerance), name


@pytest.mark.slow
def test_scored_results_stand_beside_ours_in_the_report(folders, tmp_path):
    """On the paper's own test a line of Table 1, with the number of images where not whole; any set in the next."""
    write_study(tmp_path)
    row = run(folders, tmp_path.parent / 'other', against=f'input={folders / "rainy"}')
    made = {
        'PReNet': {'dataset': 'rain100h', 'count': 100}, 'part': {'dataset': 'rain100h', 'luma': 'rounded'},
        'mine': {'dataset': 'mine', 'input': {each: {'psnr': None, 'ssim': None} for each in ('rgb', 'y')}},
    }  # fmt: skip
    for name, changes in made.items():
        counting = 'Y rounded' if changes.pop('luma', '') else ''
        storage.write_json(tmp_path / f'rows/score-{name}.json', {**row, 'name': name, 'counting': counting, **changes})
    report.report(tmp_path)
    lines = (tmp_path / 'tables.md').read_text().splitlines()
    shown = f'{row["rgb"]["psnr"]:.2f} / {row["rgb"]["ssim"]:.3f}'
    assert f'| PReNet (scored here, rgb) | - | {shown} | - |' in lines
    assert f'| part (scored here, rgb, Y rounded) | - | {shown} (3 of 100) | - |' in lines
    assert not [line for line in lines if line.startswith('| mine (scored here, rgb')]  # no test of the paper's
    y = f'{row["y"]["psnr"]:.2f} / {row["y"]["ssim"]:.3f}'
    assert f'| mine (scored here) | mine | 3 | - / - | {shown} | - / - | {y} |' in lines
    gap, ends = row['against']['difference']['y']['psnr'], row['against']['interval']['y']['psnr']
    start = f'| PReNet (scored here) | input | rain100h | 100 | y | {gap:+.2f} | {ends[0]:+.2f} .. {ends[1]:+.2f} |'
    assert [line for line in lines if line.startswith(start)]


def test_scores_of_something_else_stay(folders, tmp_path):
    """Of other images, another name of them, another count or rival: refused before any is scored, with a way out."""
    images_ = shutil.copytree(folders, tmp_path / 'other')
    image = images.read(images_ / 'clean/norain-6.png')
    images.save(images_ / 'clean/norain-6.png', image // 2)
    for _ in range(2):  # the same may be made anew
        run(folders, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob('*.json')}
    rival = {'against': str(folders / 'rainy')}
    for root, options in ((images_, {}), *((folders, each) for each in ({'dataset': 'b'}, {'border': 4}, rival))):
        with pytest.raises(UserError, match='work/results.json holds another result: .*or give another --name or --w'):
            run(root, tmp_path, **options)
        with pytest.raises(UserError, match='score-tiny.json holds another result: .*Remove it, or give another --'):
            sides = [str(root / side) for side in ('out', 'clean', 'rainy')]
            score.run(*sides, tmp_path / 'results', 'tiny', tmp_path / 'elsewhere', **options)
    with pytest.raises(UserError, match="--rainy is 'given' there and 'not given' here"):
        score.run(str(folders / 'out'), str(folders / 'clean'), None, tmp_path / 'results', 'tiny', tmp_path / 'work')
    assert len(before) == 2 and before == {path: path.read_bytes() for path in tmp_path.rglob('*.json')}


@pytest.mark.parametrize('name', ['6.png', 'per_image.csv', 'results.json'])
def test_files_of_others_in_the_place_of_scores_stay(folders, tmp_path, name):
    """Of a folder of photos, say, or another program's scores; a folder that holds other files serves."""
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work/other.png').write_bytes(b'mine')
    (tmp_path / 'work' / name).write_text('{"mine": 1}')
    with pytest.raises(UserError, match=f'work/{name} would be replaced'):
        run(folders, tmp_path)
    assert (tmp_path / 'work' / name).read_text() == '{"mine": 1}' and not (tmp_path / 'results').exists()
    (tmp_path / 'work' / name).unlink()
    run(folders, tmp_path)
    assert (tmp_path / 'work/other.png').read_bytes() == b'mine'


def test_a_folder_that_was_moved_holds_the_same_images(folders, tmp_path):
    """By another name, a pattern, or as `.`: scores are made anew, and keep the name that the images had."""
    root = shutil.copytree(folders, tmp_path / 'root')
    assert run(root, tmp_path)['dataset'] == 'clean'
    (root / 'clean').rename(root / 'truth')
    for given in ('truth', 'truth/norain-*', 'out/../truth/.'):
        sides = str(root / 'out'), str(root / given), str(root / 'rainy')
        assert score.run(*sides, tmp_path / 'results', 'tiny', tmp_path / 'work')['dataset'] == 'clean'
        assert score.run(*sides, tmp_path / given[:3], 'new', tmp_path / given[:3] / 'work')['dataset'] == 'truth'


@pytest.mark.parametrize('left', ['{"dataset": ', None])
def test_scores_that_were_cut_off_are_made_again(folders, tmp_path, monkeypatch, capsys, left):
    """By the same command: with a results.json that says whose they are, or one that is damaged."""
    monkeypatch.setattr(evaluate, 'write_csv', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(folders, tmp_path)
    monkeypatch.undo()
    assert (tmp_path / 'work/6.png').exists() and not (tmp_path / 'work/per_image.csv').exists()
    if left:
        (tmp_path / 'work/results.json').write_text(left)
    run(folders, tmp_path)
    assert ('is damaged and is replaced' in capsys.readouterr().out) == bool(left)


@pytest.mark.parametrize('side', ['out', 'clean', 'rainy', 'theirs'])
def test_a_broken_picture_is_met_before_any_is_scored(folders, tmp_path, side):
    """One whose header is whole, on any side: it is named, and nothing is written."""
    root = shutil.copytree(folders, tmp_path / 'root')
    shutil.copytree(root / 'out', root / 'theirs')
    path = sorted((root / side).iterdir())[-1]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=path.name):
        run(root, tmp_path, against=str(root / 'theirs'))
    assert not (tmp_path / 'work').exists() and not (tmp_path / 'results').exists()


def test_names_that_do_not_match_are_said_so(tmp_path):
    """Where no pattern fits, what is on both sides has no partner of its name."""
    for side, name in (('out', '0_[x]'), ('clean', '0')):
        (tmp_path / side).mkdir()
        images.save(tmp_path / f'{side}/{name}.png', np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError) as caught:
        run(tmp_path, tmp_path, rainy=False)
    assert 'recognised as restored and clean images of equal names: ' in str(caught.value)
    assert '0_[x].png has no clean image of that name; 0.png has no restored image of that name' in str(caught.value)
