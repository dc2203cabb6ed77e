"""How much memory of the machine this process may still take."""

import contextlib
import os
import pathlib

from qsnet_jax import UserError

# Of XLA, PyTorch, C++, and the system that loads a library.
_WORDS = ('RESOURCE_EXHAUSTED', 'ut of memory', 'bad_alloc', "can't allocate memory", 'failed to map segment')
UNKNOWN = 4 * 2**30  # where nothing can be found out


class Shortage(UserError):
    """Memory that does not suffice, where the message says for what."""


def free() -> int:
    """Bytes that can be allocated now: of the machine, of a container's share, of the process's own limit."""
    limits = [UNKNOWN]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits = [os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')]
    with contextlib.suppress(OSError, ValueError, StopIteration):  # pages of files that could be dropped count too
        lines = pathlib.Path('/proc/meminfo').read_text().splitlines()
        limits = [1024 * next(int(line.split()[1]) for line in lines if line.startswith('MemAvailable:'))]
    return max(min(limits + _shares() + _own()), 0)


def shortage(error: BaseException) -> str | None:
    """What to say of an error that means that memory ran out, on this machine or on a card; None of any other."""
    cause: BaseException | None = error
    while cause is not None:
        text = ' '.join(str(cause).split())
        if isinstance(cause, MemoryError) or any(words in text for words in _WORDS):
            return (
                f'Memory ran out ({text[:200] or type(cause).__name__}). Training takes less with a smaller '
                '--config.data.crop or --config.data.batch, photos and scores with a smaller --tile, both with a '
                'narrower network (--config.model.channels); or end other programs.'
            )
        cause = cause.__cause__ or cause.__context__
    return None


def _shares() -> list[int]:
    """What a container may still take, in both versions of control groups."""
    root, shares = pathlib.Path('/sys/fs/cgroup'), []
    names = (
        (root, 'memory.max', 'memory.current'),
        (root / 'memory', 'memory.limit_in_bytes', 'memory.usage_in_bytes'),
    )
    for group, limit, usage in names:
        with contextlib.suppress(OSError, ValueError):
            statistics = dict(line.split() for line in (group / 'memory.stat').read_text().splitlines())
            used = int((group / usage).read_text()) - int(statistics.get('inactive_file', 0))
            shares.append(int((group / limit).read_text()) - used)
    return shares


def _own() -> list[int]:
    """What `ulimit -v` leaves, if it is set."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            used = int(pathlib.Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
            return [limit - used]
    return []
