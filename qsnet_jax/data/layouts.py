"""How the images of a set lie in folders: patterns that pair files by key, and the checks before they are used."""

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from qsnet_jax import UserError, outputs, spelling, storage
from qsnet_jax.data import images, kinds

# Pattern of the files of each side: 'rainy', 'clean', 'layer', or 'image' for files that hold rainy and clean side by
# side. What * stands for is the key that pairs them; where several rainy images share one clean image, + stands for the
# number that tells them apart.
Layout: TypeAlias = Mapping[str, str]

PAIRS = (
    {'rainy': 'rain-*', 'clean': 'norain-*'},
    {'rainy': 'rainy/rain-*', 'clean': 'norain-*'},
    {'rainy': 'input/*', 'clean': 'target/*'},
    {'rainy': 'rainy/*', 'clean': 'clean/*'},
    {'rainy': 'rain/*', 'clean': 'norain/*'},
    {'rainy': 'input/*', 'clean': 'gt/*'},
)
SEVERAL = (  # rainy images of one clean one
    {'rainy': 'rainy_image/*_+', 'clean': 'ground_truth/*'},
    {'rainy': 'rainy image/*_+', 'clean': 'ground truth/*'},
    *({**layout, 'rainy': layout['rainy'] + '_+'} for layout in PAIRS if layout['rainy'].endswith('/*')),
)
LAYERS = {'clean': 'clean/*', 'layer': 'layer/*'}
# The sub-folders that training and evaluation take, in any case: the first that is there.
ROLES = {
    'train': ('train', 'training'),
    'eval': ('test', 'testing', 'val'),
    'validation': ('val', 'test', 'testing'),
}


@dataclasses.dataclass(frozen=True)
class Item:
    """One rainy image: its name in the set, the key of its clean image, and its files by side."""

    name: str
    pair_id: str
    files: dict[str, pathlib.Path]


@dataclasses.dataclass
class Found:
    """Items of a folder, the layout they were found by, and what is wrong with them."""

    layout: Layout
    items: list[Item]
    problems: list[str]


def describe(layout: Layout) -> str:
    """'rain-* with norain-*'."""
    if len(layout) > 1 and set(layout.values()) == {'*'}:
        return ' and '.join(layout) + ' images of equal names'
    return ' with '.join(layout.values()) + (' (both halves in one file)' if 'image' in layout else '')


def find(root: pathlib.Path | Mapping[str, pathlib.Path], layouts: Iterable[Layout], remedy: str = '') -> Found:
    """Files under root, paired by the layout that pairs most of them; those without a partner become problems.

    root: or a folder for each side, {'rainy': ..., 'clean': ...}. remedy: where no layout does.
    Raises UserError with the number of files found for each layout tried where none has files on all sides.
    """
    tried, found = [], []
    left: dict[str, None] = {}  # problems of all layouts, each once
    for layout in layouts:
        problems: list[str] = []
        roots = root if isinstance(root, Mapping) else dict.fromkeys(layout, root)
        sides = {side: match(roots[side], pattern, problems) for side, pattern in layout.items()}
        left |= dict.fromkeys(problems)
        if all(sides.values()):
            found.append(_pair(layout, sides, problems))
        tried.append(f'{describe(layout)} ({" and ".join(str(len(files)) for files in sides.values())} files)')
    if found:
        return max(found, key=lambda candidate: (len(candidate.items), -len(candidate.problems)))
    folders = ' and '.join(dict.fromkeys(map(str, root.values()))) if isinstance(root, Mapping) else root
    raise UserError(
        f'No images to pair under {folders}. {remedy}Tried {"; ".join(tried)}; files are '
        f'{", ".join(sorted(images.EXTENSIONS))}. * stands for the key that pairs them, + for the '
        'number of one of several rainy images.' + ''.join(f' Not read: {problem}.' for problem in [*left][:3])
    )


def match(root: pathlib.Path, pattern: str, problems: list[str]) -> dict[tuple[str, str], pathlib.Path]:
    """Image files under root that match a pattern, by (key, number), sorted as people count.

    Adds second files of one key, names of several lines, pictures of kinds that are not read and, in FOLDER/*_+, those
    without a number to the problems. Raises UserError for a pattern without exactly one * in its last part.
    """
    folder, _, name = pattern.rpartition('/')
    if name.count('*') != 1 or '*' in folder:
        raise UserError(
            f'The pattern {spelling.quoted(pattern)} must hold exactly one *, in its last part; it stands for the name.'
        )
    escaped = re.escape(spelling.composed(name))
    expression = re.compile(escaped.replace(r'\*', '(?P<key>.+)').replace(r'\+', r'(?P<number>\d+)'), re.DOTALL)
    with_extension = '.' in name.partition('*')[2]
    found: dict[tuple[str, str], pathlib.Path] = {}
    unnumbered: list[str] = []
    home = below(root, folder)

    def key_of(path: pathlib.Path) -> tuple[str, str] | None:
        matched = expression.fullmatch(spelling.composed(path.name if with_extension else path.stem))
        return (matched['key'], matched.groupdict().get('number', '')) if matched else None

    for path in image_files(home):
        key = key_of(path)
        if key and any(character in path.name for character in '\n\r'):
            problems.append(f'{spelling.quoted(path)} has a line break in its name')
        elif key:
            if key in found:
                problems.append(f'{found[key]} and {path} are both called {spelling.quoted(key[0])}')
            found[key] = path
        elif folder and name == '*_+':
            unnumbered.append(f'{path} is not called {pattern}')
    problems += unnumbered if found else []
    problems += of_other_kinds(home, found, key_of)
    return {key: found[key] for key in sorted(found, key=lambda pair: (natural(pair[0]), natural(pair[1])))}


def below(folder: pathlib.Path, names: str) -> pathlib.Path | None:
    """The sub-folder of that name, or of those names one in another, in any case; the folder itself for ''.

    Raises UserError where it is a link to where nothing is.
    """
    found: pathlib.Path | None = folder
    for name in names.split('/') if names else ():
        alike = [path for path in children(found) if path.name.lower() == name.lower()]
        for path in alike:
            storage.refuse_link_to_nowhere(path, 'Mend the link, or remove it')
        alike = [path for path in alike if os.path.isdir(path)]
        found = next((path for path in alike if path.name == name), alike[0]) if alike else None
    return found


def role_folders(folder: pathlib.Path, role: str) -> list[pathlib.Path]:
    """The sub-folders for a role, one of ROLES, that are there; it takes the first."""
    return [path for name in ROLES[role] if (path := below(folder, name))]


def children(folder: pathlib.Path | None) -> list[pathlib.Path]:
    """What lies in a folder, sorted; nothing where it is none. Raises UserError where it may not be read."""
    try:
        return sorted(folder.iterdir()) if folder and folder.is_dir() else []
    except OSError as error:
        raise UserError(
            f'The folder of images {folder} cannot be read: {error.strerror}. {storage.remedy(error, True)}.'
        ) from error


def image_files(folder: pathlib.Path | None, extensions: Sequence[str] = images.EXTENSIONS) -> list[pathlib.Path]:
    """The folder's image files, sorted; neither hidden ones nor, beside a result, what was removed from it."""
    found = {path.name: path for path in children(folder)}
    removed = {spelling.with_ending(name, outputs.ENDING) for name in found}
    return [
        path
        for name, path in found.items()
        if spelling.extension(path) in extensions and not name.startswith('.') and name not in removed
    ]


def of_other_kinds(
    folder: pathlib.Path | None, taken: Container[Any], key_of: Callable[[pathlib.Path], Any]
) -> list[str]:
    """Problems: pictures of a key but of no kind that is read, such as HEIC; not where that key is taken."""
    return [
        f'{spelling.quoted(path)} is of a kind that is not read; convert it, or take it away'
        for path in image_files(folder, kinds.REFUSED)
        if (key := key_of(path)) and key not in taken
    ]


def unreadable(items: Iterable[Item], measure: Callable[[pathlib.Path], tuple[int, ...]] = images.size) -> list[str]:
    """Problems that the files show: unreadable ones, and items whose files differ in size.

    measure: says the height and width of a file; `images.size` reads its header alone.
    """
    problems = []
    for item in items:
        try:
            sizes = {path: measure(path) for path in item.files.values()}
        except images.ImageError as error:
            problems.append(str(error))
            continue
        if len(set(sizes.values())) > 1:
            problems.append(' and '.join(f'{path} is {height}x{width}' for path, (height, width) in sizes.items()))
    return problems


def refuse(problems: list[str], what: str, layout: Layout, remedy: str) -> None:
    """Raises one UserError for all problems, if there are any: the first ten and their number."""
    if problems:
        rest = f'; and {len(problems) - 10} more' if len(problems) > 10 else ''
        raise UserError(
            f'{len(problems)} {"problems" if len(problems) > 1 else "problem"} with {what}, recognised as '
            f'{describe(layout)}: {"; ".join(problems[:10])}{rest}. {remedy}'
        )


def find_checked(root: pathlib.Path, known: Iterable[Layout], other: str) -> Found:
    """Paired files whose headers say that they can be read and have one size."""
    known = list(known)
    mine = f"--config.data.{other}='FOLDER/*_{other}.png' --config.data.clean='FOLDER/*_clean.png'"
    has_own = len(known) == 1 and known[0] != LAYERS
    found = find(root, known, '' if has_own else f'Write how yours are called, as {mine}. ')
    refuse(
        found.problems + unreadable(found.items),
        f'the images under {root}',
        found.layout,
        f'Add what is missing, remove the rest, or name the files by --config.data.clean and --config.data.{other}.',
    )
    return found


def distinct(short: list[str], full: list[str]) -> list[str]:
    """The short name of each, or the full one where another has the same; full names are distinct."""
    counts = collections.Counter(short)
    names = [other if counts[name] > 1 else name for name, other in zip(short, full, strict=True)]
    return names if names == short else distinct(names, full)  # again: a full name may be the short one of another


def natural(text: str) -> tuple:
    """Sorts '2' before '10'."""
    return tuple((0, int(part), '') if part.isdecimal() else (1, 0, part) for part in re.split(r'(\d+)', text) if part)


def is_one_file(*paths: pathlib.Path) -> bool:
    """Whether two of the paths lead to the same file, directly or by links."""
    return len({os.path.realpath(path) for path in paths}) < len(paths)


def _pair(layout: Layout, sides: dict[str, dict[tuple[str, str], pathlib.Path]], problems: list[str]) -> Found:
    """Items of the keys that all sides have; the files of others are problems."""
    keys = {side: {key for key, _ in files} for side, files in sides.items()}
    problems = problems + [
        f'{path.name} has no {f"{other} image of that name" if layout[other] == "*" else layout[other]}'
        for side, files in sides.items()
        for (key, _), path in files.items()
        for other in sides
        if key not in keys[other]
    ]
    first, *others = sides
    by_key = {side: {key: path for (key, _), path in sides[side].items()} for side in others}
    items = [
        Item(f'{key}_{number}' if number else key, key, {first: path} | {side: by_key[side][key] for side in others})
        for (key, number), path in sides[first].items()
        if all(key in keys[side] for side in others)
    ]
    lone = {item.name for item in items if is_one_file(*item.files.values())}
    problems += [f'{item.files[first]} would be its own partner' for item in items if item.name in lone]
    return Found(layout, [item for item in items if item.name not in lone], problems)
