"""What of `config.data` is given and read by none of the sets that are named."""

from typing import Any

from qsnet_jax import fields
from qsnet_jax.data import sets

_READERS = {'rainy': ('pairs',), 'clean': ('pairs', 'layers'), 'layer': ('layers',)}  # sets that take patterns of files


def note(config: Any, is_learning: bool) -> None:
    """Prints a note where `data.root` is given and none of the named sets lies there, or patterns that none reads.

    is_learning: whether the sets that are learned from count, beside those that are scored.
    """
    data, pool = config.data, config.sparsity.pool
    given = [data.train, *(names for names, _ in sets.beside_training(data))] if is_learning else [data.eval, pool]
    held = fields.flat(config.to_dict())  # whatever stands in place of a variant, which a study says later
    given += [held[field] for field in held if field.startswith('study.variants.') and field.endswith(fields.SETS)]
    names = [name for each in given if each and isinstance(each, str | tuple) for name, _ in sets.parse_names(each)]
    shown = ', '.join(dict.fromkeys(names))
    if not any(_reads_root(name) for name in names):
        print(
            f'note: no named set reads --config.data.root={data.root}; {shown} come with the '
            f'program. For files of your own give --config.data.{"train" if is_learning else "eval"}=pairs.'
        )
    bases = {name.partition('/')[0] for name in names}
    for field, readers in _READERS.items():
        if data[field] and not bases & set(readers):
            own = ' and '.join(readers)
            print(f'note: no named set reads --config.data.{field}={data[field]}; it is for {own}, not for {shown}.')


def _reads_root(name: str) -> bool:
    """Whether a set has files below `data.root`; rain drawn on the bundled photos has none."""
    base, _, folder = name.partition('/')
    return bool(folder) or not (base.startswith('drawn_') or base in (sets.STAND_IN, 'test_iii'))
