"""Methods to score and to show side by side: folders of any program's results, and networks of ours.

A method is written FOLDER, FOLDER/PATTERN, WEIGHTS or RUN, with NAME= in front where the last part of the path is no
name to show: `PReNet=results/prenet`, `theirs=out/*_result.png`, `light`, `V1=runs/small/V1-0`. A folder that holds
weights is a run; any other holds results, which are found by the name of the image. * stands for that name. A path that
exists is taken whole, even if its name holds =, * or a comma.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from qsnet_jax import UserError, derain, spelling, storage
from qsnet_jax.data import images, layouts, sources
from qsnet_jax.weights import files, reading

# How results are called, of an image called *; + is the number of a rainy version.
PATTERNS = ('*', 'rain-*', 'norain-*', '*_+')
RAINY, CLEAN = ('*', 'rain-*', '*_+'), ('*', 'norain-*', '*_+')  # how images of these sides may be called
RUN = reading.RUN
MOST_COMMAS = 8  # in one path


class Method(Protocol):
    """Restores images, by itself or by having done so."""

    label: str

    def expect(self, names: Sequence[str]) -> None:
        """Says, before any is restored, what all images are called that may be."""

    def restore(self, name: str, rainy: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) of the rainy image called `name`."""

    def files(self) -> list[pathlib.Path]:
        """What it reads for the images that are expected."""

    def describe(self) -> dict[str, Any]:
        """What a result must say of it."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder of images, and the pattern of their names where one is given."""

    folder: pathlib.Path
    pattern: str | None = None

    @classmethod
    def parse(cls, text: str, flag: str) -> 'Place':
        """Of FOLDER or FOLDER/PATTERN. Raises UserError where there is no such folder."""
        path = storage.expanded(text)
        folder, pattern = (path.parent, path.name) if _is_pattern(path) else (path, None)
        if not folder.is_dir():
            raise UserError(f'--{flag}={text}: {folder} is not a folder; expected one with images, or FOLDER/PATTERN.')
        return cls(folder, pattern)

    def find(self, names: Sequence[str], patterns: Sequence[str] = PATTERNS) -> dict[str, pathlib.Path]:
        """The files of the images called so, by name, under the pattern that finds most; those that are not there lack.

        Raises UserError where two files have one name, and where two patterns find as many, but other files.
        """
        best: dict[str, pathlib.Path] = {}
        chosen = rival = None
        for pattern in [self.pattern] if self.pattern else patterns:
            problems: list[str] = []
            matched = layouts.match(self.folder, pattern, problems)
            by_name = {f'{key}_{number}' if number else key: path for (key, number), path in matched.items()}
            found = {name: by_name[key] for name in names if (key := spelling.composed(name)) in by_name}
            if len(found) > len(best):
                layouts.refuse(problems, f'the images in {self.folder}', {'image': pattern}, 'Remove one of each.')
                best, chosen, rival = found, pattern, None
            elif len(found) == len(best) and found != best:
                rival = pattern
        if rival:
            raise UserError(
                f'{self.folder} holds {len(best)} images called like {chosen} and as many like {rival}. Name the '
                f'pattern too, as in {self.folder / str(chosen)}.'
            )
        return best


class Folder:
    """What another program made."""

    def __init__(self, label: str, place: Place):
        self.label, self.place = label, place
        self._used: dict[str, str] = {}
        self._found: dict[str, pathlib.Path] = {}
        self._missing: list[str] = []

    def expect(self, names: Sequence[str]) -> None:
        self._found = self.place.find(names)
        self._missing = [name for name in names if name not in self._found]

    def restore(self, name: str, rainy: np.ndarray) -> np.ndarray:
        if name not in self._found:
            shown = self.place.pattern or ' or '.join(PATTERNS)
            missing = self._missing or [name]
            rest = f' and {len(missing) - 10} more' if len(missing) > 10 else ''
            raise UserError(
                f'{self.label}: {self.place.folder} holds no result of '
                f'{", ".join(map(spelling.quoted, missing[:10]))}{rest}; expected files called like {shown} with * for '
                'that name, all of them by one pattern.'
            )
        path = self._found[name]
        restored = images.read(path)
        sources.check_equal(rainy.shape, restored.shape, f'The image {spelling.quoted(name)} and {path}')
        self._used[path.name] = sources.file_hash(path)
        return restored

    def files(self) -> list[pathlib.Path]:
        return list(self._found.values())

    def describe(self) -> dict[str, Any]:
        digest = sources.digest(self._used.items())
        return {'label': self.label, 'folder': self.place.folder.name, 'count': len(self._used), 'sha256': digest}


class Network:
    """A network of ours."""

    def __init__(self, label: str, path: pathlib.Path):
        self.label, self.path = label, path

    @functools.cached_property
    def derainer(self) -> derain.Derainer:
        return derain.load(str(self.path))

    def expect(self, names: Sequence[str]) -> None:
        pass

    def restore(self, name: str, rainy: np.ndarray) -> np.ndarray:
        return self.derainer(rainy)

    def restore_scales(self, rainy: np.ndarray) -> np.ndarray:
        """uint8 (1 + scales, H, W, 3): the result, and what each scale alone decodes."""
        return self.derainer.restore(rainy, scales=True)

    def files(self) -> list[pathlib.Path]:
        return [self.path]

    def describe(self) -> dict[str, Any]:
        record = files.load_record(self.path)
        told: dict[str, Any] = {key: record[key] for key in ('commit', 'seed') if key in record}
        return {'label': self.label, 'weights': self.path.name, 'sha256': sources.file_hash(self.path), **told}


def parse(text: str) -> Method:
    """The method that a text names, see above. Raises UserError where it names none."""
    label, where = _label_and_place(text)
    if not where:
        raise UserError(f'{spelling.quoted(text)} names no method (a variable that is not set, or a comma too many?).')
    path = storage.expanded(where)
    try:
        holds_run = (path / RUN).is_file()
    except PermissionError as error:  # a folder that may be listed and not entered
        raise UserError(f'{path} cannot be read: {error.strerror}. {storage.remedy(error, True)}.') from error
    if _is_pattern(path) or (path.is_dir() and not holds_run):
        if (path / 'checkpoints').is_dir() and (path / 'run.json').is_file():
            raise UserError(
                f'The run in {where} has no weights yet: {RUN} comes at its end. Give the command that trains it '
                'again, which goes on from its latest checkpoint, or leave it out.'
            )
        place = Place.parse(where, 'methods')
        return Folder(label or place.folder.resolve().name, place)
    found = path / RUN if path.is_dir() else files.find_weights(where)
    if not found.is_file():
        raise UserError(
            f'The method {spelling.quoted(text)} is neither a folder nor weights; expected FOLDER, a file of weights, '
            f'a run that holds {RUN}, or one of {", ".join(files.names())}; NAME= in front gives it a name.'
        )
    return Network(label or (path.resolve().name if path.is_dir() else path.stem), found)


def _label_and_place(text: str) -> tuple[str, str]:
    """'' and a path that exists, else what is before and behind the first =."""
    label, separator, where = text.partition('=')
    if not separator or _exists(text.strip()):
        return '', text.strip()
    return label.strip(), where.strip()


def _exists(text: str) -> bool:
    """Whether a path is there, or the folder of a pattern that is written with it."""
    path = storage.expanded(text)
    is_whole = _is_pattern(path) and ',' not in path.name and path.parent != pathlib.Path()
    return os.path.exists(path) or (is_whole and path.parent.is_dir())


def _is_pattern(path: pathlib.Path) -> bool:
    """Whether the last part of a path is a pattern, and not the name of what is there."""
    return '*' in path.name and not os.path.exists(path)


def split(text: str) -> list[str]:
    """The methods of 'A,NAME=B', of which the path of one that is there may hold commas itself."""
    parts, found = text.split(','), []
    while parts:
        joined = (n for n in range(min(len(parts), MOST_COMMAS + 1), 1, -1) if _is_one(','.join(parts[:n])))
        count = next(joined, 1)
        found.append(','.join(parts[:count]))
        parts = parts[count:]
    return found


def _is_one(text: str) -> bool:
    """Whether a text with commas is one method."""
    label, where = _label_and_place(text)
    return ',' not in label and ',' in where and _exists(where)


def parse_all(texts: Sequence[str]) -> list[Method]:
    """The methods, in order. Raises UserError where two have one name."""
    methods = [parse(text) for text in texts]
    labels = [method.label for method in methods]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UserError(
            f'Two methods are called {spelling.quoted(twice[0])}; tell them apart by a name in front, as in ours=light.'
        )
    return methods
