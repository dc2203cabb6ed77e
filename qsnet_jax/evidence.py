"""Evidence: rows of results, checked, and what they say of the paper's claims.

A row that does not say how it came about is refused. Variants are compared in pairs, by seed and image. A claim counts
as reproduced where the 95 % t-interval of the difference over seeds lies above 0, as contradicted where it lies below,
and otherwise as not reproduced.
"""

import dataclasses
import json
import pathlib
from typing import Any, TypeAlias

import numpy as np
import scipy.stats

from configs import scales, studies
from qsnet_jax import UserError, datasets, evaluate, page, train

TESTS = ('Test-I', 'Test-II', 'Test-III')
# Which of the paper's tests a set is, or stands in for as the nearest kind of rain; all others stand in for Test-I.
IS_TEST = {'test_i': 'Test-I', 'test_ii': 'Test-II', 'rain100h': 'Test-II'}
STANDS_IN = {'drawn_heavy': 'Test-II', 'drawn_wide': 'Test-III', datasets.STAND_IN: 'Test-III'}
ENOUGH = 3  # seeds, for a verdict
DATA_OF = 'the data of '
_RECORDED = ('seed', 'commit', 'config', 'command', 'versions', 'device', 'precision', 'date')
_KINDS = ('study', 'compare', 'evaluation', 'sparsity', 'bench')
Rows: TypeAlias = list[dict[str, Any]]


@dataclasses.dataclass
class Effect:
    """How much better one variant is than another on one set, in dB."""

    mean: float
    by_seed: list[float]
    over_seeds: list[float] | None  # 95 % t-interval
    over_images: list[float] | None  # 95 % bootstrap interval of the mean over seeds
    better: float  # share of images

    @property
    def verdict(self) -> str:
        if self.over_seeds is None or len(self.by_seed) < ENOUGH:
            return f'open: {ENOUGH} seeds are needed'
        if self.over_seeds[0] > 0:
            return 'reproduced'
        return 'contradicted' if self.over_seeds[1] < 0 else 'not reproduced: the interval holds 0'

    def __str__(self) -> str:
        ends = self.over_seeds or self.over_images
        about = '' if self.over_seeds else ' over images'
        return f'{self.mean:+.2f}' + (f' ({ends[0]:+.2f} .. {ends[1]:+.2f}{about})' if ends else '')


def load(results: pathlib.Path) -> Rows:
    """All rows, each with its `kind` and `file`. Raises UserError for what `report` refuses."""
    paths = [path for folder in ('rows', 'sparsity', 'bench') for path in sorted((results / folder).glob('*.json'))]
    if not paths:
        raise UserError(f'There are no rows under {results}; --mode=study, sparsity and bench write them.')
    rows = [_read(path) for path in paths]
    check_studies([row for row in rows if row['kind'] == 'study'])
    return rows


def _read(path: pathlib.Path) -> dict[str, Any]:
    """One row. Raises UserError with its name for what is missing."""
    try:
        row = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f'{path} is no JSON ({error}); make the row anew, or remove it.') from error
    row.setdefault('kind', 'bench' if 'cases' in row else 'evaluation')
    record = row.get('provenance') or {}
    missing = [f'provenance.{name}' for name in _RECORDED if name not in record]
    if row['kind'] not in _KINDS:
        missing.append(f'a kind that is known (found {row["kind"]!r})')
    prints = {'sparsity': [row.get('fingerprint')], 'bench': []}.get(row['kind'], [record.get('dataset')])
    if row['kind'] == 'study':
        prints = [each.get('fingerprint') for each in row.get('sets', {}).values()]
        if 'failed' not in row and 'training_seconds' not in record.get('training', {}):
            missing.append('provenance.training.training_seconds')
    if any(not (each and {'count', 'sha256'} <= each.keys()) for each in prints):
        missing.append('the fingerprint of its data')
    if missing:
        raise UserError(f'{path} is refused; it lacks {", ".join(missing)}. Make the row anew, or remove it.')
    return {**row, 'file': path.name}


def check_studies(rows: Rows) -> None:
    """Refuses runs of one size that differ in more than their variants' fields and seeds, or in the data scored."""
    for size in {row['size'] for row in rows}:
        chosen = [row for row in rows if row['size'] == size]
        first = _common(chosen[0])
        for row in chosen[1:]:
            fields = {*train.flat(row['overrides']), *train.flat(chosen[0]['overrides'])}
            other = _common(row)
            names = sorted(
                name
                for name in first.keys() | other.keys()
                if name not in fields
                and first.get(name) != other.get(name)
                and not (name.startswith(DATA_OF) and 'failed' in (row | chosen[0]))
            )
            if names:
                raise UserError(
                    f'{row["file"]} and {chosen[0]["file"]} cannot stand in one table: they differ in '
                    f'{", ".join(names)}. Put one of them under another --results.'
                )


def _common(row: dict[str, Any]) -> dict[str, Any]:
    """What all runs of one size must have in common: the config without the seed, and the data that were scored."""
    config = train.flat(row['provenance']['config'])
    kept = {name: value for name, value in config.items() if name != 'seed' and name not in train.WITHOUT_EFFECT}
    return kept | {DATA_OF + name: each['fingerprint']['sha256'] for name, each in row['sets'].items()}


def effect(better: Rows, worse: Rows, name: str, column: str = 'output_rgb_psnr', other: str | None = None) -> Effect:
    """Of variant `better` against `worse` on the set `name`, over the seeds that both have (at least one).

    other: the column of the worse, where it is another, as for two scales of one network.
    """
    first, second = ({row['seed']: row['sets'][name]['images'] for row in rows} for rows in (better, worse))
    seeds = sorted(first.keys() & second.keys())
    differences = np.array(
        [_floats(first[seed][column]) - _floats(second[seed][other or column]) for seed in seeds]
    )  # (seeds, images)
    is_finite = np.isfinite(differences).all(axis=0)
    differences = differences[:, is_finite]
    scenes = np.unique(np.array(first[seeds[0]]['scene'])[is_finite], return_inverse=True)[1]
    by_seed, by_image = differences.mean(axis=1), differences.mean(axis=0)
    return Effect(
        mean=float(by_seed.mean()),
        by_seed=[float(value) for value in by_seed],
        over_seeds=t_interval(by_seed),
        over_images=evaluate.interval([(by_image, scenes)]),
        better=float((by_image > 0).mean()),
    )


def t_interval(values: Any) -> list[float] | None:
    """95 % interval of the mean of independent values by Student's t; None for fewer than two."""
    values = np.asarray(values, np.float64)
    if values.size < 2:
        return None
    half = scipy.stats.t.ppf(0.975, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return [float(values.mean() - half), float(values.mean() + half)]


def _floats(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def label(name: str, row: dict[str, Any]) -> str:
    """A set to read: of `pairs` the folder's name, of all the number of images."""
    root = row['provenance']['config']['data'].get('root') or ''
    shown = name.replace('pairs', pathlib.Path(root).name or name, 1) if name.startswith('pairs') else name
    return f'{shown} ({row["sets"][name]["count"]})'


def test_of(name: str) -> tuple[str, bool]:
    """The paper's test that a set is compared with, and whether it is that test."""
    if name in IS_TEST:
        return IS_TEST[name], True
    return STANDS_IN.get(name, 'Test-I'), False


def by_variant(rows: Rows, size: str) -> dict[str, Rows]:
    """The finished study rows of one size, by variant, sorted by seed."""
    found: dict[str, Rows] = {}
    for row in sorted((row for row in rows if row['kind'] == 'study' and row['size'] == size), key=lambda r: r['seed']):
        if 'failed' not in row:
            found.setdefault(row['variant'], []).append(row)
    return found


def claims(rows: Rows, paper: dict[str, Any]) -> page.Table:
    """The paper's claims, what our rows say of each, and the verdict."""
    table: list[list[str]] = []
    sizes = [size for size in ('full', 'small') if by_variant(rows, size)]
    for size in sizes:
        found = by_variant(rows, size)
        for source, first, second, text in _ORDERS:
            if first in found and second in found:
                for name in found[first][0]['sets']:
                    test = test_of(name)[0]
                    theirs = paper[source][second][test][0] - paper[source][first][test][0]
                    ours = effect(found[second], found[first], name)
                    table.append([source.replace('_', ' ').capitalize(), text, size, label(name, found[first][0]),
                                  f'{theirs:+.2f} ({test})', _evidence(ours), _verdict(ours, size)])  # fmt: skip
        table += _claims_of_scales(found, size, paper)
    table += _claims_of_sparsity(rows, paper) + _claims_not_testable(rows, paper)
    columns = ['where', 'claim', 'size', 'our set (images)', 'paper', 'ours, dB (95 % over seeds; by seed)', 'verdict']
    return page.Table('Verdicts', columns, table)


_ORDERS = (
    ('table_4', 'V1', 'V2', 'the quasi-sparsity loss helps (V2 over V1)'),
    ('table_4', 'V2', 'V3', 'the detail loss helps (V3 over V2)'),
    ('table_4', 'V3', 'paper', 'the auxiliary loss helps (V4 over V3)'),
    ('table_4', 'V1', 'paper', 'all three together help (V4 over V1)'),
    ('table_5', 'not_shared', 'paper', 'information sharing helps'),
)


def _verdict(ours: Effect, size: str) -> str:
    return ours.verdict + (', at reduced size' if size != 'full' and len(ours.by_seed) >= ENOUGH else '')


def _evidence(ours: Effect) -> str:
    seeds = ', '.join(f'{value:+.2f}' for value in ours.by_seed)
    images_ = f'; over images {ours.over_images[0]:+.2f} .. {ours.over_images[1]:+.2f}' if ours.over_images else ''
    return f'{ours}; seeds {seeds}{images_}; {100 * ours.better:.0f} % of images better'


def _claims_of_scales(found: dict[str, Rows], size: str, paper: dict[str, Any]) -> list[list[str]]:
    """Table 3: all scales together beat the best single one; the middle scale beats the outer ones."""
    table = []
    for variant in (studies.PAPER, *scales.VARIANTS):
        rows = found.get(variant, [])
        for name in rows[0]['sets'] if rows else ():
            test = test_of(name)[0]
            theirs = {head: values[test][0] for head, values in paper['table_3'].items()}
            for text, upper, lower in (
                ('all scales together beat the best alone (C_3)', 'all', 'C_3'),
                ('the middle scale beats the finest (C_3 over C_1)', 'C_3', 'C_1'),
                ('the middle scale beats the widest (C_3 over C_5)', 'C_3', 'C_5'),
            ):
                column = 'output_rgb_psnr' if upper == 'all' else f'{upper}_rgb_psnr'
                ours = effect(rows, rows, name, column, f'{lower}_rgb_psnr')
                where = 'Table 3' + ('' if variant == studies.PAPER else f', {variant}')
                paper_step = f'{theirs[upper] - theirs[lower]:+.2f} ({test})'
                table.append(
                    [where, text, size, label(name, rows[0]), paper_step, _evidence(ours), _verdict(ours, size)]
                )
    return table


def _claims_of_sparsity(rows: Rows, paper: dict[str, Any]) -> list[list[str]]:
    """Sec. 3.1: the share of sparse images, and that low contrast is what makes the others."""
    table = []
    for row in (row for row in rows if row['kind'] == 'sparsity'):
        cells, chance = row['share']['all four'], row['control']['share']
        shown = f'{row["name"]} ({row["count"]})'
        texts = {rule: _percent(cell['share'], cell['interval']) for rule, cell in cells.items()}
        claimed, (low, high) = paper['sparsity']['share'], cells['mean']['interval']
        number = 'the number is reproduced' if low <= claimed <= high else 'the number is not reproduced'
        is_chance = chance['mean'] >= low
        by_chance = f'of Laplacian samples {100 * chance["mean"]:.0f} % and {100 * chance["every"]:.0f} %'
        table.append(['Sec. 3.1', 'rainy images are sparse', '', shown, f'{100 * claimed:.1f} %',
                      f'{texts["mean"]} below the chord on average, {texts["every"]} in every bin; {by_chance}',
                      f'{number} by the mean rule{", but chance gives as much" if is_chance else ""}'])  # fmt: skip
        low, high = cells['beyond']['interval']
        table.append(['Sec. 3.1', 'rainy images are sparser than a Laplacian beyond chance', '', shown, 'not tested',
                      f'{texts["beyond"]}; 5 % by chance',
                      'most are' if low > 0.5 else 'some are' if low > 0.05 else 'no more than by chance'])  # fmt: skip
        found = row['contrast']
        if found['p'] is not None:
            is_low = found['rank_correlation'] < 0 and found['p'] < 0.05
            verdict = 'reproduced' if is_low else 'contradicted' if found['p'] < 0.05 else 'not reproduced'
            table.append(['Sec. 3.1', 'low contrast is why the others are not', '', shown, 'said, not measured',
                          f'rank correlation of excess and contrast {found["rank_correlation"]:+.2f}, '
                          f'p = {found["p"]:.2g}; {len(row["not_sparse"])} images not sparse by some filter',
                          verdict])  # fmt: skip
    return table


def _percent(share: float, interval: list[float]) -> str:
    return f'{100 * share:.0f} % ({100 * interval[0]:.0f} .. {100 * interval[1]:.0f})'


def _claims_not_testable(rows: Rows, paper: dict[str, Any]) -> list[list[str]]:
    """Tables 1 and 2, as long as no row is of the paper's tests or speed."""
    tested = {name for row in rows if row['kind'] == 'study' and row['size'] == 'full' for name in row['sets']}
    tested |= {row['dataset'] for row in rows if row['kind'] == 'evaluation'}
    table = []
    for test in TESTS:
        if not any(IS_TEST.get(name) == test for name in tested):
            why = 'never released' if test == 'Test-III' else 'no full-size training scored on it yet'
            theirs = paper['table_1']['QSNet'][test]
            table.append(['Table 1', f'QSNet is best on {test}', '', '', f'{theirs[0]:.2f} / {theirs[1]:.3f}', '-',
                          f'not testable here: {why}'])  # fmt: skip
    is_gpu = any(row['kind'] == 'bench' and row['provenance']['device']['platform'] == 'gpu' for row in rows)
    table.append(['Table 2', '5 ms at 512x512', 'full', '', f'{paper["table_2"]["QSNet"]:.3f} s', '-',
                  'not testable here: another card; see Speed' if is_gpu else
                  'not testable here: no GPU measured; at full resolution the arithmetic alone takes about 24 ms on '
                  "the paper's card"])  # fmt: skip
    return table
