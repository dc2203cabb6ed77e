"""Backgrounds that two data sets share, found by content: what was trained on must not be scored.

Each clean image is reduced to a small grey picture without its coarse shading; two of them are compared by normalised
correlation, as they are and mirrored. That finds copies that were resized, brightened, compressed or flipped; it does
not find a crop of another picture.
"""

import concurrent.futures
import os

import cv2
import numpy as np

from qsnet_jax import UserError, progress
from qsnet_jax.data import sources

SIZE = 32  # pixels, both sides, of the small pictures
SHADING = 4.0  # sigma in these pixels; what is coarser is removed, or two photos with a bright sky would look alike
BLOCK = 1024  # signatures compared at once: bounds the memory
THRESHOLD = 0.7  # of the correlation: strangers in BSDS reach .5, brightened, halved and recompressed copies fall to .9


def signature(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> float32 (SIZE, SIZE) of mean 0 and norm 1, or 0 where the image is plain."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    small = cv2.resize(grey, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    fine = small - cv2.GaussianBlur(small, (0, 0), SHADING, borderType=cv2.BORDER_REFLECT)
    fine -= fine.mean()
    norm = np.linalg.norm(fine)
    return fine / norm if norm > 1.0 else np.zeros_like(fine)


def signatures(name: str, source: sources.Source) -> np.ndarray:
    """float32 (items, SIZE, SIZE) of the clean images of a source."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda index: signature(np.ascontiguousarray(source.load(index)[1])), range(len(source.names)))
        return np.stack(list(progress.bar(found, f'comparing {name}', len(source.names), unit='image')))


def shared(first: np.ndarray, second: np.ndarray) -> list[tuple[int, int, float]]:
    """(index in first, index in second, correlation) of each signature of `first` that has its like in `second`."""
    flat, found = second.reshape(len(second), -1), []
    for begin in range(0, len(first), BLOCK):
        block = first[begin : begin + BLOCK]
        best = np.full((len(block), len(second)), -1.0, np.float32)
        for picture in (block, block[:, ::-1], block[:, :, ::-1], block[:, ::-1, ::-1]):
            np.maximum(best, picture.reshape(len(block), -1) @ flat.T, out=best)
        partner = best.argmax(axis=1)
        correlation = best[np.arange(len(block)), partner]
        alike = np.flatnonzero(correlation >= THRESHOLD).tolist()
        found += [(begin + i, int(partner[i]), float(correlation[i])) for i in alike]
    return found


def refuse_one_folder(opened: dict[str, sources.Source], held_out: dict[str, sources.Source], root: str | None) -> None:
    """Raises UserError where a held-out set has every background file of another: one folder is read for both."""
    held = {name: _backgrounds(source) for name, source in held_out.items()}
    for name, source in opened.items():
        own = _backgrounds(source)
        for other, files in held.items():
            if own <= files:
                raise UserError(
                    f'Training on {name} and evaluation on {other} would both read the same files in {root}, or '
                    'copies of them, and training leaves them out (--config.data.exclude). Make train/ and val/ there, '
                    'of different scenes.'
                )


def _backgrounds(source: sources.Source) -> set[str]:
    """Hashes of the files that hold its clean pictures."""
    return {source.background(index) for index in range(len(source.names))}


def without_shared(name: str, source: sources.Source, held_out: dict[str, np.ndarray]) -> sources.Source:
    """The items of a source whose backgrounds are in no held-out set (their signatures by name); prints how many."""
    own = signatures(name, source)
    notes = dict(source.notes)
    dropped: set[int] = set()
    for other, held in held_out.items():
        found = {index for index, _, _ in shared(own, held)}
        if found:
            print(f'training {name}: {len(found)} of {len(own)} items share a background with {other} and are left out')
        notes[f'without_{other}'] = len(found)
        dropped |= found
    if not dropped:
        print(f'training {name}: none of {len(own)} items shares a background with {", ".join(held_out)}')
    if len(dropped) == len(own):
        raise UserError(f'Nothing is left of {name} without {", ".join(held_out)} (--config.data.exclude).')
    kept = [index for index in range(len(own)) if index not in dropped]
    return sources.Joined([('', source, kept)], notes, source)
