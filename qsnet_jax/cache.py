"""What XLA compiled, kept between starts in a folder of the user's that several processes may share.

JAX stores and evicts; here the folder is chosen, and left out where it cannot be used: a cache only saves time, so that
nothing stops for its sake. What lies in it is run, so it must be the user's own.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import stat
import sys
from collections.abc import Iterator

import filelock
import jax
from jax.experimental.compilation_cache import compilation_cache

from qsnet_jax import UserError, storage

OFF = 'off'
SIZE = 2**30  # bytes; beyond it what was not used for longest is dropped
SHORTEST = 0.1  # seconds; what compiles faster is not kept
WAIT = 5.0  # seconds for another process


def use(folder: str | None = None) -> pathlib.Path | None:
    """Keeps what is compiled from now on, and takes what was; call it before anything is compiled.

    folder: a path; None: `default_folder()`, unless JAX was told one (JAX_COMPILATION_CACHE_DIR); 'off': none.
    Returns the folder of this kind of machine within it, or None where there is no cache.
    Raises UserError for a folder that was asked for and cannot be used; the default one is then left out, and any with
    a warning on a drive that knows no locks, which JAX needs.
    """
    if folder == OFF:
        jax.config.update('jax_enable_compilation_cache', False)
        return None
    if folder is None and jax.config.values['jax_compilation_cache_dir']:
        return _fit(pathlib.Path(jax.config.values['jax_compilation_cache_dir']))
    try:
        path = (pathlib.Path(folder).expanduser() if folder else default_folder()).absolute() / _machine()
        _open(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: a home folder that cannot be found
        if folder is None:
            return None
        if isinstance(error, OSError) and error.errno in storage.NO_LOCKS:
            fault = f'the drive of {folder} has no locks ({error.strerror})'
            print(f'warning: {fault}; what is compiled is not kept', file=sys.stderr)
            return None
        raise UserError(
            f'--compilation_cache={folder} cannot be used: {error}. Name a folder of your own that can be written, or '
            f'--compilation_cache={OFF}.'
        ) from error
    jax.config.update('jax_compilation_cache_dir', str(_fit(path)))
    compilation_cache.reset_cache()  # or JAX stays with a folder that it has opened before
    jax.config.update('jax_compilation_cache_max_size', SIZE)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', SHORTEST)
    return path


def _fit(path: pathlib.Path) -> pathlib.Path:
    """The same path; XLA's own caches, which only GPUs have, are left out where it is not UTF-8, as XLA asks."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        jax.config.update('jax_persistent_cache_enable_xla_caches', 'none')
    return path


def folder() -> pathlib.Path | None:
    """Where what is compiled is kept now; None where it is not."""
    values = jax.config.values
    found = values['jax_compilation_cache_dir'] if values['jax_enable_compilation_cache'] else None
    return pathlib.Path(found) if found else None


@contextlib.contextmanager
def unused() -> Iterator[None]:
    """Nothing is kept or found meanwhile: what was compiled for a card that is not there cannot be loaded."""
    before = jax.config.values['jax_enable_compilation_cache']
    jax.config.update('jax_enable_compilation_cache', False)
    compilation_cache.reset_cache()  # or what JAX has decided before stays
    try:
        yield
    finally:
        jax.config.update('jax_enable_compilation_cache', before)
        compilation_cache.reset_cache()


def default_folder() -> pathlib.Path:
    """$XDG_CACHE_HOME/qsnet_jax, or ~/.cache/qsnet_jax."""
    base = os.environ.get('XDG_CACHE_HOME', '')
    return (pathlib.Path(base) if os.path.isabs(base) else pathlib.Path.home() / '.cache') / 'qsnet_jax'


def _machine() -> str:
    """A name for machines that can run each other's programs: on a shared disk others must not find them."""
    with contextlib.suppress(OSError):
        lines = pathlib.Path('/proc/cpuinfo').read_text(errors='replace').splitlines()
        facts = sorted({line for line in lines if line.startswith(('flags', 'Features', 'model name', 'CPU part'))})
        return f'{platform.machine()}-{hashlib.sha256("".join(facts).encode()).hexdigest()[:12]}'
    return f'{platform.machine()}-{platform.node()}'


def _open(path: pathlib.Path) -> None:
    """Makes the folder, checks whose it is, and drops what a process left half-written. Raises OSError."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if hasattr(os, 'getuid') and (status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise PermissionError(f'{path} belongs to or may be written by others, and what lies in it is run')
    lock = filelock.FileLock(path / '.lockfile')  # the one that JAX takes
    try:
        with lock.acquire(timeout=WAIT):
            _drop_halves(path)
    except filelock.Timeout as error:
        raise TimeoutError(f'{path} is held by another process') from error


def _drop_halves(path: pathlib.Path) -> None:
    """Removes programs without a time and times without a program: JAX writes first one, then the other."""
    kinds = {'-cache': '-atime', '-atime': '-cache'}
    for file in list(path.iterdir()):
        ending = file.name[-6:]
        if ending in kinds and not file.with_name(file.name[:-6] + kinds[ending]).exists():
            file.unlink()
