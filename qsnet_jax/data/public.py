"""The public deraining sets as TFDS builders: from a manual download, checked, to ArrayRecord, without TensorFlow.

Each class states what its publisher hands out and the layouts in which people hold it. Examples keep the bytes of the
image files, so nothing is encoded twice; files that hold rainy and clean side by side are cut when they are read.
"""

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from qsnet_jax import UserError, progress, storage
from qsnet_jax.data import downloads, layouts
from qsnet_jax.data.downloads import Spec, Split

EXAMPLES_PER_SHARD = 1000


class PublicSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """One public set. Config `pairs`: features rainy, clean[, layer]; config `halves`: one image holds both."""

    VERSION = tfds.core.Version('1.0.0')
    SPEC: ClassVar[Spec]

    def __init__(self, *, is_partial: bool = False, file_format: str = 'array_record', **arguments: Any):
        self._is_partial = is_partial
        super().__init__(file_format=file_format, **arguments)

    def _info(self) -> tfds.core.DatasetInfo:
        sides = {'halves': ('image',), 'pairs': ('rainy', 'clean'), 'triplets': ('rainy', 'clean', 'layer')}[
            self._kind()
        ]
        features: dict[str, Any] = {side: tfds.features.Image(shape=(None, None, 3)) for side in sides}
        features |= {name: tfds.features.Text() for name in ('name', 'pair_id', *(['part'] if self.SPEC.parts else []))}
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=None if 'image' in features else ('rainy', 'clean'),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _kind(self) -> str:
        return self.builder_config.name if self.builder_config else downloads.kind(self.SPEC.layouts[0])

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterable]:
        root = pathlib.Path(dl_manager.manual_dir)
        found = scan(self.name, root)
        if found is None:
            raise UserError(f'{root} does not hold {self.name}. {instructions(type(self))}')
        if downloads.kind(found.layout) != self._kind():
            raise UserError(
                f'{root} holds {layouts.describe(found.layout)}, which is {self.name}/{downloads.kind(found.layout)}, '
                f'not {self.name}/{self._kind()}.'
            )
        files = downloads.inspect(self.name, self.SPEC, found, self._is_partial)
        self.info.metadata.update(metadata(self.SPEC, found, files))
        return {split: self._generate_examples(items) for split, items in found.splits.items()}

    def _generate_examples(self, items: list[layouts.Item]) -> Iterator[tuple[int, dict[str, str]]]:
        for index, item in enumerate(items):
            example = {side: str(path) for side, path in item.files.items()}
            if self.SPEC.parts:
                example['part'] = next((part for part in self.SPEC.parts if item.name.startswith(f'{part}-')), '')
            yield index, {'name': item.name, 'pair_id': item.pair_id, **example}

    def _download_and_prepare(self, dl_manager: tfds.download.DownloadManager, download_config: Any = None) -> None:
        # TFDS's own writer holds a split in memory to shuffle it, and needs TensorFlow beyond 1000 MiB.
        generators = self._split_generators(dl_manager)
        info = self._info()  # of the temporary folder that TFDS has set by now
        writer = tfds.core.SequentialWriter(info, EXAMPLES_PER_SHARD, file_format='array_record')
        writer.initialize_splits(list(generators))
        for split, examples in generators.items():
            count = len(self.info.metadata['splits'][split]['items'])
            batch: list[dict[str, str]] = []
            for _, example in progress.bar(examples, f'writing {self.name}/{split}', count, unit='example'):
                batch.append(example)
                if len(batch) == 100:  # each call also writes the description of the set
                    writer.add_examples({split: batch})
                    batch = []
            writer.add_examples({split: batch})
        writer.close_all()
        self.info.set_splits(info.splits)


_TRAIN = Split(None, ('train', 'training'))
_VAL = Split(None, ('val',))
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
_JORDER_PAGE = _BY_PAGE.format(
    "the JORDER authors' page on joint rain detection and removal (STRUCT group, Peking University) or the data links "
    "of PReNet's repository"
)


def _yang(split: str, count: int, names: tuple[str, ...], input_rgb: float | None = None) -> Spec:
    """One of the four sets of Yang et al."""
    folder = _TRAIN.folders if split == 'train' else ('test', 'testing')
    splits = {split: Split(count, folder)} | ({'val': _VAL} if split == 'train' else {})
    return Spec(dict.fromkeys(names, split), split, splits, _JORDER, input_rgb=input_rgb)


class Rain100h(PublicSet):
    """Rain100H: 100 test pairs, heavy rain in five directions (Yang et al., CVPR 2017); the old 100, not Rain200H."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _JORDER_PAGE
    SPEC = _yang('test', 100, ('rain100h', 'raindatatestheavy', 'rainheavytest'), 12.13)


class Rain100l(PublicSet):
    """Rain100L: 100 test pairs, light rain in one direction (Yang et al., CVPR 2017)."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _JORDER_PAGE
    SPEC = _yang('test', 100, ('rain100l', 'raindatatestlight', 'rainlighttest'), 25.52)


class RainTrainH(PublicSet):
    """RainTrainH: 1,800 training pairs, heavy rain; 546 of them share their background with Rain100H's test pairs."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _JORDER_PAGE
    SPEC = _yang('train', 1800, ('raintrainh', 'raindatatrainheavy', 'rainheavytrain'))


class RainTrainL(PublicSet):
    """RainTrainL: 200 training pairs, light rain (Yang et al., CVPR 2017)."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _JORDER_PAGE
    SPEC = _yang('train', 200, ('raintrainl', 'raindatatrainlight', 'rainlighttrain'))


class Rain12(PublicSet):
    """Rain12: 12 test pairs, rain rendered on photos (Li et al., CVPR 2016, layer priors)."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _BY_PAGE.format(
        "the page of Li et al. on rain streak removal using layer priors, or the data links of PReNet's repository"
    )
    SPEC = Spec(
        folders={'rain12': 'test'},
        whole='test',
        splits={'test': Split(12, ('test', 'testing'))},
        layouts=(
            {'rainy': 'rainy/*', 'clean': 'groundtruth/*'},
            {'rainy': 'input/*_in', 'clean': 'groundtruth/*_GT'},
            {'rainy': 'input/*', 'clean': 'groundtruth/*'},
            {'rainy': '*_in', 'clean': '*_GT'},
            *layouts.PAIRS,
        ),
    )


class Rain800(PublicSet):
    """Rain800: 700 training and 100 test JPEGs, clean left and rainy right (Zhang et al., ID-CGAN); not additive."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _BY_PAGE.format(
        "the ID-CGAN authors' repository (image de-raining, conditional GAN)"
    )
    BUILDER_CONFIGS = _BY_KIND
    SPEC = Spec(
        folders={'rain800': None, 'idcgan': None, 'test100': 'test'},
        whole='test',
        splits={'train': Split(700, _TRAIN.folders), 'val': _VAL, 'test': Split(100, ('test', 'testing', 'test_syn'))},
        layouts=(*_FOLDERS_OF_PAIRS, _HALVES),
        clean_half='left',
        seam=8,  # a JPEG block there holds pixels of both halves
    )


class Rain1200(PublicSet):
    """DID-MDN: 12,000 training JPEGs of three densities and 1,200 for tests, rainy left, clean right (Zhang, Patel)."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _BY_PAGE.format("the DID-MDN authors' repository (density-aware de-raining, 2018)")
    BUILDER_CONFIGS = _BY_KIND
    SPEC = Spec(
        folders={'rain1200': None, 'didmdn': None, 'didmdndatasets': None, 'didmdntest': 'test', 'test1200': 'test'}
        | {'didmdntraining': 'train'},
        whole='test',
        splits={
            'train': Split(12_000, ('DID-MDN-training', *_TRAIN.folders)),
            'val': _VAL,
            'test': Split(1200, ('DID-MDN-test', 'test', 'testing')),
        },
        layouts=(*_FOLDERS_OF_PAIRS, _HALVES),
        parts={part: (f'Rain_{part}/train2018new', f'Rain_{part}', part) for part in ('heavy', 'medium', 'light')},
        clean_half='right',
    )


class Rain1400(PublicSet):
    """DDN: 14 rainy images for each of 900 training and 100 test photos (Fu et al., CVPR 2017), also Rain14000."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _BY_PAGE.format(
        'the page of Fu et al. on the deep detail network (Xiamen University, smart data analysis laboratory)'
    )
    SPEC = Spec(
        folders={'rain1400': 'test', 'rain12600': 'train', 'rain14000': None, 'ddn': None, 'rainyimagedataset': None},
        whole='test',
        splits={
            'train': Split(12_600, _TRAIN.folders),
            'val': _VAL,
            'test': Split(1400, ('test', 'testing')),
        },
        layouts=(
            {'rainy': 'rainy_image/*_+', 'clean': 'ground_truth/*'},
            {'rainy': 'rainy image/*_+', 'clean': 'ground truth/*'},
            {'rainy': 'input/*_+', 'clean': 'target/*'},
        ),
        rainy_per_clean=14,
    )


class Rain13k(PublicSet):
    """Rain13K: the repack of all of these, 13,712 training pairs and five test sets (Zamir et al., MPRNet)."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _BY_PAGE.format("the MPRNet authors' repository, section on deraining")
    SPEC = Spec(
        folders={'rain13k': None},
        whole='train',
        splits={
            'train': Split(13_712, ('train/Rain13K', 'train')),
            'test100': Split(100, ('test/Test100',)),
            'rain100h': Split(100, ('test/Rain100H',)),
            'rain100l': Split(100, ('test/Rain100L',)),
            'test1200': Split(1200, ('test/Test1200',)),
            'test2800': Split(2800, ('test/Test2800',)),
        },
        layouts=({'rainy': 'input/*', 'clean': 'target/*'},),
    )


class Ddc(PublicSet):
    """DDC-Net's triplets (arXiv 1804.02688), the paper's training set. Its layout is not known to us: any of these."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _BY_PAGE.format('the page of the authors of DDC-Net (decompose and compose)')
    SPEC = Spec(
        folders={'ddc': None, 'ddcnet': None},
        whole='train',
        splits={'train': _TRAIN, 'val': _VAL, 'test': Split(None, ('test', 'testing'))},
        layouts=(
            {'rainy': 'rainy/*', 'clean': 'clean/*', 'layer': 'layer/*'},
            {'rainy': 'rain/*', 'clean': 'norain/*', 'layer': 'streak/*'},
            {'rainy': 'input/*', 'clean': 'target/*', 'layer': 'layer/*'},
        ),
    )


class Spa(PublicSet):
    """SPA-Data and sets like it: real rain with a clean image estimated from video (Wang et al., CVPR 2019)."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        _BY_PAGE.format("the SPANet authors' page on a real rain data set (CVPR 2019)")
        + ' Of its training set, which lies otherwise, copy or link the files to one of the layouts.'
    )
    SPEC = Spec(
        folders={'spa': None, 'spadata': None, 'realtest1000': 'test'},
        whole='test',
        splits={
            'train': _TRAIN,
            'val': _VAL,
            'test': Split(1000, ('testing/real_test_1000', 'real_test_1000', 'test', 'testing')),
        },
        layouts=({'rainy': 'rain/*', 'clean': 'gt/*gt'}, {'rainy': 'rain/*', 'clean': 'gt/*'}, *_FOLDERS_OF_PAIRS),
    )


SETS: dict[str, type[PublicSet]] = {
    builder.name: builder
    for builder in (Rain100h, Rain100l, RainTrainH, RainTrainL, Rain12, Rain800, Rain1200, Rain1400, Rain13k, Ddc, Spa)
}
SPECS = {name: builder.SPEC for name, builder in SETS.items()}


def scan(name: str, root: pathlib.Path | str | None, must_be_named: bool = False) -> downloads.Scan | None:
    """What lies below root of the set `name`; None where nothing does. Raises UserError for what cannot be paired."""
    if not root:
        return None
    path = storage.expanded(root)
    if not path.is_dir():
        raise UserError(f'{path} is not a folder; expected the files of data set {name!r} there (--config.data.root).')
    folders = downloads.find_splits(name, SPECS, path, must_be_named)
    return downloads.scan(name, SPECS[name], folders) if folders else None


def unread_folders(name: str, root: pathlib.Path | str | None) -> list[pathlib.Path]:
    """Folders of the set's name below root, which `scan` takes nothing from where their layout is not known."""
    return downloads.named_folders(SPECS[name], storage.expanded(root)) if root else []


def instructions(builder: type[PublicSet]) -> str:
    """Where to get a set and how its files may lie."""
    known = '; '.join(layouts.describe(layout) for layout in builder.SPEC.layouts)
    return f'{builder.__doc__} {builder.MANUAL_DOWNLOAD_INSTRUCTIONS} Layouts known: {known}.'


def metadata(spec: Spec, found: downloads.Scan, files: dict[pathlib.Path, downloads.File]) -> dict[str, Any]:
    """What is stored beside the examples: how to cut them, and name, hash and size of every file."""
    return {
        'layout': layouts.describe(found.layout),
        'clean_half': spec.clean_half if downloads.kind(found.layout) == 'halves' else '',
        'seam': spec.seam,
        'splits': {
            split: {
                'publisher_count': spec.splits[split].count,
                'items': [
                    {
                        'name': item.name,
                        'pair_id': item.pair_id,
                        'files': {
                            side: (path.name, files[path].sha256, files[path].size) for side, path in item.files.items()
                        },
                    }
                    for item in items
                ],
            }
            for split, items in found.splits.items()
        },
    }
