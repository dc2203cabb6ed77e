"""Settings and tensors have to fit each other before a network is made of them."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import numpy as np

from qsnet_jax import UserError, layers, model
from qsnet_jax.weights import reading
from qsnet_jax.weights.reading import Tensors, fault

# Settings that every file has; later ones were added with a default that keeps the meaning of files without them.
ORIGINAL = (
    *('channels', 'groups', 'units', 'scale_channels', 'rates', 'encoder_stride', 'norm', 'share_groups'),
    *('share_scales', 'dtype'),
)
LARGEST = {'units': 48, 'rates': 12, 'rate': 1024, 'width': 4096}  # of networks from files; tracing them takes 1 s
# Types of tensors, by NumPy's and PyTorch's names, as safetensors spells them.
FLOATING = {'float16': 'F16', 'bfloat16': 'BF16', 'float32': 'F32', 'float64': 'F64'}
Names = Callable[[str], str]
Shapes = Callable[[str, tuple[int, ...]], tuple[int, ...]]


def same_name(path: str) -> str:
    """Name of a variable in files of this package."""
    return path


def same_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a variable in files of this package."""
    return shape


def expected_shapes(network: model.QSNet) -> dict[str, tuple[int, ...]]:
    """Shape of every variable of a network, by path, without computing anything."""
    variables = model.shapes(network)
    return {name: value.shape for name, value in flax.traverse_util.flatten_dict(variables, sep='/').items()}


def read(
    source: object,
    tensors: Tensors,
    settings: Mapping[str, Any],
    name_of: Names = same_name,
    shape_of: Shapes = same_shape,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """({path: array}, settings), with settings as the network has them; arrays are still shaped as in the file.

    source: what messages call the file. name_of, shape_of: how the file names and shapes a variable of the network.
    Raises UserError for settings that the tensors do not bear out, missing, extra, wrongly shaped and not floating
    tensors, all before data are read; then for values that are not finite, negative variances and a checksum that does
    not fit.
    """
    network, expected = _network(source, settings, tensors.shapes)
    kept = layers.at_least_float32(network.dtype)
    size = kept.itemsize * sum(math.prod(shape) for shape in expected.values())
    if size > reading.DATA_LIMIT:
        raise fault(source, f' claims a network of {size:,} bytes; {reading.DATA_LIMIT:,} are the most.')
    names = {path: name_of(path) for path in expected}
    problems = differences({names[path]: shape_of(path, shape) for path, shape in expected.items()}, tensors.shapes)
    whole = [f'{name} is {dtype}' for name, dtype in sorted(tensors.dtypes.items()) if dtype not in FLOATING.values()]
    if whole:
        problems.append(f'{len(whole)} not floating ({", ".join(FLOATING.values())}): {", ".join(whole[:10])}')
    if problems:
        raise fault(source, f' does not fit the network of its settings {dict(settings)}: {"; ".join(problems)}.')
    found = {name: tensors.get(name) for name in names.values()}
    with np.errstate(over='ignore'):  # is infinite then, and refused
        arrays = {path: found[name].astype(kept) for path, name in names.items()}
    for text, is_wrong in (
        ('values that are not finite', lambda path: not np.isfinite(arrays[path]).all()),
        ('negative variances', lambda path: path.endswith('/var') and (arrays[path] < 0).any()),
    ):
        bad = [name for path, name in names.items() if is_wrong(path)]
        if bad:
            raise fault(source, f' holds {text}: {", ".join(bad[:10])}.')
    stored = tensors.metadata.get('sha256')  # files of before have none
    if stored is not None and str(stored) != reading.digest(str(tensors.metadata.get('settings')), found):
        raise fault(
            source,
            ' is damaged, or another program changed it: its tensors or settings are not those that were written '
            '(sha256). Write changed weights with save_weights, which makes a new checksum.',
        )
    return arrays, {name: getattr(network, name) for name in model.defaults()}


def check_limits(settings: Mapping[str, Any]) -> None:
    """Raises UserError for a network that could be trained, but whose weights would not be read again, or not written.

    settings: `config.model`.
    """
    network = model.from_config(settings)
    network.check_settings()
    sizes = {'units': network.units, 'rates': len(network.rates), 'rate': max(network.rates, default=1)}
    sizes['width'] = max(network.channels, network.scale_channels)
    names = {'units': 'units', 'rates': 'rates, in number,', 'rate': 'rates', 'width': 'channels or scale_channels'}
    for name, size in sizes.items():
        if size > LARGEST[name]:
            raise UserError(f'model.{names[name]} has {size}; {LARGEST[name]} is the most that weights are read with.')
    shapes = expected_shapes(network)
    size = layers.at_least_float32(network.dtype).itemsize * sum(map(math.prod, shapes.values()))
    if size > reading.DATA_LIMIT or len(shapes) > reading.COUNT_LIMIT:
        raise UserError(
            f'model makes {len(shapes):,} tensors of {size:,} bytes; weights have {reading.COUNT_LIMIT:,} of '
            f'{reading.DATA_LIMIT:,} bytes at most. Lower model.channels, scale_channels or units.'
        )


def _network(
    source: object, settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[model.QSNet, dict[str, tuple[int, ...]]]:
    """The network, and its shapes, of settings whose types are right and whose numbers the tensors bear out."""
    problems = _wrong_fields(settings) or _beyond(settings, shapes)
    if problems:
        raise fault(source, f' has settings of which no network can be built: {"; ".join(problems)}.')
    try:
        network = model.from_config(settings)
        network.check_settings()
        return network, expected_shapes(network)
    except UserError as error:
        raise fault(source, f' has settings of which no network can be built: {error}') from error
    except Exception as error:  # what JAX and Flax raise for numbers that contradict each other, all kinds
        raise fault(source, f' has settings of which no network can be built: {error!r}.') from error


def _wrong_fields(settings: Mapping[str, Any]) -> list[str]:
    """Missing and unknown settings, and those whose values are of another type, in words."""
    known = {**model.defaults(), **({'form': ''} if 'form' in settings else {})}
    missing = [name for name in ORIGINAL if name not in settings]
    unknown = sorted(str(name) for name in settings if name not in known)
    wrong = [
        f'{name} is {settings[name]!r}'
        for name, default in known.items()
        if name in settings and not _is_like(settings[name], default, name)
    ]
    kinds = ((missing, 'missing'), (unknown, 'unknown (made by a later version?)'), (wrong, 'of a wrong type'))
    return [f'{", ".join(names[:10])} {kind}' for names, kind in kinds if names]


def _is_like(value: Any, default: Any, name: str) -> bool:
    """Whether a setting from JSON, or from a configuration, is of its default's type."""
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and all(_is_like(each, 1, name) for each in value)
    if name == 'share_scales':  # was a bool before it was a name
        return isinstance(value, bool | type(default))
    if isinstance(default, int) and not isinstance(default, bool):
        return isinstance(value, int) and not isinstance(value, bool)
    return default is None or isinstance(value, type(default))


def _beyond(settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Settings that claim more than the tensors make, in words: nothing is traced for them."""
    parts = {match[0] for name in shapes for match in re.findall(r'(?:^|[/.])((unit|C)_\d+)(?=[/.])', name)}
    units = sum(part.startswith('unit') for part in parts)
    scales = len(parts) - units
    widest = max((max(shape, default=0) for shape in shapes.values() if math.prod(shape)), default=0)
    widest = min(widest, LARGEST['width'])
    bounds = {
        name: widest for name, value in settings.items() if isinstance(value, int) and not isinstance(value, bool)
    }
    bounds |= {'units': min(units, LARGEST['units'])}
    beyond = [
        f'{name} is {settings[name]}, and the tensors make {bound} at most'
        for name, bound in bounds.items()
        if settings[name] > bound
    ]
    rates = settings['rates']
    if len(rates) > min(scales - 1, LARGEST['rates']):
        beyond.append(f'{len(rates)} rates, and the tensors make {max(scales - 1, 0)}; {LARGEST["rates"]} are the most')
    return beyond + [f'a rate of {rate}; {LARGEST["rate"]} is the most' for rate in rates if rate > LARGEST['rate']][:1]


def differences(expected: Mapping[str, tuple], found: Mapping[str, tuple]) -> list[str]:
    """Says in words how two tables of shapes differ; the first ten names of each kind."""
    kinds = {
        'missing': sorted(expected.keys() - found.keys()),
        'extra': sorted(found.keys() - expected.keys()),
        'wrong shape': sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name]),
    }
    texts = {
        'wrong shape': lambda name: f'{name} is {found[name]}, expected {expected[name]}',
    }
    return [
        f'{len(names)} {kind}: {", ".join(texts.get(kind, str)(name) for name in names[:10])}'
        for kind, names in kinds.items()
        if names
    ]


def flat(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{path: array} of {'params', 'batch_stats'}, as files have it: row after row, in this machine's byte order.

    Raises UserError for other collections, which no file holds.
    """
    if not isinstance(variables, Mapping):
        raise UserError(
            f'The variables are {type(variables).__name__}; expected {{"params": ..., "batch_stats": ...}}.'
        )
    others = sorted(set(variables) - {'params', 'batch_stats'})
    if others:
        raise UserError(f'The variables hold {", ".join(others)}; expected params and batch_stats alone.')
    leaves = flax.traverse_util.flatten_dict(dict(variables), sep='/').items()
    arrays = {path: np.asarray(value) for path, value in leaves}
    return {path: np.asarray(array, array.dtype.newbyteorder('='), order='C') for path, array in arrays.items()}


def metadata(
    path: object,
    mark: str,
    arrays: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    record: Mapping[str, Any] | None,
    name_of: Names = same_name,
    shape_of: Shapes = same_shape,
) -> dict[str, str]:
    """What a file of these arrays says of itself: all settings of the network, those that are not given by default.

    How the network is computed is left out. Raises UserError for what `read` would refuse.
    """
    complete = {name: value for name, value in model.current(settings).items() if name in model.defaults()}
    found = reading.metadata(path, mark, complete, record, arrays)
    shapes = {name: array.shape for name, array in arrays.items()}
    dtypes = {name: FLOATING.get(array.dtype.name, array.dtype.name) for name, array in arrays.items()}
    tensors = Tensors({}, shapes, dtypes, arrays.__getitem__)
    read(f'{path} cannot be written: it', tensors, complete, name_of, shape_of)
    return found


def variables(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """{'params', 'batch_stats'} of a network from its arrays by path."""
    return jax.device_put(flax.traverse_util.unflatten_dict(dict(arrays), sep='/'))  # at once: nothing is compiled
