"""`qsnet` and `python -m qsnet_jax`: signals are minded before anything is imported."""

import sys
from typing import NoReturn


def run() -> NoReturn:
    """The program, which ends the process with its exit status."""
    from qsnet_jax import signals

    signals.install()
    from qsnet_jax import main

    signals.leave(main.run(sys.argv[1:]))


if __name__ == '__main__':
    run()
