"""The paper's claims, what our rows say of each, and the verdicts, by the rules of `verdicts` and `obstacles`."""

import collections
from collections.abc import Collection
from typing import Any

import numpy as np

from qsnet_jax.configs import scales, studies
from qsnet_jax.evidence import obstacles, page, verdicts
from qsnet_jax.evidence.rows import Rows, by_variant, label, sizes, test_of
from qsnet_jax.evidence.verdicts import Claim

TESTS = ('Test-I', 'Test-II', 'Test-III')
FEW = 10  # scenes that are not sparse, below which nothing is said of why
ENOUGH = 30  # scenes, for a share
_ORDERS = (
    ('table_4', 'V1', 'V2', 'The quasi-sparsity loss helps (V2 over V1)'),
    ('table_4', 'V2', 'V3', 'The detail loss helps (V3 over V2)'),
    ('table_4', 'V3', 'paper', 'The auxiliary loss helps (V4 over V3)'),
    ('table_4', 'V1', 'paper', 'All three losses together help (V4 over V1)'),
    ('table_5', 'not_shared', 'paper', 'Information sharing helps'),
    ('table_5', 'not_grouped', 'paper', 'Groups that share beat decoders without groups'),
)
_COLUMNS = {'not_grouped': 'not_shared'}  # the second reading of what the paper calls "without sharing"
_SCALES = (
    ('All scales together beat the best alone (C_3)', 'all', 'C_3'),
    ('The middle scale beats the finest (C_3 over C_1)', 'C_3', 'C_1'),
    ('The middle scale beats the widest (C_3 over C_5)', 'C_3', 'C_5'),
)


def collect(rows: Rows, paper: dict[str, Any]) -> list[Claim]:
    """All claims about decibels for which there are rows, judged."""
    found: list[Claim] = []
    for size in sizes(rows):
        variants = by_variant(rows, size)
        found += _of_orders(variants, size, paper) + _of_scales(variants, size, paper)
    return verdicts.judge(found + _of_table_1(by_variant(rows, 'full'), paper))


def _of_orders(variants: dict[str, Rows], size: str, paper: dict[str, Any]) -> list[Claim]:
    """Tables 4 and 5: one variant beats another."""
    found = []
    for source, first, second, text in _ORDERS:
        if first in variants and second in variants:
            for name in variants[first][0]['sets']:
                where = (source.replace('_', ' ').capitalize(), text, size)
                test = test_of(name, variants[first][0])[0]
                column = _COLUMNS.get(first, first)
                theirs = paper[source][second][test][0] - paper[source][column][test][0]
                about = (label(name, variants[first][0]), test, theirs)
                found.append(verdicts.make(where, variants[second], variants[first], name, about))
    return found


def _of_scales(variants: dict[str, Rows], size: str, paper: dict[str, Any]) -> list[Claim]:
    """Table 3: all scales together beat the best single one; the middle scale beats the outer ones."""
    found = []
    for variant in (studies.PAPER, *scales.VARIANTS):
        rows = variants.get(variant, [])
        table = 'Table 3' + ('' if variant == studies.PAPER else f', {variant}')
        for name in rows[0]['sets'] if rows else ():
            if rows[0]['sets'][name]['scales'].keys() != paper['table_3'].keys() - {'all'}:
                continue  # another network, whose scales are not those of the claims
            test = test_of(name, rows[0])[0]
            theirs = {head: values[test][0] for head, values in paper['table_3'].items()}
            for text, upper, lower in _SCALES:
                column = 'output_rgb_psnr' if upper == 'all' else f'{upper}_rgb_psnr'
                about = (label(name, rows[0]), test, theirs[upper] - theirs[lower])
                columns = (column, f'{lower}_rgb_psnr')
                found.append(verdicts.make((table, text, size), rows, rows, name, about, columns))
    return found


def _of_table_1(variants: dict[str, Rows], paper: dict[str, Any]) -> list[Claim]:
    """Table 1, on the paper's own tests: better than the best other, of which the paper gives the mean alone."""
    found, rows = [], variants.get(studies.PAPER, [])
    for test in TESTS:
        best = _best_other(test, paper)
        name = _own_set(test, rows)
        if name is not None:
            images = [row['sets'][name]['images'] for row in rows]
            scores = np.array([[np.nan if x is None else x for x in each['output_rgb_psnr']] for each in images])
            effect = verdicts.of_differences(scores - best, images[0]['scene'])
            claim = Claim('Table 1', f'QSNet is best on {test}', 'full', label(name, rows[0]), test,
                          paper['table_1']['QSNet'][test][0] - best, effect,
                          obstacles.reasons(rows, name, len(effect.by_seed)))  # fmt: skip
            found.append(claim)
    return found


def _best_other(test: str, paper: dict[str, Any]) -> float:
    return max(scores[test][0] for name, scores in paper['table_1'].items() if name != 'QSNet')


def _own_set(test: str, rows: Rows) -> str | None:
    """Our set that is this test of the paper's."""
    return next((name for name in (rows[0]['sets'] if rows else ()) if test_of(name, rows[0]) == (test, True)), None)


_WORDS = {  # of verdicts, in a sentence whose subject is our networks
    'reproduced': 'show it',
    'seen': 'show it',
    "smaller than the paper's": 'show less of it',
    'opposite': 'show the opposite',
    "no effect of the paper's size": 'show no effect of that size',
    'the opposite': 'show the opposite',
    'no evidence': 'cannot tell',
}


def shared_reasons(claims: list[Claim]) -> dict[tuple[str, str], str]:
    """The (size, set of ours) that no claim may be judged on, all for one reason, and that reason, to be said once."""
    found: dict[tuple[str, str], set[str]] = {}
    for claim in claims:
        blocked = claim.verdict.kind == verdicts.BLOCKED
        found.setdefault((claim.size, claim.sample), set()).add(claim.verdict.why if blocked else '')
    return {key: why for key, (why, *more) in found.items() if why and not more}


def sentence(same: list[Claim], said: Collection[tuple[str, str]] = ()) -> str:
    """What our runs say of one claim on each of our sets, in plain words. said: sets whose obstacle is known."""
    told, silent = [], []
    for claim in same:
        if claim.verdict.kind == verdicts.BLOCKED:
            if (claim.size, claim.sample) not in said:
                silent.append(f' {claim.sample} does not count: {claim.verdict.why}.')
            continue
        is_open = claim.verdict.kind == verdicts.OPEN
        hidden = f'; {claim.verdict.why}' if is_open else ''
        words = _WORDS.get(claim.verdict.why) or _WORDS[claim.verdict.word]
        told.append(f'{words} on {claim.sample} ({claim.effect.mean:+.2f} dB{hidden})')
    effects = ', '.join(f'{claim.paper:+.2f} dB on {claim.test}' for claim in same)
    subject = 'Full-size' if same[0].size == 'full' else same[0].size.capitalize()
    told = [f' {subject} networks {", ".join(told)}.'] if told else []
    return f'**{same[0].text}** ({same[0].table}). The paper: {effects}.{"".join(told + silent)}'


def by_text(claims: list[Claim]) -> list[list[Claim]]:
    """The claims of each table, text and size, over our sets."""
    found: dict[tuple[str, str, str], list[Claim]] = {}
    for claim in claims:
        found.setdefault((claim.size, claim.table, claim.text), []).append(claim)
    return list(found.values())


def table(claims: list[Claim], title: str) -> page.Table:
    """The claims with all that their verdicts rest on."""
    cells = []
    for claim in claims:
        effect, ends = claim.effect, claim.interval
        plain = effect.interval()
        cells.append([
            claim.size, claim.table, claim.text, claim.sample, f'{claim.paper:+.2f} ({claim.test})',
            f'{effect.mean:+.2f}' if effect.by_seed else '-',
            f'{plain[0]:+.2f} .. {plain[1]:+.2f}' if plain else '-',
            f'{ends[0]:+.2f} .. {ends[1]:+.2f}' if ends and not claim.blocked else '-',
            ', '.join(f'{value:+.2f}' for value in effect.by_seed) or '-',
            str(effect.scenes), f'{100 * effect.better:.0f} %' if effect.by_seed else '-', str(claim.verdict),
        ])  # fmt: skip
    columns = ['size', 'where', 'claim', 'our set (images)', 'paper, dB', 'ours, dB', '95 %', "Holm's", 'by seed',
               'scenes', 'images better', 'verdict']  # fmt: skip
    return page.Table(title, columns, cells)


def others(rows: Rows, paper: dict[str, Any]) -> page.Table:
    """Claims that are no differences of decibels, or that nothing here can test."""
    cells = _of_sparsity(rows, paper) + _not_testable(rows, paper)
    return page.Table('Other claims', ['where', 'claim', 'our set (images)', 'paper', 'ours', 'verdict'], cells)


_UNTESTED = 'not testable here'
_OF_SPARSITY = {  # verdicts of Sec. 3.1 as the end of 'in so many, ...'
    'consistent': "the paper's share of sparse images lies in our interval",
    'consistent, but chance gives as much': "the paper's share of sparse images lies in our interval, but chance gives "
    'as much',
    'inconsistent': "the paper's share of sparse images lies outside of our interval",
    "not the paper's mixture": 'the set alone is not the mixture of real and synthetic images that the paper counted',
    'most images are': 'most images are sparser than a Laplacian sample',
    'some images are': 'some images are sparser than a Laplacian sample',
    'may be chance': 'the share of images that are sparser than a Laplacian sample may be chance',
    'reproduced': 'images that are not sparse have less contrast',
    'opposite': 'images that are not sparse have more contrast',
    'no evidence': 'contrast does not tell which images are not sparse',
    'too few': 'there are too few images to tell',
}


def counts(found: list[Claim], other: page.Table, rows: Collection[dict[str, Any]] = ()) -> list[str]:
    """How many verdicts there are of each kind: of gains in dB, of sparsity, and of what nothing here can test.

    rows: those behind them, to say which runs failed.
    """
    lines = []
    if found:
        kinds = collections.Counter(claim.verdict.word for claim in found).most_common()
        each = ', '.join(f'{count} {word}' for word, count in kinds)
        lines += [f'**{len(found)} verdicts on gains in dB**, one for each claim and each of our sets: {each}.']
    if failed := [f'{row["size"]}-{row["variant"]}-{row["seed"]}' for row in rows if 'failed' in row]:
        lines += [f'**{len(failed)} runs failed** and count in no verdict: {", ".join(failed)}.']
    words = [cells[-1].partition(':')[0] for cells in other.rows]
    if told := [word for word in words if word != _UNTESTED]:
        each = '; '.join(f'in {n}, {_OF_SPARSITY[word]}' for word, n in collections.Counter(told).most_common())
        lines += [f'**{len(told)} verdicts on how sparse rainy images are** (Sec. 3.1): {each}.']
    if silent := words.count(_UNTESTED):
        subject = f'{silent} claim{"s" * (silent > 1)} of Tables 1 and 2'
        lines += [f'**{subject} cannot be tested here**; the table of other claims says why.']
    return lines


def _of_sparsity(rows: Rows, paper: dict[str, Any]) -> list[list[str]]:
    """Sec. 3.1: the share of sparse images, whether it is more than chance, and what contrast does."""
    cells, claimed = [], paper['sparsity']['share']
    for row in (row for row in rows if row['kind'] == 'sparsity'):
        key, chance = row.get('filter', 'd_x'), row['control']['share']
        shares, where = row['share'][key], _name(row)
        texts = {rule: percent(cell) for rule, cell in shares.items()}
        fewest: Any = row['fewest'] if 'pooled' in row else row.get('scenes', row['count'])  # of a pool's smallest set
        few = f'too few: {fewest} of {ENOUGH} scenes' if fewest < ENOUGH else ''
        low, high = shares['mean']['interval']
        if 'pooled' not in row:
            verdict = "not the paper's mixture"
        elif not low <= claimed <= high:
            verdict = 'inconsistent'
        else:
            verdict = 'consistent, but chance gives as much' if chance['mean'] >= low else 'consistent'
        cells.append(['Sec. 3.1', f'Rainy images are sparse in {key}', where, f'{100 * claimed:.1f} %',
                      f'{texts["mean"]} below the chord on average, {texts["every"]} in every bin; of Laplacian '
                      f'samples {100 * chance["mean"]:.0f} and {100 * chance["every"]:.0f} %',
                      few or verdict])  # fmt: skip
        low = shares['beyond']['interval'][0]
        beyond = 'most images are' if low > 0.5 else 'some images are' if low > 0.05 else 'may be chance'
        cells.append(['Sec. 3.1', 'And sparser than a Laplacian sample', where, 'not tested',
                      f'{texts["beyond"]} beyond what at most 5 % of such samples reach', few or beyond])  # fmt: skip
        if row.get('contrast'):
            cells.append(_of_contrast(row, where, few))
    return cells


def _name(row: dict[str, Any]) -> str:
    """Images and their number, and the weights of a pool."""
    parts = [f'{100 * weight:.0f} % {name}' for name, weight in row.get('pooled', {}).items()]
    return f'{", ".join(parts) or row["name"]} ({row["count"]})'


def _of_contrast(row: dict[str, Any], where: str, few: str) -> list[str]:
    found = row['contrast']
    if found['count_not_sparse'] < FEW or found['p_lower'] is None:
        verdict = f'too few: {found["count_not_sparse"]} of {FEW} scenes that are not sparse'
    elif found['p_lower'] < 0.025:
        verdict = 'reproduced'
    else:
        verdict = 'opposite' if found['p_lower'] > 0.975 else 'no evidence'
    medians = [found['median_not_sparse'], found['median_sparse']]
    shown = ' and '.join('-' if value is None else f'{value:.3f}' for value in medians)
    text = f'{found["count_not_sparse"]} not sparse; median contrast of those and of the others: {shown}'
    return ['Sec. 3.1', 'Low contrast is why the others are not', where, 'said, not measured', text, few or verdict]


def percent(cell: dict[str, Any], digits: int = 0) -> str:
    """A share and its interval, in percent."""
    low, high = cell['interval']
    return f'{100 * cell["share"]:.{digits}f} % ({100 * low:.0f} .. {100 * high:.0f})'


def _not_testable(rows: Rows, paper: dict[str, Any]) -> list[list[str]]:
    """Tables 1 and 2, where the paper's tests, a full-size training or the paper's card are missing."""
    cells, full = [], by_variant(rows, 'full').get(studies.PAPER, [])
    why = {
        'Test-I': 'its pairs are not published',
        'Test-II': 'no full-size training scored on it yet',
        'Test-III': 'never released',
    }
    for test in TESTS:
        if _own_set(test, full) is None:
            psnr, ssim = paper['table_1']['QSNet'][test]
            shown = f'{psnr:.2f} / {ssim:.3f}'
            verdict = f'{_UNTESTED}: {why[test]}'
            cells.append(['Table 1', f'QSNet is best on {test}', '-', shown, '-', verdict])
    is_gpu = any(row['kind'] == 'bench' and row['provenance']['device']['platform'] == 'gpu' for row in rows)
    cells.append(['Table 2', '5 ms at 512x512', '-', f'{paper["table_2"]["QSNet"]:.3f} s', '-',
                  f'{_UNTESTED}: another card; see Speed' if is_gpu else
                  f'{_UNTESTED}: no GPU measured; at full resolution the arithmetic alone takes about 24 ms on '
                  "the paper's card"])  # fmt: skip
    return cells
