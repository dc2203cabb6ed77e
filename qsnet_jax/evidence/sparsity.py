"""The sparsity study of Sec. 3.1 over any folder or data set: how many rainy images are sparse, and which are not.

A control says what a share is worth: Laplacian samples, which are neither sparse nor not, lie below their chords too,
because its far end is the largest response that happened to be drawn. So a third rule, `beyond`, asks for an excess
that only 5 % of such samples reach; their values are independent, which those of neighbouring pixels are not.
"""

import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import matplotlib.figure
import numpy as np
import scipy.stats

from qsnet_jax import UserError, derain, priors, progress, provenance, storage
from qsnet_jax.data import images, sets, sources

BINS = 64
NAMES = ('d_x', 'd_y', 'd_xx', 'd_yy')  # of priors.FILTERS['derivative']
HEADLINE = 'd_x'  # the filter of the figures and of what is said about contrast
RULES = ('mean', 'every', 'beyond')
CONTROLS, CONTROL_SIZE = 200, 100_000  # Laplacian samples, and responses in each; the shares hardly depend on the size
EXAMPLES = 3


def run(config: Any, folder: str | None, weights: str | None, results: pathlib.Path) -> None:
    """The study of every photo below a folder or, without one, of each set of `config.data.eval`."""
    record = provenance.collect(config.to_dict() if config else {}, None)
    derainer = derain.load(weights)
    if folder:
        base = pathlib.Path(folder).expanduser()
        files = derain.find_photos(base)
        base = base if base.is_dir() else base.parent
        parts = [(str(file.relative_to(base)), sources.sha256(file.read_bytes())) for file in files]
        fingerprint = {'count': len(files), 'sha256': sources.digest(parts)}
        study(base.resolve().name, walk(files, base), fingerprint, record, derainer, results)
        return
    for name, source in sets.open_evaluation(config.data, config.data.eval, sources.Cache(0)).items():
        fingerprint = sources.fingerprint(source)
        study(name.replace('/', '-'), walk_source(source), fingerprint, record, derainer, results)


def study(
    name: str, photos: Iterator[tuple[str, np.ndarray]], fingerprint: dict[str, Any], record: dict[str, Any],
    derainer: derain.Derainer, results: pathlib.Path
) -> dict[str, Any]:  # fmt: skip
    """Decides for every photo and filter; writes RESULTS/sparsity/NAME.json and RESULTS/figures/sparsity-NAME.png.

    photos: names and uint8 (H, W, 3) images. record: provenance. The figure shows the log-histograms of the first
    photos with those of their results and removed rain (Figs. 2 and 9), and excess against contrast. Returns the row.
    """
    path = results / 'sparsity' / f'{name}.json'
    if path.exists() and json.loads(path.read_text())['fingerprint']['sha256'] != fingerprint['sha256']:
        raise UserError(f'{path} is of other images of that name; remove it, or name another --results.')
    chance = control()
    verdicts: dict[str, dict[str, Any]] = {}
    examples: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []
    flat: list[str] = []
    for photo, image in photos:
        gray = luma(image)
        try:
            verdicts[photo] = {**decide(gray, chance['excess']), 'contrast': float(gray.std())}
        except ValueError:
            flat.append(photo)
            continue
        if len(examples) < EXAMPLES:
            restored = derainer(image)
            examples.append((photo, gray, luma(restored), luma(derain.removed(image, restored))))
    if not verdicts:
        raise UserError(f'{name} holds no image that is not flat; there is nothing to decide.')
    row = {
        'kind': 'sparsity',
        'name': name,
        'count': len(verdicts),
        'bins': BINS,
        'share': {key: {rule: _share(verdicts, key, rule) for rule in RULES} for key in NAMES},
        'control': chance,
        'contrast': _contrast(verdicts),
        'not_sparse': _not_sparse(verdicts),
        'without_gradient': flat,
        'fingerprint': fingerprint,
        'provenance': record,
    }
    storage.write_json(path, row)
    path = results / 'figures' / f'sparsity-{name}.png'
    with storage.replacing(path) as temporary:
        draw(row, verdicts, examples).savefig(temporary, format='png', dpi=110)
    print(f'{format_table(row)}\n{path}')
    return row


def luma(image: np.ndarray) -> np.ndarray:
    """Luma of a uint8 (H, W, 3) image, full range, float64 (H, W) in [0, 1]."""
    return image @ np.array([0.299, 0.587, 0.114]) / 255.0


def decide(gray: np.ndarray, threshold: float) -> dict[str, dict[str, Any]]:
    """`priors.sparsity` of every filter, and whether its excess is below the threshold, `beyond`.

    gray: float (H, W). Raises ValueError for a flat image.
    """
    filters = zip(NAMES, priors.FILTERS['derivative'], strict=True)
    responses = {name: priors.respond(gray[None, ..., None], kernel).ravel() for name, kernel in filters}
    found = {name: priors.sparsity(response, BINS) for name, response in responses.items()}
    return {name: {**each, 'beyond': each['excess'] < threshold} for name, each in found.items()}


@functools.cache
def control() -> dict[str, Any]:
    """What both rules say of Laplacian samples, always the same; `excess` is that below which 5 % of them lie."""
    samples = (np.random.Generator(np.random.PCG64(seed)).laplace(size=CONTROL_SIZE) for seed in range(CONTROLS))
    found = [priors.sparsity(sample, BINS) for sample in samples]
    shares = {rule: float(np.mean([each[rule] for each in found])) for rule in ('mean', 'every')}
    excess = float(np.percentile([each['excess'] for each in found], 5))
    return {'samples': CONTROLS, 'size': CONTROL_SIZE, 'share': {**shares, 'beyond': 0.05}, 'excess': excess}


def walk(files: list[pathlib.Path], base: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """The photos of a folder that can be read, by name; the others are said at the end."""
    failures = []
    for file in progress.bar(files, 'sparsity', unit='photo'):
        try:
            yield str(file.relative_to(base)), images.open_photo(file).rgb
        except images.ImageError as error:
            failures.append(f'failed: {error}')
    for failure in failures:
        print(failure)


def walk_source(source: sources.Source) -> Iterator[tuple[str, np.ndarray]]:
    """The rainy images of a data set."""
    for index, name in enumerate(progress.bar(source.names, 'sparsity', unit='image')):
        yield name, source.load(index)[0]


def format_table(row: dict[str, Any]) -> str:
    """Shares of both rules by filter, and what contrast has to do with it, as lines of text."""
    lines = [f'{row["name"]}: {row["count"]} images; share that is sparse (95 % interval)']
    for key, rules in row['share'].items():
        cells = [f'{rule}: {100 * cell["share"]:5.1f} % ({100 * cell["interval"][0]:.0f} to '
                 f'{100 * cell["interval"][1]:.0f})' for rule, cell in rules.items()]  # fmt: skip
        lines.append(f'  {key:10}' + '   '.join(cells))
    chance = ', '.join(f'{rule} {100 * share:.1f} %' for rule, share in row['control']['share'].items())
    lines.append(f'  of Laplacian samples, neither sparse nor not: {chance}')
    contrast = row['contrast']
    shown = {name: '-' if value is None else f'{value:.3g}' for name, value in contrast.items()}
    lines.append(
        f'  median contrast of the {shown["count_not_sparse"]} not sparse in d_x: {shown["median_not_sparse"]}, of the '
        f'others: {shown["median_sparse"]}; p = {shown["p_lower"]} of the former being lower'
    )
    return '\n'.join(lines)


def draw(row: dict[str, Any], verdicts: dict[str, Any], examples: list[Any]) -> matplotlib.figure.Figure:
    """Log-histograms of d_x of the examples (input, result, rain, chord), and excess against contrast of all."""
    figure = matplotlib.figure.Figure(figsize=(4 * (len(examples) + 1), 3.6), layout='constrained')
    axes = figure.subplots(1, len(examples) + 1, squeeze=False)[0]
    for axis, (_, *layers) in zip(axes, examples, strict=False):
        for layer, label, colour in zip(layers, ('input', 'result', 'rain removed'), ('C0', 'C2', 'C1'), strict=True):
            response = priors.respond(layer[None, ..., None], priors.FILTERS['derivative'][0])
            if not response.any():
                continue
            centres, curve = priors.log_histogram(response, BINS)
            axis.plot(centres, curve, color=colour, label=label)
            axis.plot(centres, priors.chord(centres, curve), '--', color=colour, linewidth=0.8)
        axis.set_xlabel('|d_x|')
        axis.set_ylabel('log count')
        axis.legend(fontsize=8)
    points = [(each['contrast'], each[HEADLINE]['excess']) for each in verdicts.values()]
    axes[-1].scatter(*zip(*points, strict=True), s=12)
    axes[-1].axhline(0.0, color='k', linewidth=0.8)
    axes[-1].set_xlabel('contrast (standard deviation of luma)')
    axes[-1].set_ylabel('mean of curve - chord, d_x; below 0: sparse')
    axes[-1].axhline(row['control']['excess'], color='k', linewidth=0.8, linestyle=':')
    figure.suptitle(f'{row["name"]}, {row["count"]} images; dashed: chords')
    return figure


def _share(verdicts: dict[str, Any], key: str, rule: str) -> dict[str, Any]:
    """Share of images that a rule calls sparse, with Wilson's 95 % interval."""
    hits, count = sum(each[key][rule] for each in verdicts.values()), len(verdicts)
    ends = scipy.stats.binomtest(hits, count).proportion_ci(method='wilson')
    return {'share': hits / count, 'interval': [float(ends.low), float(ends.high)]}


def _contrast(verdicts: dict[str, Any]) -> dict[str, float | int | None]:
    """Contrast of the images that the mean rule refuses and of the others, by d_x.

    p_lower: one-sided p-value (Mann and Whitney) of the former having lower contrast; None where there are none.
    rank_correlation: of excess and contrast over all images (Spearman).
    """
    contrast = np.array([each['contrast'] for each in verdicts.values()])
    excess = np.array([each[HEADLINE]['excess'] for each in verdicts.values()])
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
    """The images that the mean rule refuses for some filter, with their contrast, the least sparse first."""
    found = []
    for photo, each in verdicts.items():
        refused = [key for key in NAMES if not each[key]['mean']]
        if refused:
            found.append({'name': photo, 'filters': refused, 'excess': each[HEADLINE]['excess'],
                          'contrast': each['contrast']})  # fmt: skip
    return sorted(found, key=lambda entry: -entry['excess'])
