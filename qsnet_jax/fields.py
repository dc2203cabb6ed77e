"""Configs as tables of fields, `a.b.c`: how two differ, and how one is read that was stored before a field existed."""

import json
from typing import Any

from qsnet_jax.configs import default

WITHOUT_EFFECT = ('note', 'data.tfds_dir', 'data.cache_gib', 'data.threads', 'data.prefetch')  # on what a run computes
PLACES = ('data.root', 'train.start_from')  # where files lie; whether they are the same, their contents say


def flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    """Nested fields as 'a.b.c'."""
    fields: dict[str, Any] = {}
    for name, value in tree.items():
        fields |= flat(value, f'{prefix}{name}.') if isinstance(value, dict) else {prefix + name: value}
    return fields


def nested(fields: dict[str, Any]) -> dict[str, Any]:
    """The other way round."""
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
    return nested(default_fields() | flat(stored))


def differences(stored: dict[str, Any], given: dict[str, Any], ignored: tuple[str, ...] = ()) -> list[str]:
    """Says of each field in which two configs differ what it is in both, but for those that change no result."""
    before, now, defaults = flat(stored), flat(given), default_fields()
    before = {name: before.get(name, defaults.get(name)) for name in before.keys() | now.keys()}
    return [
        f'{name} is {before.get(name)!r} there and {now.get(name)!r} here'
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and name not in (*WITHOUT_EFFECT, *ignored)
    ]
