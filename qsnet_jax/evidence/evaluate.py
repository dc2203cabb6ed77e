"""Scores of restored images, per image and per data set, under both protocols (see `metrics`).

Beside each mean stands its 95 % interval by Student's t over scenes (see `statistics`): it says how far the mean
depends on their choice. Images whose clean pictures are the same to the last byte are of one scene (the 14 rainy
versions of a photo in Rain1400, however they are named), and so are those that their source puts together, as all of
one rain layer (`layers/A+B`).
"""

import collections
import concurrent.futures
import csv
import io
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from qsnet_jax import metrics, progress, spelling, storage
from qsnet_jax.data import checking, grouping, images, sets, sources
from qsnet_jax.evidence import statistics

PROTOCOLS = metrics.PROTOCOLS
MEASURES = metrics.MEASURES
PICTURES = 4  # before/after pictures written per data set
Key: TypeAlias = tuple[str, str]  # protocol, measure
KEYS: list[Key] = [(protocol, measure) for protocol in PROTOCOLS for measure in MEASURES]
Scores: TypeAlias = dict[str, dict[Key, statistics.Column]]  # label -> key -> column


class Derainer(Protocol):
    """What restores: `derain.Derainer`, `torch_twin.Derainer`."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3), the restored image."""

    def restore(self, image: np.ndarray, scales: bool = False) -> np.ndarray:
        """uint8 (1, H, W, 3), the restored image; with `scales` followed by those of C_1, C_2, ..."""


def evaluate(
    derainer: Derainer, config: Any, folder: pathlib.Path, record: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Scores every set of `config.data.eval`; writes FOLDER/<set>/{results.json, per_image.csv, *.png}.

    Returns the contents of each results.json by name of the set. record: provenance of the weights and the run. Raises
    UserError where a picture of any set cannot be read, before one is scored.
    """
    results, scores = {}, {}
    with storage.writable(folder):
        opened = sets.open_evaluation(config.data, config.data.eval, sources.Cache(0))  # decoding is a small part
        folders = sets.folder_names(opened)
        for name, source in opened.items():
            checking.check(name, source)  # of all before any is scored
        for name, source in opened.items():
            found = _evaluate_source(derainer, name, source, folder / folders[name], record)
            results[name], scores[name] = found
        repacked = [name for name in results if name.startswith('rain13k/')]
        if len(repacked) > 1:  # those who use it average over its sets
            name = f'mean of {len(repacked)} sets'
            results[name] = _mean_of_sets(
                name, [results[each] for each in repacked], [scores[each] for each in repacked]
            )
            storage.write_json(folder / 'rain13k' / 'results.json', results[name])
    print('\n'.join([format_table(results), *_unequal(results, scores)]))
    return results


def validate(derainer: Callable[[np.ndarray], np.ndarray], source: sources.Source, count: int) -> float | None:
    """Mean PSNR, protocol rgb, of the first `count` images; what training watches.

    Images that are restored to the last bit have no finite PSNR and do not count, as in results; None where all are.
    """
    chosen = range(min(count, len(source.names)))
    scores = []
    for index in chosen:
        rainy, clean = source.load(index)
        scores.append(metrics.psnr(derainer(rainy), clean, 'rgb'))
    held = [score for score in scores if math.isfinite(score)]
    return float(np.mean(held)) if held else None


def format_table(results: dict[str, dict[str, Any]]) -> str:
    """Input and output scores of all sets and the intervals of the latter, as lines of text."""
    lines = [f'{"":24}{"images":>7}' + ''.join(f'{f"{measure} {protocol}":>20}' for protocol, measure in KEYS)]
    for name, result in results.items():
        means, intervals = [], []
        for protocol, measure in KEYS:
            digits = 2 if measure == 'psnr' else 3
            means.append(' -> '.join(_text(tree[protocol][measure], digits) for tree in (result['input'], result)))
            ends = result['interval'][protocol][measure]
            intervals.append('-' if ends is None else f'{ends[0]:.{digits}f} .. {ends[1]:.{digits}f}')
        lines.append(f'{name:22}{_count(result):>9}' + ''.join(f'{cell:>20}' for cell in means))
        lines.append(f'{"  95 % interval":31}' + ''.join(f'{cell:>20}' for cell in intervals))
    return '\n'.join(lines)


def _unequal(results: dict[str, dict[str, Any]], scores: dict[str, Scores]) -> list[str]:
    """Says of which sets input and output have means over different images, so that their difference is no gain."""
    lines = []
    for name, columns in scores.items():
        before, after = (columns[label]['rgb', 'psnr'][0].size for label in ('input', 'output'))
        if before != after:
            gain = _text(results[name]['gain']['rgb']['psnr'], 2)
            lines.append(
                f'note: {name}: images equal to their true ones have no PSNR. The mean of the input is over {before} '
                f'images, that of the output over {after}; the gain where both have one: {gain} dB rgb.'
            )
    return lines


def _count(result: dict[str, Any]) -> str:
    """Number of images, and of how many where the set is not whole."""
    whole = (result['provenance'].get('dataset') or {}).get('publisher_count')
    return f'{result["count"]}/{whole}' if whole and whole != result['count'] else str(result['count'])


def _text(value: float | None, digits: int) -> str:
    """A score to print, '-' where there is none."""
    return '-' if value is None else f'{value:.{digits}f}'


def _evaluate_source(
    derainer: Derainer, name: str, source: sources.Source, folder: pathlib.Path, record: dict[str, Any]
) -> tuple[dict[str, Any], Scores]:
    """Restores and scores every image of one set once; scoring runs beside the network."""
    fingerprint = _compare(name, sources.fingerprint(source), folder, record)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    pending: collections.deque = collections.deque()
    rows: list[dict[str, Any]] = []
    contents: list[str] = []
    timed: set[tuple[int, ...]] = set()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for index, image_name in enumerate(progress.bar(source.names, f'scoring {name}', unit='image')):
            rainy, clean = source.load(index)
            begun = time.perf_counter()
            outputs = derainer.restore(rainy, scales=True)
            elapsed = round(time.perf_counter() - begun, 4)
            seconds = elapsed if rainy.shape in timed else None  # the first of its size compiles
            timed.add(rainy.shape)
            contents.append(content(clean))
            pending.append(pool.submit(_row, image_name, seconds, rainy, clean, outputs))
            if index < PICTURES:
                panel = np.concatenate((rainy, outputs[0], clean), axis=1)
                images.save(folder / spelling.with_ending(image_name, '.png'), panel)
            while len(pending) > 2 * (os.cpu_count() or 1):  # bounds the images held in memory
                rows.append(pending.popleft().result())
        rows += [job.result() for job in pending]
    scenes = grouping.join(contents, source.groups)
    for row, scene in zip(rows, scenes, strict=True):
        row['scene'] = scene
    write_csv(folder / 'per_image.csv', rows)
    scales = [f'C_{number}' for number in range(1, len(outputs))]
    scores = by_label(rows, scenes, ('output', 'input', *scales), gain=('output', 'input'))
    results = {
        'dataset': name,
        'count': len(rows),
        'scenes': len(set(scenes)),
        **summarize([scores]),
        'provenance': {
            **record,
            'dataset': fingerprint,
            'evaluation_seconds': round(time.perf_counter() - started, 2),
        },
    }
    storage.write_json(folder / 'results.json', results)
    return results, scores


def _compare(name: str, fingerprint: dict[str, Any], folder: pathlib.Path, record: dict[str, Any]) -> dict[str, Any]:
    """Says where the files are not those of earlier results, or those of the training; returns what to record."""
    earlier = folder / 'results.json'
    stored = None
    if earlier.exists():
        try:
            found = storage.read_json(earlier)['provenance']['dataset']
            stored = {'sha256': f'{found["sha256"]:s}', 'count': f'{found["count"]:d}'}
        except (storage.Damaged, KeyError, TypeError, ValueError):
            print(f'{name}: the earlier results in {folder} are damaged and are replaced')
    if stored:
        if stored['sha256'] != fingerprint['sha256']:
            print(
                f'{name}: the earlier results in {folder} were of other files ({stored["count"]} images, '
                f'{stored["sha256"][:12]}; now {fingerprint["count"]}, {fingerprint["sha256"][:12]}) and are replaced'
            )
    seen = _seen(fingerprint, _inside(record, 'training'))
    if not seen:
        return fingerprint
    count, known = fingerprint['count'], max(seen.values())
    told = 'these very' if known >= count else f'{known} of these {count}'
    print(f'{name}: the network was trained on {told} images ({", ".join(seen)})')
    return {**fingerprint, 'seen_in_training': list(seen)}


def _seen(fingerprint: dict[str, Any], training: dict[str, Any]) -> dict[str, int]:
    """How many of a set's images each training source of its files took, also in the trainings before this one."""
    seen: dict[str, int] = {}
    while training:
        sets_ = _inside(training, 'training_data')
        for name in sets_:
            trained = _inside(sets_, name)
            if trained.get('sha256') == fingerprint['sha256']:
                seen[name] = fingerprint['count']
            elif _inside(trained, 'whole').get('sha256') == fingerprint['sha256']:
                count = trained.get('count')
                seen.setdefault(name, count if isinstance(count, int) else fingerprint['count'])
        training = _inside(_inside(training, 'start_from'), 'record')
    return seen


def _inside(record: dict[str, Any], field: str) -> dict[str, Any]:
    """An object within a record; empty where there is none, for weights of strangers say what they like."""
    value = record.get(field)
    return value if isinstance(value, dict) else {}


def _mean_of_sets(name: str, results: list[dict[str, Any]], scores: list[Scores]) -> dict[str, Any]:
    """The mean of the means of several sets, each with scenes of its own."""
    prints = {result['dataset']: result['provenance']['dataset'] for result in results}
    seconds = sum(result['provenance']['evaluation_seconds'] for result in results)
    return {
        'dataset': name,
        'count': sum(result['count'] for result in results),
        **summarize(scores),
        'provenance': {**results[0]['provenance'], 'dataset': prints, 'evaluation_seconds': seconds},
    }


def _row(name: str, seconds: float | None, rainy: np.ndarray, clean: np.ndarray, outputs: np.ndarray) -> dict[str, Any]:
    """All scores of one image: of the input, of the output, and of each scale alone."""
    row: dict[str, Any] = {
        'name': name,
        'scene': '',  # known once all clean pictures are
        'height': clean.shape[0],
        'width': clean.shape[1],
        'seconds': seconds,
    }
    candidates = {'input': rainy, 'output': outputs[0], **{f'C_{i}': x for i, x in enumerate(outputs[1:], start=1)}}
    for label, image in candidates.items():
        row |= {f'{label}_{measure}': value for measure, value in metrics.score(image, clean).items()}
    return row


def content(image: np.ndarray) -> str:
    """The hash of what a picture shows: equal pictures have the same, whatever their files are called."""
    return sources.sha256(f'{image.shape}'.encode() + image.tobytes())


def by_label(
    rows: list[dict[str, Any]], groups: Sequence[Any], labels: Sequence[str], **gaps: tuple[str, str]
) -> Scores:
    """The columns of a table by label and (protocol, measure): the finite scores, and the group of each.

    gaps: further labels, the scores of one less those of another, as gain=('output', 'input'). Images that have no
    finite score (infinite PSNR of identical images, no SSIM below 11 pixels, no rainy image) are left out.
    """
    columns = {
        label: {(p, m): np.array([row.get(f'{label}_{p}_{m}', math.nan) for row in rows], np.float64) for p, m in KEYS}
        for label in labels
    }
    with np.errstate(invalid='ignore'):
        for gap, (first, second) in gaps.items():
            columns[gap] = {key: columns[first][key] - columns[second][key] for key in KEYS}
    numbers = np.unique(groups, return_inverse=True)[1]
    return {
        label: {key: (x[np.isfinite(x)], numbers[np.isfinite(x)]) for key, x in table.items()}
        for label, table in columns.items()
    }


def summarize(parts: Sequence[Scores]) -> dict[str, Any]:
    """Means and intervals as `results.json` holds them: of output (at the top), input, gain and scales.

    parts: `by_label` of one set, or of several for the mean of their means. None stands where nothing was scored.
    """
    together = {label: {key: [part[label][key] for part in parts] for key in KEYS} for label in parts[0]}
    means = {label: branch(columns, lambda sets_, _: statistics.mean(sets_)) for label, columns in together.items()}
    ends = {label: branch(columns, statistics.interval, label != 'gain') for label, columns in together.items()}
    return {**_arranged(means), 'interval': _arranged(ends)}


def branch(columns: Mapping[Key, Any], summary: Callable[[Any, float], Any], is_bounded: bool = False) -> Any:
    """{protocol: {measure: summary of the column}}; its second argument is the best score there is, 1 of SSIM.

    is_bounded: False for differences, which have no such end.
    """
    most = {'ssim': 1.0} if is_bounded else {}
    return {p: {m: summary(columns[p, m], most.get(m, math.inf)) for m in MEASURES} for p in PROTOCOLS}


def _arranged(trees: dict[str, Any]) -> dict[str, Any]:
    """The output at the top, and the scales together."""
    scales = {label: tree for label, tree in trees.items() if label.startswith('C_')}
    return {**trees['output'], 'input': trees['input'], 'gain': trees['gain'], 'scales': scales}


def write_csv(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """One line per row; the columns are those of any of them. Names are spelled as `spelling.cell` says."""
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator='\n')
    writer.writeheader()
    writer.writerows({column: spelling.cell(value) for column, value in row.items()} for row in rows)
    storage.write_bytes(path, text.getvalue().encode(errors='surrogateescape'))
