"""Pictures side by side with captions, pixel for pixel where they fit, and curves below them."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import matplotlib.figure
import numpy as np

from qsnet_jax import UserError, spelling

SIDE = 420  # pixels; longer sides are shrunk to this
DPI = 110
GAP, CAPTION, CURVES = 6, 20, 260  # pixels: between pictures, above them, height of a row of curves


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @classmethod
    def parse(cls, text: str | None) -> 'Window | None':
        """Of 'LEFT,TOP,WIDTH,HEIGHT'."""
        if not text:
            return None
        try:
            window = cls(*(int(part) for part in text.split(',')))
        except (ValueError, TypeError):
            raise UserError(f'--crop={text}; expected LEFT,TOP,WIDTH,HEIGHT in pixels.') from None
        if min(window.left, window.top) < 0 or min(window.width, window.height) < 1:
            raise UserError(f'--crop={text} is no part of an image; expected LEFT,TOP,WIDTH,HEIGHT in pixels.')
        return window

    def cut(self, image: np.ndarray, name: str) -> np.ndarray:
        """(height, width, 3). Raises UserError where the image is too small."""
        height, width = image.shape[:2]
        if self.left + self.width > width or self.top + self.height > height:
            raise UserError(
                f'--crop={self.left},{self.top},{self.width},{self.height} reaches beyond {name}, which is '
                f'{width} wide and {height} high.'
            )
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclasses.dataclass(frozen=True)
class Tile:
    """A picture, uint8 (H, W, 3), and its caption."""

    caption: str
    image: np.ndarray

    @property
    def shown(self) -> np.ndarray:
        """At most SIDE pixels long, and at least half of that where whole multiples of the pixels allow."""
        longest = max(self.image.shape[:2])
        if longest > SIDE:
            height, width = (max(round(extent * SIDE / longest), 1) for extent in self.image.shape[:2])
            return cv2.resize(self.image, (width, height), interpolation=cv2.INTER_AREA)
        factor = max(SIDE // 2 // longest, 1)
        return np.repeat(np.repeat(self.image, factor, axis=0), factor, axis=1)


def grid(
    rows: Sequence[Sequence[Tile | None]], below: Sequence[Sequence[Callable[[Any], None]]] | None = None
) -> matplotlib.figure.Figure:
    """Rows of pictures, one image pixel a pixel of the figure; columns are as wide as their widest.

    below: for each row what draws the curves under its pictures.
    """
    pictures = [[tile.shown if tile else None for tile in row] for row in rows]
    columns = max(len(row) for row in rows)
    widths = [
        max((row[c].shape[1] for row in pictures if c < len(row) and row[c] is not None), default=1)  # type: ignore[union-attr]
        for c in range(columns)
    ]
    heights = [max(picture.shape[0] for picture in row if picture is not None) + CAPTION for row in pictures]
    curves = CURVES if below else 0
    total = (sum(widths) + GAP * (columns + 1), sum(heights) + (GAP + curves) * len(rows) + GAP)
    figure = matplotlib.figure.Figure(figsize=(total[0] / DPI, total[1] / DPI), dpi=DPI)
    top = GAP
    for number, (row, shown) in enumerate(zip(rows, pictures, strict=True)):
        left = GAP
        for column, picture in enumerate(shown):
            tile = row[column]
            if picture is not None and tile is not None:
                _place(
                    figure, total, (left, top), picture, drawn(_fitting(spelling.shown(tile.caption), widths[column]))
                )
            if below:
                box = (left + 42, top + heights[number] + 12, widths[column] - 50, curves - 50)
                axis = figure.add_axes(_box(total, box))
                axis.tick_params(labelsize=7)
                below[number][column](axis)
                axis.xaxis.label.set_fontsize(7)
                axis.yaxis.label.set_fontsize(7)
            left += widths[column] + GAP
        top += heights[number] + GAP + curves
    return figure


def drawn(name: str) -> str:
    """A name as matplotlib is to draw it: spelled as in messages, and never taken for a formula between dollars."""
    return spelling.shown(name).replace('$', r'\$')


def _place(
    figure: matplotlib.figure.Figure, total: tuple[int, int], corner: tuple[int, int], picture: np.ndarray, caption: str
) -> None:
    """One picture with its caption above."""
    left, top = corner
    figure.text((left + 2) / total[0], 1 - (top + CAPTION / 2) / total[1], caption, fontsize=8, va='center')
    height, width = picture.shape[:2]
    axis = figure.add_axes(_box(total, (left, top + CAPTION, width, height)))
    axis.imshow(picture, interpolation='none', aspect='auto')
    axis.axis('off')


def _box(total: tuple[int, int], box: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    """(left, top, width, height) in pixels from the upper left corner, as matplotlib counts."""
    left, top, width, height = box
    return left / total[0], 1 - (top + height) / total[1], max(width, 1) / total[0], height / total[1]


def _fitting(caption: str, width: int) -> str:
    """What of a caption fits above a picture, at about 6 pixels a letter."""
    room = max(math.floor(width / 6.2), 3)
    return caption if len(caption) <= room else f'{caption[: room - 1]}…'
