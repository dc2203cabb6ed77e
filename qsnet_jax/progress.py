"""Progress: a bar on a terminal, plain lines at a calm pace in log files; never a reason to stop."""

import contextlib
import os
import sys
import time
from collections.abc import Iterable
from typing import Any

from qsnet_jax import UserError

try:
    import tqdm
except ValueError as fault:  # it reads its variables when it is imported
    given = [f'{name}={value}' for name, value in os.environ.items() if name.startswith('TQDM_')]
    raise UserError(f'{", ".join(given)} is not what tqdm takes: {fault}. Unset it.') from fault

PACE = 30.0  # seconds between the lines of a log file
SHORT = 5.0  # what takes less says nothing there


class _Lines(tqdm.tqdm):
    """A bar whose every state is a line of its own."""

    disable: bool

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        with contextlib.suppress(OSError):  # a full disk, or a reader that has gone
            if msg != '':
                print(msg or str(self), file=self.fp, flush=True)
        return True

    def set_postfix(self, *values: Any, refresh: bool = False, **named: Any) -> None:
        super().set_postfix(*values, refresh=False, **named)  # shown with the next line

    def set_postfix_str(self, s: str = '', refresh: bool = False) -> None:
        super().set_postfix_str(s, refresh=False)

    def close(self) -> None:
        if self.disable:
            return
        if self.leave is not False and time.time() > self.start_t + SHORT and self.n > self.last_print_n:
            self.display()
        self.disable = True  # tqdm's own end would go back to the start of the line
        self._decr_instances(self)


def bar(items: Iterable | None = None, title: str | None = None, total: int | None = None, **options: Any) -> Any:
    """tqdm's bar over `items`, or to `update` by hand; options are tqdm's (unit, initial, leave, disable)."""
    if getattr(sys.stderr, 'isatty', bool)():  # stand-ins of programs that log may lack it
        return tqdm.tqdm(items, title, total, **{**_size(), **options})
    if sys.stderr is None:  # a program without a console
        return tqdm.tqdm(items, title, total, **{**options, 'disable': True})
    calm = {'mininterval': PACE, 'maxinterval': 2 * PACE, 'ncols': 100, 'ascii': True, 'delay': PACE}
    return _Lines(items, title, total, **{**calm, **options})


def _size() -> dict[str, int]:
    """The usual size for a terminal that does not know its own, as of containers: tqdm would show nothing there."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        if 0 not in os.get_terminal_size(sys.stderr.fileno()):
            return {}
        return {'ncols': 80, 'nrows': 24}
    return {}
