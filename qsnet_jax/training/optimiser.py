"""Adam, and how its learning rate falls (Sec. 5.1); `settings` is `config.train` everywhere."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from qsnet_jax import UserError

PLATEAU_TOLERANCE = 1e-6  # a window's mean loss must fall by more than this to count as better


def make_optimizer(settings: Any) -> optax.GradientTransformationExtraArgs:
    """Adam with the schedule of `config.train`; update takes `value=loss` for the plateau rule."""
    if settings.schedule == 'plateau':
        plateau = optax.contrib.reduce_on_plateau(
            factor=settings.plateau_factor,
            patience=settings.plateau_patience,
            rtol=0.0,
            atol=PLATEAU_TOLERANCE,
            accumulation_size=settings.plateau_window,
            min_scale=settings.plateau_floor,
        )
        return optax.chain(optax.adam(settings.learning_rate), plateau)
    if settings.schedule in ('cosine', 'constant'):
        return optax.with_extra_args_support(optax.adam(_schedule(settings)))
    raise UserError(f"train.schedule is {settings.schedule!r}; it must be 'plateau', 'cosine' or 'constant'.")


def learning_rate(step: jax.Array, opt_state: Any, settings: Any) -> jax.Array:
    """The rate of update `step`, counted from 0, which left `opt_state` behind."""
    rate = jnp.asarray(_schedule(settings)(step), jax.dtypes.canonicalize_dtype(float))
    return rate * opt_state[-1].scale if settings.schedule == 'plateau' else rate


def _schedule(settings: Any) -> Callable[[jax.Array], jax.Array]:
    """Learning rate as a function of the step, before the plateau rule."""
    if settings.schedule == 'cosine':
        return optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
    return optax.constant_schedule(settings.learning_rate)
