"""Opens weights files that strangers may have made: what they are and hold is known before data are read.

Sizes are bounded, so that no file takes more than 2 s and 1 GiB. Needs neither JAX nor PyTorch.
"""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from qsnet_jax import UserError, spelling, storage

MARK = 'qsnet_jax weights 1'  # of this package's own files
RUN = 'weights.safetensors'  # what a run leaves in its folder
INCLUDED = pathlib.Path(__file__).parent  # weights that come with the package
DATA_LIMIT = 64 * 2**20  # bytes of all tensors: thirty times those of the full-size network
HEADER_LIMIT = 4 * 2**20  # bytes of names, settings and record: a hundred times those of the package's weights
COUNT_LIMIT = 2048  # tensors: seven times those of the full-size network
MESSAGE_LIMIT = 1000  # characters


class Tensors(NamedTuple):
    """What a file holds: its metadata, shapes and types by name, and a function that reads one by name."""

    metadata: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]  # as safetensors spells them: 'F32', 'BF16', ...
    get: Callable[[str], np.ndarray]


def fault(path: object, text: str) -> UserError:
    """An error in one line: what strangers wrote is shown without control characters, and not at any length."""
    name = str(path)
    name = name if len(name) <= MESSAGE_LIMIT // 2 else f'{name[:100]} ... {name[-100:]}'
    line = f'{spelling.shown(name)}{text}'
    line = ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in line)
    return UserError(line if len(line) <= MESSAGE_LIMIT else f'{line[:MESSAGE_LIMIT]} ... (cut)')


def find_weights(name: str | os.PathLike) -> pathlib.Path:
    """The file itself or, for a name without folder and extension such as 'default', that of the package."""
    if not isinstance(name, str | os.PathLike) or name == '':
        known = ', '.join(map(repr, names()))
        raise fault(repr(name), f' names no weights; expected a path as str or Path, or one of {known}.')
    path, included = storage.expanded(name), INCLUDED / f'{name}.safetensors'
    is_name = path == pathlib.Path(path.stem) and not os.path.isfile(path)
    return included if is_name and os.path.isfile(included) else path


def names() -> list[str]:
    """Weights that come with the package; what begins with a dot, as copies from a Mac bring along, is none."""
    return sorted(each.stem for each in INCLUDED.glob('[!.]*.safetensors'))


def unreadable(path: pathlib.Path, error: OSError) -> UserError:
    """What is said of a file that the system does not let be read."""
    return fault(path, f' cannot be opened: {error.strerror or error}. {storage.remedy(error, True)}.')


def check_file(path: pathlib.Path, limit: int) -> None:
    """Raises UserError for what is absent, no regular file, or larger than any weights of this package."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        storage.refuse_link_to_nowhere(path)
        known = spelling.nearest(path.name, names())
        raise fault(
            path, f' does not exist; expected a weights file or a name of those in the package{known}.'
        ) from None
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:  # a zero byte in the name
        raise fault(path, f' cannot be opened: {error}.') from error
    if not stat.S_ISREG(status.st_mode):
        kind = 'a folder' if stat.S_ISDIR(status.st_mode) else 'a pipe, socket or device'
        inside = f', as {path / RUN}' if os.path.isfile(path / RUN) else ''
        raise fault(path, f' is {kind}; expected a weights file{inside}.')
    if status.st_size > limit:
        raise fault(path, f' has {status.st_size:,} bytes; weights files have {limit:,} at most.')


def refuse_others(path: pathlib.Path) -> None:
    """Raises UserError for a file that says in its first bytes that it is something else than its ending says."""
    with path.open('rb') as file:
        head = file.read(64)
    is_archive, is_safe = head.startswith(b'PK\3\4'), head[8:10] == b'{"'
    if head.startswith(b'version https://git-lfs'):
        raise fault(path, ' is a pointer of Git LFS, not the weights that it stands for; git lfs pull fetches them.')
    if head.lstrip().lower().startswith((b'<!doctype', b'<html')):
        raise fault(path, ' is a web page, not weights; download the file itself.')
    if is_archive and path.suffix == '.safetensors':
        raise fault(path, ' is a zip archive, as files of PyTorch are; those end in .pth or .pt.')
    if is_safe and path.suffix != '.safetensors':
        raise fault(path, ' holds safetensors; such a file ends in .safetensors.')


@contextlib.contextmanager
def open_tensors(path: pathlib.Path) -> Iterator[Tensors]:
    """A safetensors file, of which only the header has been read."""
    check_file(path, 8 + HEADER_LIMIT + DATA_LIMIT)
    try:
        refuse_others(path)
        with path.open('rb') as file:
            length = int.from_bytes(file.read(8), 'little')
        if length > HEADER_LIMIT:
            wrong = f'its header would have {length:,} bytes; those of weights have {HEADER_LIMIT:,} at most'
            raise fault(path, f' is not a readable safetensors file: {wrong}.')
        opened = safetensors.safe_open(path, framework='numpy')
    except UserError:
        raise
    except PermissionError as error:
        raise unreadable(path, error) from error
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise fault(path, f' is not a readable safetensors file: {error}.') from error
    with opened as file:
        names = list(file.keys())
        if len(names) > COUNT_LIMIT:
            raise fault(path, f' holds {len(names):,} tensors; weights hold {COUNT_LIMIT:,} at most.')
        slices = {name: file.get_slice(name) for name in names}
        shapes = {name: tuple(each.get_shape()) for name, each in slices.items()}
        dtypes = {name: each.get_dtype() for name, each in slices.items()}
        yield Tensors(file.metadata() or {}, shapes, dtypes, file.get_tensor)


def record_of(path: pathlib.Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance that a file's metadata hold; {} where they hold none."""
    return json_object(path, 'a record', metadata.get('record', '{}'))


def json_object(path: object, name: str, text: Any) -> dict[str, Any]:
    """A JSON object out of a file's metadata. Raises UserError for anything else, NaN and infinity included."""

    def finite(number: str) -> float:  # also given NaN and Infinity, which are not JSON
        if math.isfinite(float(number)):
            return float(number)
        raise ValueError(f'{number[:20]} is no finite number')

    try:
        value = json.loads(text, parse_constant=finite, parse_float=finite)
    except (ValueError, TypeError, RecursionError) as error:
        reason = 'nested too deeply' if isinstance(error, RecursionError) else error
        raise fault(path, f' has {name} that cannot be read as JSON: {reason}.') from error
    if not isinstance(value, dict):
        raise fault(path, f' has {name} that should be a JSON object, and is a {type(value).__name__}.')
    return value


def digest(settings: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Checksum of what makes a network: a file in which a bit has turned is no file of weights."""
    found = hashlib.sha256(settings.encode())
    for name, array in sorted(arrays.items()):
        found.update(f'\0{name}\0{array.dtype}\0{array.shape}\0'.encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def metadata(
    path: object,
    mark: str,
    settings: Mapping[str, Any],
    record: Mapping[str, Any] | None,
    arrays: Mapping[str, np.ndarray],
) -> dict[str, str]:
    """What a file of these arrays says of itself. Raises UserError for sizes and texts that would not be read again."""
    size = sum(array.nbytes for array in arrays.values())
    if size > DATA_LIMIT:
        raise fault(path, f' cannot be written: its tensors have {size:,} bytes; {DATA_LIMIT:,} are the most.')
    try:
        texts = {'settings': dict(settings), 'record': dict(record or {})}
        found = {'format': mark, **{name: json.dumps(value, allow_nan=False) for name, value in texts.items()}}
    except (ValueError, TypeError) as error:
        raise fault(path, f' cannot be written: its settings or its record are not JSON: {error}.') from error
    if sum(map(len, found.values())) > HEADER_LIMIT // 2:
        raise fault(path, f' cannot be written: its record is longer than {HEADER_LIMIT // 2:,} bytes.')
    return {**found, 'sha256': digest(found['settings'], arrays)}
