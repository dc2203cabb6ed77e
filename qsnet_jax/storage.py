"""Files that are whole or not there: atomic writing, and errors of the disk in one line."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from qsnet_jax import UserError


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path beside `path`, whose file takes its place at the end, so that it is whole or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
