"""Output that cannot be printed stops no work, and is told in one line."""

import errno
import io
import os
import subprocess
import sys

import pytest

from qsnet_jax import streams


class Full(io.StringIO):
    """A log on a disk that is full, or whose reader has gone."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(
    ('number', 'said'),
    [(errno.ENOSPC, 'error: standard output: No space left on device; not all was printed\n'), (errno.EPIPE, '')],
)
def test_work_whose_output_cannot_be_printed_is_done(monkeypatch, capsys, number, said):
    """To its end, where a line says so and the status is 1; who stopped reading knows it."""
    done = []

    def work():
        print('begun', flush=True)
        done.append(1)
        return 0

    monkeypatch.setattr(sys, 'stdout', full := Full(number))
    assert streams.with_patient_output(work) == 1 and done == [1]
    assert sys.stdout is full and capsys.readouterr().err == said


def test_a_program_without_a_console_works(monkeypatch):
    """It has no streams."""
    for name in ('stdout', 'stderr'):
        monkeypatch.setattr(sys, name, None)
    assert streams.with_patient_output(lambda: 3) == 3 and sys.stdout is None


PRINTS = """
import sys
from qsnet_jax import signals, streams
def work():
    print('printed')
    print('told', file=sys.stderr)
    return int(sys.argv[1])
signals.leave(streams.with_patient_output(work))
"""


def end(status, command=('-c', PRINTS), **streams):
    """(exit status, stdout, stderr) of a process that buffers what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONUNBUFFERED'}
    streams = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **streams}
    done = subprocess.run([sys.executable, *command, str(status)], env=environment, text=True, **streams)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(('status', 'expected'), [(0, 1), (3, 3), (143, 143)])
def test_a_full_disk_changes_no_status_but_that_of_success(status, expected):
    """One line says so, where it can; nothing of Python's own comes after it."""
    assert end(status) == (status, 'printed\n', 'told\n')
    fault = 'error: standard output: No space left on device; not all was printed\n'
    with open('/dev/full', 'w') as full:
        assert end(status, stdout=full) == (expected, None, f'told\n{fault}')
        assert end(status, stdout=full, stderr=full) == (expected, None, None)
        assert end(status, stderr=full) == (status, 'printed\n', None)


def test_the_program_goes_on_where_its_output_fails():
    """It prints through that."""
    with open('/dev/full', 'w') as full:
        status, _, errors = end('--version', ('-m', 'qsnet_jax.main'), stdout=full)
    assert status == 1 and errors.startswith('error: standard output: No space left') and errors.count('\n') == 1
