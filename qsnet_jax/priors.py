"""The quasi-sparsity prior of Sec. 3: derivative filters, their responses, and the density they are modelled by."""

import numpy as np


def _kernels(*kernels):
    """Read-only float64 arrays, because FILTERS is shared by everybody."""
    arrays = tuple(np.array(kernel, dtype=np.float64) for kernel in kernels)
    for array in arrays:
        array.setflags(write=False)
    return arrays


# The filters of the prior (Eqs. 6 to 9; Eq. 3, which introduces it, was not read). What was read says "first or second
# order derivatives"; two orientations of two degrees are those of Levin & Weiss (TPAMI 2007), whose prior it adopts.
# Nothing is normalised: on a ramp of slope 1 a Sobel filter answers 8 where [1, -1] answers 1, so a loss weight tuned
# for one set does not fit the other.
FILTERS: dict[str, tuple[np.ndarray, ...]] = {
    'derivative': _kernels([[1, -1]], [[1], [-1]], [[-1, 2, -1]], [[-1], [2], [-1]]),
    'sobel': _kernels([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]),
}


def respond(images, kernel: np.ndarray):
    """Filter response per channel, (B, H, W, C) with a kernel (h, w) -> (B, H - h + 1, W - w + 1, C).

    The kernel is correlated, not flipped as the paper's * would have it: for the symmetric and antisymmetric kernels of
    FILTERS that changes at most the sign, and only absolute values are ever used. Only positions with the whole kernel
    inside the image count, since padding would charge invented edges to the frame; an image smaller than the kernel
    has no such position and its response has size zero. Works on NumPy and JAX arrays and keeps floating dtypes.
    """
    height = max(images.shape[-3] - kernel.shape[0] + 1, 0)
    width = max(images.shape[-2] - kernel.shape[1] + 1, 0)
    # Shifted slices fuse into the reduction that follows; a convolution with C groups is many times slower on CPU.
    return sum(
        float(kernel[row, column]) * images[..., row : row + height, column : column + width, :]
        for row, column in np.argwhere(kernel)
    )


def quasi_sparse_density(response, scale: float, weight: float = 0.5):
    """P_q of a filter response, elementwise (NumPy). Eq. (2): (pi / s) exp(-|x| / s) with s = `scale`, pi = `weight`.

    Drawn beside the log-histograms of the sparsity study, with the s of greatest likelihood: the mean of |x|.
    The paper leaves pi free, but this integrates to 2 pi: it is a density, the Laplacian, only for pi = 1/2.
    """
    return weight / scale * np.exp(-np.abs(response) / scale)


def log_histogram(response, bins: int = 64, is_signed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Log-histogram of responses: centres of the bins and log counts, both (<= bins,). Sec. 3.1, Fig. 2.

    The bins are equally wide from 0 up to the largest magnitude or, of signed responses, from minus that to that, and
    then odd in number (`bins_of`); empty ones are left out. Raises ValueError for no response and for responses that
    are all 0, whose histogram is a point.
    """
    values = np.asarray(response, np.float64).ravel()
    values = values if is_signed else np.abs(values)
    largest = np.abs(values).max(initial=0.0)
    if not largest:
        raise ValueError('The response is empty or 0 everywhere; it has no histogram to compare with a line.')
    counts, edges = np.histogram(values, bins_of(bins, is_signed), (-largest if is_signed else 0.0, largest))
    held = counts > 0
    return ((edges[1:] + edges[:-1]) / 2)[held], np.log(counts[held])


def bins_of(bins: int, is_signed: bool) -> int:
    """The number of bins of a histogram: of signed responses an odd one, or 0 would be the edge of a bin."""
    return bins + 1 if is_signed and bins % 2 == 0 else bins


def chord(centres: np.ndarray, curve: np.ndarray, is_signed: bool = False) -> np.ndarray:
    """The straight line through the maximum and the (last) minimum of a log-histogram, at its bins. Sec. 3.1.

    Of signed responses there are two, one to each side of the maximum.
    """
    high = int(np.argmax(curve))
    if is_signed:
        left = chord(-centres[high::-1], curve[high::-1])
        return np.concatenate([left[:0:-1], chord(centres[high:], curve[high:])])
    low = _lowest(curve)
    if high == low:
        return curve.copy()
    slope = (curve[low] - curve[high]) / (centres[low] - centres[high])
    return curve[high] + slope * (centres - centres[high])


def _lowest(curve: np.ndarray) -> int:
    """Where the last minimum is."""
    return len(curve) - 1 - int(np.argmin(curve[::-1]))


def sparsity(response, bins: int = 64, is_signed: bool = False) -> dict[str, float | bool]:
    """Whether responses are sparser than a Laplacian, whose log-histogram is its own chord. Sec. 3.1.

    Returns `excess`, the mean of curve - chord in nats; `mean`, whether it is below 0; `every`, whether there are bins
    beside the ends of the chords and all are below them. The paper does not say which of the two it means by "sparse".
    """
    centres, curve = log_histogram(response, bins, is_signed)
    above, high = curve - chord(centres, curve, is_signed), int(np.argmax(curve))
    ends = [high, _lowest(curve)]
    if is_signed:
        ends = [high, high + _lowest(curve[high:]), high - _lowest(curve[high::-1])]
    excess, between = float(above.mean()), np.delete(above, ends)
    return {'excess': excess, 'mean': excess < 0, 'every': bool(between.size and (between < 0).all())}
