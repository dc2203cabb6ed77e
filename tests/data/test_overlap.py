"""Shared backgrounds are found by content, through flips, brightness, size and compression, and strangers are not."""

import io
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image
from qsnet_jax.configs import default

from qsnet_jax import UserError
from qsnet_jax.data import images, overlap, prepare, sets, sources


def scene(seed, height=120, width=180):
    """A random picture with edges and shading."""
    generator = np.random.default_rng(seed)
    coarse = generator.uniform(0, 255, (9, 13, 3)).astype(np.float32)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        corner = generator.integers((width, height))
        size = generator.integers(8, 60, 2)
        colour = [float(value) for value in generator.uniform(0, 255, 3)]
        cv2.rectangle(image, corner.tolist(), (corner + size).tolist(), colour, -1)
    return np.clip(image, 0, 255).astype(np.uint8)


def brighter(image):
    return np.clip(image.astype(float) * 1.2 + 25, 0, 255).astype(np.uint8)


def compressed(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'JPEG', quality=40)
    return np.asarray(Image.open(file))


def smaller(image):
    return cv2.resize(image, None, fx=0.5, fy=0.6, interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize(
    'change',
    [
        lambda image: image,
        lambda image: image[:, ::-1],
        lambda image: image[::-1],
        lambda image: image[::-1, ::-1],
        lambda image: brighter(image[:, ::-1]),
        compressed,
        smaller,
    ],
    ids=['same', 'mirrored', 'upside down', 'turned', 'mirrored and brighter', 'JPEG', 'smaller'],
)
def test_copies_are_found_and_strangers_are_not(change):
    """Of five scenes against twenty others and one copy, exactly the copy is reported, with its partner."""
    known = np.stack([overlap.signature(scene(seed)) for seed in range(20)])
    copy = np.ascontiguousarray(change(scene(7)))
    asked = np.stack([overlap.signature(image) for image in [*map(scene, range(100, 104)), copy]])
    found = overlap.shared(asked, known)
    assert [(index, partner) for index, partner, _ in found] == [(4, 7)]
    assert 0.7 < found[0][2] < 1.0001


def test_blocks_change_nothing(monkeypatch):
    """The comparison of many signatures is cut into blocks; each finds its partner, under the same numbers."""
    known = np.stack([overlap.signature(scene(seed)) for seed in range(7)])
    monkeypatch.setattr(overlap, 'BLOCK', 3)
    assert [(index, partner) for index, partner, _ in overlap.shared(known[::-1], known)] == [
        (index, 6 - index) for index in range(7)
    ]


def test_plain_images_match_nothing():
    """A picture of one colour has no content to compare."""
    plain = overlap.signature(np.full((50, 50, 3), 90, np.uint8))[None]
    assert overlap.shared(plain, plain) == []


@pytest.fixture
def config(tmp_path):
    """A config of six pairs to train on, of which items 0 and 4 are changed copies of two of the three scored ones."""
    config = default.get_config()
    config.data.update({'train': 'pairs', 'eval': 'pairs', 'root': str(tmp_path)})
    planted = {0: scene(3)[:, ::-1], 4: brighter(scene(5))}
    for part, seeds in (('train', range(10, 16)), ('val', range(3, 6))):
        (tmp_path / part).mkdir()
        for number, seed in enumerate(seeds):
            clean = planted.get(number, scene(seed)) if part == 'train' else scene(seed)
            images.save(tmp_path / part / f'norain-{number}.png', np.ascontiguousarray(clean))
            images.save(tmp_path / part / f'rain-{number}.png', np.ascontiguousarray(clean))
    return config


def test_training_leaves_out_what_an_evaluation_set_holds(config, capsys):
    """config.data.exclude drops planted copies from the source and from its fingerprint, and says how many."""
    data = config.data
    data.validation = 'pairs'
    whole = sets.open_training(data, sources.Cache(0))['pairs']
    data.exclude = 'pairs'
    kept = sets.open_training(data, sources.Cache(0))['pairs']
    assert whole.names == list('012345') and kept.names == list('1235')
    printed = capsys.readouterr().out
    assert printed == 'training pairs: 2 of 6 items share a background with pairs and are left out\n'
    before, after = sources.fingerprint(whole), sources.fingerprint(kept)
    assert after['count'] == 4 and after['sha256'] != before['sha256'] and after['without_pairs'] == 2
    np.testing.assert_array_equal(kept.load(2)[1], scene(13))


def test_one_folder_for_both_is_said_before_anything_is_compared(config, tmp_path, monkeypatch):
    """Pairs without train/ and val/: nothing would be left to train on."""
    root = shutil.copytree(tmp_path / 'val', tmp_path / 'flat')
    config.data.update({'root': str(root), 'exclude': 'pairs'})
    monkeypatch.setattr(overlap, 'signatures', None)
    with pytest.raises(UserError, match=rf'would both read the same files in {root},.*Make train/ and val/ there'):
        sets.open_training(config.data, sources.Cache(0))


@pytest.mark.parametrize('exclude', [None, 'pairs'])
def test_prepare_compares_whole_sets(config, exclude, capsys):
    """Also what is excluded from training or held out of it to watch the run, or nothing would seem shared."""
    config.data.exclude = exclude
    prepare.prepare(config, find_shared=True)
    printed = capsys.readouterr().out.splitlines()
    assert 'training pairs: 2 of 6 items share a background with pairs' in printed
    assert [line.split(' (')[0] for line in printed if ' is ' in line] == ['  0 is 0', '  4 is 2']


@pytest.mark.slow
def test_real_training_and_validation_share_nothing_but_what_is_planted(data_root):
    """RainTrainL's backgrounds: none in common; a mirrored and brightened validation image is found among them."""
    data = default.get_config().data
    data.root = str(data_root)
    training, validation = (
        sets.open_source('layers/RainTrainL', data, role, sources.Cache(0)) for role in ('train', 'eval')
    )
    own, held = overlap.signatures('train', training), overlap.signatures('val', validation)
    assert overlap.shared(own, held) == []
    own[100] = overlap.signature(brighter(validation.load(20)[1][:, ::-1]))
    assert [(index, partner) for index, partner, _ in overlap.shared(own, held)] == [(100, 20)]
