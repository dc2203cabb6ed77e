"""What image libraries say beside their results, caught, so that it can be told with the name of the file."""

import contextlib
import logging
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from typing import IO

# Pillow logs what it raises as well; what it only logs concerns its own plug-ins.
logging.getLogger('PIL').setLevel(logging.CRITICAL + 1)

_LOCK = threading.RLock()  # there is one standard error for all threads
_LIBRARY = re.compile(r'[\w./ -]+: \S')  # libtiff names a function or the file, and goes on after a colon
_OTHERS = re.compile(r'[\r\x1b]|^[IWEF]\d{4} |%\|')  # progress bars and logs of other threads


@contextlib.contextmanager
def python_warnings(said: list[str]) -> Iterator[None]:
    """Adds Pillow's warnings to `said`; in the main thread alone, for Python's filters belong to all threads."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        warnings.showwarning = lambda message, *rest, **more: said.append(str(message))
        yield


@contextlib.contextmanager
def printed(said: list[str]) -> Iterator[None]:
    """Adds the lines that C code prints on standard error to `said`; those of others are printed afterwards."""
    with _LOCK, _in_memory() as file:
        try:
            kept = os.dup(2)
        except OSError:  # closed
            yield
            return
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            _share_out(file.read().decode(errors='replace'), said)


def _in_memory() -> IO[bytes]:
    """A file that needs no disk, which may be full, where the system has such."""
    return open(os.memfd_create('said'), 'w+b') if hasattr(os, 'memfd_create') else tempfile.TemporaryFile()


def _share_out(text: str, said: list[str]) -> None:
    """Adds a library's lines to `said`, and prints those of others."""
    is_library = False
    for line in text.splitlines(keepends=True):
        if _OTHERS.search(line):
            is_library = False
        elif _LIBRARY.match(line):
            is_library = True
            said.append(line.strip().removeprefix('tempfile.tif: '))  # Pillow's name for every file
            continue
        if is_library:  # goes on in a second line
            said[-1] += f' {line.strip()}'
        else:
            os.write(2, line.encode())
