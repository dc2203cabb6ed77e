"""Rows of results: read, checked and sorted. A row that does not say how it came about is refused."""

import pathlib
from typing import Any, TypeAlias

from qsnet_jax import UserError, fields, storage
from qsnet_jax.configs import atrous_rates, encoder_stride, loss_weights, losses, scales, sharing, studies
from qsnet_jax.evidence import shapes

STAND_IN = 'test_iii_stand_in'  # as data.sets calls it, which is not imported: it needs everything that reads images
# Which of the paper's tests a set is, or stands in for; all others stand in for Test-I.
IS_TEST = {'test_ii': 'Test-II', 'rain100h': 'Test-II'}  # of Test-I the choice of pairs is ours
STANDS_IN = {
    'rain13k/rain100h': 'Test-II',
    'test_i': 'Test-I',
    **IS_TEST,  # a split of it, written NAME/SPLIT
    'drawn_heavy': 'Test-II',
    'drawn_wide': 'Test-III',
    STAND_IN: 'Test-III',
}
STUDIES = {  # of tables and curves: variants beside the paper's own setting, and what they override
    'Which losses': losses.VARIANTS,
    'Which sharing': sharing.VARIANTS,
    'Atrous rates': atrous_rates.VARIANTS,
    'Weights of the loss and range of the pixels': loss_weights.VARIANTS,
    'Stride of the encoder, and norm': encoder_stride.VARIANTS,
    'Weight of the auxiliary loss, for Table 3': scales.VARIANTS,
}
PUBLISHED: dict[str, Any] = {studies.PAPER: {}} | {
    name: overrides for variants in STUDIES.values() for name, overrides in variants.items()
}
_RECORDED = ('seed', 'commit', 'config', 'command', 'versions', 'device', 'precision', 'date')
_TRAINED = 'training images of'
_START = 'train.start_from'
_KINDS = ('study', 'compare', 'evaluation', 'sparsity', 'bench', 'compiled', 'score')
Rows: TypeAlias = list[dict[str, Any]]


def load(results: pathlib.Path) -> Rows:
    """All rows, each with its `kind` and `file`; files whose names begin with a dot are none.

    Raises UserError for what `report` refuses.
    """
    folders = [results / name for name in ('rows', 'sparsity', 'bench')]
    paths = [path for folder in folders for path in storage.listed(folder, '[!.]*.json')]
    if not paths:
        raise UserError(
            f'There are no rows under {results}; --mode=study, score, compare, sparsity and bench write them.'
        )
    rows = [_read(path) for path in paths]
    check_studies([row for row in rows if row['kind'] == 'study'])
    return rows


def _read(path: pathlib.Path) -> dict[str, Any]:
    """One row. Raises UserError with its name for what is missing, and for what is of another type."""
    row = storage.read_json(path, remedy='Make the row anew, or remove it.')
    bench = 'compiled' if 'card' in row else 'bench'  # compiled for a card, or timed
    row.setdefault('kind', bench if 'cases' in row else 'evaluation')
    record = _object(row.get('provenance'))
    missing = [f'provenance.{name}' for name in _RECORDED if name not in record]
    if row['kind'] not in _KINDS:
        missing.append(f'a kind that is known (found {row["kind"]!r})')
    unbound = {'sparsity': [row.get('fingerprint')], 'bench': [], 'compiled': []}
    prints = unbound.get(str(row['kind']), [record.get('dataset')])
    if row['kind'] == 'study':
        prints = [_object(each).get('fingerprint') for each in _object(row.get('sets')).values()]
        if 'failed' not in row and 'training_seconds' not in _object(record.get('training')):
            missing.append('provenance.training.training_seconds')
    if any(not {'count', 'sha256'} <= _object(each).keys() for each in prints):
        missing.append('the fingerprint of its data')
    if missing:
        raise UserError(f'{path} is refused; it lacks {", ".join(missing)}. Make the row anew, or remove it.')
    if faults := shapes.faults(row):
        raise UserError(f'{path} is refused; {", ".join(faults)}. Make the row anew, or remove it.')
    return {**row, 'file': path.name}


def _object(value: Any) -> dict[str, Any]:
    """A JSON object, empty where something else lies in its place."""
    return value if isinstance(value, dict) else {}


def check_studies(rows: Rows) -> None:
    """Refuses runs of one size that differ in more than their variants' fields and seeds, or in their data.

    Other differences (commit, versions, device, precision) only keep those runs from a verdict; see `obstacles`.
    """
    for size in {row['size'] for row in rows}:
        chosen = [row for row in rows if row['size'] == size]
        _check_seeds(chosen)
        _check_starts(chosen)
        chosen.sort(key=lambda row: ('failed' in row, len(row['overrides'])))
        first = chosen[0]  # the paper's own settings, where there is a finished row of them
        for row in chosen[1:]:
            own = {*fields.flat(row['overrides']), *fields.flat(first['overrides'])}
            ours, theirs = _common(first), _common(row)
            both = ours.keys() & theirs.keys()
            compared = both if 'failed' in (row | first) else ours.keys() | theirs.keys()
            if 'data.train' in own:  # variants of what is trained on: what both have must still be the same files
                compared = {name for name in compared if name in both or not name.startswith(_TRAINED)}
            names = sorted(name for name in compared - own if not is_same(ours.get(name), theirs.get(name)))
            if names:
                raise UserError(
                    f'{row["file"]} and {first["file"]} cannot stand in one table: they differ in '
                    f'{", ".join(names)}. Put one of them under another --results.'
                )


def _check_seeds(rows: Rows) -> None:
    """Refuses two runs of one variant and seed, which would count as two seeds."""
    known: dict[tuple[str, int], str] = {}
    for row in rows:
        other = known.setdefault((row['variant'], row['seed']), row['file'])
        if other != row['file']:
            raise UserError(
                f'{row["file"]} and {other} are both of {row["variant"]} with seed {row["seed"]}. Remove one of them.'
            )


def identity(name: str, fingerprint: dict[str, Any]) -> Any:
    """What tells the images of a set from others, for `is_same`: their hash; of drawn rain number and hash of photos.

    For it was drawn with cosines in float32, which processors with AVX-512 round otherwise: a pixel in millions is off.
    """
    if name.startswith(('drawn_', 'test_iii')):
        return fingerprint.get('count'), fingerprint.get('backgrounds')
    return fingerprint['sha256']


def is_same(first: Any, second: Any) -> bool:
    """Whether two of what `identity` gives, or two values of other fields, are equal.

    Rows of when drawn rain still depended on the processor do not tell its photos, and are taken at their number.
    """
    if isinstance(first, tuple) and isinstance(second, tuple) and None in (first[-1], second[-1]):
        return first[0] == second[0]
    return first == second


def _check_starts(rows: Rows) -> None:
    """Refuses runs of one seed that began from other weights, but for variants that name theirs."""
    known: dict[int, tuple[str, str]] = {}
    for row in rows:
        origin = _object(_object(row['provenance'].get('training')).get('start_from')).get('sha256')
        if not origin or _START in fields.flat(row['overrides']):  # rows that failed do not tell, nor very old ones
            continue
        other, file = known.setdefault(row['seed'], (origin, row['file']))
        if other != origin:
            raise UserError(
                f'{row["file"]} and {file} cannot stand in one table: they began from other weights. Put one of them '
                'under another --results.'
            )


def _common(row: dict[str, Any]) -> dict[str, Any]:
    """What runs of one size have in common: config but for the seed, and data, but not where they lie."""
    record = row['provenance']
    config = fields.flat(fields.complete(record['config']))
    free = ('seed', *fields.PLACES, *fields.WITHOUT_EFFECT)
    kept = {name: value for name, value in config.items() if name not in free}
    kept[_START] = config[_START] is not None  # which weights they are, `_check_starts` compares
    kept |= {f'scored images of {name}': identity(name, each['fingerprint']) for name, each in row['sets'].items()}
    kept |= {f'names of the images of {name}': each['images']['name'] for name, each in row['sets'].items()}
    trained = (record.get('training') or {}).get('training_data', {})
    kept |= {f'{_TRAINED} {name}': identity(name, each) for name, each in trained.items()}
    return kept


def unlike_default(row: dict[str, Any], beginnings: tuple[str, ...] = ('model.',)) -> dict[str, tuple[Any, Any]]:
    """Fields of these names that a row's variant leaves alone and that are not today's default: theirs, and that."""
    config = row['provenance']['config']
    found = fields.flat(fields.complete({**config, 'model': config.get('model') or {}}))
    default, free = fields.default_fields(), fields.flat(row.get('overrides', {}))
    names = [name for name in sorted(found) if name.startswith(beginnings) and name not in free]
    return {name: (found[name], default.get(name)) for name in names if found[name] != default.get(name)}


def label(name: str, row: dict[str, Any]) -> str:
    """A set to read: of `pairs` the folder's name, of all the number of images."""
    root = row['provenance']['config']['data'].get('root') or ''
    shown = name.replace('pairs', pathlib.Path(root).name or name, 1) if name.startswith('pairs') else name
    count, whole = _counts(row['sets'][name])
    return f'{shown} ({count})' if count == whole else f'{shown} ({count} of {whole})'


def _counts(result: dict[str, Any]) -> tuple[int, int]:
    """Images scored, and those that the publisher's set has."""
    return result['count'], result['fingerprint'].get('publisher_count') or result['count']


def test_of(name: str, row: dict[str, Any]) -> tuple[str, bool]:
    """The paper's test that a set is compared with, and whether it is that test, and whole."""
    if name in IS_TEST:
        count, whole = _counts(row['sets'][name])
        return IS_TEST[name], count == whole
    return STANDS_IN.get(name, STANDS_IN.get(name.partition('/')[0], 'Test-I')), False


def released_name(row: dict[str, Any]) -> str:
    """A training of configs/release.py to read: its size and its mixture."""
    return f'{row["size"].removeprefix("release").removeprefix("-") or "full"} {row["variant"]}'


def is_released(row: dict[str, Any]) -> bool:
    """Whether a row is a training of configs/release.py."""
    return row['kind'] == 'study' and row['size'].startswith('release')


def sizes(rows: Rows) -> list[str]:
    """The sizes of the studies with finished rows, the paper's own first."""
    found = {row['size'] for row in rows if row['kind'] == 'study' and 'failed' not in row and not is_released(row)}
    return sorted(found, key=lambda size: (size != 'full', size))


def by_variant(rows: Rows, size: str) -> dict[str, Rows]:
    """The finished study rows of one size, by variant, sorted by seed."""
    found: dict[str, Rows] = {}
    for row in sorted((row for row in rows if row['kind'] == 'study' and row['size'] == size), key=lambda r: r['seed']):
        if 'failed' not in row:
            found.setdefault(variant_of(row), []).append(row)
    return found


def variant_of(row: dict[str, Any]) -> str:
    """The variant of a study row to read: one of STUDIES, or of any other study that may have given it such a name."""
    name = row['variant']
    own = {path: fields.of_today(path, value) for path, value in fields.flat(row['overrides']).items()}
    own = {path: tuple(value) if isinstance(value, list) else value for path, value in own.items()}
    return name if own == PUBLISHED.get(name, own) else f'{name} (of another study)'
