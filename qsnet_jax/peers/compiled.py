"""The network and its training step compiled for a card that is described, not there: what would run, not how long.

Bytes, operations and launches are those of the optimised program. The floor of a launch is the longer of its bytes at
the card's bandwidth and its operations at half of the card's products; it leaves out what launching takes, and how far
kernels fall short. XLA's own model prices the fusions; libraries' calls count there with their floors. What libraries
choose while running, and the memory they take for it, is not in it.
"""

import itertools
import pathlib
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from qsnet_jax import UserError, cache, model, progress, provenance, storage
from qsnet_jax.peers import cards, hlo, machine
from qsnet_jax.training import memory, train

OPTIONS = {'xla_gpu_collect_cost_model_stats': True}


def bench(config: Any, results: pathlib.Path) -> pathlib.Path:
    """Compiles everything in `config.bench` for its card; writes compiled-CARD.json and compiled-CARD.md.

    Returns the path of the JSON file. Raises UserError for an unknown card, without XLA's compiler for cards, and
    where a report of other settings lies in that place.
    """
    settings = config.bench
    if settings.card not in cards.CARDS:
        raise UserError(f'bench.card is {settings.card!r}; it must be one of {", ".join(cards.CARDS)}.')
    card = cards.CARDS[settings.card]
    device = described(card)
    stem = results / f'compiled-{settings.card}'
    report: dict[str, Any] = {
        'provenance': provenance.collect(config.to_dict(), config.seed),
        'card': {**vars(card), 'attained': cards.ATTAINED},
        'cases': [],
    }
    claimed = provenance.claim(stem.with_suffix('.json'), told, report, 'name another --results')
    provenance.claim_beside([stem.with_suffix('.md')], claimed, 'name another --results')
    with storage.writable(results), progress.bar(list(_cases(settings)), 'cases') as bar:
        for case in bar:
            try:
                found = count(program(config, case, device).lower(), card, case)
            except Exception as error:  # of this case alone; the others are still worth having
                found = {'absent': machine.reason(error)}
            report['cases'].append({**case, **found})
            storage.write_json(stem.with_suffix('.json'), report)
        storage.write_bytes(stem.with_suffix('.md'), table(report).encode())
    print(table(report))
    failed = [_title(case) for case in report['cases'] if 'absent' in case]
    if failed:
        raise UserError(f'Not every program could be compiled; the table says why: {"; ".join(failed)}.')
    return stem.with_suffix('.json')


def told(report: dict[str, Any]) -> dict[str, Any]:
    """What a report is of: its settings and the processor, where it was timed on one.

    Settings of older reports were fewer, with one shape of training. Those that are empty or off, and the name, which
    its file has, do not count.
    """
    record = report['provenance']
    settings = {name: value for name, value in record['config']['bench'].items() if value and name != 'name'}
    training = settings.get('training') or [[]]
    settings['training'] = [training] if isinstance(training[0], int) else list(training)
    return {**record['config'], 'bench': settings, 'processor': record.get('processor')}


def described(card: cards.Card) -> SingleDeviceSharding:
    """Where arrays of a program for the card lie. Raises UserError without XLA's compiler for cards."""
    try:
        found = topologies.get_topology_desc(platform='cuda', target_config=cards.target(card), topology='1x1x1')
    except Exception as error:  # of several kinds
        raise UserError(
            f'XLA cannot compile for {card.name} here: {" ".join(str(error).split())[:200]}. Install its compiler in '
            f'the version of jax, {jax.__version__}: pip install "qsnet-jax[aot]"; no driver is needed. On a machine '
            'without a card set JAX_PLATFORMS=cpu.'
        ) from error
    return SingleDeviceSharding(found.devices[0])


def _cases(settings: Any) -> Any:
    """Inference in every form in the first precision, then in the first form in the others, and training."""
    first, *others = settings.forms
    networks = [(name, first, precision) for name in settings.models for precision in settings.precisions]
    networks += [(name, form, settings.precisions[0]) for name in settings.models for form in others]
    for (name, form, precision), size, batch in itertools.product(networks, settings.sizes, settings.batches):
        case = {'model': name, 'form': form, 'precision': precision, 'training': False, 'remat': False}
        yield {**case, 'batch': batch, 'size': size}
    for (name, form, precision), (batch, size), remat in itertools.product(networks, settings.training, (False, True)):
        if form == first:
            case = {'model': name, 'form': form, 'precision': precision, 'training': True, 'remat': remat}
            yield {**case, 'batch': batch, 'size': size}


class Program(NamedTuple):
    """A jitted function, and its arguments as shapes."""

    function: Any
    arguments: tuple[Any, ...]

    def lower(self) -> Any:
        return self.function.lower(*self.arguments)


def program(config: Any, case: dict[str, Any], device: Any = None) -> Program:
    """What a case runs; device: None for that of this process."""
    config = config.copy_and_resolve_references()
    config.model.update({**config.bench.models[case['model']], 'dtype': case['precision']})
    network = model.from_config(config.model).clone(form=case['form'], remat=case['remat'])
    shape = (case['batch'], case['size'], case['size'], 3)

    def place(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), tree)

    def rain(prepared: Any, images: Any) -> Any:
        return cast(model.Output, network.apply(prepared, images)).rain

    if not case['training']:
        prepared = jax.eval_shape(partial(model.prepare, network), model.shapes(network))
        return Program(jax.jit(rain), (place(prepared), place(jax.ShapeDtypeStruct(shape, jnp.float32))))
    state = place(jax.eval_shape(lambda: train.init_state(config)))
    batch = dict.fromkeys(('rainy', 'clean'), place(jax.ShapeDtypeStruct(shape, jnp.uint8)))
    step = partial(train.train_step, network=network, settings=config.train, weights=config.loss)
    return Program(jax.jit(step, donate_argnums=0), (state, batch))


def count(lowered: Any, card: cards.Card, case: dict[str, Any]) -> dict[str, Any]:
    """Launches, bytes, operations, memory and the two estimates of a program once it is compiled."""
    compiled = _compile(lowered)
    found = hlo.launches(compiled.as_text())
    rate = cards.ATTAINED * card.flops[case['precision']]
    floors = [max(launch.bytes / card.bandwidth, launch.operations / rate) for launch in found]
    guesses = [
        floor if launch.estimate is None else launch.estimate for floor, launch in zip(floors, found, strict=True)
    ]
    is_priced = any(launch.estimate is not None for launch in found)
    return {
        'launches': len(found),
        'bytes': sum(launch.bytes for launch in found),
        'operations': sum(launch.operations for launch in found),
        'memory_mib': round(memory.needed(compiled) / 2**20, 1),
        'floor_ms_per_image': 1e3 * sum(floors) / case['batch'],
        'model_ms_per_image': 1e3 * sum(guesses) / case['batch'] if is_priced else None,
    }


def _compile(lowered: Any) -> Any:
    """With XLA's prices of fusions where it has them for this kind of card."""
    with cache.unused():
        try:
            return lowered.compile(compiler_options=OPTIONS)
        except jax.errors.JaxRuntimeError as error:
            if 'Cannot find key' not in str(error):
                raise
            return lowered.compile()


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    where, card = report['provenance'], report['card']
    lines = [
        f'# {card["name"]}: compiled, not run',
        '',
        f'jax {where["versions"]["jax"]}, commit {where["commit"][:12]}, {where["date"][:10]}; `{where["command"]}`. '
        f'Floor: per launch the longer of its bytes at {card["bandwidth"] / 1e12:.3g} TB/s and its operations at '
        f"{card['attained']:.0%} of the card's products. Model: XLA's own price of its fusions, libraries' calls at "
        'their floors; empty where XLA has no prices for the card. Nothing was timed.',
        '',
        '| | launches | GB | TFLOP | MiB | floor, ms an image | model, ms an image |',
        '|---|---|---|---|---|---|---|',
    ]
    for case in report['cases']:
        if 'absent' in case:
            lines.append(f'| {_title(case)} | could not be compiled: {case["absent"]} | | | | | |')
            continue
        model_ms = '' if case['model_ms_per_image'] is None else f'{case["model_ms_per_image"]:.2f}'
        lines.append(
            f'| {_title(case)} | {case["launches"]} '
            f'| {case["bytes"] / 1e9:.1f} | {case["operations"] / 1e12:.2f} | {case["memory_mib"]:,.0f} '
            f'| {case["floor_ms_per_image"]:.2f} | {model_ms} |'
        )
    return '\n'.join(lines) + '\n'


def _title(case: dict[str, Any]) -> str:
    what = f'training{", remat" if case["remat"] else ""}' if case['training'] else 'inference'
    shape = f'{case["batch"]} x {case["size"]} x {case["size"]}'
    return f'{case["model"]}, {what}, {shape}, {case["precision"]}, {case["form"]}'
