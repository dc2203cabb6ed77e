"""Files that are whole or not there: atomic writing, and errors of the disk in one line."""

import contextlib
import json
import os
import pathlib
import platform
import re
import secrets
import time
import zlib
from collections.abc import Iterator
from typing import Any, cast

from qsnet_jax import UserError

# Temporary files: the machine and the process that write them, and a number. The name is short whatever the file's own
# name is, and nobody else's.
_TEMPORARY = re.compile(r'\.qsnet-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp')
_STARTED = time.time()
_FORGOTTEN = 24 * 3600  # seconds after which a temporary file of another machine is an orphan too


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path beside `path`, whose file takes its place at the end, so that it is whole or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_path(path: pathlib.Path) -> pathlib.Path:
    """A new name beside `path`, which `remove_orphans` knows."""
    return path.with_name(f'.qsnet-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.tmp')


def remove_orphans(folder: pathlib.Path) -> None:
    """Removes the temporary files in a folder whose process was killed; of another machine's, those of a day ago."""
    with contextlib.suppress(OSError):
        for path in [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]:
            with contextlib.suppress(OSError):
                if _is_orphan(path):
                    path.unlink()


def _is_orphan(path: pathlib.Path) -> bool:
    """Whether nobody will rename a temporary file any more."""
    machine, process = cast(re.Match[str], _TEMPORARY.fullmatch(path.name)).groups()
    changed = path.stat().st_mtime
    if machine != _machine() or os.name != 'posix':
        return time.time() - changed > _FORGOTTEN
    if int(process) == os.getpid():  # numbers come again, in containers always
        return changed < _STARTED
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # of another user: alive
        return False
    return False


def _machine() -> str:
    """This machine, in eight characters."""
    return f'{zlib.crc32(os.fsencode(platform.node())):08x}'


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON, whole or not at all. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + '\n').encode())


@contextlib.contextmanager
def writable(folder: pathlib.Path) -> Iterator[None]:
    """Creates a folder and turns errors of writing to it, also a full disk under Orbax's threads, into UserErrors."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, ValueError) as error:
        is_about_files = isinstance(error, OSError) or 'No space left' in str(error)  # TensorStore's are ValueErrors
        if isinstance(error, UserError) or not is_about_files:
            raise
        lines = str(error).splitlines()
        raise UserError(
            f'{folder} cannot be written: {lines[0][:300] if lines else error!r}. Free some space or name another '
            '--workdir; a run goes on from its last whole checkpoint.'
        ) from error
