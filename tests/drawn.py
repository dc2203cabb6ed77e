"""Pictures with rain, drawn by a number."""

import numpy as np

from qsnet_jax.data import rain


def draw_pair(index: int, height: int = 48, width: int = 56) -> tuple[np.ndarray, np.ndarray]:
    """A smooth random picture and the same with drawn rain; uint8 (H, W, 3)."""
    generator = np.random.default_rng(index)
    rows, columns = np.mgrid[:height, :width] / 16
    waves = [np.sin(generator.uniform(0, 2) * rows + generator.uniform(0, 2) * columns) for _ in range(3)]
    clean = np.stack(waves, axis=-1) * 60 + 110
    clean = clean.astype(np.uint8)
    layer = rain.draw_layer(rain.STYLES['light'], height, width, seed=7, index=index)
    return rain.add_rain(clean, layer), clean
