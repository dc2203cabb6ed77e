"""Images for figures, by name: of a photo, of a folder with or without its true images, of data sets."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from qsnet_jax import UserError, storage
from qsnet_jax import photos as photo_folders
from qsnet_jax.data import checking, images, layouts, sets, sources
from qsnet_jax.evidence import methods, plates


@dataclasses.dataclass
class Shown:
    """An image as it was read, and the part of it that is shown; uint8 (H, W, 3)."""

    name: str
    whole: np.ndarray
    truth: np.ndarray | None
    window: plates.Window | None

    def __post_init__(self) -> None:
        self.cut(self.whole)  # raises for a window that reaches beyond

    @property
    def rainy(self) -> np.ndarray:
        return self.cut(self.whole)

    @property
    def clean(self) -> np.ndarray | None:
        return None if self.truth is None else self.cut(self.truth)

    def cut(self, image: np.ndarray) -> np.ndarray:
        """The part shown."""
        return self.window.cut(image, self.name) if self.window else image

    def describe(self) -> dict[str, Any]:
        window = dataclasses.asdict(self.window) if self.window else None
        content = sources.sha256(self.whole.tobytes())
        return {'name': self.name, 'height': len(self.whole), 'width': self.whole.shape[1], 'sha256': content,
                'shown': window}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Photo:
    """An image that can be read."""

    name: str
    load: Callable[[], tuple[np.ndarray, np.ndarray | None]]  # rainy, clean
    files: Callable[[], list[pathlib.Path]]  # that these come from

    def read(self, window: plates.Window | None) -> Shown:
        return Shown(self.name, *self.load(), window)


@dataclasses.dataclass(frozen=True)
class Found:
    """Images, what they are called together, and whether the true ones are known."""

    name: str
    photos: list[Photo]
    has_clean: bool


def find(source: str | None, config: Any, clean: str | None) -> Found:
    """The photo, the photos below a folder, or those of the sets of `config.data.eval`.

    Raises UserError where there is none, or a true image is missing.
    """
    if source is None:
        if config is None:
            raise UserError('Say which photos: --input=FILE_OR_FOLDER, or --config=NAME for its --config.data.eval.')
        if clean:
            raise UserError('--clean goes with --input; data sets have their true images themselves.')
        return _of_sets(config)
    base = storage.expanded(source)
    found = photo_folders.find_photos(base)
    if found.failures:
        raise UserError(f'{len(found.failures)} photos cannot be shown: {"; ".join(found.failures[:10])}.')
    files, base = found.photos, found.base
    relative = [file.relative_to(base) for file in files]
    names = layouts.distinct([str(path.with_suffix('')) for path in relative], [str(path) for path in relative])
    truths = methods.Place.parse(clean, 'clean').find(names, methods.CLEAN) if clean else {}
    missing = [name for name in names if clean and name not in truths]
    if missing:
        raise UserError(f'--clean={clean} lacks the true image of {", ".join(missing[:10])}; expected equal names.')
    own = [name for name, file in zip(names, files, strict=True)
           if name in truths and layouts.is_one_file(file, truths[name])]  # fmt: skip
    if own:
        raise UserError(
            f'--clean={clean} finds the photos themselves as their true images: {", ".join(own[:10])}. Name the folder '
            'of the true ones.'
        )
    photos = [
        Photo(name, _reader(file, truths.get(name)), functools.partial(_present, file, truths.get(name)))
        for name, file in zip(names, files, strict=True)
    ]
    name = storage.expanded(source).resolve()
    return Found(name.stem if name.is_file() else name.name, photos, bool(clean))


def _present(*files: pathlib.Path | None) -> list[pathlib.Path]:
    """Those that there are."""
    return [file for file in files if file]


def _files_of(source: sources.Source, index: int) -> list[pathlib.Path]:
    """What an item of a set is read from, where these are files of its own."""
    parts = [key if isinstance(key, tuple) else (key,) for key in (*source.pictures(index), *checking.layers(source))]
    return [part for key in parts for part in key if isinstance(part, pathlib.Path)]


def _reader(file: pathlib.Path, truth: pathlib.Path | None) -> Callable[[], tuple[np.ndarray, np.ndarray | None]]:
    def load() -> tuple[np.ndarray, np.ndarray | None]:
        rainy = images.open_photo(file).rgb
        if truth is None:
            return rainy, None
        clean = images.read(truth)
        sources.check_equal(rainy.shape, clean.shape, f'{file} and its true image {truth}')
        return rainy, clean

    return load


def _of_sets(config: Any) -> Found:
    """One image of each set after the other, each set begun one image later, so that the first show sets and scenes."""
    opened = sets.open_evaluation(config.data, config.data.eval, sources.Cache(0))
    found = []
    for index in range(max(len(source.names) for source in opened.values())):
        for offset, (name, source) in enumerate(opened.items()):
            if index < len(source.names):
                at = (index + offset) % len(source.names)
                label = f'{name}-{source.names[at]}' if len(opened) > 1 else source.names[at]
                found.append((label.replace('/', '-'), f'{name}/{source.names[at]}', source, at))
    names = layouts.distinct([label for label, *_ in found], [full for _, full, *_ in found])
    photos = [
        Photo(name, functools.partial(source.load, at), functools.partial(_files_of, source, at))
        for name, (*_, source, at) in zip(names, found, strict=True)
    ]
    return Found('-'.join(opened).replace('/', '-'), photos, True)
