"""Trains QSNet in JAX and its PyTorch twin side by side, from the same weights on the same batches, step by step."""

import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import matplotlib.figure
import numpy as np

from qsnet_jax import UserError, derain, progress, provenance, storage
from qsnet_jax.data import batches, checking, sets, sources
from qsnet_jax.evidence import evaluate, styles
from qsnet_jax.peers import torch_twin
from qsnet_jax.peers.torch_twin import torch  # which says what to install
from qsnet_jax.training import parallel, settings, train

WARM_UP = 3  # first steps that do not count in the times


def compare(config: Any, workdir: pathlib.Path, results: pathlib.Path) -> dict[str, Any]:
    """Trains both for `config.train.steps` steps on this machine's first device and writes what they did.

    Writes WORKDIR/compare/steps.csv (loss, PSNR and seconds of both, and how far they are apart, for every step),
    RESULTS/figures/compare-NAME.png and RESULTS/rows/compare-NAME.json, NAME that of the workdir; returns the row.
    Differences of the loss are relative; the distance of the parameters is Euclidean, over their norm; the largest
    deviation is that of any parameter or running statistic, with its name. The twin takes each step's learning rate
    from the JAX run. `train.average` is left out: both sides are the network after its last update. Raises UserError
    where a loss is not finite, a picture cannot be read, the row of that name is of another comparison, and where
    PyTorch cannot use the device that JAX uses.
    """
    settings.check_fields(config)
    if config.train.optimizer != 'adam':
        raise UserError(f"train.optimizer is {config.train.optimizer!r}; the twin has 'adam' alone.")
    config = _without_average(config)
    mesh = parallel.make_mesh(jax.devices()[:1])
    cache = sources.Cache(config.data.cache_gib * 2**30)
    (set_name, validation_set), *_ = sets.open_evaluation(config.data, config.data.eval, cache).items()
    opened = sets.open_training(config.data, cache)
    record = {**provenance.collect(config.to_dict(), config.seed), 'dataset': sources.fingerprint(validation_set)}
    record['training_data'] = batches.fingerprints(opened)
    own_name = os.path.basename(os.path.abspath(workdir))  # also of '.'
    _check(own_name, results, record, [*opened.items(), (set_name, validation_set)])
    training = batches.deal(opened, config.data, config.seed)
    state = train.start_state(config)
    twin = _Twin(config, train.export(state))
    state = parallel.replicate(state, mesh)
    step_fn = train.compile_step(config, state, parallel.shard(training[0], mesh))
    rows: list[dict[str, Any]] = []
    with storage.writable(workdir / 'compare'), storage.writable(results):
        for step in progress.bar(range(1, config.train.steps + 1), unit='step'):
            batch = training[step - 1]  # here and not read ahead, so that nothing else runs while the clock does
            begun = time.perf_counter()
            state, metrics = jax.block_until_ready(step_fn(state, parallel.shard(batch, mesh)))
            seconds = time.perf_counter() - begun
            ours = {'loss': float(metrics['total']), 'psnr': float(metrics['psnr']), 'seconds': seconds}
            theirs = twin.step(batch, float(metrics['learning_rate']))
            rows.append(_row(step, ours, theirs, deviation(train.export(state), twin.network.state_dict())))
            if step % config.train.eval_every == 0 or step == config.train.steps:
                for name, network in (('jax', _derainer(state, config)), ('torch', twin)):
                    psnr = evaluate.validate(network, validation_set, config.train.eval_images)
                    rows[-1][f'{name}_validation'] = psnr
                evaluate.write_csv(workdir / 'compare' / 'steps.csv', rows)
        count = min(config.train.eval_images, len(validation_set.names))
        summary = _summarize(rows, {'dataset': set_name, 'count': count}, twin, record)
        _write(rows, summary, own_name, results)
    return summary


def deviation(variables: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """How far a state_dict of the twin is from linen variables: Euclidean over the norm, and the largest of all.

    {'parameter_difference', 'largest_deviation', 'largest_in'}; the last is the name of the worst tensor.
    """
    ours = {name: value.numpy() for name, value in torch_twin.to_torch(variables).items() if 'num_batches' not in name}
    gaps = {name: np.abs(np.float64(value) - state[name].cpu().numpy()) for name, value in ours.items()}
    names = [name for name in ours if 'running' not in name]
    distance = math.sqrt(sum(float(np.square(gaps[name]).sum()) for name in names))
    norm = math.sqrt(sum(float(np.square(np.float64(ours[name])).sum()) for name in names))
    worst = max(gaps, key=lambda name: float(gaps[name].max()))
    return {
        'parameter_difference': distance / norm,
        'largest_deviation': float(gaps[worst].max()),
        'largest_in': worst,
    }


def _row(step: int, ours: dict[str, float], theirs: dict[str, float], apart: dict[str, Any]) -> dict[str, Any]:
    """One line of steps.csv. Raises UserError where a loss is not finite."""
    for framework, values in (('JAX', ours), ('PyTorch', theirs)):
        if not math.isfinite(values['loss']):
            raise UserError(f'The loss of {framework} is {values["loss"]} at step {step}; lower train.learning_rate.')
    row: dict[str, Any] = {'step': step}
    row |= {f'jax_{name}': value for name, value in ours.items()}
    row |= {f'torch_{name}': value for name, value in theirs.items()}
    return row | {'loss_difference': abs(ours['loss'] - theirs['loss']) / abs(ours['loss']), **apart}


class _Twin:
    """The PyTorch side: network, optimiser, one step; called with an image it derains it."""

    def __init__(self, config: Any, variables: Any):
        platform = jax.devices()[0].platform
        if platform != 'cpu' and not torch.cuda.is_available():
            raise UserError(
                f'JAX computes on {platform} and this PyTorch cannot. Install one that can, or hide the device.'
            )
        self.device = torch.device('cpu' if platform == 'cpu' else 'cuda')
        torch_twin.set_precision(config.model.dtype)
        self._settings, self._loss = config.model.to_dict(), config.loss
        self.network = torch_twin.QSNet(self._settings)
        self.network.load_state_dict(torch_twin.to_torch(variables))
        self.network.to(self.device)
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=config.train.learning_rate)
        self._clip = config.train.clip
        self._dtype = torch.float64 if config.model.dtype == 'float64' else torch.float32

    def step(self, batch: dict[str, np.ndarray], learning_rate: float) -> dict[str, float]:
        """One update of a uint8 (B, H, W, 3) batch; its loss, PSNR and seconds."""
        begun = time.perf_counter()
        rainy, clean = (
            torch.from_numpy(batch[side]).to(self.device).permute(0, 3, 1, 2).to(self._dtype).contiguous() / 255
            for side in ('rainy', 'clean')
        )
        self.network.train()
        self._optimizer.param_groups[0]['lr'] = learning_rate
        self._optimizer.zero_grad()
        output = self.network(rainy)
        loss, _ = torch_twin.total_loss(output, rainy, clean, self._loss)
        loss.backward()
        if self._clip:
            _clip(self.network, self._clip)
        self._optimizer.step()
        psnr = -10 * torch.log10((rainy - output.rain.detach() - clean).square().mean())
        values = {'loss': loss.item(), 'psnr': psnr.item()}  # waits for the device
        return {**values, 'seconds': time.perf_counter() - begun}

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return torch_twin.Derainer(self.network)(image)


def _clip(network: Any, largest: float) -> None:
    """Scales gradients down to a norm as Optax does; PyTorch's own way adds 1e-6 to the norm that it finds."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    factor = (largest / torch.nn.utils.get_total_norm(gradients)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(factor)


def _without_average(config: Any) -> Any:
    """The config whose state is the network alone; says so where it held a mean of it too."""
    if not config.train.average:
        return config
    print('train.average is left out: what is compared is the network after its last update')
    config = config.copy_and_resolve_references()
    config.train.average = 0.0
    return config


def _check(name: str, results: pathlib.Path, record: dict[str, Any], opened: list[tuple[str, sources.Source]]) -> None:
    """Raises UserError for a row of that name that is of something else, and for pictures that cannot be read."""
    path = results / 'rows' / f'compare-{name}.json'
    way_out = 'give --workdir=FOLDER another name, or name another --results'
    claimed = provenance.claim(path, _told, {'provenance': record}, way_out)
    provenance.claim_beside([results / 'figures' / f'compare-{name}.png'], claimed, way_out)
    for set_name, source in opened:
        checking.check(set_name, source)


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """What a row is of: its settings and images."""
    record = row['provenance']
    prints = {f'training set {name}': each for name, each in record.get('training_data', {}).items()}
    prints['validation set'] = record['dataset']
    return {**record['config'], **{name: each['sha256'][:12] for name, each in prints.items()}}


def _derainer(state: train.TrainState, config: Any) -> derain.Derainer:
    """The JAX side, restoring images in one piece as the twin does."""
    return derain.Derainer(train.export(state), config.model.to_dict(), tile=1 << 20)


def _summarize(
    rows: list[dict[str, Any]], about: dict[str, Any], twin: _Twin, record: dict[str, Any]
) -> dict[str, Any]:
    """The row of results. about: its set, and how many images of that count. record: provenance."""
    counted = rows[WARM_UP:] or rows
    times = {name: np.array([row[f'{name}_seconds'] for row in counted]) for name in ('jax', 'torch')}
    record['versions']['torch'] = torch.__version__
    record['torch'] = {
        'device': str(twin.device),
        'threads': torch.get_num_threads(),
        'layout': 'NCHW, eager',
        'tf32': torch.backends.cudnn.allow_tf32 and twin.device.type == 'cuda',
    }
    record['device']['count'] = 1
    return {
        'kind': 'compare',
        **about,
        'protocol': 'rgb',
        'steps': len(rows),
        'validation_psnr': {name: rows[-1][f'{name}_validation'] for name in times},
        **{
            name: {'first': rows[0][name], 'largest': max(row[name] for row in rows)}
            for name in ('loss_difference', 'parameter_difference', 'largest_deviation')
        },
        'seconds_per_step': {
            name: {'median': float(np.median(x)), 'quartiles': [float(q) for q in np.percentile(x, (25, 75))]}
            for name, x in times.items()
        },
        'torch_over_jax': float(np.median(times['torch'] / times['jax'])),
        'provenance': record,
    }


def _write(rows: list[dict[str, Any]], summary: dict[str, Any], name: str, results: pathlib.Path) -> None:
    """Row, figure and what is printed."""
    storage.write_json(results / 'rows' / f'compare-{name}.json', summary)
    path = results / 'figures' / f'compare-{name}.png'
    with storage.replacing(path) as temporary:
        draw(rows).savefig(temporary, format='png', dpi=110)
    seconds = summary['seconds_per_step']
    psnr = {name: math.nan if value is None else value for name, value in summary['validation_psnr'].items()}
    print(
        f'after {len(rows)} steps: validation PSNR {psnr["jax"]:.3f} dB (JAX) and {psnr["torch"]:.3f} dB (PyTorch), '
        f'{abs(psnr["jax"] - psnr["torch"]):.3f} dB apart, on {summary["count"]} images of {summary["dataset"]}\n'
        f'relative difference of the losses: {summary["loss_difference"]["first"]:.1e} at the first step, '
        f'{summary["loss_difference"]["largest"]:.1e} at most\n'
        f'seconds per step, median: {seconds["jax"]["median"]:.4f} (JAX), {seconds["torch"]["median"]:.4f} (PyTorch); '
        f'PyTorch / JAX {summary["torch_over_jax"]:.2f}\n{path}'
    )


def draw(rows: list[dict[str, Any]]) -> matplotlib.figure.Figure:
    """Loss, PSNR, difference and time over the steps, both sides in each plot."""
    figure = matplotlib.figure.Figure(figsize=(11, 7), layout='constrained')
    axes = figure.subplots(2, 2).ravel()
    steps = [row['step'] for row in rows]
    sides = (('jax', 'JAX', 0), ('torch', 'PyTorch twin', 1))
    for axis, quantity, label in ((axes[0], 'loss', 'loss of the batch'), (axes[1], 'psnr', 'PSNR, dB')):
        for name, title, number in sides:
            values = [row[f'{name}_{quantity}'] for row in rows]
            axis.plot(steps, values, **styles.line(number), label=title, linewidth=1)
        axis.set_ylabel(label)
    axes[0].set_yscale('log')
    points: dict[str, Any] = {'linestyle': '', 'fillstyle': 'none'}
    validated = [row for row in rows if 'jax_validation' in row]
    for name, title, number in sides:
        values = [row[f'{name}_validation'] for row in validated]
        places = [row['step'] for row in validated]
        axes[1].plot(places, values, **points, **styles.mark(number), label=f'{title}, validation')
    for quantity, label, number in (('loss_difference', 'loss', 2), ('parameter_difference', 'parameters', 3)):
        values = [max(row[quantity], 1e-18) for row in rows]
        axes[2].plot(steps, values, **styles.line(number), label=label, linewidth=1)
    axes[2].set_yscale('log')
    axes[2].set_ylabel('relative difference')
    for name, title, number in sides:
        values = [row[f'{name}_seconds'] for row in rows]
        axes[3].plot(steps, values, **points, **styles.mark(number), label=title, markersize=3)
    axes[3].set_ylabel('seconds per step')
    axes[3].set_ylim(bottom=0)
    for axis in axes:
        axis.set_xlabel('step')
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return figure
