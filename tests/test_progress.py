"""Progress on a terminal and in a log file."""

import errno
import io
import os
import select
import subprocess
import sys

import pytest

from qsnet_jax import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_file_gets_plain_lines(monkeypatch):
    """No carriage return, one line at a time, as rarely as stated, and a last one at the end."""
    log = io.StringIO()
    monkeypatch.setattr(sys, 'stderr', log)
    monkeypatch.setattr(progress, 'PACE', 0.05)
    monkeypatch.setattr(progress, 'SHORT', 0.0)
    now = [0.0]
    monkeypatch.setattr(progress.tqdm.std, 'time', lambda: now[0])
    monkeypatch.setattr(progress.time, 'time', lambda: now[0])
    with progress.bar(total=300, unit='step') as bar:
        for _ in range(300):
            bar.update()
            bar.set_postfix(loss='0.1')
            now[0] += 0.001
    text = log.getvalue()
    assert '\r' not in text and text.endswith('\n') and '300/300' in text.splitlines()[-1]
    assert len(text.splitlines()) == 6 and all(line.strip() for line in text.splitlines())


def test_what_is_quick_says_nothing(monkeypatch):
    """A log file is not filled by what takes no time."""
    log = io.StringIO()
    monkeypatch.setattr(sys, 'stderr', log)
    assert list(progress.bar(range(5), 'photos')) == list(range(5))
    assert not log.getvalue()


def test_a_terminal_gets_a_bar(monkeypatch):
    """That goes back to the start of its line."""
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stderr', terminal)
    list(progress.bar(range(5), 'photos'))
    assert '\r' in terminal.getvalue() and '5/5' in terminal.getvalue()


def test_a_stand_in_for_stderr_may_be_anything_or_nothing(monkeypatch):
    """As of programs that copy what is printed, and of those without a console."""

    class Tee:
        text = ''

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    tee = Tee()
    monkeypatch.setattr(progress, 'PACE', 0.0)
    for stream in (tee, None):
        monkeypatch.setattr(sys, 'stderr', stream)
        assert list(progress.bar(range(5), 'photos')) == list(range(5))
    assert '5/5' in tee.text and '\r' not in tee.text


def test_streams_may_be_closed():
    """As by `2>&-`: what is written goes nowhere, and no file that is opened later gets their numbers."""
    code = 'from qsnet_jax import signals; signals.install(); from qsnet_jax import progress; import os, sys; '
    code += 'print(list(progress.bar([1])), file=sys.stderr); os._exit(os.open("/dev/null", 0))'
    program = f"exec {sys.executable} -c '{code}' <&- >&- 2>&-"
    assert subprocess.run(['sh', '-c', program], cwd=os.getcwd()).returncode > 2


def test_variables_that_tqdm_does_not_take_are_named():
    """In one line of the command's."""
    given = {**os.environ, 'TQDM_MININTERVAL': 'abc'}
    command = [sys.executable, '-m', 'qsnet_jax.main', '--mode=derain', '--input=none', '--output=none']
    done = subprocess.run(command, env=given, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith('error: TQDM_MININTERVAL=abc is not what tqdm takes: could not convert')


@pytest.mark.parametrize(
    ('kind', 'number'), [(io.StringIO, errno.ENOSPC), (io.StringIO, errno.EPIPE), (Terminal, errno.EIO)]
)
def test_progress_that_cannot_be_shown_stops_nothing(monkeypatch, kind, number):
    """As in a log on a disk that is full, or where its reader or the terminal has gone."""

    class Gone(kind):
        def write(self, text):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sys, 'stderr', Gone())
    monkeypatch.setattr(progress, 'PACE', 0.0)
    assert list(progress.bar(range(5), 'photos')) == list(range(5))


def test_a_terminal_without_a_size_gets_a_bar_too(monkeypatch):
    """As those of some containers, which say 0 lines of 0 columns."""
    leader, follower = os.openpty()
    with os.fdopen(follower, 'w') as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, 'stderr', terminal)
        list(progress.bar(range(5), 'photos'))
        shown = b''
        while b'5/5' not in shown:  # the terminal hands it on in pieces
            assert select.select([leader], [], [], 30)[0], shown
            shown += os.read(leader, 10_000)
    os.close(leader)
