"""Scores of restored images, per image and per data set, under both protocols (see `metrics`)."""

import collections
import concurrent.futures
import csv
import io
import math
import os
import pathlib
import time
from typing import Any

import numpy as np
import tqdm

from qsnet_jax import datasets, derain, images, metrics, provenance

PROTOCOLS = ('rgb', 'y')
MEASURES = ('psnr', 'ssim')
PICTURES = 4  # before/after pictures written per data set
_SMALLEST_FOR_SSIM = 11  # pixels, the size of its window


def evaluate(
    derainer: derain.Derainer, config: Any, folder: pathlib.Path, record: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Scores every set of `config.data.eval`; writes FOLDER/<set>/{results.json, per_image.csv, *.png}.

    Returns the contents of each results.json by name of the set. record: provenance of the weights and the run.
    """
    results = {}
    with provenance.writable(folder):
        for name, source in open_sets(config.data, datasets.Cache(0)).items():  # every image is read once
            results[name] = _evaluate_source(derainer, name, source, folder / name.replace('/', '-'), record)
    print(format_table(results))
    return results


def open_sets(data: Any, cache: datasets.Cache) -> dict[str, datasets.Source]:
    """The sets of `config.data.eval` by name, so that a wrong name shows before any work is done."""
    return {name: datasets.open_source(name, data, 'eval', cache) for name, _ in datasets.parse_names(data.eval)}


def validate(derainer: derain.Derainer, source: datasets.Source, count: int) -> float:
    """Mean PSNR, protocol rgb, of the first `count` images; what training watches."""
    chosen = range(min(count, len(source.names)))
    scores = []
    for index in chosen:
        rainy, clean = source.load(index)
        scores.append(metrics.psnr(derainer(rainy), clean, 'rgb'))
    return float(np.mean(scores))


def score(restored: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """{'rgb_psnr', 'rgb_ssim', 'y_psnr', 'y_ssim'} of one uint8 (H, W, 3) image; SSIM is NaN below 11 pixels."""
    has_ssim = min(clean.shape[:2]) >= _SMALLEST_FOR_SSIM
    return {
        f'{protocol}_{measure}': getattr(metrics, measure)(restored, clean, protocol)
        if measure == 'psnr' or has_ssim
        else math.nan
        for protocol in PROTOCOLS
        for measure in MEASURES
    }


def format_table(results: dict[str, dict[str, Any]]) -> str:
    """Input and output scores of all sets, as lines of text."""
    lines = [f'{"":24}{"images":>7}' + ''.join(f'{f"{m} {p}":>20}' for p in PROTOCOLS for m in MEASURES)]
    for name, result in results.items():
        cells = [
            ' -> '.join(_text(scores[protocol][measure], digits) for scores in (result['input'], result))
            for protocol in PROTOCOLS
            for measure, digits in zip(MEASURES, (2, 3), strict=True)
        ]
        lines.append(f'{name:24}{result["count"]:>7}' + ''.join(f'{cell:>20}' for cell in cells))
    return '\n'.join(lines)


def _text(value: float | None, digits: int) -> str:
    """A score to print, '-' where there is none."""
    return '-' if value is None else f'{value:.{digits}f}'


def _evaluate_source(
    derainer: derain.Derainer, name: str, source: datasets.Source, folder: pathlib.Path, record: dict[str, Any]
) -> dict[str, Any]:
    """Restores and scores every image of one set once; scoring runs beside the network."""
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    pending: collections.deque = collections.deque()
    rows: list[dict[str, Any]] = []
    timed: set[tuple[int, ...]] = set()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for index, image_name in enumerate(tqdm.tqdm(source.names, f'scoring {name}', unit='image')):
            rainy, clean = source.load(index)
            begun = time.perf_counter()
            outputs = derainer.restore(rainy, scales=True)
            canvas = tuple(-(-extent // derain.BUCKET) for extent in rainy.shape[:2])
            elapsed = round(time.perf_counter() - begun, 4)
            seconds = elapsed if canvas in timed else None  # the first of its size compiles
            timed.add(canvas)
            pending.append(pool.submit(_row, image_name, seconds, rainy, clean, outputs))
            if index < PICTURES:
                panel = np.concatenate((rainy, outputs[0], clean), axis=1)
                images.save(folder / f'{image_name}.png', panel)
            while len(pending) > 2 * (os.cpu_count() or 1):  # bounds the images held in memory
                rows.append(pending.popleft().result())
        rows += [job.result() for job in pending]
    _write_csv(folder / 'per_image.csv', rows)
    results = {
        'dataset': name,
        'count': len(rows),
        **_means(rows, 'output'),
        'input': _means(rows, 'input'),
        'scales': {f'C_{i}': _means(rows, f'C_{i}') for i in range(1, len(derainer.network.rates) + 2)},
        'provenance': {
            **record,
            'dataset': source.fingerprint(),
            'evaluation_seconds': round(time.perf_counter() - started, 2),
        },
    }
    provenance.write_json(folder / 'results.json', results)
    return results


def _row(name: str, seconds: float | None, rainy: np.ndarray, clean: np.ndarray, outputs: np.ndarray) -> dict[str, Any]:
    """All scores of one image: of the input, of the output, and of each scale alone."""
    row: dict[str, Any] = {
        'name': name,
        'height': clean.shape[0],
        'width': clean.shape[1],
        'seconds': seconds,
    }
    candidates = {'input': rainy, 'output': outputs[0], **{f'C_{i}': x for i, x in enumerate(outputs[1:], start=1)}}
    for label, image in candidates.items():
        row |= {f'{label}_{measure}': value for measure, value in score(image, clean).items()}
    return row


def _means(rows: list[dict[str, Any]], label: str) -> dict[str, dict[str, float | None]]:
    """Mean over images per protocol and measure.

    Images that have no finite score (infinite PSNR of identical images, no SSIM below 11 pixels) do not count in that
    mean; None where no image has one.
    """
    means: dict[str, dict[str, float | None]] = {}
    for protocol in PROTOCOLS:
        means[protocol] = {}
        for measure in MEASURES:
            scores = np.array([row[f'{label}_{protocol}_{measure}'] for row in rows])
            finite = scores[np.isfinite(scores)]
            means[protocol][measure] = float(finite.mean()) if finite.size else None
    return means


def _write_csv(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """One line per image."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    provenance.write_bytes(path, text.getvalue().encode())
