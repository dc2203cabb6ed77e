"""What a run's config may hold, and whether two configs are of one run."""

import functools
import json
import math
import pathlib
from typing import Any

import jax
import ml_collections

from qsnet_jax import UserError, fields, losses
from qsnet_jax.data import sets
from qsnet_jax.training import optimiser
from qsnet_jax.weights import checks


def check_fields(config: Any) -> None:
    """Refuses what no run can use, before it begins: numbers, a loss, and a network that nobody could read again."""
    fields.check_values(config)
    _check_whole(config)
    _check_ranges(config)
    optimiser.make_optimizer(config.train)
    excluded = [config.data.exclude] if config.data.exclude else []
    for names in (config.data.train, config.data.eval, config.data.validation, *excluded):
        sets.parse_names(names)
    _check_loss(config.loss.to_json())
    _check_network(config.model.to_json())
    if config.data.crop % config.model.encoder_stride:
        raise UserError(
            f'data.crop is {config.data.crop}; it must be a multiple of model.encoder_stride, '
            f'which is {config.model.encoder_stride}.'
        )


def _check_whole(config: Any) -> None:
    """Refuses counts of which there must be one at least."""
    positive = {
        'train': (
            *('steps', 'log_every', 'eval_every', 'eval_sets', 'eval_images', 'checkpoint_every', 'keep'),
            *('plateau_window', 'plateau_patience'),
        ),
        'data': ('crop', 'batch', 'threads', 'prefetch'),
    }
    for section, names in positive.items():
        for name in names:
            if config[section][name] < 1:
                raise UserError(f'{section}.{name} is {config[section][name]}; it must be at least 1.')


def _check_ranges(config: Any) -> None:
    """Refuses numbers out of their range."""
    any_size = (0, math.inf)
    within = {
        'data.vary_layers': (1, math.inf),
        'data.turn_layers': (0, 180),
        'data.join_layers': (0, 1),
        'data.brightness': (0, 0.99),
        'data.hold_out': any_size,
        'data.validation_share': (0, 0.5),
        'data.cache_gib': any_size,
        'train.clip': any_size,
        'train.rain_gain': any_size,
        'train.plateau_floor': (0, 1),
        **{f'loss.{name}': any_size for name in losses.TERMS},
    }
    known = fields.flat(config.to_dict())
    for name, (least, most) in within.items():
        if not least <= known[name] <= most:
            expected = f'in [{least}, {most}]' if most < math.inf else f'at least {least}'
            raise UserError(f'{name} is {known[name]}; it must be {expected}.')
    if not 0 <= config.train.average < 1:
        raise UserError(f'train.average is {config.train.average}; it must be in [0, 1).')
    if not 0 < config.train.plateau_factor < 1:
        raise UserError(f'train.plateau_factor is {config.train.plateau_factor}; it must be between 0 and 1.')
    if not 0 < config.train.learning_rate < 1e38:
        raise UserError(f'train.learning_rate is {config.train.learning_rate}; it must be more than 0 and below 1e38.')


@functools.cache
def _check_loss(loss: str) -> None:
    """Refuses a loss, as JSON, that cannot be computed."""
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), 'float32')
    settings = ml_collections.ConfigDict(json.loads(loss))
    jax.eval_shape(lambda image: losses.total(image, [image], image, image, settings), image)


@functools.cache
def _check_network(settings: str) -> None:
    """Refuses a network, as JSON, that cannot be built or whose weights could not be read again."""
    checks.check_limits(json.loads(settings))


def refuse_differences(
    stored: dict[str, Any], given: dict[str, Any], place: pathlib.Path, ignored: tuple[str, ...] = ()
) -> None:
    """Raises UserError that names the fields in which two configs differ, but for those that change no result."""
    different = fields.differences(stored, given, ignored)
    if different:
        raise UserError(
            f'{place} holds a run with another config: {"; ".join(different)}. Name another --workdir (and '
            '--results, for rows), or give the config that it was made with.'
        )
