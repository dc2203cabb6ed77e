"""The public name of `qsnet_jax.peers.torch_twin`, where scripts import it."""

from qsnet_jax.peers.torch_twin import *  # noqa: F403
