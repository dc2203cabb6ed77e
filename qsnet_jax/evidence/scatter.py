"""What ships as one scatter plot: how much each network gains on our sets against the time that an image takes it."""

import dataclasses
import html
import math
from collections.abc import Iterator
from typing import Any

from qsnet_jax import fields
from qsnet_jax.evidence import forest, page
from qsnet_jax.evidence.rows import Rows, is_released, label

_SHAPE = (  # what time depends on
    *('channels', 'units', 'scale_channels', 'groups', 'decoder_groups', 'rates', 'encoder_stride', 'norm'),
    *('share_groups', 'share_scales'),
)
# Of the sets, about the origin: square, triangle, plus, hourglass, star, triangle to the left; none is a verdict's.
_MARKS = (
    'M-4.5 -4.5h9v9h-9z',
    'M0 -6l6 10.5h-12z',
    'M-2 -6h4v4h4v4h-4v4h-4v-4h-4v-4h4z',
    'M-5 -6h10l-10 12h10z',
    'M0 -7.5l2 5.5l5.5 2l-5.5 2l-2 5.5l-2 -5.5l-5.5 -2l5.5 -2z',
    'M-6.5 0l11 -6v12z',
)
LINE = 13  # pixels from one name to the next


@dataclasses.dataclass(frozen=True)
class Point:
    """A network on a set."""

    network: str
    sample: str
    gain: float  # PSNR y over the rainy images, dB
    seconds: float | None  # a megapixel, if a bench timed a network of these settings
    device: str


def points(rows: Rows, included: dict[str, list[str]]) -> list[Point]:
    """Every released training and every single one, on all of its sets, once: by its last scores.

    included: of a released row's file the names under which the package has its weights.
    """
    released = {_trained(row): row for row in rows if is_released(row) and included.get(row['file'])}
    scored = sorted((row for row in rows if row['kind'] == 'evaluation'), key=lambda row: row['provenance']['date'])
    last = {(_trained(row), _images(row['dataset'], row, row)): row['file'] for row in scored}
    found = []
    for row in rows:
        trained = _trained(row)
        known = released.get(trained)
        names = ', '.join(included[known['file']]) if known else row['file'].removesuffix('.json')
        if row is known:
            sets = {name: each for name, each in row['sets'].items() if (trained, _images(name, row, each)) not in last}
        elif row['kind'] == 'evaluation' and (not known or row['file'] in last.values()):
            sets = {row['dataset']: row | {'fingerprint': {}}}
        else:
            continue
        seconds, device = _time(row, rows)
        for name, each in sets.items():
            gain = _gain(each)
            if gain is not None:
                found.append(Point(names, label(name, {**row, 'sets': sets}), gain, seconds, device))
    return found


def _gain(scores: dict[str, Any]) -> float | None:
    """Of PSNR y over images that have one before and after; None where none has. Older rows hold the means alone."""
    if 'gain' in scores:
        return scores['gain']['y']['psnr']
    return scores['y']['psnr'] - scores['input']['y']['psnr']


def _images(name: str, row: dict[str, Any], scores: dict[str, Any]) -> str:
    """What scores are of: the set, its folder where the name says little, and the number of images."""
    return label(name, {**row, 'sets': {name: {**scores, 'fingerprint': {}}}})


def _trained(row: dict[str, Any]) -> tuple[Any, Any]:
    """What tells a training from others: when it began, and how long it took."""
    record = row['provenance'].get('training') or {}
    return record.get('date'), record.get('training_seconds')


def _time(row: dict[str, Any], rows: Rows) -> tuple[float | None, str]:
    """Seconds a megapixel of a network of these settings and precision, and where: the fastest nearest to 512²."""
    model, found = row['provenance']['config']['model'], []
    for bench in (each for each in rows if each['kind'] == 'bench'):
        config = bench['provenance']['config']
        for case in bench['cases']:
            settings = config['model'] | config['bench']['models'].get(case['model'], {})
            is_same = _shape(settings) == _shape(model)
            is_same &= case['precision'] == (model.get('dtype') or 'float32')  # as it was scored
            seconds = case['peers'].get('JAX', {}).get('seconds')
            if is_same and seconds and case['batch'] == 1 and not case['training']:
                each = seconds['median'] / case['size'] ** 2 * 1e6
                where = f'{bench["file"].removesuffix(".json")}, {case["precision"]}, {case["size"]}²'
                found.append((abs(case['size'] - 512), each, where))
    return min(found)[1:] if found else (None, 'not timed')


def _shape(model: dict[str, Any]) -> list[Any]:
    """Values of _SHAPE, those of older rows as they are written today."""
    return [fields.of_today(f'model.{name}', model.get(name)) for name in _SHAPE]


def table(found: list[Point]) -> page.Table:
    cells = [[each.network, each.sample, f'{each.gain:+.2f}', '-' if each.seconds is None else f'{each.seconds:.3f}',
              each.device] for each in found]  # fmt: skip
    columns = ['network', 'set (images)', 'gain, PSNR y, dB', 'seconds a megapixel', 'timed on']
    return page.Table('Speed and quality', columns, cells)


class _Frame:
    """Seconds and decibels to pixels; what no bench has timed stands in a strip at the right."""

    def __init__(self, found: list[Point], is_wide: bool, top: float):
        self.is_wide, self.width, self.height = is_wide, forest.WIDE if is_wide else forest.NARROW, top + 354
        self.left, self.right = 46.0, self.width - (170.0 if is_wide else 90.0)
        self.top, self.bottom = top, self.height - 44.0
        times = [math.log10(each.seconds) for each in found if each.seconds]
        self.low, self.high = (math.floor(min(times)), math.floor(max(times)) + 1) if times else (-2, 0)
        gains = [each.gain for each in found]
        self.least, self.most = math.floor(min(gains, default=0.0)), math.ceil(max(gains, default=0.0)) + 1

    def x(self, seconds: float | None) -> float:
        if not seconds:
            return (self.right + self.width - 8) / 2
        share = (math.log10(seconds) - self.low) / (self.high - self.low)
        return self.left + 30 + share * (self.right - self.left - 60)

    def y(self, gain: float) -> float:
        return self.bottom - (gain - self.least) / (self.most - self.least) * (self.bottom - self.top)

    def grid(self) -> Iterator[str]:
        for gain in range(self.least, self.most + 1, max(1, (self.most - self.least) // 6)):
            yield f'<path class="{"grid" if gain else "axis"}" d="M{self.left} {self.y(gain):.1f}H{self.width - 8}"/>'
            yield forest.text(self.left - 6, self.y(gain) + 4, f'{gain:+d}' if gain else '0', 'small', 'end')
        for power in range(self.low, self.high + 1):
            x = self.x(10.0**power)
            yield f'<path class="grid" d="M{x:.1f} {self.top}V{self.bottom}"/>'
            yield forest.text(x, self.bottom + 18, f'{10.0**power:g} s', 'small', 'middle')
        yield f'<path class="axis" d="M{self.right} {self.top}V{self.bottom}"/>'
        yield forest.text(self.x(None), self.bottom + 18, 'not timed', 'small', 'middle')
        what = 'gain in dB against time' + (' of a megapixel' if self.is_wide else '')
        yield forest.text(0, self.height - 6, what, 'small')


def draw(found: list[Point], is_wide: bool, is_alone: bool = False) -> str:
    """The plot as SVG, as `forest.draw`."""
    samples = list(dict.fromkeys(each.sample for each in found))
    legend, end = _legend(samples, is_wide)
    frame = _Frame(found, is_wide, end + 34)
    parts, labels = [*legend, *frame.grid()], dict[float, float]()  # of each x where the last ends
    for each in sorted(found, key=lambda each: -each.gain):
        x, y = frame.x(each.seconds), frame.y(each.gain)
        title = html.escape(f'{each.network}, {each.sample}: {each.gain:+.2f} dB, {each.device}')
        parts.append(
            f'<g class="plain" transform="translate({x:.1f} {y:.1f})"><title>{title}</title>'
            f'{mark(samples.index(each.sample))}</g>'
        )
        if is_wide:
            labels[x] = max(y + 4, labels.get(x, 0.0) + LINE)  # one below the other, however near the points are
            parts.append(forest.text(x - 9, labels[x], each.network, 'small', 'end'))
    about = f'Scatter plot of {len(found)} scores: gain in dB against seconds a megapixel. Its table has every number.'
    return forest.element(parts, frame.width, frame.height, about, is_alone)


def mark(number: int) -> str:
    """The mark of a set, which says nothing of its score: six forms, full, then hollow, then the set's number."""
    if number >= 2 * len(_MARKS):
        return forest.text(0, 4, str(number + 1), 'small', 'middle')
    fill = 'full' if number < len(_MARKS) else 'hollow'
    return f'<path class="{fill}" d="{_MARKS[number % len(_MARKS)]}"/>'


def _legend(samples: list[str], is_wide: bool) -> tuple[list[str], float]:
    """The sets with their marks, and where they end."""
    parts, x, y = [], 8.0, 12.0
    for number, sample in enumerate(samples):
        length = 30 + 7 * len(sample)
        if number and (not is_wide or x + length > forest.WIDE):
            x, y = 8.0, y + 22
        parts.append(f'<g class="plain" transform="translate({x} {y})">{mark(number)}</g>')
        parts.append(forest.text(x + 12, y + 4, sample, 'small'))
        x += length
    return parts, y
