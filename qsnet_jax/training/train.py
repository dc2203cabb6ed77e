"""A run: state, step, and the loop that survives being killed."""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

from qsnet_jax import (
    Stopped,
    UserError,
    derain,
    fields,
    layers,
    losses,
    model,
    progress,
    provenance,
    signals,
    spelling,
    storage,
)
from qsnet_jax.data import arrays, batches, sets, sources
from qsnet_jax.evidence import evaluate
from qsnet_jax.training import checkpoint, folder, log, memory, optimiser, parallel
from qsnet_jax.training import settings as settings_
from qsnet_jax.weights import files

_KEEPS = 'The same command goes on from the last whole checkpoint, if there is one.'


@flax.struct.dataclass
class TrainState:
    """All that a run carries from step to step; `step` updates have been made.

    average: running means {'params', 'batch_stats'} with `config.train.average`, else None.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any = None


def init_state(config: Any) -> TrainState:
    """Initial state, a function of `config.seed`."""
    network = model.from_config(config.model)
    variables = jax.tree.map(jnp.asarray, model.initialize(network, config.seed))
    params = flax.traverse_util.path_aware_map(
        lambda path, value: value * config.train.rain_gain if path[-2:] == ('rain', 'kernel') else value,
        variables['params'],
    )
    opt_state = optimiser.make_optimizer(config.train).init(params)
    state = TrainState(jnp.zeros((), jnp.int32), params, variables['batch_stats'], opt_state)
    return _with_average(state) if config.train.average else state


def _with_average(state: TrainState) -> TrainState:
    """The mean starts at the variables, in memory of its own, for a step gives its state's memory away."""
    return dataclasses.replace(state, average=jax.tree.map(jnp.copy, _variables(state)))


def _variables(state: TrainState) -> dict[str, Any]:
    """The network's variables after the last update."""
    return {'params': state.params, 'batch_stats': state.batch_stats}


def averaged(average: Any, variables: Any, step: jax.Array, decay: float) -> Any:
    """Running means after update `step`, counted from 0; decay (1 + step) / (10 + step) while that is the smaller."""
    kept = jnp.minimum(decay, (1.0 + step.astype(jnp.float32)) / (10.0 + step.astype(jnp.float32)))
    return jax.tree.map(lambda mean, new: mean + ((1 - kept).astype(new.dtype)) * (new - mean), average, variables)


def start_state(config: Any) -> TrainState:
    """State before the first step: the initial one, with the variables of `config.train.start_from` where it is given.

    Raises UserError for weights of another network.
    """
    state, name = init_state(config), config.train.start_from
    if not name:
        return state
    variables, settings = files.load_weights(name)
    refuse_another_network(config, settings)
    like = {'params': state.params, 'batch_stats': state.batch_stats}
    variables = jax.tree.map(lambda value, other: jnp.asarray(value, other.dtype), variables, like)
    state = dataclasses.replace(state, **variables)
    return _with_average(state) if config.train.average else state


def refuse_another_network(config: Any, settings: dict[str, Any]) -> None:
    """Raises UserError where `settings`, of the weights of `config.train.start_from`, are not those of the config."""
    given = {**model.current(config.model), 'dtype': settings['dtype']}  # of the computation alone
    different = [
        f'{field} is {settings[field]} there and {value} here'
        for field, value in given.items()
        if settings[field] != value
    ]
    if different:
        raise UserError(
            f'train.start_from={config.train.start_from} holds weights of another network: {"; ".join(different)}. '
            'Give its settings, as in --config.model.channels=48.'
        )


def train_step(
    state: TrainState, batch: dict[str, jax.Array], *, network: model.QSNet, settings: Any, weights: Any
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update. Pure. batch: {'rainy', 'clean'} uint8 (B, H, W, 3).

    settings, weights: `config.train` and `config.loss`. Returns the state after it, and scalars: the `total` loss and
    its terms, `psnr` in dB of the batch (not clipped to [0, 1]), `gradient_norm` and `learning_rate`.
    """
    optimizer = optimiser.make_optimizer(settings)
    # Bytes travel to the device and become [0, 1] there: a quarter of the traffic of floats.
    dtype = layers.at_least_float32(network.dtype)
    rainy, clean = (batch[name].astype(dtype) / 255.0 for name in ('rainy', 'clean'))

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        variables = {'params': params, 'batch_stats': state.batch_stats}
        output, updates = network.apply(variables, rainy, train=True, mutable=['batch_stats'])
        loss, terms = losses.total(output.rain, output.aux_rain, rainy, clean, weights)
        squared_error = jnp.mean(jnp.square(rainy - output.rain - clean))
        return loss, ({**terms, 'psnr': -10.0 * jnp.log10(squared_error)}, updates['batch_stats'])

    (loss, (metrics, batch_stats)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    with jax.default_matmul_precision(model.DTYPES[network.dtype][1]):  # of Muon's products
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, value=loss)
    metrics |= {
        'gradient_norm': optax.tree.norm(gradients),
        'learning_rate': optimiser.learning_rate(state.step, opt_state, settings),
    }
    params = optax.apply_updates(state.params, updates)
    new = TrainState(state.step + 1, params, batch_stats, opt_state)
    if settings.average:
        average = averaged(state.average, _variables(new), state.step, settings.average)
        new = dataclasses.replace(new, average=average)
    return new, metrics


def train(
    config: Any, workdir: pathlib.Path, mesh: Mesh | None = None, which: str = 'latest'
) -> tuple[TrainState, dict[str, Any]]:
    """Trains `config.train.steps` steps, going on from a checkpoint of the workdir where there is one.

    which: 'latest', or a step, where all checkpoints of later steps are damaged: these are removed and made anew.
    Writes config.json, run.json, metrics.jsonl, TensorBoard events, checkpoints/ and, at the end, weights.safetensors.
    Returns the final state and the record that these weights carry.
    Raises UserError for a workdir of another config or of weights alone, a picture or a checkpoint that is damaged, a
    loss that is not finite and a disk that is full; Stopped after SIGTERM or SIGINT.
    """
    if which == 'best':
        raise UserError('--checkpoint=best is for --mode=eval, which scores it; training goes on from the latest.')
    mesh = mesh or parallel.make_mesh()
    settings_.check_fields(config)
    parallel.check_batch(config.data, mesh)
    with storage.writable(workdir, _KEEPS), folder.claimed(workdir), contextlib.ExitStack() as stack:
        config = folder.read_config(config, workdir) if folder.is_begun(workdir) else config
        opened = sets.open_run(config.data, sources.Cache(config.data.cache_gib * 2**30))
        watched = dict(itertools.islice(opened.validation.items(), config.train.eval_sets))
        prints = {
            'training_data': batches.fingerprints(opened.training),
            'validation_data': batches.fingerprints(watched),
        }
        parallel.agree_on(_compared(config, prints['training_data']))
        checkpoints = stack.enter_context(checkpoint.Checkpoints(workdir / 'checkpoints', config.train.keep))
        state = _first_state(config, checkpoints, mesh, which)
        start = int(state.step)
        record = {**provenance.collect(config.to_dict(), config.seed), **prints}
        record, starts = folder.claim_start(config, workdir, start, record)
        folder.write_config(config, workdir)
        checkpoints.forget_after(start)
        lines = stack.enter_context(contextlib.closing(log.Log(workdir, start)))
        if start < config.train.steps:
            dealt = batches.deal(opened.training, config.data, config.seed, jax.process_index(), jax.process_count())
            stream = batches.iterate(dealt, start, config.data.threads, config.data.prefetch)
            step_fn = compile_step(config, state, parallel.shard(dealt[start], mesh))
            watch = Watch(watched, config.train.eval_images, config.model.to_dict())
            loop = Loop(step_fn, (parallel.shard(batch, mesh) for batch in stream), watch, checkpoints, lines)
            state = loop.run(state, config.train, config.data.batch)
        record |= {'starts': starts, 'step': int(state.step), 'training_seconds': round(lines.elapsed, 1)}
        if jax.process_index() == 0:
            files.save_weights(workdir / 'weights.safetensors', export(state), config.model.to_dict(), record)
    return state, record


def _compared(config: Any, prints: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What all processes of a run must hold alike: fields that change its results or its loop, and the images."""
    free = {*fields.WITHOUT_EFFECT, *fields.PLACES} - {*fields.OF_THE_LOOP}
    given = {name: value for name, value in fields.flat(json.loads(config.to_json())).items() if name not in free}
    return given | {f'training images of {name}': each['sha256'] for name, each in prints.items()}


def _first_state(config: Any, checkpoints: checkpoint.Checkpoints, mesh: Mesh, which: str) -> TrainState:
    """The state that a run goes on from: of a checkpoint, or before the first step."""
    if not checkpoints.steps():
        if which != 'latest':
            checkpoints.find(which)  # says that there is none
        return parallel.replicate(start_state(config), mesh)
    step, like = checkpoints.find(which), parallel.replicate(init_state(config), mesh)
    state = checkpoints.restore(step, like)  # first, for Orbax takes what it finds in a damaged one for the rule
    checkpoints.refuse_to_lose_after(step, like)
    return state


def export(state: TrainState) -> dict[str, Any]:
    """The network's variables, averaged ones where there are, as NumPy arrays."""
    return jax.device_get(_variables(state) if state.average is None else state.average)


def restore_variables(
    config: Any, workdir: str | os.PathLike, which: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Variables of the checkpoint 'latest', 'best' or a step, the settings of their network, the record of their start.

    The run's own settings count, not those of `config`, which serve where the workdir has lost them. The record of
    'best' names in `selected_on` the sets that it was chosen by. Raises UserError where there is no such checkpoint.
    """
    workdir = pathlib.Path(workdir)
    directory = workdir / 'checkpoints'
    if not checkpoint.steps_in(directory):
        left = workdir / 'weights.safetensors'
        if left.is_file():
            raise UserError(f'{workdir} holds no checkpoint, but weights: give --weights={left}.')
        raise UserError(f'{workdir} holds no run. Train first (--mode=train), or name --workdir or --weights.')
    stored = folder.stored_config(workdir)
    if stored is None:
        missing = 'says nothing of how it came about: neither config.json nor run.json is there'
        print(spelling.shown(f'{workdir} {missing}'))
    steps = fields.complete(stored)['train']['steps'] if stored else None
    stored = fields.complete(stored or json.loads(config.to_json()))
    with checkpoint.Checkpoints(directory, read_only=True) as checkpoints:
        step = checkpoints.find(which)
        like = _like(stored, workdir)
        state = checkpoints.restore(step, parallel.replicate(like, parallel.make_mesh()))
    if steps not in (None, step):
        print(f'checkpoint {step} of {steps} steps')
    record = {**folder.start_of(folder.starts_of(workdir), step), 'step': step}
    if which == 'best':
        record['selected_on'] = _watched_by(record, stored)
    return export(state), model.current(stored['model']), record


def _like(stored: dict[str, Any], workdir: pathlib.Path) -> TrainState:
    """A state of a stored config. Raises UserError where it is damaged, so that there is none."""
    try:
        return init_state(ml_collections.ConfigDict(stored))
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        if isinstance(error, UserError):
            raise
        fault = f'{type(error).__name__}: {" ".join(str(error).split())[:160]}'
        raise UserError(
            f'The config of the run in {workdir} is damaged ({fault}). Bring back its config.json, or remove it where '
            'run.json is there.'
        ) from error


def _watched_by(record: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    """Names of the sets that a run watched."""
    if 'validation_data' in record:
        return list(record['validation_data'])
    names = [name for name, _ in sets.parse_names(stored['data']['eval'])]  # before there was another validation
    return names[: stored['train']['eval_sets']]


def check_finite(state: TrainState, step: int) -> None:
    """Raises Diverged where the network holds values that are not finite: the loss tells of it one update later."""
    values = jax.tree.leaves(jax.device_get((_variables(state), state.average)))
    if not all(np.isfinite(value).all() for value in values):
        raise _diverged(step)


def _diverged(step: int) -> log.Diverged:
    return log.Diverged(
        f'The network is not finite after step {step}. Checkpoints are from before. Lower '
        '--config.train.learning_rate, or look for broken images.'
    )


@dataclasses.dataclass
class Watch:
    """What a run watches itself by: the first `images` of every set, restored by a network of these settings."""

    sets: dict[str, sources.Source]
    images: int
    settings: dict[str, Any]

    def score(self, state: TrainState) -> dict[str, float | None]:
        """PSNR of each set, None where every image is restored to the last bit."""
        derainer = derain.Derainer(export(state), self.settings)
        try:
            return {name: evaluate.validate(derainer, each, self.images) for name, each in self.sets.items()}
        except arrays.NotANumber as error:  # of weights that are finite, and whose products are not
            raise _diverged(int(state.step)) from error


@dataclasses.dataclass
class Loop:
    """Updates one after the other; between them logs, validates and saves when due."""

    step_fn: Callable
    stream: Iterator[dict[str, jax.Array]]
    watch: Watch
    checkpoints: checkpoint.Checkpoints
    lines: log.Log

    def run(self, state: TrainState, due: Any, batch: int) -> TrainState:
        """From the step of `state` to the last. due: `config.train`; batch: images of an update."""
        start = int(state.step)
        with signals.deferred() as received, progress.bar(total=due.steps, initial=start, unit='step') as bar:
            self.lines.resume_clock()
            for step in range(start + 1, due.steps + 1):
                state, metrics = self.step_fn(state, next(self.stream))
                self.lines.add(metrics)
                bar.update()
                signum = parallel.agree(received[0] if received else 0, step % due.log_every == 0)
                is_validated = step % due.eval_every == 0 or step == due.steps
                is_saved = step % due.checkpoint_every == 0 or is_validated or signum > 0
                if step % due.log_every == 0 or is_saved:
                    bar.set_postfix(self.lines.flush(step, batch))
                if is_saved:
                    check_finite(state, step)
                    psnr = self.lines.validated(step, self.watch.score(state)) if is_validated else None
                    self.checkpoints.save(step, state, psnr)
                    self.lines.resume_clock()
                if signum:
                    self.checkpoints.wait()
                    raise Stopped(signum, step)
            self.checkpoints.wait()
        if signum := parallel.agree(received[0] if received else 0, True):  # of the last step's scores or saving
            raise Stopped(signum, due.steps)
        return state


def compile_step(config: Any, state: TrainState, batch: dict[str, jax.Array]) -> Callable:
    """The jitted step, compiled before the clock starts; the old state's memory is reused."""
    network = model.from_config(config.model).clone(remat=config.train.remat)
    step = partial(train_step, network=network, settings=config.train, weights=config.loss)
    if jax.config.values['jax_disable_jit']:
        print('JAX_DISABLE_JIT is set: the training step is not compiled, which is slow')
        return step
    print('compiling the training step ...', flush=True)
    begun = time.perf_counter()
    lowered = jax.jit(step, donate_argnums=0).lower(state, batch)
    try:
        compiled = lowered.compile(compiler_options=compiler_options())
    except jax.errors.JaxRuntimeError as error:
        if 'No such compile option' not in str(error):
            raise
        compiled = lowered.compile()  # a version of XLA that calls it otherwise: the same numbers, more memory
    print(f'compiled in {time.perf_counter() - begun:.1f} s, {memory.needed(compiled) / 2**20:,.0f} MiB of memory')
    memory.check(compiled, jax.local_devices()[0])
    return compiled


def compiler_options() -> dict[str, Any] | None:
    """How XLA compiles a step: on CPUs in the order of least memory, 0.65 instead of 1.2 GiB for 2 x 96 x 96."""
    if jax.default_backend() != 'cpu':
        return None
    return {'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED'}
