"""How much memory of the machine this process may still take."""

import contextlib
import os
import pathlib

UNKNOWN = 4 * 2**30  # where nothing can be found out


def free() -> int:
    """Bytes that can be allocated now: of the machine, of a container's share, of the process's own limit."""
    limits = [UNKNOWN]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits = [os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')]
    with contextlib.suppress(OSError, ValueError, StopIteration):  # pages of files that could be dropped count too
        lines = pathlib.Path('/proc/meminfo').read_text().splitlines()
        limits = [1024 * next(int(line.split()[1]) for line in lines if line.startswith('MemAvailable:'))]
    return max(min(limits + _shares() + _own()), 0)


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
