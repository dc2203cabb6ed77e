"""What somebody with photos can choose from: the trained networks in the package and the runtimes, by time and quality.

Times and memory are those of `bench` on this machine; quality is what each weights file says of itself, as scored when
it was trained.
"""

import json
from typing import Any

import matplotlib.figure

from qsnet_jax.evidence import styles
from qsnet_jax.weights import files

SET = 'layers/RainTrainL'  # the held-out pairs of RainTrainL/val that all of them were scored on
SEPARATOR = ', '


def models() -> dict[str, dict[str, Any]]:
    """Settings of the trained networks, by the names of the weights that have them."""
    names: dict[str, list[str]] = {}
    for name in files.names():
        settings = files.load_weights(name)[1]
        names.setdefault(json.dumps(settings, default=list, sort_keys=True), []).append(name)
    return {SEPARATOR.join(each): json.loads(settings) for settings, each in names.items()}


def quality(name: str) -> dict[str, float] | None:
    """PSNR and SSIM in the luma of RainTrainL/val, from the record of the weights; None where it has none."""
    scores = files.load_record(name).get('scores', {}).get(SET)
    return scores and {'psnr': scores['y']['psnr'], 'ssim': scores['y']['ssim'], 'input': scores['input']['y']['psnr']}


def rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """One for each of the weights and each runtime that ran, the fastest first."""
    found = []
    for case in (case for case in report['cases'] if not case['training']):
        for name in case['model'].split(SEPARATOR):
            for runtime, peer in case['peers'].items():
                facts = {'weights': name, 'runtime': runtime, 'size': case['size'], 'quality': quality(name)}
                found.append({**facts, 'ms': 1e3 * peer['seconds']['median'], 'mib': peer['memory_mib']})
    return sorted(found, key=lambda row: (row['weights'], row['size'], row['ms']))


def table(report: dict[str, Any]) -> str:
    """As Markdown."""
    lines = [
        '| weights | runtime | image | ms | MiB | RainTrainL/val, y: rainy | restored, dB | SSIM |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for row in rows(report):
        scores = row['quality']
        cells = f'{scores["input"]:.2f} | {scores["psnr"]:.2f} | {scores["ssim"]:.3f}' if scores else 'not scored | |'
        memory = '' if row['mib'] is None else f'{row["mib"]:.0f}'
        lines.append(
            f'| `{row["weights"]}` | {row["runtime"]} | {row["size"]} x {row["size"]} | {row["ms"]:.0f} | {memory} '
            f'| {cells} |'
        )
    return '\n'.join(lines) + '\n'


def draw(report: dict[str, Any]) -> matplotlib.figure.Figure:
    """Quality against time, a colour and a mark a runtime; the area says the memory, hollow marks nothing of it."""
    figure = matplotlib.figure.Figure(figsize=(7, 4.5), layout='constrained')
    axis = figure.subplots()
    known = [row for row in rows(report) if row['quality']]
    for number, runtime in enumerate(dict.fromkeys(row['runtime'] for row in known)):
        shown = [row for row in known if row['runtime'] == runtime]
        places = [row['ms'] for row in shown], [row['quality']['psnr'] for row in shown]
        areas = [40 if row['mib'] is None else 20 + row['mib'] / 4 for row in shown]
        colour, mark = styles.mark(number).values()
        faces = ['none' if row['mib'] is None else colour for row in shown]
        axis.scatter(*places, s=areas, alpha=0.7, label=runtime, marker=mark, facecolors=faces, edgecolors=colour)
    for name in dict.fromkeys(row['weights'] for row in known):
        slowest = max((row for row in known if row['weights'] == name), key=lambda row: row['ms'])
        place = slowest['ms'], slowest['quality']['psnr']
        axis.annotate(name, place, xytext=(6, 4), textcoords='offset points')
    axis.margins(0.15)  # room for the names
    axis.set(xscale='log', xlabel='ms an image', ylabel='RainTrainL/val, PSNR of luma, dB')
    axis.legend(fontsize='small', title='area: memory; hollow: not known', title_fontsize='small')
    return figure
