"""Where results go: no original and no other result is ever written over, and killed runs leave nothing."""

import errno
import os
import pathlib
import shutil
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

from qsnet_jax import UserError, outputs, photos, storage

JOB = outputs.Job(pathlib.Path('none.png'), 'none.png', pathlib.Path('out/none.png'), None)


class Darkener:
    """Stands for a Derainer: the result differs from the photo. Counts what it is given."""

    tile = 512

    def __init__(self):
        self.count = 0

    def __call__(self, image):
        self.count += 1
        return image // 2


def save(path, seed=0):
    """A small photo; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(256, size=(8, 9, 3), dtype=np.uint8)).save(path)
    return path


def contents(folder):
    """Every file below a folder but the record."""
    found = {path: path.read_bytes() for path in folder.rglob('*') if path.is_file() and not path.is_symlink()}
    return {path: content for path, content in found.items() if path.name != outputs.RECORD}


def refused(root, source, target, match, **options):
    """Runs into a UserError of one line, before anything is computed, and leaves every file as it was."""
    before, derainer = contents(root), Darkener()
    with pytest.raises(UserError, match=match) as caught:
        photos.derain_files(derainer, str(root / source), str(root / target), **options)
    assert derainer.count == 0 and contents(root) == before and '\n' not in str(caught.value)


def prepare_links(root):
    """The input is a folder of links to the originals."""
    save(root / 'originals/a.png')
    (root / 'chosen').mkdir()
    (root / 'chosen/a.png').symlink_to('../originals/a.png')
    return 'chosen', 'originals'


def prepare_linked_output(root):
    """The output is a link to the input."""
    save(root / 'in/a.png')
    (root / 'out').symlink_to('in')
    return 'in', 'out'


def prepare_linked_folder(root):
    """A folder of the output is a link to one of the input."""
    save(root / 'in/deep/a.png')
    (root / 'out').mkdir()
    (root / 'out/deep').symlink_to('../in/deep')
    return 'in', 'out'


def prepare_linked_file(root):
    """A file of the output is a link to one of the input."""
    save(root / 'in/a.png')
    (root / 'out').mkdir()
    (root / 'out/a.png').symlink_to('../in/a.png')
    return 'in', 'out'


def prepare_hard_link(root):
    """A file of the output is another name of one of the input."""
    save(root / 'in/a.png')
    (root / 'out').mkdir()
    (root / 'out/a.png').hardlink_to(root / 'in/a.png')
    return 'in', 'out'


def prepare_nested(root):
    """The result of a photo of a folder would be a photo above it, also of the input."""
    save(root / 'in/out/in/a.png', 1)
    save(root / 'in/a.png', 2)
    (root / 'link').symlink_to('in/out/in')
    return 'link', 'in'


def prepare_one_file(root):
    """A single photo, the output where it lies."""
    save(root / 'in/a.png')
    return 'in/a.png', 'in'


CASES = [
    prepare_links,
    prepare_linked_output,
    prepare_linked_folder,
    prepare_linked_file,
    prepare_hard_link,
    prepare_one_file,
]


@pytest.mark.parametrize('prepare', CASES)
def test_an_input_is_never_overwritten(tmp_path, prepare):
    """Whatever links lead there, and whatever is asked for."""
    source, target = prepare(tmp_path)
    refused(tmp_path, source, target, 'is the input .* which would be overwritten')
    refused(tmp_path, source, target, 'is the input .* which would be overwritten', overwrite=True)


def test_a_photo_above_the_input_is_not_replaced(tmp_path):
    """It is no input, but it is an original."""
    refused(tmp_path, *prepare_nested(tmp_path), 'no record says')


def test_foreign_files_need_overwrite(tmp_path):
    """What no record tells of stays; with --overwrite it is replaced."""
    save(tmp_path / 'photos/new/a.png', 1)
    for name in ('a.png', 'other.png'):
        save(tmp_path / 'photos' / name, 2)
    refused(tmp_path, 'photos/new', 'photos', 'photos/a.png would be replaced, .* --overwrite')
    before = contents(tmp_path)
    assert photos.derain_files(Darkener(), str(tmp_path / 'photos/new'), str(tmp_path / 'photos'), overwrite=True) == 0
    after = contents(tmp_path)
    assert {path for path in before if before[path] != after[path]} == {tmp_path / 'photos/a.png'}


def test_foreign_layers_are_protected_too(tmp_path):
    """A file in the place of NAME.rain.png is no result either."""
    save(tmp_path / 'in/a.png')
    save(tmp_path / 'out/a.png.rain.png', 5)
    refused(tmp_path, 'in', 'out', r'a.png.rain.png would be replaced', layers=True)


def test_the_same_command_runs_again_over_its_results(tmp_path):
    """Also with layers added and with other results."""
    save(tmp_path / 'in/deep/a.png')
    save(tmp_path / 'in/b.png')
    for options in ({}, {}, {'layers': True}, {'layers': True}):
        assert photos.derain_files(Darkener(), str(tmp_path / 'in'), str(tmp_path / 'out'), **options) == 0
    assert photos.derain_files(lambda image: image // 3, str(tmp_path / 'in'), str(tmp_path / 'out')) == 0
    assert photos.derain_files(Darkener(), str(tmp_path / 'in'), str(tmp_path / 'out')) == 0


def test_a_result_that_was_worked_on_is_an_original(tmp_path):
    """Once somebody changed it, it is theirs."""
    save(tmp_path / 'in/a.png')
    photos.derain_files(Darkener(), str(tmp_path / 'in'), str(tmp_path / 'out'))
    save(tmp_path / 'out/a.png', 9)
    refused(tmp_path, 'in', 'out', 'would be replaced')


def test_results_copied_elsewhere_are_still_results(tmp_path):
    """The record goes by content, so that copies and drives with other times do not matter."""
    save(tmp_path / 'in/a.png')
    photos.derain_files(Darkener(), str(tmp_path / 'in'), str(tmp_path / 'out'))
    (tmp_path / 'out').rename(tmp_path / 'moved')
    os.utime(tmp_path / 'moved/a.png', (0, 0))
    assert photos.derain_files(Darkener(), str(tmp_path / 'in'), str(tmp_path / 'moved')) == 0


def test_the_record_stands_before_the_result(tmp_path, monkeypatch):
    """Killed between the two, the next run still knows what is its own."""
    save(tmp_path / 'in/a.png')
    photos.derain_files(Darkener(), str(tmp_path / 'in'), str(tmp_path / 'out'))
    seen = []
    replace = outputs.pathlib.Path.replace

    def watched(self, target):
        seen.append(outputs.Record(tmp_path / 'out').objection(self, JOB) == '')
        return replace(self, target)

    monkeypatch.setattr(outputs.pathlib.Path, 'replace', watched)
    photos.derain_files(lambda image: image // 3, str(tmp_path / 'in'), str(tmp_path / 'out'))
    assert seen == [True]


# Runs that go on


def count(root, made_by='a', **options):
    """How many photos a run computes; nothing fails."""
    derainer = Darkener()
    given = (derainer, str(root / 'in'), str(root / 'out'))
    assert photos.derain_files(*given, made_by=made_by, **options) == 0
    return derainer.count


def test_what_is_done_is_not_done_again(tmp_path, capsys):
    """But for another network, a changed photo, a result that is gone, layers, and where it is asked for."""
    for seed, name in enumerate(('a.png', 'deep/b.png', 'c.png')):
        save(tmp_path / 'in' / name, seed)
    assert count(tmp_path) == 3 and 'done already' not in capsys.readouterr().out
    assert count(tmp_path) == 0
    assert '0 of 3 photos derained' in (printed := capsys.readouterr().out)
    assert '\ndone already: 3; --overwrite does them again\n' in printed
    save(tmp_path / 'in/c.png', 9)
    assert count(tmp_path) == 1
    (tmp_path / 'out/a.png').unlink()
    assert count(tmp_path) == 1
    assert count(tmp_path, 'b') == 3 and count(tmp_path, 'b') == 0
    assert count(tmp_path, 'b', layers=True) == 3 and count(tmp_path, 'b', layers=True) == 0
    assert count(tmp_path, 'b', overwrite=True) == 3
    assert count(tmp_path, '') == count(tmp_path, '') == 3  # where nobody says what it is made by


def test_records_of_before_are_read(tmp_path):
    """Lines without an origin tell results, which are done again."""
    save(tmp_path / 'in/a.png')
    count(tmp_path)
    path = tmp_path / 'out' / outputs.RECORD
    digest, *marks, name = path.read_bytes().split(b'  ')
    assert [len(each) for each in (digest, *marks)] == [64] * 4 and name == b'a.png\n'
    for before in (b'  '.join((digest, name)), b'  '.join((digest, b'0' * 64, name))):
        path.write_bytes(before)
        assert count(tmp_path) == 1 and count(tmp_path) == 0


def test_results_of_another_photo_are_not_replaced(tmp_path):
    """Of one that is neither in its place nor has its content, as two cameras name theirs; unless that is asked for."""
    for seed, folder in enumerate(('in', 'other')):
        save(tmp_path / folder / 'IMG_1.png', seed)
    out = tmp_path / 'out/IMG_1.png'
    assert count(tmp_path) == 1
    before = out.read_bytes()
    refused(tmp_path, 'other', 'out', 'IMG_1.png would be replaced, which this program made of another photo. Name ano')
    assert out.read_bytes() == before
    shutil.copy(tmp_path / 'in/IMG_1.png', tmp_path / 'other/IMG_1.png')
    given = str(tmp_path / 'other'), str(tmp_path / 'out')
    assert photos.derain_files(Darkener(), *given, made_by='b') == 0 and out.read_bytes() == before
    save(tmp_path / 'other/IMG_1.png', 5)  # in its place now
    assert photos.derain_files(Darkener(), *given, made_by='b') == 0 and out.read_bytes() != before
    save(tmp_path / 'in/IMG_1.png', 6)
    refused(tmp_path, 'in', 'out', 'made of another photo')
    assert count(tmp_path, overwrite=True) == 1


def test_a_folder_that_was_moved_is_known_in_its_new_place(tmp_path):
    """Photos that are passed over there may be changed later, as before."""
    save(tmp_path / 'old/a.png')
    (tmp_path / 'old').rename(tmp_path / 'in')
    shutil.copytree(tmp_path / 'in', tmp_path / 'old')
    assert photos.derain_files(Darkener(), str(tmp_path / 'old'), str(tmp_path / 'out'), made_by='a') == 0
    shutil.rmtree(tmp_path / 'old')
    assert count(tmp_path) == 0
    save(tmp_path / 'in/a.png', 5)
    assert count(tmp_path) == 1


def test_results_of_unknown_photos_are_replaced_even_if_one_is_known(tmp_path):
    """Two lines for one content, as of two black layers, of which one is of before photos were noted."""
    save(tmp_path / 'in/a.png')
    count(tmp_path)
    path = tmp_path / 'out' / outputs.RECORD
    digest = path.read_bytes()[:64]
    path.write_bytes(path.read_bytes() + digest + b'  b.png\n')
    shutil.rmtree(tmp_path / 'in')
    save(tmp_path / 'other/a.png', 9)
    assert photos.derain_files(Darkener(), str(tmp_path / 'other'), str(tmp_path / 'out'), made_by='a') == 0


def test_an_interrupted_run_tells_what_it_has_done_and_goes_on(tmp_path, capsys):
    """Failures and notes so far are printed; what is left is done by the same command."""
    for seed, name in enumerate(('a.png', 'c.png', 'd.png')):
        save(tmp_path / 'in' / name, seed)
    (tmp_path / 'in/b.png').write_bytes(b'no image')

    def stop(image, seen=[]):  # noqa: B006
        seen.append(image)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return image // 2

    with pytest.raises(KeyboardInterrupt):
        photos.derain_files(stop, str(tmp_path / 'in'), str(tmp_path / 'out'), made_by='a')
    printed = capsys.readouterr().out
    assert '1 of 4 photos derained' in printed and f'failed: {tmp_path}/in/b.png: ' in printed
    (tmp_path / 'in/b.png').unlink()
    assert count(tmp_path) == 2


# The name of a single result


def test_one_photo_may_be_given_the_name_of_its_result(tmp_path):
    """As --output=clean.png; beside it the layer and the record. A folder of that name is a folder."""
    save(tmp_path / 'in/a.png')
    options = {'layers': True, 'made_by': 'a'}
    for _ in range(2):
        photos.derain_files(Darkener(), str(tmp_path / 'in/a.png'), str(tmp_path / 'out/clean.png'), **options)
    assert {path.name for path in contents(tmp_path / 'out')} == {'clean.png', 'clean.png.rain.png'}
    (tmp_path / 'folder.png').mkdir()
    photos.derain_files(Darkener(), str(tmp_path / 'in/a.png'), str(tmp_path / 'folder.png'))
    photos.derain_files(Darkener(), str(tmp_path / 'in'), str(tmp_path / 'many.png'))
    assert (tmp_path / 'folder.png/a.png').is_file() and (tmp_path / 'many.png/a.png').is_file()


@pytest.mark.parametrize(
    ('target', 'match'),
    [
        ('out.jpg', 'out.jpg has another extension than .*a.png, whose format the result keeps'),
        ('in/a.png', 'is the input'),
        ('in/other.png', 'other.png would be replaced'),
    ],
)
def test_the_name_of_a_result_is_as_safe(tmp_path, target, match):
    """Another format, the photo itself, and a file of others are refused."""
    save(tmp_path / 'in/a.png')
    save(tmp_path / 'in/other.png', 1)
    refused(tmp_path, 'in/a.png', target, match)


# Targets among each other


def test_a_layer_in_the_place_of_a_photo_is_refused(tmp_path):
    """a.png with its layer, beside a photo of the layer's name."""
    save(tmp_path / 'in/a.png')
    save(tmp_path / 'in/a.png.rain.png')
    refused(tmp_path, 'in', 'out', 'a.png.rain.png. Rename', layers=True)
    assert photos.derain_files(Darkener(), str(tmp_path / 'in'), str(tmp_path / 'out')) == 0


def test_two_folders_that_are_one_in_the_output_are_refused(tmp_path):
    """Links in the output can bring two results together."""
    save(tmp_path / 'in/one/a.png', 1)
    save(tmp_path / 'in/two/a.png', 2)
    (tmp_path / 'out/one').mkdir(parents=True)
    (tmp_path / 'out/two').symlink_to('one')
    refused(tmp_path, 'in', 'out', 'would both be')


@pytest.mark.parametrize('names', [('A.png', 'a.PNG'), ('\u00e9.png', 'e\u0301.png')])
def test_names_that_a_drive_takes_for_one_are_refused(tmp_path, monkeypatch, names):
    """Where upper and lower case, or two forms of an accent, are the same; elsewhere both come out."""
    for seed, name in enumerate(names):
        save(tmp_path / 'in' / name, seed)
    assert photos.derain_files(Darkener(), str(tmp_path / 'in'), str(tmp_path / 'out')) == 0
    assert len(contents(tmp_path / 'out')) == 2
    monkeypatch.setattr(outputs, '_try', lambda folder: outputs._fold)
    refused(tmp_path, 'in', 'other', 'would both be')


def test_the_drive_is_asked_whether_cases_differ(tmp_path, monkeypatch):
    """The file that tries the folder also shows what the drive makes of its name."""
    assert outputs._try(tmp_path / 'out')('Ä') == 'Ä'
    exists = outputs.pathlib.Path.exists
    monkeypatch.setattr(
        outputs.pathlib.Path, 'exists', lambda self: exists(self) or any(
            each.name.lower() == self.name.lower() for each in self.parent.iterdir()
        )
    )  # fmt: skip
    assert outputs._try(tmp_path / 'out')(unicodedata.normalize('NFD', 'Ä')) == 'ä'
    assert list((tmp_path / 'out').iterdir()) == []


def test_a_file_where_a_folder_must_be(tmp_path):
    """And the other way round."""
    save(tmp_path / 'in/deep/a.png')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/deep').write_text('')
    refused(tmp_path, 'in', 'out', 'deep is no folder')
    (tmp_path / 'other/deep/a.png').mkdir(parents=True)
    refused(tmp_path, 'in', 'other', 'a.png is a folder')
    save(tmp_path / 'odd/a.png')
    save(tmp_path / 'odd/a.png.rain.png/b.png')
    refused(tmp_path, 'odd', 'third', 'would be a file, and a folder', layers=True)


# The output folder


@pytest.mark.parametrize('name', ['file', 'file/below', '/proc/none'])
def test_an_output_that_cannot_be_is_found_before_anything_is_computed(tmp_path, name):
    """A file in its place, or a place where nothing can be made."""
    save(tmp_path / 'in/a.png')
    (tmp_path / 'file').write_text('')
    remedy = 'nothing can be made there' if name.startswith('/') else 'A file lies where a folder is needed'
    refused(tmp_path, 'in', name, f'--output=.* cannot be written: .*{remedy}')


def test_the_output_is_written_to_before_the_first_photo(tmp_path, monkeypatch):
    """A folder that is there but takes nothing, as one that is read-only or full."""
    save(tmp_path / 'in/a.png')

    def fail(self, content):
        raise OSError(30, 'Read-only file system')

    monkeypatch.setattr(outputs.pathlib.Path, 'write_bytes', fail)
    refused(tmp_path, 'in', 'out', '--output=.*Read-only file system')


def test_the_record_is_tried_before_the_first_photo(tmp_path, monkeypatch):
    """Another's in a folder that both may write to; it is left as it is."""
    save(tmp_path / 'in/a.png')
    photos.derain_files(Darkener(), str(tmp_path / 'in'), str(tmp_path / 'out'))
    path, before = tmp_path / 'out' / outputs.RECORD, (tmp_path / 'out' / outputs.RECORD).read_bytes()
    photos.derain_files(Darkener(), str(tmp_path / 'in'), str(tmp_path / 'out'))
    real = outputs.pathlib.Path.open

    def guarded(self, mode='r', *rest, **options):
        if self == path and mode not in ('r', 'rb'):
            raise PermissionError(errno.EACCES, 'Permission denied', str(self))
        return real(self, mode, *rest, **options)

    monkeypatch.setattr(outputs.pathlib.Path, 'open', guarded)
    refused(tmp_path, 'in', 'out', f'--output: {path} cannot be written: Permission denied. Take the rights to write')
    assert path.read_bytes() == before


def test_what_killed_runs_left_is_removed(tmp_path):
    """Temporary files of processes that are gone, in every folder of the output; nobody else's files."""
    gone = subprocess.run([sys.executable, '-c', 'import os; print(os.getpid())'], capture_output=True, text=True)
    save(tmp_path / 'in/deep/a.png')
    (tmp_path / 'out/deep').mkdir(parents=True)
    orphans = []
    for folder in ('out', 'out/deep'):
        path = storage.temporary_path(tmp_path / folder / 'x')
        orphans.append(path.with_name(path.name.replace(f'-{os.getpid()}-', f'-{int(gone.stdout)}-')))
        orphans[-1].write_text('half')
    alive = storage.temporary_path(tmp_path / 'out/x')
    alive = alive.with_name(alive.name.replace(f'-{os.getpid()}-', f'-{os.getppid()}-'))
    kept = [alive, tmp_path / 'out/.qsnet-notes', tmp_path / 'out/.a.png.123', tmp_path / 'out/.hidden.tmp']
    for path in kept:
        path.write_text('mine')
    photos.derain_files(Darkener(), str(tmp_path / 'in'), str(tmp_path / 'out'))
    assert not any(path.exists() for path in orphans) and all(path.exists() for path in kept)


def test_results_of_a_process_beside_are_results(tmp_path):
    """What another one has written since the record was read; and a line that a full disk has cut spoils no other."""
    (tmp_path / outputs.RECORD).write_bytes(b'0123456789abcdef')  # without an end
    mine, theirs = outputs.Record(tmp_path), outputs.Record(tmp_path)
    for number in range(2):
        theirs.put(tmp_path / f'{number}.png', lambda path, number=number: path.write_bytes(b'%d' % number), JOB)
    for record in (mine, theirs):
        assert not any(record.objection(tmp_path / f'{number}.png', JOB) for number in range(2))
    (tmp_path / '1.png').write_bytes(b'original')
    for record in (mine, outputs.Record(tmp_path)):
        assert 'no record' in record.objection(tmp_path / '1.png', JOB)
