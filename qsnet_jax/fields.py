"""Configs as tables of fields, `a.b.c`: how two differ, and how one is read that was stored before a field existed."""

import json
import math
import numbers
from typing import Any

from qsnet_jax import UserError
from qsnet_jax.configs import default

OF_THE_LOOP = ('train.keep', 'train.checkpoint_every', 'train.log_every', 'train.remat')  # alike in all processes
WITHOUT_EFFECT = (  # on what a run computes
    *('note', 'data.tfds_dir', 'data.cache_gib', 'data.threads', 'data.prefetch', *OF_THE_LOOP),
    *('sparsity.bins', 'sparsity.filter', 'sparsity.response', 'sparsity.pool'),
)
PLACES = ('data.root', 'train.start_from')  # where files lie; whether they are the same, their contents say
BEFORE = {'data.validation': 'data.eval'}  # a field that did not exist yet, and the one that did its work
KINDS = (  # of a default, what may stand in its place, and what that is called
    (bool, bool, 'True or False'),
    (int, numbers.Integral, 'a whole number'),
    (float, numbers.Real, 'a number'),
    (str, str, 'text'),
    (list, (list, tuple), 'several values, as (1, 2)'),
)
SETS = ('data.train', 'data.eval', 'data.validation', 'data.exclude')  # names, as text or one by one
SEEDS = 2**63  # as many as NumPy and JAX take
FORMER = {'model.share_scales': {True: 'all', False: 'none', 'True': 'all', 'False': 'none'}}  # values of today


def flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    """Nested fields as 'a.b.c'."""
    fields: dict[str, Any] = {}
    for name, value in tree.items():
        fields |= flat(value, f'{prefix}{name}.') if isinstance(value, dict) else {prefix + name: value}
    return fields


def check_values(config: Any) -> None:
    """Raises UserError for values of another kind than their field, NaN, infinity, seeds that no generator takes."""
    known = default_fields()
    for name, value in flat(config.to_dict()).items():
        _check_kind(name, of_today(name, value), known.get(name))
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, float) and not math.isfinite(each):
                raise UserError(f'{name} is {value}; expected a finite number, as --config.{name}=VALUE.')
    check_seed('seed', config.seed)


def _check_kind(name: str, value: Any, default: Any) -> None:
    """Raises UserError where a value is not what the field's default is; a default of None says nothing."""
    if name in SETS and isinstance(value, list | tuple):
        return
    if name in SETS and value is not None:
        default = ''  # also of data.exclude, which may be None
    for kind, allowed, told in KINDS:
        if isinstance(default, kind):  # the first, for a bool is an int too
            if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
                raise UserError(f'{name} is {value!r}; expected {told}.')
            return


def check_seed(name: str, seed: Any) -> None:
    """Raises UserError for a seed that is no whole number in [0, 2**63)."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < SEEDS:
        raise UserError(f'{name} is {seed!r}; expected a whole number from 0 to 2**63 - 1.')


def nested(fields: dict[str, Any]) -> dict[str, Any]:
    """{'a.b.c': value} as nested fields; undoes `flat`."""
    tree: dict[str, Any] = {}
    for name, value in fields.items():
        *sections, field = name.split('.')
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[field] = value
    return tree


def default_fields() -> dict[str, Any]:
    """What configs that were stored before a field existed are to be read as."""
    return flat(json.loads(default.get_config().to_json()))


def complete(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored config with the fields that were added since."""
    return nested(_completed(flat(stored)))


def differences(stored: dict[str, Any], given: dict[str, Any], ignored: tuple[str, ...] = ()) -> list[str]:
    """Says of each field in which two configs differ what it is in both, but for those that change no result."""
    now = {name: of_today(name, value) for name, value in flat(given).items()}
    known = _completed(flat(stored))
    before = {name: known.get(name) for name in flat(stored).keys() | now.keys()}
    return [
        f'{name} is {before.get(name)!r} there and {now.get(name)!r} here'
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and name not in (*WITHOUT_EFFECT, *ignored)
    ]


def as_it_was(stored: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Fields that a stored config lacks and whose default is not what was done before they existed, as it was."""
    before, now, defaults = flat(stored), flat(given), default_fields()
    absent = {name: before.get(other) for name, other in BEFORE.items() if name not in before}
    return {name: value for name, value in absent.items() if now.get(name) == defaults[name] != value}


def former_values(stored: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Values of a stored config that today are written otherwise, where the given one has today's default."""
    now, defaults = flat(given), default_fields()
    then = {name: of_today(name, value) for name, value in flat(stored).items() if of_today(name, value) != value}
    return {name: value for name, value in then.items() if now.get(name) == defaults[name] != value}


def of_today(name: str, value: Any) -> Any:
    """A stored value as it is written today."""
    former = FORMER.get(name, {})
    return former.get(value, value) if isinstance(value, bool | str) else value


def _completed(stored: dict[str, Any]) -> dict[str, Any]:
    """`complete` of flat fields."""
    absent = {name: stored[other] for name, other in BEFORE.items() if name not in stored and other in stored}
    return default_fields() | {name: of_today(name, value) for name, value in stored.items()} | absent
