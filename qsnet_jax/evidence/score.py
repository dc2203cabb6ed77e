"""Scores of any program's results against clean images, counted as `evaluate` counts ours, and two methods in pairs.

Others count otherwise, so that can be said: `luma='rounded'` is the Y that MATLAB gives for uint8 images (whole levels,
where ours are not rounded), and `border=N` leaves out N pixels at each side. The default is that of `evaluate`.
"""

import concurrent.futures
import contextlib
import dataclasses
import filecmp
import functools
import math
import os
import pathlib
import time
from typing import Any

import numpy as np

from qsnet_jax import UserError, metrics, progress, provenance, spelling, storage
from qsnet_jax.data import checking, grouping, images, layouts, sources
from qsnet_jax.evidence import evaluate, methods, statistics
from qsnet_jax.evidence import rows as rows_

LUMAS = ('exact', 'rounded')
LAYOUTS = (
    {'restored': '*', 'clean': '*'},
    {'restored': 'rain-*', 'clean': 'norain-*'},
    {'restored': '*', 'clean': 'norain-*'},
    {'restored': '*_+', 'clean': '*'},
)


@dataclasses.dataclass(frozen=True)
class Counting:
    """How scores are counted; as it is, ours."""

    luma: str = 'exact'
    border: int = 0

    def __post_init__(self):
        if self.luma not in LUMAS:
            raise UserError(f'--luma={self.luma}; expected one of {", ".join(LUMAS)}.')
        if self.border < 0:
            raise UserError(f'--border={self.border}; expected a number of pixels, 0 or more.')

    def score(self, restored: np.ndarray, clean: np.ndarray) -> dict[str, float]:
        """As `metrics.score`, of uint8 (H, W, 3)."""
        restored, clean = self._cropped(restored), self._cropped(clean)
        scores = metrics.score(restored, clean)
        if self.luma == 'rounded':  # of three equal channels, what protocol rgb finds is that of one
            planes = metrics.score(*(_rounded_luma(image) for image in (restored, clean)))
            scores |= {f'y_{measure}': planes[f'rgb_{measure}'] for measure in evaluate.MEASURES}
        return scores

    def _cropped(self, image: np.ndarray) -> np.ndarray:
        if not self.border:
            return image
        if min(image.shape[:2]) <= 2 * self.border:
            raise UserError(f'--border={self.border} leaves nothing of an image of {image.shape[0]}x{image.shape[1]}.')
        return image[self.border : -self.border, self.border : -self.border]

    def __str__(self) -> str:
        parts = ['Y rounded'] if self.luma == 'rounded' else []
        parts += [f'{self.border} px of border left out'] if self.border else []
        return ', '.join(parts)


def _rounded_luma(image: np.ndarray) -> np.ndarray:
    """MATLAB's luma of a uint8 image, uint8 (H, W, 3) of equal channels; half a level is rounded up."""
    return np.repeat(np.floor(metrics.luma(image) + 0.5).astype(np.uint8)[..., None], 3, axis=-1)


class Results:
    """Images as a program restored them, the clean ones, and perhaps the rainy ones, paired by name."""

    def __init__(self, restored: str, clean: str, rainy: str | None):
        places = {side: methods.Place.parse(text, side) for side, text in (('restored', restored), ('clean', clean))}
        self.name = os.path.basename(os.path.abspath(places['clean'].folder))
        found = layouts.find({side: place.folder for side, place in places.items()}, _layouts(places))
        problems, self.items = found.problems, found.items
        if rainy:
            place = methods.Place.parse(rainy, 'rainy')
            there = place.find([item.name for item in self.items], methods.RAINY)
            problems += [f'{spelling.quoted(item.name)} has no rainy image in {place.folder}'
                         for item in self.items if item.name not in there]  # fmt: skip
            self.items = [
                dataclasses.replace(item, files={'rainy': there[item.name], **item.files})
                for item in self.items
                if item.name in there
            ]
        whole = progress.bar(self.items, 'checking', unit='image')
        problems += layouts.unreadable(whole, lambda path: images.read(path).shape[:2])
        if rainy and not problems:
            problems = [f'{files["rainy"]}, found as a rainy image, is the clean one {files["clean"]}'
                        for files in (item.files for item in self.items)
                        if filecmp.cmp(files['rainy'], files['clean'], shallow=False)]  # fmt: skip
        remedy = 'Complete or remove them; --restored, --clean and --rainy take patterns too, as in FOLDER/*_out.png.'
        layouts.refuse(problems, 'the images to score', found.layout, remedy)

    def __len__(self) -> int:
        return len(self.items)

    def load(self, index: int) -> dict[str, np.ndarray]:
        """The images by side."""
        return {side: images.read(path) for side, path in self.items[index].files.items()}

    def check_workdir(self, workdir: pathlib.Path, other: methods.Method | None) -> None:
        """Raises UserError for a folder that holds images to score, which pictures of these names would replace."""
        paths = [path for item in self.items for path in item.files.values()]
        folders = {path.parent for path in paths} | {pathlib.Path(os.path.realpath(path)).parent for path in paths}
        folders |= {other.place.folder} if isinstance(other, methods.Folder) else set()
        if workdir.is_dir() and any(workdir.samefile(folder) for folder in folders):
            raise UserError(
                f'--workdir={workdir} holds images to score, which pictures of the same names would replace. Name '
                'another folder.'
            )

    def fingerprint(self, *sides: str) -> dict[str, Any]:
        """Of the files on these sides, as that of a set of pairs."""
        parts = [(f'{side}/{item.files[side].name}', sources.file_hash(item.files[side]))
                 for item in self.items for side in sides if side in item.files]  # fmt: skip
        return {'count': len(self.items), 'sha256': sources.digest(set(parts))}


def _layouts(places: dict[str, methods.Place]) -> list[dict[str, str]]:
    """The layouts to try: given patterns take the place of ours."""
    tried = [{side: place.pattern or layout[side] for side, place in places.items()} for layout in LAYOUTS]
    return [layout for index, layout in enumerate(tried) if layout not in tried[:index]]


def run(
    restored: str,
    clean: str,
    rainy: str | None,
    results: pathlib.Path,
    name: str,
    workdir: pathlib.Path,
    dataset: str | None = None,
    luma: str = 'exact',
    border: int = 0,
    against: str | None = None,
) -> dict[str, Any]:
    """Scores a folder of results; writes WORKDIR/{results.json, per_image.csv, *.png} and RESULTS/rows/score-NAME.json.

    restored, clean, rainy: FOLDER or FOLDER/PATTERN. name: of the method. dataset: what `data.eval` calls these images.
    luma, border: how to count. against: another method's folder, or weights of ours (which need `rainy`), compared in
    pairs by image.
    Returns the row. Raises UserError for images without a partner, unequal sizes, files that cannot be read, and scores
    of other images or ways to count that lie in their place.
    """
    spelling.check_file_name(name)
    started, counting, found = time.perf_counter(), Counting(luma, border), Results(restored, clean, rainy)
    other = _parse(against, rainy) if against else None
    found.check_workdir(workdir, other)
    given = {'restored': restored, 'clean': clean, 'rainy': rainy, 'against': against, 'luma': luma, 'border': border}
    prints = {'dataset': found.fingerprint('rainy', 'clean'), 'restored': found.fingerprint('restored')}
    record = {**provenance.collect({'score': given}, None), **prints}
    dataset = dataset.lower() if dataset and dataset.lower() in rows_.STANDS_IN else dataset  # Rain100H, as papers do
    begun = {'dataset': dataset or _stored_name(results, name) or found.name, 'counting': str(counting)}
    rival = {'against': {'method': {'label': other.label}}} if other else {}
    _refuse_foreign(workdir, [item.name for item in found.items])
    told = functools.partial(_told, is_named=dataset is not None)
    path = _claim(results, name, workdir, told, {**begun, **rival, 'provenance': record})
    _expect(found, other)
    with storage.writable(workdir):
        rows, pictures = _score_all(found, counting, other)
        if not (workdir / 'results.json').exists():  # so that what follows is known as ours where it is cut off
            storage.write_json(workdir / 'results.json', {**begun, **rival, 'provenance': record})
        _write(workdir, rows, pictures)
        record['evaluation_seconds'] = round(time.perf_counter() - started, 2)
        result = {**begun, **summarize(rows)}
        if other:
            result['against'] = {'method': other.describe(), **compare(rows)}
        storage.write_json(workdir / 'results.json', {**result, 'provenance': record})
    row = {'kind': 'score', 'name': name, **result, 'images': _columns(rows), 'provenance': record}
    with storage.writable(path.parent):
        storage.write_json(path, row)
    print(_shown(row))
    print(spelling.shown(f'scores and pictures are in {workdir}, the row in {path}'))
    return row


def _parse(against: str, rainy: str | None) -> methods.Method:
    """The other method. Raises UserError for a network that has nothing to restore."""
    other = methods.parse(against)
    if isinstance(other, methods.Network) and not rainy:
        raise UserError(
            f'--against={against} is a network, which has to restore the rainy images itself: give --rainy.'
        )
    return other


def _claim(
    results: pathlib.Path, name: str, workdir: pathlib.Path, told: provenance.Told, begun: dict[str, Any]
) -> pathlib.Path:
    """The path of the row; raises UserError where it, or the folder of scores, holds those of something else."""
    provenance.claim(workdir / 'results.json', told, begun, 'give another --name or --workdir')
    path = _row(results, name)
    return provenance.claim(path, told, begun, 'give another --name')


def _told(result: dict[str, Any], is_named: bool) -> dict[str, Any]:
    """What scores are of, and how they were counted; results of a program that were made anew keep its name.

    is_named: whether the images were given a name; else it is their folder's, which may have moved.
    """
    other = (result.get('against') or {}).get('method', {}).get('label')
    counting, content = result.get('counting', ''), result['provenance']['dataset']['sha256']  # of eval: as ours
    named = {'dataset': result['dataset']} if is_named else {}
    has_rainy = bool(result['provenance'].get('config', {}).get('score', {}).get('rainy'))
    given = {'--rainy': 'given' if has_rainy else 'not given'}  # these count in the content too
    return {**named, **given, 'images': content[:12], 'counting': counting, 'against': other}


def _refuse_foreign(workdir: pathlib.Path, names: list[str]) -> None:
    """Raises UserError where files lie in the place of ours of which no results.json says that they are scores."""
    ours = [workdir / 'results.json', workdir / 'per_image.csv', *_pictures(workdir, names)]
    if ours[0].exists():
        try:
            if 'provenance' in storage.read_json(ours[0]):
                return
        except storage.Damaged:  # `provenance.claim` says so
            return
    foreign = [path for path in ours if os.path.lexists(path)]
    if foreign:
        raise UserError(
            f'{foreign[0]} would be replaced, and no results.json beside it says that it is of scores. Name another '
            '--workdir, or remove it.'
        )


def _write(workdir: pathlib.Path, rows: list[dict[str, Any]], pictures: list[np.ndarray]) -> None:
    """The pictures and the table."""
    for path, picture in zip(_pictures(workdir, [each['name'] for each in rows]), pictures, strict=True):
        images.save(path, picture)
    evaluate.write_csv(workdir / 'per_image.csv', rows)


def _stored_name(results: pathlib.Path, name: str) -> str | None:
    """What the images are called in the row of that name, if there is one; whether they are the same, is seen later."""
    with contextlib.suppress(storage.Damaged):
        found = storage.read_json(_row(results, name)).get('dataset')
        return found if isinstance(found, str) else None
    return None


def _row(results: pathlib.Path, name: str) -> pathlib.Path:
    return results / 'rows' / f'score-{name}.json'


def _pictures(workdir: pathlib.Path, names: list[str]) -> list[pathlib.Path]:
    """The files of those that get a picture of the images called so."""
    return [workdir / f'{name}.png' for name in names[: evaluate.PICTURES]]


def _expect(found: Results, other: methods.Method | None) -> None:
    """Tells the other method what to restore. Raises UserError where its own files cannot be read."""
    if other:
        other.expect([item.name for item in found.items])
    if isinstance(other, methods.Folder):
        readers: sources.Pictures = {path: functools.partial(images.read, path) for path in other.files()}
        checking.check_pictures(f'the folder {other.place.folder}', readers)


def _score_all(
    found: Results, counting: Counting, other: methods.Method | None
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """One row of scores for each image, on all cores, and the first pictures."""
    pictures: dict[int, np.ndarray] = {}

    def job(index: int) -> tuple[dict[str, Any], str]:
        item, sides = found.items[index], found.load(index)
        restored, clean = sides['restored'], sides['clean']
        row: dict[str, Any] = {'name': item.name, 'scene': '', 'height': clean.shape[0], 'width': clean.shape[1]}
        shown = [sides['rainy']] if 'rainy' in sides else []
        candidates = {'input': sides['rainy']} if 'rainy' in sides else {}
        candidates['output'] = restored
        if other:
            candidates['against'] = other.restore(item.name, sides.get('rainy', restored))
        for label, image in candidates.items():
            row |= {f'{label}_{key}': value for key, value in counting.score(image, clean).items()}
        if index < evaluate.PICTURES:
            shown += [candidates[label] for label in ('output', 'against') if label in candidates]
            pictures[index] = np.concatenate((*shown, clean), axis=1)
        return row, evaluate.content(clean)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(progress.bar(pool.map(job, range(len(found))), 'scoring', len(found), unit='image'))
    scenes = grouping.join([content for _, content in done], [item.pair_id for item in found.items])
    for (row, _), scene in zip(done, scenes, strict=True):
        row['scene'] = scene
    return [row for row, _ in done], [pictures[index] for index in sorted(pictures)]


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and intervals over scenes as `results.json` of `evaluate` has them; None where nothing was scored."""
    scenes = [row['scene'] for row in rows]
    scores = evaluate.by_label(rows, scenes, ('output', 'input'), gain=('output', 'input'))
    return {'count': len(rows), 'scenes': len(set(scenes)), **evaluate.summarize([scores])}


def compare(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The other method's means, and how much better the first is: by image, with the interval over scenes."""
    scenes = [row['scene'] for row in rows]
    scores = evaluate.by_label(rows, scenes, ('output', 'against'), difference=('output', 'against'))
    return {
        **evaluate.branch(scores['against'], _mean),
        'difference': evaluate.branch(scores['difference'], _mean),
        'interval': evaluate.branch(scores['difference'], lambda column, _: statistics.interval([column])),
        'better': {p: {m: _better(rows, f'{p}_{m}') for m in evaluate.MEASURES} for p in evaluate.PROTOCOLS},
    }


def _better(rows: list[dict[str, Any]], key: str) -> float | None:
    """Share of the images on which the first method is better; one that equals the true image has infinite PSNR."""
    pairs = [(row[f'output_{key}'], row[f'against_{key}']) for row in rows]
    wins = [first > second for first, second in pairs if not math.isnan(first) and not math.isnan(second)]
    return sum(wins) / len(wins) if wins else None


def _mean(column: statistics.Column, _: float = math.inf) -> float | None:
    """None where nothing was scored."""
    return statistics.mean([column])


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The table by columns, as rows of studies have it."""
    names = ['name', 'scene', *(name for name in rows[0] if name.endswith(('_psnr', '_ssim')))]
    return {name: [_finite(row[name]) for row in rows] for name in names}


def _finite(value: Any) -> Any:
    """Rounded far below what is ever printed; None for infinity and NaN."""
    return value if isinstance(value, str) else round(value, 5) if math.isfinite(value) else None


def _shown(row: dict[str, Any]) -> str:
    """What of a row is printed."""
    lines = [evaluate.format_table({row['name']: row})]
    lines += _left_out(row)
    lines += [f'not counted as ours: {row["counting"]}'] if row['counting'] else []
    if other := row.get('against'):
        lines.append(format_comparison(row['name'], other['method']['label'], other))
    return '\n'.join(lines)


def _left_out(row: dict[str, Any]) -> list[str]:
    """Says which means leave out images: those that equal their true ones have no finite PSNR."""
    lines = []
    for label, whose in (('input', 'the rainy images'), ('output', row['name']), ('against', 'the other method')):
        scores = row['images'].get(f'{label}_rgb_psnr', [])
        if equal := sum(score is None for score in scores):
            lines.append(
                f'note: {whose}: {equal} of {len(scores)} images equal their true ones and have no finite PSNR. '
                'Its mean, and differences to it, are over the others.'
            )
    return lines


def format_comparison(first: str, second: str, found: dict[str, Any]) -> str:
    """'A - B' under both protocols, as lines of text."""
    lines = [f'{first} - {second}, in pairs by image']
    for protocol, measure in evaluate.KEYS:
        mean, ends, better = (found[key][protocol][measure] for key in ('difference', 'interval', 'better'))
        digits = 2 if measure == 'psnr' else 4
        shown = '-' if mean is None else f'{mean:+.{digits}f}, better on {100 * better:.0f} % of the images'
        shown += f', 95 % {ends[0]:+.{digits}f} .. {ends[1]:+.{digits}f}' if ends else ''
        lines.append(f'  {measure} {protocol:4}{shown}')
    return '\n'.join(lines)
