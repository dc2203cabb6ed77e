"""The sparsity decision on distributions whose answer is known, and the study over folders."""

import json

import numpy as np
import pytest
from conftest import draw_pair

from qsnet_jax import UserError, derain, priors, provenance, storage
from qsnet_jax.data import images
from qsnet_jax.evidence import sparsity
from qsnet_jax.photos import find_photos


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
    excess = [priors.sparsity(sample('laplacian', 100 + seed), sparsity.BINS)['excess'] for seed in range(60)]
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
    sparsity.run(None, str(photos), None, tmp_path)
    row = json.loads((tmp_path / f'sparsity/{photos.name}.json').read_text())
    assert row['count'] == 4 and row['without_gradient'] == ['flat.png'] and row['fingerprint']['count'] == 6
    assert 'failed' in capsys.readouterr().out
    decided = [
        sparsity.decide(sparsity.luma(images.open_photo(photos / f'{n}.png').rgb), sparsity.control()['excess'])
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
    found = sparsity._contrast(verdicts)
    assert (found['p_lower'] < p) if sign > 0 else (found['p_lower'] > p)
    assert found['rank_correlation'] == pytest.approx(-sign) and found['count_not_sparse'] == 6
    expected = (0.125, 0.185) if sign > 0 else (0.185, 0.125)
    assert (found['median_not_sparse'], found['median_sparse']) == pytest.approx(expected)


def test_a_row_of_other_images_is_not_overwritten(photos, tmp_path):
    """Two folders of one name need two places for their rows."""
    storage.write_json(tmp_path / f'sparsity/{photos.name}.json', {'fingerprint': {'sha256': 'f' * 64}})
    with pytest.raises(UserError, match='other images of that name'):
        sparsity.run(None, str(photos), None, tmp_path)


def test_nothing_to_decide_is_an_error(tmp_path):
    """A set of flat images has no histograms."""
    flat = iter([('flat', np.full((20, 20, 3), 7, np.uint8))])
    with pytest.raises(UserError, match='not flat'):
        sparsity.study('flat', flat, {}, provenance.collect({}, None), derain.load(), tmp_path)


def test_real_rain_is_mostly_sparse(data_root):
    """On photos of real rain the mean rule calls 85 % or more sparse, the strict rule far fewer."""
    files = find_photos(data_root / 'real').photos
    decided = [sparsity.decide(sparsity.luma(images.open_photo(file).rgb), -1.5)['d_x'] for file in files]
    assert np.mean([each['mean'] for each in decided]) >= 0.85
    assert np.mean([each['every'] for each in decided]) <= 0.6
