"""Folders of photos: what is taken, what fails, what is passed over, and that nothing is lost."""

import numpy as np
import pytest
from PIL import Image

from qsnet_jax import UserError, derain, model, outputs, photos
from qsnet_jax.data import images

SETTINGS = {
    'channels': 12, 'groups': 3, 'units': 1, 'scale_channels': 6, 'rates': (1, 2), 'encoder_stride': 1,
    'norm': 'batch', 'share_groups': True, 'share_scales': True, 'dtype': 'float32',
}  # fmt: skip


def make():
    """A Derainer with random weights."""
    variables = model.initialize(model.from_config(SETTINGS), seed=0)
    return derain.Derainer(variables, SETTINGS)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Photos of every kind, some of which cannot be read."""
    root = tmp_path / 'in'
    (root / 'deep').mkdir(parents=True)
    Image.fromarray(picture(40, 50)).save(root / 'plain.jpg')
    Image.fromarray(picture(40, 50)).save(root / 'deep/nested.png')
    Image.fromarray(picture(1, 1)).save(root / 'one.png')
    Image.fromarray(picture(20, 30)[..., 0]).save(root / 'grey.png')
    Image.fromarray(np.dstack([picture(20, 30), picture(20, 30, 1)[..., 0]])).save(root / 'rgba.png')
    Image.fromarray(picture(20, 30)[..., 0].astype(np.uint16) * 257).save(root / 'deep16.png')
    Image.fromarray(picture(20, 30)).convert('CMYK').save(root / 'cmyk.jpg')
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(20, 30)).save(root / 'turned.jpg', exif=exif)
    content = (root / 'plain.jpg').read_bytes()
    (root / 'truncated.jpg').write_bytes(content[: len(content) // 2])
    (root / 'text.png').write_text('no image')
    (root / 'phone.heic').write_bytes(b'\0\0\0\x18ftypheic')
    Image.new('RGB', (16, 12)).save(
        root / 'camera.NEF', 'TIFF'
    )  # a raw file's preview can be read; it is not the photo
    (root / 'notes.txt').write_text('left alone')
    return root


def test_a_folder_with_bad_files_loses_nothing(folder, tmp_path, capsys):
    """Readable photos come out under their names; the unreadable ones are reported and counted."""
    out = tmp_path / 'out'
    assert photos.derain_files(make(), str(folder), str(out), layers=True) == 4
    names = {str(path.relative_to(out)) for path in out.rglob('*') if path.is_file()}
    expected = {
        'plain.jpg',
        'deep/nested.png',
        'one.png',
        'grey.png',
        'rgba.png',
        'deep16.png',
        'cmyk.jpg',
        'turned.jpg',
    }
    assert names == expected | {f'{name}.rain.png' for name in expected} | {outputs.RECORD}
    with Image.open(out / 'grey.png') as grey, Image.open(out / 'rgba.png') as rgba:
        assert grey.mode == 'L' and rgba.mode == 'RGBA'
        np.testing.assert_array_equal(np.asarray(rgba)[..., 3], picture(20, 30, 1)[..., 0])
    with Image.open(out / 'turned.jpg') as turned:
        assert turned.size == (20, 30) and turned.getexif().get(0x0112, 1) == 1
    printed = capsys.readouterr().out
    assert 'note: cmyk.jpg: ' in printed and 'note: deep16.png: ' in printed
    assert '8 of 12 photos' in printed
    failed = ('truncated.jpg', 'text.png', 'phone.heic', 'camera.NEF')
    assert all(f'failed: {folder / name}' in printed for name in failed)


def test_layer_and_result_add_up(folder, tmp_path):
    """What was removed, plus what is left, is the input wherever the network did not brighten."""
    photos.derain_files(make(), str(folder / 'deep/nested.png'), str(tmp_path / 'out'), layers=True)
    rainy, restored = images.read(folder / 'deep/nested.png'), images.read(tmp_path / 'out/nested.png')
    layer = images.read(tmp_path / 'out/nested.png.rain.png')
    np.testing.assert_array_equal(restored.astype(int) + layer, np.maximum(rainy, restored))


@pytest.mark.parametrize(
    ('source', 'target', 'message'),
    [('in', 'in', 'overwritten'), ('none', 'out', 'does not exist'), ('empty', 'out', 'No image under')],
)
def test_folders_that_make_no_sense_are_refused(folder, tmp_path, source, target, message):
    """Nothing is overwritten and nothing is silently empty."""
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match=message):
        photos.derain_files(make(), str(tmp_path / source), str(tmp_path / target))


def test_results_below_the_input_are_not_derained_again(folder, tmp_path):
    """Run twice with the output inside the input: the same files."""
    out = folder / 'results'
    counts = []
    for _ in range(2):
        photos.derain_files(make(), str(folder), str(out))
        counts.append(len(list(out.rglob('*'))))
    assert counts[0] == counts[1]
