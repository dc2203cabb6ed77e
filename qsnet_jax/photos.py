"""Folders of photos in, folders of results out: which photos are taken, and what is said of the others.

Taken from a folder are the files, also in folders below it and behind links, whose names end as those of a kind of
photo or video (`images.EXTENSIONS`, `video.EXTENSIONS`, `kinds.REFUSED`, in upper or lower case); a kind that cannot be
read is a failure, and so are folders that may not be read and links that lead nowhere. Passed over, and counted in a
line, are

  hidden and of a system     names that begin with a dot, and those of `kinds.SYSTEM`: what Macs, Windows and network
                             drives keep beside photos
  other kinds                all other names
  links to folders           that are taken already; each folder is taken once, so that a ring of links ends
  results                    the folder of the output, where it lies below the input, and what the records of other
                             folders there call results of earlier runs; those of a folder that is named are photos

`outputs` says where results go, and what is never replaced.
"""

import collections
import dataclasses
import errno
import os
import pathlib
import stat
import time

import jax
import numpy as np

from qsnet_jax import UserError, derain, outputs, progress, spelling, storage, video
from qsnet_jax.data import images, kinds

LISTED = 40  # kinds of files that are passed over, by name
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no other photo can be written either


@dataclasses.dataclass
class Found:
    """Photos of a file or a folder, `base`; what could not be looked into, and what was passed over, by its reason."""

    base: pathlib.Path
    photos: list[pathlib.Path] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)
    passed: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    kinds: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass
class _Tally:
    """What has come of a run so far."""

    failures: list[str]
    notes: list[str] = dataclasses.field(default_factory=list)
    done: int = 0
    already: int = 0  # by an earlier run
    pixels: int = 0
    begun: float = dataclasses.field(default_factory=time.perf_counter)

    def print(self, found: Found, target: pathlib.Path) -> None:
        """The report, in lines that a terminal may show."""
        speed = self.pixels / 1e6 / (time.perf_counter() - self.begun)
        lines = [f'{self.done} of {len(found.photos)} photos derained into {target}']
        lines[0] += f', {speed:.2g} megapixels per second with files and compilation' if self.done else ''
        lines += [f'done already: {self.already}; --overwrite does them again'] if self.already else []
        lines += [f'passed over: {_passed(found)}'] if found.passed else []
        lines += [f'note: {note}' for note in self.notes] + [f'failed: {failure}' for failure in self.failures]
        for line in lines:
            print(spelling.shown(line))


def derain_files(
    derainer: derain.Derainer,
    source: str,
    target: str,
    layers: bool = False,
    overwrite: bool = False,
    made_by: str = '',
) -> int:
    """Derains a file, or every photo below a folder, into the folder `target` under the same names.

    target: may be the name of the result where the source is a file. layers: also writes what was removed of photos,
    as NAME.rain.png. overwrite: replaces files that are no results, or of other photos, and does again what is done.
    made_by: tells the derainer from others, as its `fingerprint`; photos whose results are there and made by the same
    are passed over. '': none are.
    What cannot be read is reported at the end and does not stop the rest; a run that is interrupted reports what it
    has done. Returns how many things failed.
    """
    source_path, target_path = storage.expanded(source), storage.expanded(target)
    found = find_photos(source_path, target_path)
    is_name = not source_path.is_dir() and _is_name(target_path, source_path)
    folder, name = (target_path.parent, target_path.name) if is_name else (target_path, None)
    jobs = outputs.plan(found.photos, found.base, folder, lambda path: layers and not video.is_video(path), name)
    record = outputs.prepare(jobs, folder, overwrite)
    tally = _Tally(list(found.failures))
    try:
        with progress.bar(jobs, 'photos', unit='photo') as bar:
            for index, job in enumerate(bar, 1):
                bar.set_postfix_str(spelling.shown(job.name))
                job.look(made_by)
                if not overwrite and record.is_done(job):
                    tally.already += 1
                elif not _count_file(tally, derainer, job, record, layers):
                    rest = len(jobs) - index
                    tally.failures += [f'{rest} more photos were not tried'] if rest else []
                    break
    finally:
        tally.print(found, target_path)
    return len(tally.failures)


def find_photos(source: pathlib.Path, target: pathlib.Path | None = None) -> Found:
    """The file itself, or all photos below a folder but for those in `target`, as the module says.

    Raises UserError where there is none, and nothing that failed either.
    """
    try:
        mode = os.stat(source).st_mode
    except FileNotFoundError as error:
        raise UserError(f'--input={source} does not exist; expected an image or a folder of images.') from error
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'--input={source} cannot be read: {reason}. Check the path and its permissions.') from error
    if not stat.S_ISDIR(mode):
        return Found(source.parent, [source])
    found = Found(source)
    try:
        os.scandir(source).close()
    except OSError as error:
        raise UserError(f'--input={source} cannot be read: {error.strerror}. Change its permissions.') from error
    _walk(found, target)
    if not found.photos and not found.failures:
        passed = f' Passed over: {_passed(found)}.' if found.passed else ''
        expected = ', '.join((*images.EXTENSIONS, *video.EXTENSIONS))
        raise UserError(f'No photo and no video under {source}; expected files ending in {expected}.{passed}')
    return found


def removed(rainy: np.ndarray, restored: np.ndarray) -> np.ndarray:
    """The rain layer to look at: how much brighter the rainy image was, uint8 as both."""
    return np.maximum(rainy, restored) - restored


def _walk(found: Found, target: pathlib.Path | None) -> None:
    """Looks into every folder once, into those behind links last, so that photos keep their own names."""
    base, results = os.path.realpath(found.base), os.path.realpath(target) if target else None
    if results and _is_within(base, results):  # all of the input would be results
        results = None
    seen: set[tuple[int, int]] = set()
    made: dict[pathlib.Path, frozenset[bytes]] = {}  # of each folder, what it or one above it calls results
    folders, links = [found.base], collections.deque[pathlib.Path]()
    while folders or links:
        folder = folders.pop() if folders else links.popleft()
        try:
            status = os.stat(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            found.failures.append(_unreadable(folder, error))
            continue
        if (status.st_dev, status.st_ino) in seen:
            found.passed['links to folders that are taken already'] += 1
            continue
        if results and folder != found.base and _is_within(os.path.realpath(folder), results):
            found.passed['folders of results'] += 1
            continue
        seen.add((status.st_dev, status.st_ino))
        above = made.get(folder.parent, frozenset())
        own = outputs.results_of(folder) if folder != found.base else frozenset()
        made[folder] = own | above if own else above
        for entry in entries:
            if kept := _judge(found, pathlib.Path(folder, entry.name), entry, made[folder]):
                (links if entry.is_symlink() else folders).append(kept)
    found.photos.sort()


def _judge(found: Found, path: pathlib.Path, entry: os.DirEntry, made: frozenset[bytes]) -> pathlib.Path | None:
    """Takes a file, passes over it, or returns a folder to look into. made: hashes of results."""
    suffix = spelling.extension(path)
    if kinds.is_hidden(entry.name):
        found.passed['hidden or of a system'] += 1
        return None
    try:
        if entry.is_dir():
            return path
        leads_nowhere = entry.is_symlink() and not os.path.exists(path)
    except NotADirectoryError:  # a link through a file
        leads_nowhere = True
    except OSError as error:
        found.failures.append(_unreadable(path, error))
        return None
    if suffix in images.EXTENSIONS or suffix in kinds.REFUSED or video.is_video(path):
        if made and outputs.content(path) in made:
            found.passed['results of an earlier run'] += 1
        else:
            found.photos.append(path)
    elif leads_nowhere:  # perhaps to a folder, whose name may hold a dot
        found.failures.append(f'{path}: is a link to {os.readlink(path)}, which does not exist; remove it or mend it')
    else:
        found.passed['of other kinds'] += 1
        found.kinds.add(suffix or 'no extension')
    return None


def _unreadable(path: pathlib.Path, error: OSError) -> str:
    """What is said of a folder that cannot be looked into, and of a link that cannot be followed."""
    if error.errno == errno.ELOOP:
        return f'{path}: is a link that leads in a circle; remove it or mend it'
    return f'{path}: cannot be read ({error.strerror}); expected a folder to look into; change its permissions'


def _passed(found: Found) -> str:
    """What was passed over, in words: '2 hidden or of a system, 3 of other kinds (.mov, .txt)'."""
    kinds = sorted(found.kinds)
    listed = f' ({", ".join(kinds[:LISTED])}{", ..." if len(kinds) > LISTED else ""})' if kinds else ''
    return ', '.join(
        f'{count} {reason}{listed if reason == "of other kinds" else ""}' for reason, count in found.passed.items()
    )


def _is_name(target: pathlib.Path, source: pathlib.Path) -> bool:
    """Whether an output is the name of a photo's result, and no folder. Raises UserError where its end is another."""
    extension = spelling.extension(target)
    if extension not in (*images.EXTENSIONS, *video.EXTENSIONS, *kinds.REFUSED) or target.is_dir():
        return False
    if extension != spelling.extension(source):
        raise UserError(
            f'--output={target} has another extension than {source}, whose format the result keeps. Give it the same, '
            'or name a folder.'
        )
    return True


def _is_within(path: str, folder: str) -> bool:
    """Whether a real path is a folder or lies below it."""
    return pathlib.PurePath(folder) in (pathlib.PurePath(path), *pathlib.PurePath(path).parents)


def _count_file(
    tally: _Tally, derainer: derain.Derainer, job: outputs.Job, record: outputs.Record, layers: bool
) -> bool:
    """Derains a file and notes what came of it; returns whether others can be written."""
    try:
        notes, pixels = _derain_file(derainer, job, record)
    except (UserError, images.ImageError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        tally.failures.append(_reason(error, job, derainer))
        return _errno(error) not in FULL
    notes += ['of a video no layer is written'] if layers and video.is_video(job.source) else []
    tally.done += 1
    tally.notes += [f'{job.name}: {note}' for note in notes]
    tally.pixels += pixels
    return True


def _derain_file(derainer: derain.Derainer, job: outputs.Job, record: outputs.Record) -> tuple[list[str], int]:
    """One photo in, one photo out, with its format, alpha, profile and EXIF data, or a video; returns notes, pixels."""
    if video.is_video(job.source):
        return _derain_video(derainer, job, record)
    photo = images.open_photo(job.source)
    restored = derainer(photo.rgb)
    record.put(job.target, lambda path: images.save_photo(path, restored, photo), job)
    if job.layer:
        rain = removed(photo.rgb, restored)
        record.put(job.layer, lambda path: images.save_photo(path, rain, images.Photo.of_pixels(rain)), job)
    return list(photo.notes), photo.rgb.shape[0] * photo.rgb.shape[1]


def _derain_video(derainer: derain.Derainer, job: outputs.Job, record: outputs.Record) -> tuple[list[str], int]:
    """The same of a video, frame by frame; of what was removed nothing is written."""
    found: list[video.Summary] = []

    def save(path: pathlib.Path) -> None:
        made = path.with_name(path.name + job.target.suffix)  # whose extension says the container
        try:
            found.append(video.derain_video(derainer, job.source, made))
        except (UserError, OSError, MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # what PyAV makes of strangers' files
            reason = f'cannot be read or written again ({type(error).__name__}: {error})'
            raise video.VideoError(f'{job.source}: {reason}; expected a whole video; export it as MP4') from error
        made.replace(path)

    record.put(job.target, save, job)
    summary = found[0]
    return [str(summary), *summary.notes], summary.frames * summary.width * summary.height


def _reason(error: Exception, job: outputs.Job, derainer: derain.Derainer) -> str:
    """Why a photo failed. Raises the error again where it is none of the photo's."""
    if isinstance(error, (images.ImageError, UserError)):
        return str(error)
    if isinstance(error, jax.errors.JaxRuntimeError) and 'RESOURCE_EXHAUSTED' not in str(error):
        raise error
    if isinstance(error, OSError):
        return f'{job.target}: cannot be written ({error.strerror or error}); check the folder and the disk'
    if derainer.network.norm == 'instance':
        return f'{job.name}: out of memory; a network with instance norm takes a photo as a whole; shrink the photo'
    return f'{job.name}: out of memory with tiles of {derainer.tile} pixels; use a smaller --tile'


def _errno(error: BaseException) -> int | None:
    """The number of the system's error behind an exception, if there is one."""
    cause = error.__cause__ if isinstance(error, images.ImageError) else error
    return getattr(cause, 'errno', None)
