"""A run from training to scores, and studies: variants x seeds, of which what is missing is run.

One run after the other: several seeds in one program (jax.vmap over parameters) turn every convolution into a grouped
one, the slowest there is on CPUs: a step of three seeds of the quickstart together takes 1.5 times as long as
three of one.
"""

import contextlib
import csv
import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
from jax.experimental import multihost_utils

from qsnet_jax import UserError, derain, fields, memory, model, provenance, spelling, storage
from qsnet_jax.configs import studies
from qsnet_jax.data import sets, sources
from qsnet_jax.evidence import evaluate, shapes
from qsnet_jax.evidence import rows as rows_
from qsnet_jax.training import folder as folder_
from qsnet_jax.training import log, parallel, planning, settings, train
from qsnet_jax.weights import files

CURVE = ('step', 'seconds', 'total', 'psnr')  # what a row keeps of metrics.jsonl, besides validations


def run(
    config: Any, workdir: pathlib.Path, tile: int | None = None, which: str = 'latest'
) -> dict[str, dict[str, Any]]:
    """Trains, or goes on, and scores every set of `config.data.eval`; returns the results of each.

    Writes what `train.train` writes, eval/ and, into weights.safetensors, the scores. With several processes the first
    scores and the others wait for it. tile: of scores, see `derain.Derainer`. Raises UserError and Stopped as
    `train.train` does.
    """
    settings.check_fields(config)
    derain.check_tile(model.from_config(config.model), tile)
    state, training = train.train(config, workdir, which=which)
    variables = train.export(state)
    network = model.current(fields.complete(training['config'])['model'])  # of the run, which may be an old one
    config = config.copy_and_resolve_references()
    config.model.update(network)  # what is scored and recorded
    results = {}
    if jax.process_index() == 0:
        results = score(config, workdir / 'eval', derain.Derainer(variables, network, tile), training)
        kept = ('count', 'rgb', 'y', 'input')
        scores = {name: {key: result[key] for key in kept} for name, result in results.items()}
        files.save_weights(workdir / 'weights.safetensors', variables, network, {**training, 'scores': scores})
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices('scored')
    return results


def score(
    config: Any,
    folder: pathlib.Path,
    derainer: evaluate.Derainer,
    training: dict[str, Any],
    notes: dict[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Scores all sets and writes them to `folder`.

    training: the record that came with the variables. notes: what else the provenance must say.
    """
    record = {**provenance.collect(config.to_dict(), config.seed), **(notes or {}), 'training': training}
    if chosen := _chosen_by(config.data, training):
        record['selected_on'] = chosen
    results = evaluate.evaluate(derainer, config, folder, record)
    print(spelling.shown(f'scores and pictures are in {folder}'))
    return results


def evaluate_stored(
    config: Any,
    workdir: pathlib.Path,
    weights: str | None,
    which: str,
    make: Callable[[Any, dict[str, Any]], evaluate.Derainer],
    notes: dict[str, Any] | None = None,
    asked: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Scores weights of a file, or those of a checkpoint of the run in `workdir`; returns the results of each set.

    make: the derainer of variables and settings. notes: what the provenance must say of another framework.
    asked: fields of `config.model` given by hand; the network's own settings count, and a line says where they differ.
      `dtype` is free: a run is scored in its own where none is asked for, weights of a file in that of `config`.
    Scores of different weights lie in different folders: eval/ holds those of the latest checkpoint, eval-best/ and
    eval-STEP/ those of others, eval-NAME-HASH/ those of a file.
    """
    if weights:
        variables, model_settings = files.load_weights(weights)
        record = files.load_record(weights)
        path = files.find_weights(weights)
        name = f'eval-{path.stem}-{sources.file_hash(path)[:8]}'
    else:
        variables, model_settings, record = train.restore_variables(config, workdir, which)
        name = 'eval' if which == 'latest' else f'eval-{which}'
    if weights or 'dtype' in asked:  # that of the computation; all else is the network's
        model_settings = {**model_settings, 'dtype': config.model.dtype}
    config = config.copy_and_resolve_references()
    ignored = [name for name in asked if config.model[name] != model_settings[name]]
    if ignored:
        shown = ', '.join(f'model.{name}={model_settings[name]}, not {config.model[name]}' for name in ignored)
        print(spelling.shown(f'the settings of {weights or workdir} count: {shown}'))
    config.model.update(model_settings)  # what is scored and recorded
    name = name.replace('eval', 'eval-torch', 1) if notes else name
    return score(config, workdir / name, make(variables, model_settings), record, notes)


def study(
    config: Any, workdir: pathlib.Path, results: pathlib.Path, only: str | None = None, given: Sequence[str] = ()
) -> int:
    """Runs what has no row yet of all variants x seeds of `config.study`; returns how many runs failed.

    only: of these variants alone, 'a,b'. given: fields that were given by hand; a line says which variants keep theirs.
    Each run has the folder WORKDIR/VARIANT-SEED, from which an interrupted one goes on, and ends in the row
    RESULTS/rows/SIZE-VARIANT-SEED.json, also where its loss was not finite, its own files were damaged, memory ran
    out, or the run that it starts from failed. The same seed gives every variant the same batches and, where shapes
    agree, the same initial parameters. Raises UserError where a row or a begun run of that name is of another config,
    and for what `planning.check` finds in any, before the first runs.
    """
    runs = planning.plan(config, only)
    planning.check(config, runs, workdir)
    planning.say_overridden(config, runs, given)
    missing = [(name, seed) for name, seed in runs if not is_done(config, name, seed, results)]
    parallel.agree_on({'the list of runs without a row': missing})
    for name, seed in missing:
        chosen, place = planning.variant(config, name, seed, workdir), workdir / f'{name}-{seed}'
        if folder_.is_begun(place):
            with contextlib.suppress(storage.Damaged):  # of this run, which then leaves a row that says so
                folder_.read_config(chosen, place)
        parallel.check_batch(chosen.data, parallel.make_mesh())
    for place, flag in ((results / 'rows', 'results'), (workdir, 'workdir')) if missing else ():
        storage.check_writable(place, flag)
    print(spelling.shown(f'{len(runs) - len(missing)} of {len(runs)} runs have their rows in {results / "rows"}'))
    failed: set[tuple[str, int]] = set()
    before = planning.waiting(config, missing, workdir)
    for number, (name, seed) in enumerate(missing, start=1):
        print(f'{name}, seed {seed}: run {number} of {len(missing)}', flush=True)
        other = before.get((name, seed))
        fault = f'starts from what {other[0]}-{other[1]} leaves, which failed' if other in failed else None
        if 'failed' in run_variant(config, name, seed, workdir, results, fault):
            failed.add((name, seed))
        jax.clear_caches()  # programs of one variant are of no use to the next
    print(summarize(config, results))
    return len(failed)


def _chosen_by(data: Any, training: dict[str, Any]) -> list[str]:
    """Which of the sets that are scored the checkpoint was chosen on, by their names or by their images."""
    watched = training.get('selected_on') or []
    if not watched:
        return []
    known = (training.get('validation_data') or {}).values()
    prints = {each['sha256'] for each in known} | {each['whole']['sha256'] for each in known if 'whole' in each}
    scored = _fingerprints(data.to_json())
    return [name for name in scored if (scored[name]['sha256'] in prints if prints else name in watched)]


def row_path(config: Any, name: str, seed: int, results: pathlib.Path) -> pathlib.Path:
    """Where the row of a run lies."""
    return results / 'rows' / f'{config.study.size}-{name}-{seed}.json'


def is_done(config: Any, name: str, seed: int, results: pathlib.Path) -> bool:
    """Whether a run has its row. Raises UserError where it is of another config, other images or weights."""
    path = row_path(config, name, seed, results)
    if not path.exists():
        return False
    try:
        stored = _read_row(path)
        found, sets_there = stored['provenance']['config'], stored['sets']
        scored = {key: each['fingerprint'] for key, each in sets_there.items()}
        trained = (stored['provenance'].get('training') or {}).get('training_data') or {}
    except storage.Damaged as error:
        if isinstance(fault := error.__cause__, OSError):  # it may be whole
            raise UserError(f'{path} cannot be read: {fault.strerror}. {storage.remedy(fault, True)}.') from fault
        print(spelling.shown(f'{error} It is made anew.'))
        return False
    chosen = planning.variant(config, name, seed)
    chosen.update_from_flattened_dict(fields.as_it_was(found, json.loads(chosen.to_json())))
    given = json.loads(chosen.to_json())
    settings.refuse_differences(found, given, path, fields.PLACES)  # other machines keep the same data elsewhere
    other = _others(scored, _fingerprints(chosen.data.to_json()))
    now = _training_fingerprints(chosen.data.to_json()) if trained else {}
    other += [f'training set {key}' for key in _others(trained, now)]
    if other:
        raise UserError(
            f'{path} is of other images of {", ".join(sorted(other))} than {given["data"]["root"]} holds. Name another '
            '--results, or the folder that it was made with.'
        )
    if 'failed' in stored:
        return False
    _refuse_other_start(config, path, stored['provenance'], chosen)
    return True


def _refuse_other_start(config: Any, path: pathlib.Path, record: dict[str, Any], chosen: Any) -> None:
    """Raises UserError where a row's run began from other weights than `chosen`, its config today, names.

    What '{workdir}' names, a run of this study leaves, which is known by its name: it may be made anew, elsewhere, or
    not be there yet. A file is known by its hash; one of the same name that is not there contradicts no row.
    """
    before = record['config'].get('train', {}).get('start_from')
    known = ((record.get('training') or {}).get('start_from') or {}).get('sha256')
    is_left = '{workdir}' in (chosen.train.start_from or '')
    name = studies.fill(chosen, '.').train.start_from
    left = {f'{each}-{seed}/weights.safetensors' for each, seed in planning.plan(config)}
    made, made_before = ('/'.join(pathlib.Path(each or '').parts[-2:]) for each in (name, before))
    if is_left and made == made_before and made in left:
        return
    place = files.find_weights(name) if name else None
    file = place if place and place.is_file() else None
    if name == before and not (file and known):
        return
    if file is None or sources.file_hash(file) != known:
        then = f'was {before!r} then and is {name!r} now' if name != before else f'is {name!r}, which holds others now'
        raise UserError(
            f'{path} is of a run that began from other weights: train.start_from {then}. Name another --results, or '
            'give it the weights that it was made with.'
        )


def _read_row(path: pathlib.Path) -> dict[str, Any]:
    """A row of a study. Raises Damaged where it is none."""
    row = storage.read_json(path, ('provenance', 'sets'))
    if faults := shapes.faults({**row, 'kind': 'study'}):
        raise storage.Damaged(f'{path} is no row of a study: {", ".join(faults)}.')
    return row


def _others(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The sets whose images are not those that were."""
    pairs = {key: [rows_.identity(key, each[key]) for each in (stored, now)] for key in stored.keys() & now}
    return [key for key, pair in pairs.items() if not rows_.is_same(*pair)]


@functools.cache
def _fingerprints(data: str) -> dict[str, Any]:
    """Of the sets that a `config.data`, as JSON, is scored on; most runs of a study share them."""
    settings = ml_collections.ConfigDict(json.loads(data))
    opened = sets.open_evaluation(settings, settings.eval, sources.Cache(0))
    return {name: sources.fingerprint(source) for name, source in opened.items()}


@functools.cache
def _training_fingerprints(data: str) -> dict[str, Any]:
    """Of the sets that a `config.data`, as JSON, is trained on."""
    opened = sets.open_training(ml_collections.ConfigDict(json.loads(data)), sources.Cache(0))
    return {name: sources.fingerprint(source) for name, source in opened.items()}


def run_variant(
    config: Any, name: str, seed: int, workdir: pathlib.Path, results: pathlib.Path, fault: str | None = None
) -> dict[str, Any]:
    """One run of a study, and its row, which the first process writes; returns the row.

    fault: for which the run cannot begin, and all that its row then says.
    """
    chosen, folder = planning.variant(config, name, seed, workdir), workdir / f'{name}-{seed}'
    row: dict[str, Any] = {
        'kind': 'study',
        'size': config.study.size,
        'variant': name,
        'overrides': json.loads(config.study.variants[name].to_json()),
        'seed': seed,
    }
    try:
        scored = {} if fault else run(chosen, folder)
    except Exception as error:
        fault = _fault_of_one(error)
        if fault is None or (jax.process_count() > 1 and not isinstance(error, log.Diverged)):
            raise  # of all runs, or met by one process, for which the others would wait
    if fault:
        print(spelling.shown(f'{name}, seed {seed} failed: {fault}'))
        row |= {'failed': fault, 'sets': {}, 'provenance': provenance.collect(chosen.to_dict(), seed)}
    else:
        own = {key: result for key, result in scored.items() if 'sha256' in result['provenance']['dataset']}  # no means
        row |= {'sets': {key: _set(result, folder) for key, result in own.items()}, 'curve': _curve(folder)}
        row |= {'provenance': _provenance(scored)}
    if jax.process_index() == 0:
        storage.write_bytes(row_path(config, name, seed, results), (json.dumps(row, allow_nan=False) + '\n').encode())
    return row


def _fault_of_one(error: Exception) -> str | None:
    """What ended one run and need not end the next: its loss, its own damaged files, memory; None for all else."""
    if isinstance(error, log.Diverged | storage.Damaged | memory.Shortage):
        return str(error)
    return None if isinstance(error, UserError) else memory.shortage(error)


def _provenance(scored: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the sets' results share."""
    first: dict[str, Any] = next(iter(scored.values()), {'provenance': {}})['provenance']
    own = {key: value for key, value in first.items() if key not in ('dataset', 'evaluation_seconds')}
    training = {key: value for key, value in own.get('training', {}).items() if key not in own or own[key] != value}
    return {**own, 'training': training}


def _set(result: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    """The results of one set, with its fingerprint and the scores of every image, for comparisons in pairs."""
    name = result['dataset'].replace('/', '-')
    path = folder / 'eval' / name / 'per_image.csv'
    with path.open(newline='', encoding='utf-8', errors='surrogateescape') as file:
        rows = list(csv.DictReader(file))
    labels = [f'output_{protocol}_{measure}' for protocol in evaluate.PROTOCOLS for measure in evaluate.MEASURES]
    labels += [f'{scale}_{protocol}_psnr' for scale in result['scales'] for protocol in evaluate.PROTOCOLS]
    columns = {label: [_number(row[label]) for row in rows] for label in labels}
    kept = {key: value for key, value in result.items() if key not in ('dataset', 'provenance')}
    names = {column: [spelling.uncell(row[column]) for row in rows] for column in ('name', 'scene')}
    return {
        **kept,
        'fingerprint': result['provenance']['dataset'],
        'evaluation_seconds': result['provenance']['evaluation_seconds'],
        'images': {**names, **columns},
    }


def _number(text: str) -> float | None:
    """A score of a table, rounded far below what is ever printed; None for infinity and NaN."""
    value = round(float(text), 5)
    return value if abs(value) < float('inf') else None


def _curve(folder: pathlib.Path) -> list[dict[str, float | None]]:
    """Training and validation over the steps."""
    lines, _ = storage.read_json_lines(folder / 'metrics.jsonl')
    return [{key: line[key] for key in line if key in CURVE or key.startswith('validation')} for line in lines]


def summarize(config: Any, results: pathlib.Path) -> str:
    """Mean PSNR (rgb) of every variant over its seeds, by set, as lines of text; rows that are damaged are named."""
    lines = [f'{"":24}{"seeds":>6}  PSNR rgb, dB, mean over seeds of each set']
    for name in config.study.variants:
        paths = [row_path(config, name, seed, results) for seed in dict.fromkeys(config.study.seeds)]
        rows = []
        for path in (path for path in paths if path.exists()):
            try:
                rows.append(_read_row(path))
            except storage.Damaged as error:  # of a variant that --only leaves out
                end = '' if isinstance(error.__cause__, OSError) else ' Without --only it is made anew.'
                print(spelling.shown(f'left out: {error}{end}'))
        rows = [row for row in rows if 'failed' not in row]
        names = rows[0]['sets'] if rows else ()
        sets = {key: [row['sets'][key]['rgb']['psnr'] for row in rows if key in row['sets']] for key in names}
        means = [f'{key} {sum(values) / len(values):.2f}' for key, values in sets.items() if None not in values]
        lines.append(f'{name:24}{len(rows):>6}  ' + ', '.join(means))
    return '\n'.join(lines)
