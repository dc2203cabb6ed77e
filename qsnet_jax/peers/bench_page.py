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
        'the process (or their share of the card) grows in a call, without what they keep between calls.',
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
    """Time against pixels and against batch, of everybody, for the first network's inference."""
    cases = [case for case in report['cases'] if not case['training']]
    cases = [case for case in cases if case['model'] == cases[0]['model']]
    names = list(dict.fromkeys(name for case in cases for name in case['peers']))
    precisions = list(dict.fromkeys(case['precision'] for case in cases))
    figure = matplotlib.figure.Figure(figsize=(11, 4 * len(precisions)), layout='constrained')
    axes = figure.subplots(len(precisions), 2, squeeze=False)
    for row, precision in zip(axes, precisions, strict=True):
        of_precision = [case for case in cases if case['precision'] == precision]
        smallest = {key: min(case[key] for case in of_precision) for key in ('batch', 'size')}
        for axis, fixed, varied in ((row[0], 'batch', 'size'), (row[1], 'size', 'batch')):
            shown = [case for case in of_precision if case[fixed] == smallest[fixed]]
            for number, name in enumerate(names):
                with_peer = [case for case in shown if name in case['peers']]
                if not with_peer:
                    continue
                amount = [case['size'] ** 2 / 1e6 if varied == 'size' else case['batch'] for case in with_peer]
                spans = np.array([list(case['peers'][name]['seconds'].values()) for case in with_peer]) * 1e3
                spread = np.abs(spans[:, 1:] - spans[:, :1]).T
                axis.errorbar(amount, spans[:, 0], spread, **styles.both(number), capsize=2, label=name)
            axis.set(
                xlabel='megapixels' if varied == 'size' else 'images in a batch',
                ylabel='ms',
                xscale='log',
                yscale='log',
                title=f'{precision}, {fixed} {smallest[fixed]}',
            )
        pixels = np.array(sorted(case['size'] ** 2 / 1e6 for case in of_precision))
        first = of_precision[0]['peers'].get(OURS, {'seconds': {'median': np.nan}})
        row[0].plot(
            pixels, 1e3 * first['seconds']['median'] * pixels / pixels[0], ':', color='grey', label='linear in pixels'
        )
        row[0].legend(fontsize='small')
    return figure
