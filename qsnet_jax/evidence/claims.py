"""Evidence: rows of results, checked, and what they say of the paper's claims.

A row that does not say how it came about is refused. Variants are compared in pairs, by seed and image. A claim counts
as reproduced where the 95 % t-interval of the difference over seeds lies above 0, as contradicted where it lies below,
and otherwise as not reproduced.
"""

import dataclasses
import json
import math
import pathlib
from typing import Any, TypeAlias

import numpy as np
import scipy.stats

from qsnet_jax import UserError, fields
from qsnet_jax.configs import scales, studies
from qsnet_jax.data import sets
from qsnet_jax.evidence import evaluate, page

TESTS = ('Test-I', 'Test-II', 'Test-III')
# Which of the paper's tests a set is, or stands in for; all others stand in for Test-I.
IS_TEST = {'test_ii': 'Test-II', 'rain100h': 'Test-II'}  # of Test-I the choice of pairs is ours
STANDS_IN = {
    'rain13k/rain100h': 'Test-II',
    'test_i': 'Test-I',
    'drawn_heavy': 'Test-II',
    'drawn_wide': 'Test-III',
    sets.STAND_IN: 'Test-III',
}
ENOUGH = 3  # seeds, for a verdict
FEW = 10  # images that are not sparse, below which nothing is said of why
_RECORDED = ('seed', 'commit', 'config', 'command', 'versions', 'device', 'precision', 'date')
_TRAINED = 'training images of'
_KINDS = ('study', 'compare', 'evaluation', 'sparsity', 'bench')
Rows: TypeAlias = list[dict[str, Any]]


@dataclasses.dataclass
class Effect:
    """How much better one variant is than another on one set, in dB."""

    mean: float
    by_seed: list[float]
    over_seeds: list[float] | None  # 95 % t-interval
    over_images: list[float] | None  # 95 % interval of the mean over seeds, as `evaluate` makes it
    better: float  # share of images

    @property
    def verdict(self) -> str:
        if self.over_seeds is None or len(self.by_seed) < ENOUGH:
            return f'open: {ENOUGH} seeds are needed'
        if self.over_seeds[0] > 0:
            return 'reproduced'
        return 'contradicted' if self.over_seeds[1] < 0 else 'not reproduced: the interval holds 0'

    def __str__(self) -> str:
        if not self.by_seed:
            return 'no common seed'
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
    """Refuses runs of one size that differ in more than their variants' fields and seeds, or in data and precision."""
    for size in {row['size'] for row in rows}:
        chosen = sorted((row for row in rows if row['size'] == size), key=lambda row: len(row['overrides']))
        first = chosen[0]  # the paper's own settings, where there is a row of them
        for row in chosen[1:]:
            own = {*fields.flat(row['overrides']), *fields.flat(first['overrides'])}
            ours, theirs = _common(first), _common(row)
            both = ours.keys() & theirs.keys()
            compared = both if 'failed' in (row | first) else ours.keys() | theirs.keys()
            if 'data.train' in own:  # variants of what is trained on: what both have must still be the same files
                compared = {name for name in compared if name in both or not name.startswith(_TRAINED)}
            names = sorted(name for name in compared - own if ours.get(name) != theirs.get(name))
            if names:
                raise UserError(
                    f'{row["file"]} and {first["file"]} cannot stand in one table: they differ in '
                    f'{", ".join(names)}. Put one of them under another --results.'
                )


def _common(row: dict[str, Any]) -> dict[str, Any]:
    """What runs of one size have in common: config but for the seed, data (not where they lie), device, precision."""
    record = row['provenance']
    config = fields.flat(fields.complete(record['config']))
    free = ('seed', 'data.root', *fields.WITHOUT_EFFECT)
    kept = {name: value for name, value in config.items() if name not in free}
    kept |= {f'scored images of {name}': each['fingerprint']['sha256'] for name, each in row['sets'].items()}
    trained = (record.get('training') or {}).get('training_data', {})
    kept |= {f'{_TRAINED} {name}': each['sha256'] for name, each in trained.items()}
    return kept | {'matmul precision': record['precision']['matmul'], 'platform': record['device']['platform']}


def effect(better: Rows, worse: Rows, name: str, column: str = 'output_rgb_psnr', other: str | None = None) -> Effect:
    """Of variant `better` against `worse` on the set `name`, over the seeds that both have.

    other: the column of the worse, where it is another, as for two scales of one network.
    """
    first, second = ({row['seed']: row['sets'][name]['images'] for row in rows} for rows in (better, worse))
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return Effect(math.nan, [], None, None, math.nan)
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
                    test = test_of(name, found[first][0])[0]
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
            test = test_of(name, rows[0])[0]
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
    """Sec. 3.1: the share of images sparse in d_x, whether it is more than chance, and what contrast does."""
    table = []
    for row in (row for row in rows if row['kind'] == 'sparsity'):
        cells, chance, claimed = row['share']['d_x'], row['control']['share'], paper['sparsity']['share']
        texts = {rule: percent(cell) for rule, cell in cells.items()}
        low, high = cells['mean']['interval']
        is_same = low <= claimed <= high
        verdict = 'consistent' if is_same else 'inconsistent'
        if is_same and chance['mean'] >= low:
            verdict += ', but chance gives as much'
        where = ['', f'{row["name"]} ({row["count"]})']
        table.append(['Sec. 3.1', 'rainy images are sparse in d_x', *where, f'{100 * claimed:.1f} %',
                      f'{texts["mean"]} below the chord on average, {texts["every"]} in every bin; of Laplacian '
                      f'samples {100 * chance["mean"]:.0f} and {100 * chance["every"]:.0f} %', verdict])  # fmt: skip
        low, high = cells['beyond']['interval']
        table.append(['Sec. 3.1', 'and sparser than a Laplacian sample', *where, 'not tested',
                      f'{texts["beyond"]} beyond what 5 % of such samples reach',
                      'most are' if low > 0.5 else 'some are' if low > 0.05 else 'no more than by chance'])  # fmt: skip
        found = row['contrast']
        if found['count_not_sparse'] < FEW or found['p_lower'] is None:
            verdict = f'open: {FEW} images that are not sparse are needed'
        elif found['p_lower'] < 0.05:
            verdict = 'reproduced'
        else:
            verdict = 'contradicted' if found['p_lower'] > 0.95 else 'not reproduced'
        medians = [found['median_not_sparse'], found['median_sparse']]
        shown = ' and '.join('-' if value is None else f'{value:.3f}' for value in medians)
        table.append(['Sec. 3.1', 'low contrast is why the others are not', *where, 'said, not measured',
                      f'{found["count_not_sparse"]} not sparse; median contrast of those and of the others: {shown}',
                      verdict])  # fmt: skip
    return table


def percent(cell: dict[str, Any], digits: int = 0) -> str:
    """A share and its interval, in percent."""
    low, high = cell['interval']
    return f'{100 * cell["share"]:.{digits}f} % ({100 * low:.0f} .. {100 * high:.0f})'


def _claims_not_testable(rows: Rows, paper: dict[str, Any]) -> list[list[str]]:
    """Tables 1 and 2, which need the paper's tests, a full-size training and the paper's card."""
    table = []
    found = by_variant(rows, 'full').get(studies.PAPER, [])
    for test in TESTS:
        best = max(scores[test][0] for name, scores in paper['table_1'].items() if name != 'QSNet')
        sets = found[0]['sets'] if found else ()
        name = next((name for name in sets if test_of(name, found[0]) == (test, True)), None)
        theirs = paper['table_1']['QSNet'][test]
        ours, verdict = '-', {
            'Test-I': 'not testable here: its pairs are not published',
            'Test-II': 'not testable here: no full-size training scored on it yet',
            'Test-III': 'not testable here: never released',
        }[test]  # fmt: skip
        if name is not None:
            psnr = [row['sets'][name]['rgb']['psnr'] for row in found]
            gain = Effect(float(np.mean(psnr)) - best, psnr, t_interval(np.array(psnr) - best), None, math.nan)
            ours = f'{np.mean(psnr):.2f} of {len(psnr)} seeds; {gain} over the best other in the paper, {best:.2f}'
            verdict = gain.verdict
        table.append(['Table 1', f'QSNet is best on {test}', 'full', '', f'{theirs[0]:.2f} / {theirs[1]:.3f}', ours,
                      verdict])  # fmt: skip
    is_gpu = any(row['kind'] == 'bench' and row['provenance']['device']['platform'] == 'gpu' for row in rows)
    table.append(['Table 2', '5 ms at 512x512', 'full', '', f'{paper["table_2"]["QSNet"]:.3f} s', '-',
                  'not testable here: another card; see Speed' if is_gpu else
                  'not testable here: no GPU measured; at full resolution the arithmetic alone takes about 24 ms on '
                  "the paper's card"])  # fmt: skip
    return table
