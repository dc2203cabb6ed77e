"""Names and messages are printed so that they can be read, do nothing to the terminal, and end no program."""

import csv
import io
import os
import subprocess
import sys

import pytest

from qsnet_jax import spelling


@pytest.mark.parametrize('name', ['a' * 251, 'a' * 252, 'ä' * 150, 'x' + 'ä' * 150, os.fsdecode(b'\xe4' * 300)])
def test_names_are_as_long_as_drives_allow(tmp_path, name):
    """The ending stays, no character is cut, and others that begin so have other names."""
    made, other = spelling.with_ending(name, '.png'), spelling.with_ending(f'{name}b', '.png')
    (tmp_path / made).write_text('')
    assert made.endswith('.png') and made != other and (made == f'{name}.png') == (len(os.fsencode(name)) < 252)
    assert len(os.fsencode(made)) >= 254 and name.startswith(made.rpartition('~')[0])


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('plain name.png', 'plain name.png'),
        ('über/日本 語/🐈\u200d⬛.png', 'über/日本 語/🐈\u200d⬛.png'),
        (os.fsdecode(b'n\xe4cht'), r'n\xe4cht'),
        ('a\nb\rc\td', r'a\nb\rc\td'),
        ('\x1b[2J\x07\x7f\x9b', r'\x1b[2J\x07\x7f\x9b'),
        ('gnp.\u202egpj', r'gnp.\u202egpj'),
        ('\u2028\u2029\ufeff', r'\u2028\u2029\ufeff'),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, expected):
    """Everything else stays as it is."""
    assert spelling.shown(text) == expected
    assert spelling.shown(text, keep='\n') == expected.replace(r'\n', '\n')


def test_every_character_can_be_shown():
    """Of any name, in one line, without control characters, encodable."""
    for first in range(0, 0x110000, 0x1000):
        shown = spelling.shown(''.join(map(chr, range(first, first + 0x1000))))
        shown.encode()
        assert len(shown.splitlines()) <= 1 and not set(shown) & {chr(code) for code in (*range(32), *range(127, 160))}


@pytest.mark.parametrize('encoding', ['utf-8', 'latin-1', 'ascii', 'cp1252'])
def test_streams_of_any_encoding_take_any_name(encoding):
    """What they do not have is printed escaped; no UnicodeEncodeError."""
    program = 'import os; from qsnet_jax import spelling; spelling.print_escaped(); '
    program += 'print("\\u00e9\\u4e16", os.fsdecode(b"\\xe4"))'
    environment = {**os.environ, 'PYTHONIOENCODING': encoding}
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, env=environment, check=True)
    assert rb'\xe4' in done.stdout
    assert (rb'\u4e16' in done.stdout) == (encoding != 'utf-8')


@pytest.mark.parametrize(
    'name', ['=1+1', '+1', '-1', '@SUM(A1)', '\tx', '\rx', "'quoted", "'=1", '＝1', 'plain', '', 'a=1', 'x\ny']
)
def test_tables_hold_no_formula_and_lose_no_name(name):
    """A spreadsheet takes the cell for text, and reading it back gives the name."""
    file = io.StringIO()
    csv.writer(file).writerow([spelling.cell(name), spelling.cell(-0.5), spelling.cell(None)])
    text, number, nothing = next(csv.reader(io.StringIO(file.getvalue(), newline='')))
    assert not text.startswith(('=', '+', '-', '@', '\t', '\r', '＝'))
    assert spelling.uncell(text) == name
    assert number == '-0.5' and nothing == ''
