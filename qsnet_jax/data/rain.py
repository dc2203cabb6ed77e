"""Streak layers drawn from stated parameters, and the additive model rainy = min(255, clean + layer).

A layer is a grey uint8 image (H, W) of the light that rain adds. Every streak is painted row by row at its own place,
so a layer costs as much as the pixels that its streaks touch inside the frame.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

Range = tuple[float, float]

# Smooth noise in [0, 1] along a streak: falling drops oscillate, which shows as beads of uneven brightness.
_BEAD = 32  # samples, length of a bead in the table
_NOISE = np.random.Generator(np.random.Philox(key=0)).standard_normal(8192)
_RIPPLE = np.convolve(np.tile(_NOISE, 2), np.hanning(_BEAD + 2), 'same')[4096:12288]
_RIPPLE = (_RIPPLE / _RIPPLE.std() / 4 + 0.5).clip(0, 1).astype(np.float32)
_CLUMP = np.array([[25.0], [3.0]])  # px, distance of a streak from its companion: along, across; standard deviations


@dataclasses.dataclass(frozen=True)
class Style:
    """What a kind of rain looks like. "Layer": (low, high), drawn once per layer; "streak": (far, near), per streak."""

    angle: Range  # degrees from the vertical, main direction of a layer; positive falls to the right
    directions: tuple[int, int]  # number of directions in a layer, both ends included
    fan: float  # degrees, the other directions lie within +-fan of the main one
    jitter: float  # degrees, standard deviation of the streaks around their direction
    density: Range  # layer: streaks per megapixel, uniform in the logarithm
    clumps: float  # share of the streaks that fall close beside another one, 0 to 1
    gain: Range  # layer: factor on the brightness of all its streaks
    stretch: Range  # layer: factor on the length of all its streaks
    edge: Range  # layer: sigma of the blur of the streaks' sides, px; 0 is a hard edge
    ripple: Range  # layer: share of a streak's brightness that varies along it, 0 to 1
    length: Range  # streak: px, end to end
    width: Range  # streak: px, at half of the height of its profile across, before the blur of its sides
    brightness: Range  # streak: levels, 0 to 255, before blur and ripple
    depth: float  # 1: as many near streaks as far ones; the larger, the more far ones
    taper: float  # share of the length over which the two ends fade, 0 (flat) to 1 (pointed)

    def __post_init__(self):
        steepest = max(map(abs, self.angle)) + self.fan + 3 * self.jitter
        if steepest > 75:
            raise ValueError(f'streaks are painted row by row: expected angle + fan + 3 jitter <= 75, found {steepest}')


STYLES: dict[str, Style] = {
    'light': Style(
        angle=(-27, 27),
        directions=(1, 1),
        fan=0,
        jitter=1.0,
        density=(6000, 12500),
        clumps=0.6,
        gain=(0.5, 1.4),
        stretch=(0.6, 1.7),
        edge=(0.35, 0.55),
        ripple=(0.6, 1.0),
        length=(12, 90),
        width=(0.8, 3),
        brightness=(34, 225),
        depth=6,
        taper=1,
    ),
    'heavy': Style(
        angle=(-12, 12),
        directions=(1, 3),
        fan=20,
        jitter=1.0,
        density=(9500, 16500),
        clumps=0,
        gain=(0.5, 1.5),
        stretch=(0.7, 1.3),
        edge=(0.1, 0.3),
        ripple=(0, 0.3),
        length=(20, 130),
        width=(1, 3.5),
        brightness=(12, 105),
        depth=1.5,
        taper=0.1,
    ),
    'wide': Style(
        angle=(-30, 30),
        directions=(1, 2),
        fan=10,
        jitter=1.5,
        density=(120, 350),
        clumps=0.2,
        gain=(0.6, 1.4),
        stretch=(0.7, 1.3),
        edge=(1.0, 2.0),
        ripple=(0, 0.6),
        length=(80, 240),
        width=(7, 15),
        brightness=(25, 105),
        depth=2,
        taper=0.6,
    ),
}


def draw_layer(style: Style, height: int, width: int, seed: int, index: int) -> np.ndarray:
    """Draws streaks; uint8 (height, width), a function of the arguments only.

    The frame is a window on endless rain: streaks enter it from outside, and its size changes neither the settings
    that `(seed, index)` draws for the layer nor the distribution of its streaks. But companions (`Style.clumps`) of
    streaks far above and below are not drawn: the outermost rows of `light` have up to 7 % less rain.
    """
    if height < 1 or width < 1:
        raise ValueError(f'height and width must be at least 1, found {height} x {width}')
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, index))))
    density = np.exp(rng.uniform(*np.log(style.density)))
    gain, stretch = rng.uniform(*style.gain), rng.uniform(*style.stretch)
    edge, ripple = rng.uniform(*style.edge), rng.uniform(*style.ripple)
    directions = _draw_directions(style, rng)
    style = dataclasses.replace(
        style, length=_scaled(style.length, stretch), brightness=_scaled(style.brightness, gain)
    )
    streaks = _draw_streaks(style, height, width, density, directions, rng)
    light = _paint(streaks, height, width, edge, ripple, style.taper)
    # Overlapping streaks add softly: full brightness is approached, never clipped.
    return np.rint(255 * (1 - np.exp(light / -255))).astype(np.uint8)


def add_rain(clean: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Adds a layer (H, W) to an image (H, W, 3), both uint8: min(255, clean + layer) in every channel.

    Rain100L, RainTrainL and RainTrainH are exactly of this form.
    """
    if clean.dtype != np.uint8 or clean.ndim != 3 or clean.shape[2] != 3:
        raise ValueError(f'clean: expected uint8 (H, W, 3), found {clean.dtype} {clean.shape}')
    if layer.dtype != np.uint8 or layer.shape != clean.shape[:2]:
        raise ValueError(f'layer: expected uint8 {clean.shape[:2]}, found {layer.dtype} {layer.shape}')
    return np.minimum(clean, 255 - layer[..., None]) + layer[..., None]


def statistics(layers: Sequence[np.ndarray]) -> dict[str, float]:
    """Describes uint8 layers (H, W) of at least 16 x 16 px by numbers that drawn and measured rain share.

    Returns:
        mean: levels. covered, bright: shares of pixels above 8 and 64 levels. p50 to p99.9: percentiles, levels.
        angle: circular mean of the layers' main orientations, degrees from the vertical, positive falls to the right.
        angle_between: circular standard deviation of the layers' main orientations, degrees.
        angle_within: circular standard deviation of the orientation inside a layer, mean over layers, degrees.
        width, length: full width at half maximum of the autocorrelation across and along the main orientation, px,
        median over layers. A box has its own width there, less its share of the frame. NaN where there is no rain.
    """
    if not layers:
        raise ValueError('expected at least one layer, found none')
    for layer in layers:
        if layer.dtype != np.uint8 or layer.ndim != 2 or min(layer.shape) < 16:
            raise ValueError(f'expected uint8 (H, W) of at least 16 x 16, found {layer.dtype} {layer.shape}')
    counts = np.sum([np.bincount(layer.ravel(), minlength=256) for layer in layers], axis=0)
    share = np.cumsum(counts) / counts.sum()
    result = {
        'mean': float(counts @ np.arange(256) / counts.sum()),
        'covered': float(1 - share[8]),
        'bright': float(1 - share[64]),
    }
    for percentile in (50, 75, 90, 95, 99, 99.9):
        result[f'p{percentile:g}'] = float(np.searchsorted(share, percentile / 100))
    shapes = np.array([_shape(layer) for layer in layers if layer.min() != layer.max()]).reshape(-1, 4)
    if not len(shapes):
        return result | dict.fromkeys(('angle', 'angle_between', 'angle_within', 'width', 'length'), np.nan)
    angle, within, width, length = shapes.T
    mean = np.exp(2j * angle).mean()
    return result | {
        'angle': float(np.degrees(np.angle(mean) / 2)),
        'angle_between': float(np.degrees(_circular_deviation(abs(mean)))),
        'angle_within': float(np.degrees(within.mean())),
        'width': float(np.median(width)),
        'length': float(np.median(length)),
    }


def _shape(layer):
    """Measures a layer's main angle and its spread inside the layer (radians), width and length (px)."""
    angle, within = _orientation(layer)
    across, along = (np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))
    correlation = _autocorrelation(layer)
    extents = []
    for x, y in (across, along):
        lag = np.arange(0, min(layer.shape) / 2, 0.05)
        path = np.float32([[layer.shape[1] + lag * x], [layer.shape[0] + lag * y]])
        above = cv2.remap(correlation, *path, cv2.INTER_LINEAR)[0] > 0.5
        extents.append(2 * lag[-1 if above.all() else np.argmin(above)])
    return angle, within, *extents


def _orientation(layer):
    """Measures the main angle and its spread from the structure tensor, radians."""
    image = layer.astype(np.float32)
    dx, dy = cv2.Scharr(image, -1, 1, 0), cv2.Scharr(image, -1, 0, 1)
    # The tensor as a complex number of twice the angle. Its root weighs by brightness, not by its square, so that
    # the orientation of dim streaks counts by their length too.
    tensor = cv2.GaussianBlur(dx * dx - dy * dy, (0, 0), 2) - 1j * cv2.GaussianBlur(2 * dx * dy, (0, 0), 2)
    tensor = tensor[2:-2, 2:-2]  # beyond the frame the derivatives see a mirror image
    weight = np.sqrt(np.abs(tensor))
    mean = (tensor / np.maximum(weight, 1e-6)).sum() / max(weight.sum(), 1e-6)
    return np.angle(mean) / 2, _circular_deviation(abs(mean))


def _autocorrelation(layer):
    """Correlates a layer (H, W) with its shifts; float32 (2H, 2W), 1 at shift zero, which lies at [H, W]."""
    image = layer - layer.mean()
    size = [2 * n for n in image.shape]
    products = np.fft.fftshift(np.fft.irfft2(np.abs(np.fft.rfft2(image, size)) ** 2, size))
    pairs = [np.maximum(n - np.abs(np.arange(-n, n)), 1) for n in image.shape]  # pixels that overlap at a shift
    correlation = products / (pairs[0][:, None] * pairs[1])
    return (correlation / correlation[image.shape]).astype(np.float32)


def _circular_deviation(resultant):
    """Turns the length of a mean vector of doubled angles into the standard deviation of the angles, radians."""
    return np.sqrt(-2 * np.log(np.clip(resultant, 1e-9, 1))) / 2


def _draw_directions(style, rng):
    """Draws the layer's directions; radians (D,), the first is the main one."""
    count = rng.integers(style.directions[0], style.directions[1], endpoint=True)
    offsets = rng.uniform(-style.fan, style.fan, style.directions[1])[:count]
    offsets[0] = 0
    return np.radians(rng.uniform(*style.angle) + offsets)


def _draw_streaks(style, height, width, density, directions, rng):
    """Draws all streaks that can touch the frame; a dict of float32 (N,)."""
    slope = np.tan(np.abs(directions).max() + np.radians(3 * style.jitter))
    margin_y = style.length[1] / 2 + 1
    margin_x = margin_y * slope + 2 * style.width[1] + 8
    frame = np.array([height + 2 * margin_y, width + 2 * margin_x])
    count = rng.poisson(density * frame.prod() / 1e6)
    near, *chance = rng.random((5, count))
    near = near**style.depth
    place = rng.random((count, 2)) * frame
    beside = rng.random(count) < style.clumps
    place[beside] = place[rng.integers(0, max(count, 1), beside.sum())]
    # A companion follows on nearly the same line.
    shift = rng.standard_normal((2, beside.sum())) * _CLUMP
    place[beside] += np.stack([shift[0], shift[1] + shift[0] * np.tan(directions[0])], axis=1)
    # Two thirds of the streaks take the main direction, the rest is shared by all.
    which = rng.integers(-2 * len(directions), len(directions), count).clip(0)
    angle = directions[which] + np.radians(style.jitter) * rng.standard_normal(count).clip(-3, 3)

    def between(bounds, chance):
        # Half depth, half chance: near streaks are longer, wider and brighter, but not all alike.
        return bounds[0] + (bounds[1] - bounds[0]) * near * (1 + chance) / 2

    streaks = {
        'y': place[:, 0] - margin_y,
        'x': place[:, 1] - margin_x,
        'angle': angle,
        'length': between(style.length, chance[0]),
        'width': between(style.width, chance[1]),
        'brightness': between(style.brightness, chance[2]),
        'bead': rng.uniform(2, 8, count),
        'offset': chance[3] * len(_RIPPLE),
    }
    return {name: value.astype(np.float32) for name, value in streaks.items()}


def _paint(streaks, height, width, edge, ripple, taper):
    """Sums the streaks' light; float (height, width)."""
    angle = streaks['angle'].astype(np.float64)  # in which what processors round otherwise is below a float32's digits
    cosine, slope = np.cos(angle).astype(np.float32), np.tan(angle).astype(np.float32)
    half_rows = streaks['length'] * cosine / 2
    # One entry per streak and row of the frame that it crosses.
    top = np.ceil(streaks['y'] - half_rows).clip(0, height).astype(np.int64)
    bottom = np.floor(streaks['y'] + half_rows).clip(-1, height - 1).astype(np.int64)
    counts = (bottom - top + 1).clip(0)
    owner = np.repeat(np.arange(len(counts)), counts)
    row = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts - top, counts)
    below = row.astype(np.float32) - streaks['y'][owner]
    centre = streaks['x'][owner] + below * slope[owner]
    # A smoothstep of this length has the standard deviation `edge`.
    ramp = np.float32(max(edge * np.sqrt(20), 0.1))
    taps = int(np.ceil(((streaks['width'] + ramp) / cosine).max(initial=1))) + 1
    inside = (centre > -taps / 2) & (centre < width - 1 + taps / 2)
    owner, row, below, centre = owner[inside], row[inside], below[inside], centre[inside]

    fade = _smoothstep((1 - np.abs(below) / half_rows[owner]) / np.float32(max(taper, 1e-3)))
    speed = _BEAD / (streaks['bead'] * streaks['width'])  # samples of the ripple per px
    bead = _RIPPLE[(below * speed[owner] + streaks['offset'][owner]).astype(np.int64) % len(_RIPPLE)]
    along = streaks['brightness'][owner] * fade * (1 - np.float32(ripple) * bead)
    # Across: flat, then a ramp down on each side; narrower towards the ends, which rounds them.
    flat = 0.5 + streaks['width'][owner] * np.sqrt(fade) / (2 * ramp)
    first = np.ceil(centre - taps / 2)
    taps_range = np.arange(taps)
    away = np.abs((first - centre)[:, None] + taps_range.astype(np.float32)) * (cosine / ramp)[owner][:, None]
    light = along[:, None] * _smoothstep(flat[:, None] - away)
    # The canvas has `taps` spare columns on both sides, so that no column needs a test.
    stride = width + 2 * taps
    place = (row * stride + taps + first.astype(np.int64))[:, None] + taps_range
    canvas = np.bincount(place.ravel(), light.ravel(), height * stride)
    return canvas.reshape(height, stride)[:, taps : taps + width]


def _scaled(bounds, factor):
    """Scales a range."""
    return bounds[0] * factor, bounds[1] * factor


def _smoothstep(x):
    """Rises smoothly from 0 at 0 to 1 at 1."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
