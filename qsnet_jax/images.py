"""The public name of `qsnet_jax.data.images`, where scripts import it."""

from qsnet_jax.data.images import *  # noqa: F403
