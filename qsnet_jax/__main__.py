"""`qsnet` and `python -m qsnet_jax`: signals are minded before anything is imported."""

import sys


def run() -> int:
    """The program; returns its exit status."""
    from qsnet_jax import signals

    signals.install()
    from qsnet_jax import main

    return main.run(sys.argv[1:])


if __name__ == '__main__':
    sys.exit(run())
