"""Folders of photos: what is taken, what fails, what is passed over, and that nothing is lost."""

import errno
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from qsnet_jax import UserError, derain, model, outputs, photos
from qsnet_jax.data import images, kinds

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
    [('in', 'in', 'overwritten'), ('none', 'out', 'does not exist'), ('empty', 'out', 'No photo and no video under')],
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


class Copier:
    """Stands for a Derainer; counts what it is given."""

    tile = 512
    network = model.from_config(SETTINGS)

    def __init__(self):
        self.count = 0

    def __call__(self, image):
        self.count += 1
        return image


def save(path, seed=0, **options):
    """A small photo; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(12, 16, seed)).save(path, **options)
    return path


def run(source, target, **options):
    """Failures, and how many photos were computed."""
    copier = Copier()
    return photos.derain_files(copier, str(source), str(target), **options), copier.count


def written(folder):
    """Names of all results in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file()} - {outputs.RECORD}


# Folders as people have them


@pytest.mark.parametrize('call', ['scandir', 'stat'])
def test_an_unreadable_folder_is_named_and_the_rest_comes_out(tmp_path, monkeypatch, deny, capsys, call):
    """Whether it may not be listed, or not even looked at."""
    save(tmp_path / 'in/a.png')
    save(tmp_path / 'in/closed/b.png')
    deny(lambda path: path.endswith('closed'), call)
    assert run(tmp_path / 'in', tmp_path / 'out') == (1, 1)
    monkeypatch.undo()
    assert written(tmp_path / 'out') == {'a.png'}
    assert f'failed: {tmp_path}/in/closed: cannot be read (Permission denied)' in capsys.readouterr().out


def test_a_folder_that_may_be_listed_but_not_entered(tmp_path, deny, capsys):
    """Its photos are failures; nothing ends in a traceback."""
    save(tmp_path / 'in/a.png')
    save(tmp_path / 'in/listed/b.png')
    deny(lambda path: '/in/listed/' in path)
    assert run(tmp_path / 'in', tmp_path / 'out') == (1, 1)
    assert 'listed/b.png: may not be read' in capsys.readouterr().out


def test_the_input_itself_may_be_unreadable(tmp_path, monkeypatch):
    """One line, whatever the reason."""
    save(tmp_path / 'in/a.png')

    def deny(path):
        raise PermissionError(errno.EACCES, 'Permission denied', str(path))

    monkeypatch.setattr(os, 'scandir', deny)
    with pytest.raises(UserError, match='--input=.*cannot be read: Permission denied'):
        run(tmp_path / 'in', tmp_path / 'out')


def test_results_of_earlier_runs_are_not_derained_again(tmp_path, capsys):
    """Below the input, with layers; what somebody put beside them is taken, and a folder of results that is named."""
    for name in ('a.png', 'deep/b.png'):
        save(tmp_path / 'in' / name)
    assert run(tmp_path / 'in', tmp_path / 'in/first', layers=True) == (0, 2)
    save(tmp_path / 'in/first/deep/mine.png', seed=7)
    capsys.readouterr()
    assert run(tmp_path / 'in', tmp_path / 'second') == (0, 3)
    assert 'passed over: 1 hidden or of a system, 4 results of an earlier run' in capsys.readouterr().out
    assert written(tmp_path / 'second') == {'a.png', 'deep/b.png', 'first/deep/mine.png'}
    assert run(tmp_path / 'in/first', tmp_path / 'third') == (0, 5)


@pytest.mark.parametrize('record', ['', '{', os.mkdir, os.mkfifo])
def test_a_record_that_says_nothing_hides_no_photo(tmp_path, record):
    """Empty, of other content, a folder, a pipe."""
    save(tmp_path / 'in/sub/a.png')
    place = tmp_path / 'in/sub' / outputs.RECORD
    place.write_text(record) if isinstance(record, str) else record(place)
    assert run(tmp_path / 'in', tmp_path / 'out') == (0, 1)


@pytest.mark.parametrize('make', [os.mkdir, os.mkfifo, 'nowhere', '/dev/zero'])
def test_what_lies_in_the_place_of_the_record_is_named(tmp_path, make):
    """In the output folder: a folder, a pipe, which would block, a link to nowhere, a device."""
    save(tmp_path / 'in/a.png')
    (tmp_path / 'out').mkdir()
    place = tmp_path / 'out' / outputs.RECORD
    place.symlink_to(make) if isinstance(make, str) else make(place)
    with pytest.raises(UserError, match=f'{outputs.RECORD} is no file.*name another --output'):
        run(tmp_path / 'in', tmp_path / 'out')
    assert written(tmp_path / 'out') == set()


def test_links_are_followed_and_rings_end(tmp_path, capsys):
    """Photos behind links come out once each, under their own names where they have one."""
    save(tmp_path / 'in/a.png')
    save(tmp_path / 'in/deep/b.png')
    save(tmp_path / 'disk/c.png')
    save(tmp_path / 'disk/more/d.png')
    for link, goal in [('in/abroad', 'disk'), ('in/deep/up', 'in'), ('in/again', 'in/deep'), ('disk/back', 'in')]:
        (tmp_path / link).symlink_to(tmp_path / goal)
    (tmp_path / 'in/e.png').symlink_to(tmp_path / 'in/a.png')
    (tmp_path / 'in/self').symlink_to('self')
    assert run(tmp_path / 'in', tmp_path / 'out') == (1, 5)  # the link to itself leads nowhere
    assert written(tmp_path / 'out') == {'a.png', 'deep/b.png', 'abroad/c.png', 'abroad/more/d.png', 'e.png'}
    assert '3 links to folders that are taken already' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['gone.jpg', 'gone.NEF', 'disk', 'Holiday 12.2023', 'Dr. Who'])
def test_a_link_that_leads_nowhere_is_a_failure(tmp_path, capsys, name):
    """A photo, and what may have been a folder of them."""
    save(tmp_path / 'in/a.png')
    (tmp_path / 'in' / name).symlink_to('nowhere')
    assert run(tmp_path / 'in', tmp_path / 'out') == (1, 1)
    assert f'failed: {tmp_path}/in/{name}: ' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('goal', 'words'), [('in/a.png/x.png', 'which does not exist'), ('in/b.png', 'a link that leads in a circle')]
)
def test_links_that_cannot_be_followed_are_said_to_be_links(tmp_path, capsys, goal, words):
    """Through a file, and to itself."""
    save(tmp_path / 'in/a.png')
    (tmp_path / 'in/b.png').symlink_to(tmp_path / goal)
    assert run(tmp_path / 'in', tmp_path / 'out') == (1, 1)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith('failed: '))
    assert f'{tmp_path}/in/b.png' in line and words in line


def test_nothing_but_failures_is_no_success(tmp_path):
    """A folder of which nothing could be read does not end as empty."""
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in/disk').symlink_to('nowhere')
    assert run(tmp_path / 'in', tmp_path / 'out') == (1, 0)


def test_what_systems_leave_is_passed_over_and_counted(tmp_path, capsys):
    """Hidden files and folders and those of Macs, network drives and Windows are no photos, and no failures."""
    save(tmp_path / 'in/a.jpg')
    for name in (
        '.hidden/b.png',
        '.thumbnails/c.png',
        '@eaDir/a.jpg/T.jpg',
        '__MACOSX/d.png',
        '$RECYCLE.BIN/e.jpg',
        '.f.png',
    ):
        save(tmp_path / 'in' / name)
    (tmp_path / 'in/._a.jpg').write_bytes(b'\0\5\x16\7')
    (tmp_path / 'in/Thumbs.db').write_bytes(b'')
    (tmp_path / 'in/clip.3gp').write_bytes(b'')
    assert run(tmp_path / 'in', tmp_path / 'out') == (0, 1)
    assert written(tmp_path / 'out') == {'a.jpg'}
    assert 'passed over: 7 hidden or of a system, 2 of other kinds (.3gp, .db)' in capsys.readouterr().out


@pytest.mark.parametrize(
    'name',
    [
        *('@eaDir@tmp', '@tmp', '@Recently-Snapshot', '@Recycle', '#snapshot', '~snapshot', '.snapshot', 'RECYCLER'),
        *('$Recycle.Bin', 'found.000', 'FOUND.012', 'System Volume Information', 'lost+found', 'Network Trash Folder'),
        *('Temporary Items', 'TheVolumeSettingsFolder', '~$folder', '@EADIR'),
    ],
)
def test_folders_of_systems_are_known_in_any_case(tmp_path, capsys, name):
    """Copies and remains that drives and systems keep are not derained."""
    save(tmp_path / 'in/a.png')
    save(tmp_path / 'in' / name / 'a.png')
    save(tmp_path / 'in/~$a.png')
    assert run(tmp_path / 'in', tmp_path / 'out') == (0, 1)
    assert 'passed over: 2 hidden or of a system' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['Thumbs', '@home', 'tmp', '~old', 'found.photos', 'Recycled', '$a', 'my@eaDir'])
def test_folders_of_people_are_looked_into(tmp_path, name):
    """Though their names are like those of systems."""
    save(tmp_path / 'in' / name / 'a.png')
    assert run(tmp_path / 'in', tmp_path / 'out') == (0, 1)


def test_a_hidden_input_that_is_named_is_taken(tmp_path):
    """The rule is for what lies in a folder, not for what is asked for."""
    save(tmp_path / '.in/a.png')
    assert run(tmp_path / '.in', tmp_path / 'out') == (0, 1)
    assert run(save(tmp_path / '.b.png'), tmp_path / 'out') == (0, 1)


@pytest.mark.parametrize('extension', images.EXTENSIONS)
def test_every_extension_is_read_and_written_again(tmp_path, extension):
    """In either case; with the same pixels where the format loses nothing."""
    kinds = {'.jpe': 'JPEG', '.jfif': 'JPEG', '.dib': 'BMP', '.jpf': 'JPEG2000', '.jpc': 'JPEG2000', '.pbm': 'PPM'}
    kinds |= dict.fromkeys(('.jif', '.jfi', '.pjpeg', '.pjp'), 'JPEG') | dict.fromkeys(images.TGA, 'TGA')
    kinds |= {'.btf': 'TIFF', '.ptif': 'TIFF'}
    for name in (f'a{extension}', f'B{extension.upper()}'):
        save(tmp_path / 'in' / name, **({'format': kinds[extension]} if extension in kinds else {}))
    assert run(tmp_path / 'in', tmp_path / 'out') == (0, 2)
    for name in (f'a{extension}', f'B{extension.upper()}'):
        before, after = (images.open_photo(tmp_path / folder / name) for folder in ('in', 'out'))
        assert before.format == after.format
        lossy = before.format == 'JPEG'
        assert np.abs(before.rgb.astype(int) - after.rgb).max() <= (40 if lossy else 0)


@pytest.mark.parametrize(
    'name', ['a.srw', 'b.NRW', 'h.kc2', 'i.R3D', 'j.ari', 'c.heic', 'd.gif', 'e.avif', 'f.psd', 'g.exr', 'k.CR2 ']
)
def test_kinds_that_are_not_read_are_named(tmp_path, capsys, name):
    """Also raw data that begin as a TIFF does, in a folder and alone."""
    save(tmp_path / 'in/a.png')
    save(tmp_path / 'in' / name, format='TIFF' if name.lower()[1:].strip() in kinds.RAW else 'GIF')
    assert run(tmp_path / 'in', tmp_path / 'out') == (1, 1)
    assert run(tmp_path / 'in' / name, tmp_path / 'out') == (1, 0)
    assert capsys.readouterr().out.count(f'failed: {tmp_path}/in/{name}: ') == 2


@pytest.mark.parametrize('count', [1, 9, 40, 41])
def test_all_other_kinds_are_named(tmp_path, capsys, count):
    """In one line, up to forty of them."""
    save(tmp_path / 'in/a.png')
    kinds = [f'.{number}x' for number in range(10, 10 + count)]
    for kind in kinds:
        (tmp_path / f'in/a{kind}').write_bytes(b'')
    assert run(tmp_path / 'in', tmp_path / 'out') == (0, 1)
    listed = ', '.join(kinds[:40]) + ', ...' * (count > 40)
    assert f'passed over: {count} of other kinds ({listed})\n' in capsys.readouterr().out


# Names


ODD = [
    b'n\xe4cht.png',
    b'a\x1b[31mb.png',
    b'line\nbreak.png',
    'ünï\u202ecode.png'.encode(),
    b'-rf.png',
    b'=1+1.png',
    b'a b.png',
]


@pytest.mark.parametrize('name', ODD)
def test_odd_names_come_out_and_are_printed_escaped(tmp_path, capsys, name):
    """Bytes that are no UTF-8, control characters, line breaks: the file has the name, the terminal gets none of it."""
    file = save(tmp_path / 'in' / os.fsdecode(name))
    bad = tmp_path / 'in' / os.fsdecode(name.replace(b'.png', b'.jpg'))
    bad.write_bytes(b'')
    assert run(tmp_path / 'in', tmp_path / 'out', layers=True) == (1, 1)
    assert written(tmp_path / 'out') == {file.name, f'{file.name}.rain.png'}
    assert run(tmp_path / 'in', tmp_path / 'out', layers=True) == (1, 1)  # and again, over its own results
    printed = capsys.readouterr()
    assert all(character.isprintable() or character == '\n' for character in printed.out)
    assert '\x1b[31m' not in printed.err and len(printed.out.splitlines()) == 4
    printed.out.encode('utf-8')


def test_names_as_long_as_drives_allow(tmp_path):
    """255 bytes, also of two-byte characters, with layers: none of both is lost and none takes the other's name."""
    names = ['a' * 251 + '.png', 'b' * 247 + '.png', 'ä' * 125 + 'c.png', 'a' * 250 + 'b.png']
    for seed, name in enumerate(names):
        save(tmp_path / 'in' / name, seed)
    assert run(tmp_path / 'in', tmp_path / 'out', layers=True) == (0, 4)
    results = written(tmp_path / 'out')
    assert set(names) <= results and len(results) == 8
    assert sum(name.endswith('.rain.png') for name in results) == 4


# What stops a run


def test_a_full_disk_stops_the_run(tmp_path, monkeypatch, capsys):
    """No hour is computed for photos that cannot be written; the others are counted."""
    for index in range(4):
        save(tmp_path / f'in/{index}.png')

    def fail(path, rgb, photo):
        raise images.ImageError(f'{path}: full') from OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(images, 'save_photo', fail)
    assert run(tmp_path / 'in', tmp_path / 'out') == (2, 1)
    assert 'failed: 3 more photos were not tried' in capsys.readouterr().out
    assert written(tmp_path / 'out') == set()


def test_a_full_disk_names_the_photo(tmp_path, monkeypatch, capsys):
    """And not the temporary file that was half written."""
    save(tmp_path / 'in/a.png')

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(Image.Image, 'save', fail)
    monkeypatch.setattr(images, 'open_photo', lambda path: images.Photo.of_pixels(images.read(path)))
    assert run(tmp_path / 'in', tmp_path / 'out')[0] == 1
    assert f'failed: {tmp_path}/out/a.png: cannot be written (No space left' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('norm', 'text'),
    [
        ('batch', 'out of memory with tiles of 512 pixels; use a smaller --tile'),
        ('instance', 'out of memory; a network with instance norm takes a photo as a whole; shrink the photo'),
    ],
)
def test_memory_of_the_device_names_the_photo(tmp_path, monkeypatch, capsys, norm, text):
    """Running out of it is a failure of this photo, with the remedy, which is no tile where none is cut."""
    save(tmp_path / 'in/a.png')

    def fail(self, image):
        raise MemoryError

    monkeypatch.setattr(Copier, '__call__', fail)
    monkeypatch.setattr(Copier, 'network', model.from_config({**SETTINGS, 'norm': norm}))
    assert run(tmp_path / 'in', tmp_path / 'out') == (1, 0)
    assert f'failed: a.png: {text}' in capsys.readouterr().out


def test_the_command_line_prints_odd_names_on_any_stream(tmp_path):
    """With ASCII alone on both streams the report is whole, escaped, and the status says that something failed."""
    save(tmp_path / 'in' / os.fsdecode(b'n\xe4cht \xe4.png'))
    (tmp_path / 'in/\u00fc\x1b[2J.jpg').write_bytes(b'')
    command = [sys.executable, '-m', 'qsnet_jax.main', '--mode=derain']
    command += [f'--input={tmp_path}/in', f'--output={tmp_path}/out']
    environment = {**os.environ, 'PYTHONIOENCODING': 'ascii', 'PYTHONUTF8': '1'}
    options = {'capture_output': True, 'env': environment, 'cwd': pathlib.Path(__file__).parents[1]}
    done = subprocess.run(command, **options)
    assert done.returncode == 1
    assert b'1 of 2 photos derained' in done.stdout and rb'/\xfc\x1b[2J.jpg: is empty' in done.stdout
    assert b'\x1b[2J' not in done.stdout + done.stderr and b'Traceback' not in done.stderr
    save(tmp_path / 'out' / os.fsdecode(b'n\xe4cht \xe4.png'), seed=3)
    done = subprocess.run(command, **options)
    assert done.returncode == 1 and done.stderr.count(b'error: ') == 1
    assert rb'n\xe4cht \xe4.png would be replaced' in done.stderr
