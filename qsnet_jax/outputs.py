"""Where the results of photos go, and that no original is lost.

Nothing is computed before all targets are known, lie apart from every input and from each other, whatever links and
letter cases stand between their names, and the output folder has been written to. What lies in a target's place already
is replaced if it is a result of the same photo, by its place or its content, else only with --overwrite. The output
folder's `.qsnet-derained` tells results. A line of it: SHA-256 of the result; then, if they are known, its origin,
SHA-256 of the photo, and SHA-256 of the photo's path; then the name. The origin is the photo with what the network is;
a result whose origin is that of the photo to be derained is done already. What a killed run left half-written is
removed.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Iterable

from qsnet_jax import UserError, spelling, storage

RECORD = '.qsnet-derained'
ENDING = '.rain.png'  # of the layers that were removed, beside the results
_LINE = re.compile(rb'^([0-9a-f]{64})  (?:([0-9a-f]{64})  )?(?:([0-9a-f]{64})  ([0-9a-f]{64})  )?', re.MULTILINE)


@dataclasses.dataclass
class Job:
    """One photo, its name in the messages, and where its result and what was removed go."""

    source: pathlib.Path
    name: str
    target: pathlib.Path
    layer: pathlib.Path | None
    photo: bytes = b''  # SHA-256 of its content, and
    origin: bytes = b''  # of its result; both empty where they are not known

    @property
    def files(self) -> list[pathlib.Path]:
        """All that it will write."""
        return [self.target] + ([self.layer] if self.layer else [])

    def look(self, made_by: str) -> None:
        """Finds out photo and origin; what cannot be read, will be said."""
        self.photo = content(self.source) if made_by else b''
        self.origin = origin(self.photo, made_by)


class Record:
    """Which files of a folder are results: a line for each, appended before the file comes to its name."""

    def __init__(self, folder: pathlib.Path):
        self.path = folder / RECORD
        self.known: dict[bytes, set[bytes]] = {}  # results, and the origins of each
        self.photos: dict[bytes, set[bytes]] = {}  # results, and content and path of the photos of each, b'' of others
        self._break = b''  # after a line that a full disk has cut
        self._read()

    def _read(self) -> None:
        if os.path.lexists(self.path) and not self.path.is_file():  # a pipe would block
            raise UserError(
                f'{self.path} is no file, and the record of results goes there. Move it, or name another --output.'
            )
        with contextlib.suppress(FileNotFoundError):
            text = self.path.read_bytes()
            for digest, origin, *marks in _LINE.findall(text):
                self._add(digest, origin, marks)
            self._break = b'\n' if text and not text.endswith(b'\n') else b''

    def _add(self, digest: bytes, origin: bytes, marks: Iterable[bytes]) -> None:
        self.known.setdefault(digest, set()).add(origin)
        self.photos.setdefault(digest, set()).update(marks)

    def _note(self, digest: bytes, path: pathlib.Path, job: Job) -> None:
        """Appends a line for a result, if it says anything new."""
        told = (job.origin, job.photo, _place(job.source)) if job.origin else ()
        marks = told[1:] or (b'',)
        if job.origin in self.known.get(digest, ()) and {*marks} <= self.photos[digest]:
            return
        name = spelling.shown(path.relative_to(self.path.parent)).encode()
        with self.path.open('ab') as file:
            file.write(self._break + b'  '.join((digest, *told, name)) + b'\n')
        self._add(digest, job.origin, marks)
        self._break = b''

    def put(self, path: pathlib.Path, save: Callable[[pathlib.Path], None], job: Job) -> None:
        """Lets `save` write a temporary file, notes it, and gives it its name."""
        with storage.replacing(path) as temporary:
            try:
                save(temporary)
            except UserError as error:  # of the file that people know
                raise type(error)(str(error).replace(str(temporary), str(path))) from error.__cause__
            self._note(_sha256(temporary), path, job)

    def try_out(self) -> None:
        """Raises UserError where no line can be appended, as to a colleague's; makes no file."""
        try:
            self.path.open('r+b').close()
        except FileNotFoundError:
            return
        except OSError as error:
            fault = f'{error.strerror}. {storage.remedy(error)}'
            raise UserError(f'--output: {self.path} cannot be written: {fault}.') from error

    def objection(self, path: pathlib.Path, job: Job) -> str:
        """Why a job must not replace a file; empty where it is a result, unchanged, of its photo or of one not known.

        Results of another process that writes there now are among them.
        """
        digest = _sha256(path) if path.is_file() else b''
        if digest not in self.known:
            self._read()
        if digest not in self.known:
            return 'and no record says that this program wrote them'
        its = self.photos[digest]
        is_of_another = b'' not in its and not its & {_place(job.source), content(job.source)}
        return 'which this program made of another photo' if is_of_another else ''

    def is_done(self, job: Job) -> bool:
        """Whether all files of a job are there, unchanged, and of its origin; where its photo lies now is noted."""
        digests: dict[pathlib.Path, bytes] = {}
        with contextlib.suppress(OSError):
            digests = {path: _sha256(path) for path in job.files} if job.origin else {}
        if not digests or any(job.origin not in self.known.get(digest, ()) for digest in digests.values()):
            return False
        for path, digest in digests.items():
            self._note(digest, path, job)
        return True


def results_of(folder: pathlib.Path) -> frozenset[bytes]:
    """SHA-256 of all that a folder's record calls results; none where there is no record that can be read."""
    with contextlib.suppress(OSError, UserError):
        return frozenset(Record(folder).known)
    return frozenset()


def content(source: pathlib.Path) -> bytes:
    """SHA-256 of a photo; empty where it cannot be read."""
    with contextlib.suppress(OSError):
        if source.is_file():  # a pipe would block
            return _sha256(source)
    return b''


def _place(source: pathlib.Path) -> bytes:
    """SHA-256 of the path of a photo."""
    return hashlib.sha256(os.fsencode(os.path.realpath(source))).hexdigest().encode()


def origin(photo: bytes, made_by: str) -> bytes:
    """What a result is made of, a photo of that SHA-256, and by what; empty where either cannot be known."""
    return hashlib.sha256(photo + made_by.encode()).hexdigest().encode() if photo and made_by else b''


def plan(
    photos: list[pathlib.Path],
    base: pathlib.Path,
    target: pathlib.Path,
    has_layer: Callable[[pathlib.Path], bool],
    name: str | None = None,
) -> list[Job]:
    """The jobs of photos below `base`: the same names in the folder `target`, or `name` for the only one."""
    jobs = []
    for photo in photos:
        own = photo.relative_to(base)
        place = pathlib.PurePath(name) if name else own
        layer = target / place.parent / spelling.with_ending(place.name, ENDING) if has_layer(photo) else None
        jobs.append(Job(photo, str(own), target / place, layer))
    return jobs


def prepare(jobs: list[Job], folder: pathlib.Path, overwrite: bool) -> Record:
    """Makes the output folder, tries it, looks at what is there, and removes what a killed run left.

    Raises UserError where something would be lost, or could not be written.
    """
    fold = _try(folder)
    real = {parent: fold(os.path.realpath(parent)) for parent in {path.parent for job in jobs for path in job.files}}
    places = {path: f'{real[path.parent]}/{fold(path.name)}' for job in jobs for path in job.files}
    try:
        _check_inputs(jobs, places, fold)
        _check_each_other(jobs, places)
        record = Record(folder)
        record.try_out()
        existing = [(path, job) for job in jobs for path in job.files if not overwrite and os.path.lexists(path)]
        refused = [(path, why) for path, job in existing if (why := record.objection(path, job))]
    except OSError as error:
        place = error.filename or folder
        raise UserError(f'--output: {place} cannot be read: {error.strerror}. Name another folder.') from error
    if refused:
        path, why = refused[0]
        more = f' and {len(refused) - 1} more files' if len(refused) > 1 else ''
        raise UserError(f'{path}{more} would be replaced, {why}. Name another --output, or give --overwrite.')
    for parent in {folder, *real}:
        storage.remove_orphans(parent)
    return record


def _try(folder: pathlib.Path) -> Callable[[str], str]:
    """Makes the folder and a file in it; returns what maps all names of one file there to one.

    That is found out with the file: some drives take upper and lower case, and both forms of accents, for the same.
    """
    storage.refuse_links_to_nowhere(folder)
    probe = storage.temporary_path(folder / 'x')
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b'tried')
        takes_both = probe.with_name(probe.name.upper()).exists()
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink()
        raise UserError(f'--output={folder} cannot be written: {error.strerror}. {storage.remedy(error)}.') from error
    return _fold if takes_both else str


def _fold(name: str) -> str:
    """One spelling for all that such drives take for the same."""
    return spelling.composed(name).casefold()


def _check_inputs(jobs: list[Job], places: dict[pathlib.Path, str], fold: Callable[[str], str]) -> None:
    """Refuses targets that are an input, by their path, by a link, or by another name of the same file."""
    inputs: dict[str, pathlib.Path] = {}
    numbers: dict[tuple[int, int], pathlib.Path] = {}
    for job in jobs:
        parent = os.path.realpath(job.source.parent)
        inputs |= dict.fromkeys((fold(f'{parent}/{job.source.name}'), fold(os.path.realpath(job.source))), job.source)
        with contextlib.suppress(OSError):
            status = os.stat(job.source)
            numbers[status.st_dev, status.st_ino] = job.source
    for path, place in places.items():
        original = inputs.get(place)
        with contextlib.suppress(OSError):
            status = os.stat(path)
            original = original or numbers.get((status.st_dev, status.st_ino))
        if original:
            raise UserError(f'{path} is the input {original}, which would be overwritten. Name another --output.')


def _check_each_other(jobs: list[Job], places: dict[pathlib.Path, str]) -> None:
    """Refuses targets that are another target, or that lie where no file can."""
    taken: dict[str, Job] = {}
    for job in jobs:
        for path in job.files:
            other = taken.setdefault(places[path], job)
            if other is not job:
                raise UserError(f'Results of {other.source} and {job.source} would both be {path}. Rename one of them.')
    folders = {str(parent): path for path, place in places.items() for parent in pathlib.PurePath(place).parents}
    for path, place in places.items():
        if place in folders:
            raise UserError(f'{path} would be a file, and a folder for {folders[place]}. Rename one of the photos.')
        if path.is_dir():
            raise UserError(f'{path} is a folder, where a file would be written. Name another --output.')
    for parent in {path.parent for path in places}:
        existing = next(folder for folder in (parent, *parent.parents) if os.path.lexists(folder))
        if not existing.is_dir():
            raise UserError(f'{existing} is no folder, and photos would be written into it. Name another --output.')


def _sha256(path: pathlib.Path) -> bytes:
    """The hexadecimal digits of a file's content."""
    return storage.sha256(path).encode()
