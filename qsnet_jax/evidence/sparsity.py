"""The sparsity study of Sec. 3.1 over any folder or data set: how many rainy images are sparse, and which are not.

A control says what a share is worth: Laplacian samples, which are neither sparse nor not, lie below their chords too,
because its far end is the largest response that happened to be drawn. So a third rule, `beyond`, asks for an excess
that only 5 % of such samples of a hundred thousand reach, and fewer of larger ones; their values are independent,
which those of neighbouring pixels are not.
"""

import functools
import os
import pathlib
from collections.abc import Iterator
from typing import Any, TypeAlias

import matplotlib.figure
import numpy as np
import scipy.stats

from qsnet_jax import UserError, derain, priors, progress, provenance, spelling, storage
from qsnet_jax import photos as photo_folders
from qsnet_jax.configs import default
from qsnet_jax.data import checking, grouping, images, sets, sources
from qsnet_jax.evidence import evaluate, plates, statistics, styles

NAMES = ('d_x', 'd_y', 'd_xx', 'd_yy')  # of priors.FILTERS['derivative']
RULES = {
    'mean': 'below its chord on average',
    'every': 'below it in every bin',
    'beyond': 'farther below than at most 5 % of Laplacian samples',
}
SETTINGS = ('bins', 'filter', 'response')  # that a row depends on
CONTROLS, CONTROL_SIZE = 200, 100_000  # Laplacian samples, and responses in each; of a million 1.5 % lie `beyond`
EXAMPLES = 3
Photos: TypeAlias = Iterator[tuple[str, np.ndarray, tuple[str, str]]]  # name, uint8 (H, W, 3), what it shares


def run(config: Any, folder: str | None, weights: str | None, results: pathlib.Path) -> int:
    """The study of every photo below a folder or, without one, of each set of `config.sparsity.pool` or `data.eval`.

    Returns how many photos and folders could not be read; they are said.
    """
    if config is None and not folder:
        raise UserError('--mode=sparsity needs --input=FOLDER of photos, or --config=NAME for its data sets.')
    config = config or default.get_config()
    check(config.sparsity)
    if folder and config.sparsity.pool:
        raise UserError('sparsity.pool names the sets of a study; leave it, or --input, out.')
    record = provenance.collect(config.to_dict(), None)
    derainer, settings = derain.load(weights), config.sparsity
    failures: list[str] = []
    opened = _open(config, folder, failures)
    _refuse_same_names([name for name, *_ in opened])
    weighted = [(name, fingerprint['sha256'], weight) for name, _, fingerprint, weight in opened]
    pooled = _begin_pool(weighted, record, settings.to_dict()) if settings.pool and not folder else None
    begun = [_begin(name, fingerprint, record, settings.to_dict()) for name, _, fingerprint, _ in opened]
    for row in begun + ([pooled] if pooled else []):
        _claimed(results, row)  # all before the first study
    rows = [study(*each[:3], record, derainer, results, settings) for each in opened]
    if pooled:
        pool(rows, pooled, results)
    return len(failures)


def _open(config: Any, folder: str | None, failures: list[str]) -> list[tuple[str, Photos, dict[str, Any], float]]:
    """Name, photos, fingerprint and weight in the pool of all that is studied."""
    if folder:
        return [(*_open_folder(folder, failures), 1.0)]
    pool = config.sparsity.pool
    found: list[tuple[str, Photos, dict[str, Any], float]] = []
    for name, weight in sets.parse_names(pool or config.data.eval):
        if name.startswith(('.', '/', '~')):
            found.append((*_open_folder(name, failures), weight))
            continue
        opened = sets.open_evaluation(config.data, name, sources.Cache(0))
        for each, source in opened.items():
            checking.check(each, source)
            photos, own = walk_source(source), weight / len(opened)  # rain13k is five
            found.append((each.replace('/', '-'), photos, sources.fingerprint(source), own))
    return found


def _refuse_same_names(names: list[str]) -> None:
    """Two studies of one name would be one row, and one weight of the pool."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f'Two of the folders or sets are called {twice[0]}; rename one, or study them one by one.')


def check(settings: Any) -> None:
    """Refuses settings that no study can use."""
    if settings.filter not in NAMES:
        raise UserError(f'sparsity.filter is {settings.filter!r}; it must be one of {", ".join(NAMES)}.')
    if settings.response not in ('absolute', 'signed'):
        raise UserError(f"sparsity.response is {settings.response!r}; it must be 'absolute' or 'signed'.")
    if not 3 <= settings.bins <= 100_000:
        raise UserError(f'sparsity.bins is {settings.bins}; it must be in [3, 100000].')


def _open_folder(folder: str, failures: list[str]) -> tuple[str, Photos, dict[str, Any]]:
    """Name, photos and fingerprint of a folder or a photo; what cannot be read is said, and added to the failures."""
    place = storage.expanded(folder)
    found = photo_folders.find_photos(place)
    for failure in found.failures:
        print(spelling.shown(f'failed: {failure}'))
    failures += found.failures
    files = [file for file in found.photos if os.path.isfile(file) and os.access(file, os.R_OK)]
    parts = [(str(file.relative_to(found.base)), storage.sha256(file)) for file in files]
    fingerprint = {'count': len(files), 'sha256': sources.digest(parts)}
    name = place.resolve().name if place.is_dir() else place.stem
    return name, walk(found.photos, found.base, failures), fingerprint


def study(
    name: str, photos: Photos, fingerprint: dict[str, Any], record: dict[str, Any], derainer: derain.Derainer,
    results: pathlib.Path, settings: Any
) -> dict[str, Any]:  # fmt: skip
    """Decides for every photo and filter; writes RESULTS/sparsity/NAME.json and RESULTS/figures/sparsity-NAME.png.

    record: provenance. settings: `config.sparsity`. The figure shows the log-histograms of the first photos with those
    of their results and removed rain (Figs. 2 and 9), and excess against contrast. Returns the row.
    """
    begun = _begin(name, fingerprint, record, settings.to_dict())
    path, plot = _claimed(results, begun)
    chance = control(settings.bins, settings.response == 'signed')
    verdicts: dict[str, dict[str, Any]] = {}
    examples: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []
    labels: list[tuple[str, str]] = []
    flat: list[str] = []
    for photo, image, shared in photos:
        gray = to_gray(image)
        try:
            verdicts[photo] = {**decide(gray, chance['excess'], settings), 'contrast': float(gray.std())}
        except ValueError:
            flat.append(photo)
            continue
        labels.append(shared)
        if len(examples) < EXAMPLES:
            restored = derainer(image)
            layers = (to_gray(restored), to_gray(photo_folders.removed(image, restored)))
            examples.append((photo, gray, *layers))
    if not verdicts:
        raise UserError(f'{name} holds no image that can be read and is not flat; there is nothing to decide.')
    scenes = grouping.join(*(list(each) for each in zip(*labels, strict=True)))
    row = {
        **begun,
        'count': len(verdicts),
        'scenes': len(set(scenes)),
        'share': {key: {rule: _share(verdicts, key, rule, scenes) for rule in RULES} for key in NAMES},
        'control': chance,
        'contrast': _contrast(verdicts, settings.filter, scenes),
        'not_sparse': _not_sparse(verdicts),
        'without_gradient': flat,
    }
    storage.write_json(path, row)  # first, so that the picture is known as ours
    with storage.replacing(plot) as temporary:
        draw(row, verdicts, examples).savefig(temporary, format='png', dpi=110)
    print(format_table(row), spelling.shown(path), spelling.shown(plot), sep='\n')
    return row


def places(results: pathlib.Path, name: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Of the row of a study, and of its figure."""
    plot = results / 'figures' / spelling.with_ending(f'sparsity-{name}', '.png')
    return results / 'sparsity' / spelling.with_ending(name, '.json'), plot


def _claimed(results: pathlib.Path, row: dict[str, Any]) -> tuple[pathlib.Path, pathlib.Path]:
    """`places` of a row, where none of other images, settings or weights lies, nor a strange figure."""
    path, plot = places(results, row['name'])
    way_out = 'name another --results'
    provenance.claim_beside([plot], provenance.claim(path, _told, row, way_out), way_out)
    return path, plot


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """What a row is of."""
    kept = {key: row[key] for key in SETTINGS}
    return {'images': row['fingerprint']['sha256'][:12], **kept, 'weight': row.get('pooled', {})}


def _begin(name: str, fingerprint: dict[str, Any], record: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What every row says first."""
    kept = {key: settings[key] for key in SETTINGS}
    return {'kind': 'sparsity', 'name': name, **kept, 'fingerprint': fingerprint, 'provenance': record}


def _begin_pool(
    weighted: list[tuple[str, str, float]], record: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """What a pool's row says first. weighted: name, hash and weight of each part. Raises UserError for a single one."""
    if len(weighted) < 2:
        raise UserError(
            f'sparsity.pool names {weighted[0][0]} alone; a pool needs at least two sets. Study one by '
            '--config.data.eval=SET or --input=FOLDER.'
        )
    whole = sum(weight for *_, weight in weighted)
    fingerprint = {'sha256': sources.digest([(name, content) for name, content, _ in weighted])}
    row = _begin('+'.join(name for name, *_ in weighted), fingerprint, record, settings)
    return {**row, 'pooled': {name: weight / whole for name, _, weight in weighted}}


def pool(rows: list[dict[str, Any]], begun: dict[str, Any], results: pathlib.Path) -> dict[str, Any]:
    """One share over several studies, each with its weight; writes the row RESULTS/sparsity/NAME+NAME.json."""
    parts = [(begun['pooled'][row['name']], row) for row in rows]
    count = sum(row['count'] for row in rows)
    shares: dict[str, Any] = {key: {} for key in NAMES}
    for key in NAMES:
        for rule in RULES:
            cells = [(weight, row['share'][key][rule]) for weight, row in parts]
            share, ends = statistics.pooled_share([(w, cell['share'], cell['interval']) for w, cell in cells])
            shares[key][rule] = {'share': share, 'interval': ends}
    row = {
        **begun,
        'fingerprint': {'count': count, **begun['fingerprint']},
        'count': count,
        'fewest': min(row['scenes'] for row in rows),
        'scenes': sum(row['scenes'] for row in rows),
        'share': shares,
        'control': rows[0]['control'],
        'contrast': None,
        'not_sparse': [],
    }
    storage.write_json(_claimed(results, row)[0], row)
    print(format_table(row))
    return row


def to_gray(image: np.ndarray) -> np.ndarray:
    """BT.601 luma of a uint8 (H, W, 3) image in full range, float64 (H, W) in [0, 1]; scores take `metrics.luma`."""
    return image @ np.array([0.299, 0.587, 0.114]) / 255.0


def decide(gray: np.ndarray, threshold: float, settings: Any) -> dict[str, dict[str, Any]]:
    """`priors.sparsity` of every filter, and whether its excess is below the threshold, `beyond`.

    gray: float (H, W). settings: `config.sparsity`. Raises ValueError for a flat image.
    """
    filters = zip(NAMES, priors.FILTERS['derivative'], strict=True)
    responses = {name: priors.respond(gray[None, ..., None], kernel).ravel() for name, kernel in filters}
    is_signed = settings.response == 'signed'
    found = {name: priors.sparsity(response, settings.bins, is_signed) for name, response in responses.items()}
    return {name: {**each, 'beyond': each['excess'] < threshold} for name, each in found.items()}


@functools.cache
def control(bins: int = 64, is_signed: bool = False) -> dict[str, Any]:
    """What both rules say of Laplacian samples, always the same; `excess` is that below which 5 % of them lie."""
    samples = (np.random.Generator(np.random.PCG64(seed)).laplace(size=CONTROL_SIZE) for seed in range(CONTROLS))
    found = [priors.sparsity(sample, bins, is_signed) for sample in samples]
    shares = {rule: float(np.mean([each[rule] for each in found])) for rule in ('mean', 'every')}
    excess = float(np.percentile([each['excess'] for each in found], 5))
    return {'samples': CONTROLS, 'size': CONTROL_SIZE, 'share': {**shares, 'beyond': 0.05}, 'excess': excess}


def walk(files: list[pathlib.Path], base: pathlib.Path, failures: list[str]) -> Photos:
    """The photos of a folder that can be read, by name; the others are said at the end, and added to the failures."""
    own = []
    for file in progress.bar(files, 'sparsity', unit='photo'):
        name = str(file.relative_to(base))
        try:
            yield name, images.open_photo(file).rgb, (name, name)
        except images.ImageError as error:
            own.append(str(error))
    for failure in own:
        print(spelling.shown(f'failed: {failure}'))
    failures += own


def walk_source(source: sources.Source) -> Photos:
    """The rainy images of a data set, each with the content of its clean picture and the group of its source."""
    for index, name in enumerate(progress.bar(source.names, 'sparsity', unit='image')):
        rainy, clean = source.load(index)
        yield name, rainy, (evaluate.content(clean), source.groups[index])


def format_table(row: dict[str, Any]) -> str:
    """Shares of both rules by filter, and what contrast has to do with it, as lines of text."""
    lines = [f'{spelling.shown(row["name"])}: {row["count"]} images; share that is sparse (95 % interval)']
    for key, rules in row['share'].items():
        cells = [f'{rule}: {100 * cell["share"]:5.1f} % ({100 * cell["interval"][0]:.0f} to '
                 f'{100 * cell["interval"][1]:.0f})' for rule, cell in rules.items()]  # fmt: skip
        lines.append(f'  {key:10}' + '   '.join(cells))
    chance = ', '.join(f'{rule} {100 * share:.1f} %' for rule, share in row['control']['share'].items())
    lines.append(f'  of Laplacian samples, neither sparse nor not: {chance}')
    lines.append('  ' + '; '.join(f'{rule}: {text}' for rule, text in RULES.items()))
    if flat := row.get('without_gradient'):
        names = ', '.join(map(spelling.shown, flat[:3])) + (', ...' if len(flat) > 3 else '')
        lines.append(f'  left out, without a gradient in some direction: {len(flat)} ({names})')
    contrast = row['contrast']
    if contrast is None:
        return '\n'.join(lines)
    shown = {name: '-' if value is None else f'{value:.3g}' for name, value in contrast.items()}
    lines.append(
        f'  median contrast of the {shown["count_not_sparse"]} not sparse in {row["filter"]}: '
        f'{shown["median_not_sparse"]}, of the others: {shown["median_sparse"]}; p = {shown["p_lower"]} of the former '
        'being lower'
    )
    return '\n'.join(lines)


def draw(row: dict[str, Any], verdicts: dict[str, Any], examples: list[Any]) -> matplotlib.figure.Figure:
    """Log-histograms of the examples (input, result, rain, chord, Eq. 2), and excess against contrast of all."""
    figure = matplotlib.figure.Figure(figsize=(4 * (len(examples) + 1), 3.6), layout='constrained')
    axes = figure.subplots(1, len(examples) + 1, squeeze=False)[0]
    key, is_signed = row['filter'], row['response'] == 'signed'
    shown = key if is_signed else f'|{key}|'
    for axis, (_, *layers) in zip(axes, examples, strict=False):
        for layer, label, number in zip(layers, ('input', 'result', 'rain removed'), (0, 2, 1), strict=True):
            response = priors.respond(layer[None, ..., None], priors.FILTERS['derivative'][NAMES.index(key)])
            if not response.any():
                continue
            centres, curve = priors.log_histogram(response, row['bins'], is_signed)
            style = styles.mark(number)
            axis.plot(centres, curve, **style, label=label, markersize=4, markevery=(2 * number, 6))
            axis.plot(centres, priors.chord(centres, curve, is_signed), '--', color=style['color'], linewidth=0.8)
            if label == 'input':
                axis.plot(*_expected(response, row['bins'], is_signed), 'k:', linewidth=1.0, label='Eq. 2, same mean')
        axis.set_ylim(bottom=0)
        axis.set_xlabel(shown)
        axis.set_ylabel('log count')
        axis.legend(fontsize=8)
    points = [(each['contrast'], each[key]['excess']) for each in verdicts.values()]
    axes[-1].scatter(*zip(*points, strict=True), s=12)
    axes[-1].axhline(0.0, color='k', linewidth=0.8)
    axes[-1].set_xlabel('contrast (standard deviation of luma)')
    axes[-1].set_ylabel(f'mean of curve - chord, {key}; below 0: sparse')
    axes[-1].axhline(row['control']['excess'], color='k', linewidth=0.8, linestyle=':')
    figure.suptitle(plates.drawn(f'{row["name"]}, {row["count"]} images; dashed: chords'))
    return figure


def _expected(response: np.ndarray, bins: int, is_signed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Places and log counts of Eq. (2) with the s of greatest likelihood, in the bins of `priors.log_histogram`."""
    largest, scale = float(np.abs(response).max()), float(np.abs(response).mean())
    places, bins = np.linspace(-largest if is_signed else 0.0, largest, 200), priors.bins_of(bins, is_signed)
    width, sides = (2 * largest / bins, 1.0) if is_signed else (largest / bins, 2.0)
    counts = response.size * width * sides * priors.quasi_sparse_density(places, scale)
    return places[counts >= 1], np.log(counts[counts >= 1])


def _share(verdicts: dict[str, Any], key: str, rule: str, scenes: list[str]) -> dict[str, Any]:
    """Share of images that a rule calls sparse, with its 95 % interval over scenes."""
    hits = np.array([each[key][rule] for each in verdicts.values()], np.float64)
    return {'share': float(hits.mean()), 'interval': statistics.share_interval(hits, np.array(scenes))}


def _contrast(verdicts: dict[str, Any], key: str, scenes: list[str]) -> dict[str, float | int | None]:
    """Contrast of the scenes that the mean rule refuses by this filter, and of the others.

    A scene has the means of its images. p_lower: one-sided p-value (Mann and Whitney) of the former having lower
    contrast; None where there are none. rank_correlation: of excess and contrast over all scenes (Spearman).
    """
    images = [(each['contrast'], each[key]['excess']) for each in verdicts.values()]
    _, groups = np.unique(scenes, return_inverse=True)
    contrast, excess = (np.bincount(groups, values) / np.bincount(groups) for values in zip(*images, strict=True))
    sparse, others = contrast[excess < 0], contrast[excess >= 0]
    found: dict[str, float | int | None] = {'count_not_sparse': len(others), 'p_lower': None, 'rank_correlation': None}
    if len(sparse) and len(others):
        found['p_lower'] = float(scipy.stats.mannwhitneyu(others, sparse, alternative='less').pvalue)
    if len(contrast) > 2 and np.ptp(contrast) and np.ptp(excess):
        found['rank_correlation'] = float(scipy.stats.spearmanr(contrast, excess).statistic)
    for name, chosen in (('median_sparse', sparse), ('median_not_sparse', others)):
        found[name] = float(np.median(chosen)) if len(chosen) else None
    return found


def _not_sparse(verdicts: dict[str, Any]) -> list[dict[str, Any]]:
    """The images that the mean rule refuses for some filter, with their contrast, the least sparse first.

    excess: the largest of those filters, `excess_of` which one; in rows of before that of the row's `filter`.
    """
    found = []
    for photo, each in verdicts.items():
        refused = [key for key in NAMES if not each[key]['mean']]
        if refused:
            worst = max(refused, key=lambda key: each[key]['excess'])
            found.append({'name': photo, 'filters': refused, 'excess': each[worst]['excess'], 'excess_of': worst,
                          'contrast': each['contrast']})  # fmt: skip
    return sorted(found, key=lambda entry: -entry['excess'])
