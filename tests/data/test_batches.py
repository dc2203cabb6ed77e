"""Batches are functions of (seed, step)."""

import itertools

import numpy as np
import pytest

from qsnet_jax.data import batches, sets, sources


@pytest.fixture
def data(tiny_config):
    tiny_config.data.flip = True
    tiny_config.data.validation = 'pairs'  # nothing is held out
    return tiny_config.data


def open_batches(data, seed, cache=1e9, **arguments):
    opened = sets.open_training(data, sources.Cache(cache))
    return batches.deal(opened, data, seed, **arguments), batches.fingerprints(opened)


def equal(first, second):
    return all(np.array_equal(first[name], second[name]) for name in ('rainy', 'clean'))


def test_a_batch_depends_on_seed_and_step_alone(data):
    """Opened twice, asked in any order: the same bytes; another seed or step: others."""
    first, second = (open_batches(data, 3)[0] for _ in range(2))
    later = first[70]
    assert later['rainy'].shape == (4, 24, 24, 3) and later['rainy'].dtype == np.uint8
    assert equal(first[5], second[5]) and equal(later, second[70])
    assert not equal(first[5], first[6])
    assert not equal(first[5], open_batches(data, 4)[0][5])


def test_threads_yield_the_same_batches_from_any_start(data):
    """Reading ahead from step 7 gives batches 7, 8, 9."""
    dealt, _ = open_batches(data, 0)
    stream = batches.iterate(dealt, start=7, threads=3, prefetch=4)
    for step, batch in zip(range(7, 10), itertools.islice(stream, 3), strict=True):
        assert equal(batch, dealt[step])


def test_cache_size_does_not_change_batches(data):
    """Decoding each time or once gives the same crops."""
    cached, _ = open_batches(data, 0)
    assert equal(cached[3], open_batches(data, 0, cache=0)[0][3])


def test_a_prepared_set_gives_the_batches_of_its_files(data, pairs_root, tmp_path):
    """Read through TFDS, cached or not, the crops are those of the files as they lie."""
    plain = open_batches(data, 0)[0]
    data.update({'train': 'rain_train_l', 'tfds_dir': str(tmp_path), 'partial': True})
    for cache in (1e9, 0):
        prepared = open_batches(data, 0, cache=cache)[0]
        assert all(equal(plain[step], prepared[step]) for step in (0, 7))


def test_processes_share_the_global_batch(data):
    """The parts of two processes hold the elements of the one process's batch, each once."""
    whole = open_batches(data, 0)[0][2]['rainy']
    parts = [open_batches(data, 0, process=process, processes=2)[0][2]['rainy'] for process in range(2)]
    assert [part.shape[0] for part in parts] == [2, 2]
    found = sorted(image.tobytes() for part in parts for image in part)
    assert found == sorted(image.tobytes() for image in whole)


def test_every_item_comes_once_per_pass(data, pairs_root):
    """Six items in batches of six: each pass holds all of them, in changing order."""
    data.crop, data.batch, data.flip = 56, 6, False  # whole images, continued below
    batches, _ = open_batches(data, 0)
    passes = [[image.mean() for image in batches[step]['clean']] for step in range(3)]
    assert all(len(set(means)) == 6 and set(means) == set(passes[0]) for means in passes)
    assert passes[0] != passes[1] or passes[1] != passes[2]


def test_flips_mirror_both_sides(data):
    """With flips, rain stays where it is on its background: rainy is nowhere darker than clean."""
    batches, _ = open_batches(data, 0)
    for step in range(8):
        batch = batches[step]
        assert (batch['rainy'] >= batch['clean']).all()


def test_flips_happen_in_about_half_of_the_samples(data):
    """The same seed with and without flips differs by mirroring, in 30 to 70 % of 64 samples."""
    mirrored = open_batches(data, 0)[0]
    data.flip = False
    plain = open_batches(data, 0)[0]
    count = 0
    for step in range(16):
        for one, other in zip(mirrored[step]['clean'], plain[step]['clean'], strict=True):
            assert np.array_equal(one, other) or np.array_equal(one, other[:, ::-1])
            count += not np.array_equal(one, other)
    assert 0.3 < count / 64 < 0.7


def test_sources_are_mixed_by_weight(data):
    """3 : 1 of real pairs and drawn rain, with a fingerprint of each."""
    data.train = 'pairs:3,drawn_light:1'
    batches, fingerprints = open_batches(data, 0)
    assert fingerprints.keys() == {'pairs', 'drawn_light'}
    data.train = 'pairs'
    own = {image.tobytes() for step in range(30) for image in open_batches(data, 0)[0][step]['clean']}
    images = [image for step in range(30) for image in batches[step]['clean']]
    assert np.mean([image.tobytes() in own for image in images]) == pytest.approx(0.75, abs=0.05)


def test_brightness_scales_both_sides_alike(data):
    """The same crops, each pair times one factor within the bounds; without it nothing changes."""
    before = open_batches(data, 0)[0]
    data.brightness = 0.3
    after = open_batches(data, 0)[0]
    gains = []
    for step in range(8):
        for number in range(4):
            old, new = ({side: batches[step][side][number].astype(float) for side in ('rainy', 'clean')}
                        for batches in (before, after))  # fmt: skip
            gain = new['clean'].sum() / old['clean'].sum()
            for side in old:
                np.testing.assert_allclose(new[side], np.minimum(gain * old[side], 255), atol=1.5)
            gains.append(gain)
    assert 0.69 < min(gains) < 0.8 and 1.2 < max(gains) < 1.31


def test_a_batch_of_one(data):
    """The sibling's setting: the first element of each batch of four, at its place in the same order."""
    four, _ = open_batches(data, 0)
    data.batch = 1
    alone, _ = open_batches(data, 0)
    found = itertools.islice(batches.iterate(alone, start=4, threads=1, prefetch=2), 4)
    for place, one in enumerate(found):
        assert one['rainy'].shape == (1, 24, 24, 3)
        assert all(np.array_equal(one[side][0], four[1][side][place]) for side in ('rainy', 'clean'))


def test_each_source_of_a_mixture_has_its_own_order_and_crops(data):
    """Two names of the same images, in turn: not the same crops twice."""
    data.train = 'pairs,pairs/train'
    mixed, _ = open_batches(data, 0)
    images = [image.tobytes() for step in range(6) for image in mixed[step]['clean']]
    data.train = 'pairs'
    first = [image.tobytes() for step in range(3) for image in open_batches(data, 0)[0][step]['clean']]
    assert images[0::2] == first
    assert sum(one == other for one, other in zip(images[0::2], images[1::2], strict=True)) < 2
