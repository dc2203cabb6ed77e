"""Scores: every image once, under both protocols, of input, output and each scale."""

import csv
import itertools
import json
import math
import os
import shutil

import numpy as np
import pytest
from test_derain import make

from qsnet_jax import UserError, metrics, spelling
from qsnet_jax.data import batches, images, sets, sources
from qsnet_jax.evidence import evaluate, statistics
from tests.drawn import draw_pair


@pytest.fixture(scope='module')
def evaluated(pairs_root, tmp_path_factory):
    """A folder that `evaluate` wrote for the generated pairs, and what it returned."""
    from qsnet_jax.configs import default

    config = default.get_config()
    config.data.update({'eval': 'pairs', 'root': str(pairs_root)})
    folder = tmp_path_factory.mktemp('eval')
    return folder, evaluate.evaluate(make(), config, folder, {'commit': 'abc'})


def test_results_are_means_over_all_images(evaluated, pairs_root):
    """results.json holds the mean of scores computed here one by one, for input, output and scales."""
    folder, results = evaluated
    stored = json.loads((folder / 'pairs/results.json').read_text())
    assert stored == results['pairs']
    assert stored['dataset'] == 'pairs' and stored['count'] == 3
    derainer, cases = make(), []
    for number in (6, 7, 8):
        rainy, clean = (images.read(pairs_root / f'val/{side}-{number}.png') for side in ('rain', 'norain'))
        cases.append((rainy, clean, derainer.restore(rainy, scales=True)))
    for protocol in ('rgb', 'y'):
        for measure in ('psnr', 'ssim'):
            score = getattr(metrics, measure)
            outputs = np.mean([score(restored[0], clean, protocol) for _, clean, restored in cases])
            inputs = np.mean([score(rainy, clean, protocol) for rainy, clean, _ in cases])
            second = np.mean([score(restored[2], clean, protocol) for _, clean, restored in cases])
            assert stored[protocol][measure] == pytest.approx(outputs, abs=1e-12)
            assert stored['input'][protocol][measure] == pytest.approx(inputs, abs=1e-12)
            assert stored['scales']['C_2'][protocol][measure] == pytest.approx(second, abs=1e-12)
    assert stored['scales'].keys() == {'C_1', 'C_2', 'C_3'}


def test_results_say_where_they_come_from(evaluated):
    """The record of the run and the fingerprint of the data set."""
    record = evaluated[1]['pairs']['provenance']
    assert record['commit'] == 'abc' and record['dataset']['count'] == 3 and len(record['dataset']['sha256']) == 64


def test_every_image_has_one_line(evaluated):
    """per_image.csv names each image with its size and time."""
    with (evaluated[0] / 'pairs/per_image.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['name'] for row in rows] == ['6', '7', '8']
    assert rows[0]['seconds'] == '' and float(rows[1]['seconds']) > 0  # the first of a size would time the compiler
    assert {'height', 'width', 'seconds', 'input_rgb_psnr', 'output_y_ssim', 'C_3_y_psnr'} <= rows[0].keys()


def test_pictures_show_before_result_and_truth(evaluated, pairs_root):
    """Three images side by side, the first the rainy one, the last the clean one."""
    panel = images.read(evaluated[0] / 'pairs/6.png')
    rainy, clean = (images.read(pairs_root / f'val/{side}-6.png') for side in ('rain', 'norain'))
    assert panel.shape == (48, 3 * 56, 3)
    np.testing.assert_array_equal(panel[:, :56], rainy)
    np.testing.assert_array_equal(panel[:, 112:], clean)


def test_images_too_small_for_ssim_still_count_in_psnr():
    """A window of 11 pixels does not fit; PSNR is defined all the same."""
    image = np.zeros((8, 20, 3), np.uint8)
    scores = metrics.score(
        image + 5,
        image,
    )
    assert math.isnan(scores['rgb_ssim']) and scores['rgb_psnr'] == pytest.approx(20 * math.log10(255 / 5))


def test_images_without_a_finite_score_do_not_count_in_its_mean(tmp_path):
    """Identical pairs and tiny images leave the other means alone, and results.json is JSON."""
    from qsnet_jax.configs import default

    images.save(tmp_path / 'norain-1.png', np.zeros((8, 8, 3), np.uint8))
    images.save(tmp_path / 'rain-1.png', np.zeros((8, 8, 3), np.uint8))
    config = default.get_config()
    config.data.update({'eval': 'pairs', 'root': str(tmp_path)})
    results = evaluate.evaluate(make(), config, tmp_path / 'eval', {})['pairs']
    assert results['count'] == 1
    assert results['input']['rgb'] == {'psnr': None, 'ssim': None}
    assert math.isfinite(results['rgb']['psnr']) and results['rgb']['ssim'] is None
    rows = [
        {f'{label}_{p}_{m}': value for label in ('output', 'input') for p in ('rgb', 'y') for m in ('psnr', 'ssim')}
        for value in (30.0, math.inf)
    ]
    assert evaluate.by_label(rows, ['a', 'b'], ['output'])['output']['rgb', 'psnr'][0].tolist() == [30.0]


def test_means_over_different_images_are_no_gain(pairs_root, tmp_path, capsys):
    """A pair without rain counts in the mean of the output alone: a line says so, and what the gain is."""
    from qsnet_jax.configs import default

    shutil.copytree(pairs_root / 'val', tmp_path / 'val')
    shutil.copy(tmp_path / 'val/norain-6.png', tmp_path / 'val/rain-6.png')
    config = default.get_config()
    config.data.update({'eval': 'pairs', 'root': str(tmp_path)})
    results = evaluate.evaluate(make(), config, tmp_path / 'eval', {})['pairs']
    with (tmp_path / 'eval/pairs/per_image.csv').open() as file:
        rows = list(csv.DictReader(file))[1:]
    gains = [float(row['output_rgb_psnr']) - float(row['input_rgb_psnr']) for row in rows]
    assert len(gains) == 2 and results['gain']['rgb']['psnr'] == pytest.approx(np.mean(gains))
    said = capsys.readouterr().out.splitlines()[-1]
    assert 'The mean of the input is over 2 images, that of the output over 3' in said
    assert said.endswith(f'the gain where both have one: {np.mean(gains):.2f} dB rgb.')


def test_validation_is_the_mean_over_the_first_images(pairs_root, tiny_config):
    """What training watches equals the mean PSNR of those images."""
    source = sets.open_source('pairs', tiny_config.data, 'eval', sources.Cache(1e9))
    derainer = make()
    expected = np.mean([metrics.psnr(derainer(rainy), clean, 'rgb') for rainy, clean in map(source.load, range(2))])
    assert evaluate.validate(derainer, source, 2) == pytest.approx(expected)


def test_images_restored_to_the_last_bit_do_not_count_in_validation(pairs_root, tiny_config):
    """Their PSNR is infinite; a set of nothing else has none."""
    source = sets.open_source('pairs', tiny_config.data, 'eval', sources.Cache(1e9))
    rainy, clean = source.load(0)
    other = metrics.psnr(*source.load(1), 'rgb')

    def perfect_once(image):
        return clean if np.array_equal(image, rainy) else image

    assert evaluate.validate(perfect_once, source, 2) == pytest.approx(other)
    assert evaluate.validate(perfect_once, source, 1) is None


def test_table_shows_gain_per_set(evaluated):
    """Input and output under both protocols, and below them the interval of the output."""
    lines = evaluate.format_table(evaluated[1]).splitlines()
    assert len(lines) == 3 and lines[1].startswith('pairs') and lines[2].count('..') == 4
    assert lines[1].count('->') == 4


@pytest.mark.parametrize(
    'dataset', [5, None, [], {}, {'sha256': 5, 'count': 'x'}, {'sha256': 'a', 'count': 'x'}, {'sha256': None}]
)
def test_damaged_results_are_said(tmp_path, capsys, dataset):
    """They are replaced, whatever lies in the place of the fingerprint."""
    (tmp_path / 'results.json').write_text(json.dumps({'provenance': {'dataset': dataset}}))
    fingerprint = {'sha256': 'b', 'count': 3}
    found = evaluate._compare('pairs', fingerprint, tmp_path, {})
    assert found == fingerprint
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f'pairs: the earlier results in {tmp_path} are damaged and are replaced'


def test_gain_is_paired(evaluated):
    """The interval of the gain is that of the differences per image, which vary less than the scores."""
    folder, results = evaluated
    with (folder / 'pairs/per_image.csv').open() as file:
        rows = list(csv.DictReader(file))
    differences = np.array([float(row['output_y_psnr']) - float(row['input_y_psnr']) for row in rows])
    result = results['pairs']
    assert result['gain']['y']['psnr'] == pytest.approx(differences.mean())
    assert result['interval']['gain']['y']['psnr'] == pytest.approx(statistics.interval([(differences, np.arange(3))]))
    low, high = result['interval']['y']['psnr']
    assert low <= result['y']['psnr'] <= high


def test_versions_of_one_clean_picture_are_one_scene(tmp_path, tiny_config):
    """However they are named; the interval then has as many groups as there are pictures, and stops at an SSIM of 1."""
    for side in ('input', 'target'):
        (tmp_path / side).mkdir()
    for number in range(8):
        rainy, clean = draw_pair(number % 2)
        images.save(tmp_path / f'input/{number}.png', np.clip(rainy + np.uint8(number), 0, 250))
        images.save(tmp_path / f'target/{number}.png', clean)
    tiny_config.data.update({'eval': 'pairs', 'root': str(tmp_path)})
    result = evaluate.evaluate(Cleaner(), tiny_config, tmp_path / 'eval', {})['pairs']
    with (tmp_path / 'eval/pairs/per_image.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert result['count'] == 8 and result['scenes'] == 2
    assert [row['scene'] for row in rows] == ['0', '1'] * 4
    scores = np.array([float(row['output_y_psnr']) for row in rows])
    expected = statistics.interval([(scores, np.arange(8) % 2)])
    assert result['interval']['y']['psnr'] == pytest.approx(expected)
    assert result['interval']['rgb']['ssim'][1] == 1.0 and result['interval']['input']['y']['ssim'][1] <= 1.0


class Cleaner:
    """Stands in for a network: darkens by as much as the first pixel says."""

    def restore(self, image, scales=False):
        restored = image - np.minimum(image, image[0, 0, 0] % 7)
        return np.stack([restored] * 2)


@pytest.mark.parametrize('odd', [None, 'x', 3, [], {'pairs': 'x'}, {'pairs': {}}, {'pairs': {'whole': 'x'}}])
def test_records_of_strangers_stop_no_evaluation(tmp_path, odd):
    """Those that hold something else than sets and their hashes tell of none."""
    scored = {'sha256': 'a' * 64, 'count': 3}
    for training in (odd, {'training_data': odd}, {'start_from': odd}, {'start_from': {'record': odd}}):
        assert evaluate._compare('pairs', scored, tmp_path, {'training': training}) == scored


def test_two_sets_of_one_folder_are_refused_before_one_is_scored(pairs_root, tmp_path):
    """The scores of one would replace those of the other."""
    from qsnet_jax.configs import default

    for folder in ('a-b', 'a/b'):
        shutil.copytree(pairs_root / 'val', tmp_path / folder)
    config = default.get_config()
    config.data.update({'eval': 'pairs/a-b,pairs/a/b', 'root': str(tmp_path)})
    with pytest.raises(UserError, match='both go to the folder pairs-a-b'):
        evaluate.evaluate(make(), config, tmp_path / 'eval', {})
    assert not list((tmp_path / 'eval').iterdir())


def test_a_broken_picture_is_met_before_any_set_is_scored(pairs_root, tmp_path):
    """Also one of the last set whose header is whole: it is named, and no network has run."""
    from qsnet_jax.configs import default

    for folder in ('a', 'b'):
        shutil.copytree(pairs_root / 'val', tmp_path / folder)
    path = tmp_path / 'b/norain-8.png'
    path.write_bytes(path.read_bytes()[:200])
    config = default.get_config()
    config.data.update({'eval': 'pairs/a,pairs/b', 'root': str(tmp_path)})
    with pytest.raises(UserError, match=r'1 of the 6 files of data set pairs/b cannot be read: .*norain-8\.png'):
        evaluate.evaluate(None, config, tmp_path / 'eval', {})
    assert not list((tmp_path / 'eval').iterdir())


def test_table_says_of_how_many(evaluated):
    """A set that is not whole is shown as such."""
    result = evaluated[1]['pairs']
    partial = {**result, 'provenance': {'dataset': {'publisher_count': 100}}}
    assert ' 3/100 ' in evaluate.format_table({'pairs': partial})


def test_names_may_be_longer_than_those_of_files(tmp_path, tiny_config):
    """Those of a background and a layer together, and of a set of two folders: a run ends in scores all the same."""
    background, layer = 'b' * 150, 'l' * 150
    for folder in (f'{background}/clean', f'{layer}/layer'):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(2):
        clean = draw_pair(number)[1]
        images.save(tmp_path / f'{background}/clean/{number}{background}.png', clean)
        images.save(tmp_path / f'{layer}/layer/{number}{layer}.png', np.full_like(clean, 9))
    tiny_config.data.update({'eval': f'layers/{background}+{layer}', 'root': str(tmp_path)})
    (result,) = evaluate.evaluate(Cleaner(), tiny_config, tmp_path / 'eval', {}).values()
    (folder,) = (tmp_path / 'eval').iterdir()
    with (folder / 'per_image.csv').open() as file:
        names = [row['name'] for row in csv.DictReader(file)]
    assert f'0{background}+0{layer}' in names and len(names) == result['count']
    assert len(list(folder.glob('*.png'))) == min(len(names), evaluate.PICTURES)


def test_other_files_than_before_are_announced(pairs_root, tmp_path, capsys):
    """An evaluation into the folder of an earlier one of other images says so, and one of the training images too."""
    from qsnet_jax.configs import default

    config = default.get_config()
    config.data.update({'eval': 'pairs/val', 'root': str(pairs_root)})
    first = evaluate.evaluate(make(), config, tmp_path, {})['pairs/val']['provenance']['dataset']
    config.data.root = str(tmp_path / 'other')
    for side in ('rain', 'norain'):
        (tmp_path / 'other/val').mkdir(parents=True, exist_ok=True)
        images.save(tmp_path / f'other/val/{side}-1.png', np.full((16, 16, 3), 9, np.uint8))
    evaluate.evaluate(make(), config, tmp_path, {})
    assert f'3 images, {first["sha256"][:12]}; now 1' in capsys.readouterr().out
    config.data.root = str(pairs_root)
    training = {'training_data': {'pairs': first}}
    result = evaluate.evaluate(make(), config, tmp_path, {'training': training})['pairs/val']
    assert 'trained on these very images' in capsys.readouterr().out
    assert result['provenance']['dataset']['seen_in_training'] == ['pairs']


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({}, '5 of these 6 images (pairs/all)'),  # one is held out to watch the run
        ({'validation': 'drawn_light', 'exclude': 'pairs/some'}, '4 of these 6 images (pairs/all)'),
        ({'exclude': 'pairs/some'}, '3 of these 6 images (pairs/all)'),
        ({'validation': 'drawn_light'}, 'these very images (pairs/all)'),
        ({'validation': 'drawn_light', 'train': 'pairs/some'}, ''),
    ],
)
def test_images_of_which_training_left_some_out_are_announced(pairs_root, tmp_path, capsys, change, words):
    """A set is known by the whole of what was trained on, and so is that of a training before this one."""
    from qsnet_jax.configs import default

    shutil.copytree(pairs_root / 'train', tmp_path / 'all')
    (tmp_path / 'some').mkdir()
    for number, name in itertools.product((1, 2), ('rain', 'norain')):
        shutil.copy(tmp_path / f'all/{name}-{number}.png', tmp_path / 'some')
    data = default.get_config().data
    data.update({'train': 'pairs/all', 'eval': 'pairs/all', 'root': str(tmp_path), **change})
    record = {'training_data': batches.fingerprints(sets.open_training(data, sources.Cache(0)))}
    scored = sources.fingerprint(sets.open_source('pairs/all', data, 'eval', sources.Cache(0)))
    capsys.readouterr()
    for training in (record, {'training_data': {}, 'start_from': {'record': record}}):
        found = evaluate._compare('pairs/all', scored, tmp_path / 'none', {'training': training})
        printed = capsys.readouterr().out
        assert printed == (f'pairs/all: the network was trained on {words}\n' if words else '')
        assert found.get('seen_in_training') == (['pairs/all'] if words else None)


@pytest.mark.parametrize('name', ['=HYPERLINK("x")', '-rf', "'quoted", os.fsdecode(b'n\xe4cht')])
def test_a_table_takes_any_name(tmp_path, name):
    """No formula for a spreadsheet, bytes of any kind, numbers as they are, and the name can be had back."""
    evaluate.write_csv(tmp_path / 'a.csv', [{'name': name, 'gain': -0.5}])
    with (tmp_path / 'a.csv').open(newline='', encoding='utf-8', errors='surrogateescape') as file:
        (row,) = csv.DictReader(file)
    assert row['gain'] == '-0.5' and row['name'][0] not in '=-' and spelling.uncell(row['name']) == name


def test_the_mean_of_sets_took_as_long_as_all_of_them():
    """Its record is that of the first set but for what is of them all."""
    column = (np.array([30.0]), np.array(['a']))
    columns = {(protocol, measure): column for protocol in ('rgb', 'y') for measure in ('psnr', 'ssim')}
    score = dict.fromkeys(('input', 'output', 'gain'), columns)
    results = [{'dataset': name, 'count': 1, 'provenance': {'dataset': {'count': 1}, 'evaluation_seconds': seconds}}
               for name, seconds in (('a', 2.0), ('b', 3.0))]  # fmt: skip
    mean = evaluate._mean_of_sets('both', results, [score, score])
    assert mean['count'] == 2 and mean['provenance']['evaluation_seconds'] == 5.0
    assert list(mean['provenance']['dataset']) == ['a', 'b']
