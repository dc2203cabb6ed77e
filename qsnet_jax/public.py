"""The public deraining sets as TFDS builders: from a manual download, checked, to ArrayRecord, without TensorFlow.

Each class states what its publisher hands out and the layouts in which people hold it. Examples keep the bytes of the
image files, so nothing is encoded twice; files that hold rainy and clean side by side are cut when they are read.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from qsnet_jax import UserError, images, layouts, sources

SEAM = 8  # columns on either side of the seam of side-by-side JPEGs, where a block holds pixels of both halves


@dataclasses.dataclass(frozen=True)
class Split:
    """Number of pairs at the publisher's (None: unknown) and the names of the folder, any of them, in any case."""

    count: int | None
    folders: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a folder holds of a set: items by split, what is wrong, what it was recognised as."""

    layout: layouts.Layout
    splits: dict[str, list[layouts.Item]]
    problems: list[str]


class PublicSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """One public set. Config `pairs`: features rainy, clean[, layer]; config `halves`: one image holds both."""

    VERSION = tfds.core.Version('1.0.0')
    FOLDERS: ClassVar[tuple[str, ...]] = ()  # names of its folder, lower case without punctuation
    SPLITS: ClassVar[dict[str, Split]] = {}
    WHOLE: ClassVar[str | None] = None  # the split that files lying directly in the folder are
    PARTS: ClassVar[dict[str, tuple[str, ...]]] = {}  # sub-folders of a split, of which any may be there
    LAYOUTS: ClassVar[tuple[layouts.Layout, ...]] = ()
    CLEAN_HALF: ClassVar[str] = ''  # 'left' or 'right' in files that hold both
    SEAM: ClassVar[int] = 0  # columns that are left out at the seam, and so at both sides of the pair
    RAINY_PER_CLEAN: ClassVar[int] = 1
    INPUT_RGB: ClassVar[float | None] = None  # known PSNR of the rainy images, dB

    def __init__(self, *, is_partial: bool = False, file_format: str = 'array_record', **arguments: Any):
        self._is_partial = is_partial
        super().__init__(file_format=file_format, **arguments)

    def _info(self) -> tfds.core.DatasetInfo:
        sides = ['image'] if self._kind() == 'halves' else ['rainy', 'clean']
        sides += ['layer'] if self._kind() == 'triplets' else []
        features = {side: tfds.features.Image(shape=(None, None, 3)) for side in sides}
        texts = {name: tfds.features.Text() for name in ('name', 'pair_id', *(['part'] if self.PARTS else []))}
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict({**texts, **features}),
            supervised_keys=None if 'image' in features else ('rainy', 'clean'),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _kind(self) -> str:
        return self.builder_config.name if self.builder_config else kind(self.LAYOUTS[0])

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterable]:
        folder = pathlib.Path(dl_manager.manual_dir)
        scan = scan_folder(type(self), folder)
        if kind(scan.layout) != self._kind():
            raise UserError(
                f'{folder} holds {layouts.describe(scan.layout)}, which is {self.name}/{kind(scan.layout)}, not '
                f'{self.name}/{self._kind()}.'
            )
        files = _inspect(type(self), folder, scan, self._is_partial)
        self.info.metadata.update(_metadata(type(self), scan, files))
        return {split: self._generate_examples(items) for split, items in scan.splits.items()}

    def _generate_examples(self, items: list[layouts.Item]) -> Iterator:
        for index, item in enumerate(items):
            example = {side: str(path) for side, path in item.files.items()}
            if self.PARTS:
                example['part'] = item.name.rpartition('-')[0]
            yield index, {'name': item.name, 'pair_id': item.pair_id, **example}


_TRAIN = ('train', 'training')
_TEST = ('test', 'testing')
_JORDER = (  # the layouts of Yang et al.'s sets: as published, as PReNet's authors keep them, as in Rain13K, as renewed
    *layouts.PAIRS,
    {'rainy': 'rain/X2/norain-*x2', 'clean': 'norain/norain-*'},
    {'rainy': 'rain/norain-*x2', 'clean': 'norain/norain-*'},
    {'rainy': 'rainy/norain-*x2', 'clean': 'norain-*'},
)
_FOLDERS_OF_PAIRS = tuple(layout for layout in layouts.PAIRS if '/' in layout['rainy'] and '/' in layout['clean'])
_HALVES = {'image': '*'}
_BY_KIND = [
    tfds.core.BuilderConfig(name='halves', description='as published: one file holds rainy and clean'),
    tfds.core.BuilderConfig(name='pairs', description='cut into two files by someone else'),
]
_BY_PAGE = 'Fetch it by hand from {}, unpack it, and give its folder: --config.data.root=FOLDER.'


class Rain100h(PublicSet):
    """Rain100H: 100 test pairs, heavy rain in five directions (Yang et al., CVPR 2017); the old 100, not Rain200H."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _BY_PAGE.format(
        "the JORDER authors' page on joint rain detection and removal (STRUCT group, Peking University) or the data "
        "links of PReNet's repository"
    )
    FOLDERS = ('rain100h', 'raindatatestheavy', 'rainheavytest')
    SPLITS = {'test': Split(100, _TEST)}
    WHOLE = 'test'
    LAYOUTS = _JORDER
    INPUT_RGB = 12.13


class Rain100l(Rain100h):
    """Rain100L: 100 test pairs, light rain in one direction (Yang et al., CVPR 2017)."""

    FOLDERS = ('rain100l', 'raindatatestlight', 'rainlighttest')
    INPUT_RGB = 25.52


class RainTrainH(PublicSet):
    """RainTrainH: 1,800 training pairs, heavy rain; 546 of them share their background with Rain100H's test pairs."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = Rain100h.MANUAL_DOWNLOAD_INSTRUCTIONS
    FOLDERS = ('raintrainh', 'raindatatrainheavy', 'rainheavytrain')
    SPLITS = {'train': Split(1800, _TRAIN), 'val': Split(None, ('val',))}
    WHOLE = 'train'
    LAYOUTS = _JORDER


class RainTrainL(RainTrainH):
    """RainTrainL: 200 training pairs, light rain (Yang et al., CVPR 2017)."""

    FOLDERS = ('raintrainl', 'raindatatrainlight', 'rainlighttrain')
    SPLITS = {'train': Split(200, _TRAIN), 'val': Split(None, ('val',))}


class Rain800(PublicSet):
    """Rain800: 700 training and 100 test JPEGs, clean left and rainy right (Zhang et al., ID-CGAN); not additive."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _BY_PAGE.format(
        "the ID-CGAN authors' repository (image de-raining by conditional GAN)"
    )
    FOLDERS = ('rain800', 'idcgan', 'test100')
    SPLITS = {'train': Split(700, _TRAIN), 'val': Split(None, ('val',)), 'test': Split(100, (*_TEST, 'test_syn'))}
    WHOLE = 'test'
    LAYOUTS = (*_FOLDERS_OF_PAIRS, _HALVES)
    CLEAN_HALF = 'left'
    BUILDER_CONFIGS = _BY_KIND
    SEAM = SEAM


class Rain1200(PublicSet):
    """DID-MDN: 12,000 training JPEGs of three densities and 1,200 for tests, rainy left, clean right (Zhang, Patel)."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _BY_PAGE.format(
        "the DID-MDN authors' repository (density-aware de-raining, CVPR 2018)"
    )
    FOLDERS = ('rain1200', 'didmdn', 'didmdndatasets', 'test1200')
    SPLITS = {
        'train': Split(12_000, (*_TRAIN, 'DID-MDN-training')),
        'val': Split(None, ('val',)),
        'test': Split(1200, (*_TEST, 'DID-MDN-test')),
    }
    WHOLE = 'test'
    PARTS = {part: (f'Rain_{part}/train2018new', f'Rain_{part}', part) for part in ('heavy', 'medium', 'light')}
    LAYOUTS = (*_FOLDERS_OF_PAIRS, _HALVES)
    CLEAN_HALF = 'right'
    BUILDER_CONFIGS = _BY_KIND


class Rain1400(PublicSet):
    """DDN: 14 rainy images for each of 900 training and 100 test photos (Fu et al., CVPR 2017), also Rain14000."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _BY_PAGE.format(
        'the page of Fu et al. on the deep detail network (Xiamen University, smart data analysis laboratory)'
    )
    FOLDERS = ('rain1400', 'rain14000', 'rain12600', 'ddn', 'rainyimagedataset')
    SPLITS = {'train': Split(12_600, _TRAIN), 'val': Split(None, ('val',)), 'test': Split(1400, _TEST)}
    WHOLE = 'test'
    LAYOUTS = (
        {'rainy': 'rainy_image/*_+', 'clean': 'ground_truth/*'},
        {'rainy': 'rainy image/*_+', 'clean': 'ground truth/*'},
        {'rainy': 'input/*_+', 'clean': 'target/*'},
    )
    RAINY_PER_CLEAN = 14


class Rain13k(PublicSet):
    """Rain13K: the repack of all of these, 13,712 training pairs and five test sets (Zamir et al., MPRNet)."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _BY_PAGE.format("the MPRNet authors' repository, section on deraining")
    FOLDERS = ('rain13k',)
    SPLITS = {
        'train': Split(13_712, ('train', 'train/Rain13K')),
        'test100': Split(100, ('test/Test100',)),
        'rain100h': Split(100, ('test/Rain100H',)),
        'rain100l': Split(100, ('test/Rain100L',)),
        'test1200': Split(1200, ('test/Test1200',)),
        'test2800': Split(2800, ('test/Test2800',)),
    }
    LAYOUTS = ({'rainy': 'input/*', 'clean': 'target/*'},)


class Ddc(PublicSet):
    """DDC-Net's triplets (arXiv 1804.02688), the paper's training set. Its layout is not known to us: any of these."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _BY_PAGE.format('the page of the authors of DDC-Net (decompose and compose)')
    FOLDERS = ('ddc', 'ddcnet')
    SPLITS = {'train': Split(None, _TRAIN), 'val': Split(None, ('val',)), 'test': Split(None, _TEST)}
    WHOLE = 'train'
    LAYOUTS = (
        {'rainy': 'rainy/*', 'clean': 'clean/*', 'layer': 'layer/*'},
        {'rainy': 'rain/*', 'clean': 'norain/*', 'layer': 'streak/*'},
        {'rainy': 'input/*', 'clean': 'target/*', 'layer': 'layer/*'},
    )


class Spa(PublicSet):
    """SPA-Data and sets like it: real rain with a clean image estimated from video (Wang et al., CVPR 2019)."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _BY_PAGE.format("the SPANet authors' page on a real rain data set (CVPR 2019)")
    FOLDERS = ('spa', 'spadata', 'realtest1000')
    SPLITS = {
        'train': Split(None, _TRAIN),
        'val': Split(None, ('val',)),
        'test': Split(1000, ('real_test_1000', 'testing/real_test_1000', *_TEST)),
    }
    WHOLE = 'test'
    LAYOUTS = ({'rainy': 'rain/*', 'clean': 'gt/*gt'}, {'rainy': 'rain/*', 'clean': 'gt/*'}, *_FOLDERS_OF_PAIRS)


SETS: dict[str, type[PublicSet]] = {
    builder.name: builder
    for builder in (Rain100h, Rain100l, RainTrainH, RainTrainL, Rain800, Rain1200, Rain1400, Rain13k, Ddc, Spa)
}


def kind(layout: layouts.Layout) -> str:
    """'halves', 'triplets' or 'pairs'."""
    return 'halves' if 'image' in layout else 'triplets' if 'layer' in layout else 'pairs'


def find_folder(name: str, root: str | None) -> pathlib.Path | None:
    """Folder of the set `name`: a sub-folder of the root with one of its names, or the root itself.

    None where there is no root, and where the root's sub-folders belong to other sets only.
    """
    if not root:
        return None
    folder = pathlib.Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(
            f'{folder} is not a folder; expected the files of data set {name!r} there (--config.data.root).'
        )
    while True:
        inside = {_plain(path.name): path for path in sorted(folder.iterdir()) if path.is_dir()}
        own = [inside[alias] for alias in SETS[name].FOLDERS if alias in inside]
        if not own:
            break
        folder = own[0]  # some archives unpack to NAME/NAME
    others = {alias for builder in SETS.values() for alias in builder.FOLDERS}
    is_root = folder == pathlib.Path(root).expanduser() and _plain(folder.name) not in SETS[name].FOLDERS
    return None if is_root and others & inside.keys() else folder


def scan_folder(builder: type[PublicSet], folder: pathlib.Path) -> Scan:
    """Files of a set by split, from their names alone.

    Raises UserError where files lie in no layout that is known, or in one for this split and another for that.
    """
    below = {
        split: next((path for alias in expected.folders if (path := _below(folder, alias))), None)
        for split, expected in builder.SPLITS.items()
    }
    folders = {split: path for split, path in below.items() if path}
    if not folders and builder.WHOLE:
        folders = {builder.WHOLE: folder}
    if not folders:
        expected = ', '.join(f'{split.folders[0]}/' for split in builder.SPLITS.values())
        raise UserError(f'{folder} is not {builder.name}: expected some of {expected} there (--config.data.root).')
    scan = Scan({}, {}, [])
    for split, path in folders.items():
        scan.splits[split] = []
        for prefix, found in _find_parts(builder, path):
            if scan.layout and kind(scan.layout) != kind(found.layout):
                raise UserError(
                    f'{folder} holds {layouts.describe(scan.layout)} and {layouts.describe(found.layout)}; '
                    f'{builder.name} must be of one kind. Take one of them away.'
                )
            scan = dataclasses.replace(scan, layout=found.layout)
            scan.splits[split] += [
                layouts.Item(prefix + item.name, prefix + item.pair_id, item.files) for item in found.items
            ]
            scan.problems.extend(f'{split}: {problem}' for problem in found.problems)
    return scan


def prepare(name: str, data: Any, replace: bool = False) -> pathlib.Path:
    """Folder of the prepared set `name`; prepares it from `data.root` where that has not been done.

    replace: prepare again where other files than those below `data.root` were prepared.
    Raises UserError, and leaves nothing, where anything is wrong with the files; where there are none, the message says
    where the publisher hands them out.
    """
    builder, folder = SETS[name], find_folder(name, data.root)
    base = pathlib.Path(data.tfds_dir or tfds.core.constants.DATA_DIR).expanduser()
    try:
        scan = scan_folder(builder, folder) if folder else None
    except UserError:  # the root is not this set's, which does not matter if the set is there
        if replace or not _ready(base / name):
            raise
        scan = None
    if ready := _current(base / name, folder, scan, replace):
        return ready
    if scan is None or folder is None:
        raise UserError(f'{name} is neither in {base} nor below --config.data.root. {_instructions(builder)}')
    with _locked(base, name):  # another process may have prepared it meanwhile
        return _current(base / name, folder, scan, replace) or _write(builder, base, folder, scan, data.partial)


def is_there(name: str, data: Any) -> bool:
    """Whether the set is prepared, or its files lie below `data.root`."""
    base = pathlib.Path(data.tfds_dir or tfds.core.constants.DATA_DIR).expanduser()
    if _ready(base / name):
        return True
    try:
        folder = find_folder(name, data.root)
        return folder is not None and bool(scan_folder(SETS[name], folder).splits)
    except UserError:
        return False


class Prepared:
    """One split of a prepared set, read from ArrayRecord at random; bytes are compared with their recorded hash."""

    def __init__(self, folder: pathlib.Path, split: str, part: str, cache: sources.Cache):
        builder = tfds.builder_from_directory(str(folder))
        stored, self._cache, self._folder = dict(builder.info.metadata), cache, folder
        items = stored['splits'][split]['items']
        self._examples: Any = builder.as_data_source(
            split,
            decoders={
                side: tfds.decode.SkipDecoding()
                for side in ('image', 'rainy', 'clean', 'layer')
                if side in builder.info.features
            },
        )
        if len(self._examples) != len(items):
            raise UserError(
                f'{folder} holds {len(self._examples)} of {len(items)} examples. Remove it and prepare again.'
            )
        chosen = [number for number, (name, _) in enumerate(items) if name.startswith(f'{part}-' if part else '')]
        self._numbers, self._files = chosen, [items[number][1] for number in chosen]
        self._clean_half, self._seam = stored['clean_half'], stored['seam']
        self.names = [items[number][0] for number in chosen]
        self.notes = {
            'layout': stored['layout'],
            'publisher_count': None if part else stored['splits'][split]['publisher_count'],
        }

    def load(self, index: int) -> sources.Pair:
        example: dict[str, Any] = {}

        def decode(side: str) -> np.ndarray:
            if not example:
                example.update(self._examples[self._numbers[index]])
            name, expected, _ = self._files[index][side]
            if sources.sha256(example[side]) != expected:
                raise UserError(
                    f'{name} in {self._folder} is damaged: its bytes have changed. Remove it and prepare again.'
                )
            return images.decode(example[side], f'{name} in {self._folder}')

        def get(side: str) -> np.ndarray:
            return self._cache.get(self._files[index][side][1], lambda: decode(side))

        if 'image' in self._files[index]:
            image = get('image')
            width = image.shape[1] // 2
            rainy, clean = image[:, width:], image[:, :width]
            rainy, clean = (rainy, clean) if self._clean_half == 'left' else (clean, rainy)
        else:
            rainy, clean = get('rainy'), get('clean')
        inside = slice(self._seam, rainy.shape[1] - self._seam)
        return rainy[:, inside], clean[:, inside]

    def sample(self, index: int, crop: int, generator: np.random.Generator) -> sources.Pair:
        return sources.cut_both(self.load(index), crop, generator)

    def contents(self, index: int) -> sources.Contents:
        return [(f'{side}/{name}', content) for side, (name, content, _) in self._files[index].items()]


def splits(folder: pathlib.Path) -> list[str]:
    """Splits of a prepared set."""
    return list(tfds.builder_from_directory(str(folder)).info.splits)


def _find_parts(builder: type[PublicSet], folder: pathlib.Path) -> list[tuple[str, layouts.Found]]:
    """What each part's folder holds, with the prefix of its names; the folder itself where it has no parts."""
    paths = {part: [path for name in names if (path := _below(folder, name))] for part, names in builder.PARTS.items()}
    if not any(paths.values()):
        return [('', layouts.find(folder, builder.LAYOUTS))]
    return [(f'{part}-', layouts.find(found[0], builder.LAYOUTS)) for part, found in paths.items() if found]


def _inspect(
    builder: type[PublicSet], folder: pathlib.Path, scan: Scan, is_partial: bool
) -> dict[pathlib.Path, tuple[str, int]]:
    """Hash and size in bytes of every file. Decodes them all; raises one UserError for all that is wrong."""
    problems = list(scan.problems) + ([] if is_partial else _count_problems(builder, scan))
    items = [item for split in scan.splits.values() for item in split]
    paths = list(dict.fromkeys(path for item in items for path in item.files.values()))
    files, shapes = {}, {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, result in tqdm.tqdm(
            zip(paths, pool.map(_read, paths), strict=True), f'checking {builder.name}', len(paths), unit='file'
        ):
            if isinstance(result, str):
                problems.append(result)
            else:
                *files[path], shapes[path] = result
    for item in items:
        found = {path: shapes[path] for path in item.files.values() if path in shapes}
        if len(set(found.values())) > 1:
            problems.append(' and '.join(f'{path} is {shape[0]}x{shape[1]}' for path, shape in found.items()))
        width = next(iter(found.values()))[1] if found else 0
        halves = 2 if 'image' in item.files else 1
        if found and (width % halves or width // halves <= 2 * builder.SEAM):
            problems.append(
                f'{item.name} is {width} pixels wide, which {"no two halves" if width % halves else "no pair"} can be'
            )
    layouts.refuse(
        problems,
        f'{builder.name} at {folder}',
        scan.layout,
        f'Layouts tried: {"; ".join(layouts.describe(layout) for layout in builder.LAYOUTS)}. Nothing was written.',
    )
    return {path: tuple(values) for path, values in files.items()}


def _read(path: pathlib.Path) -> tuple[str, int, tuple[int, int]] | str:
    """Hash, size in bytes, and height and width of an image file; what is wrong with it as text."""
    try:
        content = path.read_bytes()
        image = images.decode(content, str(path))
    except (images.ImageError, OSError) as error:
        return str(error)
    return sources.sha256(content), len(content), image.shape[:2]


def _count_problems(builder: type[PublicSet], scan: Scan) -> list[str]:
    """Numbers that are not the publisher's."""
    remedy = 'Complete it, or take what is there by --config.data.partial=True'
    problems = [
        f'{split}: {len(items)} pairs, the publisher has {builder.SPLITS[split].count}. {remedy}'
        for split, items in scan.splits.items()
        if builder.SPLITS[split].count not in (None, len(items))
    ]
    for split, items in scan.splits.items():
        counts = collections.Counter(item.pair_id for item in items)
        problems += [
            f'{split}: clean image {key} has {count} rainy images, expected {builder.RAINY_PER_CLEAN}. {remedy}'
            for key, count in counts.items()
            if count != builder.RAINY_PER_CLEAN
        ]
    return problems


def _metadata(builder: type[PublicSet], scan: Scan, files: dict[pathlib.Path, tuple[str, int]]) -> dict[str, Any]:
    """What is stored beside the examples: how to cut them, and name, hash and size of every file."""
    return {
        'layout': layouts.describe(scan.layout),
        'clean_half': builder.CLEAN_HALF,
        'seam': builder.SEAM,
        'splits': {
            split: {
                'publisher_count': builder.SPLITS[split].count,
                'items': [
                    [item.name, {side: [path.name, *files[path]] for side, path in item.files.items()}]
                    for item in items
                ],
            }
            for split, items in scan.splits.items()
        },
    }


def _stamp(scan: Scan) -> set[tuple]:
    """Names and sizes of all files, to tell whether a folder is what was prepared."""
    return {
        (split, item.name, side, path.name, path.stat().st_size)
        for split, items in scan.splits.items()
        for item in items
        for side, path in item.files.items()
    }


def _stored_stamp(ready: pathlib.Path) -> set[tuple]:
    """The same, of a prepared set."""
    return {
        (split, name, side, file, size)
        for split, stored in tfds.builder_from_directory(str(ready)).info.metadata['splits'].items()
        for name, files in stored['items']
        for side, (file, _, size) in files.items()
    }


def _current(final: pathlib.Path, folder: pathlib.Path | None, scan: Scan | None, replace: bool) -> pathlib.Path | None:
    """The prepared version of a set, if there is one of these files. Raises UserError for one of others."""
    ready = _ready(final)
    if ready is None or scan is None or _stamp(scan) == _stored_stamp(ready):
        return ready
    if replace:
        return None
    raise UserError(
        f'{ready} was prepared from other files than those in {folder}. --mode=prepare replaces it; or name another '
        '--config.data.tfds_dir, or leave --config.data.root out.'
    )


def _write(
    builder: type[PublicSet], base: pathlib.Path, folder: pathlib.Path, scan: Scan, is_partial: bool
) -> pathlib.Path:
    """Lets TFDS write to a folder of its own, which takes the place of what was there when it is whole."""
    final, building = base / builder.name, base / f'.{builder.name}.building'
    config = kind(scan.layout) if builder.BUILDER_CONFIGS else None
    try:
        shutil.rmtree(building, ignore_errors=True)  # of a run that was killed
        instance = builder(config=config, data_dir=str(building), is_partial=is_partial)
        instance.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(folder)))
        shutil.rmtree(final, ignore_errors=True)
        (building / builder.name).replace(final)
    except OSError as error:
        raise UserError(
            f'{base} cannot be written: {error}. Free some space or name another --config.data.tfds_dir.'
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return next(iter(_versions(final)))


def _ready(final: pathlib.Path) -> pathlib.Path | None:
    """The prepared version of a set below its folder, if any."""
    return next(iter(_versions(final)), None)


def _versions(final: pathlib.Path) -> list[pathlib.Path]:
    """Whole prepared versions below the folder of a set; its path may hold the kind."""
    return [path.parent for path in sorted(final.glob(f'**/{PublicSet.VERSION}/dataset_info.json'))]


@contextlib.contextmanager
def _locked(base: pathlib.Path, name: str) -> Iterator[None]:
    """One process prepares a set; others wait and then find it ready."""
    try:
        base.mkdir(parents=True, exist_ok=True)
        lock = open(base / f'.{name}.lock', 'w')
    except OSError as error:
        raise UserError(f'{base} cannot be written: {error}. Name another --config.data.tfds_dir.') from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _instructions(builder: type[PublicSet]) -> str:
    """Where to get a set and how its files may lie."""
    known = '; '.join(layouts.describe(layout) for layout in builder.LAYOUTS)
    return f'{builder.__doc__} {builder.MANUAL_DOWNLOAD_INSTRUCTIONS} Layouts known: {known}.'


def _below(folder: pathlib.Path, names: str) -> pathlib.Path | None:
    """The sub-folder of that name, or of those names one in another, in any case."""
    for name in names.split('/'):
        children = sorted(folder.iterdir()) if folder.is_dir() else []
        found = next((path for path in children if path.is_dir() and path.name.lower() == name.lower()), None)
        if found is None:
            return None
        folder = found
    return folder


def _plain(name: str) -> str:
    """Lower case without punctuation."""
    return re.sub(r'[^a-z0-9]', '', name.lower())
