"""Timings as a page: tables in Markdown, and a plot of time against pixels and batch."""

from typing import Any

import matplotlib.figure
import numpy as np

from qsnet_jax.evidence import styles
from qsnet_jax.peers.contenders import OURS


def title(case: dict[str, Any]) -> str:
    what = 'training' if case['training'] else 'inference'
    return f'{case["model"]}, {what}, {case["batch"]} x {case["size"]} x {case["size"]}, {case["precision"]}'


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    where = report['provenance']
    lines = [
        f'# {where["device"]["kind"]}: speed and memory',
        '',
        f'jax {where["versions"]["jax"]}, commit {where["commit"][:12]}, {where["date"][:10]}; `{where["command"]}`. '
        f'Medians (lowest to highest) of {where["config"]["bench"]["rounds"]} rounds in which everybody took a turn; '
        'ratio: time over ours, median of the rounds. MiB: of JAX, what the program reserves; of others, by how much '
        'the process (or their share of the card) grows in a call, empty where they keep their memory between calls.',
        '',
    ]
    for precision, found in report['ceilings'].items():
        lines.append(
            f'Ceilings in {precision}: matrix product {found["tflops"]:.3g} TFLOP/s, '
            f'copy {found["gigabytes_per_second"]:.3g} GB/s.'
        )
    for case in report['cases']:
        ceiling = report['ceilings'][case['precision']]['tflops']
        lines += [
            '',
            f'## {title(case)} ({case["gmac"]:.1f} GMAC forward)',
            '',
            '| | ms | ratio | images/s | Mpix/s | of product | MiB | start, s |',
            '|---|---|---|---|---|---|---|---|',
        ]
        for name, peer in case['peers'].items():
            low, middle, high = (1e3 * peer['seconds'][key] for key in ('lowest', 'median', 'highest'))
            memory = '' if peer['memory_mib'] is None else f'{peer["memory_mib"]:.0f}'
            ratio = '' if peer['ratio'] is None else f'{peer["ratio"]:.2f}'
            lines.append(
                f'| {name} | {middle:.4g} ({low:.4g} to {high:.4g}) | {ratio} '
                f'| {peer["images_per_second"]:.3g} | {peer["megapixels_per_second"]:.3g} '
                f'| {peer["tflops"] / ceiling:.0%} | {memory} | {peer["start_seconds"]} |'
            )
        lines += [f'| {name} | could not run: {reason} | | | | | | |' for name, reason in case['absent'].items()]
        parts = ', '.join(f'{name} {1e3 * seconds:.3g}' for name, seconds in case['parts'].items())
        lines += ['', f'Our time by part, ms: {parts}.'] if parts else []
    return '\n'.join(lines) + '\n'


def draw(report: dict[str, Any]) -> matplotlib.figure.Figure:
    """A row for each precision: the first network's time against pixels and batch, and everybody's ratios by network.

    A panel along which nothing varies is left out.
    """
    cases = report['cases']
    names = list(dict.fromkeys(name for case in cases for name in case['peers']))
    precisions = list(dict.fromkeys(case['precision'] for case in cases))
    rows = [_panels([case for case in cases if case['precision'] == precision]) for precision in precisions]
    columns = max(map(len, rows))
    figure = matplotlib.figure.Figure(figsize=(5.5 * columns, 4 * len(precisions)), layout='constrained')
    axes = figure.subplots(len(precisions), columns, squeeze=False)
    for precision, panels, row in zip(precisions, rows, axes, strict=True):
        for (varied, shown), axis in zip(panels, row, strict=False):
            if varied == 'model':
                _draw_ratios(axis, shown, names)
            else:
                _draw_times(axis, varied, shown, names)
            axis.set_title(f'{precision}, {axis.get_title()}')
        for axis in row[len(panels) :]:
            axis.set_axis_off()
    axes[0, 0].legend(fontsize='small')
    return figure


def _panels(cases: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """What varies along each panel ('size', 'batch' or 'model'), and its cases."""
    inference = [case for case in cases if not case['training']]
    first = [case for case in inference if case['model'] == inference[0]['model']]
    panels = []
    for varied, fixed in (('size', 'batch'), ('batch', 'size')):
        least = min((case[fixed] for case in first), default=0)
        panels.append((varied, [case for case in first if case[fixed] == least]))
    for is_training in (False, True):
        same = [case for case in cases if case['training'] == is_training]
        by_shape: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for case in same:
            by_shape.setdefault((case['batch'], case['size']), []).append(case)
        panels.append(('model', max(by_shape.values(), key=lambda each: (len(each), each[0]['gmac']), default=[])))
    return [each for each in panels if len(each[1]) > 1] or [each for each in panels if each[1]][:1]


def _draw_times(axis: Any, varied: str, cases: list[dict[str, Any]], names: list[str]) -> None:
    """Milliseconds with their spread, against megapixels or images in a batch."""
    amounts = {id(case): case['size'] ** 2 / 1e6 if varied == 'size' else case['batch'] for case in cases}
    for number, name in enumerate(names):
        with_peer = [case for case in cases if name in case['peers']]
        if not with_peer:
            continue
        spans = np.array([list(case['peers'][name]['seconds'].values()) for case in with_peer]) * 1e3
        spread = np.abs(spans[:, 1:] - spans[:, :1]).T
        amount = [amounts[id(case)] for case in with_peer]
        axis.errorbar(amount, spans[:, 0], spread, **styles.both(number), capsize=2, label=name)
    along = np.array(sorted(amounts.values()))
    least = min(cases, key=lambda case: amounts[id(case)])['peers'].get(OURS, {'seconds': {'median': np.nan}})
    what = 'pixels' if varied == 'size' else 'images'
    axis.plot(along, 1e3 * least['seconds']['median'] * along / along[0], ':', color='grey', label=f'linear in {what}')
    fixed = f'batch {cases[0]["batch"]}' if varied == 'size' else f'side {cases[0]["size"]}'
    label = 'megapixels' if varied == 'size' else 'images in a batch'
    axis.set(xlabel=label, ylabel='ms', xscale='log', yscale='log', title=f'{cases[0]["model"]}, {fixed}')


def _draw_ratios(axis: Any, cases: list[dict[str, Any]], names: list[str]) -> None:
    """Everybody's median of time over ours, by network."""
    for number, name in enumerate(names):
        there = [(place, case['peers'].get(name, {}).get('ratio')) for place, case in enumerate(cases)]
        there = [(place, ratio) for place, ratio in there if ratio is not None]
        if there:
            axis.plot(*zip(*there, strict=True), **styles.mark(number), linestyle='', label=name)
    axis.set_xticks(range(len(cases)), [case['model'] for case in cases])
    what = 'training' if cases[0]['training'] else 'inference'
    shape = f'{cases[0]["batch"]} x {cases[0]["size"]}$^2$'
    axis.set(ylabel='time over ours (above 1: slower)', ylim=(0, None), title=f'{what} of {shape}')
    axis.grid(axis='y', alpha=0.3)
