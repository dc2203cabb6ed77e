"""Tables of the report: the paper's numbers with ours below them, and where ours come from."""

import re
from typing import Any

import numpy as np

from qsnet_jax.configs import studies
from qsnet_jax.evidence import claims as claims_
from qsnet_jax.evidence import page, statistics, verdicts
from qsnet_jax.evidence import rows as rows_

PROTOCOLS = ('rgb', 'y')
_GAIN = f'gain over variant {studies.PAPER}, rgb, dB (95 %, not corrected)'
WHOLE = 100  # images of each of the paper's tests that was published


def mean_and_spread(values: list[float], digits: int = 2) -> str:
    """Mean over seeds and, of several, their standard deviation."""
    spread = f' ± {np.std(values, ddof=1):.{digits}f}' if len(values) > 1 else ''
    return f'{np.mean(values):.{digits}f}{spread}'


def scores(rows: rows_.Rows, name: str, protocol: str, head: str | None = None) -> str:
    """'PSNR ± spread / SSIM' over seeds of the output, or of one scale's own decoder."""
    trees = [row['sets'][name] if head in (None, 'all') else row['sets'][name]['scales'][head] for row in rows]
    psnr, ssim = ([tree[protocol][measure] for tree in trees] for measure in ('psnr', 'ssim'))
    if None in psnr or None in ssim:
        return '-'
    return f'{mean_and_spread(psnr)} / {np.mean(ssim):.3f}'


def interval(result: dict[str, Any], scenes: list[str]) -> str:
    """The 95 % interval of a study row's PSNR y on a set, from its images and their scenes; '-' where there is none."""
    psnr = np.array([np.nan if x is None else x for x in result['images']['output_y_psnr']])
    held = np.isfinite(psnr)
    found = statistics.interval([(psnr[held], np.array(scenes)[held])])
    return f'{found[0]:.2f} .. {found[1]:.2f}' if found else '-'


# Columns of the paper's tables: variants and their titles.
TABLE_4 = {
    'V1': 'V1: content',
    'V2': 'V2: + quasi-sparsity',
    'V3': 'V3: + detail',
    studies.PAPER: 'V4: + auxiliary',
}
TABLE_5 = {'not_shared': 'without sharing', studies.PAPER: 'with'}


def ladder(
    found: dict[str, rows_.Rows], titles: dict[str, str], paper: dict[str, Any], heading: str
) -> page.Table | None:
    """A table of the paper's: its columns as there; ours, its numbers, and the step to each column from the last.

    titles: of each column's variant. None where one of them has no row.
    """
    order = list(titles)
    if not titles.keys() <= found.keys():
        return None
    rows, first = [], found[order[0]][0]
    for name in first['sets']:
        test, is_same = rows_.test_of(name, first)
        shown = rows_.label(name, first)
        rows += [
            [shown, f'ours, {protocol}', *(scores(found[each], name, protocol) for each in order)]
            for protocol in PROTOCOLS
        ]
        steps = [verdicts.effect(found[b], found[a], name) for a, b in zip(order, order[1:], strict=False)]
        rows.append([shown, 'ours, step, rgb', '', *(f'{each}' for each in steps)])
        theirs = [paper[each][test] for each in order]
        rows.append([shown, f'paper, {test}', *(f'{psnr:.2f} / {ssim:.3f}' for psnr, ssim in theirs)])
        rows.append(
            [shown, 'paper, step', '', *(f'{b[0] - a[0]:+.2f}' for a, b in zip(theirs, theirs[1:], strict=False))]
        )
        if is_same:
            ours = [np.mean([row['sets'][name]['rgb']['psnr'] for row in found[each]]) for each in order]
            rows.append([shown, 'ours - paper', *(f'{a - b[0]:+.2f}' for a, b in zip(ours, theirs, strict=True))])
    return page.Table(heading, ['set (images)', 'whose', *titles.values()], rows)


def against_paper_settings(found: dict[str, rows_.Rows], names: Any, heading: str) -> page.Table | None:
    """Variants beside the paper's own setting: scores and, where that setting was trained too, gains over it."""
    present = [name for name in names if name in found]
    if not present:
        return None
    reference = found.get(studies.PAPER, [])
    first = (reference or found[present[0]])[0]
    sets = list(first['sets'])
    columns = ['variant', 'seeds in common' if reference else 'seeds']
    for name in sets:
        columns += [rows_.label(name, first), *([_GAIN] if reference else [])]
    rows, seeds = [], {row['seed'] for row in reference}
    for variant in [studies.PAPER] * bool(reference) + present:
        paired = [row for row in found[variant] if not reference or row['seed'] in seeds]
        cells = [variant, str(len(paired))]
        for name in sets:
            held = [row for row in paired if name in row['sets']]
            gain = str(verdicts.effect(held, reference, name)) if held and variant != studies.PAPER else ''
            cells += [scores(held, name, 'rgb') if held else '-', gain][: 2 if reference else 1]
        rows.append(cells)
    return page.Table(heading, columns, rows)


def table_1(rows: rows_.Rows, paper: dict[str, Any]) -> page.Table:
    cells = [[f'{name} (paper)', *(f'{each[test][0]:.2f} / {each[test][1]:.3f}' for test in claims_.TESTS)]
             for name, each in paper['table_1'].items()]  # fmt: skip
    found = rows_.by_variant(rows, 'full').get(studies.PAPER, [])  # reduced networks have tables of their own
    ours = {test: '-' for test in claims_.TESTS}
    for name in found[0]['sets'] if found else ():
        test, is_same = rows_.test_of(name, found[0])
        if is_same:
            ours[test] = scores(found, name, 'rgb')
    cells.append(['ours, full (rgb)', *ours.values()])
    cells += [_scored_test(row) for row in rows if row['kind'] == 'score' and row['dataset'] in rows_.IS_TEST]
    return page.Table("The paper's tests", ['method', *claims_.TESTS], cells)


def evaluations(rows: rows_.Rows) -> page.Table:
    """What rows of single trainings say, the paper's setting in the studies, and other programs' scored results."""
    cells = []
    for row in (row for row in rows if row['kind'] == 'evaluation'):
        cells.append([row['file'].removesuffix('.json'), row['dataset'], str(row['count']), *in_out(row)])
    for size in rows_.sizes(rows):
        for row in rows_.by_variant(rows, size).get(studies.PAPER, []):
            cells += [[row['file'].removesuffix('.json'), rows_.label(name, row), str(each['count']), *in_out(each)]
                      for name, each in row['sets'].items()]  # fmt: skip
    for row in (row for row in rows if row['kind'] == 'score'):
        cells.append([_scored_name(row), row['dataset'], str(row['count']), *in_out(row)])
    columns = ['row', 'set', 'images', 'input, rgb', 'result, rgb', 'input, y', 'result, y']
    return page.Table('Scores on the sets that we have', columns, cells)


def _scored_name(row: dict[str, Any], *more: str) -> str:
    """Of another program's results, and how they were counted where that is not our way."""
    return f'{row["name"]} ({", ".join(filter(None, ("scored here", *more, row["counting"])))})'


def _scored_test(row: dict[str, Any]) -> list[str]:
    """Another program's line in Table 1, beside the paper's numbers and ours."""
    cells = dict.fromkeys(claims_.TESTS, '-')
    partial = '' if row['count'] == WHOLE else f' ({row["count"]} of {WHOLE})'
    cells[rows_.IS_TEST[row['dataset']]] = _pair(row['rgb']) + partial
    return [_scored_name(row, 'rgb'), *cells.values()]


def in_pairs(rows: rows_.Rows) -> page.Table | None:
    """Two methods compared by image, as `score --against` found them."""
    cells = []
    for row in (row for row in rows if row['kind'] == 'score' and 'against' in row):
        found = row['against']
        for protocol in PROTOCOLS:
            gap, ends, better = (found[key][protocol]['psnr'] for key in ('difference', 'interval', 'better'))
            if gap is not None:
                interval_ = f'{ends[0]:+.2f} .. {ends[1]:+.2f}' if ends else '-'
                cells.append([_scored_name(row), found['method']['label'], row['dataset'], str(row['count']), protocol,
                              f'{gap:+.2f}', interval_, f'{100 * better:.0f} %'])  # fmt: skip
    columns = ['first', 'second', 'set', 'images', 'protocol', 'first - second, dB', '95 %', 'first is better on']
    return page.Table('Two methods, in pairs by image', columns, cells) if cells else None


def _pair(tree: dict[str, float | None]) -> str:
    """'PSNR / SSIM', each '-' where nothing has one."""
    psnr, ssim = tree['psnr'], tree['ssim']
    return f'{"-" if psnr is None else f"{psnr:.2f}"} / {"-" if ssim is None else f"{ssim:.3f}"}'


def in_out(tree: dict[str, Any]) -> list[str]:
    pairs = [(tree['input'][protocol], tree[protocol]) for protocol in PROTOCOLS]
    return [_pair(each) for pair in pairs for each in pair]


def table_3(rows: rows_.Rows, variant: str, paper: dict[str, Any]) -> page.Table:
    cells = []
    heads = [*rows[0]['sets'][next(iter(rows[0]['sets']))]['scales'], 'all']
    for name in rows[0]['sets']:
        test, shown = rows_.test_of(name, rows[0])[0], rows_.label(name, rows[0])
        cells += [[shown, f'ours, {p}', *(scores(rows, name, p, head) for head in heads)] for p in PROTOCOLS]
        theirs = [paper[head][test] if head in paper else None for head in heads]
        cells.append([shown, f'paper, {test}', *(f'{each[0]:.2f} / {each[1]:.3f}' if each else '-' for each in theirs)])
    suffix = '' if variant == studies.PAPER else f', with {variant}'
    return page.Table(f'Table 3: each scale decoded alone{suffix}', ['set (images)', 'whose', *heads], cells)


def times_without_sharing(rows: rows_.Rows, paper: dict[str, float]) -> page.Table | None:
    """How much slower the network is without sharing, by both readings, and which of them has the paper's ratio."""
    cells = []
    with_, without = paper['QSNet'], paper['QSNet without sharing']
    least, most = (without - 0.0005) / (with_ + 0.0005), (without + 0.0005) / (with_ - 0.0005)  # of rounded times
    for row in (row for row in rows if row['kind'] == 'bench'):
        models = row['provenance']['config']['bench']['models']
        times = {(case['model'], case['size'], case['batch'], case['precision']): case['peers']
                 for case in row['cases'] if not case['training']}  # fmt: skip
        base = next((name for name, settings in models.items() if not settings), None)
        unlike = ', '.join(f'{name}={value!r}' for name, (value, _) in rows_.unlike_default(row).items())
        for (name, *case), peers in times.items():
            each, beside = peers.get('JAX', {}), peers.get(f'JAX, {base}', {})  # in the same rounds, if it was so timed
            reading, reference = _reading(models[name]), times.get((base, *case), {}).get('JAX', {})
            if reading and 'seconds' in each and (beside or 'seconds' in reference):
                apart = reference.get('seconds', {}).get('median')
                ratio = 1 / beside['ratio'] if beside else each['seconds']['median'] / apart
                verdict = "has the paper's ratio" if least <= ratio <= most else 'has not'
                where = f'{row["file"].removesuffix(".json")}, {case[0]}², batch {case[1]}, {case[2]}'
                where += f', over {unlike}' if unlike else ''
                cells.append([reading, where, f'{ratio:.2f}', verdict])
    title = (
        f"Time without sharing over that with; the paper's {without / with_:.1f}, {least:.2f} to {most:.2f} unrounded"
    )
    return page.Table(title, ['reading', 'where', 'ratio', 'verdict'], cells) if cells else None


def _reading(settings: dict[str, Any]) -> str:
    """Which reading of "without sharing" these overrides of the model are, '' for none."""
    if settings.get('share_groups', True) or settings.get('share_scales') not in (False, 'none'):
        return ''
    return 'decoders without groups' if settings.get('decoder_groups') == 1 else 'no shuffles'


def _precision(record: dict[str, Any]) -> str:
    """That of the network, which sets its matrix products too; '-' where a record is of several."""
    config = record['config']
    return '-' if 'bench' in config else (config.get('model') or {}).get('dtype') or '-'


def _commit(name: str) -> str:
    """Ten digits of a commit with what follows it; the version of an installed package as it is."""
    return re.sub('^([0-9a-f]{10})[0-9a-f]{30}', r'\1', name)


def provenance(rows: rows_.Rows) -> page.Table:
    """Where each number comes from."""
    cells = []
    for row in rows:
        record = row['provenance']
        training = record.get('training') or {}
        seconds = training.get('training_seconds')
        cells.append([row['file'], row['kind'], str(record['seed']), _commit(record['commit']),
                      f'{record["device"]["kind"]} x {record["device"]["count"]}', _precision(record),
                      f'{seconds / 60:.1f}' if seconds else '', record['date'][:10], record['command']])  # fmt: skip
    columns = ['row', 'kind', 'seed', 'commit', 'device', 'precision', 'training, min', 'date', 'command']
    return page.Table('How each number came about', columns, cells)
