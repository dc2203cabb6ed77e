"""Images of any size in, restored images out: pad, cut into tiles, stitch."""

import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, cast

import flax
import jax
import jax.numpy as jnp
import numpy as np

from qsnet_jax import UserError, devices, layers, memory, model, progress
from qsnet_jax.data import images
from qsnet_jax.weights import files

BUCKET = 32  # sides of tiles are multiples of this, so that photos of many sizes compile few shapes
TILE = 512  # pixels; scores are made with this, or they would depend on the machine in their last digits
LARGEST_TILE = 1024  # of those that memory decides on: larger ones save less than a tenth of the margins' work
# Memory that inference needs for each pixel of a tile, in units of one activation of the encoder's width. Measured on
# CPUs at full size: 7.4 in XLA's buffers, and some for its convolutions.
ACTIVATIONS = 12


class Derainer:
    """Removes rain with one set of weights; call it with a uint8 (H, W, 3) RGB image, get the restored one.

    `images.read(path)` gives such an image; of OpenCV, whose images are BGR, `image[..., ::-1]` is one.

    The network sees the image at its own size: only with an encoder_stride of 2 or 4 it is continued by reflection
    below and to the right, up to a multiple of that. A larger one than `tile` is cut into overlapping tiles of
    tile x tile pixels whose margins, as wide as the network's receptive field, are thrown away. The result is that of
    the whole image, in bounded memory; sums of other shapes may round a value to the neighbouring level. With instance
    norm an image is never cut, as each pixel sees all others, and memory grows with it.
    A `tile` of None is that of scores: TILE, or more for a network whose margins leave nothing of it.

    few_shapes: cuts small images into tiles too, whose sides are multiples of 32. Every new shape compiles for seconds,
      so this is faster for images of many sizes, and slower for images of one.
    runtime: restores tiles, uint8 (1, h, w, 3), in the place of the network; not for `scales`.
    """

    def __init__(
        self,
        variables: dict[str, Any],
        settings: dict[str, Any],
        tile: int | None = None,
        few_shapes: bool = False,
        runtime: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        if not isinstance(few_shapes, bool) or not (runtime is None or callable(runtime)):
            raise UserError(
                f'few_shapes={few_shapes!r}, runtime={runtime!r}; expected a bool, and None or what '
                "qsnet_jax.peers.runtimes.load('default', 'onnxruntime') returns."
            )
        self.few_shapes = few_shapes
        self.runtime = runtime
        self.variables = variables
        self.network = model.from_config(settings)
        self.network.check_settings()
        self.settings = dict(settings)
        self.tile = check_tile(self.network, tile)

    @functools.cached_property
    def _prepared(self) -> dict[str, Any]:
        """The weights, on the device once for all tiles, and there folded and laid out beforehand.

        Not on CPUs: a tile's pixels outweigh that by far, and to compile it apart would only lengthen the start.
        """
        if jax.default_backend() == 'cpu':
            return jax.device_put(self.variables)
        return model.prepare(self.network, self.variables)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Tells results from those of other weights and settings; tiles and runtimes move a pixel by one level."""
        found = hashlib.sha256(json.dumps(self.settings, sort_keys=True, default=str).encode())
        for name, value in sorted(flax.traverse_util.flatten_dict(self.variables, sep='/').items()):
            found.update(name.encode() + np.asarray(value).tobytes())
        return found.hexdigest()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return self.restore(image)[0]

    def restore(self, image: np.ndarray, scales: bool = False) -> np.ndarray:
        """uint8 (1, H, W, 3) RGB, the restored image; with `scales` followed by those that C_1, C_2, ... alone decode.

        Raises UserError for what is no image or no bool, and for `scales` of a runtime.
        """
        images.check_picture(image)
        if not isinstance(scales, bool | np.bool_):
            raise UserError(f'scales={scales!r}; expected True or False.')
        if scales and self.runtime is not None:
            raise UserError('Another runtime restores the image alone; leave scales, or the runtime, out.')
        height, width = image.shape[:2]
        canvas = pad_to_stride(image, self.network.encoder_stride)
        count = 1 + (1 + len(self.network.rates)) * scales
        restored = np.empty((count, *canvas.shape), np.uint8)
        for core, finish in _one_ahead(self._started(canvas, scales)):
            restored[:, *core] = finish()
        return restored[:, :height, :width]

    def _started(self, canvas: np.ndarray, scales: bool) -> Iterator[tuple[Any, Callable[[], np.ndarray]]]:
        """Where each core belongs, and what waits for it: the device may still be computing."""
        for window, core, inner in self._tiles(canvas.shape[:2]):
            if self.runtime is None:
                tile = images.to_float(canvas[window])
                try:
                    rain = _predict(self.network, self._prepared, jax.device_put(tile[None]), scales)
                except flax.errors.FlaxError as error:
                    fault = str(error).partition(' (http')[0]
                    raise UserError(f'The variables are not those of a network of these settings: {fault}') from error
                yield core, functools.partial(_subtract, tile, rain, inner)
            else:
                yield core, functools.partial(self.runtime(canvas[window][None]).__getitem__, (slice(None), *inner))

    def _tiles(self, shape: tuple[int, int]) -> Iterator[tuple[Any, Any, Any]]:
        """Slices (window on the canvas, core on the canvas, core within the window) that together cover the canvas."""
        if self.network.norm == 'instance':  # every pixel sees the whole image
            spans = [[(0, extent, 0, extent)] for extent in shape]
        else:
            halo, stride = _halo(self.network), self.network.encoder_stride
            tiles = [self._side(extent) if self.few_shapes else self.tile for extent in shape]
            spans = [_spans(extent, tile, halo, stride) for extent, tile in zip(shape, tiles, strict=True)]
        grid = [(rows, columns) for rows in spans[0] for columns in spans[1]]
        for axes in progress.bar(grid, 'tiles', leave=False, disable=len(grid) < 4):
            yield (
                tuple(slice(start, stop) for start, stop, _, _ in axes),
                tuple(slice(first, last) for _, _, first, last in axes),
                tuple(slice(first - start, last - start) for start, _, first, last in axes),
            )

    def _side(self, extent: int) -> int:
        """Side of the tiles along one axis of an image whose shape is to be shared: a multiple of 32 where one fits."""
        largest = extent // BUCKET * BUCKET
        return min(self.tile, largest) if largest >= _smallest_tile(self.network) else self.tile


def check_tile(network: model.QSNet, tile: int | None) -> int:
    """The side of tiles that Derainer takes. Raises UserError where the margins of a given one leave nothing of it."""
    smallest = _smallest_tile(network)
    if tile is None:
        return max(TILE, smallest)
    if isinstance(tile, bool) or not isinstance(tile, int | np.integer):
        raise UserError(f'tile is {tile!r}; expected a whole number of pixels, as {TILE}, 0 or None.')
    if tile // BUCKET * BUCKET < smallest:
        raise UserError(
            f'A tile of {tile} pixels leaves nothing of its margins of {_halo(network)}; use --tile={smallest} or more.'
        )
    return tile // BUCKET * BUCKET


def pad_to_stride(image: np.ndarray, stride: int) -> np.ndarray:
    """(H, W, 3) continued by reflection below and to the right, to the next multiples of the encoder's stride."""
    height, width = image.shape[:2]
    return np.pad(image, ((0, -height % stride), (0, -width % stride), (0, 0)), mode='reflect')


def _one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, each only once the next has been started."""
    pending = [next(items)]
    for item in items:
        pending.append(item)
        yield pending.pop(0)
    yield from pending


def choose_tile(settings: dict[str, Any]) -> int:
    """Side of the tiles, a multiple of 32 up to LARGEST_TILE, that need half of the memory which is free now."""
    network = model.from_config(settings)
    merged = (len(network.rates) + 1) * (network.scale_channels + 3 * network.encoder_stride**2)
    groups = network.decoder_groups or network.groups  # which are convolved one after the other
    width = max(network.channels, merged / groups) / network.encoder_stride
    itemsize = layers.at_least_float32(network.dtype).itemsize  # CPUs compute 16 bits in 32
    side = int(math.sqrt(_free_memory() / 2 / (ACTIVATIONS * width * itemsize))) // BUCKET * BUCKET
    return max(min(side, LARGEST_TILE), _smallest_tile(network))


def _smallest_tile(network: model.QSNet) -> int:
    """The smallest multiple of 32 of which margins leave something."""
    if network.norm == 'instance':
        return BUCKET
    return -(-(2 * _halo(network) + BUCKET) // BUCKET) * BUCKET


def _halo(network: model.QSNet) -> int:
    """Margin of a tile: the receptive radius, up to a multiple of the encoder's stride."""
    stride = network.encoder_stride
    return -(-model.receptive_radius(network) // stride) * stride


def _free_memory() -> int:
    """Bytes left on the first device, or in the machine for CPUs, as far as they can be known (else 4 GiB)."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and 'bytes_limit' in statistics:
        return statistics['bytes_limit'] - statistics['bytes_in_use']
    return memory.free()


def _spans(extent: int, tile: int, halo: int, stride: int) -> list[tuple[int, int, int, int]]:
    """(start, stop, first, last) along one axis: windows [start, stop) whose cores [first, last) join without gaps.

    All are equally long: no more than `tile`, and no longer than as many of them need.
    """
    tile = min(tile, extent)
    count = -(-(extent - 2 * halo) // (tile - 2 * halo)) if tile < extent else 1
    needed = -(-(extent - 2 * halo) // count) + 2 * halo
    tile = min(tile, -(-needed // BUCKET) * BUCKET)
    step = (tile - 2 * halo) // stride * stride
    starts = [0]
    while starts[-1] + tile < extent:
        starts.append(min(starts[-1] + step, extent - tile))
    edges = [0, *(start + halo for start in starts[1:]), extent]
    return [(start, start + tile, edges[i], edges[i + 1]) for i, start in enumerate(starts)]


def _subtract(tile: np.ndarray, rain: jax.Array, inner: tuple[slice, slice]) -> np.ndarray:
    """The core of a tile without its rain."""
    return images.to_uint8(tile[inner] - np.asarray(rain)[:, *inner])


@functools.partial(jax.jit, static_argnums=(0, 3))
def _predict(network: model.QSNet, prepared: Any, tiles: jax.Array, scales: bool) -> jax.Array:
    """Rain of one tile (1, h, w, 3) -> (1 + number of scales, h, w, 3), or (1, h, w, 3) without scales."""
    output = cast(model.Output, network.apply(prepared, tiles))
    return jnp.concatenate((output.rain, *output.aux_rain)) if scales else output.rain


def load(
    weights: str | os.PathLike | None = None,
    tile: int | None = None,
    dtype: str | None = None,
    few_shapes: bool = False,
    runtime: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Derainer:
    """A Derainer with the weights of a file, of a name in the package, or with the package's default.

    tile: see Derainer; 0 lets the free memory decide, see `choose_tile`. dtype: what is computed in, 'float32' where it
      is None, whatever the network was trained in; so do exports and other runtimes.
    few_shapes, runtime: see Derainer.
    """
    devices.check()
    variables, settings = files.load_weights(files.INCLUDED / 'default.safetensors' if weights is None else weights)
    settings = {**settings, 'dtype': 'float32' if dtype is None else dtype}
    model.from_config(settings).check_settings()
    is_free = isinstance(tile, int | np.integer) and not isinstance(tile, bool) and tile == 0
    return Derainer(variables, settings, choose_tile(settings) if is_free else tile, few_shapes, runtime)
