"""The reproduction report: rows of results to tables beside the paper's, verdicts, figures and one page.

Numbers come from rows alone. Everything is one list of headings, tables and figures that `page` renders twice.
"""

import collections
import functools
import json
import pathlib
import re
from typing import Any

import matplotlib.figure
import numpy as np

from qsnet_jax import UserError, derain, storage
from qsnet_jax.configs import atrous_rates, encoder_stride, loss_weights, losses, scales, sharing, studies
from qsnet_jax.data import images, rain, sets, sources
from qsnet_jax.evidence import claims, evaluate, page
from qsnet_jax.weights import files


def report(results: pathlib.Path) -> None:
    """Reads RESULTS/{rows,sparsity,bench}; writes RESULTS/README.md, figures and report.html.

    Raises UserError for rows without provenance and for runs of one study that differ in more than their variants.
    """
    rows = claims.load(results)
    places = [folder / 'paper.json' for folder in (results, pathlib.Path(__file__).parents[2] / 'results')]
    place = next((each for each in places if each.exists()), None)
    if place is None:
        raise UserError(f"The paper's figures are missing: {places[0]}, which comes with the repository.")
    paper = json.loads(place.read_text())
    items = sections(rows, paper, results)
    storage.write_bytes(results / 'README.md', page.markdown(items, results).encode(errors='backslashreplace'))
    storage.write_bytes(results / 'report.html', page.html(items, results).encode(errors='backslashreplace'))
    print(f'{len(rows)} rows; {results / "README.md"} and {results / "report.html"}')


def mean_and_spread(values: list[float], digits: int = 2) -> str:
    """Mean over seeds and, of several, their standard deviation."""
    spread = f' ± {np.std(values, ddof=1):.{digits}f}' if len(values) > 1 else ''
    return f'{np.mean(values):.{digits}f}{spread}'


def scores(rows: claims.Rows, name: str, protocol: str, head: str | None = None) -> str:
    """'PSNR ± spread / SSIM' over seeds of the output, or of one scale's own decoder."""
    trees = [row['sets'][name] if head in (None, 'all') else row['sets'][name]['scales'][head] for row in rows]
    psnr, ssim = ([tree[protocol][measure] for tree in trees] for measure in ('psnr', 'ssim'))
    if None in psnr or None in ssim:
        return '-'
    return f'{mean_and_spread(psnr)} / {np.mean(ssim):.3f}'


# Columns of the paper's tables: variants and their titles.
_TABLE_4 = {
    'V1': 'V1: content',
    'V2': 'V2: + quasi-sparsity',
    'V3': 'V3: + detail',
    studies.PAPER: 'V4: + auxiliary',
}
_TABLE_5 = {'not_shared': 'without sharing', studies.PAPER: 'with'}


def ladder(
    found: dict[str, claims.Rows], titles: dict[str, str], paper: dict[str, Any], heading: str
) -> page.Table | None:
    """A table of the paper's: its columns as there; ours, its numbers, and the step to each column from the last.

    titles: of each column's variant. None where one of them has no row.
    """
    order = list(titles)
    if not titles.keys() <= found.keys():
        return None
    rows, first = [], found[order[0]][0]
    for name in first['sets']:
        test, is_same = claims.test_of(name, first)
        shown = claims.label(name, first)
        rows += [
            [shown, f'ours, {protocol}', *(scores(found[each], name, protocol) for each in order)]
            for protocol in evaluate.PROTOCOLS
        ]
        steps = [claims.effect(found[b], found[a], name) for a, b in zip(order, order[1:], strict=False)]
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


def against_paper_settings(found: dict[str, claims.Rows], names: Any, heading: str) -> page.Table | None:
    """A study that the paper does not have: each variant's scores and its gain over the paper's setting."""
    present = [name for name in names if name in found]
    if not present or studies.PAPER not in found:
        return None
    reference = found[studies.PAPER]
    sets = list(reference[0]['sets'])
    columns = ['variant', 'seeds in common']
    for name in sets:
        columns += [claims.label(name, reference[0]), "better than the paper's by"]
    rows = []
    for variant in [studies.PAPER, *present]:
        common = {row['seed'] for row in found[variant]} & {row['seed'] for row in reference}
        cells = [variant, str(len(common))]
        paired = [row for row in found[variant] if row['seed'] in common]
        for name in sets:
            gain = '' if variant == studies.PAPER else str(claims.effect(found[variant], reference, name))
            cells += [scores(paired, name, 'rgb') if paired else '-', gain]
        rows.append(cells)
    return page.Table(heading, columns, rows)


def sections(rows: claims.Rows, paper: dict[str, Any], results: pathlib.Path) -> list[Any]:
    """Everything that the report says, in order, for `page` to render."""
    verdicts = claims.claims(rows, paper)
    kinds = collections.Counter(re.split('[:,]', line[-1])[0] for line in verdicts.rows)
    counted = ', '.join(f'{count} {kind}' for kind, count in kinds.most_common())
    items: list[Any] = [page.Heading('Reproduction report'), page.Text(_INTRODUCTION)]
    items += [page.Text(f'**{len(verdicts.rows)} verdicts:** {counted}.'), verdicts]
    items += _released(rows, results) + _pictures(results)
    items += [page.Heading('Table 1: scores'), _table_1(rows, paper), _evaluations(rows)]
    for size in ('full', 'small'):
        found = claims.by_variant(rows, size)
        if found:
            items += _studies(found, size, paper, results)
    failed = [row for row in rows if 'failed' in row]
    if failed:
        cells = [[row['variant'], str(row['seed']), row['size'], row['failed']] for row in failed]
        items.append(page.Table('Runs that failed', ['variant', 'seed', 'size', 'why'], cells))
    items += _speed(rows, paper, results) + _sparsity(rows, results) + _beside_torch(rows, results)
    items += [page.Heading('Rows'), _provenance(rows)]
    return [item for item in items if item is not None]


_INTRODUCTION = (
    'Generated by `python -m qsnet_jax.main --mode=report` from the rows in `rows/`, `sparsity/` and `bench/`; the '
    'figures of the paper are in `paper.json`. `full` is the network and recipe of the paper, `small` the network of '
    'the quickstart, 20 k parameters, trained for minutes: **what a small network says of a claim is evidence, no '
    "reproduction of the number**. Sets that are not the paper's tests stand beside one of them: drawn heavy rain "
    'beside Test-II, wide streaks beside Test-III, all others beside Test-I. Scores are PSNR in dB / SSIM; ± is the '
    'standard deviation over seeds, brackets are 95 % intervals of differences, paired by seed and image. A claim '
    'counts as reproduced where that interval over seeds (Student, so wide with three) lies above 0, as contradicted '
    'where it lies below; nothing is corrected for the number of claims.'
)


def _table_1(rows: claims.Rows, paper: dict[str, Any]) -> page.Table:
    cells = [[f'{name} (paper)', *(f'{each[test][0]:.2f} / {each[test][1]:.3f}' for test in claims.TESTS)]
             for name, each in paper['table_1'].items()]  # fmt: skip
    for size in ('full', 'small'):
        found = claims.by_variant(rows, size).get(studies.PAPER, [])
        ours = {test: '-' for test in claims.TESTS}
        for name in found[0]['sets'] if found else ():
            test, is_same = claims.test_of(name, found[0])
            if is_same:
                ours[test] = scores(found, name, 'rgb')
        cells.append([f'ours, {size} (rgb)', *ours.values()])
    return page.Table("The paper's tests", ['method', *claims.TESTS], cells)


def _evaluations(rows: claims.Rows) -> page.Table:
    """What rows of single trainings say, and the paper's setting in the studies."""
    cells = []
    for row in (row for row in rows if row['kind'] == 'evaluation'):
        cells.append([row['file'].removesuffix('.json'), row['dataset'], str(row['count']), *_in_out(row)])
    for size in ('full', 'small'):
        for row in claims.by_variant(rows, size).get(studies.PAPER, []):
            cells += [[row['file'].removesuffix('.json'), claims.label(name, row), str(each['count']), *_in_out(each)]
                      for name, each in row['sets'].items()]  # fmt: skip
    columns = ['row', 'set', 'images', 'input, rgb', 'ours, rgb', 'input, y', 'ours, y']
    return page.Table('Ours on what we have', columns, cells)


def _in_out(tree: dict[str, Any]) -> list[str]:
    pairs = [(tree['input'][protocol], tree[protocol]) for protocol in evaluate.PROTOCOLS]
    return [f'{each["psnr"]:.2f} / {each["ssim"]:.3f}' for pair in pairs for each in pair]


def _studies(found: dict[str, claims.Rows], size: str, paper: dict[str, Any], results: pathlib.Path) -> list[Any]:
    """Tables 3 to 5 and the studies of one size."""
    items: list[Any] = [page.Heading(f'Studies, {size} size')]
    items.append(ladder(found, _TABLE_4, paper['table_4'], 'Table 4: the losses'))
    items.append(ladder(found, _TABLE_5, paper['table_5'], 'Table 5: information sharing'))
    for variant in (studies.PAPER, *scales.VARIANTS):
        if variant in found:
            items.append(_table_3(found[variant], variant, paper['table_3']))
    for heading, names in (
        ('Which sharing', sharing.VARIANTS),
        ('Atrous rates', atrous_rates.VARIANTS),
        ('Weights of the loss and range of the pixels', loss_weights.VARIANTS),
        ('Stride of the encoder, and norm', encoder_stride.VARIANTS),
        ('Weight of the auxiliary loss, for Table 3', scales.VARIANTS),
    ):
        items.append(against_paper_settings(found, names, heading))
    path = results / 'figures' / f'curves-{size}.png'
    _save(draw_curves(found), path)
    items.append(page.Figure(path, f'Validation while training, {size} size: the mean over seeds, and each seed'))
    return items


def _table_3(rows: claims.Rows, variant: str, paper: dict[str, Any]) -> page.Table:
    cells = []
    heads = [*rows[0]['sets'][next(iter(rows[0]['sets']))]['scales'], 'all']
    for name in rows[0]['sets']:
        test, shown = claims.test_of(name, rows[0])[0], claims.label(name, rows[0])
        cells += [[shown, f'ours, {p}', *(scores(rows, name, p, head) for head in heads)] for p in evaluate.PROTOCOLS]
        cells.append([shown, f'paper, {test}', *(f'{paper[h][test][0]:.2f} / {paper[h][test][1]:.3f}' for h in heads)])
    suffix = '' if variant == studies.PAPER else f', with {variant}'
    return page.Table(f'Table 3: each scale decoded alone{suffix}', ['set (images)', 'whose', *heads], cells)


def _released(rows: claims.Rows, results: pathlib.Path) -> list[Any]:
    """The trainings of configs/release.py; of one whose weights are in the package the scores are those in its file."""
    found = [row for row in rows if row['kind'] == 'study' and row['size'].startswith('release') and row['sets']]
    if not found:
        return []
    paths = sorted(files.INCLUDED.glob('*.safetensors'))
    included = {path.stem: files.load_record(path).get('scores', {}) for path in paths}
    cells, trainings = [], []
    for row in found:
        own = {name: each['y'] for name, each in row['sets'].items()}
        names = [name for name, scores in included.items() if {key: scores[key]['y'] for key in scores} == own]
        for name, each in row['sets'].items():
            ends = [f'{end:.2f}' for end in each['interval']['y']['psnr'] or ()]
            cells.append([row['variant'], claims.label(name, row), *_in_out(each), ' .. '.join(ends) or '-'])
        record, config = row['provenance'], row['provenance']['config']
        network = f'width {config["model"]["channels"]}, {config["model"]["units"]} units'
        size = f'{config["data"]["batch"]} x {config["data"]["crop"]}²'
        minutes = f'{record["training"]["training_seconds"] / 60:.0f}'
        device = record['training'].get('device', record['device'])  # where it was not the one that scored
        device = f'{device["kind"]} x {device["count"]}'
        trainings.append(
            [row['variant'], ', '.join(names) or '-', network, str(config['train']['steps']), size, minutes, device]
        )
    path = results / 'figures' / 'release.png'
    _save(draw_validations(found), path)
    columns = ['weights', 'set (images)', 'input, rgb', 'ours, rgb', 'input, y', 'ours, y', '95 % of PSNR y']
    return [
        page.Heading('Released weights'),
        page.Table('Scores', columns, cells),
        page.Table(
            'Training', ['weights', 'in the package as', 'network', 'steps', 'patches', 'minutes', 'device'], trainings
        ),
        page.Figure(path, 'PSNR of the first validation images while training, against steps and minutes'),
    ]


def draw_validations(rows: claims.Rows) -> matplotlib.figure.Figure:
    """One panel per training: PSNR of the validation images over the steps, by set, with minutes above."""
    width, height = min(len(rows), 2), -(-len(rows) // 2)
    figure = matplotlib.figure.Figure(figsize=(7 * width, 4.5 * height), layout='constrained')
    for number, row in enumerate(rows, start=1):
        axis = figure.add_subplot(height, width, number)
        lines = _validations(row)
        steps = [line['step'] for line in lines]
        watched = [key for key in lines[0] if key.startswith('validation_psnr/')] or ['validation_psnr']
        for key in watched:
            axis.plot(steps, [line[key] for line in lines], 'o-', markersize=3, label=key.partition('/')[2] or key)
        axis.set(xlabel='step', ylabel='validation PSNR rgb, dB', title=row['variant'])
        rate = lines[-1]['seconds'] / 60 / steps[-1]
        scale, back = functools.partial(np.multiply, rate), functools.partial(np.multiply, 1 / rate)
        above = axis.secondary_xaxis('top', functions=(scale, back))
        above.set_xlabel('minutes')
        axis.legend(fontsize=8, ncols=3, loc='upper center', bbox_to_anchor=(0.5, -0.12))
        axis.grid(alpha=0.3)
    return figure


def _speed(rows: claims.Rows, paper: dict[str, Any], results: pathlib.Path) -> list[Any]:
    """Table 2, and what `bench` found."""
    cells = [[f'{name} (paper)', 'GTX 1080 Ti', f'{seconds:.3f} s', ''] for name, seconds in paper['table_2'].items()]
    figures: list[page.Figure] = []
    for row in (row for row in rows if row['kind'] == 'bench'):
        for case in row['cases']:
            if case['size'] == 512 and case['batch'] == 1 and not case['training']:
                for peer, each in case['peers'].items():
                    if 'seconds' in each:
                        seconds = each['seconds']['median']
                        method = f'{case["model"]}, {peer}, {case["precision"]}'
                        device = row['file'].removesuffix('.json')
                        cells.append([method, device, f'{seconds:.3f} s', f'{each["ratio"]:.2f}'])
        path = (results / 'bench' / row['file']).with_suffix('.png')
        figures += _figures(path, f'Time against pixels and batch, {path.stem}')
    table = page.Table('Table 2: time of one 512x512 image', ['method', 'device', 'time', 'time / ours'], cells)
    return [page.Heading('Speed'), table, *figures]


def _sparsity(rows: claims.Rows, results: pathlib.Path) -> list[Any]:
    """Sec. 3.1."""
    found = [row for row in rows if row['kind'] == 'sparsity']
    if not found:
        return []
    keys = list(found[0]['share'])
    cells = []
    for row in found:
        for rule, text in (
            ('mean', 'below its chord on average'),
            ('every', 'below it in every bin'),
            ('beyond', 'farther below than 5 % of Laplacian samples'),
        ):
            shares = [row['share'][key][rule] for key in keys]
            shown = [claims.percent(share, digits=1) for share in shares]
            cells.append([f'{row["name"]} ({row["count"]})', text, *shown])
    items: list[Any] = [page.Heading('Sparsity of rainy images, Sec. 3.1')]
    items.append(page.Table('Share of images whose log-histogram is ...', ['images', 'rule', *keys], cells))
    least = [
        [row['name'], each['name'], ', '.join(each['filters']), f'{each["excess"]:+.2f}', f'{each["contrast"]:.3f}']
        for row in found
        for each in row['not_sparse'][:10]
    ]
    columns = ['images', 'name', 'by', 'excess, d_x', 'contrast']
    items.append(page.Table('Images that are not sparse by the mean (the ten least of each set)', columns, least))
    for row in found:
        caption = f'Log-histograms of {row["name"]}, and what contrast has to do with them'
        items += _figures(results / 'figures' / f'sparsity-{row["name"]}.png', caption)
    return items


def _beside_torch(rows: claims.Rows, results: pathlib.Path) -> list[Any]:
    """Trainings beside the PyTorch twin."""
    found = [row for row in rows if row['kind'] == 'compare']
    if not found:
        return []
    cells = []
    for row in found:
        psnr = row['validation_psnr']
        apart, first = abs(psnr['jax'] - psnr['torch']), row['loss_difference']['first']
        cells.append([row['file'].removesuffix('.json'), str(row['steps']), f'{psnr["jax"]:.2f}',
                      f'{psnr["torch"]:.2f}', f'{apart:.2f}', f'{first:.0e}'])  # fmt: skip
    columns = ['row', 'steps', 'JAX, dB', 'PyTorch, dB', 'apart, dB', 'first losses differ by']
    items: list[Any] = [page.Heading('Beside PyTorch'), page.Table('The same training in both', columns, cells)]
    for row in found:
        path = (results / 'figures' / row['file']).with_suffix('.png')
        items += _figures(path, f'{path.stem}: losses, PSNR, differences, times')
    return items


def _figures(path: pathlib.Path, caption: str) -> list[page.Figure]:
    """A figure that was written with its row, where it still lies."""
    return [page.Figure(path, caption)] if path.exists() else []


def _pictures(results: pathlib.Path) -> list[Any]:
    """What the default weights do to drawn rain on photos that come with the dependencies: no numbers, pictures."""
    derainer = derain.load()
    items: list[Any] = [page.Heading('Pictures'), page.Text(
        'The default weights on rain drawn on photos that no training saw: ' +
        '; '.join(sets.HELD_OUT_PHOTOS.values()) + '. Drag the line; click to enlarge.')]  # fmt: skip
    pairs, sheet = [], None
    for number, style in enumerate(rain.STYLES):
        source = sets.open_source(f'drawn_{style}', None, 'eval', sources.Cache(0))
        rainy, _ = source.load(number)
        outputs = derainer.restore(rainy, scales=True)
        pairs.append((rainy, outputs[0], f'{style} rain, {source.names[number]}: rainy and restored'))
        sheet = _scales_sheet(rainy, outputs) if sheet is None else sheet
    path = results / 'figures' / 'scales.jpg'
    storage.write_bytes(path, page.jpeg(np.asarray(sheet)))
    caption = 'Above: rainy, restored, and what C_1 to C_5 alone decode; below: four times the rain that each removed'
    return [*items, page.Sliders(pairs), page.Figure(path, caption)]


def _scales_sheet(rainy: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Two rows of pictures: restored ones, and four times the rain that each removed."""
    shown = [rainy, *outputs]
    removed = [
        images.to_uint8(4.0 * np.clip(images.to_float(rainy) - images.to_float(each), 0.0, 0.25)) for each in shown
    ]
    return np.concatenate([np.concatenate(row, axis=1) for row in (shown, removed)])[::2, ::2]


def _provenance(rows: claims.Rows) -> page.Table:
    """Where each number comes from."""
    cells = []
    for row in rows:
        record = row['provenance']
        training = record.get('training') or {}
        minutes = training.get('training_seconds')
        cells.append([row['file'], row['kind'], str(record['seed']), record['commit'][:10] + record['commit'][40:],
                      f'{record["device"]["kind"]} x {record["device"]["count"]}', record['precision']['matmul'],
                      f'{minutes / 60:.1f}' if minutes else '', record['date'][:10], record['command']])  # fmt: skip
    columns = ['row', 'kind', 'seed', 'commit', 'device', 'matmul', 'training, min', 'date', 'command']
    return page.Table('How each number came about', columns, cells)


def draw_curves(found: dict[str, claims.Rows]) -> matplotlib.figure.Figure:
    """Validation PSNR over the steps, one panel per study."""
    panels = {'losses': losses, 'sharing': sharing, 'atrous rates': atrous_rates, 'weights': loss_weights,
              'stride, norm': encoder_stride}  # fmt: skip
    chosen = {title: [n for n in (studies.PAPER, *module.VARIANTS) if n in found] for title, module in panels.items()}
    chosen = {title: names for title, names in chosen.items() if len(names) > 1} or {'all': list(found)}
    figure = matplotlib.figure.Figure(figsize=(4.5 * len(chosen), 4), layout='constrained')
    for axis, (title, names) in zip(figure.subplots(1, len(chosen), squeeze=False)[0], chosen.items(), strict=True):
        for number, name in enumerate(names):
            curves = [_validation(row) for row in found[name]]
            colour = f'C{number % 10}' if number < 10 else 'k'
            for steps, psnr in curves:
                axis.plot(steps, psnr, color=colour, linewidth=0.5, alpha=0.5)
            shortest = min(len(psnr) for _, psnr in curves)
            mean = np.mean([psnr[:shortest] for _, psnr in curves], axis=0)
            axis.plot(curves[0][0][:shortest], mean, 'o-', color=colour, markersize=3, label=name)
        axis.set(xlabel='step', ylabel='validation PSNR, dB', title=title)
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    return figure


def _validation(row: dict[str, Any]) -> tuple[list[int], list[float]]:
    lines = _validations(row)
    return [line['step'] for line in lines], [line['validation_psnr'] for line in lines]


def _validations(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The validations among the lines of a row's curve."""
    return [line for line in row['curve'] if 'validation_psnr' in line]


def _save(figure: matplotlib.figure.Figure, path: pathlib.Path) -> None:
    with storage.replacing(path) as temporary:
        figure.savefig(temporary, format='png', dpi=110)
