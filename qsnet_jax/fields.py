"""Configs as flat fields, to compare stored ones with given ones; imports nothing heavy."""

import json
from typing import Any

from qsnet_jax.configs import default

WITHOUT_EFFECT = (  # on what a run computes
    *('note', 'data.tfds_dir', 'data.cache_gib', 'data.threads', 'data.prefetch'),
    *('sparsity.bins', 'sparsity.filter', 'sparsity.response', 'sparsity.pool'),
)


def default_fields() -> dict[str, Any]:
    """What configs that were stored before a field existed are to be read as."""
    return flat(json.loads(default.get_config().to_json()))


def flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    """Nested fields as 'a.b.c'."""
    fields: dict[str, Any] = {}
    for name, value in tree.items():
        fields |= flat(value, f'{prefix}{name}.') if isinstance(value, dict) else {prefix + name: value}
    return fields
