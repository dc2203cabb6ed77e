"""PSNR and SSIM of one 8-bit image pair; averaging over a data set is the caller's.

Every score is taken under a named protocol, because papers mix two that differ by more than a decibel:

  rgb  PSNR over all three channels together; SSIM of each channel, averaged.
  y    both on the luma of MATLAB's rgb2ycbcr (16..235), in double precision and not rounded; the peak stays 255.

The images are the 8-bit ones that would be saved: clip and round first. SSIM follows Wang et al. 2004 without their
later script's down-sampling of large images.
"""

import math
import os

import cv2
import numpy as np

PROTOCOLS = ('rgb', 'y')
MEASURES = ('psnr', 'ssim')
PEAK = 255.0

# SSIM as in Wang et al. 2004: 11x11 Gaussian window, K1 = .01, K2 = .03.
WINDOW = 11
_SIGMA = 1.5
_C1 = (0.01 * PEAK) ** 2
_C2 = (0.03 * PEAK) ** 2

# The first row of MATLAB's rgb2ycbcr, for channels in 0..255; white is 235, black is 16.
_LUMA = np.array([65.481, 128.553, 24.966]) / 255.0
_LUMA_OFFSET = 16.0


def psnr(restored: np.ndarray, clean: np.ndarray, protocol: str) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 (H, W, 3) RGB images; `inf` if the protocol sees no difference."""
    restored, clean = _planes(restored, clean, protocol)
    mean_square = float(np.mean(np.square(restored - clean)))
    if mean_square == 0.0:
        return math.inf
    return 10.0 * math.log10(PEAK**2 / mean_square)


def ssim(restored: np.ndarray, clean: np.ndarray, protocol: str) -> float:
    """Structural similarity of two uint8 (H, W, 3) RGB images, in [-1, 1]; exactly 1 for identical ones.

    Only windows that lie inside the image count, so both sides must be at least 11 pixels: anything smaller has no
    SSIM and is refused.
    """
    restored, clean = _planes(restored, clean, protocol)
    height, width = clean.shape[:2]
    if min(height, width) < WINDOW:
        raise ValueError(
            f'SSIM needs at least {WINDOW}x{WINDOW} pixels, its window; found {height}x{width} (height x width). '
            'Score this pair with psnr only, or leave it out.'
        )
    mean_x, mean_y = _window_mean(restored), _window_mean(clean)
    # Variances occur only as their sum, so one map of x^2 + y^2 replaces two. Moments are those of the population: the
    # weights sum to one and there is no N / (N - 1).
    squares = mean_x * mean_x + mean_y * mean_y
    product = 2.0 * (mean_x * mean_y)
    variances = _window_mean(restored * restored + clean * clean) - squares
    covariance = 2.0 * _window_mean(restored * clean) - product
    similarity = ((product + _C1) * (covariance + _C2)) / ((squares + _C1) * (variances + _C2))
    return float(np.mean(similarity))


def score(restored: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """{'rgb_psnr', 'rgb_ssim', 'y_psnr', 'y_ssim'} of one uint8 (H, W, 3) image; SSIM is NaN below 11 pixels."""
    restored, clean = _checked(restored, 'restored'), _checked(clean, 'clean')
    has_ssim = min(clean.shape[:2]) >= WINDOW
    scores = {}
    for protocol in PROTOCOLS:
        scores[f'{protocol}_psnr'] = psnr(restored, clean, protocol)
        scores[f'{protocol}_ssim'] = ssim(restored, clean, protocol) if has_ssim else math.nan
    return scores


def luma(image: np.ndarray) -> np.ndarray:
    """MATLAB's rgb2ycbcr luma, uint8 (H, W, 3) RGB -> float64 (H, W) in [16, 235], not rounded."""
    return _checked(image, 'image').astype(np.float64) @ _LUMA + _LUMA_OFFSET


def _planes(restored, clean, protocol):
    """Checks a pair and returns what the protocol compares: float64 (H, W, 3) for rgb, (H, W) for y."""
    if protocol not in PROTOCOLS:
        raise ValueError(f'Unknown protocol {protocol!r}; choose one of {PROTOCOLS}.')
    restored, clean = _checked(restored, 'restored'), _checked(clean, 'clean')
    if restored.shape != clean.shape:
        raise ValueError(
            f'The images of a pair must be of one size; found restored {restored.shape} and clean {clean.shape}. '
            'Check the pairing, or crop the padding off the restored image.'
        )
    if protocol == 'y':
        return luma(restored), luma(clean)
    return restored.astype(np.float64), clean.astype(np.float64)


def _checked(image, name):
    """The image as an array, refused unless it is a non-empty uint8 (H, W, 3)."""
    if isinstance(image, str | os.PathLike):
        raise TypeError(f'{name} is the path {image}; give the image, as qsnet_jax.images.read(path) returns it.')
    if image is None or isinstance(image, bytes | np.ma.MaskedArray):
        raise TypeError(f'{name} is {type(image).__name__}; expected an array of pixels, all of which count.')
    if isinstance(mode := getattr(image, 'mode', None), str) and mode != 'RGB':
        raise TypeError(f"{name} is a Pillow image of mode {mode}; give image.convert('RGB').")
    try:
        image = np.asarray(image)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of different lengths; a tensor with its gradient
        raise TypeError(f'{name} is no array of pixels: {error}.') from error
    if image.dtype != np.uint8:
        levels = 'np.clip(np.round(x), 0, 255).astype(np.uint8)'
        way = f'. Give {levels} of 0 to 255' if image.dtype.kind in 'iuf' else ''
        if image.dtype.kind == 'f':
            way += ', qsnet_jax.images.to_uint8(x) of 0 to 1'
        elif way and image.dtype.itemsize > 1:
            way += ', (x // 257).astype(np.uint8) of 16 bits'
        raise TypeError(f'{name} must be uint8, the image as it would be saved; found {image.dtype}{way}.')
    if image.ndim != 3 or image.shape[-1] != 3 or image.size == 0:
        raise ValueError(
            f'{name} must be one RGB image (H, W, 3); found shape {image.shape}. '
            'Pass the images of a batch one by one; repeat a grey channel three times; drop an alpha channel.'
        )
    return image


def _gaussian():
    """The separable half of the window, float64 (11,), summing to one."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2.0 * _SIGMA**2))
    return weights / weights.sum()


def _window_mean(plane):
    """Gaussian-weighted mean in every window inside the image; (H, W[, 3]) -> (H - 10, W - 10[, 3])."""
    weights = _gaussian()
    blurred = cv2.sepFilter2D(plane, cv2.CV_64F, weights, weights)
    margin = WINDOW // 2  # where OpenCV invents pixels beyond the border
    return blurred[margin:-margin, margin:-margin]
