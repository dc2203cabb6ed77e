"""Sections of the report that hold figures beside their tables."""

import math
import pathlib
from typing import Any

import matplotlib.figure

from qsnet_jax import storage
from qsnet_jax.configs import scales, studies
from qsnet_jax.evidence import claims as claims_
from qsnet_jax.evidence import curves, page, sparsity, tables
from qsnet_jax.evidence import rows as rows_
from qsnet_jax.weights import files


def studies_items(found: dict[str, rows_.Rows], size: str, paper: dict[str, Any], results: pathlib.Path) -> list[Any]:
    """Tables 3 to 5 and the studies of one size."""
    items: list[Any] = [page.Heading(f'Studies, {size} size')]
    items += [page.Text(line) for line in _unlike_default(found)]
    items.append(tables.ladder(found, tables.TABLE_4, paper['table_4'], 'Table 4: the losses'))
    items.append(tables.ladder(found, tables.TABLE_5, paper['table_5'], 'Table 5: information sharing'))
    for variant in (studies.PAPER, *scales.VARIANTS):
        if variant in found:
            items.append(tables.table_3(found[variant], variant, paper['table_3']))
    others = [name for name in found if name not in rows_.PUBLISHED]
    for heading, names in {**rows_.STUDIES, 'Other variants': others}.items():
        items.append(tables.against_paper_settings(found, names, heading))
    path = results / 'figures' / f'curves-{size}.png'
    _save(curves.draw_curves(found, rows_.STUDIES), path)
    items.append(page.Figure(path, f'Validation while training, {size} size: the mean over seeds, and each seed'))
    items.append(curves.table_of_curves(found, size))
    return items


def _unlike_default(found: dict[str, rows_.Rows]) -> list[str]:
    """One line that says in what the network of `paper`, and of all that stands beside it, is not today's default."""
    first = (found.get(studies.PAPER) or next(iter(found.values())))[0]
    told = []
    for name, (value, default) in rows_.unlike_default(first).items():
        same = [f'`{variant}`' for variant, own in rows_.PUBLISHED.items() if own == {name: value}]
        today = f' (today the variant {", ".join(same)})' if same else ''
        told.append(f'`{name}` is {value!r}, not {default!r}{today}')
    whose = f'the network of `{rows_.variant_of(first)}` is not that of `configs/default.py`'
    return [f'At this size {whose}: {", ".join(told)}.'] if told else []


def released_items(rows: rows_.Rows, results: pathlib.Path) -> list[Any]:
    """The trainings of configs/release.py; of one whose weights are in the package the scores are those in its file."""
    found = [row for row in rows if rows_.is_released(row) and row['sets']]
    if not found:
        return []
    included, scenes, cells, trainings = included_names(rows), _scenes(found), [], []
    for row in found:
        names, shown = included[row['file']], rows_.released_name(row)
        for name, each in row['sets'].items():
            interval = tables.interval(each, scenes[each['fingerprint']['sha256']])
            cells.append([shown, rows_.label(name, row), *tables.in_out(each), interval])
        record, config = row['provenance'], row['provenance']['config']
        network = f'width {config["model"]["channels"]}, {config["model"]["units"]} units'
        size = f'{config["data"]["batch"]} x {config["data"]["crop"]}²'
        minutes = f'{record["training"]["training_seconds"] / 60:.0f}'
        device = record['training'].get('device', record['device'])  # where it was not the one that scored
        device = f'{device["kind"]} x {device["count"]}'
        trainings.append(
            [shown, ', '.join(names) or '-', network, str(config['train']['steps']), size, minutes, device]
        )
    path = results / 'figures' / 'release.png'
    _save(curves.draw_validations(found), path)
    columns = ['weights', 'set (images)', 'input, rgb', 'ours, rgb', 'input, y', 'ours, y', '95 % of PSNR y']
    return [
        page.Heading('Released weights'),
        page.Table('Scores', columns, cells),
        page.Table(
            'Training', ['weights', 'in the package as', 'network', 'steps', 'patches', 'minutes', 'device'], trainings
        ),
        page.Figure(path, 'PSNR of the first validation images while training, against steps and minutes'),
        curves.table_of_validations(found),
    ]


def _scenes(rows: rows_.Rows) -> dict[str, list[str]]:
    """The scenes of the images of each set, by its fingerprint: the fewest, for older rows tell them by name alone."""
    found: dict[str, list[str]] = {}
    for each in (each for row in rows for each in row['sets'].values()):
        sha256, scenes = each['fingerprint']['sha256'], each['images']['scene']
        found[sha256] = min(found.get(sha256, scenes), scenes, key=lambda names: len(set(names)))
    return found


def included_names(rows: rows_.Rows) -> dict[str, list[str]]:
    """Of each row of configs/release.py, by its file, the weights of the package that have its scores."""
    paths = [files.INCLUDED / f'{name}.safetensors' for name in files.names()]
    included = {path.stem: files.load_record(path).get('scores', {}) for path in paths}
    found = {}
    for row in rows:
        if rows_.is_released(row):
            own = {name: each['y'] for name, each in row['sets'].items()}
            names = [name for name, scores in included.items() if {key: scores[key]['y'] for key in scores} == own]
            found[row['file']] = names
    return found


def speed_items(rows: rows_.Rows, paper: dict[str, Any], results: pathlib.Path) -> list[Any]:
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
                        ratio = '-' if each['ratio'] is None else f'{each["ratio"]:.2f}'  # where ours could not run
                        cells.append([method, device, f'{seconds:.3f} s', ratio])
        path = (results / 'bench' / row['file']).with_suffix('.png')
        is_choice = row['provenance']['config']['bench'].get('shipped')
        what = 'Quality against time' if is_choice else 'Time against pixels and batch'
        figures += _figures(path, f'{what}, {path.stem}')
    table = page.Table('Table 2: time of one 512x512 image', ['method', 'device', 'time', 'time / ours'], cells)
    return [page.Heading('Speed'), table, tables.times_without_sharing(rows, paper['table_2']), *figures]


def sparsity_items(rows: rows_.Rows, results: pathlib.Path) -> list[Any]:
    """Sec. 3.1."""
    found = [row for row in rows if row['kind'] == 'sparsity']
    if not found:
        return []
    keys = list(found[0]['share'])
    cells = []
    for row in found:
        for rule, text in sparsity.RULES.items():
            shares = [row['share'][key][rule] for key in keys]
            shown = [claims_.percent(share, digits=1) for share in shares]
            flat = f', {len(row["without_gradient"])} without gradients left out' if row.get('without_gradient') else ''
            cells.append([f'{row["name"]} ({row["count"]}{flat})', text, *shown])
    items: list[Any] = [page.Heading('Sparsity of rainy images, Sec. 3.1')]
    items.append(page.Table('Share of images whose log-histogram is ...', ['images', 'rule', *keys], cells))
    least = [
        [row['name'], each['name'], ', '.join(each['filters']), _excess(row, each), f'{each["contrast"]:.3f}']
        for row in found
        for each in row['not_sparse'][:10]
    ]
    columns = ['images', 'name', 'by', 'excess (of filter)', 'contrast']
    title = 'Images that are not sparse by the mean (ten of each set, the largest excess first)'
    items.append(page.Table(title, columns, least))
    for row in found:
        caption = f'Log-histograms of {row["name"]}, and what contrast has to do with them'
        items += _figures(sparsity.places(results, row['name'])[1], caption)
    return items


def _excess(row: dict[str, Any], entry: dict[str, Any]) -> str:
    """How far an image is from sparse, and by which filter; '-' where an old row knows it of another one."""
    of = entry.get('excess_of', row['filter'])
    return f'{entry["excess"]:+.2f} ({of})' if of in entry['filters'] else '-'


def beside_torch_items(rows: rows_.Rows, results: pathlib.Path) -> list[Any]:
    """Trainings beside the PyTorch twin."""
    found = [row for row in rows if row['kind'] == 'compare']
    if not found:
        return []
    cells = []
    for row in found:
        ours, theirs = (math.nan if row['validation_psnr'][side] is None else row['validation_psnr'][side]
                        for side in ('jax', 'torch'))  # fmt: skip
        psnr = [f'{value:.2f}' if math.isfinite(value) else '-' for value in (ours, theirs, abs(ours - theirs))]
        first = f'{row["loss_difference"]["first"]:.0e}'
        cells.append([row['file'].removesuffix('.json'), str(row['steps']), *psnr, first])
    columns = ['row', 'steps', 'JAX, dB rgb', 'PyTorch, dB rgb', 'apart, dB', 'first losses differ by']
    items: list[Any] = [page.Heading('Beside PyTorch'), page.Table('The same training in both', columns, cells)]
    for row in found:
        path = (results / 'figures' / row['file']).with_suffix('.png')
        items += _figures(path, f'{path.stem}: losses, PSNR, differences, times')
    return items


def _figures(path: pathlib.Path, caption: str) -> list[page.Figure]:
    """A figure that was written with its row, where it still lies."""
    return [page.Figure(path, caption)] if path.exists() else []


def _save(figure: matplotlib.figure.Figure, path: pathlib.Path) -> None:
    with storage.replacing(path) as temporary:
        figure.savefig(temporary, format='png', dpi=110)
