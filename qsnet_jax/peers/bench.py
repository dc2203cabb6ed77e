"""Speed and memory of the network beside its peers, all in one process, taking turns, every call waiting to its end.

Peers: the network in its plain form, the PyTorch twin eager in both memory layouts and under torch.compile, and on CPUs
its ONNX export under ONNX Runtime and OpenVINO. One that cannot run is listed with the reason. A ratio is the median
over rounds of a peer's time over ours in the same round, so that a machine that slows down slows down both.
"""

import os
import pathlib
import re
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from qsnet_jax import UserError, model, progress, provenance, storage
from qsnet_jax.peers import bench_page, choices, compiled, contenders, machine
from qsnet_jax.peers.contenders import OURS


def bench(config: Any, results: pathlib.Path) -> pathlib.Path:
    """Times everything in `config.bench`; writes DEVICE.json (after every case), DEVICE.md and DEVICE.png.

    Where `config.bench.card` names a card, everything is compiled for it instead, see `compiled`. Returns the path of
    the JSON file. Raises UserError for a config without that section, where other timings lie in that place, and at the
    end where our own network failed.
    """
    if 'bench' not in config:
        raise UserError(
            '--mode=bench needs a config that says what to time: --config=configs/bench.py, :gpu, :small, '
            ':choices, :sharing, or :h100, :a100, :rtx4090, which compile only.'
        )
    settings = config.bench
    if settings.shipped:
        config = ml_collections.ConfigDict(config.to_dict())
        config.bench.models = ml_collections.ConfigDict(choices.models(), sort_keys=False)
        settings = config.bench
    _check(config)
    if settings.card:
        return compiled.bench(config, results)
    stem = results / _name(settings)
    report = _begin(config, stem)
    cases = _cases(settings)
    with storage.writable(results), progress.bar(cases, 'cases') as bar:
        for case in bar:
            bar.set_postfix_str(bench_page.title(case))
            report['cases'].append(_measure(config, case))
            storage.write_json(stem.with_suffix('.json'), report)
        page, plot = bench_page.table(report), choices.draw if settings.shipped else bench_page.draw
        page = f'{choices.table(report)}\n{page}' if settings.shipped else page
        storage.write_bytes(stem.with_suffix('.md'), page.encode())
        if not settings.beside:
            plot(report).savefig(stem.with_suffix('.png'), dpi=110)
    print(page)
    print(f'written: {stem}.json, .md{"" if settings.beside else ", .png"}')
    failed = [f'{bench_page.title(case)}: {case["absent"][OURS]}' for case in report['cases'] if OURS in case['absent']]
    if failed:
        raise UserError(f'Our own network could not run everywhere: {"; ".join(failed)}.')
    return stem.with_suffix('.json')


def _check(config: Any) -> None:
    """Refuses values of `config.bench` that nothing can be timed with."""
    settings = config.bench
    if settings.rounds < 1:
        raise UserError(f'bench.rounds is {settings.rounds}; it must be at least 1.')
    if settings.beside not in ('', *settings.models):
        raise UserError(f'bench.beside is {settings.beside!r}; expected one of {", ".join(settings.models)}, or none.')
    needed = {'precisions': settings.precisions, **({'forms': settings.forms} if settings.card else {})}
    for name, values in needed.items():
        if not values:
            raise UserError(f'bench.{name} is empty; give at least one.')
    if unknown := [each for each in settings.precisions if each not in model.DTYPES]:
        raise UserError(f'bench.precisions holds {unknown[0]!r}; expected some of {", ".join(model.DTYPES)}.')
    for name, values in {'sizes': settings.sizes, 'batches': settings.batches}.items():
        if not all(_is_count(each) for each in values):
            raise UserError(f'bench.{name} is {values}; expected whole numbers from 1, as (2,).')
    if not all(isinstance(pair, tuple | list) and [*map(_is_count, pair)] == [True] * 2 for pair in settings.training):
        raise UserError(f'bench.training is {settings.training}; expected pairs of images and side, as ((2, 96),).')
    if settings.training and settings.peers and config.train.optimizer != 'adam':
        raise UserError(f"train.optimizer is {config.train.optimizer!r}; trainings in PyTorch have 'adam' alone.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _begin(config: Any, stem: pathlib.Path) -> dict[str, Any]:
    """The report without its cases; raises UserError where one of other settings or another machine lies there."""
    record = {
        **provenance.collect(config.to_dict(), config.seed),
        'processor': machine.processor(),
        'peers': {name: provenance.version(name) for name in ('torch', 'onnxruntime', 'openvino')},
    }
    way_out = 'give --config.bench.name=NAME, or name another --results'
    claimed = provenance.claim(stem.with_suffix('.json'), compiled.told, {'provenance': record}, way_out)
    endings = ('.md',) if config.bench.beside else ('.md', '.png')
    provenance.claim_beside([stem.with_suffix(ending) for ending in endings], claimed, way_out)
    ceilings = {precision: machine.ceilings(precision) for precision in config.bench.precisions}
    return {'provenance': record, 'ceilings': ceilings, 'cases': []}


def _name(settings: Any) -> str:
    """Of the files: what is timed, where it has a name, and the device."""
    device = jax.devices()[0]
    cores = f' {len(os.sched_getaffinity(0))} cores' if device.platform == 'cpu' else ''
    return re.sub(r'[^a-z0-9]+', '-', f'{settings.name} {device.device_kind}{cores}'.lower()).strip('-')


def _cases(settings: Any) -> list[dict[str, Any]]:
    """What is timed, in order; the networks after the first one take all shapes only where `every` says so."""
    cases = []
    for number, name in enumerate(settings.models):
        for precision in settings.precisions:
            for is_training, shapes in _shapes(settings).items():
                for batch, size in shapes if settings.every or number == 0 else shapes[:1]:
                    case = {'model': name, 'batch': batch, 'size': size}
                    cases.append({**case, 'precision': precision, 'training': is_training})
    return cases


def _shapes(settings: Any) -> dict[bool, list[tuple[int, int]]]:
    """Images and their side, of inference and of training."""
    inference = [(batch, size) for size in settings.sizes for batch in settings.batches]
    return {False: inference, True: [(batch, size) for batch, size in settings.training]}


def _measure(config: Any, case: dict[str, Any]) -> dict[str, Any]:
    """One case: every peer's time, memory and start, and, at the first shape, where our own time goes."""
    config, reference = (ml_collections.ConfigDict(config.to_dict()) for _ in range(2))
    other = config.bench.beside
    if other:
        reference.model.update({**config.bench.models[other], 'dtype': case['precision']})
    overrides = {**config.bench.models[case['model']], 'dtype': case['precision']}
    config.model.update(overrides)
    network = model.from_config(config.model)
    shape = (case['batch'], case['size'], case['size'], 3)
    random = np.random.default_rng(config.seed)
    clean = random.integers(0, 200, shape, np.uint8)
    rainy = clean + random.integers(0, 50, shape, np.uint8) * (random.random(shape) < 0.2).astype(np.uint8)
    variables = model.initialize(network, config.seed)
    calls: dict[str, machine.Call] = {}
    facts: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    if case['training']:
        makers = list(contenders.training(config, {'rainy': rainy, 'clean': clean}, variables))
    else:
        weights = case['model'].split(choices.SEPARATOR)[0] if config.bench.shipped else None
        makers = list(contenders.inference(config, rainy, variables, weights))
        if other:
            makers = [makers[0], (f'{OURS}, {other}', lambda: contenders.beside(reference, rainy))]
    for name, make in makers:
        try:
            begun = time.perf_counter()
            call, memory = make()
            call()
            facts[name] = {'start_seconds': round(time.perf_counter() - begun, 2)}
            facts[name]['memory_mib'] = machine.peak(call) if memory is None else memory
            calls[name] = call
        except Exception as error:  # a failure, of whatever kind, is a finding
            absent[name] = machine.reason(error)
    seconds = machine.take_turns(calls, config.bench.rounds)
    parts: dict[str, float] = {}
    try:
        if not other and (case['batch'], case['size']) == _shapes(config.bench)[case['training']][0]:
            parts = contenders.parts(config, rainy, clean, variables, case['training'])
    except Exception as error:
        absent['parts'] = machine.reason(error)
    calls.clear()
    contenders.give_back()
    gmac = model.multiply_adds(network, *shape[1:3]) * shape[0] / 1e9
    peers = {name: {**_speed(case, gmac, times, seconds), **facts[name]} for name, times in seconds.items()}
    return {**case, 'gmac': gmac, 'peers': peers, 'absent': absent, 'parts': parts}


def _speed(case: dict[str, Any], gmac: float, times: list[float], everybody: dict[str, list[float]]) -> dict[str, Any]:
    """What one's times in the rounds come to."""
    median = float(np.median(times))
    work = 2e9 * gmac * (3 if case['training'] else 1)  # a gradient costs twice the forward pass
    return {
        'seconds': {'median': median, 'lowest': min(times), 'highest': max(times)},
        'ratio': float(np.median(np.asarray(times) / everybody[OURS])) if OURS in everybody else None,
        'images_per_second': case['batch'] / median,
        'megapixels_per_second': case['batch'] * case['size'] ** 2 / median / 1e6,
        'tflops': work / median / 1e12,
    }
