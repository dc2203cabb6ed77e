"""Files are whole or not there; what killed writers left goes, and nothing else."""

import contextlib
import errno
import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time
import tracemalloc

import pytest

from qsnet_jax import UserError, outputs, storage

ROOT = pathlib.Path(__file__).parents[1]


def test_names_as_long_as_drives_allow_can_be_replaced(tmp_path):
    """The temporary name does not grow with the file's."""
    path = tmp_path / ('ä' * 127 + 'x')
    storage.write_bytes(path, b'one')
    storage.write_bytes(path, b'two')
    assert path.read_bytes() == b'two' and len(list(tmp_path.iterdir())) == 1


def test_a_large_file_is_hashed_in_little_memory(tmp_path):
    """Whatever lies among photos is hashed."""
    path = tmp_path / 'a'
    path.write_bytes(b'begin')
    os.truncate(path, 2**26)
    tracemalloc.start()
    digest = storage.sha256(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22 and digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize('error', [OSError('disk'), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_alone(tmp_path, error):
    """And no temporary one."""
    path = tmp_path / 'a'
    path.write_bytes(b'old')
    with pytest.raises(type(error)), storage.replacing(path) as temporary:
        temporary.write_bytes(b'half')
        raise error
    assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]


def test_only_a_run_goes_on_from_what_it_keeps(tmp_path):
    """And only a drive that is full is said to leave it."""
    for number, keeps, end in (
        (errno.ENOSPC, '', 'Free some space or name another folder.'),
        (errno.ENOSPC, 'Go on.', 'Free some space or name another folder. Go on.'),
        (errno.EACCES, 'Go on.', 'or name another folder.'),
        (errno.EINVAL, '', 'as a name or an operation which it does not know; name a folder on another.'),
    ):
        with pytest.raises(UserError) as caught, storage.writable(tmp_path, keeps):
            raise OSError(number, os.strerror(number))
        assert str(caught.value).endswith(end)


def test_what_a_killed_writer_left_is_removed(tmp_path):
    """While it lives its file stays; once it is killed, the next run removes it."""
    program = 'import pathlib, sys, time; from qsnet_jax import storage\n'
    program += (
        'with storage.replacing(pathlib.Path(sys.argv[1])) as path:\n    path.write_bytes(b"half"); time.sleep(600)'
    )
    writer = subprocess.Popen([sys.executable, '-c', program, str(tmp_path / 'a')], cwd=ROOT)
    while not list(tmp_path.iterdir()):
        time.sleep(0.02)
    storage.remove_orphans(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    storage.remove_orphans(tmp_path)
    assert list(tmp_path.iterdir()) == []


def renamed(path, machine=None, process=None):
    """A temporary name of another machine or process."""
    _, mine, number, rest = path.name.split('-')
    return path.with_name(f'.qsnet-{machine or mine}-{process or number}-{rest}')


def test_home_folders_are_found_where_there_are_some(tmp_path, monkeypatch):
    """A name that begins so and is nobody's is a file's own."""
    monkeypatch.setenv('HOME', str(tmp_path))
    assert storage.expanded('~/a') == tmp_path / 'a' and storage.expanded('~') == tmp_path
    for path in ('~nonesuch/a', '~nonesuch', 'a/~', './~root'):
        assert str(storage.expanded(path)) == str(pathlib.Path(path))


def test_only_ones_own_kind_is_removed(tmp_path):
    """Files of this process, of another machine today, and of other names stay; a day later the machine's goes."""
    elsewhere = renamed(storage.temporary_path(tmp_path / 'a'), machine='0123abcd')
    kept = [storage.temporary_path(tmp_path / 'a'), tmp_path / '.qsnet-notes', tmp_path / '.a.png.123', elsewhere]
    for path in kept:
        path.write_bytes(b'')
    storage.remove_orphans(tmp_path)
    assert set(tmp_path.iterdir()) == set(kept)
    os.utime(elsewhere, (0, 0))
    os.utime(kept[0], (0, 0))  # of this process's number, but before it began, as after a restart of a container
    storage.remove_orphans(tmp_path)
    assert set(tmp_path.iterdir()) == set(kept[1:3])


def test_what_a_namesake_writes_stays(tmp_path, monkeypatch):
    """Containers and machines of one host name do not know each other's processes."""
    gone = subprocess.run([sys.executable, '-c', 'import os; print(os.getpid())'], capture_output=True, text=True)
    theirs = renamed(storage.temporary_path(tmp_path / 'a'), process=int(gone.stdout))
    theirs.write_bytes(b'half')
    with monkeypatch.context() as patch:
        patch.setattr(os, 'readlink', lambda *_: 'pid:[1]')
        storage.remove_orphans(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, 'read_bytes', lambda _: b'another')
        storage.remove_orphans(tmp_path)
    assert theirs.exists()
    storage.remove_orphans(tmp_path)
    assert not theirs.exists()


def test_a_folder_that_is_not_there_has_no_orphans(tmp_path):
    """Nor has one that may not be listed."""
    storage.remove_orphans(tmp_path / 'none')
    (tmp_path / 'file').write_text('')
    storage.remove_orphans(tmp_path / 'file')


def test_every_write_removes_what_killed_writers_left(tmp_path):
    """In the folder that it writes to, also with the extension that a writer needed; once a process."""
    gone = subprocess.run([sys.executable, '-c', 'import os; print(os.getpid())'], capture_output=True, text=True)
    orphan = renamed(storage.temporary_path(tmp_path / 'deep/a'), process=int(gone.stdout))
    orphan.parent.mkdir()
    for path in (orphan, orphan.with_name(f'{orphan.name}.mp4')):
        path.write_bytes(b'half')
    storage.write_bytes(tmp_path / 'deep/b', b'whole')
    assert [path.name for path in orphan.parent.iterdir()] == ['b']


def test_a_fault_of_the_drive_names_the_file(tmp_path):
    """Not the temporary one, nor none at all, as writing to a full disk does."""
    path = tmp_path / 'a'
    for where in ((), (storage.temporary_path(path),)):
        with pytest.raises(OSError) as error, storage.replacing(path) as temporary:
            raise OSError(errno.ENOSPC, 'No space left on device', *(str(temporary) for _ in where))
        assert str(error.value) == f"[Errno 28] No space left on device: '{path}'"
        assert str(storage.explained(error.value)).startswith(f'{path}: No space left on device. Free some space')


@pytest.mark.parametrize('number', [errno.EACCES, errno.EPERM])
def test_rights_may_be_those_to_read(number):
    """Where nobody knows what was tried."""
    told = str(storage.explained(OSError(number, os.strerror(number), 'a')))
    assert told == f'a: {os.strerror(number)}. Take the rights to read or write it (chmod, chown), or name another one.'


@pytest.mark.parametrize(
    'number',
    [
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS),
        *(errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP),  # of a drive without locks, which checkpoints take
    ],
)
@pytest.mark.parametrize('kind', [ValueError, RuntimeError])
def test_faults_in_the_words_of_libraries(number, kind, tmp_path):
    """TensorStore and ArrayRecord raise errors of their own: the remedy is that of the system's, in one line."""
    words = f'UNKNOWN: Error writing "x/.zarray": Failed to write 235 bytes to file 13: {os.strerror(number)}\n[spec]'
    with pytest.raises(UserError) as error, storage.writable(tmp_path):
        raise kind(words)
    assert str(error.value) == (
        f'{tmp_path} cannot be written: {os.strerror(number)}. {storage._REMEDIES[number]}.'
    )  # fmt: skip


@pytest.mark.parametrize('place', ['disk', 'disk/below/it'])
def test_a_folder_behind_a_link_to_nowhere_is_said_so(tmp_path, place):
    """Whoever is to write there; nothing is a file in the way."""
    (tmp_path / 'disk').symlink_to(tmp_path / 'gone')
    words = 'disk is a link to .*gone, which is not there. Mount its drive, or mend the link'
    with pytest.raises(UserError, match=words):
        storage.check_writable(tmp_path / place, 'results')
    with pytest.raises(UserError, match=words), storage.writable(tmp_path / place):
        pass
    with pytest.raises(UserError, match=words):
        outputs.prepare([], tmp_path / place, overwrite=False)


def test_a_name_that_is_too_long_keeps_its_own_words(tmp_path):
    """The look for links to nowhere raises nothing itself."""
    for write in (lambda folder: outputs.prepare([], folder, overwrite=False), lambda folder: _write(folder)):
        with pytest.raises(UserError, match='cannot be written: .*File name too long'):
            write(tmp_path / ('a' * 300))


def _write(folder):
    with storage.writable(folder):
        pass


def test_a_folder_is_tried_without_making_it(tmp_path):
    """A place where it can be passes and stays as it is; a file in its way is refused."""
    (tmp_path / 'file').write_text('')
    storage.check_writable(tmp_path / 'a/b', 'results')
    storage.check_writable(tmp_path, 'results')
    assert [path.name for path in tmp_path.iterdir()] == ['file']
    for place in ('file', 'file/below', '../' * 30 + 'proc/none'):
        with pytest.raises(UserError, match=r'--results=.* cannot be written'):
            storage.check_writable(tmp_path / place, 'results')


@pytest.mark.parametrize('read', [storage.read_json, storage.read_json_lines, lambda path: storage.locked(path, True)])
@pytest.mark.parametrize('make', [os.mkfifo, lambda path: path.symlink_to('/dev/zero')])
def test_what_would_block_or_never_end_is_no_file(tmp_path, read, make):
    """A pipe, and a device, under the name of a record, a log or a lock."""
    make(tmp_path / 'run.json')
    with pytest.raises(UserError, match='run.json is a pipe, socket or device; expected a file'):
        with contextlib.ExitStack() as stack:
            if isinstance(found := read(tmp_path / 'run.json'), contextlib.AbstractContextManager):
                stack.enter_context(found)


def test_a_file_below_the_home_folder(tmp_path, monkeypatch):
    """~ is the home folder where a file is written too, or one called ~ would lie in the current one."""
    monkeypatch.setenv('HOME', str(tmp_path))
    assert storage.file_to_write('~/a/x.safetensors') == tmp_path / 'a/x.safetensors'
    with pytest.raises(UserError, match=f'{tmp_path} is a folder'):
        storage.file_to_write('~')
