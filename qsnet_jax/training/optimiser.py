"""Adam or Muon, and how the learning rate falls (Sec. 5.1); `settings` is `config.train` everywhere."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qsnet_jax import UserError

PLATEAU_TOLERANCE = 1e-6  # a window's mean loss must fall by more than this to count as better


def make_optimizer(settings: Any) -> optax.GradientTransformationExtraArgs:
    """The optimiser and schedule of `config.train`; update takes `value=loss` for the plateau rule."""
    if settings.clip:
        return optax.chain(optax.clip_by_global_norm(settings.clip), _scheduled(settings))
    return _scheduled(settings)


def _scheduled(settings: Any) -> optax.GradientTransformationExtraArgs:
    """The optimiser with its schedule."""
    make = {'adam': optax.adam, 'muon': _muon}.get(settings.optimizer)
    if make is None:
        raise UserError(f"train.optimizer is {settings.optimizer!r}; it must be 'adam' or 'muon'.")
    if settings.schedule == 'plateau':
        plateau = optax.contrib.reduce_on_plateau(
            factor=settings.plateau_factor,
            patience=settings.plateau_patience,
            rtol=0.0,
            atol=PLATEAU_TOLERANCE,
            accumulation_size=settings.plateau_window,
            min_scale=settings.plateau_floor,
        )
        return optax.chain(make(settings.learning_rate), plateau)
    if settings.schedule == 'previous':
        rule = reduce_on_previous(settings.plateau_factor, settings.plateau_window, settings.plateau_floor)
        return optax.chain(make(settings.learning_rate), rule)
    if settings.schedule in ('cosine', 'constant'):
        return optax.with_extra_args_support(make(_schedule(settings)))
    raise UserError(
        f"train.schedule is {settings.schedule!r}; it must be 'plateau', 'previous', 'cosine' or 'constant'."
    )


def _muon(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Muon of kernels as matrices (h w in / groups, out), all groups in one, and Adam of all else, at one rate.

    Both with Nesterov momentum. Adam has the depthwise kernels, which are one filter a channel, the rain layers, norms
    and biases. Updates of matrices are scaled to an RMS of at most .2 times the rate, about Adam's (Liu et al. 2025,
    arXiv 2502.16982).
    """
    polynomial = jnp.asarray((3.4445, -4.7750, 2.0315), jnp.float32)  # optax's; in float32 whatever JAX_ENABLE_X64 says
    return optax.contrib.muon(
        rate, ns_coeffs=polynomial, muon_weight_dimension_numbers=_as_matrices, consistent_rms=0.2
    )


def _as_matrices(params: Any) -> Any:
    """Of every parameter its axes as a matrix, or None where Adam is to update it."""

    def axes(path: Any, value: Any) -> optax.contrib.MuonDimensionNumbers | None:
        is_matrix = value.ndim == 4 and value.shape[2] > 1 and not any(key.key == 'rain' for key in path)
        return optax.contrib.MuonDimensionNumbers((0, 1, 2), 3) if is_matrix else None

    return jax.tree_util.tree_map_with_path(axes, params)


class PreviousState(NamedTuple):
    """Of `reduce_on_previous`: the factor so far, the sum and steps of this window, the mean of the one before."""

    scale: jax.Array
    total: jax.Array
    steps: jax.Array
    mean: jax.Array


def reduce_on_previous(factor: float, window: int, floor: float) -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by `factor` once more after each window of steps whose mean loss does not improve.

    The rule of the sibling code, whose window is an epoch: the mean must fall below that of the window before, whatever
    came earlier, by more than PLATEAU_TOLERANCE. floor: the smallest product of the factors. update takes `value=loss`.
    """

    def init(params: Any) -> PreviousState:
        dtype = jnp.float32  # whatever JAX_ENABLE_X64 says, or a checkpoint would not be read again
        numbers = {'scale': 1, 'total': 0, 'mean': np.inf}
        return PreviousState(
            **{name: jnp.asarray(value, dtype) for name, value in numbers.items()}, steps=jnp.zeros((), jnp.int32)
        )

    def update(updates: Any, state: PreviousState, params: Any = None, *, value: jax.Array, **_: Any) -> Any:
        total, steps = state.total + value.astype(state.total.dtype), state.steps + 1
        mean, is_over = total / steps, steps == window
        is_worse = is_over & (mean > state.mean - PLATEAU_TOLERANCE)
        scale = jnp.where(is_worse, jnp.maximum(state.scale * factor, floor), state.scale)
        state = PreviousState(
            scale, jnp.where(is_over, 0, total), jnp.where(is_over, 0, steps), jnp.where(is_over, mean, state.mean)
        )
        return jax.tree.map(lambda step: step * scale.astype(step.dtype), updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _schedule(settings: Any) -> Callable[[jax.Array], jax.Array]:
    """Learning rate as a function of the step, before the plateau rule."""
    if settings.schedule == 'cosine':
        return optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
    return optax.constant_schedule(settings.learning_rate)


def learning_rate(step: jax.Array, opt_state: Any, settings: Any) -> jax.Array:
    """The rate of update `step`, counted from 0, which left `opt_state` behind."""
    opt_state = opt_state[-1] if settings.clip else opt_state
    rate = jnp.asarray(_schedule(settings)(step), jax.dtypes.canonicalize_dtype(float))
    return rate * opt_state[-1].scale if settings.schedule in ('plateau', 'previous') else rate
