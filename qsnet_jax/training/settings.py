"""What a run's config may hold, and whether two configs are of one run."""

import math
import pathlib
from typing import Any

from qsnet_jax import UserError, fields


def check_fields(config: Any) -> None:
    """Refuses numbers that no run can use."""
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
    within = {
        'vary_layers': (1, math.inf),
        'turn_layers': (0, 180),
        'join_layers': (0, 1),
        'brightness': (0, 0.99),
        'hold_out': (0, math.inf),
        'validation_share': (0, 0.5),
    }
    for name, (least, most) in within.items():
        if not least <= config.data[name] <= most:
            raise UserError(f'data.{name} is {config.data[name]}; it must be in [{least}, {most}].')
    if not 0 <= config.train.average < 1 or config.train.clip < 0:
        raise UserError(
            f'train.average is {config.train.average}, train.clip {config.train.clip}; expected an average in [0, 1) '
            'and a clip of at least 0.'
        )
    if not 0 < config.train.plateau_factor < 1:
        raise UserError(f'train.plateau_factor is {config.train.plateau_factor}; it must be between 0 and 1.')
    if config.seed < 0:
        raise UserError(f'seed is {config.seed}; it must not be negative.')


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
