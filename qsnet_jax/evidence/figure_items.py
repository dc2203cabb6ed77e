"""The paper's figures in the report: those that `figures` left in results/figures/, each with a table."""

import pathlib
import re
from typing import Any

from qsnet_jax import UserError, storage
from qsnet_jax.evidence import page

ABOUT = {
    '1': 'input, result and removed rain layer; below each its log-histogram and chord (dashed)',
    '2': 'a rainy image, its log-histogram and chord (dashed), those of the least sparse images, distributions',
    '6': 'input, results, truth',
    '7': 'input and results',
    '8': 'input, what each scale alone decodes, and all scales together',
    '9': 'log-histograms of input, result and removed rain layer, and their chords (dashed)',
    '10': 'input and results, below them the rain layers that were removed',
    '11': 'inputs, results of the first method, results of the second',
}
SLIPS = (KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError)  # over what others wrote
_REMEDY = 'Make the figure anew with --mode=figures, or remove it.'
_TITLE = 'Numbers of figure {}, {}'


def items(results: pathlib.Path) -> list[Any]:
    """A heading, and each figure with its table; nothing where there is none."""
    found: list[Any] = []
    paths = [path for path in storage.listed(results / 'figures', 'fig-*.json') if path.with_suffix('.png').is_file()]
    paths = [path for path in paths if re.fullmatch(r'fig-\d+-.+', path.stem, re.DOTALL)]
    for path in sorted(paths, key=lambda path: (int(path.stem.split('-')[1]), path.stem)):
        data = storage.read_json(path, ('figure', 'methods', 'images'), _REMEDY)
        try:
            found += _figure(path, data)
        except SLIPS as error:
            raise senseless(path, error, _REMEDY) from error
    return [page.Heading("The paper's figures"), *found] if found else []


def senseless(place: object, error: Exception, remedy: str) -> UserError:
    """What is said of a file over which the report stumbled."""
    fault = f'({type(error).__name__}: {str(error)[:100]})'
    return UserError(f'{place} holds what the report cannot make sense of {fault}. {remedy}')


def _figure(path: pathlib.Path, data: dict[str, Any]) -> list[Any]:
    """A figure, and the table of its numbers where there is one."""
    number, name = data['figure'], path.stem.split('-', 2)[2]
    methods = ', '.join(each['label'] for each in data['methods'])
    shown = ', '.join(each['name'] + ' (a part)' * bool(each['shown']) for each in data['images'])
    caption = f'As Fig. {number} of the paper: {ABOUT[number]}. Images: {shown}.'
    caption += f' Weights or method: {methods}.' if number != '2' else ''  # which shows no result
    found: list[Any] = [page.Figure(path.with_suffix('.png'), caption)]
    if data.get('scores'):
        found.append(_scores(_TITLE.format(number, name), data['scores']))
    elif data.get('curves'):
        found.append(_sparsity(_TITLE.format(number, name), data))
    return found


def _scores(title: str, scores: dict[str, Any]) -> page.Table:
    """Of the part shown, by image and method."""
    cells = []
    for image, each in scores.items():
        for label, values in each.items():
            pairs = [(values[f'{protocol}_psnr'], values[f'{protocol}_ssim']) for protocol in ('rgb', 'y')]
            cells.append([image, label, *(_shown(psnr, 2) + ' / ' + _shown(ssim, 3) for psnr, ssim in pairs)])
    return page.Table(title, ['image', 'method', 'rgb, PSNR / SSIM', 'y, PSNR / SSIM'], cells)


def _sparsity(title: str, data: dict[str, Any]) -> page.Table:
    """Of each curve whether it lies below its chord, and by how much."""
    curves = dict(data['curves'])
    if 'not_sparse' in data:  # one curve for each image, and not one for each part
        curves = {image: {'input': curve} for image, curve in {**curves, **data['not_sparse']}.items()}
    cells = []
    for image, parts in curves.items():
        for part, curve in parts.items():
            if curve is None:
                cells.append([image, part, '-', 'flat'])
            else:
                cells.append([image, part, f'{curve["excess"]:+.2f}', 'sparse' if curve['mean'] else 'not sparse'])
    return page.Table(title, ['image', 'part', 'mean of curve - chord', 'by the mean'], cells)


def _shown(value: float | None, digits: int) -> str:
    return '-' if value is None else f'{value:.{digits}f}'
