"""What training draws crops from and evaluation scores: pairs, clean + layer files, photos with drawn rain.

A source knows its items by name, gives each whole as uint8 (H, W, 3) pair, and random crops of them. Crops and drawn
rain are functions of the random generator that is passed in and of nothing else.
"""

import dataclasses
import functools
import hashlib
import math
import pathlib
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from qsnet_jax import UserError
from qsnet_jax.data import images, layouts, rain

Pair = tuple[np.ndarray, np.ndarray]  # rainy, clean: uint8 (H, W, 3)
Pictures = dict[Hashable, Callable[[], Any]]
Contents = list[tuple[str, str]]  # names of files or images and the sha256 of their contents

DRAWN_SEED = 1911_10810  # of the drawn evaluation sets, the same for everyone; training draws follow config.seed


class DamagedSet(UserError):
    """A data set that is not whole; the message speaks for all of it, and names the remedy."""


class Source(Protocol):
    """Items to train on or to score."""

    names: list[str]
    groups: list[str]  # of each item what it shares with others, its scene or rain: these are no independent evidence
    notes: dict[str, Any]  # what a result on them must say besides their fingerprint

    def load(self, index: int) -> Pair:
        """The whole pair `index`."""

    def sample(self, index: int, crop: int, generator: np.random.Generator) -> Pair:
        """A random (crop, crop, 3) patch of item `index`."""

    def contents(self, index: int) -> Contents:
        """What item `index` is made from."""

    def pictures(self, index: int) -> Pictures:
        """What item `index` is read from, each with a call that reads it whole."""

    def background(self, index: int) -> str:
        """The hash of the file that holds the clean picture of item `index`."""


def fingerprint(source: Source) -> dict[str, Any]:
    """Over the sorted (name, content hash) lines of all that the items hold, `sha256`; over clean files, `backgrounds`.

    Where they are a part of a source, `whole` says the same of all of it, by which it is known under other names.
    """
    parts = {part for index in range(len(source.names)) for part in source.contents(index)}
    clean = digest(('', source.background(index)) for index in range(len(source.names)))
    found = {'count': len(source.names), 'sha256': digest(parts), 'backgrounds': clean, **source.notes}
    whole = source
    while isinstance(whole, Joined) and whole.whole is not None:
        whole = whole.whole
    if len(whole.names) > len(source.names):
        found['whole'] = {key: value for key, value in fingerprint(whole).items() if key in ('count', 'sha256')}
    return found


def digest(parts: Iterable[tuple[str, str]]) -> str:
    """One hash over names and the hashes of their contents, whatever their order."""
    return sha256('\n'.join(sorted(f'{name} {content}' for name, content in parts)).encode(errors='surrogateescape'))


def sha256(content: bytes) -> str:
    """Hexadecimal digest."""
    return hashlib.sha256(content).hexdigest()


class Cache:
    """Decoded images by key, kept in memory up to a budget in bytes; beyond it each use decodes again."""

    def __init__(self, budget: float):
        self._budget = budget
        self._images: dict[Hashable, np.ndarray] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """What `decode` returns. Not to be written to."""
        image = self._images.get(key)
        if image is None:
            image = decode()
            with self._lock:
                if key not in self._images and image.nbytes <= self._budget:
                    self._budget -= image.nbytes
                    self._images[key] = image
        return image

    def read(self, path: pathlib.Path) -> np.ndarray:
        """An image file, uint8 (H, W, 3)."""
        return self.get(path, functools.partial(images.read, path))

    def read_layer(self, path: pathlib.Path) -> np.ndarray:
        """A rain layer, uint8 (H, W)."""
        return self.get(('layer', path), functools.partial(images.read_layer, path))

    def readers(self, files: Mapping[str, pathlib.Path]) -> Pictures:
        """A call for each file of an item that reads it."""
        return {
            (side == 'layer', path): functools.partial(self.read_layer if side == 'layer' else self.read, path)
            for side, path in files.items()
        }


class _Files:
    """What the sources of image files have in common."""

    def __init__(self, items: list[layouts.Item], cache: Cache):
        self.items, self.cache = items, cache
        self.names = [item.name for item in items]
        self.groups = [item.pair_id for item in items]
        self.notes: dict[str, Any] = {}

    def contents(self, index: int) -> Contents:
        return _file_contents(self.items[index].files)

    def pictures(self, index: int) -> Pictures:
        return self.cache.readers(self.items[index].files)

    def background(self, index: int) -> str:
        return file_hash(self.items[index].files['clean'])


class Pairs(_Files):
    """Rainy and clean files of equal size."""

    def load(self, index: int) -> Pair:
        files = self.items[index].files
        rainy, clean = self.cache.read(files['rainy']), self.cache.read(files['clean'])
        check_equal(rainy.shape, clean.shape, f'{files["rainy"]} and its clean partner {files["clean"]}')
        return rainy, clean

    def sample(self, index: int, crop: int, generator: np.random.Generator) -> Pair:
        return cut_both(self.load(index), crop, generator)


class Layers(_Files):
    """Clean files and grey rain layers of the same names: rainy = min(255, clean + layer)."""

    def load(self, index: int) -> Pair:
        files = self.items[index].files
        clean, layer = self.cache.read(files['clean']), self.cache.read_layer(files['layer'])
        check_equal(clean.shape[:2], layer.shape, f'{files["clean"]} and its layer {files["layer"]}')
        return rain.add_rain(clean, layer), clean

    def sample(self, index: int, crop: int, generator: np.random.Generator) -> Pair:
        return cut_both(self.load(index), crop, generator)


class Variation(NamedTuple):
    """How training varies rain layers, beside shifting and mirroring them.

    factor: they are enlarged and brightened by random factors in [1 / factor, factor]. turn: rotated by up to so many
    degrees. join: share of the samples in which two layers lie together, weighted at random so that the variance stays.
    """

    factor: float = 1.0
    turn: float = 0.0
    join: float = 0.0


class AnyLayer(_Files):
    """Clean files and grey rain layers of any size and number: rainy = min(255, clean + layer).

    Training puts a random layer on each background, shifted, mirrored and varied. For scoring, item i gets number i
    modulo their count of the layers that are as large as its background; where none is, of all, continued by
    reflection.
    """

    def __init__(self, items: list[layouts.Item], layers: list[pathlib.Path], vary: Variation, cache: Cache):
        super().__init__(items, cache)
        self.layers, self.vary = layers, vary

    def load(self, index: int) -> Pair:
        clean = self.cache.read(self.items[index].files['clean'])
        layer = self.cache.read_layer(self.layer_of(index))[: clean.shape[0], : clean.shape[1]]
        missing = [(0, extent - there) for extent, there in zip(clean.shape[:2], layer.shape, strict=True)]
        return rain.add_rain(clean, np.pad(layer, missing, mode='reflect')), clean

    def layer_of(self, index: int) -> pathlib.Path:
        """The layer that item `index` is scored with."""
        height, width = images.size(self.items[index].files['clean'])
        fitting = [i for i, (rows, columns) in enumerate(self._sizes) if rows >= height and columns >= width]
        chosen = fitting or list(range(len(self.layers)))
        return self.layers[chosen[index % len(chosen)]]

    def sample(self, index: int, crop: int, generator: np.random.Generator) -> Pair:
        clean = self.cache.read(self.items[index].files['clean'])
        clean = cut(clean, random_window(clean.shape, crop, generator), crop)
        layer = self._varied_layer(crop, generator)
        if self.vary.join and generator.random() < self.vary.join:
            share = generator.random()
            other = brightened(self._varied_layer(crop, generator), math.sqrt(1 - share))
            layer = cv2.add(brightened(layer, math.sqrt(share)), other)  # up to 255
        return rain.add_rain(clean, layer), clean

    def _varied_layer(self, crop: int, generator: np.random.Generator) -> np.ndarray:
        """A random window (crop, crop) of a random layer, varied."""
        layer, factor = self.cache.read_layer(self.layers[generator.integers(len(self.layers))]), self.vary.factor
        enlarged, gain = factor ** generator.uniform(-1, 1, 2) if factor > 1 else (1.0, 1.0)
        angle = generator.uniform(-self.vary.turn, self.vary.turn) if self.vary.turn else 0.0
        side = max(round(crop / enlarged), 1)
        slant = abs(math.cos(math.radians(angle))) + abs(math.sin(math.radians(angle)))
        window = max(math.ceil(side * slant), 1)  # what a square of `side` reaches when it is turned
        layer = cut(layer, random_window(layer.shape, window, generator), window)
        if angle:
            middle, shift = (window - 1) / 2, (crop - window) / 2
            turn = cv2.getRotationMatrix2D((middle, middle), angle, crop / side) + np.array([[0, 0, shift]] * 2)
            layer = cv2.warpAffine(layer, turn, (crop, crop), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        elif side != crop:
            how = cv2.INTER_LINEAR if side < crop else cv2.INTER_AREA
            layer = cv2.resize(layer, (crop, crop), interpolation=how)
        return brightened(layer[:, :: generator.choice((-1, 1))], gain)

    def contents(self, index: int) -> Contents:
        return _file_contents(self.items[index].files) + self._layer_contents

    def layer_pictures(self) -> Pictures:
        """What any item may get besides, each with a call that reads it whole."""
        return {key: read for path in self.layers for key, read in self.cache.readers({'layer': path}).items()}

    @functools.cached_property
    def _sizes(self) -> list[tuple[int, int]]:
        return [images.size(path) for path in self.layers]

    @functools.cached_property
    def _layer_contents(self) -> Contents:
        return [part for path in self.layers for part in _file_contents({'layer': path})]


@dataclasses.dataclass
class Drawn:
    """Clean photos with rain drawn on them; item i is rain layer i on photo i modulo their number.

    `count` items for scoring. In training the rain of every sample is drawn anew at the size of the patch; with
    `vary_colours`, for the few and partly grey bundled photos, channels are permuted and scaled.
    """

    style: str
    photos: list[pathlib.Path]
    count: int
    cache: Cache
    vary_colours: bool
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        scenes = layouts.distinct([path.stem for path in self.photos], [path.name for path in self.photos])
        self.groups = [scenes[i % len(scenes)] for i in range(self.count)]
        self.names = [f'{group}-{i // len(self.photos)}' for i, group in enumerate(self.groups)]
        self._hashes: dict[int, str] = {}

    def load(self, index: int) -> Pair:
        clean = self.cache.read(self.photos[index % len(self.photos)])
        height, width = clean.shape[:2]
        layer = rain.draw_layer(rain.STYLES[self.style], height, width, seed=DRAWN_SEED, index=index)
        return rain.add_rain(clean, layer), clean

    def sample(self, index: int, crop: int, generator: np.random.Generator) -> Pair:
        photo = self.cache.read(self.photos[index % len(self.photos)])
        clean = cut(photo, random_window(photo.shape, crop, generator), crop)
        if self.vary_colours:
            gains = generator.uniform(0.5, 1.1, 3).astype(np.float32)
            clean = np.minimum(clean[..., generator.permutation(3)] * gains, 255.0).astype(np.uint8)
        seed, number = (int(value) for value in generator.integers(2**31, size=2))
        layer = rain.draw_layer(rain.STYLES[self.style], crop, crop, seed=seed, index=number)
        return rain.add_rain(clean, layer), clean

    def contents(self, index: int) -> Contents:
        if index not in self._hashes:
            self._hashes[index] = sha256(b''.join(image.tobytes() for image in self.load(index)))
        return [(self.names[index], self._hashes[index])]

    def pictures(self, index: int) -> Pictures:
        return self.cache.readers({'clean': self.photos[index % len(self.photos)]})

    def background(self, index: int) -> str:
        return file_hash(self.photos[index % len(self.photos)])


class Joined:
    """Chosen items of one or several sources, in the order given: [(prefix of the names, source, indices), ...].

    whole: the source that they are a part of, where the others were left out.
    """

    def __init__(self, parts: list[tuple[str, Source, list[int]]], notes: dict[str, Any], whole: Source | None = None):
        self.notes, self.whole = notes, whole
        self.sources = [source for _, source, _ in parts]
        self._items = [(source, index) for _, source, indices in parts for index in indices]
        self.names = [prefix + source.names[index] for prefix, source, indices in parts for index in indices]
        self.groups = [prefix + source.groups[index] for prefix, source, indices in parts for index in indices]

    def load(self, index: int) -> Pair:
        source, own = self._items[index]
        return source.load(own)

    def sample(self, index: int, crop: int, generator: np.random.Generator) -> Pair:
        source, own = self._items[index]
        return source.sample(own, crop, generator)

    def contents(self, index: int) -> Contents:
        source, own = self._items[index]
        return source.contents(own)

    def pictures(self, index: int) -> Pictures:
        source, own = self._items[index]
        return source.pictures(own)

    def background(self, index: int) -> str:
        source, own = self._items[index]
        return source.background(own)


def random_window(shape: tuple[int, ...], crop: int, generator: np.random.Generator) -> tuple[int, int]:
    """Upper left corner of a uniformly drawn crop; 0 along an axis that is shorter than the crop."""
    height, width = shape[:2]
    return int(generator.integers(max(height - crop, 0) + 1)), int(generator.integers(max(width - crop, 0) + 1))


def cut(image: np.ndarray, window: tuple[int, int], crop: int) -> np.ndarray:
    """(crop, crop, ...) from `window` on, what is missing of it filled by reflection at the lower and right edge."""
    top, left = window
    patch = image[top : top + crop, left : left + crop]
    missing = [(0, crop - extent) for extent in patch.shape[:2]] + [(0, 0)] * (patch.ndim - 2)
    return np.pad(patch, missing, mode='reflect') if patch.shape[:2] != (crop, crop) else patch


def cut_both(pair: Pair, crop: int, generator: np.random.Generator) -> Pair:
    """The same random crop of both sides of a pair."""
    window = random_window(pair[0].shape, crop, generator)
    return cut(pair[0], window, crop), cut(pair[1], window, crop)


def brightened(image: np.ndarray, gain: float) -> np.ndarray:
    """A uint8 image times `gain`, rounded and cut off at 255."""
    return np.minimum(np.rint(image * np.float32(gain)), 255.0).astype(np.uint8)


def check_equal(first: tuple[int, ...], second: tuple[int, ...], what: str) -> None:
    """Refuses two images of different size."""
    if first != second:
        raise UserError(f'{what} are {first[0]}x{first[1]} and {second[0]}x{second[1]}; they must have one size.')


def file_hash(path: pathlib.Path) -> str:
    """sha256 of a file, computed once as long as the file does not change."""
    stat = path.stat()
    return _file_hash(path, stat.st_size, stat.st_mtime_ns)


@functools.cache
def _file_hash(path: pathlib.Path, size: int, changed: int) -> str:
    return sha256(path.read_bytes())


def _file_contents(files: dict[str, pathlib.Path]) -> Contents:
    """(side/name, hash) of each file."""
    return [(f'{side}/{path.name}', file_hash(path)) for side, path in files.items()]
