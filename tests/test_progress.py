"""Progress on a terminal and in a log file."""

import io
import os
import subprocess
import sys

from qsnet_jax import progress


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

    class Terminal(io.StringIO):
        def isatty(self):
            return True

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
