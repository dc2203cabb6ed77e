"""What ships as one scatter plot: how much each network gains on our sets against the time that an image takes it."""

import dataclasses
import html
import math
from collections.abc import Iterator
from typing import Any

from qsnet_jax.evidence import forest, page
from qsnet_jax.evidence.rows import Rows, is_released, label

# What time depends on.
_SHAPE = ('channels', 'units', 'scale_channels', 'groups', 'decoder_groups', 'rates', 'encoder_stride', 'norm')
_FORMS = ('for', 'partly', 'against', 'open', 'blocked')  # marks of forest, here of the sets
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
    """Every released training and every single one, on all of its sets.

    included: of a released row's file the names under which the package has its weights.
    """
    found = []
    for row in rows:
        if is_released(row) and included.get(row['file']):
            names, sets = ', '.join(included[row['file']]), row['sets']
        elif row['kind'] == 'evaluation':
            names, sets = row['file'].removesuffix('.json'), {row['dataset']: row | {'fingerprint': {}}}
        else:
            continue
        seconds, device = _time(row, rows)
        for name, each in sets.items():
            gain = each['y']['psnr'] - each['input']['y']['psnr']
            shown = label(name, {**row, 'sets': sets})
            found.append(Point(names, shown, gain, seconds, device))
    return found


def _time(row: dict[str, Any], rows: Rows) -> tuple[float | None, str]:
    """Seconds a megapixel of a network of these settings and precision, and where: the fastest nearest to 512²."""
    model, found = row['provenance']['config']['model'], []
    for bench in (each for each in rows if each['kind'] == 'bench'):
        config = bench['provenance']['config']
        for case in bench['cases']:
            settings = config['model'] | config['bench']['models'].get(case['model'], {})
            is_same = all(settings.get(name) == model.get(name) for name in _SHAPE)
            is_same &= case['precision'] == (model.get('dtype') or 'float32')  # as it was scored
            seconds = case['peers'].get('JAX', {}).get('seconds')
            if is_same and seconds and case['batch'] == 1 and not case['training']:
                each = seconds['median'] / case['size'] ** 2 * 1e6
                where = f'{bench["file"].removesuffix(".json")}, {case["precision"]}, {case["size"]}²'
                found.append((abs(case['size'] - 512), each, where))
    return min(found)[1:] if found else (None, 'not timed')


def table(found: list[Point]) -> page.Table:
    cells = [[each.network, each.sample, f'{each.gain:+.2f}', '-' if each.seconds is None else f'{each.seconds:.3f}',
              each.device] for each in found]  # fmt: skip
    columns = ['network', 'set (images)', 'gain, PSNR y, dB', 'seconds a megapixel', 'timed on']
    return page.Table('Speed and quality', columns, cells)


class _Frame:
    """Seconds and decibels to pixels; what no bench has timed stands in a strip at the right."""

    def __init__(self, found: list[Point], is_wide: bool):
        samples = len({each.sample for each in found})
        self.is_wide, self.width, self.height = is_wide, forest.WIDE if is_wide else forest.NARROW, 400
        self.left, self.right = 46.0, self.width - (170.0 if is_wide else 90.0)
        self.top, self.bottom = 24.0 + 22.0 * (1 if is_wide else samples), self.height - 44.0
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
    frame, samples = _Frame(found, is_wide), list(dict.fromkeys(each.sample for each in found))
    parts, labels = [*_legend(samples, is_wide), *frame.grid()], dict[float, float]()  # of each x where the last ends
    for each in sorted(found, key=lambda each: -each.gain):
        kind, x, y = _FORMS[samples.index(each.sample) % len(_FORMS)], frame.x(each.seconds), frame.y(each.gain)
        title = html.escape(f'{each.network}, {each.sample}: {each.gain:+.2f} dB, {each.device}')
        parts.append(
            f'<g class="{kind}" transform="translate({x:.1f} {y:.1f})"><title>{title}</title>{forest.mark(kind)}</g>'
        )
        if is_wide:
            labels[x] = max(y + 4, labels.get(x, 0.0) + LINE)  # one below the other, however near the points are
            parts.append(forest.text(x - 9, labels[x], each.network, 'small', 'end'))
    about = f'Scatter plot of {len(found)} scores: gain in dB against seconds a megapixel. Its table has every number.'
    return forest.element(parts, frame.width, frame.height, about, is_alone)


def _legend(samples: list[str], is_wide: bool) -> list[str]:
    parts, x, y = [], 8.0, 12.0
    for number, sample in enumerate(samples):
        kind = _FORMS[number % len(_FORMS)]
        parts.append(f'<g class="{kind}" transform="translate({x} {y})">{forest.mark(kind)}</g>')
        parts.append(forest.text(x + 12, y + 4, sample, 'small'))
        x, y = (x + 30 + 7 * len(sample), y) if is_wide else (8.0, y + 22)
    return parts
