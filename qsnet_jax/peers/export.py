"""Weights for programs that have neither this package nor, mostly, JAX; each file is checked against JAX first.

  .onnx          ONNX, for ONNX Runtime, OpenVINO, TensorRT, ...
  .stablehlo     what `jax.export` writes, for CPUs and CUDA; needs JAX and flatbuffers; metadata in NAME.stablehlo.json
  .pth, .pt      state_dict of the PyTorch twin, in PyTorch's own format
  .safetensors   the same as safetensors

The first two take and give uint8 (batch, height, width, 3) of any size (StableHLO: from 5x5 on), and do all inside:
with an encoder_stride of 2 or 4 they continue the image by reflection to a multiple of that, then round and crop, as
`derain.Derainer` does with an image in one piece. All compute in float32.
"""

import contextlib
import json
import logging
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from qsnet_jax import UserError, model, spelling, storage
from qsnet_jax.data import images
from qsnet_jax.weights import files, torch_files

FORMATS = ('.onnx', '.stablehlo', '.pth', '.pt', '.safetensors')
OPSET = 18
PLATFORMS = ('cpu', 'cuda')
# Of the extra; jax.export needs flatbuffers, which JAX alone does not bring.
NEEDED = {'.onnx': ('torch', 'onnx', 'onnxscript', 'onnxruntime'), '.stablehlo': ('flatbuffers',)}
SIZES = ((5, 7), (31, 17), (33, 47), (63, 61), (75, 101))  # of the images that a file is checked with
TOLERANCE = 1  # levels of 255: ties of rounding
Restore = Callable[[np.ndarray], np.ndarray]


class Source(NamedTuple):
    """What is exported: a network, its variables in float32, its settings, and what its file says of itself."""

    network: model.QSNet
    variables: Any
    settings: dict[str, Any]
    record: dict[str, Any]


def run(weights: str | None, output: str, overwrite: bool = False) -> None:
    """Exports weights and prints what was written, and how far it is from JAX."""
    path = storage.expanded(output)
    found = export(weights or 'default', path, overwrite)
    print(spelling.shown(f'{path}: {path.stat().st_size:,} bytes, {_kind(path.suffix)}'))
    each = ', '.join(f'{height}x{width}: {levels}' for (height, width), levels in found.items())
    print(f'largest difference from JAX: {max(found.values())} of 255 levels ({each})')


def export(weights: str | os.PathLike, path: str | os.PathLike, overwrite: bool = False) -> dict[tuple[int, int], int]:
    """Writes weights, a file or a name of the package, in the format that the extension of `path` says.

    overwrite: replaces a file that is there. Returns the largest difference from JAX, in levels of 255, for images of
    each of SIZES. Raises UserError, and writes nothing, where one is above TOLERANCE, or a file is there already.
    """
    path, origin = storage.expanded(path), files.find_weights(weights)
    if path.suffix not in FORMATS:
        raise UserError(f'--output={path} must end in {", ".join(FORMATS[:-1])} or {FORMATS[-1]}.')
    if path.is_dir() or (path.exists() and origin.exists() and path.samefile(origin)):
        raise UserError(f'--output={path} is a folder, or the weights themselves; name another file.')
    for each in (path, _about(path)) if path.suffix == '.stablehlo' else (path,):
        if os.path.lexists(each) and not overwrite:
            raise UserError(
                f'{each} is there already and would be replaced. Name another --output, or give --overwrite.'
            )
    storage.check_writable(path.parent, 'output')
    _need_all(NEEDED.get(path.suffix, ()))
    source = _read(weights)
    write, read = {
        '.onnx': (_write_onnx, _run_onnx),
        '.stablehlo': (_write_stablehlo, _run_stablehlo),
    }.get(path.suffix, (_write_torch, _run_torch))
    place = pathlib.Path(tempfile.gettempdir())
    with storage.writable(place, 'TMPDIR names another.'), tempfile.TemporaryDirectory(dir=place) as folder:
        temporary = pathlib.Path(folder) / f'weights{path.suffix}'
        write(temporary, source)
        differences = compare(read(temporary), source)
        if max(differences.values()) > TOLERANCE:
            raise UserError(
                f'{path} would differ from JAX by {max(differences.values())} of 255 levels, expected {TOLERANCE} at '
                'most; nothing was written. Other versions of PyTorch or ONNX Runtime may do (extra [export]).'
            )
        made = {each.name.removeprefix(temporary.name): each.read_bytes() for each in pathlib.Path(folder).iterdir()}
    with storage.writable(path.parent):
        for ending, content in sorted(made.items()):  # the file, and what belongs to it
            storage.write_bytes(path.with_name(path.name + ending), content)
    return differences


def compare(restore: Restore, source: Source) -> dict[tuple[int, int], int]:
    """Largest difference of uint8 images from those that JAX restores, for each of SIZES."""
    generator, found = np.random.default_rng(0), {}
    for height, width in SIZES:
        ramp = np.linspace(0, 200, height * width).reshape(height, width, 1)
        image = (ramp + generator.uniform(0, 55, (height, width, 3))).astype(np.uint8)
        found[height, width] = int(np.abs(restore(image[None])[0].astype(int) - restore_in_jax(source, image)).max())
    return found


def restore_in_jax(source: Source, image: np.ndarray) -> np.ndarray:
    """What the network makes of a uint8 (H, W, 3) image in one piece."""
    apply = jax.jit(source.network.apply)
    return _in_one_piece(lambda x: apply(source.variables, jnp.asarray(x)).rain, source.network.encoder_stride, image)


def _in_one_piece(predict: Callable[[np.ndarray], Any], stride: int, image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) restored with the rain that `predict` finds in (1, h, w, 3), at multiples of the stride."""
    height, width = image.shape[:2]
    canvas = np.pad(image, ((0, -height % stride), (0, -width % stride), (0, 0)), mode='reflect')
    x = images.to_float(canvas)
    return images.to_uint8(x - np.asarray(predict(x[None]))[0])[:height, :width]


def describe(source: Source, sizes: str = 'of any height and width') -> dict[str, str]:
    """What a file says of itself: licence, settings, scores, origin and what it takes, as text or JSON."""
    config = source.record.get('config')
    note = config.get('note') if isinstance(config, Mapping) else None
    return {
        'description': 'QSNet (arXiv 1911.10810): removes rain streaks from photos',
        'interface': 'rainy -> restored, both uint8 (batch, height, width, 3) RGB, ' + sizes,
        'licence': str(note or 'not stated in the weights'),
        'settings': json.dumps(source.settings),
        'scores': json.dumps(source.record.get('scores', {})),
        'commit': str(source.record.get('commit', 'not stated in the weights')),
    }


def _read(weights: str | os.PathLike) -> Source:
    """Weights in float32, whatever they were computed in."""
    variables, settings = files.load_weights(weights)
    settings = {**settings, 'dtype': 'float32'}
    variables = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), variables)
    return Source(model.from_config(settings), variables, settings, files.load_record(weights))


def _kind(suffix: str) -> str:
    """A format in words."""
    return {
        '.onnx': f'ONNX, opset {OPSET}',
        '.stablehlo': f'StableHLO for {" and ".join(PLATFORMS)}, and its metadata in .json',
    }.get(suffix, 'state_dict of the PyTorch twin')


def _restorer(source: Source) -> Any:
    """A PyTorch module from uint8 images to restored ones, with nothing in it that ONNX does for some sizes alone."""
    from qsnet_jax.peers import torch_twin

    torch = torch_twin.torch
    network, stride = torch_twin.build(source.variables, source.settings), source.network.encoder_stride

    class Restorer(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, rainy):
            height, width = rainy.shape[1:3]
            x = rainy.permute(0, 3, 1, 2).float() / 255
            for dim in (2, 3) if stride > 1 else ():
                x = torch_twin.mirrored(x, dim, 0, (x.shape[dim] + stride - 1) // stride * stride)
            restored = (x - self.network(x).rain).clamp(0, 1) * 255
            return restored.round().to(torch.uint8).permute(0, 2, 3, 1)[:, :height, :width]

    for number in (1, 2, 3):
        # ONNX pads by reflection only what is larger than the margin.
        cast(Any, network.get_submodule(f'stem_{number}')).conv.is_indexed = True
    return Restorer().eval()


def _write_onnx(path: pathlib.Path, source: Source) -> None:
    """The PyTorch twin as ONNX, without traces of the machine that it was made on."""
    import onnx

    torch = torch_files.need_torch()
    axes = {number: torch.export.Dim(name) for number, name in enumerate(('batch', 'height', 'width'))}
    with quiet():
        program = torch.onnx.export(
            _restorer(source),
            (torch.zeros(2, 40, 50, 3, dtype=torch.uint8),),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=['rainy'],
            output_names=['restored'],
            dynamic_shapes={'rainy': axes},
        )
    made = cast(Any, program).model_proto
    _strip(made)
    onnx.helper.set_model_props(made, describe(source))
    onnx.checker.check_model(made)
    path.write_bytes(made.SerializeToString())


def _strip(made: Any) -> None:
    """Removes the exporter's notes, among them paths of source files, and names the result's axes as the input's."""
    for each in (made.graph, *made.graph.node, *made.graph.input, *made.graph.output, *made.graph.initializer):
        each.ClearField('metadata_props')
        each.ClearField('doc_string')
    made.graph.ClearField('value_info')
    for source, target in zip(
        made.graph.input[0].type.tensor_type.shape.dim, made.graph.output[0].type.tensor_type.shape.dim, strict=True
    ):
        target.CopyFrom(source)


def _run_onnx(path: pathlib.Path) -> Restore:
    """An ONNX file under ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return lambda rainy: session.run(None, {'rainy': rainy})[0]


def _write_stablehlo(path: pathlib.Path, source: Source) -> None:
    """The network for each platform, in the form that is fast there."""
    stride = source.network.encoder_stride

    def predict(form: str) -> Callable[[jax.Array], jax.Array]:
        network = source.network.clone(form=form)
        return lambda x: network.apply(source.variables, x).rain  # type: ignore[union-attr]

    def restore(rainy: jax.Array) -> jax.Array:
        height, width = rainy.shape[1:3]
        padded = jnp.take(jnp.take(rainy, _mirrored(height, stride), axis=1), _mirrored(width, stride), axis=2)
        x = padded.astype(jnp.float32) / 255
        rain = jax.lax.platform_dependent(x, cpu=predict('split'), default=predict('dense'))
        restored = jnp.rint(jnp.clip(x - rain, 0, 1) * 255).astype(jnp.uint8)
        return restored[:, :height, :width]

    shape = jax_export.symbolic_shape('b, h, w, 3', constraints=('h >= 5', 'w >= 5'))  # the stem's margin is 4
    exported = jax_export.export(jax.jit(restore), platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, jnp.uint8))
    path.write_bytes(exported.serialize())
    storage.write_json(_about(path), describe(source, 'of 5 pixels or more in height and width'))


def _about(path: pathlib.Path) -> pathlib.Path:
    """The metadata of a StableHLO file."""
    return path.with_name(f'{path.name}.json')


def _mirrored(extent: Any, stride: int) -> jax.Array:
    """Positions along an axis that goes on by reflection up to a multiple of the stride; extent: may be a symbol."""
    position = jnp.arange((extent + stride - 1) // stride * stride)
    last = jnp.asarray(extent - 1, position.dtype)
    return jnp.minimum(position, 2 * last - position)


def _run_stablehlo(path: pathlib.Path) -> Restore:
    """A StableHLO file as JAX runs it here."""
    exported = jax_export.deserialize(bytearray(path.read_bytes()))
    return lambda rainy: np.asarray(exported.call(jnp.asarray(rainy)))


def _write_torch(path: pathlib.Path, source: Source) -> None:
    """A state_dict with settings and record."""
    record = {**source.record, 'licence': describe(source)['licence']}
    torch_files.save_weights(path, source.variables, source.settings, record)


def _run_torch(path: pathlib.Path) -> Restore:
    """A state_dict in the PyTorch twin."""
    from qsnet_jax.peers import torch_twin

    torch, network = torch_twin.torch, torch_twin.load(path)

    def predict(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            rain = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).rain
        return rain.numpy().transpose(0, 2, 3, 1)

    return lambda rainy: np.stack([_in_one_piece(predict, network.stride, image) for image in rainy])


def _need_all(names: tuple[str, ...]) -> None:
    """Names the packages of the extra that are missing, before anything is computed."""
    missing = []
    for name in names:
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise UserError(f"This export needs {', '.join(missing)}: pip install 'qsnet-jax[export]'.")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporter says of packages that it does not need here."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)
