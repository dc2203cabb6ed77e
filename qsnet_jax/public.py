"""The public name of `qsnet_jax.data.public`, where scripts import it."""

from qsnet_jax.data.public import *  # noqa: F403
