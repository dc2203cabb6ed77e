"""Who is timed: the network in its forms, the PyTorch twin eager and compiled, and its ONNX export under runtimes."""

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from qsnet_jax import losses, model
from qsnet_jax.peers import export, machine, runtimes
from qsnet_jax.peers.machine import Call
from qsnet_jax.training import parallel, train

OURS = 'JAX'


def inference(
    config: Any, rainy: np.ndarray, variables: Any, weights: str | None = None
) -> Iterator[tuple[str, Callable]]:
    """(name, function that builds a Call and says its memory in MiB, None where it must be watched).

    weights: of the package, whose export is run as `--runtime` runs it; else a runtime has a graph of these shapes.
    """
    images = jnp.asarray(rainy, jnp.float32) / 255

    def jax_call(form: str) -> tuple[Call, float]:
        return _jax_call(model.from_config({**config.model, 'form': form}), variables, images)

    yield OURS, lambda: jax_call('auto')
    for form in config.bench.forms:
        yield f'{OURS} {form}', partial(jax_call, form)
    if not config.bench.peers:
        return
    yield 'PyTorch NCHW', lambda: _torch_call(config, rainy, variables, channels_last=False)
    yield 'PyTorch NHWC', lambda: _torch_call(config, rainy, variables, channels_last=True)
    yield 'torch.compile', lambda: _torch_call(config, rainy, variables, channels_last=True, is_compiled=True)
    if jax.default_backend() == 'cpu' and config.model.dtype == 'float32':
        for name, runtime in (('ONNX Runtime', 'onnxruntime'), ('OpenVINO', 'openvino')):
            if weights:
                yield name, partial(_shipped_call, weights, rainy, runtime)
            else:
                yield name, partial(_runtime_call, config, rainy, variables, runtime)


def beside(config: Any, rainy: np.ndarray) -> tuple[Call, float]:
    """Inference of another network, in the rounds of the one that is timed."""
    network = model.from_config(config.model)
    return _jax_call(network, model.initialize(network, config.seed), jnp.asarray(rainy, jnp.float32) / 255)


def _jax_call(network: model.QSNet, variables: Any, images: jax.Array) -> tuple[Call, float]:
    def rain(variables: Any, images: Any) -> Any:
        return cast(model.Output, network.apply(variables, images)).rain

    weights = _placed(network, variables)
    return _compiled(jax.jit(rain).lower(weights, images).compile(), weights, images)


def _placed(network: model.QSNet, variables: Any) -> Any:
    """The weights as `derain.Derainer` places them."""
    return jax.device_put(variables) if jax.default_backend() == 'cpu' else model.prepare(network, variables)


def training(config: Any, batch: dict[str, np.ndarray], variables: Any) -> Iterator[tuple[str, Callable]]:
    """As `inference`, for one update: forward, loss, gradients and Adam."""

    def jax_step() -> tuple[Call, float]:
        mesh = parallel.make_mesh(jax.devices()[:1])  # one, as everybody else
        state, data = parallel.replicate(train.init_state(config), mesh), parallel.shard(batch, mesh)
        compiled = train.compile_step(config, state, data)

        def call() -> None:
            nonlocal state
            state, metrics = compiled(state, data)
            jax.block_until_ready(metrics)

        return call, machine.footprint(compiled)

    yield OURS, jax_step
    if config.bench.peers:
        yield 'PyTorch NCHW', lambda: _torch_step(config, batch, variables, channels_last=False)
        yield 'PyTorch NHWC', lambda: _torch_step(config, batch, variables, channels_last=True)
        if jax.default_backend() == 'gpu':
            yield 'torch.compile', lambda: _torch_step(config, batch, variables, channels_last=True, is_compiled=True)


def _compiled(compiled: Any, *arguments: Any) -> tuple[Call, float]:
    """A compiled function with its arguments, and what it holds in memory."""
    return lambda: jax.block_until_ready(compiled(*arguments)), machine.footprint(compiled)


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
    kept = torch.cuda.memory_allocated()  # by everybody who is timed
    torch.cuda.reset_peak_memory_stats()
    call()
    return round((torch.cuda.max_memory_allocated() - kept) / 2**20, 1)


def _shipped_call(weights: str, rainy: np.ndarray, runtime: str) -> tuple[Call, None]:
    """What `--runtime` runs: uint8 in and out, of any size."""
    return partial(runtimes.load(weights, runtime), rainy), None


def _runtime_call(config: Any, rainy: np.ndarray, variables: Any, runtime: str) -> tuple[Call, None]:
    """The twin's ONNX export of this shape, rain alone, under a runtime for CPUs: the fastest that it can be."""
    torch, network, place = _twin(config, variables, channels_last=False)
    runtimes.need(runtime)
    images = place(rainy)

    class Rain(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x).rain

    with export.quiet(), torch.inference_mode():
        program = torch.onnx.export(Rain().eval(), (images,), dynamo=True, verbose=False, input_names=[runtimes.INPUT])
    restore = runtimes.session(runtime, program.model_proto.SerializeToString())
    return partial(restore, images.numpy()), None


def give_back() -> None:
    """Frees what nobody holds any more, on a card also what PyTorch keeps there for later; XLA keeps its own."""
    gc.collect()
    torch = sys.modules.get('torch')
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def parts(config: Any, rainy: np.ndarray, clean: np.ndarray, variables: Any, is_training: bool) -> dict[str, float]:
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
    placed = jax.device_put(variables) if is_training else _placed(network, variables)
    options = train.compiler_options() if is_training else None
    calls = {
        name: _compiled(jax.jit(function).lower(placed, images).compile(compiler_options=options), placed, images)[0]
        for name, function in functions.items()
    }
    if is_training:
        with contextlib.redirect_stdout(None):
            makers = dict(training(config, {'rainy': rainy, 'clean': clean}, variables))
            calls['gradients and optimiser'] = makers[OURS]()[0]
            calls['gradients and optimiser']()
    medians = {name: float(np.median(times)) for name, times in machine.take_turns(calls, config.bench.rounds).items()}
    before = [0.0, *medians.values()]
    return {name: total - previous for (name, total), previous in zip(medians.items(), before, strict=False)}
