"""Where images come from: photos with drawn rain, and a user's own pairs or clean + layer files.

A source knows its items by name, gives each whole as uint8 (H, W, 3) pairs for scoring, and random crops of them for
training. Crops and drawn rain are functions of the random generator that is passed in and of nothing else.
"""

import dataclasses
import hashlib
import importlib.util
import pathlib
import threading
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from qsnet_jax import UserError, images, rain

Pair = tuple[np.ndarray, np.ndarray]  # rainy, clean: uint8 (H, W, 3)

# Photos that come with the dependencies, as 'package: file': title and licence. Training and held-out photos share no
# scene.
TRAINING_PHOTOS = {
    'skimage: data/astronaut.png': 'Eileen Collins, NASA; public domain',
    'skimage: data/rocket.jpg': 'Falcon 9 launch, SpaceX; public domain',
    'skimage: data/camera.png': 'Cameraman, Lav Varshney; CC0',
    'skimage: data/coins.png': 'Greek coins, Brooklyn Museum; no known copyright restrictions',
    'skimage: data/brick.png': 'Brick wall, CC0Textures; CC0',
    'skimage: data/gravel.png': 'Gravel, CC0Textures; CC0',
    'skimage: data/grass.png': 'Grass, linolafett; CC0',
}
HELD_OUT_PHOTOS = {
    'skimage: data/chelsea.png': 'Chelsea the cat, Stefan van der Walt; CC0',
    'skimage: data/coffee.png': 'Coffee cup, Rachel Michetti; CC0',
    'matplotlib: mpl-data/sample_data/grace_hopper.jpg': 'Grace Hopper, US Navy; public domain',
}
DRAWN_PER_PHOTO = 4  # rain layers drawn on each held-out photo
DRAWN_SEED = 1911_10810  # of the drawn evaluation sets, the same for everyone; training draws follow config.seed

# How people name their own pairs: pattern of the rainy and of the clean files; what * stands for is the key.
PAIR_LAYOUTS = (
    ('rain-*', 'norain-*'),
    ('rainy/rain-*', 'norain-*'),
    ('input/*', 'target/*'),
    ('rainy/*', 'clean/*'),
    ('rain/*', 'norain/*'),
    ('input/*', 'gt/*'),
)
LAYER_LAYOUT = ('clean/*', 'layer/*')
ROLE_FOLDERS = {'train': ('train',), 'eval': ('val', 'test')}


class Source(Protocol):
    """Items to train on or to score."""

    names: list[str]

    def load(self, index: int) -> Pair:
        """The whole pair `index`."""

    def sample(self, index: int, crop: int, generator: np.random.Generator) -> Pair:
        """A random (crop, crop, 3) patch of item `index`."""

    def fingerprint(self) -> dict[str, Any]:
        """{'count', 'sha256'} of what the items are made from."""


class Cache:
    """Decoded images by path, kept in memory up to a budget in bytes; beyond it each use decodes again."""

    def __init__(self, budget: float):
        self._budget = budget
        self._images: dict[pathlib.Path, np.ndarray] = {}
        self._lock = threading.Lock()

    def read(self, path: pathlib.Path, is_layer: bool = False) -> np.ndarray:
        """uint8 (H, W, 3), or (H, W) for a rain layer. Not to be written to."""
        image = self._images.get(path)
        if image is None:
            image = images.read(path)
            if is_layer:  # one grey layer is added to all channels; reading made it three equal ones
                image = np.ascontiguousarray(image[..., 1])
            with self._lock:
                if path not in self._images and image.nbytes <= self._budget:
                    self._budget -= image.nbytes
                    self._images[path] = image
        return image


@dataclasses.dataclass
class Pairs:
    """Rainy and clean files of equal size."""

    names: list[str]
    rainy: list[pathlib.Path]
    clean: list[pathlib.Path]
    cache: Cache

    def load(self, index: int) -> Pair:
        rainy, clean = self.cache.read(self.rainy[index]), self.cache.read(self.clean[index])
        if rainy.shape != clean.shape:
            raise UserError(
                f'{self.rainy[index]} is {_extent(rainy)} and its clean partner {self.clean[index]} is '
                f'{_extent(clean)}; a pair must have one size.'
            )
        return rainy, clean

    def sample(self, index: int, crop: int, generator: np.random.Generator) -> Pair:
        return _cut_both(*self.load(index), crop, generator)

    def fingerprint(self) -> dict[str, Any]:
        return _fingerprint(len(self.names), {'rainy': self.rainy, 'clean': self.clean})


@dataclasses.dataclass
class Layers:
    """Clean files and grey rain layers: rainy = min(255, clean + layer).

    With `any_layer`, training puts a random layer on each background, shifted and mirrored at random; `load` and
    without it also `sample` use the layer of the same name.
    """

    names: list[str]
    clean: list[pathlib.Path]
    layers: list[pathlib.Path]
    any_layer: bool
    cache: Cache

    def load(self, index: int) -> Pair:
        clean, layer = self.cache.read(self.clean[index]), self.cache.read(self.layers[index], is_layer=True)
        if layer.shape != clean.shape[:2]:
            raise UserError(
                f'{self.layers[index]} is {_extent(layer)} and its background {self.clean[index]} is '
                f'{_extent(clean)}; they must have one size, or set --config.data.any_layer for training.'
            )
        return rain.add_rain(clean, layer), clean

    def sample(self, index: int, crop: int, generator: np.random.Generator) -> Pair:
        if not self.any_layer:
            return _cut_both(*self.load(index), crop, generator)
        clean = self.cache.read(self.clean[index])
        clean = cut(clean, random_window(clean.shape, crop, generator), crop)
        layer = self.cache.read(self.layers[generator.integers(len(self.layers))], is_layer=True)
        layer = cut(layer, random_window(layer.shape, crop, generator), crop)
        layer = layer[:, :: generator.choice((-1, 1))]
        return rain.add_rain(clean, np.ascontiguousarray(layer)), clean

    def fingerprint(self) -> dict[str, Any]:
        return _fingerprint(len(self.names), {'clean': self.clean, 'layer': self.layers})


@dataclasses.dataclass
class Drawn:
    """Clean photos with rain drawn on them; item i is rain layer i on photo i modulo their number.

    `count` items for scoring. In training the rain of every sample is drawn anew at the size of the patch, and colours
    vary: some of the photos are grey, so channels are permuted and scaled.
    """

    style: str
    photos: list[pathlib.Path]
    count: int
    cache: Cache
    names: list[str] = dataclasses.field(init=False)

    def __post_init__(self):
        self.names = [f'{self.photos[i % len(self.photos)].stem}-{i // len(self.photos)}' for i in range(self.count)]

    def load(self, index: int) -> Pair:
        clean = self.cache.read(self.photos[index % len(self.photos)])
        height, width = clean.shape[:2]
        layer = rain.draw_layer(rain.STYLES[self.style], height, width, seed=DRAWN_SEED, index=index)
        return rain.add_rain(clean, layer), clean

    def sample(self, index: int, crop: int, generator: np.random.Generator) -> Pair:
        photo = self.cache.read(self.photos[index % len(self.photos)])
        clean = cut(photo, random_window(photo.shape, crop, generator), crop)
        gains = generator.uniform(0.5, 1.1, 3).astype(np.float32)
        clean = np.minimum(clean[..., generator.permutation(3)] * gains, 255.0).astype(np.uint8)
        seed, number = (int(value) for value in generator.integers(2**31, size=2))
        layer = rain.draw_layer(rain.STYLES[self.style], crop, crop, seed=seed, index=number)
        return rain.add_rain(clean, layer), clean

    def fingerprint(self) -> dict[str, Any]:
        parts = ((name, b''.join(image.tobytes() for image in self.load(i))) for i, name in enumerate(self.names))
        return {'count': self.count, 'sha256': digest(parts)}


def open_source(name: str, data: Any, role: str, cache: Cache) -> Source:
    """The source called `name` in `config.data`; role is 'train' or 'eval'.

    Raises UserError for an unknown name, a missing root, files without a partner and sizes that do not agree.
    """
    base, _, folder = name.partition('/')
    if name.startswith('drawn_') and name.removeprefix('drawn_') in rain.STYLES:
        photos = _photo_paths(TRAINING_PHOTOS if role == 'train' else HELD_OUT_PHOTOS)
        per_photo = 1 if role == 'train' else DRAWN_PER_PHOTO
        return Drawn(name.removeprefix('drawn_'), photos, per_photo * len(photos), cache)
    if base not in ('pairs', 'layers'):
        known = [f'drawn_{style}' for style in rain.STYLES] + ['pairs', 'layers']
        raise UserError(f'Unknown data set {name!r}; known are {", ".join(known)}, the last two also as pairs/FOLDER.')
    root = _root(name, data.root, folder, role)
    if base == 'pairs':
        return _open_pairs(root, data, cache)
    return _open_layers(root, data, role, cache)


def parse_names(names: Any) -> list[tuple[str, float]]:
    """Names with weights from 'a,b:2' or a sequence of such; a weight that is not given is 1."""
    items = names.strip('()[]').split(',') if isinstance(names, str) else list(names)
    parsed = []
    for item in (str(item).strip(' \'"') for item in items):
        name, separator, weight = item.rpartition(':')
        try:
            parsed.append((name, float(weight)) if separator else (item, 1.0))
        except ValueError:
            raise UserError(f'{item!r} is not a data set; expected NAME or NAME:WEIGHT.') from None
    parsed = [(name, weight) for name, weight in parsed if name]
    if not parsed or any(weight <= 0 for _, weight in parsed):
        raise UserError(
            f'{names!r} names no data set with a positive weight; expected for example drawn_light,pairs:2.'
        )
    return parsed


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


def _cut_both(rainy: np.ndarray, clean: np.ndarray, crop: int, generator: np.random.Generator) -> Pair:
    """The same random crop of both sides of a pair."""
    window = random_window(clean.shape, crop, generator)
    return cut(rainy, window, crop), cut(clean, window, crop)


def digest(parts: Iterable[tuple[str, bytes]]) -> str:
    """One hash over named contents, whatever their order: sha256 of the sorted (name, sha256 of content) lines."""
    lines = sorted(f'{name} {hashlib.sha256(content).hexdigest()}' for name, content in parts)
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()


def _photo_paths(photos: dict[str, str]) -> list[pathlib.Path]:
    """Files of the bundled photos, without importing the packages that bring them."""
    paths = []
    for entry in photos:
        package, file = entry.split(': ')
        spec = importlib.util.find_spec(package)
        path = pathlib.Path(spec.origin).parent / file if spec and spec.origin else None
        if path is None or not path.is_file():
            raise UserError(
                f'{entry} is not there; its package is a dependency: pip install -U scikit-image matplotlib.'
            )
        paths.append(path)
    return paths


def _root(name: str, root: str | None, folder: str, role: str) -> pathlib.Path:
    """Folder of a user's files: root/folder, and below it the sub-folder of the role where there is one."""
    if not root:
        raise UserError(f'Data set {name!r} needs the folder of its files: --config.data.root=FOLDER.')
    path = pathlib.Path(root).expanduser() / folder
    if not path.is_dir():
        raise UserError(f'{path} is not a folder; expected the files of data set {name!r} there (--config.data.root).')
    for sub in ROLE_FOLDERS[role]:
        if (path / sub).is_dir():
            return path / sub
    return path


def _open_pairs(root: pathlib.Path, data: Any, cache: Cache) -> Pairs:
    """Pairs by the given patterns, or by the one of PAIR_LAYOUTS whose rainy and clean files are both found."""
    if bool(data.rainy) != bool(data.clean):
        raise UserError('Give both --config.data.rainy and --config.data.clean, or neither.')
    layouts = ((data.rainy, data.clean),) if data.rainy else PAIR_LAYOUTS
    for patterns in layouts:
        rainy, clean = (_match(root, pattern) for pattern in patterns)
        if rainy and clean:
            keys = _pair_keys(root, patterns, rainy, clean)
            _check_sizes([(rainy[key], clean[key]) for key in keys])
            return Pairs(keys, [rainy[key] for key in keys], [clean[key] for key in keys], cache)
    tried = '; '.join(f'{rainy} with {clean}' for rainy, clean in layouts)
    raise UserError(
        f'No pairs under {root}. Tried {tried} (files {", ".join(sorted(images.EXTENSIONS))}). '
        'Name the files by --config.data.rainy and --config.data.clean, for example rainy/*.png and clean/*.png.'
    )


def _open_layers(root: pathlib.Path, data: Any, role: str, cache: Cache) -> Layers:
    """Backgrounds and layers by the given patterns or LAYER_LAYOUT; paired unless any layer suits any background."""
    patterns = (data.clean or LAYER_LAYOUT[0], data.layer or LAYER_LAYOUT[1])
    clean, layers = (_match(root, pattern) for pattern in patterns)
    if not clean or not layers:
        raise UserError(
            f'{len(clean)} backgrounds {patterns[0]} and {len(layers)} rain layers {patterns[1]} under {root}; '
            'expected both. Name the files by --config.data.clean and --config.data.layer.'
        )
    if data.any_layer and role == 'train':
        return Layers(sorted(clean), [clean[key] for key in sorted(clean)], list(layers.values()), True, cache)
    keys = _pair_keys(root, patterns, clean, layers)
    _check_sizes([(clean[key], layers[key]) for key in keys])
    return Layers(keys, [clean[key] for key in keys], [layers[key] for key in keys], False, cache)


def _match(root: pathlib.Path, pattern: str) -> dict[str, pathlib.Path]:
    """Image files under root that match a pattern with one *, by what * stands for, in sorted order."""
    folder, _, name = pattern.rpartition('/')
    if name.count('*') != 1 or '*' in folder:
        raise UserError(f'The pattern {pattern!r} must hold exactly one *, in its last part; it stands for the name.')
    prefix, suffix = name.split('*')
    found: dict[str, pathlib.Path] = {}
    for path in sorted((root / folder).glob('*')):
        stem = path.name if '.' in suffix else path.stem
        is_image = path.suffix.lower() in images.EXTENSIONS and not path.name.startswith('.')
        if is_image and stem.startswith(prefix) and stem.endswith(suffix) and len(stem) > len(prefix) + len(suffix):
            key = stem[len(prefix) : len(stem) - len(suffix)]
            if key in found:
                raise UserError(f'{found[key]} and {path} are both called {key!r}; which of them is meant? Remove one.')
            found[key] = path
    return found


def _pair_keys(root: pathlib.Path, patterns: tuple[str, str], first: dict, second: dict) -> list[str]:
    """Sorted keys that both sides have; files without a partner are an error that names them."""
    orphans = [f'{first[key].name} has no {patterns[1]}' for key in sorted(first.keys() - second.keys())]
    orphans += [f'{second[key].name} has no {patterns[0]}' for key in sorted(second.keys() - first.keys())]
    if orphans:
        raise UserError(
            f'{len(orphans)} files under {root} have no partner: {_first_ten(orphans)}. Add the missing files, remove '
            'these, or name the files by patterns (--config.data.rainy, .clean, .layer).'
        )
    return sorted(first, key=_natural)


def _check_sizes(pairs: list[tuple[pathlib.Path, pathlib.Path]]) -> None:
    """Reads all headers; partners of different size and unreadable files are one error that lists them."""
    problems = []
    for first, second in pairs:
        try:
            sizes = images.size(first), images.size(second)
        except images.ImageError as error:
            problems.append(str(error))
            continue
        if sizes[0] != sizes[1]:
            problems.append(f'{first} is {sizes[0][0]}x{sizes[0][1]} and {second} {sizes[1][0]}x{sizes[1][1]}')
    if problems:
        raise UserError(f'{len(problems)} of {len(pairs)} pairs cannot be used: {_first_ten(problems)}.')


def _fingerprint(count: int, sides: dict[str, list[pathlib.Path]]) -> dict[str, Any]:
    """Count of the items and one hash over the names and contents of all files."""
    parts = ((f'{side}/{path.name}', path.read_bytes()) for side, paths in sides.items() for path in paths)
    return {'count': count, 'sha256': digest(parts)}


def _natural(key: str) -> tuple:
    """Sorts '2' before '10'."""
    return (len(key), key) if key.isdecimal() else (0, key)


def _first_ten(texts: list[str]) -> str:
    """At most ten texts and how many more there are."""
    return '; '.join(texts[:10]) + (f'; and {len(texts) - 10} more' if len(texts) > 10 else '')


def _extent(image: np.ndarray) -> str:
    """'HxW' of an image."""
    return f'{image.shape[0]}x{image.shape[1]}'
