"""Training: optimiser, state, step, and the loop that survives being killed."""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import math
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import flax
import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import orbax.checkpoint as ocp
import tensorboardX
import tqdm
from jax.sharding import Mesh

from qsnet_jax import Stopped, UserError, derain, layers, losses, model, provenance, storage
from qsnet_jax.configs import default
from qsnet_jax.data import batches, sets, sources
from qsnet_jax.evidence import evaluate
from qsnet_jax.training import checkpoint, parallel
from qsnet_jax.weights import files

WITHOUT_EFFECT = ('note', 'data.tfds_dir', 'data.cache_gib', 'data.threads', 'data.prefetch')  # on what a run computes
PLATEAU_TOLERANCE = 1e-6  # a window's mean loss must fall by more than this to count as better


@flax.struct.dataclass
class TrainState:
    """All that a run carries from step to step; `step` updates have been made."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any


class Diverged(UserError):
    """A loss or gradient that is not finite."""


def make_optimizer(settings: Any) -> optax.GradientTransformationExtraArgs:
    """Adam with the schedule of `config.train`; update takes `value=loss` for the plateau rule (Sec. 5.1)."""
    if settings.schedule == 'plateau':
        plateau = optax.contrib.reduce_on_plateau(
            factor=settings.plateau_factor,
            patience=settings.plateau_patience,
            rtol=0.0,
            atol=PLATEAU_TOLERANCE,
            accumulation_size=settings.plateau_window,
            min_scale=settings.plateau_floor,
        )
        return optax.chain(optax.adam(settings.learning_rate), plateau)
    if settings.schedule in ('cosine', 'constant'):
        return optax.with_extra_args_support(optax.adam(_schedule(settings)))
    raise UserError(f"train.schedule is {settings.schedule!r}; it must be 'plateau', 'cosine' or 'constant'.")


def _schedule(settings: Any) -> Callable[[jax.Array], jax.Array]:
    """Learning rate as a function of the step, before the plateau rule."""
    if settings.schedule == 'cosine':
        return optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
    return optax.constant_schedule(settings.learning_rate)


def learning_rate(step: jax.Array, opt_state: Any, settings: Any) -> jax.Array:
    """The rate of update `step`, counted from 0, which left `opt_state` behind."""
    rate = jnp.asarray(_schedule(settings)(step), jax.dtypes.canonicalize_dtype(float))
    return rate * opt_state[-1].scale if settings.schedule == 'plateau' else rate


def init_state(config: Any) -> TrainState:
    """Initial state, a function of `config.seed`."""
    network = model.from_config(config.model)
    variables = jax.tree.map(jnp.asarray, model.initialize(network, config.seed))
    params = flax.traverse_util.path_aware_map(
        lambda path, value: value * config.train.rain_gain if path[-2:] == ('rain', 'kernel') else value,
        variables['params'],
    )
    opt_state = make_optimizer(config.train).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, variables['batch_stats'], opt_state)


def start_state(config: Any) -> TrainState:
    """State before the first step: the initial one, with the variables of `config.train.start_from` where it is given.

    Raises UserError for weights of another network.
    """
    state, name = init_state(config), config.train.start_from
    if not name:
        return state
    variables, settings = files.load_weights(name)
    given = {**config.model.to_dict(), 'dtype': settings['dtype']}  # of the computation alone
    different = [
        f'{field} is {settings[field]} there and {value} here'
        for field, value in given.items()
        if settings[field] != value
    ]
    if different:
        raise UserError(
            f'train.start_from={name} holds weights of another network: {"; ".join(different)}. Give its settings, as '
            'in --config.model.channels=48.'
        )
    like = {'params': state.params, 'batch_stats': state.batch_stats}
    variables = jax.tree.map(lambda value, other: jnp.asarray(value, other.dtype), variables, like)
    return dataclasses.replace(state, **variables)


def train_step(
    state: TrainState, batch: dict[str, jax.Array], *, config: Any
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update. Pure. batch: {'rainy', 'clean'} uint8 (B, H, W, 3); returns scalars of every loss term besides."""
    network, optimizer = model.from_config(config.model), make_optimizer(config.train)
    # Bytes travel to the device and become [0, 1] there: a quarter of the traffic of floats.
    dtype = layers.at_least_float32(config.model.dtype)
    rainy, clean = (batch[name].astype(dtype) / 255.0 for name in ('rainy', 'clean'))

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        variables = {'params': params, 'batch_stats': state.batch_stats}
        output, updates = network.apply(variables, rainy, train=True, mutable=['batch_stats'])
        loss, terms = losses.total(output.rain, output.aux_rain, rainy, clean, config.loss)
        squared_error = jnp.mean(jnp.square(rainy - output.rain - clean))
        return loss, ({**terms, 'psnr': -10.0 * jnp.log10(squared_error)}, updates['batch_stats'])

    (loss, (metrics, batch_stats)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, value=loss)
    metrics |= {
        'gradient_norm': optax.tree.norm(gradients),
        'learning_rate': learning_rate(state.step, opt_state, config.train),
    }
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state), metrics


def train(config: Any, workdir: pathlib.Path, mesh: Mesh | None = None) -> tuple[TrainState, dict[str, Any]]:
    """Trains `config.train.steps` steps, going on from the latest checkpoint of the workdir where there is one.

    Writes config.json, run.json, metrics.jsonl, TensorBoard events, checkpoints/ and, at the end, weights.safetensors.
    Returns the final state and the record that these weights carry.
    Raises UserError for a workdir of another config, a loss that is not finite and a disk that is full; Stopped after
    SIGTERM or SIGINT.
    """
    mesh = mesh or parallel.make_mesh()
    check_fields(config)
    parallel.check_batch(config.data.batch, mesh)
    with storage.writable(workdir), _claimed(workdir), contextlib.ExitStack() as stack:
        cache = sources.Cache(config.data.cache_gib * 2**30)
        validation = sets.open_evaluation(config.data, config.data.eval, cache)
        validation = dict(itertools.islice(validation.items(), config.train.eval_sets))
        training, fingerprints = batches.open_batches(
            config.data, config.seed, cache, jax.process_index(), jax.process_count()
        )
        images = {f'training images of {name}': each['sha256'] for name, each in fingerprints.items()}
        parallel.agree_on({**fields_with_effect(config), **images})
        manager = checkpoint.open_manager(workdir / 'checkpoints', config.train.keep)
        stack.callback(manager.close)
        is_begun = manager.latest_step() is not None
        _claim_config(config, workdir, is_begun)
        state = parallel.replicate(init_state(config) if is_begun else start_state(config), mesh)
        if is_begun:
            state = checkpoint.restore(manager, manager.latest_step(), state)
        start = int(state.step)
        record = {**provenance.collect(config.to_dict(), config.seed), 'training_data': fingerprints}
        record, starts = _claim_start(config, workdir, start, record)
        log = stack.enter_context(contextlib.closing(_Log(workdir, start)))
        state = _loop(config, state, mesh, training, validation, manager, log)
        settings = config.model.to_dict()
        record |= {'starts': starts, 'step': int(state.step), 'training_seconds': round(log.elapsed, 1)}
        if jax.process_index() == 0:
            files.save_weights(workdir / 'weights.safetensors', export(state), settings, record)
    return state, record


def export(state: TrainState) -> dict[str, Any]:
    """The network's variables, on this process's first device."""
    return jax.device_get({'params': state.params, 'batch_stats': state.batch_stats})


def restore_variables(config: Any, workdir: pathlib.Path, which: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Variables of the checkpoint 'latest', 'best' or a step, and the record of their training.

    Raises UserError where there is no such checkpoint, or one of another network.
    """
    directory = workdir / 'checkpoints'
    if not directory.is_dir():
        raise UserError(f'{workdir} holds no run. Train first (--mode=train), or name --workdir or --weights.')
    stored = json.loads((workdir / 'config.json').read_text())
    refuse_differences({'model': stored['model']}, {'model': json.loads(config.model.to_json())}, workdir)
    config = ml_collections.ConfigDict(stored)
    with contextlib.closing(checkpoint.open_manager(directory, read_only=True)) as manager:
        step = checkpoint.find_step(manager, which)
        state = checkpoint.restore(manager, step, parallel.replicate(init_state(config), parallel.make_mesh()))
    record = json.loads((workdir / 'run.json').read_text())['starts'][-1]
    return export(state), {**record, 'step': step}


def _loop(
    config: Any,
    state: TrainState,
    mesh: Mesh,
    training: grain.MapDataset,
    validation: dict[str, sources.Source],
    manager: ocp.CheckpointManager,
    log: '_Log',
) -> TrainState:
    """Updates until `config.train.steps`; between them logs, validates and saves when due."""
    settings, start = config.train, int(state.step)
    if start >= settings.steps:
        return state
    step_fn = compile_step(config, state, parallel.shard(training[start], mesh))
    stream = batches.iterate(training, start, config.data.threads, config.data.prefetch)
    with _signals() as received, tqdm.tqdm(total=settings.steps, initial=start, unit='step') as bar:
        log.resume_clock()
        for step in range(start + 1, settings.steps + 1):
            state, metrics = step_fn(state, parallel.shard(next(stream), mesh))
            log.add(metrics)
            bar.update()
            signum = parallel.agree(received[0] if received else 0, step % settings.log_every == 0)
            is_validated = step % settings.eval_every == 0 or step == settings.steps
            is_saved = step % settings.checkpoint_every == 0 or is_validated or signum > 0
            if step % settings.log_every == 0 or is_saved:
                bar.set_postfix(log.flush(step, config.data.batch))
            if is_saved:
                psnr = log.validate(step, config, state, validation) if is_validated else None
                checkpoint.save(manager, step, state, psnr)
            if signum:
                manager.wait_until_finished()
                raise Stopped(signum, step)
        manager.wait_until_finished()
    return state


def compile_step(config: Any, state: TrainState, batch: dict[str, jax.Array]) -> Callable:
    """The jitted step, compiled before the clock starts; the old state's memory is reused."""
    print('compiling the training step ...', end=' ', flush=True)
    begun = time.perf_counter()
    lowered = jax.jit(partial(train_step, config=config), donate_argnums=0).lower(state, batch)
    try:
        compiled = lowered.compile(compiler_options=compiler_options())
    except jax.errors.JaxRuntimeError as error:
        if 'No such compile option' not in str(error):
            raise
        compiled = lowered.compile()  # a version of XLA that calls it otherwise: the same numbers, more memory
    print(f'{time.perf_counter() - begun:.1f} s')
    return compiled


def compiler_options() -> dict[str, Any] | None:
    """How XLA compiles a step: on CPUs in the order of least memory, 0.65 instead of 1.2 GiB for 2 x 96 x 96."""
    if jax.default_backend() != 'cpu':
        return None
    return {'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED'}


class _Log:
    """metrics.jsonl and TensorBoard, and the clock of the training itself (no compilation, no validation)."""

    def __init__(self, workdir: pathlib.Path, start: int):
        self._is_writer = jax.process_index() == 0
        self._pending: list[dict[str, jax.Array]] = []
        self._path = workdir / 'metrics.jsonl'
        lines = _lines_up_to(self._path, start)
        self.elapsed = lines[-1]['seconds'] if lines else 0.0
        self._mark = 0.0
        if self._is_writer:
            storage.write_bytes(self._path, ''.join(json.dumps(line) + '\n' for line in lines).encode())
            self._events = tensorboardX.SummaryWriter(str(workdir / 'tensorboard'), purge_step=start + 1)

    def resume_clock(self) -> None:
        """Time counts from now on."""
        self._mark = time.perf_counter()

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Keeps one step's scalars, still on the device, for the next flush; waits for the step before."""
        if self._pending:  # the device always has a next step to do, and the host never runs farther ahead
            jax.block_until_ready(self._pending[-1])
        self._pending.append(metrics)

    def flush(self, step: int, batch: int) -> dict[str, str]:
        """Writes the means since the last flush; returns what the progress bar shows. Raises Diverged for NaN."""
        steps = jax.device_get(self._pending)
        means = {name: float(np.mean([metrics[name] for metrics in steps])) for name in steps[0]}
        now = time.perf_counter()
        seconds, self._mark = now - self._mark, now
        self.elapsed += seconds
        self._pending = []
        bad = [name for name in ('total', 'gradient_norm') if not math.isfinite(means[name])]
        if bad:
            raise Diverged(
                f'{" and ".join(bad)} not finite between steps {step - len(steps) + 1} and {step}. The last checkpoint '
                'is from before. Lower --config.train.learning_rate, or look for broken images.'
            )
        means['learning_rate'] = float(steps[-1]['learning_rate'])
        means |= {'images_per_second': batch * len(steps) / seconds, 'seconds': round(self.elapsed, 3)}
        self._write(step, 'train', means)
        return {'loss': f'{means["total"]:.4f}', 'psnr': f'{means["psnr"]:.2f}'}

    def validate(self, step: int, config: Any, state: TrainState, validation: dict[str, sources.Source]) -> float:
        """Scores the first images of every set, off the clock; writes their PSNR and returns the mean over the sets."""
        derainer = derain.Derainer(export(state), config.model.to_dict())
        scores = {
            name: evaluate.validate(derainer, each, config.train.eval_images) for name, each in validation.items()
        }
        psnr = sum(scores.values()) / len(scores)
        by_set = {f'validation_psnr/{name}': score for name, score in scores.items()} if len(scores) > 1 else {}
        self._write(step, 'validation', {'validation_psnr': psnr, **by_set, 'seconds': round(self.elapsed, 3)})
        self.resume_clock()
        return psnr

    def close(self) -> None:
        """Flushes TensorBoard's queue."""
        if self._is_writer:
            self._events.close()

    def _write(self, step: int, group: str, values: dict[str, float]) -> None:
        if not self._is_writer:
            return
        with self._path.open('a') as file:
            file.write(json.dumps({'step': step, **values}) + '\n')
        for name, value in values.items():
            self._events.add_scalar(f'{group}/{name}', value, step)


def _lines_up_to(path: pathlib.Path, step: int) -> list[dict[str, float]]:
    """Lines of metrics.jsonl that a run going on from `step` keeps; a line cut off by a kill is dropped."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return [line for line in lines if line['step'] <= step]


def check_fields(config: Any) -> None:
    """Refuses numbers that no run can use."""
    positive = {
        'train': (
            *('steps', 'log_every', 'eval_every', 'eval_sets', 'eval_images', 'checkpoint_every', 'keep'),
            *('plateau_window', 'plateau_patience'),
        ),
        'data': ('crop', 'batch', 'threads', 'prefetch'),
    }
    for section, names in positive.items():
        for name in names:
            if config[section][name] < 1:
                raise UserError(f'{section}.{name} is {config[section][name]}; it must be at least 1.')
    within = {'vary_layers': (1, math.inf), 'brightness': (0, 0.99), 'hold_out': (0, math.inf)}
    for name, (least, most) in within.items():
        if not least <= config.data[name] <= most:
            raise UserError(f'data.{name} is {config.data[name]}; it must be in [{least}, {most}].')
    if not 0 < config.train.plateau_factor < 1:
        raise UserError(f'train.plateau_factor is {config.train.plateau_factor}; it must be between 0 and 1.')
    if config.seed < 0:
        raise UserError(f'seed is {config.seed}; it must not be negative.')


def _claim_config(config: Any, workdir: pathlib.Path, is_begun: bool) -> None:
    """Stores the config; refuses another one than that of the checkpoints that the workdir holds."""
    path = workdir / 'config.json'
    given = json.loads(config.to_json())
    if is_begun and path.exists():
        refuse_differences(json.loads(path.read_text()), given, workdir)
    elif jax.process_index() == 0:
        storage.write_json(path, given)


def refuse_differences(stored: dict[str, Any], given: dict[str, Any], place: pathlib.Path) -> None:
    """Raises UserError that names the fields in which two configs differ, but for those that change no result."""
    stored, given = flat(stored), flat(given)
    defaults = default_fields()
    stored = {name: stored.get(name, defaults.get(name)) for name in stored.keys() | given.keys()}  # fields added since
    different = [
        f'{name} is {stored.get(name)!r} there and {given.get(name)!r} here'
        for name in sorted(stored.keys() | given.keys())
        if stored.get(name) != given.get(name) and name not in WITHOUT_EFFECT
    ]
    if different:
        raise UserError(
            f'{place} holds a run with another config: {"; ".join(different)}. Name another --workdir (and '
            '--results, for rows), or give the config that it was made with.'
        )


def default_fields() -> dict[str, Any]:
    """What configs that were stored before a field existed are to be read as."""
    return flat(json.loads(default.get_config().to_json()))


def fields_with_effect(config: Any) -> dict[str, Any]:
    """The fields of a config that change what a run computes; data.root does not, for files are compared as such."""
    fields = flat(json.loads(config.to_json()))
    return {name: value for name, value in fields.items() if name not in (*WITHOUT_EFFECT, 'data.root')}


def flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    """Nested fields as 'a.b.c'."""
    fields: dict[str, Any] = {}
    for name, value in tree.items():
        fields |= flat(value, f'{prefix}{name}.') if isinstance(value, dict) else {prefix + name: value}
    return fields


def _claim_start(
    config: Any, workdir: pathlib.Path, step: int, record: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Adds a start of the run to run.json; refuses other training images than those of the starts before it.

    A start without a checkpoint after it left nothing behind and is forgotten; one at the last step adds nothing.
    Returns the provenance of the last steps, and step, commit and date of all starts.
    """
    path = workdir / 'run.json'
    starts = json.loads(path.read_text())['starts'] if step and path.exists() else []
    starts = [start for start in starts if start['step'] < step]
    if starts:
        _refuse_other_images(starts[-1]['training_data'], record['training_data'], workdir)
    if not starts or step < config.train.steps:
        origin = starts[0].get('start_from') if starts else _origin(config.train.start_from)
        starts.append({'step': step, **record, **({'start_from': origin} if origin else {})})
    if jax.process_index() == 0:
        storage.write_json(path, {'starts': starts})
    last = {key: value for key, value in starts[-1].items() if key != 'step'}
    return last, [{key: start[key] for key in ('step', 'commit', 'date')} for start in starts]


def _origin(name: str | None) -> dict[str, Any] | None:
    """What the weights that a run starts from say of themselves."""
    if not name:
        return None
    return {'sha256': sources.file_hash(files.find_weights(name)), 'record': files.load_record(name)}


def _refuse_other_images(stored: dict[str, Any], given: dict[str, Any], workdir: pathlib.Path) -> None:
    """Raises UserError that names the sources whose files have changed since the run's last steps."""
    changed = [
        f'{name} ({stored[name]["count"]} images then, {given[name]["count"]} now)'
        for name in sorted(stored.keys() & given.keys())
        if stored[name]['sha256'] != given[name]['sha256']
    ]
    if changed:
        raise UserError(
            f'{workdir} holds a run on other training images of {", ".join(changed)}. Name another --workdir, or give '
            'it the files that it was begun with.'
        )


@contextlib.contextmanager
def _claimed(workdir: pathlib.Path) -> Iterator[None]:
    """Refuses a second training process in one workdir; the claim ends with the process, however it ends."""
    if jax.process_index():
        yield
        return
    with (workdir / '.lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f'Another process trains in {workdir}. Wait for it, or name another --workdir.') from None
        yield


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that signals append to instead of ending the process; a second SIGINT ends it at once.

    SIGTERM comes more than once, and SIGUSR2 before the end of the time, where Slurm wants the machine back.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def note(signum: int, _frame: Any) -> None:
        received.append(signum)
        if signum == signal.SIGINT:
            signal.signal(signum, previous[signum])

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        previous[signum] = signal.signal(signum, note)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
