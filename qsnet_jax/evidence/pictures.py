"""Pictures of the report: what the default weights do to rain drawn on photos that no training saw."""

import pathlib
from typing import Any

import numpy as np

from qsnet_jax import derain, storage
from qsnet_jax.data import images, rain, sets, sources
from qsnet_jax.evidence import page


def items(results: pathlib.Path) -> list[Any]:
    """What the default weights do to drawn rain on photos that come with the dependencies: no numbers, pictures."""
    derainer = derain.load()
    found: list[Any] = [page.Heading('Pictures'), page.Text(
        'The default weights on rain drawn on photos that no training saw: ' +
        '; '.join(sets.HELD_OUT_PHOTOS.values()) + '. Drag the line.')]  # fmt: skip
    pairs, sheet = [], None
    for number, style in enumerate(rain.STYLES):
        source = sets.open_source(f'drawn_{style}', None, 'eval', sources.Cache(0))
        rainy, _ = source.load(number)
        outputs = derainer.restore(rainy, scales=True)
        pairs.append((rainy, outputs[0], f'{style} rain, {source.names[number]}: rainy and restored'))
        sheet = _scales_sheet(rainy, outputs) if sheet is None else sheet
    path = results / 'figures' / 'scales.jpg'
    storage.write_bytes(path, page.jpeg(np.asarray(sheet)))
    caption = 'Above: rainy, restored, and what C_1 to C_5 alone decode; below: four times the rain that each removed'
    return [*found, page.Sliders(pairs), page.Figure(path, caption)]


def _scales_sheet(rainy: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Two rows of pictures: restored ones, and four times the rain that each removed."""
    shown = [rainy, *outputs]
    removed = [
        images.to_uint8(4.0 * np.clip(images.to_float(rainy) - images.to_float(each), 0.0, 0.25)) for each in shown
    ]
    return np.concatenate([np.concatenate(row, axis=1) for row in (shown, removed)])[::2, ::2]
