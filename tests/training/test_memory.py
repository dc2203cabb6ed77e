"""What a step needs is said, and a card that is too small is named with the ways out."""

import types

import jax
import jax.numpy as jnp
import pytest

from qsnet_jax import UserError
from qsnet_jax.training import memory


def test_what_is_needed_covers_arguments_and_results():
    """A copy needs room for both; memory that is given away counts once."""
    x = jax.ShapeDtypeStruct((1 << 18,), jnp.float32)
    kept, given = (jax.jit(lambda x: x + 1, donate_argnums=donated).lower(x).compile() for donated in ((), 0))
    assert memory.needed(kept) >= 2 << 20
    assert memory.needed(kept) - memory.needed(given) == 1 << 20


@pytest.mark.parametrize('statistics', [None, {}, {'bytes_limit': 3 << 20}])
def test_enough_memory_or_none_known_passes(statistics):
    """CPUs tell nothing."""
    compiled = jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((1 << 18,), jnp.float32)).compile()
    memory.check(compiled, types.SimpleNamespace(memory_stats=lambda: statistics, device_kind='card'))


def test_too_little_memory_is_said_before_the_first_step():
    """With what helps."""
    compiled = jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((1 << 28,), jnp.float32)).compile()
    card = types.SimpleNamespace(memory_stats=lambda: {'bytes_limit': 1 << 30}, device_kind='small card')
    with pytest.raises(UserError, match='needs 2.0 GiB and small card lets JAX have 1.0 GiB.*--config.train.remat'):
        memory.check(compiled, card)
