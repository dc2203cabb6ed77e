"""QSNet (arXiv 1911.10810): removing rain streaks from one photo, in JAX and Flax."""

import signal


class UserError(ValueError):
    """Something the user can mend; its message says what was found, what was expected and what to do.

    `main` prints the message without a traceback and exits with status 1.
    """


class Stopped(Exception):
    """Training ended early because of a signal, with everything saved."""

    def __init__(self, signum: int, step: int):
        super().__init__(f'Stopped by {signal.Signals(signum).name} after step {step}; the same command goes on.')
        self.signum = signum
