"""The sparsity decision on distributions whose answer is known, and the study over folders."""

import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest
from made_rows import RESULTS
from qsnet_jax.configs import default

from qsnet_jax import UserError, derain, priors, provenance, storage
from qsnet_jax.data import images, sets, sources
from qsnet_jax.evidence import claims, report, sparsity
from qsnet_jax.evidence import rows as rows_
from qsnet_jax.photos import find_photos
from tests.drawn import draw_pair

SETTINGS = default.get_config().sparsity


def sample(kind, seed, count=400_000):
    """Responses drawn from a Gaussian, a Laplacian, or the mixture of two of Levin and Weiss."""
    generator = np.random.default_rng(seed)
    if kind == 'gaussian':
        return generator.normal(0, 0.05, count)
    if kind == 'laplacian':
        return generator.laplace(0, 0.05, count)
    scale = np.where(generator.random(count) < 0.4, 0.01, 0.05)  # Eq. (1)
    return generator.laplace(0, scale)


@pytest.mark.parametrize('bins', [50, 64, 100])
def test_known_distributions(bins):
    """A Gaussian's log-histogram lies above its chord, the mixture's below, and farther than a Laplacian's."""
    excess = {
        kind: np.mean([priors.sparsity(sample(kind, seed), bins)['excess'] for seed in range(9)])
        for kind in ('gaussian', 'laplacian', 'mixture')
    }
    assert excess['gaussian'] > 1
    assert excess['mixture'] < excess['laplacian'] - 0.3


def test_a_laplacian_lies_on_its_chord():
    """With exact counts instead of samples; nothing is drawn, so nothing is far out in the tail."""
    counts = np.exp(np.arange(14, 2, -1)).round().astype(int)
    response = np.repeat((np.arange(12) + 0.5) / 12, counts)
    response[-1] = 1.0  # the bins are those of [0, 1]
    assert abs(priors.sparsity(response, 12)['excess']) < 0.02  # rounding of the counts


def test_the_mean_rule_alone_says_little():
    """It calls nine of ten Laplacian samples sparse; the control's threshold is passed by one in twenty."""
    chance = sparsity.control()
    assert chance['share']['mean'] > 0.85 and chance['excess'] < -1
    excess = [priors.sparsity(sample('laplacian', 100 + seed), 64)['excess'] for seed in range(60)]
    assert np.mean(np.array(excess) < chance['excess']) < 0.15


def test_exact_histograms():
    """By hand: three bins with 8, 4 and 1 values; the chord between log 8 and log 1 has log 8 / 2 in the middle."""
    response = np.repeat([0.1, 0.5, 0.9], [8, 4, 1])
    centres, curve = priors.log_histogram(response, 3)
    np.testing.assert_allclose(centres, [0.15, 0.45, 0.75])
    np.testing.assert_allclose(curve, np.log([8, 4, 1]))
    np.testing.assert_allclose(priors.chord(centres, curve), [np.log(8), np.log(8) / 2, 0], atol=1e-12)
    found = priors.sparsity(response, 3)
    assert found['excess'] == pytest.approx((np.log(4) - np.log(8) / 2) / 3)
    assert (found['mean'], found['every']) == (False, False)
    below = priors.sparsity(np.repeat([0.1, 0.5, 0.9], [8, 2, 1]), 3)
    assert (below['mean'], below['every']) == (True, True)


def test_empty_bins_and_signs_do_not_count():
    """Bins that hold nothing are left out; a response and its negative are the same."""
    response = np.array([0.1] * 5 + [1.0])
    assert len(priors.log_histogram(response, 10)[0]) == 2
    np.testing.assert_array_equal(priors.log_histogram(response, 10), priors.log_histogram(-response, 10))
    for nothing in (np.zeros(5), np.zeros(0)):
        with pytest.raises(ValueError, match='no histogram'):
            priors.log_histogram(nothing)


def test_signed_histograms_have_a_chord_on_each_side():
    """By hand: counts 1, 2, 8, 4, 1; the chords join log 8 with the ends, and the middle bins decide."""
    response = np.repeat([-0.8, -0.4, 0.0, 0.4, 1.0], [1, 2, 8, 4, 1])
    centres, curve = priors.log_histogram(response, 5, is_signed=True)
    np.testing.assert_allclose(centres, [-0.8, -0.4, 0.0, 0.4, 0.8], atol=1e-12)
    half = np.log(8) / 2
    np.testing.assert_allclose(priors.chord(centres, curve, is_signed=True), [0, half, np.log(8), half, 0], atol=1e-12)
    found = priors.sparsity(response, 5, is_signed=True)
    assert found['excess'] == pytest.approx((np.log(2) - half + np.log(4) - half) / 5)
    assert (found['mean'], found['every']) == (False, False)
    sparse = priors.sparsity(np.repeat([-0.8, -0.4, 0.0, 0.4, 1.0], [1, 2, 8, 2, 1]), 5, is_signed=True)
    assert (sparse['mean'], sparse['every']) == (True, True)


def test_the_mirror_image_of_signed_responses_is_as_sparse():
    """0, where most responses lie, is amid a bin, also where an even number of bins was asked for."""
    response = sample('laplacian', 3, 20_000) + 0.1
    response[::3] = 0.0
    found, mirrored = (priors.sparsity(each, 64, is_signed=True) for each in (response, -response))
    assert found['excess'] == pytest.approx(mirrored['excess'])


def test_nothing_between_the_ends_lies_below_its_chord():
    """A histogram of two bins is its chord; the strict rule cannot hold where the other does not."""
    assert priors.sparsity(np.array([0.0, 0.0, 1.0])) == {'excess': 0.0, 'mean': False, 'every': False}


def test_of_even_responses_signs_change_little():
    """Both readings agree on which of the known distributions are sparse."""
    for kind, expected in (('gaussian', False), ('mixture', True)):
        responses = np.abs(sample(kind, 0))
        both = np.concatenate([responses, -responses])
        found = [priors.sparsity(both, 64)['mean'], priors.sparsity(both, 128, is_signed=True)['mean']]
        assert found == [expected, expected]


@pytest.mark.parametrize(
    ('field', 'value'), [('filter', 'sobel'), ('response', 'squared'), ('bins', 2), ('bins', 10**12)]
)
def test_settings_that_no_study_can_use(field, value):
    """Named, with what is expected."""
    settings = default.get_config().sparsity
    settings[field] = value
    with pytest.raises(UserError, match=rf'sparsity.{field} is .*; it must be'):
        sparsity.check(settings)


def test_the_curve_of_equation_2_is_that_of_laplacian_samples():
    """On the log-histogram of many samples it lies within the noise of their counts."""
    for is_signed in (False, True):
        response = sample('laplacian', 5, 1_000_000)
        centres, curve = priors.log_histogram(response, 60, is_signed)  # 61 of signed ones
        places, expected = sparsity._expected(response, 60, is_signed)
        is_full = curve > np.log(1000)
        difference = np.interp(centres, places, expected)[is_full] - curve[is_full]
        assert is_full.sum() > 20 and np.abs(difference).max() < 0.1


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Five photos, one of them flat, and a file that is none."""
    folder = tmp_path_factory.mktemp('photos')
    for number in range(4):
        images.save(folder / f'{number}.png', draw_pair(number)[0])
    images.save(folder / 'flat.png', np.full((40, 40, 3), 90, np.uint8))
    (folder / 'broken.png').write_bytes(b'no image')
    return folder


def test_the_study_of_a_folder(photos, tmp_path, capsys):
    """A row and a figure; the flat photo is named, the broken one said, and shares are those of the decisions."""
    assert sparsity.run(None, str(photos), None, tmp_path) == 1  # failed
    row = json.loads((tmp_path / f'sparsity/{photos.name}.json').read_text())
    assert row['count'] == 4 and row['without_gradient'] == ['flat.png'] and row['fingerprint']['count'] == 6
    assert 'failed' in capsys.readouterr().out
    decided = [
        sparsity.decide(
            sparsity.to_gray(images.open_photo(photos / f'{n}.png').rgb), sparsity.control()['excess'], SETTINGS
        )
        for n in range(4)
    ]
    for key in sparsity.NAMES:
        for rule in sparsity.RULES:
            cell = row['share'][key][rule]
            assert cell['share'] == np.mean([each[key][rule] for each in decided])
            assert cell['interval'][0] <= cell['share'] <= cell['interval'][1]
    refused = {entry['name'] for entry in row['not_sparse']}
    assert refused == {f'{n}.png' for n, each in enumerate(decided) if not all(v['mean'] for v in each.values())}
    assert (tmp_path / f'figures/sparsity-{photos.name}.png').stat().st_size > 5000


@pytest.mark.parametrize(('sign', 'p'), [(1, 0.01), (-1, 0.99)])
def test_contrast_of_the_images_that_are_not_sparse(sign, p):
    """Six images of lower contrast are not sparse and six of higher are, and the other way round."""
    verdicts = {
        f'{n}': {'d_x': {'excess': (6 - n - 0.5) * sign}, 'contrast': 0.1 + 0.01 * n} for n in range(12)
    }  # fmt: skip
    found = sparsity._contrast(verdicts, 'd_x', list(verdicts))
    assert (found['p_lower'] < p) if sign > 0 else (found['p_lower'] > p)
    assert found['rank_correlation'] == pytest.approx(-sign) and found['count_not_sparse'] == 6
    expected = (0.125, 0.185) if sign > 0 else (0.185, 0.125)
    assert (found['median_not_sparse'], found['median_sparse']) == pytest.approx(expected)


@pytest.mark.parametrize(
    'p, word', [(0.02, 'reproduced'), (0.03, 'no evidence'), (0.97, 'no evidence'), (0.98, 'opposite')]
)
def test_contrast_is_judged_at_95_percent_to_both_sides(p, word):
    """As every claim."""
    contrast = {'count_not_sparse': 99, 'p_lower': p, 'median_not_sparse': 0.1, 'median_sparse': 0.2}
    assert claims._of_contrast({'contrast': contrast}, 'a set', '')[-1] == word


def test_contrast_counts_scenes():
    """Fourteen versions of each of three photos are as little as three: the darkest one is not sparse."""
    verdicts = {
        f'{n}': {'d_x': {'excess': 0.5 if n % 3 == 0 else -0.5}, 'contrast': 0.1 * (n % 3 + 1) + n / 1000}
        for n in range(42)
    }
    found = sparsity._contrast(verdicts, 'd_x', [f'{n % 3}' for n in range(42)])
    assert found['count_not_sparse'] == 1 and found['p_lower'] == pytest.approx(1 / 3)
    assert sparsity._contrast(verdicts, 'd_x', list(verdicts))['p_lower'] < 1e-6


def test_images_that_are_not_sparse_are_ranked_by_what_refuses_them():
    """Neither the filter of the study nor one that calls the image sparse has a say."""
    verdicts = {
        name: {key: {'mean': excess < 0, 'excess': excess} for key, excess in zip(sparsity.NAMES, found, strict=True)}
        for name, found in {'a': (0.1, -1.0, -1.0, -1.0), 'b': (-2.0, 0.3, 0.4, -1.0), 'c': (-1.0,) * 4}.items()
    }
    made = sparsity._not_sparse({name: {**each, 'contrast': 0.2} for name, each in verdicts.items()})
    assert [(each['name'], each['filters'], each['excess'], each['excess_of']) for each in made] == [
        ('b', ['d_y', 'd_xx'], 0.4, 'd_xx'),
        ('a', ['d_x'], 0.1, 'd_x'),
    ]


def test_the_study_of_one_photo_is_called_after_it(photos, tmp_path):
    """And not after its folder, whose row it would claim."""
    assert sparsity.run(None, str(photos / '0.png'), None, tmp_path) == 0
    assert json.loads((tmp_path / 'sparsity/0.json').read_text())['name'] == '0'
    assert [path.name for path in (tmp_path / 'sparsity').iterdir()] == ['0.json']


def test_the_name_of_a_folder_is_no_command(photos, tmp_path, capsys):
    """What a terminal would obey is escaped in the table and in both paths."""
    (tmp_path / 'a\x1b[2J').mkdir()
    shutil.copy(photos / '0.png', tmp_path / 'a\x1b[2J/0.png')
    assert sparsity.run(None, str(tmp_path / 'a\x1b[2J'), None, tmp_path / 'results') == 0
    printed = capsys.readouterr().out
    assert '\x1b' not in printed and printed.count(r'a\x1b[2J') == 3


def test_a_row_of_other_images_is_not_overwritten(photos, tmp_path):
    """Two folders of one name need two places for their rows, and so do two settings or weights."""
    row = {'fingerprint': {'sha256': 'f' * 64}, 'bins': 64, 'filter': 'd_x', 'response': 'absolute'}
    storage.write_json(tmp_path / f'sparsity/{photos.name}.json', row)
    with pytest.raises(UserError, match="images is 'ffffffffffff' there .* here. Remove it, or name another --results"):
        sparsity.run(None, str(photos), None, tmp_path)
    made = {**row, 'name': photos.name, 'pooled': {'a': 0.5}}
    for change in ({'bins': 50}, {'filter': 'd_y'}, {'response': 'signed'}, {'pooled': {'a': 0.25}}):
        storage.write_json(tmp_path / f'sparsity/{photos.name}.json', made)
        assert sparsity._claimed(tmp_path, made)
        with pytest.raises(UserError, match='holds another result'):
            sparsity._claimed(tmp_path, {**made, **change})


@pytest.mark.parametrize('name', ['pairs-val', 'pairs-train+pairs-val'])
def test_a_row_in_the_way_is_met_before_the_first_study(pairs_root, tmp_path, monkeypatch, name):
    """Of the last set, or of the pool."""
    config = default.get_config()
    config.data.root, config.sparsity.pool = str(pairs_root), 'pairs/train,pairs/val'
    row = {'fingerprint': {'sha256': 'f' * 64}, 'bins': 64, 'filter': 'd_x', 'response': 'absolute'}
    storage.write_json(tmp_path / f'sparsity/{name}.json', row)
    monkeypatch.setattr(sparsity, 'study', lambda *_: pytest.fail('a set was studied'))
    with pytest.raises(UserError, match=rf"{re.escape(name)}\.json holds another result: images is 'ffff"):
        sparsity.run(config, None, None, tmp_path)


def test_a_pool_of_one_is_refused_before_its_study(pairs_root, tmp_path, monkeypatch):
    """Its row would have the name of the set's own."""
    config = default.get_config()
    config.data.root, config.sparsity.pool = str(pairs_root), 'pairs/val:2'
    monkeypatch.setattr(sparsity, 'study', lambda *_: pytest.fail('a set was studied'))
    with pytest.raises(UserError, match='sparsity.pool names pairs-val alone; a pool needs at least two sets'):
        sparsity.run(config, None, None, tmp_path)


def test_two_folders_of_one_name_are_refused(photos, tmp_path, monkeypatch):
    """Even with the same photos: the pool would give their one name the weight of the last."""
    shutil.copytree(photos, tmp_path / f'other/{photos.name}')
    config = default.get_config()
    config.sparsity.pool = f'{photos}:1,{tmp_path / "other" / photos.name}:3'
    monkeypatch.setattr(sparsity, 'study', lambda *_: pytest.fail('a folder was studied'))
    with pytest.raises(UserError, match=f'Two of the folders or sets are called {photos.name}'):
        sparsity.run(config, None, None, tmp_path / 'results')


def test_a_broken_picture_of_a_set_is_met_before_the_study(pairs_root, tmp_path):
    """It is named, and no row is written."""
    shutil.copytree(pairs_root / 'train', tmp_path / 'pairs')
    path = tmp_path / 'pairs/rain-5.png'
    path.write_bytes(path.read_bytes()[:200])
    config = default.get_config()
    config.data.update({'root': str(tmp_path), 'eval': 'pairs/pairs'})
    with pytest.raises(UserError, match=r'1 of the 12 files of data set pairs/pairs cannot be read: .*rain-5.png'):
        sparsity.run(config, None, None, tmp_path / 'results')
    assert not list(tmp_path.glob('results/*'))


def test_pipes_among_photos_are_not_waited_for(tmp_path):
    """Nor dead links: they are no part of the fingerprint, and are said with the others that cannot be read."""
    (tmp_path / 'in').mkdir()
    images.save(tmp_path / 'in/a.png', draw_pair(0)[0])
    os.mkfifo(tmp_path / 'in/b.png')
    (tmp_path / 'in/c.png').symlink_to('gone.png')
    failures: list[str] = []
    _, found, fingerprint = sparsity._open_folder(str(tmp_path / 'in'), failures)
    assert fingerprint['count'] == 1 and [name for name, *_ in found] == ['a.png']
    assert len(failures) == 2 and 'not a regular file' in failures[0] and 'link to gone.png' in failures[1]


def test_a_folder_that_may_be_listed_but_not_entered(tmp_path, deny):
    """Its photos are failures; those of the others are decided."""
    for name in ('a', 'listed/b'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        images.save(tmp_path / f'{name}.png', draw_pair(0)[0])
    deny(lambda path: '/listed/' in path)
    failures: list[str] = []
    _, found, fingerprint = sparsity._open_folder(str(tmp_path), failures)
    assert fingerprint['count'] == 1 and [name for name, *_ in found] == ['a.png']
    assert len(failures) == 1 and 'listed/b.png: may not be read' in failures[0]


def test_nothing_to_decide_is_an_error(tmp_path):
    """A set of flat images has no histograms."""
    flat = iter([('flat', np.full((20, 20, 3), 7, np.uint8), ('flat', 'flat'))])
    with pytest.raises(UserError, match='not flat'):
        sparsity.study('flat', flat, {}, provenance.collect({}, None), derain.load(), tmp_path, SETTINGS)


def test_real_rain_is_mostly_sparse(data_root):
    """On photos of real rain the mean rule calls 85 % or more sparse, the strict rule far fewer."""
    files = find_photos(data_root / 'real').photos
    decided = [sparsity.decide(sparsity.to_gray(images.open_photo(file).rgb), -1.5, SETTINGS)['d_x'] for file in files]
    assert np.mean([each['mean'] for each in decided]) >= 0.85
    assert np.mean([each['every'] for each in decided]) <= 0.6


@pytest.mark.slow
def test_several_sets_are_pooled_with_weights(photos, pairs_root, tmp_path, capsys):
    """Every set has its own row, and the pool the weighted share, with the settings of all."""
    config = default.get_config()
    config.data.root = str(pairs_root)
    config.sparsity.update({'pool': f'{photos}:1,pairs/train:3', 'filter': 'd_y', 'bins': 50, 'response': 'signed'})
    sparsity.run(config, None, None, tmp_path)
    name = f'{photos.name}+pairs-train'
    rows = [json.loads((tmp_path / f'sparsity/{each}.json').read_text()) for each in (photos.name, 'pairs-train', name)]
    assert rows[2]['pooled'] == {photos.name: 0.25, 'pairs-train': 0.75}
    assert (rows[2]['count'], rows[2]['fewest']) == (10, 4) and rows[1]['scenes'] == 6
    for key in sparsity.NAMES:
        first, second, pooled = (row['share'][key]['mean'] for row in rows)
        assert pooled['share'] == pytest.approx(0.25 * first['share'] + 0.75 * second['share'])
        assert pooled['interval'][0] <= pooled['share'] <= pooled['interval'][1]
    assert all((row['filter'], row['bins'], row['response']) == ('d_y', 50, 'signed') for row in rows)
    assert f'{name}: 10 images' in capsys.readouterr().out
    paper = json.loads((RESULTS / 'paper.json').read_text())
    table = claims.others(rows_.load(tmp_path), paper)
    pooled = next(line for line in table.rows if line[2].startswith('25 %'))
    assert pooled[1:3] == ['Rainy images are sparse in d_y', f'25 % {photos.name}, 75 % pairs-train (10)']
    assert pooled[-1] == 'too few: 4 of 30 scenes'
    words = {True: [], False: []}
    for row in (row | {'fewest': 99, 'count': 99, 'scenes': 99} for row in rows):
        (first, *_) = claims.others([{**row, 'kind': 'sparsity', 'name': 'a'}], paper).rows
        words['pooled' in row].append(first[-1])
    assert words[False] == ["not the paper's mixture"] * 2 and words[True][0].split(',')[0] in (
        'consistent',
        'inconsistent',
    )
    report.report(tmp_path)  # a pool has neither contrast nor names


def test_a_name_of_several_sets_shares_its_weight(photos, pairs_root, tmp_path, monkeypatch):
    """As rain13k, which is five."""
    config = default.get_config()
    config.data.root = str(pairs_root)
    config.sparsity.pool = f'both:3,{photos}:1'
    both = {f'pairs/{part}': sets.open_source(f'pairs/{part}', config.data, 'eval', sources.Cache(0))
            for part in ('train', 'val')}  # fmt: skip
    monkeypatch.setattr(sparsity.sets, 'open_evaluation', lambda *_: both)
    sparsity.run(config, None, None, tmp_path)
    row = json.loads((tmp_path / f'sparsity/pairs-train+pairs-val+{photos.name}.json').read_text())
    assert row['pooled'] == {'pairs-train': 0.375, 'pairs-val': 0.375, photos.name: 0.25}


def test_versions_of_one_picture_are_one_scene():
    """Ten rainy versions of each of three pictures leave the share as uncertain as three do."""
    hits = {f'{n}': {'d_x': {'mean': n % 3 > 0}} for n in range(30)}
    found = sparsity._share(hits, 'd_x', 'mean', [f'{n % 3}' for n in range(30)])
    alone = sparsity._share(hits, 'd_x', 'mean', [f'{n}' for n in range(30)])
    assert found['share'] == alone['share'] == pytest.approx(2 / 3)
    assert found['interval'][0] < 0.2 and alone['interval'][0] > 0.4


@pytest.mark.parametrize('is_input', [True, False])
def test_a_picture_that_is_no_figure_of_ours_stays(tmp_path, is_input):
    """Neither a photo of the study nor any other is replaced; without it the same command makes its figure."""
    folder = tmp_path / 'figures'
    for path in (folder / 'sparsity-figures.png', folder / 'a.png', tmp_path / 'photos/a.png'):
        path.parent.mkdir(exist_ok=True)
        images.save(path, draw_pair(0)[0])
    picture = folder / ('sparsity-figures.png' if is_input else 'sparsity-photos.png')
    picture.write_bytes((folder / 'a.png').read_bytes())
    before = picture.read_bytes()
    with pytest.raises(UserError, match=r'sparsity-\w+.png would be replaced, and no .*json says that this program'):
        sparsity.run(None, str(folder if is_input else tmp_path / 'photos'), None, tmp_path)
    assert picture.read_bytes() == before and not list(tmp_path.glob('sparsity/*'))


def test_names_of_any_length_have_room():
    """The row and the figure of a folder whose name is as long as a name can be."""
    for path in sparsity.places(pathlib.Path(), 'L' * 255):
        assert len(path.name) <= 255


def test_images_that_cannot_be_decided_are_counted(photos, tmp_path, capsys):
    """A row of pixels and stripes have no gradient in some direction, and are named, not dropped silently."""
    shutil.copytree(photos, tmp_path / 'in')
    images.save(tmp_path / 'in/row.png', draw_pair(0)[0][:1])
    images.save(tmp_path / 'in/stripes.png', np.tile(draw_pair(0)[0][:1], (20, 1, 1)))
    sparsity.run(None, str(tmp_path / 'in'), None, tmp_path)
    flat = json.loads((tmp_path / 'sparsity/in.json').read_text())['without_gradient']
    assert {'row.png', 'stripes.png'} <= {*flat}
    names = ', '.join(flat[:3]) + (', ...' if len(flat) > 3 else '')
    assert f'left out, without a gradient in some direction: {len(flat)} ({names})' in capsys.readouterr().out


def test_a_pool_and_a_folder_are_not_studied_together(photos, tmp_path):
    """Or the pool would be left out silently."""
    config = default.get_config()
    config.sparsity.pool = f'{photos}:1'
    with pytest.raises(UserError, match='leave it, or --input, out'):
        sparsity.run(config, str(photos), None, tmp_path)
