"""Files are whole or not there; what killed writers left goes, and nothing else."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from qsnet_jax import storage

ROOT = pathlib.Path(__file__).parents[1]


def test_names_as_long_as_drives_allow_can_be_replaced(tmp_path):
    """The temporary name does not grow with the file's."""
    path = tmp_path / ('ä' * 127 + 'x')
    storage.write_bytes(path, b'one')
    storage.write_bytes(path, b'two')
    assert path.read_bytes() == b'two' and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize('error', [OSError('disk'), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_alone(tmp_path, error):
    """And no temporary one."""
    path = tmp_path / 'a'
    path.write_bytes(b'old')
    with pytest.raises(type(error)), storage.replacing(path) as temporary:
        temporary.write_bytes(b'half')
        raise error
    assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]


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


def test_a_folder_that_is_not_there_has_no_orphans(tmp_path):
    """Nor has one that may not be listed."""
    storage.remove_orphans(tmp_path / 'none')
    (tmp_path / 'file').write_text('')
    storage.remove_orphans(tmp_path / 'file')
