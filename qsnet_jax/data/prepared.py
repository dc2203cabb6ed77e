"""Public sets as they are read: prepared once from a manual download, then any image at random from ArrayRecord."""

import contextlib
import functools
import io
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from qsnet_jax import UserError, storage
from qsnet_jax.data import downloads, images, public, sources


def prepare(name: str, data: Any, replace: bool = False) -> pathlib.Path:
    """Folder of the prepared set `name`; prepares it from `data.root` where that has not been done.

    replace: prepare again where other files than those below `data.root` were prepared.
    Raises UserError, and leaves nothing, where anything is wrong with the files; where there are none, the message says
    where the publisher hands them out.
    """
    base = _base(data)
    try:
        found = public.scan(name, data.root)
    except UserError:  # the root may be another's, which does not matter if the set is there
        if replace or not _versions(base / name):
            raise
        found = None
    if ready := _current(base / name, data, found, replace):
        if any(each.exists() for each in _left_overs(base, name)):  # of a run that was killed at its very end
            with contextlib.suppress(OSError), storage.locked(base / f'.{name}.lock', waits=False) as is_alone:
                if is_alone:
                    _remove_left_overs(base, name)
        return ready
    if found is None:
        unread = ' and '.join(map(str, public.unread_folders(name, data.root)))
        where = (
            f'is not in {base}, and {unread} holds no files in a layout known. `pairs` takes any, named by '
            '--config.data.rainy and --config.data.clean.'
            if unread
            else f'is neither in {base} nor below --config.data.root.'
        )
        raise UserError(f'{name} {where} {public.instructions(public.SETS[name])}')
    with _locked(base, name):  # another process may have prepared it meanwhile
        return _current(base / name, data, found, replace) or _write(name, base, data, found)


def splits_there(name: str, data: Any) -> list[str]:
    """Splits of a set that are prepared, or lie below the root in folders of the set's name."""
    ready = _versions(_base(data) / name)
    if ready:
        return splits(ready[0])
    found = public.scan(name, data.root, must_be_named=True)
    return list(found.splits) if found else []


def splits(folder: pathlib.Path) -> list[str]:
    """Splits of a prepared set."""
    return list(_stored(folder)['splits'])


class Prepared:
    """One split of a prepared set, read from ArrayRecord at random; bytes are compared with their recorded hash."""

    def __init__(self, folder: pathlib.Path, split: str, part: str, cache: sources.Cache):
        stored, self._cache, self._folder = _stored(folder), cache, folder
        chosen = [
            (number, item)
            for number, item in enumerate(stored['splits'][split]['items'])
            if item['name'].startswith(f'{part}-' if part else '')
        ]
        if not chosen:
            raise UserError(f'{folder} holds nothing of {part} in its split {split}.')
        try:
            builder = tfds.builder_from_directory(str(folder))
            sides = [side for side in ('image', 'rainy', 'clean', 'layer') if side in builder.info.features]
            decoders = {side: tfds.decode.SkipDecoding() for side in sides}
            self._examples: Any = builder.as_data_source(split, decoders=decoders)
            count = len(self._examples)
        except Exception as error:  # of TFDS and ArrayRecord, whatever they trip over
            raise _damaged(folder, error) from error
        if count != len(stored['splits'][split]['items']):
            raise _damaged(folder, f'{count} examples')
        self._numbers = [number for number, _ in chosen]
        self._files = [item['files'] for _, item in chosen]
        self._clean_half, self._seam = stored['clean_half'], stored['seam']
        self.names = [item['name'] for _, item in chosen]
        self.groups = [item['pair_id'] for _, item in chosen]
        publisher_count = None if part else stored['splits'][split]['publisher_count']
        self.notes = {name: stored[name] for name in ('layout', 'clean_half', 'seam') if stored[name]}
        self.notes |= {'publisher_count': publisher_count} if publisher_count else {}

    def load(self, index: int) -> sources.Pair:
        example: dict[str, bytes] = {}

        def decode(side: str) -> np.ndarray:
            if not example:
                example.update(self._bytes(index))
            return images.decode(example[side], f'{self._folder}/{self._files[index][side][0]}')

        def get(side: str) -> np.ndarray:
            return self._cache.get(self._files[index][side][1], lambda: decode(side))

        if 'image' in self._files[index]:
            image = get('image')
            width = image.shape[1] // 2
            left, right = image[:, :width], image[:, width:]
            rainy, clean = (right, left) if self._clean_half == 'left' else (left, right)
        else:
            rainy, clean = get('rainy'), get('clean')
        inside = slice(self._seam, rainy.shape[1] - self._seam)
        return rainy[:, inside], clean[:, inside]

    def _bytes(self, index: int) -> dict[str, bytes]:
        """The files of item `index`. Raises UserError where they are not those that were prepared."""
        try:
            example: Any = self._examples[self._numbers[index]]
        except Exception as error:  # of ArrayRecord, whatever it trips over
            raise _damaged(self._folder, error) from error
        for side, (name, expected, _) in self._files[index].items():
            if not isinstance(example[side], bytes) or sources.sha256(example[side]) != expected:
                raise _damaged(self._folder, f'the bytes of {name} have changed')
        return example

    def pictures(self, index: int) -> sources.Pictures:
        # They were decoded when they were prepared; that the bytes are the same is enough.
        return {(self._folder, self._numbers[index]): functools.partial(self._bytes, index)}

    def background(self, index: int) -> str:
        files = self._files[index]
        return files['clean' if 'clean' in files else 'image'][1]

    def sample(self, index: int, crop: int, generator: np.random.Generator) -> sources.Pair:
        return sources.cut_both(self.load(index), crop, generator)

    def contents(self, index: int) -> sources.Contents:
        return [(f'{side}/{name}', content) for side, (name, content, _) in self._files[index].items()]


def _stored(ready: pathlib.Path) -> dict[str, Any]:
    """What metadata.json of a prepared set says. Raises DamagedSet."""
    names = ('layout', 'clean_half', 'seam', 'splits')
    try:
        stored = storage.read_json(ready / 'metadata.json', names)
        _files(stored['splits'])
    except storage.Damaged as error:
        raise _damaged(ready, error) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # JSON of another shape
        raise _damaged(ready, f'metadata.json ({type(error).__name__}: {error})') from error
    return {name: stored[name] for name in names}


def _files(splits: dict[str, Any]) -> list[tuple]:
    """(split, publisher's count, item, pair, side, file, content, size) of each file that a set was prepared from."""
    return [
        (split, publisher_count, item['name'], item['pair_id'], side, name, content, size)
        for split, part in splits.items()
        for publisher_count in [part['publisher_count']]  # asked of splits without items too
        for item in part['items']
        for side, (name, content, size) in item['files'].items()
    ]


def _damaged(folder: pathlib.Path, found: Any) -> sources.DamagedSet:
    """The one refusal of a prepared set that is not whole."""
    return sources.DamagedSet(f'{folder} is damaged: {found}. Remove it and prepare again (--mode=prepare).')


def _current(final: pathlib.Path, data: Any, found: downloads.Scan | None, replace: bool) -> pathlib.Path | None:
    """The prepared version of a set, if there is one of these files. Raises UserError for one of others."""
    ready = next(iter(_versions(final)), None)
    if ready is None:
        return None
    splits_stored = _stored(ready)['splits']
    stored = {
        (split, item, side, name, size, content if replace else '')
        for split, _, item, _, side, name, content, size in _files(splits_stored)
    }
    if found is not None and stored != downloads.stamp(found, with_hashes=replace):
        if replace:
            return None
        raise UserError(
            f'{ready} was prepared from other files than those below {data.root}. --mode=prepare replaces it; or name '
            'another --config.data.tfds_dir, or leave --config.data.root out.'
        )
    for split, part in splits_stored.items():
        if part['publisher_count'] not in (None, len(part['items'])) and not data.partial:
            raise UserError(
                f'{ready} holds {len(part["items"])} of the {part["publisher_count"]} pairs of {final.name}/{split}. '
                'Complete the set and prepare it again, or take what is there by --config.data.partial.'
            )
    return ready


def _write(name: str, base: pathlib.Path, data: Any, found: downloads.Scan) -> pathlib.Path:
    """Lets TFDS write to a folder of its own, which takes the place of what was there when it is whole."""
    try:
        str(base).encode()
    except UnicodeEncodeError as error:
        raise UserError(f'{base} is not UTF-8, as ArrayRecord asks. Name another --config.data.tfds_dir.') from error
    final, (building, old) = base / name, _left_overs(base, name)
    config = downloads.kind(found.layout) if public.SETS[name].BUILDER_CONFIGS else None
    try:
        _refuse_others(final)
        _remove_left_overs(base, name)  # of a run that was killed
        builder = public.SETS[name](config=config, data_dir=str(building), is_partial=data.partial)
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS names the folder that is renamed below
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(data.root)))
        if final.exists():
            final.replace(old)
        (building / name).replace(final)
    except (OSError, RuntimeError) as error:  # ArrayRecord raises RuntimeError when the disk is full
        raise _unwritable(base, error) from error
    finally:
        _remove_left_overs(base, name)
    return _versions(final)[0]


def _left_overs(base: pathlib.Path, name: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Where a set is built, and where the one before lies until the new one has taken its place."""
    return base / f'.{name}.building', base / f'.{name}.old'


def _remove_left_overs(base: pathlib.Path, name: str) -> None:
    for each in _left_overs(base, name):
        shutil.rmtree(each, ignore_errors=True)


def _refuse_others(final: pathlib.Path) -> None:
    """Raises UserError where the folder that is to be replaced holds other files than TFDS's, such as a download."""
    own = {path.parent for path in final.glob('**/[0-9]*.[0-9]*.[0-9]*/dataset_info.json')}
    for path in final.rglob('*') if final.is_dir() else [final] if final.exists() else []:
        is_hidden = any(part.startswith('.') for part in path.relative_to(final).parts)  # TFDS's own, and a system's
        is_file = path.is_symlink() or not path.is_dir()
        if is_file and not is_hidden and not own.intersection(path.parents):
            raise UserError(
                f'{final}, where the prepared set belongs, holds other files: {path}. Name another folder for prepared '
                'sets (--config.data.tfds_dir).'
            )


def _base(data: Any) -> pathlib.Path:
    """Folder of prepared sets."""
    place = str(data.tfds_dir or tfds.core.constants.DATA_DIR).removeprefix('file://')
    if '://' in place:
        raise UserError(f'Prepared sets lie in a folder of this machine, not in {place} (--config.data.tfds_dir).')
    return storage.expanded(place)


def _versions(final: pathlib.Path) -> list[pathlib.Path]:
    """Prepared versions below the folder of a set; its path may hold the kind."""
    return [path.parent for path in storage.listed(final, f'**/{public.PublicSet.VERSION}/dataset_info.json')]


@contextlib.contextmanager
def _locked(base: pathlib.Path, name: str) -> Iterator[None]:
    """One process prepares a set; others wait and then find it ready."""
    with contextlib.ExitStack() as stack:
        try:
            base.mkdir(parents=True, exist_ok=True)
            stack.enter_context(storage.locked(base / f'.{name}.lock', waits=True))
        except OSError as error:
            raise _unwritable(base, error) from error
        yield


def _unwritable(base: pathlib.Path, error: Exception) -> UserError:
    return UserError(f'{base} cannot be written: {error}. {storage.remedy(error)} (--config.data.tfds_dir).')
