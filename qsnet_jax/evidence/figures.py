"""The paper's qualitative figures for any photos and methods, each as PNG with the data behind it as JSON.

  1    input, result, removed rain layer, and below each its sparsity
  2    a rainy image, its log-histogram, those of the images that are not sparse, and common distributions
  6    input, any number of methods, truth (7: photos without truth)
  8    input, what each scale alone decodes, all scales
  9    sparsity of input, result and rain layer in one plot per photo
  10   input and four methods (V1 to V4), their rain layers below
  11   inputs, results without and with information sharing

`subjects` says where images come from, `methods` what restores them, `plates` how pixels are laid out.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.figure
import numpy as np

from qsnet_jax import UserError, metrics, photos, priors, provenance, spelling, storage
from qsnet_jax.data import checking, sources
from qsnet_jax.evidence import methods, plates, sparsity, styles, subjects

FIGURES = ('1', '2', '6', '7', '8', '9', '10', '11')
FILTER = priors.FILTERS['derivative'][0]  # d_x, as in `sparsity`
WORST = 3  # curves of images that are not sparse
ORDER = {'input': 0, 'result': 2, 'rain layer': 1}  # of what has the same style in all figures
MIXTURE = ((0.4, 0.01), (0.6, 0.05))  # of Eq. 1, with the constants of Levin and Weiss: (pi, s), x in [0, 1]


@dataclasses.dataclass
class Made:
    """A figure and what it shows."""

    figure: matplotlib.figure.Figure
    data: dict[str, Any]


def run(
    figure: str,
    source: str | None,
    output: pathlib.Path,
    named: Sequence[str] = ('default',),
    config: Any = None,
    clean: str | None = None,
    count: int = 2,
    crop: str | None = None,
    name: str | None = None,
) -> list[pathlib.Path]:
    """Makes figures; writes OUTPUT/fig-NUMBER-NAME.{png,json} and returns the pictures.

    figure: a number of FIGURES, several as '1,9', or 'all': all that the number of methods allows.
    source: a photo or a folder; without one, the sets of `config.data.eval`. named: methods, see `methods`.
    clean: folder of the true images of a photo or folder. count: photos shown, the first ones; all decide in figure 2.
    crop: 'LEFT,TOP,WIDTH,HEIGHT' shown of each. name: of the images, in the files' names; else as they are called.
    """
    chosen = list(FIGURES) if figure == 'all' else [number.strip() for number in figure.split(',')]
    if not set(chosen) <= set(FIGURES) or count < 1:
        raise UserError(f'--figure={figure}, --count={count}: figures are {", ".join(FIGURES)}; show at least 1 photo.')
    if name is not None:
        spelling.check_file_name(name)
    images_, found = subjects.find(source, config, clean), methods.parse_all(named)
    for method in found:
        method.expect([photo.name for photo in images_.photos])
    chosen = _feasible(chosen, found, images_, may_leave=figure == 'all')
    record, window = provenance.collect(config.to_dict() if config else {}, None), plates.Window.parse(crop)
    places = {number: _place(output, f'fig-{number}-{name or images_.name}') for number in chosen}
    _refuse_inputs([each for path in places.values() for each in (path, path.with_suffix('.json'))], found, images_)
    shown = [photo.read(window) for photo in images_.photos[:count]]
    if '2' in chosen:  # the only one of all images
        checking.check_pictures('the images', {photo.name: photo.load for photo in images_.photos[count:]})
    described = _describe(chosen, shown, images_)
    for number, path in places.items():
        told = {**described[number], 'methods': [{'label': each.label} for each in _shown_by(number, found)]}
        _claim(path, told)
    results = Restored(found)
    with storage.writable(output):
        for number, path in places.items():
            made = _MAKERS[number](shown, results, images_)
            about = {**described[number], **made.data}  # methods are described by what they did
            about |= {'methods': [method.describe() for method in _shown_by(number, found)], 'provenance': record}
            storage.write_json(path.with_suffix('.json'), about)  # first, so that the picture is known as ours
            with storage.replacing(path) as temporary:
                made.figure.savefig(temporary, format='png', dpi=plates.DPI, metadata={'Software': None})
            print(spelling.shown(path))
    return list(places.values())


def _describe(chosen: list[str], shown: list[subjects.Shown], images_: subjects.Found) -> dict[str, dict[str, Any]]:
    """Of each figure what it says of its images; figure 2 of all images."""
    images = [photo.describe() for photo in shown]
    described: dict[str, dict[str, Any]] = {number: {'figure': number, 'images': images} for number in chosen}
    if '2' in chosen:
        every = [(photo.name, sources.sha256(photo.load()[0].tobytes())) for photo in images_.photos]
        described['2']['every'] = sources.digest(every)
    return described


def _shown_by(number: str, found: list[methods.Method]) -> list[methods.Method]:
    """The methods that a figure shows; figure 2 none."""
    return [] if number == '2' else found


def _of(about: dict[str, Any]) -> dict[str, Any]:
    """What a figure is of, as it is compared: methods by label, images by content and the part that is shown."""
    shown = {f'image {each["name"]}': [each['sha256'][:12], each['shown']] for each in about['images']}
    every = {'all images': about.get('every', 'unknown')[:12]} if about['figure'] == '2' else {}
    return {'methods': [each['label'] for each in about['methods']], **every, **shown}


def _place(output: pathlib.Path, name: str) -> pathlib.Path:
    """Of a picture, beside which its .json has room for its name."""
    return (output / spelling.with_ending(name, '.json')).with_suffix('.png')


def _claim(path: pathlib.Path, told: dict[str, Any]) -> None:
    """Raises UserError where a picture would replace a figure of other images, or what is no figure of ours."""
    way_out = 'give a --name or another --output'
    provenance.claim_beside([path], provenance.claim(path.with_suffix('.json'), _of, told, way_out), way_out)


def _refuse_inputs(paths: list[pathlib.Path], found: list[methods.Method], images_: subjects.Found) -> None:
    """Raises UserError for a figure in the place of what it is made of, by whatever name."""
    taken = [path for path in paths if path.exists()]
    if not taken:
        return
    read = [file for photo in images_.photos for file in photo.files()]
    read += [file for method in found for file in method.files()]
    for original in filter(os.path.exists, read):
        for path in taken:
            if path.samefile(original):
                raise UserError(
                    f'{path} is the input {original}, which would be overwritten. Name another --output, or --name.'
                )


class Restored:
    """The methods, and what they make of the photos, each computed once."""

    def __init__(self, found: list[methods.Method]):
        self.methods = found
        self._kept: dict[tuple[str, str], np.ndarray] = {}

    def of(self, method: methods.Method, photo: subjects.Shown) -> np.ndarray:
        """uint8 (H, W, 3), the part shown."""
        key = (method.label, photo.name)
        if key not in self._kept:
            self._kept[key] = photo.cut(method.restore(photo.name, photo.whole))
        return self._kept[key]


def _feasible(numbers: list[str], found: list[methods.Method], images_: subjects.Found, may_leave: bool) -> list[str]:
    """The figures that can be made of these. Says why another one cannot; raises UserError unless it may be left."""
    obstacles = {number: obstacle for number in numbers if (obstacle := _obstacle(number, found, images_))}
    if obstacles and not may_leave:
        raise UserError(' '.join(obstacles.values()))
    for obstacle in obstacles.values():
        print(spelling.shown(f'not made: {obstacle}'))
    return [number for number in numbers if number not in obstacles]


def _obstacle(number: str, found: list[methods.Method], images_: subjects.Found) -> str:
    """Why a figure cannot be made of these; '' where it can."""
    needed = {'1': (1, 1), '2': (0, math.inf), '8': (1, 1), '9': (1, 1), '10': (4, 4), '11': (2, 2)}
    low, high = needed.get(number, (1, math.inf))
    if not low <= len(found) <= high:
        expected = f'{low}' if low == high else f'at least {low}'
        labels = ', '.join(method.label for method in found) or 'none'
        return f'Figure {number} needs {expected} of --methods, found {len(found)}: {labels}.'
    if number == '8' and not isinstance(found[0], methods.Network):
        return f'Figure 8 shows the scales of a network; {found[0].label} is a folder of results.'
    if number == '6' and not images_.has_clean:
        return 'Figure 6 ends in the true image; give --clean=FOLDER, or take figure 7, which has none.'
    if number == '7' and images_.has_clean:
        return 'Figure 7 is of photos without truth; take figure 6, or leave out --clean.'
    return ''


def _decomposition(shown: list[subjects.Shown], results: Restored, _: subjects.Found) -> Made:
    """Fig. 1, one row of pictures and one of curves for each photo."""
    rows, curves = [], []
    for photo in shown:
        layers = _layers(photo, results)
        rows.append([plates.Tile(title, image) for title, image in zip(_TITLES, layers.values(), strict=True)])
        curves.append([{title: curve(image)} for title, image in layers.items()])
    figure = plates.grid(rows, [[_drawer(each) for each in row] for row in curves])
    return Made(
        figure, {'curves': _told(shown, [dict(pair for part in row for pair in part.items()) for row in curves])}
    )


_TITLES = ('(a) input', '(b) result', '(c) removed rain layer')


def _drawer(curves: dict[str, Any]) -> Callable[[Any], None]:
    """What draws curves into an axis."""
    return lambda axis: draw_curves(axis, curves)


def _layers(photo: subjects.Shown, results: Restored) -> dict[str, np.ndarray]:
    """Input, result of the first method, and what it removed."""
    restored = results.of(results.methods[0], photo)
    return {'input': photo.rainy, 'result': restored, 'rain layer': photos.removed(photo.rainy, restored)}


def curve(image: np.ndarray) -> dict[str, Any] | None:
    """Log-histogram of d_x of the luma and its chord, and whether it is sparse; None for a flat image."""
    response = priors.respond(sparsity.to_gray(image)[None, ..., None], FILTER)
    if not response.any():
        return None
    centres, counts = priors.log_histogram(response)
    found = {'response': centres, 'log_count': counts, 'chord': priors.chord(centres, counts)}
    return {**{key: value.tolist() for key, value in found.items()}, **priors.sparsity(response)}


def draw_curves(axis: Any, curves: dict[str, Any]) -> None:
    """Curves with their chords, by name."""
    for number, (name, found) in enumerate(curves.items()):
        if found is None:
            axis.plot([], [], label=plates.drawn(f'{name}: flat'))
            continue
        place = ORDER.get(name, number)
        style = styles.mark(place)
        marks = {'markersize': 4, 'markevery': (2 * place % 6, 6), 'label': plates.drawn(name)}
        axis.plot(found['response'], found['log_count'], **style, **marks)
        axis.plot(found['response'], found['chord'], '--', color=style['color'], linewidth=0.8)
    axis.set(xlabel='|d_x|', ylabel='log count')
    axis.legend(fontsize=7)


def _told(shown: list[subjects.Shown], curves: list[dict[str, Any]]) -> dict[str, Any]:
    return {photo.name: each for photo, each in zip(shown, curves, strict=True)}


def _study(shown: list[subjects.Shown], _: Restored, images_: subjects.Found) -> Made:
    """Fig. 2: (a) a rainy image, (b) its curve, (c) those of the least sparse of all images, (d) distributions."""
    own = curve(shown[0].rainy)
    refused: dict[str, Any] = {}
    for photo in images_.photos:
        found = curve(photo.read(None).rainy)
        if found is not None and not found['mean']:
            refused[photo.name] = found
    worst = sorted(refused, key=lambda name: -refused[name]['excess'])[:WORST]
    figure = matplotlib.figure.Figure(figsize=(13, 3.4), layout='constrained')
    axes = figure.subplots(1, 4)
    axes[0].imshow(shown[0].rainy)
    axes[0].axis('off')
    draw_curves(axes[1], {'input': own})
    if worst:
        draw_curves(axes[2], {name: refused[name] for name in worst})
    else:
        axes[2].text(0.5, 0.5, 'none', ha='center', transform=axes[2].transAxes)
    lines = distributions()
    for number, (name, values) in enumerate(lines['log_probability'].items()):
        axes[3].plot(lines['x'], values, **styles.line(number), label=name)
    axes[3].set(xlabel='|x|', ylabel='log probability')
    axes[3].legend(fontsize=7)
    titles = ('(a) rainy image', '(b) its log-histogram and chord',
              f'(c) not sparse: {len(refused)} of {len(images_.photos)} images', '(d) distributions')  # fmt: skip
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
    data = {'curves': {shown[0].name: own}, 'not_sparse': refused, 'of': len(images_.photos), 'distributions': lines}
    return Made(figure, data)


def distributions() -> dict[str, Any]:
    """Log-densities over |x| of a Gaussian, a Laplacian (Eq. 2) and the mixture of two (Eq. 1), of equal deviation."""
    scale = math.sqrt(sum(weight * 2 * s**2 for weight, s in MIXTURE) / 2)  # of the Laplacian with that deviation
    x = np.linspace(0, 0.4, 161)
    sigma = math.sqrt(2) * scale
    gauss = np.exp(-((x / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
    mixture = sum(weight * priors.quasi_sparse_density(x, s) for weight, s in MIXTURE)
    densities = {
        'Gaussian': gauss,
        'Laplacian, Eq. (2)': priors.quasi_sparse_density(x, scale),
        'two Laplacians, Eq. (1)': mixture,
    }
    return {'x': x.tolist(), 'log_probability': {name: np.log(values).tolist() for name, values in densities.items()}}


def _comparison(shown: list[subjects.Shown], results: Restored, images_: subjects.Found) -> Made:
    """Figs. 6 and 7: a row for each photo, a column for each method."""
    rows, scores = [], {}
    for photo in shown:
        restored = {method.label: results.of(method, photo) for method in results.methods}
        scores[photo.name] = _scores(photo, restored)
        row = [plates.Tile(_caption('input', scores[photo.name]), photo.rainy)]
        row += [plates.Tile(_caption(label, scores[photo.name]), image) for label, image in restored.items()]
        rows.append(row + ([plates.Tile('truth', photo.clean)] if photo.clean is not None else []))
    return Made(plates.grid(rows), {'scores': scores} if images_.has_clean else {})


def _scores(photo: subjects.Shown, restored: dict[str, np.ndarray]) -> dict[str, dict[str, float | None]]:
    """Of the part shown, by method."""
    if photo.clean is None:
        return {}
    found = {label: metrics.score(image, photo.clean) for label, image in {'input': photo.rainy, **restored}.items()}
    return {label: {key: value if math.isfinite(value) else None for key, value in each.items()}
            for label, each in found.items()}  # fmt: skip


def _caption(label: str, scores: dict[str, Any]) -> str:
    psnr = scores.get(label, {}).get('rgb_psnr')
    return label if psnr is None else f'{label}, {psnr:.2f} dB rgb'


def _scales(shown: list[subjects.Shown], results: Restored, images_: subjects.Found) -> Made:
    """Fig. 8: what C_1, C_2, ... alone decode, and all of them."""
    rows, scores = [], {}
    network = results.methods[0]
    assert isinstance(network, methods.Network)
    for photo in shown:
        every = [photo.cut(each) for each in network.restore_scales(photo.whole)]
        labels = [f'C_{number}' for number in range(1, len(every))] + ['all scales']
        restored = dict(zip(labels, [*every[1:], every[0]], strict=True))
        scores[photo.name] = _scores(photo, restored)
        row = [plates.Tile(_caption('input', scores[photo.name]), photo.rainy)]
        rows.append(
            row + [plates.Tile(_caption(label, scores[photo.name]), image) for label, image in restored.items()]
        )
    return Made(plates.grid(rows), {'scores': scores} if images_.has_clean else {})


def _sparsity(shown: list[subjects.Shown], results: Restored, _: subjects.Found) -> Made:
    """Fig. 9: a plot for each photo."""
    curves = [{name: curve(image) for name, image in _layers(photo, results).items()} for photo in shown]
    figure = matplotlib.figure.Figure(figsize=(4.2 * len(shown), 3.6), layout='constrained')
    for axis, photo, each in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, curves, strict=True):
        draw_curves(axis, each)
        axis.set_title(plates.drawn(photo.name), fontsize=9)
    return Made(figure, {'curves': _told(shown, curves)})


def _ablation(shown: list[subjects.Shown], results: Restored, images_: subjects.Found) -> Made:
    """Fig. 10: input and results, and below each result its rain layer."""
    scores = {}
    rows: list[list[plates.Tile | None]] = []
    for photo in shown:
        restored = {method.label: results.of(method, photo) for method in results.methods}
        scores[photo.name] = _scores(photo, restored)
        tiles = [plates.Tile(_caption(label, scores[photo.name]), image) for label, image in restored.items()]
        layers = [plates.Tile('', photos.removed(photo.rainy, image)) for image in restored.values()]
        rows.append([plates.Tile(_caption('input', scores[photo.name]), photo.rainy), *tiles])
        rows.append([None, *layers])
    return Made(plates.grid(rows), {'scores': scores} if images_.has_clean else {})


def _sharing(shown: list[subjects.Shown], results: Restored, images_: subjects.Found) -> Made:
    """Fig. 11: a column for each photo; inputs, results of the first method, results of the second."""
    scores = {}
    lines: list[list[plates.Tile | None]] = [[plates.Tile('input', photo.rainy) for photo in shown]]
    for photo in shown:
        scores[photo.name] = _scores(photo, {method.label: results.of(method, photo) for method in results.methods})
    for method in results.methods:
        lines.append([plates.Tile(_caption(method.label, scores[photo.name]), results.of(method, photo))
                      for photo in shown])  # fmt: skip
    return Made(plates.grid(lines), {'scores': scores} if images_.has_clean else {})


_MAKERS: dict[str, Callable[[list[subjects.Shown], Restored, subjects.Found], Made]] = {
    '1': _decomposition,
    '2': _study,
    '6': _comparison,
    '7': _comparison,
    '8': _scales,
    '9': _sparsity,
    '10': _ablation,
    '11': _sharing,
}
