"""Speed and memory of the network beside its peers, all in one process, taking turns, every call waiting to its end.

Peers: the network in its plain form, the PyTorch twin eager in both memory layouts and under torch.compile, and on CPUs
its ONNX export under ONNX Runtime and OpenVINO. One that cannot run is listed with the reason. A ratio is the median
over rounds of a peer's time over ours in the same round, so that a machine that slows down slows down both.
"""

import contextlib
import gc
import os
import pathlib
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import matplotlib.figure
import ml_collections
import numpy as np

from qsnet_jax import UserError, losses, model, progress, provenance, storage
from qsnet_jax.training import parallel, train

OURS = 'JAX'
SHORTEST = 0.02  # seconds; calls that take less are repeated within a round until they last this long
Call = Callable[[], Any]  # runs once and waits for the device


def bench(config: Any, results: pathlib.Path) -> pathlib.Path:
    """Times everything in `config.bench`; writes DEVICE.json (after every case), DEVICE.md and DEVICE.png.

    Returns the path of the JSON file. Raises UserError for a config without that section, and at the end where our own
    network failed.
    """
    if 'bench' not in config:
        raise UserError(
            '--mode=bench needs a config that says what to time: --config=configs/bench.py, :gpu or :small.'
        )
    settings = config.bench
    unknown = set(settings.precisions) - set(model.DTYPES)
    if unknown or settings.rounds < 1:
        raise UserError(
            f'bench.precisions knows {tuple(model.DTYPES)} and bench.rounds is 1 or more; found {settings}.'
        )
    device = jax.devices()[0]
    cores = f' {len(os.sched_getaffinity(0))} cores' if device.platform == 'cpu' else ''
    stem = results / re.sub(r'[^a-z0-9]+', '-', f'{device.device_kind}{cores}'.lower()).strip('-')
    report: dict[str, Any] = {
        'provenance': {
            **provenance.collect(config.to_dict(), config.seed),
            'processor': _processor(),
            'peers': {name: provenance.version(name) for name in ('torch', 'onnxruntime', 'openvino')},
        },
        'ceilings': {precision: _ceilings(precision) for precision in settings.precisions},
        'cases': [],
    }
    cases = _cases(settings)
    with storage.writable(results), progress.bar(cases, 'cases') as bar:
        for case in bar:
            bar.set_postfix_str(_title(case))
            report['cases'].append(_measure(config, case))
            storage.write_json(stem.with_suffix('.json'), report)
        storage.write_bytes(stem.with_suffix('.md'), table(report).encode())
        draw(report).savefig(stem.with_suffix('.png'), dpi=110)
    print(table(report))
    print(f'written: {stem}.json, .md, .png')
    failed = [f'{_title(case)}: {case["absent"][OURS]}' for case in report['cases'] if OURS in case['absent']]
    if failed:
        raise UserError(f'Our own network could not run everywhere: {"; ".join(failed)}.')
    return stem.with_suffix('.json')


def _cases(settings: Any) -> list[dict[str, Any]]:
    """What is timed, in order: the first network at every size and batch, the others at one of each."""
    cases = []
    for number, name in enumerate(settings.models):
        for precision in settings.precisions:
            shapes = [(batch, size) for size in settings.sizes for batch in settings.batches]
            shapes = shapes if number == 0 else shapes[:: len(settings.batches)][:1]
            for is_training, (batch, size) in [*((False, shape) for shape in shapes), (True, tuple(settings.training))]:
                cases.append(
                    {'model': name, 'batch': batch, 'size': size, 'precision': precision, 'training': is_training}
                )
    return cases


def _title(case: dict[str, Any]) -> str:
    what = 'training' if case['training'] else 'inference'
    return f'{case["model"]}, {what}, {case["batch"]} x {case["size"]} x {case["size"]}, {case["precision"]}'


def _measure(config: Any, case: dict[str, Any]) -> dict[str, Any]:
    """One case: every peer's time, memory and start, and where our own time goes."""
    config = ml_collections.ConfigDict(config.to_dict())
    overrides = {**config.bench.models[case['model']], 'dtype': case['precision']}
    config.model.update(overrides)
    network = model.from_config(config.model)
    shape = (case['batch'], case['size'], case['size'], 3)
    random = np.random.default_rng(config.seed)
    clean = random.integers(0, 200, shape, np.uint8)
    rainy = clean + random.integers(0, 50, shape, np.uint8) * (random.random(shape) < 0.2).astype(np.uint8)
    variables = model.initialize(network, config.seed)
    calls: dict[str, Call] = {}
    facts: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    if case['training']:
        makers = _training_makers(config, {'rainy': rainy, 'clean': clean}, variables)
    else:
        makers = _inference_makers(config, rainy, variables)
    for name, make in makers:
        try:
            begun = time.perf_counter()
            call, memory = make()
            call()
            facts[name] = {'start_seconds': round(time.perf_counter() - begun, 2)}
            facts[name]['memory_mib'] = _peak(call) if memory is None else memory
            calls[name] = call
        except Exception as error:  # a failure, of whatever kind, is a finding
            absent[name] = _reason(error)
    seconds = take_turns(calls, config.bench.rounds)
    parts: dict[str, float] = {}
    try:
        parts = _parts(config, rainy, clean, variables, case['training'])
    except Exception as error:
        absent['parts'] = _reason(error)
    calls.clear()
    gc.collect()
    gmac = model.multiply_adds(network, *shape[1:3]) * shape[0] / 1e9
    work = 2e9 * gmac * (3 if case['training'] else 1)  # a gradient costs twice the forward pass
    pixels = shape[0] * shape[1] * shape[2]
    peers = {
        name: {
            'seconds': {'median': float(np.median(times)), 'lowest': min(times), 'highest': max(times)},
            'ratio': float(np.median(np.asarray(times) / seconds[OURS])) if OURS in seconds else None,
            'images_per_second': shape[0] / float(np.median(times)),
            'megapixels_per_second': pixels / float(np.median(times)) / 1e6,
            'tflops': work / float(np.median(times)) / 1e12,
            **facts[name],
        }
        for name, times in seconds.items()
    }
    return {**case, 'gmac': gmac, 'peers': peers, 'absent': absent, 'parts': parts}


def _reason(error: Exception) -> str:
    """An error in one line that fits a table."""
    return ' '.join(str(error).replace('|', '/').split())[:200] or repr(error)


def take_turns(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds per call of each, in every round; a round runs all of them, in an order of its own."""
    repeats: dict[str, int] = {}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        begun = time.perf_counter()
        call()
        repeats[name] = max(1, round(SHORTEST / (time.perf_counter() - begun)))
    for number in range(rounds):
        for name in np.random.default_rng(number).permutation(list(calls)):
            begun = time.perf_counter()
            for _ in range(repeats[name]):
                calls[name]()
            seconds[name].append((time.perf_counter() - begun) / repeats[name])
    return seconds


def _inference_makers(config: Any, rainy: np.ndarray, variables: Any) -> Iterator[tuple[str, Callable]]:
    """(name, function that builds a Call and says its memory in MiB, None where it must be watched)."""
    images = jnp.asarray(rainy, jnp.float32) / 255

    def jax_call(form: str) -> tuple[Call, float]:
        network = model.from_config({**config.model, 'form': form})

        def rain(variables: Any, images: Any) -> Any:
            return cast(model.Output, network.apply(variables, images)).rain

        return _compiled(jax.jit(rain).lower(variables, images).compile(), jax.device_put(variables), images)

    yield OURS, lambda: jax_call('auto')
    yield f'{OURS} plain', lambda: jax_call('plain')
    if jax.default_backend() != 'cpu':  # which of the two is faster there is a prediction until somebody measures it
        yield f'{OURS} split', lambda: jax_call('split')
    if not config.bench.peers:
        return
    yield 'PyTorch NCHW', lambda: _torch_call(config, rainy, variables, channels_last=False)
    yield 'PyTorch NHWC', lambda: _torch_call(config, rainy, variables, channels_last=True)
    yield 'torch.compile', lambda: _torch_call(config, rainy, variables, channels_last=True, is_compiled=True)
    if jax.default_backend() == 'cpu' and config.model.dtype == 'float32':
        yield 'ONNX Runtime', lambda: _runtime_call(config, rainy, variables, 'onnxruntime')
        yield 'OpenVINO', lambda: _runtime_call(config, rainy, variables, 'openvino')


def _training_makers(config: Any, batch: dict[str, np.ndarray], variables: Any) -> Iterator[tuple[str, Callable]]:
    """As `_inference_makers`, for one update: forward, loss, gradients and Adam."""

    def jax_step() -> tuple[Call, float]:
        mesh = parallel.make_mesh(jax.devices()[:1])  # one, as everybody else
        state, data = parallel.replicate(train.init_state(config), mesh), parallel.shard(batch, mesh)
        compiled = train.compile_step(config, state, data)

        def call() -> None:
            nonlocal state
            state, metrics = compiled(state, data)
            jax.block_until_ready(metrics)

        return call, _footprint(compiled)

    yield OURS, jax_step
    if config.bench.peers:
        yield 'PyTorch NCHW', lambda: _torch_step(config, batch, variables, channels_last=False)
        yield 'PyTorch NHWC', lambda: _torch_step(config, batch, variables, channels_last=True)
        if jax.default_backend() == 'gpu':
            yield 'torch.compile', lambda: _torch_step(config, batch, variables, channels_last=True, is_compiled=True)


def _compiled(compiled: Any, *arguments: Any) -> tuple[Call, float]:
    """A compiled function with its arguments, and what it holds in memory."""
    return lambda: jax.block_until_ready(compiled(*arguments)), _footprint(compiled)


def _footprint(compiled: Any) -> float:
    """MiB of arguments, results and buffers between."""
    memory = compiled.memory_analysis()
    size = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    return round((size - memory.alias_size_in_bytes) / 2**20, 1)


def _twin(config: Any, variables: Any, channels_last: bool) -> tuple[Any, Any, Any]:
    """PyTorch, the network with these variables, and a function that brings uint8 (B, H, W, 3) images to it."""
    import torch

    from qsnet_jax.peers import torch_twin

    device = 'cuda' if jax.default_backend() == 'gpu' else 'cpu'
    torch_twin.set_precision(config.model.dtype)
    torch.backends.cudnn.benchmark = True
    layout = torch.channels_last if channels_last else torch.contiguous_format
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    network = torch_twin.QSNet(config.model.to_dict())
    network.load_state_dict(torch_twin.to_torch(variables))

    def place(image: np.ndarray) -> Any:
        tensor = torch.from_numpy(image.transpose(0, 3, 1, 2).astype(np.float32) / 255)
        return tensor.to(device).contiguous(memory_format=layout)

    network.to(device)
    return torch, cast(Any, network).to(memory_format=layout), place


def _torch_call(
    config: Any, rainy: np.ndarray, variables: Any, channels_last: bool, is_compiled: bool = False
) -> tuple[Call, float | None]:
    """The twin's inference, eager or compiled with its weights frozen."""
    torch, network, place = _twin(config, variables, channels_last)
    network.eval()
    images = place(rainy)
    run = _compile(torch, network) if is_compiled else network

    def call() -> None:
        with torch.inference_mode():
            run(images)
            if images.is_cuda:
                torch.cuda.synchronize()

    return call, _cuda_peak(torch, call)


def _torch_step(
    config: Any, batch: dict[str, np.ndarray], variables: Any, channels_last: bool, is_compiled: bool = False
) -> tuple[Call, float | None]:
    """The twin's update."""
    torch, network, place = _twin(config, variables, channels_last)
    from qsnet_jax.peers import torch_twin

    network.train()
    rainy, clean = place(batch['rainy']), place(batch['clean'])
    optimizer = torch.optim.Adam(network.parameters(), lr=config.train.learning_rate, fused=True)
    run = torch.compile(network) if is_compiled else network

    def call() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, _ = torch_twin.total_loss(run(rainy), rainy, clean, config.loss)
        loss.backward()
        optimizer.step()
        if rainy.is_cuda:
            torch.cuda.synchronize()

    return call, _cuda_peak(torch, call)


def _compile(torch: Any, network: Any) -> Any:
    """torch.compile as one would for inference: with the weights frozen."""
    import torch._inductor.config

    torch._inductor.config.freezing = True
    torch._dynamo.reset()
    return torch.compile(network)


def _cuda_peak(torch: Any, call: Call) -> float | None:
    """MiB that a call holds at most on the card; None without one."""
    if jax.default_backend() != 'gpu':
        return None
    call()
    torch.cuda.reset_peak_memory_stats()
    call()
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


def _runtime_call(config: Any, rainy: np.ndarray, variables: Any, runtime: str) -> tuple[Call, None]:
    """The twin's ONNX export under a runtime for CPUs."""
    torch, network, place = _twin(config, variables, channels_last=False)
    images = place(rainy)

    class Rain(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x).rain

    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / 'network.onnx')
        with warnings.catch_warnings(), contextlib.redirect_stdout(None), torch.inference_mode():
            warnings.simplefilter('ignore')
            torch.onnx.export(Rain().eval(), (images,), path, dynamo=True, verbose=False)
        threads = len(os.sched_getaffinity(0))
        if runtime == 'openvino':
            import openvino

            exact = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': threads}  # or it may take bfloat16
            request = openvino.compile_model(path, 'CPU', exact).create_infer_request()
            return partial(request.infer, [images.numpy()]), None
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
        return partial(session.run, None, {session.get_inputs()[0].name: images.numpy()}), None


def _parts(config: Any, rainy: np.ndarray, clean: np.ndarray, variables: Any, is_training: bool) -> dict[str, float]:
    """Median seconds by part: what the computation up to its end takes longer than that up to the part before."""
    network = model.from_config(config.model)
    images, truth = (jnp.asarray(array, jnp.float32) / 255 for array in (rainy, clean))
    last, scales = f'unit_{network.units}' if network.units else 'stem_3', len(network.rates) + 1
    ends = {
        'stem': ['stem_3'],
        'encoder': [last],
        'scales': [f'C_{number + 1}' for number in range(scales)],
        'auxiliary decoders': [f'A_{number + 1}' for number in range(scales)],
        'main decoder': ['main'],
    }

    def upto(names: list[str], variables: Any, images: Any) -> Any:
        """Outputs of some modules; XLA leaves out what they do not need."""

        def is_wanted(module: Any, method: str) -> bool:
            return method == '__call__' and '/'.join(module.path) in names

        _, state = network.apply(variables, images, is_training, capture_intermediates=is_wanted, mutable=True)
        return state['intermediates']

    def loss(variables: Any, images: Any) -> Any:
        output, state = network.apply(variables, images, True, mutable=['batch_stats'])
        return losses.total(output.rain, output.aux_rain, images, truth, config.loss)[0], state

    functions: dict[str, Callable] = {name: partial(upto, names) for name, names in ends.items()}
    if is_training:
        functions['loss'] = loss
        functions['gradients'] = jax.grad(loss, has_aux=True)
    placed = jax.device_put(variables)
    options = train.compiler_options() if is_training else None
    calls = {
        name: _compiled(jax.jit(function).lower(placed, images).compile(compiler_options=options), placed, images)[0]
        for name, function in functions.items()
    }
    if is_training:
        with contextlib.redirect_stdout(None):
            makers = dict(_training_makers(config, {'rainy': rainy, 'clean': clean}, variables))
            calls['optimiser'] = makers[OURS]()[0]
            calls['optimiser']()
    medians = {name: float(np.median(times)) for name, times in take_turns(calls, config.bench.rounds).items()}
    before = [0.0, *medians.values()]
    return {name: total - previous for (name, total), previous in zip(medians.items(), before, strict=False)}


def _ceilings(precision: str) -> dict[str, float]:
    """What the device can do at best: TFLOP/s of a large matrix product, GB/s of a large array read and written."""
    is_cpu = jax.default_backend() == 'cpu'
    side, length = (2048, 2**26) if is_cpu else (8192, 2**29)
    name, products = model.DTYPES[precision]
    dtype = jnp.dtype(name)
    with jax.default_matmul_precision(products):
        matrix, line = jnp.ones((side, side), dtype), jnp.ones(length, dtype)
        product, add = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1, donate_argnums=0)

        def copy() -> None:
            nonlocal line
            line = add(line).block_until_ready()  # in place: fresh memory would be timed too

        times = take_turns({'product': lambda: product(matrix, matrix).block_until_ready(), 'copy': copy}, 7)
    return {
        'tflops': 2 * side**3 / min(times['product']) / 1e12,
        'gigabytes_per_second': 2 * length * dtype.itemsize / min(times['copy']) / 1e9,
    }


def _peak(call: Call) -> float | None:
    """MiB by which the process grows at most while a call runs; None where the system does not tell."""
    try:
        pathlib.Path('/proc/self/clear_refs').write_text('5')  # forgets the highest size so far
        before = _status('VmRSS')
        call()
        return round((_status('VmHWM') - before) / 2**10, 1)
    except OSError:
        return None


def _processor() -> str:
    """The CPU's name, where the system tells."""
    with contextlib.suppress(OSError, StopIteration):
        lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return 'unknown'


def _status(field: str) -> int:
    """KiB of a line of /proc/self/status."""
    lines = pathlib.Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f'{field}:'))


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    where = report['provenance']
    lines = [
        f'# {where["device"]["kind"]}: speed and memory',
        '',
        f'jax {where["versions"]["jax"]}, commit {where["commit"][:12]}, {where["date"][:10]}; `{where["command"]}`. '
        f'Medians (lowest to highest) of {where["config"]["bench"]["rounds"]} rounds in which everybody took a turn; '
        'ratio: time over ours, median of the rounds. MiB: of JAX, what the program reserves; of others, by how much '
        'the process (or their share of the card) grows in a call, without what they keep between calls.',
        '',
    ]
    for precision, found in report['ceilings'].items():
        lines.append(
            f'Ceilings in {precision}: matrix product {found["tflops"]:.3g} TFLOP/s, '
            f'copy {found["gigabytes_per_second"]:.3g} GB/s.'
        )
    for case in report['cases']:
        ceiling = report['ceilings'][case['precision']]['tflops']
        lines += [
            '',
            f'## {_title(case)} ({case["gmac"]:.1f} GMAC forward)',
            '',
            '| | ms | ratio | images/s | Mpix/s | of product | MiB | start, s |',
            '|---|---|---|---|---|---|---|---|',
        ]
        for name, peer in case['peers'].items():
            low, middle, high = (1e3 * peer['seconds'][key] for key in ('lowest', 'median', 'highest'))
            memory = '' if peer['memory_mib'] is None else f'{peer["memory_mib"]:.0f}'
            ratio = '' if peer['ratio'] is None else f'{peer["ratio"]:.2f}'
            lines.append(
                f'| {name} | {middle:.4g} ({low:.4g} to {high:.4g}) | {ratio} '
                f'| {peer["images_per_second"]:.3g} | {peer["megapixels_per_second"]:.3g} '
                f'| {peer["tflops"] / ceiling:.0%} | {memory} | {peer["start_seconds"]} |'
            )
        lines += [f'| {name} | could not run: {reason} | | | | | | |' for name, reason in case['absent'].items()]
        parts = ', '.join(f'{name} {1e3 * seconds:.3g}' for name, seconds in case['parts'].items())
        lines += ['', f'Our time by part, ms: {parts}.']
    return '\n'.join(lines) + '\n'


def draw(report: dict[str, Any]) -> matplotlib.figure.Figure:
    """Time against pixels and against batch, of everybody, for the first network's inference."""
    cases = [case for case in report['cases'] if not case['training']]
    cases = [case for case in cases if case['model'] == cases[0]['model']]
    precisions = list(dict.fromkeys(case['precision'] for case in cases))
    figure = matplotlib.figure.Figure(figsize=(11, 4 * len(precisions)), layout='constrained')
    axes = figure.subplots(len(precisions), 2, squeeze=False)
    for row, precision in zip(axes, precisions, strict=True):
        of_precision = [case for case in cases if case['precision'] == precision]
        smallest = {key: min(case[key] for case in of_precision) for key in ('batch', 'size')}
        for axis, fixed, varied in ((row[0], 'batch', 'size'), (row[1], 'size', 'batch')):
            shown = [case for case in of_precision if case[fixed] == smallest[fixed]]
            for name in dict.fromkeys(name for case in shown for name in case['peers']):
                with_peer = [case for case in shown if name in case['peers']]
                amount = [case['size'] ** 2 / 1e6 if varied == 'size' else case['batch'] for case in with_peer]
                spans = np.array([list(case['peers'][name]['seconds'].values()) for case in with_peer]) * 1e3
                spread = np.abs(spans[:, 1:] - spans[:, :1]).T
                axis.errorbar(amount, spans[:, 0], spread, marker='o', capsize=2, label=name)
            axis.set(
                xlabel='megapixels' if varied == 'size' else 'images in a batch',
                ylabel='ms',
                xscale='log',
                yscale='log',
                title=f'{precision}, {fixed} {smallest[fixed]}',
            )
        pixels = np.array(sorted(case['size'] ** 2 / 1e6 for case in of_precision))
        first = of_precision[0]['peers'].get(OURS, {'seconds': {'median': np.nan}})
        row[0].plot(
            pixels, 1e3 * first['seconds']['median'] * pixels / pixels[0], ':', color='grey', label='linear in pixels'
        )
        row[0].legend(fontsize='small')
    return figure
