"""The folder of a run: whose it is (config.json), how it came about (run.json), and who trains in it (.lock)."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from qsnet_jax import UserError, fields, spelling, storage
from qsnet_jax.data import sources
from qsnet_jax.training import checkpoint, settings
from qsnet_jax.weights import checks, files

_COMPUTES = ('commit', 'versions', 'device', 'precision')  # what of a start may change its results


@contextlib.contextmanager
def claimed(workdir: pathlib.Path) -> Iterator[None]:
    """Refuses a second training process in one workdir; the claim ends with the process, however it ends."""
    if jax.process_index():
        yield
        return
    with storage.locked(workdir / '.lock', waits=False) as is_mine:
        if not is_mine:
            raise UserError(f'Another process trains in {workdir}. Wait for it, or name another --workdir.')
        yield


def is_begun(workdir: pathlib.Path) -> bool:
    """Whether a folder holds checkpoints of a run. Raises UserError where it holds what a new run would replace."""
    if checkpoint.steps_in(workdir / 'checkpoints'):
        return True
    if os.path.lexists(workdir / 'weights.safetensors'):
        raise UserError(
            f'{workdir} holds weights.safetensors and no checkpoint: training would begin anew and replace it. Name '
            'another --workdir, or move that file.'
        )
    left = [name for name in ('config.json', 'run.json', 'metrics.jsonl') if os.path.lexists(workdir / name)]
    if left and not _left_no_step(workdir):
        raise UserError(
            f'{workdir} holds {" and ".join(left)} and no checkpoint: its checkpoints are lost, or these are not of a '
            'run. Training would begin anew and replace them. Name another --workdir, or move these files.'
        )
    return False


def _left_no_step(workdir: pathlib.Path) -> bool:
    """Whether all that a folder holds is a first start, which ended before its first checkpoint was whole.

    Until then a run logs the steps up to the second one, while the first is written.
    """
    path = workdir / 'metrics.jsonl'
    try:
        starts = starts_of(workdir)
        lines = storage.read_json_lines(path)[0] if path.exists() else []
    except storage.Damaged:
        return False
    logged = [line['step'] for line in lines if isinstance(line.get('step'), int)]
    for start in starts:
        due = [start['config']['train'].get(name) for name in ('checkpoint_every', 'eval_every')]
        first = min((each for each in due if isinstance(each, int)), default=0)
        if start['step'] or max(logged, default=0) > 2 * first:
            return False
    return bool(starts)


def stored_config(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The config that a run was begun with; from run.json where config.json is lost, None where both are.

    Raises UserError where what is there is damaged and nothing else says it.
    """
    path, fault = workdir / 'config.json', None
    if path.exists():
        try:
            stored = storage.read_json(path, ('model', 'train', 'data'), 'Remove it and give the config of the run.')
            _check_network(path, stored)
        except storage.Damaged as error:
            fault = error
        else:
            _refuse_another_network(path, stored, starts_of(workdir))
            return stored
    starts = starts_of(workdir)
    if starts:
        _check_network(workdir / 'run.json', starts[-1]['config'])
        print(spelling.shown(f'{fault or f"{path} is missing."} The config of the run is taken from run.json.'))
        return starts[-1]['config']
    if fault:
        raise fault
    return None


def _check_network(path: pathlib.Path, stored: dict[str, Any]) -> None:
    """Raises Damaged for settings that no network has, and where one is missing that every run has written."""
    known, found = fields.default_fields(), fields.flat({'model': stored['model']})
    unknown = [name for name in found if name not in known]
    if unknown:
        raise storage.Damaged(f'{path} holds {", ".join(unknown)}, which no network has.')
    missing = [f'model.{name}' for name in checks.ORIGINAL if name not in stored['model']]
    if missing:
        raise storage.Damaged(f'{path} lacks {", ".join(missing)}; bring back the file as it was written.')


def _refuse_another_network(path: pathlib.Path, stored: dict[str, Any], starts: list[dict[str, Any]]) -> None:
    """Raises UserError where config.json and run.json, written together, tell of different networks."""
    found, begun = (
        fields.flat({'model': each['model']}) for each in (stored, starts[-1]['config'] if starts else stored)
    )
    different = [
        f'{name} is {found[name]!r} and {begun[name]!r}'
        for name in sorted(found.keys() & begun.keys())
        if fields.of_today(name, found[name]) != fields.of_today(name, begun[name])
    ]
    if different:
        raise UserError(
            f'{path} and run.json beside it tell of different networks: {", ".join(different)}. One of them is '
            'damaged; remove that one.'
        )


def starts_of(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Provenance of every start of a run, none where run.json is missing. Raises UserError where it is damaged."""
    path = workdir / 'run.json'
    if not path.exists():
        return []
    remedy = 'Remove it to go on without the record of how the run came about.'
    starts = storage.read_json(path, ('starts',), remedy)['starts']
    if not isinstance(starts, list) or not all(map(_is_start, starts)):
        raise storage.Damaged(f'{path} does not hold the starts of a run. {remedy}')
    return starts


def _is_start(start: Any) -> bool:
    """Whether all that is read of a start is there, and of its type."""
    needed = {'step', 'config', 'training_data', 'commit', 'date'}
    if not isinstance(start, dict) or not needed <= start.keys() or not isinstance(start['config'], dict):
        return False
    origin = start.get('start_from') or {}
    return (
        isinstance(start['step'], int)
        and all(isinstance(start['config'].get(name), dict) for name in ('model', 'train', 'data'))
        and all(_are_prints(prints) for prints in (start['training_data'], start.get('validation_data') or {}))
        and (isinstance(origin, dict) and isinstance(origin.get('sha256', ''), str))
    )


def _are_prints(prints: Any) -> bool:
    """Whether these are fingerprints of sources by name."""
    return isinstance(prints, dict) and all(
        isinstance(each, dict) and isinstance(each.get('sha256'), str) and isinstance(each.get('count'), int)
        for each in prints.values()
    )


def start_of(starts: list[dict[str, Any]], step: int) -> dict[str, Any]:
    """The start that made the step before `step`: whose provenance a checkpoint carries."""
    before = [start for start in starts if start['step'] < step] or starts[:1]
    return {key: value for key, value in before[-1].items() if key != 'step'} if before else {}


def read_config(config: Any, workdir: pathlib.Path) -> Any:
    """The given config, for a run that `workdir` holds; a field that did not exist then means what it meant then.

    Raises UserError where it is another one than that of the run. Where files lie is no difference, for their contents
    are compared (`claim_start`), as long as run.json tells of them.
    """
    stored = stored_config(workdir)
    if stored is None:
        raise UserError(
            f'{workdir} holds checkpoints, but neither config.json nor run.json says of which run. Bring one of them '
            'back, or name another --workdir.'
        )
    given = json.loads(config.to_json())
    old = fields.as_it_was(stored, given) | fields.former_values(stored, given)
    if old:
        config = config.copy_and_resolve_references()
        config.update_from_flattened_dict(old)
        begun = ', '.join(f'{name}={value}' for name, value in old.items())
        print(spelling.shown(f'as the run in {workdir} was begun: {begun}'))
    starts = starts_of(workdir)
    if not starts:
        print(spelling.shown(f'{workdir / "run.json"} is missing: whether the images are the same cannot be told'))
    given = json.loads(config.to_json())
    settings.refuse_differences(stored, given, workdir, fields.PLACES if starts else ())
    return config


def write_config(config: Any, workdir: pathlib.Path) -> None:
    """Makes the folder this run's, or brings back a config.json that was lost."""
    if jax.process_index() == 0:
        storage.write_json(workdir / 'config.json', json.loads(config.to_json()))


def claim_start(
    config: Any, workdir: pathlib.Path, step: int, record: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Adds a start of the run to run.json; refuses other images and weights than those of the starts before it.

    A start without a checkpoint after it left nothing behind and is forgotten; one at the last step adds nothing.
    Returns the provenance of the last steps, and of all starts step, commit, date, and what else differs in them.
    """
    starts = starts_of(workdir) if step else []
    starts = [start for start in starts if start['step'] < step]
    if starts:
        _refuse_other_images(starts[-1], record, workdir)
        _refuse_other_weights(starts[-1], config.train.start_from, workdir)
    if not starts or step < config.train.steps:
        if starts and (changed := _changes(starts[-1], record)):
            print(f'note: since the last start of this run {"; ".join(changed)}')
        origin = starts[0].get('start_from') if starts else _origin(config.train.start_from)
        starts.append({'step': step, **record, **({'start_from': origin} if origin else {})})
    if jax.process_index() == 0:
        storage.write_json(workdir / 'run.json', {'starts': starts})
    return start_of(starts, config.train.steps), [_in_short(each, starts[-1]) for each in starts]


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What computes otherwise than at another start: commit, versions, device, precision, as 'commit is B, was A'."""
    then, today = (fields.flat({name: each[name] for name in _COMPUTES if name in each}) for each in (before, now))
    return [
        f'{name} is {value}, was {then[name]}' for name, value in today.items() if name in then and then[name] != value
    ]


def _in_short(start: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """When a start was, and by what commit; and what else of its computation differs from the last one's."""
    kept = {name: start[name] for name in ('step', 'commit', 'date')}
    return kept | {name: start[name] for name in _COMPUTES if name in start and start[name] != last.get(name)}


def changed_images(stored: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """Names of the sources whose files have changed, and how many there were and are."""
    return [
        f'{name} ({stored[name]["count"]} images then, {given[name]["count"]} now)'
        for name in sorted(stored.keys() & given.keys())
        if stored[name]['sha256'] != given[name]['sha256']
    ]


def _origin(name: str | None) -> dict[str, Any] | None:
    """What the weights that a run starts from say of themselves."""
    if not name:
        return None
    return {'sha256': sources.file_hash(files.find_weights(name)), 'record': files.load_record(name)}


def _refuse_other_images(stored: dict[str, Any], given: dict[str, Any], workdir: pathlib.Path) -> None:
    """Raises UserError that names the sources whose files have changed since the run's last steps."""
    for key, what in (('training_data', 'training'), ('validation_data', 'validation')):
        changed = changed_images(stored.get(key) or {}, given.get(key) or {})
        if changed:
            raise UserError(
                f'{workdir} holds a run on other {what} images of {", ".join(changed)}. Name another --workdir, or '
                'give it the files that it was begun with.'
            )


def _refuse_other_weights(stored: dict[str, Any], name: str | None, workdir: pathlib.Path) -> None:
    """Raises UserError where a run that began from weights is to go on as one from others."""
    before = stored['config']['train'].get('start_from')
    if before == name:
        return
    path = files.find_weights(name) if name else None
    known = (stored.get('start_from') or {}).get('sha256')
    if not path or not path.is_file() or sources.file_hash(path) != known:
        raise UserError(
            f'{workdir} holds a run with another config: train.start_from is {before!r} there and {name!r} here, and '
            'these are not the same weights.'
        )
