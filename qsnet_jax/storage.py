"""Files that are whole or not there: atomic writing, JSON checked as it is read, errors of drives in one line."""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import pathlib
import platform
import re
import secrets
import stat
import sys
import time
import zlib
from collections.abc import Iterator
from typing import Any, cast

from qsnet_jax import UserError

# Temporary files: the machine and the process that write them, a number, an extension where the writer needs one. The
# name is short whatever the file's own name is, and nobody else's.
_TEMPORARY = re.compile(r'\.qsnet-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp(\.\w+)?')
_STARTED = time.time()
_FORGOTTEN = 24 * 3600  # seconds after which a temporary file of another machine is an orphan too
_SPACE = 'Free some space or name another folder'
_READING = 'Take the rights to read it (chmod, chown), or name another one'
_EITHER = 'Take the rights to read or write it (chmod, chown), or name another one'
_RIGHTS = 'Take the rights to write there (chmod, chown), or name another folder'
_LOCKS = 'The drive lacks an operation that this needs, locks most likely; name a folder on another drive'
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: f'The quota is used up. {_SPACE}',
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: 'The drive is mounted read-only; name another folder',
    errno.ENOTDIR: 'A file lies where a folder is needed; move it, or name another folder',
    errno.EEXIST: 'A file lies where a folder is needed; move it, or name another folder',
    errno.EISDIR: 'A folder lies where a file is needed; move it, or name another folder',
    errno.ENAMETOOLONG: 'Name a shorter path',
    errno.ELOOP: 'Links lead in a circle; mend them, or name what they should lead to',
    errno.EMFILE: 'Raise the number of open files (ulimit -n 4096) and give the command again',
    errno.ENFILE: 'The system has too many files open; end other programs and give the command again',
    errno.EIO: 'The drive reports a fault; look at its health and name a folder on another',
    errno.ESTALE: 'The network drive has lost the folder; mount it again and give the command again',
    errno.ENOENT: 'Something has removed it meanwhile, or nothing can be made there; name another folder, or try again',
    errno.EFBIG: 'The drive or ulimit -f allows no file of that size; name a folder on another drive',
    errno.ENOMEM: 'Memory ran out; end other programs and give the command again',
    errno.EINVAL: 'The drive refuses that, as a name or an operation which it does not know; name a folder on another',
    **dict.fromkeys((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP), _LOCKS),
}
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # how drives that know none refuse them
_unfinished: set[pathlib.Path] = set()  # temporary files that are being written
_swept: set[pathlib.Path] = set()  # folders without orphans


class Damaged(UserError):
    """A file that does not hold what it must."""


def expanded(path: str | os.PathLike) -> pathlib.Path:
    """A path with the home folder for ~ or ~NAME; where there is none, that is a file's own name, and stays."""
    return pathlib.Path(os.path.expanduser(path))


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path beside `path`, whose file takes its place at the end, so that it is whole or as it was.

    What killed processes left in that folder goes. An OSError of the file names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent not in _swept:
        _swept.add(path.parent)
        remove_orphans(path.parent)
    temporary = temporary_path(path)
    _unfinished.add(temporary)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a drive that takes nothing gives nothing back either
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary), temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        _unfinished.discard(temporary)


def remove_unfinished() -> None:
    """Removes what is being written, for a process that must end at once."""
    for temporary in list(_unfinished):
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_path(path: pathlib.Path) -> pathlib.Path:
    """A new name beside `path`, which `remove_orphans` knows."""
    return path.with_name(f'.qsnet-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.tmp')


def remove_orphans(folder: pathlib.Path) -> None:
    """Removes the temporary files in a folder whose process was killed; of other machines and containers old ones."""
    with contextlib.suppress(OSError):
        for path in [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]:
            with contextlib.suppress(OSError):
                if _is_orphan(path):
                    path.unlink()


def _is_orphan(path: pathlib.Path) -> bool:
    """Whether nobody will rename a temporary file any more."""
    machine, process = cast(re.Match[str], _TEMPORARY.fullmatch(path.name)).groups()[:2]
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
    """This machine and, within it, this container, in eight characters: where numbers of processes mean the same."""
    facts = [os.fsencode(platform.node())]  # alone it may be the name of several
    with contextlib.suppress(OSError):
        facts.append(pathlib.Path('/etc/machine-id').read_bytes())
    with contextlib.suppress(OSError):
        facts.append(os.fsencode(os.readlink('/proc/self/ns/pid')))
    return f'{zlib.crc32(bytes(0).join(facts)):08x}'


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON, whole or not at all. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + '\n').encode())


def read_json(path: pathlib.Path, expected: tuple[str, ...] = (), remedy: str = '') -> dict[str, Any]:
    """The object that a JSON file holds.

    expected: fields that it must have. remedy: what to do, the end of the message.
    Raises Damaged, which names path and fault, also where there is no such file.
    """
    end = f' {remedy}' if remedy else ''
    refuse_special(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Damaged(f'{path} cannot be read: {error.strerror or error}.{end}') from error
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        fault = f'is no JSON ({str(error)[:100]})' if content.strip(b'\0 \t\r\n') else 'is empty'
        raise Damaged(f'{path} {fault}.{end}') from error
    if not isinstance(value, dict):
        raise Damaged(f'{path} holds a {type(value).__name__} where a JSON object is expected.{end}')
    missing = [name for name in expected if name not in value]
    if missing:
        raise Damaged(f'{path} lacks {", ".join(missing)}.{end}')
    return value


def refuse_special(path: pathlib.Path) -> None:
    """Raises Damaged for a pipe, a socket or a device, which would block, or never end, where a file is expected."""
    with contextlib.suppress(OSError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise Damaged(f'{path} is a pipe, socket or device; expected a file. Move it.')


def read_json_lines(path: pathlib.Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a file with one on each line, and how many lines hold none. Raises Damaged for no such file.

    Numbers that JSON does not have, NaN and infinity, are None.
    """
    refuse_special(path)
    try:
        texts = [text for text in path.read_bytes().split(b'\n') if text.strip()]
    except OSError as error:
        raise Damaged(f'{path} cannot be read: {error.strerror or error}. Move it, or mend it.') from error
    lines = []
    for text in texts:
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
            lines += [value] if isinstance(value, dict) else []
    return lines, len(texts) - len(lines)


def _finite(text: str) -> float | None:
    """A number as JSON spells it; None where it is too large for a float."""
    value = float(text)
    return value if math.isfinite(value) else None


def remedy(error: BaseException, reads: bool = False) -> str:
    """What to do about an error of a drive. reads: that was met in reading, not in writing."""
    number = system_number(error)
    if reads and number in (errno.EACCES, errno.EPERM):
        return _READING
    return _REMEDIES.get(number or 0, 'Name another folder')


def refuse_link_to_nowhere(path: pathlib.Path, remedy: str = 'Mount its drive, or mend the link') -> None:
    """Raises UserError, with what to do, for a link at whose end nothing is, as on a drive that is not mounted."""
    if os.path.islink(path) and not os.path.exists(path):  # neither raises, as for a name that is too long
        raise UserError(f'{path} is a link to {os.readlink(path)}, which is not there. {remedy}.')


def refuse_links_to_nowhere(folder: pathlib.Path) -> None:
    """The same for a folder to be written to, and all above it."""
    for each in (folder, *folder.parents):
        refuse_link_to_nowhere(each)


def listed(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """What lies in a folder by a pattern of `glob`, sorted; nothing where there is no folder.

    Raises UserError for one that cannot be read and for a link to nowhere, which `glob` takes for empty.
    """
    refuse_link_to_nowhere(folder)
    try:
        os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f'{folder} cannot be read: {error.strerror}. {remedy(error, reads=True)}.') from error
    return sorted(folder.glob(pattern))


def sha256(path: pathlib.Path) -> str:
    """Hexadecimal digest of a file of any size, in bounded memory."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def explained(error: UserError | OSError) -> UserError:
    """The same error in one line, with its file and what to do; a UserError says so already."""
    if isinstance(error, UserError):
        return error
    place = f'{error.filename}: ' if error.filename not in (None, '') else ''
    found = _EITHER if isinstance(error, PermissionError) else remedy(error)  # what was tried is not known here
    return UserError(f'{place}{error.strerror or error}. {found}.')


def system_number(error: BaseException) -> int | None:
    """The system's number of an error, also of one that TensorStore or ArrayRecord put into words of its own."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    return next((number for number in _REMEDIES if os.strerror(number) in text), None)


def file_to_write(path: str | os.PathLike) -> pathlib.Path:
    """The path of a file to be. Raises UserError for what is no path, and for a folder."""
    if not isinstance(path, str | os.PathLike) or not str(path) or '\0' in str(path):
        raise UserError(f'{path!r} names no file; expected a path as str or Path.')
    path = expanded(path)
    if os.path.isdir(path):
        raise UserError(f'{path} is a folder; name a file in it.')
    return path


@contextlib.contextmanager
def writable(folder: pathlib.Path, keeps: str = '') -> Iterator[None]:
    """Creates a folder and turns errors of writing to it, also a full disk under Orbax's threads, into UserErrors.

    keeps: what a full disk leaves to go on from, the end of that message.
    """
    refuse_links_to_nowhere(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except Exception as error:  # TensorStore raises ValueErrors and others
        number = system_number(error)
        if isinstance(error, UserError) or (number is None and not isinstance(error, OSError)):
            raise
        lines = str(error).splitlines() or [repr(error)]
        fault = lines[0][:300] if isinstance(error, OSError) else os.strerror(cast(int, number))
        end = f' {keeps}' if keeps and number in (errno.ENOSPC, errno.EDQUOT) else ''
        raise UserError(f'{folder} cannot be written: {fault}. {remedy(error)}.{end}') from error


def check_writable(folder: pathlib.Path, flag: str) -> None:
    """Raises UserError where `folder`, the value of `flag`, can be neither made nor written to; makes nothing."""
    refuse_links_to_nowhere(folder)
    existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
    probe = temporary_path(existing / 'x')
    try:
        probe.write_bytes(b'tried')
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink()
        raise UserError(f'--{flag}={folder} cannot be written: {error.strerror}. {remedy(error)}.') from error


@contextlib.contextmanager
def locked(path: pathlib.Path, waits: bool) -> Iterator[bool]:
    """Holds the lock file `path`; yields False where another process has it and `waits` is False.

    The lock ends with the process, however it ends. On a drive that knows no locks it goes on with a warning.
    """
    refuse_special(path)
    with path.open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(
                f'warning: the drive of {path.parent} has no locks ({error.strerror}); see to it that no second '
                'process writes there',
                file=sys.stderr,
            )
        yield True
