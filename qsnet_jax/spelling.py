"""How names and messages are spelled for people: what a terminal would obey, or cannot show, is escaped."""

import codecs
import difflib
import hashlib
import os
import pathlib
import re
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

from qsnet_jax import UserError

ESCAPED = 'qsnet_jax.escaped'  # how text is encoded that holds what an encoding has not: as `shown` spells it
LONGEST = 255  # bytes of a file's name

_FORMULAS = ('=', '+', '-', '@', '\t', '\r', '\n', '\uff1d', '\uff0b', '\uff0d', '\uff20')  # also at full width
_JOINERS = '\u200c\u200d'  # within words of some scripts, and within emoji


def shown(text: object, keep: str = '') -> str:
    """A name or a message as it may be printed, in one line.

    Control characters, line breaks and characters that turn the direction of text become escapes such as \\x1b; so do
    the bytes of a file name that is not UTF-8, as \\xe4. keep: characters that stay all the same.
    """
    return ''.join(
        character if character.isprintable() or character in keep or _is_harmless(character) else _escaped(character)
        for character in str(text)
    )


def extension(path: str | pathlib.Path) -> str:
    """What a file's name says of its kind: '.jpg' of 'A.JPG ', since people leave spaces behind."""
    return pathlib.Path(path).suffix.lower().strip()


def with_ending(name: str, ending: str) -> str:
    """The name of a file; of one too long for that its beginning, and eight characters that tell it from others."""
    content = os.fsencode(name)
    if len(content) + len(ending) <= LONGEST:
        return name + ending
    end = LONGEST - len(ending) - 9
    while end and 0x80 <= content[end] < 0xC0:  # not within a character
        end -= 1
    return f'{os.fsdecode(content[:end])}~{hashlib.sha256(content).hexdigest()[:8]}{ending}'


def composed(name: str) -> str:
    """A name with its accents as one character each (NFC), however a system took them apart."""
    return unicodedata.normalize('NFC', name)


def check_file_name(name: str) -> None:
    """Raises UserError for a --name that cannot be part of a file's name on every system."""
    if not re.fullmatch(r'[\w.+-][\w .+-]*', name):
        raise UserError(f'--name={name}: expected letters, digits, spaces, . + - and _; it becomes the name of a file.')


def nearest(name: str, known: Iterable[str], mark: str = '') -> str:
    """' (did you mean X?)' as the middle of a message, or the names that there are. mark: put before each."""
    folded = {each.casefold(): each for each in sorted(known)}
    digits = {each: re.sub(r'\D', '', each) for each in (name, *folded)}  # another number is no misspelling
    alike = [each for each in folded if digits[each].startswith(digits[name])]
    close = difflib.get_close_matches(name.casefold(), alike, 1, 0.5)
    if close:
        begun = [each for each in folded if each.startswith(name.casefold()) and len(each) <= len(close[0])]
        return f' (did you mean {" or ".join(mark + folded[each] for each in begun or close)}?)'
    return f' (there are {", ".join(mark + each for each in folded.values())})'


def print_escaped() -> None:
    """From now on, what the streams cannot encode is printed escaped: bytes of odd names, accents in a C locale."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):  # not what notebooks and tests put there
            stream.reconfigure(errors=ESCAPED)


def quoted(name: object) -> str:
    """A name in quotation marks, within a message; Python's own `repr` spells bytes that are not UTF-8 otherwise."""
    return f"'{shown(name)}'"


def cell(value: Any) -> Any:
    """A value for a table in a file. A text that spreadsheets would run gets an apostrophe in front.

    So does one that begins with an apostrophe, so that `uncell` can take it off again. Numbers stay as they are.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith((*_FORMULAS, "'")) else value


def uncell(text: str) -> str:
    """The text that `cell` was given."""
    return text.removeprefix("'")


def _is_harmless(character: str) -> bool:
    """Spaces of other scripts and joiners, which Python does not call printable."""
    return character in _JOINERS or (character.isspace() and character in '\u00a0\u3000\u2009\u202f')


def _escaped(character: str) -> str:
    """The escape of one character; bytes that Python smuggles through as surrogates become those bytes again."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f'\\x{code - 0xDC00:02x}'
    return character.encode('unicode_escape').decode('ascii')


def _encode_escaped(error: UnicodeError) -> tuple[str, int]:
    """For `codecs`: the escapes of what cannot be encoded, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return ''.join(map(_escaped, error.object[error.start : error.end])), error.end


codecs.register_error(ESCAPED, _encode_escaped)
