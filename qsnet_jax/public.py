"""The public name of `qsnet_jax.data.public` and `.prepared`, where scripts import them."""

from qsnet_jax.data.prepared import *  # noqa: F403
from qsnet_jax.data.public import *  # noqa: F403
