"""The exported network under ONNX Runtime or OpenVINO on CPUs, for `derain.Derainer` to run in the place of JAX.

The export is made and checked once. It is kept beside what XLA compiled, under a name that says what it was made of.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qsnet_jax import UserError, cache, storage
from qsnet_jax.peers import export
from qsnet_jax.weights import files

RUNTIMES = ('onnxruntime', 'openvino')
SHAPES = 8  # of images that OpenVINO keeps programs for
INPUT = 'rainy'  # the one input of a graph
Restore = Callable[[np.ndarray], np.ndarray]


def load(weights: str | os.PathLike, runtime: str) -> Restore:
    """A function that restores uint8 (1, H, W, 3), with the weights of a file or of a name of the package.

    runtime: one of RUNTIMES. Raises UserError for another one, where a package is missing, and for weights that cannot
    be read or exported.
    """
    if runtime not in RUNTIMES:
        raise UserError(f'The runtime is {runtime!r}; expected one of {", ".join(RUNTIMES)}.')
    need(runtime)
    files.load_record(weights)  # raises for what are no weights
    kept = _kept(weights)
    if kept is not None:
        with contextlib.suppress(Exception):  # there is none yet, or it is damaged
            return _guarded(runtime, session(runtime, kept.read_bytes()))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'weights.onnx'
        export.export(weights, path)
        content = path.read_bytes()
    if kept is not None:
        with contextlib.suppress(OSError):  # the next start exports again
            storage.write_bytes(kept, content)
    with _explained(runtime):
        return _guarded(runtime, session(runtime, content))


def session(runtime: str, content: bytes) -> Restore:
    """What runs an ONNX graph from INPUT to its first output."""
    return {'onnxruntime': _onnxruntime, 'openvino': _openvino}[runtime](content)


def need(name: str) -> Any:
    """A package of the extra; OpenVINO without what reports its use to its makers."""
    if name == 'openvino':
        sys.modules.setdefault('openvino_telemetry', None)  # type: ignore[arg-type]
    try:
        return __import__(name)
    except ImportError as error:
        raise UserError(f"--runtime={name} needs {name}: pip install 'qsnet-jax[runtimes]'.") from error


def _kept(weights: str | os.PathLike) -> pathlib.Path | None:
    """Where the export of weights is kept; None where nothing is."""
    source, folder = files.find_weights(weights), cache.folder()
    digest = hashlib.sha256(source.read_bytes())
    for name in ('export.py', 'torch_twin.py'):
        digest.update(pathlib.Path(__file__).with_name(name).read_bytes())
    return folder and folder / f'{digest.hexdigest()[:32]}.onnx'


def _onnxruntime(content: bytes) -> Restore:
    runtime = need('onnxruntime')
    options = runtime.SessionOptions()
    options.intra_op_num_threads = _threads()
    made = runtime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
    return lambda rainy: made.run(None, {INPUT: rainy})[0]


def _openvino(content: bytes) -> Restore:
    """Compiled for each shape, which is a fifth faster than for any; in float32, or it may take bfloat16."""
    runtime = need('openvino')
    core = runtime.Core()
    core.read_model(content)  # raises at once for what is none
    exact = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': _threads()}

    @functools.lru_cache(SHAPES)
    def compiled(shape: tuple[int, ...]) -> Any:
        network = core.read_model(content)
        network.reshape(list(shape))
        return core.compile_model(network, 'CPU', exact).create_infer_request()

    return lambda rainy: compiled(rainy.shape).infer([rainy])[0]


def _threads() -> int:
    """As many as this process may use."""
    return len(os.sched_getaffinity(0))


def _guarded(runtime: str, restore: Restore) -> Restore:
    """The same function, whose errors are explained."""

    def run(rainy: np.ndarray) -> np.ndarray:
        with _explained(runtime):
            return restore(np.ascontiguousarray(rainy))

    return run


@contextlib.contextmanager
def _explained(runtime: str) -> Iterator[None]:
    """What a runtime raises, as an error of memory or in one line; ONNX Runtime's are of no class but Exception."""
    try:
        yield
    except (MemoryError, UserError):
        raise
    except Exception as error:
        line = ' '.join(str(error).split())[:300]
        if 'alloc' in line.lower():
            raise MemoryError(line) from error
        raise UserError(f'{runtime} cannot run the network: {line}. Leave --runtime out.') from error
