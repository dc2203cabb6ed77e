"""Manual downloads of public sets: which folder is which set and split, and whether its files are all there.

Nothing is guessed from counts. A folder belongs to a set if it has one of the set's names; a folder without any set's
name belongs to the set that the user says it is.
"""

import collections
import concurrent.futures
import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from qsnet_jax import UserError, progress
from qsnet_jax.data import images, kinds, layouts, sources

GENERIC = ('train', 'training', 'val', 'test', 'testing', 'test_syn')  # folders that every set may have
_SWAPPED = 1.1  # clean halves with this many times the edges of the rainy ones: the sides are the other way round


@dataclasses.dataclass(frozen=True)
class Split:
    """Number of pairs at the publisher's (None: unknown) and the names of the folder, any of them, in any case."""

    count: int | None
    folders: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a publisher hands out, and how people hold it on disk."""

    folders: Mapping[
        str, str | None
    ]  # names of its folder, lower case, no punctuation -> the split lying there, if one
    whole: str | None  # the split that files lying in a folder without such a name are
    splits: Mapping[str, Split]
    layouts: tuple[layouts.Layout, ...]
    parts: Mapping[str, tuple[str, ...]] = dataclasses.field(
        default_factory=dict
    )  # sub-folders of a split, any of them
    clean_half: str = ''  # 'left' or 'right' in files that hold both
    seam: int = 0  # columns left out on either side of the seam, and so at both sides of the pair
    rainy_per_clean: int = 1
    input_rgb: float | None = None  # known PSNR of the rainy images, dB


@dataclasses.dataclass
class Scan:
    """What was found of a set: items by split, what is wrong, the layout of the last split."""

    layout: layouts.Layout
    splits: dict[str, list[layouts.Item]]
    problems: list[str]


@dataclasses.dataclass(frozen=True)
class File:
    """One image file as it was when it was checked."""

    sha256: str
    size: int  # bytes
    shape: tuple[int, int]
    edges: tuple[float, float]  # mean horizontal slope of the left and of the right half


def kind(layout: layouts.Layout) -> str:
    """'halves', 'triplets' or 'pairs'."""
    return 'halves' if 'image' in layout else 'triplets' if 'layer' in layout else 'pairs'


def find_splits(
    name: str, specs: Mapping[str, Spec], root: pathlib.Path, must_be_named: bool
) -> dict[str, pathlib.Path]:
    """Folder of each split of the set `name` below root.

    Looks in the root's sub-folders of the set's names, in train/NAME, test/NAME and the like, and, where neither the
    root nor a folder in it has the name of another set, in the root itself (not with `must_be_named`).
    Raises UserError where two folders hold one split.
    """
    spec = specs[name]
    named = named_folders(spec, root)
    others = {alias for other in specs.values() for alias in other.folders} - spec.folders.keys()
    deep = [inner for path in _folders(root, True) for inner in _folders(path)]
    inside = {_plain(path.name) for path in (root.resolve(), *_folders(root, True), *deep)}
    is_anonymous = not named and not must_be_named and not others & inside
    found: dict[str, pathlib.Path] = {}
    homes = [(path, spec.folders[_plain(path.name)], True) for path in named] + [(root, None, is_anonymous)] * (
        root.resolve() not in named
    )
    for home, whole, is_own in homes:
        here = {split: path for split in spec.splits if (path := _split_folder(spec, split, home, is_own))}
        whole = whole or (spec.whole if not here else None)
        if is_own and whole and whole not in here and _holds(spec, home, whole_beside=bool(here)):
            here[whole] = home
        for split, path in here.items():
            if split in found and found[split] != path:
                raise UserError(f'{found[split]} and {path} both hold {name}/{split}. Name one by --config.data.root.')
            found[split] = path
    return found


def named_folders(spec: Spec, root: pathlib.Path) -> list[pathlib.Path]:
    """Folders of the set's names: the root, those in it, those in such a one (archives that unpack to NAME/NAME)."""
    named = [path for path in (root.resolve(), *_folders(root, True)) if _plain(path.name) in spec.folders]
    for path in named:
        named += [inner for inner in _folders(path, True) if _plain(inner.name) in spec.folders and inner not in named]
    outer = {path.parent for path in named}
    return [path for path in named if path not in outer]


def scan(name: str, spec: Spec, folders: Mapping[str, pathlib.Path]) -> Scan:
    """Files of each split, from their names alone.

    Raises UserError where no split has files in a known layout, and where splits are of different kinds.
    """
    result, refusals = Scan({}, {}, []), []
    for split, folder in folders.items():
        items: list[layouts.Item] = []
        for prefix, path in _part_folders(spec, folder):
            try:
                found = layouts.find(path, spec.layouts)
            except UserError as error:
                refusals.append(error)
                other = '; for another split alone, name its folder by --config.data.root' if len(folders) > 1 else ''
                result.problems.append(f'{split}: {str(error).removesuffix(".")}{other}')
                continue
            if result.layout and kind(result.layout) != kind(found.layout):
                raise UserError(
                    f'{name}: {layouts.describe(result.layout)} and {layouts.describe(found.layout)} (in {path}) are '
                    'files of two kinds. Take one of them away.'
                )
            result.layout = found.layout
            result.problems += [f'{split}: {problem}' for problem in found.problems]
            items += [layouts.Item(prefix + item.name, prefix + item.pair_id, item.files) for item in found.items]
        result.splits[split] = items
    if not result.layout:
        raise refusals[0]
    return result


def inspect(name: str, spec: Spec, found: Scan, is_partial: bool) -> dict[pathlib.Path, File]:
    """Every file, read and decoded. Raises one UserError for all that is wrong."""
    problems = found.problems + ([] if is_partial else _count_problems(spec, found))
    items = [item for split in found.splits.values() for item in split]
    paths = list(dict.fromkeys(path for item in items for path in item.files.values()))
    files: dict[pathlib.Path, File] = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        records = zip(paths, pool.map(_read, paths), strict=True)
        for path, result in progress.bar(records, f'checking {name}', len(paths), unit='file'):
            if isinstance(result, str):
                problems.append(result)
            else:
                files[path] = result
    for item in items:
        problems += _size_problems(spec, item, {path: files[path] for path in item.files.values() if path in files})
    if kind(found.layout) == 'halves' and files:
        left, right = np.mean([file.edges for file in files.values()], axis=0)
        clean, rainy = (left, right) if spec.clean_half == 'left' else (right, left)
        if clean > _SWAPPED * rainy:
            problems.append(
                f'the {spec.clean_half} halves, which are clean in {name}, have more edges than the others (mean slope '
                f'{clean:.1f} and {rainy:.1f}): is it another set?'
            )
    remedy = f'Layouts tried: {"; ".join(layouts.describe(layout) for layout in spec.layouts)}. Nothing was written.'
    layouts.refuse(problems, name, found.layout, remedy)
    return files


def stamp(found: Scan, with_hashes: bool) -> set[tuple]:
    """Names and sizes, or hashes, of all files, to tell whether they are those that were prepared."""
    result = set()
    for split, items in found.splits.items():
        for item in items:
            for side, path in item.files.items():
                try:
                    size = path.stat().st_size
                    content = sources.file_hash(path) if with_hashes else ''
                except OSError as error:
                    raise UserError(f'{path} cannot be read: {error}.') from error
                result.add((split, item.name, side, path.name, size, content))
    return result


def _split_folder(spec: Spec, split: str, home: pathlib.Path, is_own: bool) -> pathlib.Path | None:
    """Folder of a split: one with files in a known layout, or else, where the home is the set's, the first there."""
    existing = []
    for folder in spec.splits[split].folders:
        inside = [path for path in _folders(layouts.below(home, folder)) if _plain(path.name) in spec.folders]
        own = layouts.below(home, folder) if is_own or folder.lower() not in GENERIC else None
        existing += [*inside, *([own] if own else [])]
    return next((path for path in existing if _holds(spec, path)), existing[0] if existing and is_own else None)


def _holds(spec: Spec, folder: pathlib.Path, whole_beside: bool = False) -> bool:
    """Whether a folder has files in a known layout; beside folders of splits, pictures alone do not make one."""
    known = [layout for layout in spec.layouts if not (whole_beside and kind(layout) == 'halves')]
    for _, path in _part_folders(spec, folder):
        try:
            layouts.find(path, known)
            return True
        except UserError:
            continue
    return False


def _part_folders(spec: Spec, folder: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """Folder of each part, with the prefix of its names; the folder itself where it has no parts."""
    found = []
    for part, names in spec.parts.items():
        path = next((path for name in names if (path := layouts.below(folder, name))), None)
        found += [(f'{part}-', path)] if path else []
    return found or [('', folder)]


def _read(path: pathlib.Path) -> File | str:
    """An image file's record; what is wrong with it as text."""
    try:
        content = path.read_bytes()
        image = images.decode(content, str(path))
    except (images.ImageError, OSError) as error:
        return str(error)
    middle = max(image.shape[1] // 2, 1)
    edges = [
        np.abs(np.diff(half.astype(np.int16), axis=1)).mean() if half.shape[1] > 1 else 0.0
        for half in (image[:, :middle], image[:, middle:])
    ]
    return File(sources.sha256(content), len(content), image.shape[:2], (float(edges[0]), float(edges[1])))


def _size_problems(spec: Spec, item: layouts.Item, files: Mapping[pathlib.Path, File]) -> list[str]:
    """Unequal sizes, and halves that cannot be halved."""
    if len({file.shape for file in files.values()}) > 1:
        return [' and '.join(f'{path} is {file.shape[0]}x{file.shape[1]}' for path, file in files.items())]
    halves = 2 if 'image' in item.files else 1
    for path, file in files.items():
        width = file.shape[1]
        if width % halves:
            return [f'{path} is {width} pixels wide, which makes no two halves']
        if width // halves <= 2 * spec.seam:
            return [f'{path} is {width} pixels wide; nothing is left of it without the {spec.seam} columns at the seam']
    return []


def _count_problems(spec: Spec, found: Scan) -> list[str]:
    """Numbers that are not the publisher's."""
    remedy = 'Complete it, or take what is there by --config.data.partial'
    problems = [
        f'{split}: {len(items)} pairs, the publisher has {spec.splits[split].count}. {remedy}'
        for split, items in found.splits.items()
        if spec.splits[split].count not in (None, len(items))
    ]
    for split, items in found.splits.items():
        counts = collections.Counter(item.pair_id for item in items)
        problems += [
            f'{split}: clean image {key} has {count} rainy images, expected {spec.rainy_per_clean}. {remedy}'
            for key, count in counts.items()
            if count != spec.rainy_per_clean
        ]
    return problems


def _folders(folder: pathlib.Path | None, is_needed: bool = False) -> list[pathlib.Path]:
    """Sub-folders, sorted, but for hidden ones and a system's; of a folder that may not be listed none.

    Raises UserError for such a one with `is_needed`: the root, and folders of the set's names.
    """
    try:
        return [path for path in layouts.children(folder) if os.path.isdir(path) and not kinds.is_hidden(path.name)]
    except UserError:
        if is_needed:
            raise
        return []


def _plain(name: str) -> str:
    """Lower case without punctuation."""
    return re.sub(r'[^a-z0-9]', '', name.lower())
