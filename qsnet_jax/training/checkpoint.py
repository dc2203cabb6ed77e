"""Orbax checkpoints of a training run's state, each with a hash of all that it holds."""

import contextlib
import dataclasses
import errno
import hashlib
import math
import os
import pathlib
import re
import sys
import tempfile
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from qsnet_jax import UserError, memory, storage

_PLAIN = re.compile(r'[\w/.\-+=,:~@ ]*')  # paths that TensorStore takes as they are
_PLACES = ('/tmp', '/var/tmp', '/dev/shm')  # of a link, where the name of $TMPDIR is not plain either
# Faults in reading that a checkpoint is not to blame for: rights, the drive, open files, memory.
_NO_DAMAGE = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Checkpoints:
    """Those under a folder: the latest `keep` and the best by validation, written asynchronously.

    One that was being written when the process died is not listed and is removed at the next start.
    """

    def __init__(self, directory: pathlib.Path, keep: int = 3, read_only: bool = False):
        self.directory = directory.resolve()
        _check_each(self.directory)
        self._link: tempfile.TemporaryDirectory | None = None
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(get_metric_fn=_psnr, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=_psnr,
            preservation_policy=None if read_only else policy,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        try:
            self._manager = ocp.CheckpointManager(self._place(), options=options)
        except Exception as error:  # of Orbax, whatever it trips over: one damaged checkpoint, and it opens none
            if self._link is not None:
                self._link.cleanup()
            if isinstance(error, OSError):
                raise
            _refuse_what_is_no_damage(error, str(self.directory))
            damaged = [step for step in steps_in(self.directory) if not _can_be_opened(self.directory / str(step))]
            if not damaged:
                raise
            raise _to_be_removed(self.directory, damaged[0], f'{type(error).__name__}: {str(error)[:160]}') from error

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.close()
        if self._link is not None:
            self._link.cleanup()

    def wait(self) -> None:
        """Until all is on disk."""
        self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """All that are there, the oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, psnr: float | None = None) -> None:
        """Starts to write `state` as checkpoint `step`; `wait` returns when it is on disk."""
        metrics = {} if psnr is None else {'psnr': psnr}
        arguments = ocp.args.StandardSave(_held(state))
        self._manager.save(step, args=arguments, metrics=metrics, custom_metadata={'sha256': digest(state)}, force=True)

    def restore(self, step: int, like: Any) -> Any:
        """The state saved as `step`, with the shapes, types and shardings of `like`.

        Raises storage.Damaged that names the others where it is damaged, in whatever way, and UserError for what the
        drive or memory is to blame for.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _held(like))
        try:
            held = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
            state = dataclasses.replace(like, **held)
            stored = (self._manager.metadata(step).custom_metadata or {}).get('sha256')
        except Exception as error:  # of Orbax and TensorStore, whatever they trip over
            _refuse_what_is_no_damage(error, f'Checkpoint {step} in {self.directory}')
            raise self._damaged(step, f'{type(error).__name__}: {" ".join(str(error).split())[:160]}') from error
        if stored not in (None, digest(state)):  # None: written before there were hashes
            raise self._damaged(step, 'its values are not those that were saved')
        return state

    def find(self, which: str | int) -> int:
        """Step of the checkpoint called 'latest' or 'best', or of a number. Raises UserError for none."""
        steps = self.steps()
        if not steps:
            raise UserError(f'No checkpoint under {self.directory}. Train first (--mode=train) or name --workdir.')
        if which == 'latest':
            return steps[-1]
        if which == 'best':
            best = self._manager.best_step()
            if best is None or _psnr(self._manager.metrics(best) or {}) < 0:
                raise UserError(
                    f'No checkpoint under {self.directory} was validated, so that none is the best; give '
                    f"'latest' or one of the steps {steps}."
                )
            return best
        if str(which) in (by_name := {str(step): step for step in steps}):
            return by_name[str(which)]
        raise UserError(f"--checkpoint={which} is not there; there are 'latest', 'best' and the steps {steps}.")

    def refuse_to_lose_after(self, step: int, like: Any) -> None:
        """Raises UserError where one of a later step is whole, which a run that goes on from `step` would remove."""
        for later in reversed([each for each in self.steps() if each > step]):
            with contextlib.suppress(storage.Damaged):
                self.restore(later, like)
                raise UserError(
                    f'{self.directory} also holds checkpoint {later}, which is whole, and training from step {step} '
                    f'would remove it. To score step {step} give --mode=eval; to train from it, move those of later '
                    'steps away.'
                )

    def forget_after(self, step: int) -> None:
        """Removes the checkpoints of later steps, which a run that goes on from `step` makes again."""
        later = [each for each in self.steps() if each > step]
        for each in later:
            self._manager.delete(each)
        if later:
            print(f'going on from step {step}; the checkpoints of steps {", ".join(map(str, later))} are made anew')

    def _damaged(self, step: int, fault: str) -> storage.Damaged:
        others = [each for each in reversed(self.steps()) if each != step]
        remedy = (
            f'There are also those of steps {", ".join(map(str, others))}: --checkpoint={others[0]} goes on from there'
            f', and so does the same command, also of a study, once {self.directory / str(step)} is removed.'
            if others
            else _begin_again(self.directory)
        )
        return storage.Damaged(f'Checkpoint {step} in {self.directory} is damaged ({fault}). {remedy}')

    def _place(self) -> pathlib.Path:
        """The folder by a name that TensorStore takes as it is, its own or that of a link."""
        if _is_plain(self.directory):
            return self.directory
        if jax.process_count() > 1:
            raise UserError(f'{self.directory}: several processes need a --workdir of a to z, digits, - and _ alone.')
        self._link = tempfile.TemporaryDirectory(prefix='qsnet-', dir=self._place_of_link())
        link = pathlib.Path(self._link.name) / 'checkpoints'
        link.symlink_to(self.directory, target_is_directory=True)
        if not self.directory.exists():
            self.directory.mkdir(parents=True)
        return link

    def _place_of_link(self) -> str:
        """A folder of a plain name in which can be written. Raises UserError where there is none."""
        for place in (tempfile.gettempdir(), *_PLACES):
            if _is_plain(place) and os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK):
                return place
        raise UserError(
            f'{self.directory} cannot hold checkpoints by that name, and there is no folder for a link to it. Name a '
            '--workdir of a to z, digits, - and _ alone, or set TMPDIR to a folder of such a name.'
        )


def _is_plain(path: str | os.PathLike) -> bool:
    """Whether TensorStore finds a path: it expands brackets, turns backslashes and writes all names in UTF-8."""
    name = str(path)
    is_same = name.isascii() or sys.getfilesystemencoding().lower() == 'utf-8'
    return is_same and _PLAIN.fullmatch(name) is not None


def steps_in(directory: pathlib.Path) -> list[int]:
    """Steps of the checkpoints under a folder, without opening them; none where there is no such folder.

    Raises UserError where the folder cannot be read, or is a link to where nothing is.
    """
    storage.refuse_link_to_nowhere(directory)
    try:
        return sorted(int(name) for name in os.listdir(directory) if name.isdecimal() and name == str(int(name)))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f'{directory} cannot be read: {error.strerror}. {storage.remedy(error, True)}.') from error


def _check_each(directory: pathlib.Path) -> None:
    """Raises UserError for a file in the place of a checkpoint, which Orbax passes over, and for a damaged score.

    With a validation score that cannot be read Orbax opens none of them.
    """
    for step in steps_in(directory):
        storage.refuse_link_to_nowhere(directory / str(step))
        if not (directory / str(step)).is_dir():
            raise _to_be_removed(directory, step, 'it is a file where a folder is expected')
        path = directory / str(step) / 'metrics' / 'metrics'
        if path.exists():
            try:
                storage.read_json(path)
            except storage.Damaged as error:
                _refuse_what_is_no_damage(error.__cause__ or error, str(path))
                raise _to_be_removed(directory, step, str(error).removesuffix('.')) from error


def _can_be_opened(path: pathlib.Path) -> bool:
    """Whether Orbax opens a folder that holds this checkpoint alone."""
    with tempfile.TemporaryDirectory(prefix='qsnet-') as folder:
        (pathlib.Path(folder) / path.name).symlink_to(path, target_is_directory=True)
        try:
            ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(best_fn=_psnr, read_only=True)).close()
        except Exception:  # the one that is looked for
            return False
    return True


def _refuse_what_is_no_damage(error: BaseException, what: str) -> None:
    """Raises UserError, with its own remedy, for an error that a whole checkpoint meets too."""
    number = storage.system_number(error)
    if number in _NO_DAMAGE:
        raise UserError(f'{what} cannot be read: {os.strerror(number)}. {storage.remedy(error, True)}.') from error
    if shortage := memory.shortage(error):
        raise memory.Shortage(f'{what} cannot be read: {shortage}') from error


def _to_be_removed(directory: pathlib.Path, step: int, fault: str) -> storage.Damaged:
    """What is said of a checkpoint for whose sake Orbax opens none."""
    others = [str(each) for each in reversed(steps_in(directory)) if each != step]
    way = f'Remove {directory / str(step)}, and the same command goes on from step {others[0]}.' if others else ''
    return storage.Damaged(f'Checkpoint {step} is damaged ({fault}). {way or _begin_again(directory)}')


def _begin_again(directory: pathlib.Path) -> str:
    """What to do where no checkpoint is whole: without any, the rest of the folder is not replaced."""
    return f'There is no other; begin again in another --workdir, or move {directory.parent} away.'


def _held(state: Any) -> dict[str, Any]:
    """The parts of a state that it has: one without an average is stored as before there were averages."""
    parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: part for name, part in parts.items() if part is not None}


def digest(state: Any) -> str:
    """One hash over names, shapes and values of all arrays of a state."""
    found = hashlib.sha256()
    for path, value in jax.tree_util.tree_leaves_with_path(state):
        array = np.asarray(jax.device_get(value))
        found.update(f'{jax.tree_util.keystr(path)} {array.shape} {array.dtype}'.encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _psnr(metrics: dict[str, float]) -> float:
    """What 'best' means; a checkpoint saved without a validation is never the best."""
    psnr = metrics.get('psnr', -1.0)
    return psnr if math.isfinite(psnr) else -1.0  # once, images restored to the last bit counted
