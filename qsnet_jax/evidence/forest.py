"""The forest plot of all verdicts as SVG: the paper's effect, ours with its interval, and what follows.

Marks differ in form as well as in colour. What does not fit the axis ends at its end with an arrow: a line
that is cut off, and a mark, which has the arrow beside it.
"""

import html
import math
from collections.abc import Iterable, Iterator

from qsnet_jax.evidence import claims as claims_
from qsnet_jax.evidence import verdicts
from qsnet_jax.evidence.verdicts import Claim

WIDE, NARROW = 1120, 358  # pixels of the two layouts
MARK = 14  # pixels from the middle of a mark to the point of an arrow beside it
KINDS = {
    verdicts.FOR: 'reproduced, seen',
    verdicts.PARTLY: "smaller than the paper's",
    verdicts.AGAINST: 'opposite, no such effect, not seen',
    verdicts.OPEN: 'no evidence',
    verdicts.BLOCKED: 'no verdict',
}
STYLE = """
.plot { --text: #1f2328; --line: #8c959f; --for: #1a7f37; --partly: #8a5a00; --against: #b42318; --open: #3f5f8a;
 --blocked: #6e7781; --ground: #fff; font: 13px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) {
 .plot { --text: #e6edf3; --line: #6e7681; --for: #4cc264; --partly: #e0a63a; --against: #ff8077; --open: #86b0e8;
  --blocked: #9198a1; --ground: #16191d; }
}
.plot text { fill: var(--text); }
.plot .axis { stroke: var(--line); stroke-width: 1; }
.plot .grid { stroke: var(--line); stroke-width: 1; stroke-dasharray: 2 4; opacity: .6; }
.plot .bold { font-weight: 600; }
.plot .small { font-size: 12px; }
.plot .paper { fill: none; stroke: var(--text); stroke-width: 1.6; }
.plot .for { color: var(--for); } .plot .partly { color: var(--partly); } .plot .against { color: var(--against); }
.plot .open { color: var(--open); } .plot .blocked { color: var(--blocked); }
.plot .plain { color: var(--text); }
.plot .thin { stroke: currentColor; stroke-width: 1.5; fill: none; }
.plot .cross { stroke: currentColor; stroke-width: 3; fill: none; }
.plot .thick { stroke: currentColor; stroke-width: 4; }
.plot .full { fill: currentColor; stroke: currentColor; stroke-width: 1.6; }
.plot .hollow { fill: var(--ground); stroke: currentColor; stroke-width: 1.8; }
.plot .word { fill: currentColor; }
"""


class _Axis:
    """Decibels to pixels; what is outside is cut off at the ends."""

    def __init__(self, left: float, right: float, most: int):
        self.left, self.right, self.most = left, right, most

    def __call__(self, value: float) -> float:
        inside = min(max(value, -self.most), self.most)
        return self.left + (inside + self.most) / (2 * self.most) * (self.right - self.left)

    def is_inside(self, value: float) -> bool:
        return abs(value) <= self.most


def draw(found: list[Claim], is_wide: bool, is_alone: bool = False) -> str:
    """The plot as an SVG element, or as a file of its own.

    is_wide: labels beside the lines, for screens of a computer; else above them, for a phone.
    """
    width = WIDE if is_wide else NARROW
    most = math.ceil(1.2 * max((abs(claim.paper) for claim in found), default=1.0))
    axis = _Axis(270, width - 190, most) if is_wide else _Axis(24, width - 24, most)
    body, y = _legend(is_wide)
    for size in dict.fromkeys(['full', *(claim.size for claim in found)]):
        chosen = [claim for claim in found if claim.size == size]
        y += 34
        speaks = 'what speaks of the paper' if size == 'full' else 'speaks of itself alone'
        body.append(text(0, y, f'{size.capitalize()} size: {speaks}', 'bold'))
        if not chosen:
            y += 22
            body.append(text(0, y, 'No row yet of the network and recipe of the paper.', 'small'))
            continue
        lines, end = _lines(chosen, axis, y + 8, is_wide)
        body += [*_scale(axis, y + 14, end), *lines]
        y = end + 24
    height = y + 14
    return element(body, width, height, summary(found), is_alone)


def element(body: Iterable[str], width: float, height: float, about: str, is_alone: bool) -> str:
    """An SVG element of a page that has STYLE, or a file that brings it along, with a margin."""
    box, style, space = f'0 0 {width} {height:.0f}', '', ''
    if is_alone:
        space = ' xmlns="http://www.w3.org/2000/svg"'
        box = f'-16 -16 {width + 32} {height + 32:.0f}'
        style = f'<style>{STYLE}</style><rect x="-16" y="-16" width="200%" height="200%" fill="var(--ground)"/>'
    opening = f'<svg{space} class="plot" viewBox="{box}" role="img"'
    return f'{opening} aria-label="{html.escape(about)}">{style}{"".join(body)}</svg>\n'


def summary(found: list[Claim]) -> str:
    """The plot in a sentence, for those who do not see it."""
    kinds = {kind: sum(claim.verdict.kind == kind for claim in found) for kind in KINDS}
    counted = ', '.join(f'{count} {KINDS[kind]}' for kind, count in kinds.items() if count)
    return f'Forest plot of {len(found)} verdicts: {counted}. The table of verdicts has every number.'


def _legend(is_wide: bool) -> tuple[list[str], float]:
    """The marks and what they mean, and where they end."""
    parts, x, y = [], 8.0, 12.0
    entries = [(mark(kind), kind, words) for kind, words in KINDS.items()]
    entries += [(_paper(0, 0), '', "the paper's effect"), (_arrow(6, 0, 1), 'plain', 'beyond the axis')]
    for form, kind, words in entries:
        length = 26 + 6.6 * len(words)
        if x + length > (WIDE if is_wide else NARROW) and x > 8:
            x, y = 8.0, y + 22
        parts.append(
            f'<g class="{kind}" transform="translate({x} {y})">{form}</g>{text(x + 12, y + 4, words, "small")}'
        )
        x += length
    return parts, y


def _lines(found: list[Claim], axis: _Axis, y: float, is_wide: bool) -> tuple[list[str], float]:
    """A heading for every claim and a line for each of our sets; returns also where they end."""
    parts: list[str] = []
    for same in claims_.by_text(found):
        y += 32
        _, _, setting = same[0].table.partition(', ')  # of a claim that is told twice
        words = f'{same[0].table}: {same[0].text}' if is_wide else same[0].text
        parts.append(text(0, y, words, ''))
        if setting and not is_wide:
            y += 16
            parts.append(text(0, y, setting, 'small'))
        for claim in same:
            y += 22
            where = f'{claim.sample} for {claim.test}'
            if is_wide:
                parts.append(text(14, y + 4, where, 'small'))
            else:
                parts.append(text(0, y + 6, f'{where}: {claim.verdict.word}', 'small'))
                y += 22
            parts.append(_line(claim, axis, y, is_wide))
    return parts, y + 12


def _line(claim: Claim, axis: _Axis, y: float, is_wide: bool) -> str:
    """One claim on one set: interval, our effect, the paper's."""
    kind, ends, plain = claim.verdict.kind, claim.interval, claim.effect.interval()
    parts = [f'<title>{html.escape(claims_.sentence([claim]).replace("**", ""))}</title>']
    means = [claim.effect.mean] if claim.effect.by_seed else []
    if ends and plain:
        parts += [_bar(axis, ends, y, 'thin'), _bar(axis, plain, y, 'thick')]
    parts += [f'<g transform="translate({axis(mean):.1f} {y})">{mark(kind)}</g>' for mean in means]
    parts += _arrows(axis, ends or [], means, y)
    parts.append(_paper(axis(claim.paper), y))
    if is_wide:
        parts.append(text(axis.right + 22, y + 4, claim.verdict.word, 'small word'))
    return f'<g class="{kind}">{"".join(parts)}</g>'


def _bar(axis: _Axis, ends: list[float], y: float, name: str) -> str:
    """A line from end to end, as far as it fits."""
    return f'<path class="{name}" d="M{axis(ends[0]):.1f} {y}H{axis(ends[1]):.1f}"/>'


def _arrows(axis: _Axis, ends: list[float], means: list[float], y: float) -> Iterator[str]:
    """An arrow at each end of the axis beyond which a line goes on; outside of a mark that lies beyond it too."""
    for sign in (-1, 1):
        if any(sign * value > axis.most for value in (*ends, *means)):
            room = MARK if any(sign * mean > axis.most for mean in means) else 0
            yield _arrow(axis(sign * axis.most) + sign * room, y, sign)


def _arrow(x: float, y: float, sign: int) -> str:
    """A point to the left (-1) or to the right (1)."""
    return f'<path class="thin" d="M{x - 6 * sign:.1f} {y - 5}L{x:.1f} {y}L{x - 6 * sign:.1f} {y + 5}"/>'


def mark(kind: str) -> str:
    """The form of a verdict, about the origin: disc, diamond, cross, ring, short bar."""
    forms = {
        verdicts.FOR: '<circle class="full" r="5"/>',
        verdicts.PARTLY: '<path class="full" d="M0 -6l6 6l-6 6l-6 -6z"/>',
        verdicts.AGAINST: '<path class="cross" d="M-5 -5l10 10m0 -10l-10 10"/>',
        verdicts.OPEN: '<circle class="hollow" r="5"/>',
        verdicts.BLOCKED: '<rect class="full" x="-1.5" y="-6" width="3" height="12"/>',
    }
    return forms[kind]


def _paper(x: float, y: float) -> str:
    """The paper's effect: a hollow triangle that points at the line."""
    return f'<path class="paper" d="M{x:.1f} {y - 2}l-5 -8h10z"/>'


def _scale(axis: _Axis, top: float, bottom: float) -> Iterable[str]:
    """The line of no effect, and whole decibels."""
    step = max(1, axis.most // (4 if axis.right - axis.left > 500 else 2))
    for value in range(-axis.most // step * step, axis.most + 1, step):
        if axis.is_inside(value):
            x = axis(value)
            yield f'<path class="{"grid" if value else "axis"}" d="M{x:.1f} {top}V{bottom}"/>'
            shown = f'{value:+d} dB' if value else '0'
            yield text(x, bottom + 16, shown, 'small', 'middle')


def text(x: float, y: float, words: str, name: str, anchor: str = 'start') -> str:
    """Words at a place, in a class of STYLE."""
    return f'<text class="{name}" text-anchor="{anchor}" x="{x:g}" y="{y:g}">{html.escape(words)}</text>'
