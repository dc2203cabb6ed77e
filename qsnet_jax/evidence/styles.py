"""How the curves of a plot are told apart: by colour, mark and dash, so that nobody has to see colours.

Dotted lines are left to references.
"""

from typing import Any

COLOURS = 10  # of matplotlib's cycle
MARKS = ('o', 's', 'D', '^', 'v', 'P', 'X')
DASHES = ('-', '--', '-.', (0, (6, 1.5, 1, 1.5, 1, 1.5)))  # no divisor in common with the marks: 28 pairs


def line(number: int) -> dict[str, Any]:
    """Colour and dash of a curve whose points are not marked."""
    return {'color': f'C{number % COLOURS}', 'linestyle': DASHES[number % len(DASHES)]}


def mark(number: int) -> dict[str, Any]:
    """Colour and mark of points."""
    return {'color': f'C{number % COLOURS}', 'marker': MARKS[number % len(MARKS)]}


def both(number: int) -> dict[str, Any]:
    """Colour, dash and mark; of 28 curves no two have the same dash and mark."""
    return {**line(number), **mark(number)}
