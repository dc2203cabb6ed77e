"""Training curves: validation PSNR over the steps, as figures and as the tables that hold the same numbers."""

import functools
import math
from collections.abc import Iterable
from typing import Any

import matplotlib.figure
import numpy as np

from qsnet_jax.configs import studies
from qsnet_jax.evidence import page, styles
from qsnet_jax.evidence import rows as rows_


def draw_validations(rows: rows_.Rows) -> matplotlib.figure.Figure:
    """One panel per training: PSNR of the validation images over the steps, by set, with minutes above."""
    width, height = min(len(rows), 2), -(-len(rows) // 2)
    figure = matplotlib.figure.Figure(figsize=(7 * width, 4.5 * height), layout='constrained')
    for number, row in enumerate(rows, start=1):
        axis = figure.add_subplot(height, width, number)
        lines = _validations(row)
        steps = [line['step'] for line in lines]
        watched = [key for key in lines[0] if key.startswith('validation_psnr/')] or ['validation_psnr']
        for place, key in enumerate(watched):
            label = key.partition('/')[2] or key
            axis.plot(steps, [line[key] for line in lines], **styles.both(place), markersize=4, label=label)
        axis.set(xlabel='step', ylabel='validation PSNR rgb, dB', title=rows_.released_name(row))
        rate = lines[-1]['seconds'] / 60 / steps[-1]
        scale, back = functools.partial(np.multiply, rate), functools.partial(np.multiply, 1 / rate)
        above = axis.secondary_xaxis('top', functions=(scale, back))
        above.set_xlabel('minutes')
        axis.legend(fontsize=8, loc='upper center', bbox_to_anchor=(0.5, -0.17))
        axis.grid(alpha=0.3)
    return figure


def draw_curves(found: dict[str, rows_.Rows], panels: dict[str, Iterable[str]]) -> matplotlib.figure.Figure:
    """Validation PSNR over the steps, one panel per study. panels: its variants beside the paper's own, by title."""
    chosen = {title: [name for name in (studies.PAPER, *names) if name in found] for title, names in panels.items()}
    chosen = {title: names for title, names in chosen.items() if len(names) > 1} or {'all': list(found)}
    figure = matplotlib.figure.Figure(figsize=(4.5 * len(chosen), 4), layout='constrained')
    for axis, (title, names) in zip(figure.subplots(1, len(chosen), squeeze=False)[0], chosen.items(), strict=True):
        for number, name in enumerate(names):
            curves = [_validation(row) for row in found[name]]
            for steps, psnr in curves:
                axis.plot(steps, psnr, **styles.line(number), linewidth=0.5, alpha=0.5)
            shortest = min(len(psnr) for _, psnr in curves)
            mean = np.mean([psnr[:shortest] for _, psnr in curves], axis=0)
            axis.plot(curves[0][0][:shortest], mean, **styles.both(number), markersize=4, label=name)
        axis.set(xlabel='step', ylabel='validation PSNR rgb, dB', title=title)
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    return figure


def table_of_validations(rows: rows_.Rows) -> page.Table:
    """What draw_validations draws."""
    cells = []
    for row in rows:
        for line in _validations(row):
            for key in [key for key in line if key.startswith('validation_psnr/')] or ['validation_psnr']:
                name = key.partition('/')[2] or 'all'
                cells.append(
                    [
                        rows_.released_name(row),
                        name,
                        str(line['step']),
                        f'{line["seconds"] / 60:.1f}',
                        f'{line[key]:.2f}' if math.isfinite(line[key]) else '-',
                    ]
                )
    return page.Table('Validation while training', ['weights', 'set', 'step', 'minutes', 'PSNR rgb, dB'], cells)


def table_of_curves(found: dict[str, rows_.Rows], size: str) -> page.Table:
    """What draw_curves draws: mean and standard deviation over seeds."""
    cells = []
    for name, rows in found.items():
        by_step: dict[int, list[float]] = {}
        for row in rows:
            for line in [line for line in _validations(row) if math.isfinite(line['validation_psnr'])]:
                by_step.setdefault(line['step'], []).append(line['validation_psnr'])
        for step, psnr in by_step.items():
            spread = f'{np.std(psnr, ddof=1):.2f}' if len(psnr) > 1 else '-'
            cells.append([name, str(step), str(len(psnr)), f'{np.mean(psnr):.2f}', spread])
    columns = ['variant', 'step', 'seeds', 'mean PSNR rgb, dB', 'standard deviation']
    return page.Table(f'Validation while training, {size} size', columns, cells)


def _validation(row: dict[str, Any]) -> tuple[list[int], list[float]]:
    lines = _validations(row)
    return [line['step'] for line in lines], [line['validation_psnr'] for line in lines]


def _validations(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The validations among the lines of a row's curve; NaN where no image had a finite PSNR."""
    lines = [line for line in row['curve'] if 'validation_psnr' in line]
    return [{key: math.nan if value is None else value for key, value in line.items()} for line in lines]
