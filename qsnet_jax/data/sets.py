"""Names to sources: what `config.data.train` and `config.data.eval` can call."""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from qsnet_jax import UserError, spelling, storage
from qsnet_jax.data import checking, held_out, layouts, overlap, prepared, public, rain, sources

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

# Test-I of the paper: 100 test pairs of each of these sets. Which is unpublished, so ours are drawn once by this seed.
TEST_I = ('rain1200', 'rain800', 'rain1400')
TEST_I_COUNT = 100
TEST_I_SEED = 1911_10810
TEST_I_FILE = pathlib.Path(__file__).parent / 'test_i.txt'
STAND_IN = 'test_iii_stand_in'
STAND_IN_NOTE = "drawn wide streaks; a stand-in for the paper's Test-III, which was never released"


def open_source(name: str, data: Any, role: str, cache: sources.Cache) -> sources.Source:
    """The source called `name` in `config.data`; role is 'train', 'eval' or 'validation'.

    Raises UserError for an unknown name, a missing root, files without a partner and sizes that do not agree.
    """
    base, _, folder = name.partition('/')
    if base == 'test_i':
        return _open_test_i(data, cache)
    if public_name(name) in public.SETS:
        return _open_public(public_name(name), folder, data, role, cache)
    style = 'wide' if base in (STAND_IN, 'test_iii') else base.removeprefix('drawn_')
    if base != style and style in rain.STYLES:
        return _open_drawn(style, name, data, role, cache)
    if base not in ('pairs', 'layers'):
        known = [*(f'drawn_{style}' for style in rain.STYLES), *public.SETS, 'test_i', 'test_ii', STAND_IN]
        there = spelling.nearest(base, [*known, 'pairs', 'layers', *[held_out.NAME] * (role == 'validation')])
        raise UserError(f'Unknown data set {spelling.quoted(name)}{there}; pairs and layers also as pairs/FOLDER.')
    if base == 'layers' and '+' in folder:
        return _open_any_layer(name, data, role, cache)
    root = _root(name, data.root, folder, role)
    open_files = _open_pairs if base == 'pairs' else _open_layers
    source: sources.Source = open_files(root, data, role, cache)
    source.notes |= _taken(root, data.root, folder)
    return source


@dataclasses.dataclass
class Opened:
    """The sources of a run by name: what it learns from, what it watches, and what it is scored on at the end."""

    training: dict[str, sources.Source]
    validation: dict[str, sources.Source]
    scored: dict[str, sources.Source]


def open_run(data: Any, cache: sources.Cache) -> Opened:
    """All sources of `config.data`. Raises UserError for a picture that cannot be read whole, before any work."""
    scored = open_evaluation(data, data.eval, cache)
    folder_names(scored)
    training, validation = _open_training(data, cache)
    if validation is None:
        validation = open_evaluation(data, data.validation, cache, 'validation')
    for opened in (training, validation, scored):
        for name, source in opened.items():
            checking.check(name, source)
    return Opened(training, validation, scored)


def open_training(data: Any, cache: sources.Cache) -> dict[str, sources.Source]:
    """The sources of `config.data.train` by name, without what is held out to watch a run.

    Nor do they hold what they share with the sets of `config.data.exclude`.
    """
    return _open_training(data, cache)[0]


def _open_training(
    data: Any, cache: sources.Cache
) -> tuple[dict[str, sources.Source], dict[str, sources.Source] | None]:
    """The same, and what is held out of them; None where sets to watch are named."""
    opened = {name: open_source(name, data, 'train', cache) for name, _ in parse_names(data.train)}
    if data.exclude:
        excluded = open_evaluation(data, data.exclude, sources.Cache(0))
        overlap.refuse_one_folder(opened, excluded, data.root)
        signatures = {name: overlap.signatures(name, source) for name, source in excluded.items()}
        opened = {name: overlap.without_shared(name, source, signatures) for name, source in opened.items()}
    return held_out.split(opened, data.validation_share) if data.validation == held_out.NAME else (opened, None)


def open_evaluation(data: Any, names: Any, cache: sources.Cache, role: str = 'eval') -> dict[str, sources.Source]:
    """The evaluation sets called `names`, by name; rain13k stands for its five test sets, test_iii for its stand-in.

    Raises UserError where two sets hold the same files, for then one of the names is wrong.
    """
    test_splits = [split for split in public.Rain13k.SPEC.splits if split != 'train']
    opened = {}
    for name, _ in parse_names(names):
        if name.partition('/')[0] == 'test_iii':
            name = STAND_IN + name.removeprefix('test_iii')
        for each in [f'rain13k/{split}' for split in test_splits] if name == 'rain13k' else [name]:
            opened[each] = open_source(each, data, role, cache)
    seen: dict[str, str] = {}
    for name, source in opened.items():
        base = public_name(name)
        if base in public.SETS and base != 'rain13k':
            content = sources.fingerprint(source)['sha256']
            if seen.setdefault(content, base) != base:
                raise UserError(
                    f'{seen[content]} and {base} are the same files, prepared under two names. Remove both, give each '
                    'set a folder of its own name below --config.data.root, and prepare them again.'
                )
    return opened


def public_name(name: str) -> str:
    """The set that a name without its split means: test_ii is rain100h."""
    base = name.partition('/')[0]
    return 'rain100h' if base == 'test_ii' else base


def folder_names(names: Iterable[str]) -> dict[str, str]:
    """The folder that the results of each evaluation set go to, by the set's name. Raises UserError for one of two."""
    found: dict[str, str] = {}
    for name in names:
        folder = spelling.with_ending(name.replace('/', '-'), '')
        if folder in found.values():
            other = next(each for each in found if found[each] == folder)
            raise UserError(
                f'The results of {other} and {name} would both go to the folder {folder}. Rename one of the two '
                'folders of images, or score them in two runs of the program.'
            )
        found[name] = folder
    return found


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
    if len({name for name, _ in parsed}) < len(parsed):
        raise UserError(f'{names!r} names a data set twice; give it a weight instead, as in pairs:2.')
    if not parsed or any(not 1e-9 <= weight <= 1e9 for _, weight in parsed):
        raise UserError(
            f'{names!r} names a data set with a weight that is not positive and finite (1e-9 to 1e9), or none; '
            'expected for example drawn_light,pairs:2.'
        )
    return parsed


def beside_training(data: Any) -> list[tuple[Any, str]]:
    """Names of the sets that a run reads and does not learn from (scored, watched, left out), each with its role.

    As `config.data` has them, and each once: what is scored is often left out too.
    """
    watched = None if data.validation == held_out.NAME else data.validation
    given = [(data.eval, 'eval'), (watched, 'validation'), (data.exclude, 'eval')]
    return [each for number, each in enumerate(given) if each[0] and each not in given[:number]]


def draw_test_i() -> dict[str, list[str]]:
    """Names of the pairs of Test-I by set, as test_i.txt lists them: those of the publishers' test files."""
    generator = np.random.Generator(np.random.PCG64(TEST_I_SEED))
    names = {
        'rain1200': [str(number) for number in range(1200)],
        'rain800': [str(number) for number in range(1, 101)],
        'rain1400': [f'{clean}_{rainy}' for clean in range(901, 1001) for rainy in range(1, 15)],
    }
    chosen = {name: generator.choice(len(every), TEST_I_COUNT, replace=False) for name, every in names.items()}
    return {name: [every[index] for index in sorted(chosen[name])] for name, every in names.items()}


def _open_test_i(data: Any, cache: sources.Cache) -> sources.Source:
    """The listed pairs of those of the three sets that are there."""
    wanted: dict[str, list[str]] = {name: [] for name in TEST_I}
    for line in TEST_I_FILE.read_text().splitlines():
        if not line.startswith('#'):
            name, pair = line.split()
            wanted[name].append(pair)
    parts: list[tuple[str, sources.Source, list[int]]] = []
    absent = []
    for name, pairs in wanted.items():
        if 'test' not in prepared.splits_there(name, data):
            absent.append(name)
            continue
        source = _open_public(name, 'test', data, 'eval', cache)
        index = {pair: number for number, pair in enumerate(source.names)}
        missing = [pair for pair in pairs if pair not in index]
        if missing and not data.partial:
            raise UserError(
                f'{len(missing)} of the {len(pairs)} pairs that Test-I takes from {name} are not in its test split: '
                f'{", ".join(missing[:10])}, ... Complete it, or take the others by --config.data.partial.'
            )
        parts.append((f'{name}-', source, [index[pair] for pair in pairs if pair in index]))
    counts = {prefix[:-1]: len(indices) for prefix, _, indices in parts}
    if not sum(counts.values()):
        raise UserError(
            f'test_i needs at least one of {", ".join(wanted)}: the test pairs, prepared or in folders of these names '
            'below --config.data.root.'
        )
    if absent:
        print(f'test_i: {sum(counts.values())} of 300 pairs; no test split of {" and ".join(absent)}')
    return sources.Joined(parts, {'publisher_count': 300, 'parts': counts})


def _open_public(name: str, folder: str, data: Any, role: str, cache: sources.Cache) -> sources.Source:
    """A prepared public set; `folder` may name a split, a part, or both."""
    ready = prepared.prepare(name, data)
    available, words = prepared.splits(ready), [word for word in folder.split('/') if word]
    known = public.SPECS[name].parts
    named, parts = [word for word in words if word in available], [word for word in words if word in known]
    order = {'train': ('train',), 'eval': ('test', 'val'), 'validation': ('val', 'test')}['train' if parts else role]
    wanted = named or [split for split in order if split in available]
    if len(named) + len(parts) < len(words) or not wanted or len(parts) > 1 or len(named) > 1:
        raise UserError(
            f'No {folder or ("training" if role == "train" else "test") + " split"} in {name}; there are '
            f'{", ".join(f"{name}/{word}" for word in (*available, *known))}.'
        )
    return prepared.Prepared(ready, wanted[0], parts[0] if parts else '', cache)


def _open_drawn(style: str, name: str, data: Any, role: str, cache: sources.Cache) -> sources.Drawn:
    """Drawn rain on the bundled photos or, as NAME/FOLDER, on the images of a folder below root."""
    base, _, folder = name.partition('/')
    notes = {'stand_in': STAND_IN_NOTE} if base in (STAND_IN, 'test_iii') else {}
    if not folder:
        photos = _photo_paths(TRAINING_PHOTOS if role == 'train' else HELD_OUT_PHOTOS)
        per_photo = 1 if role == 'train' else DRAWN_PER_PHOTO
        return sources.Drawn(style, photos, per_photo * len(photos), cache, vary_colours=True, notes=notes)
    root = _root(name, data.root, folder, role)
    notes |= _taken(root, data.root, folder)
    photos = layouts.image_files(root)
    problems = layouts.of_other_kinds(root, {path.stem for path in photos}, lambda path: path.stem)
    layouts.refuse(problems, f'the photos under {root}', {'clean': '*'}, 'Nothing was drawn.')
    if not photos:
        raise UserError(f'{root} holds no images to draw rain on.')
    return sources.Drawn(style, photos, len(photos), cache, vary_colours=False, notes=notes)


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
    """Folder of a user's files: root/folder, and below it the sub-folder of the role where there is one.

    Prints which, where there are several.
    """
    if not root:
        raise UserError(f'Data set {spelling.quoted(name)} needs the folder of its files: --config.data.root=FOLDER.')
    path = storage.expanded(root) / folder
    if not path.is_dir():
        shown = spelling.quoted(name)
        raise UserError(f'{path} is not a folder; expected the files of data set {shown} there (--config.data.root).')
    there = layouts.role_folders(path, role)
    if len(there) > 1:
        print(spelling.shown(f'note: {name} is read from {there[0]}, not from {" or ".join(map(str, there[1:]))}'))
    return there[0] if there else path


def _taken(path: pathlib.Path, root: str, folder: str) -> dict[str, str]:
    """What results say of the sub-folder that was taken for a role."""
    return {'folder': path.name} if path != storage.expanded(root) / folder else {}


def _open_pairs(root: pathlib.Path, data: Any, role: str, cache: sources.Cache) -> sources.Pairs:
    """Pairs by the given patterns, or by the known layout that fits."""
    if bool(data.rainy) != bool(data.clean):
        raise UserError('Give both --config.data.rainy and --config.data.clean, or neither.')
    known = ({'rainy': data.rainy, 'clean': data.clean},) if data.rainy else (*layouts.PAIRS, *layouts.SEVERAL)
    return sources.Pairs(layouts.find_checked(root, known, 'rainy').items, cache)


def _open_layers(root: pathlib.Path, data: Any, role: str, cache: sources.Cache) -> sources.Source:
    """Backgrounds and layers by the given patterns or layouts.LAYERS; paired unless any layer suits any background."""
    layout = {'clean': data.clean or layouts.LAYERS['clean'], 'layer': data.layer or layouts.LAYERS['layer']}
    if not (data.any_layer and role == 'train'):
        return sources.Layers(layouts.find_checked(root, [layout], 'layer').items, cache)
    sides = _side(root, 'clean', layout['clean']), _side(root, 'layer', layout['layer'])
    return _any_layer(root, sides[0], root, sides[1], sources.Variation(), cache)


def _open_any_layer(name: str, data: Any, role: str, cache: sources.Cache) -> sources.AnyLayer:
    """layers/BACKGROUNDS+LAYERS: the layers of one folder on the backgrounds of another.

    Where LAYERS has no sub-folder for evaluation, one in `data.hold_out` of its layers is for evaluation alone.
    """
    backgrounds, _, folder = name.partition('/')[2].partition('+')
    clean_root, layer_root = _root(name, data.root, backgrounds, role), _root(name, data.root, folder, role)
    is_split = bool(layouts.role_folders(storage.expanded(data.root) / folder, 'eval'))
    layer_root = layer_root if is_split else _root(name, data.root, folder, 'train')
    layers = _side(layer_root, 'layer', data.layer or layouts.LAYERS['layer'])
    if not layers and not data.layer:
        layers = _side(layer_root, 'layer', '*')  # a folder of nothing but layers
    if data.hold_out and not is_split:
        numbered = enumerate(layers.items())
        layers = dict(item for i, item in numbered if (i % data.hold_out == 0) == (role != 'train'))
    clean = _side(clean_root, 'clean', data.clean or layouts.LAYERS['clean'])
    vary = sources.Variation(data.vary_layers, data.turn_layers, data.join_layers)
    source = _any_layer(clean_root, clean, layer_root, layers, vary, cache)
    source.notes |= _taken(clean_root, data.root, backgrounds)
    if role != 'train':  # the layer of each is fixed; all that share one form a group, for every background comes once
        source.groups = [source.layer_of(index).stem for index in range(len(source.names))]
        source.names = [f'{name}+{layer}' for name, layer in zip(source.names, source.groups, strict=True)]
    return source


def _side(root: pathlib.Path, side: str, pattern: str) -> dict[str, pathlib.Path]:
    """Images under root that match the pattern of a side, by key."""
    problems: list[str] = []
    found = layouts.match(root, pattern, problems)
    layouts.refuse(problems, f'the images under {root}', {side: pattern}, 'Convert, rename or remove these files.')
    return {key: path for (key, _), path in found.items()}


def _any_layer(
    clean_root: pathlib.Path,
    clean: dict[str, pathlib.Path],
    layer_root: pathlib.Path,
    layers: dict[str, pathlib.Path],
    vary: sources.Variation,
    cache: sources.Cache,
) -> sources.AnyLayer:
    """The source of these files. Raises UserError where a side has none, or files that cannot be read."""
    if not clean or not layers:
        raise UserError(
            f'{len(clean)} backgrounds in {clean_root} and {len(layers)} layers in {layer_root}; expected files '
            f'{layouts.LAYERS["clean"]} and {layouts.LAYERS["layer"]}, or name them by --config.data.clean and '
            '--config.data.layer. Of layers without a val or test folder, data.hold_out keeps some from training.'
        )
    sides = (('clean', clean_root, clean), ('layer', layer_root, layers))
    items = {side: [layouts.Item(key, key, {side: path}) for key, path in files.items()] for side, _, files in sides}
    for side, root, _ in sides:
        layout = {side: str(layouts.LAYERS[side])}
        layouts.refuse(layouts.unreadable(items[side]), f'the images under {root}', layout, 'Replace them.')
    return sources.AnyLayer(items['clean'], list(layers.values()), vary, cache)
