"""What a row of each kind must hold, by the types that the report relies on."""

import math
from typing import Any, NamedTuple

MOST = 3  # faults that are named


class Each(NamedTuple):
    """A JSON object whose every value has this shape."""

    shape: Any


class Real(NamedTuple):
    """A finite number, or null where scores can be missing."""

    can_be_null: bool = False


# A shape is a type, a Real, an Each, [shape] for a list of such, or {field: shape} for an object with at least these
# fields; a field with ? may be missing or null.
_SCORES = {'psnr': Real(True), 'ssim': Real(True)}
_BOTH = {'rgb': _SCORES, 'y': _SCORES}
_ENDS = {'psnr?': [Real()], 'ssim?': [Real()]}
_INTERVAL = {'rgb?': _ENDS, 'y?': _ENDS}
_PRINT = {'count': int, 'sha256': str, 'publisher_count?': int}
_CONFIG = {'data': {'root?': str}, 'model?': dict, 'train?': dict, 'loss?': dict}
_DEVICE = {'platform': str, 'kind': str}
_TRAINING = {
    'training_data?': Each({'sha256': str, 'count?': int}),
    'training_seconds?': Real(),
    'step?': int,
    'config?': _CONFIG,
    'device?': _DEVICE,
    'versions?': Each(str),
    'precision?': dict,
    'start_from?': dict,
    'starts?': [{'commit?': str, 'device?': _DEVICE, 'versions?': Each(str), 'precision?': dict}],
}
_RECORD = {
    'seed?': int,
    'commit': str,
    'command': str,
    'date': str,
    'versions': Each(str),
    'device': _DEVICE,
    'precision': dict,
    'config': _CONFIG,
    'training?': _TRAINING,
}
_RESULT = {
    **_BOTH,
    'count': int,
    'input': _BOTH,
    'gain?': _BOTH,
    'scales?': Each(_BOTH),
    'interval?': {**_INTERVAL, 'input?': _INTERVAL, 'gain?': _INTERVAL, 'scales?': Each(_INTERVAL)},
}
_IMAGES = {'name': [str], 'scene': [str], 'output_rgb_psnr': [Real(True)]}
_SHARE = {'share': Real(), 'interval': [Real()]}
_TIMES = {'median': Real(), 'quartiles?': [Real()]}
_PEER = {'seconds': {'median': Real()}, 'ratio?': Real(), 'images_per_second?': Real(), 'memory_mib?': Real()}
_CASE = {'model': str, 'batch': int, 'size': int, 'precision': str, 'training': bool, 'peers': Each(_PEER)}
_COMPILED = {'model': str, 'form': str, 'precision': str, 'training': bool, 'launches?': int}
SHAPES: dict[str, dict[str, Any]] = {
    'study': {
        'size': str,
        'variant': str,
        'overrides': dict,
        'seed': int,
        'failed?': str,
        'sets': Each({**_RESULT, 'fingerprint': _PRINT, 'images': _IMAGES}),
        'curve?': [{'step': int}],
        'provenance': _RECORD,
    },
    'evaluation': {**_RESULT, 'dataset': str, 'provenance': {**_RECORD, 'dataset': _PRINT}},
    'score': {**_RESULT, 'dataset': str, 'name': str, 'provenance': {**_RECORD, 'config': dict, 'dataset': _PRINT}},
    'compare': {
        'dataset': str,
        'count': int,
        'steps': int,
        'validation_psnr': Each(Real(True)),
        'seconds_per_step': Each(_TIMES),
        'torch_over_jax': Real(),
        'provenance': {**_RECORD, 'dataset': _PRINT},
    },
    'sparsity': {
        'name': str,
        'count': int,
        'scenes?': int,
        'filter': str,
        'fingerprint': _PRINT,
        'share': Each({'mean': _SHARE, 'every': _SHARE, 'beyond': _SHARE}),
        'control': {'share': Each(Real())},
        'contrast?': dict,
        'not_sparse': [dict],
        'provenance': _RECORD,
    },
    'bench': {'cases': [_CASE], 'provenance': _RECORD},
    'compiled': {'card': dict, 'cases': [_COMPILED], 'provenance': _RECORD},
}


def faults(row: dict[str, Any]) -> list[str]:
    """What of a row of a known kind is otherwise, as 'sets.pairs.count is a list'; the first few."""
    found: list[str] = []
    _check(row, SHAPES[row['kind']], '', found)
    more = [f'{len(found) - MOST} more'] if len(found) > MOST else []
    return found[:MOST] + more


def _check(value: Any, shape: Any, place: str, found: list[str]) -> None:
    """Adds what is wrong below a place."""
    if isinstance(shape, Real):
        is_null = value is None and shape.can_be_null
        if not is_null and (isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value)):
            found.append(f'{place} is {_called(value)}')
    elif isinstance(shape, dict) and isinstance(value, dict):
        for field, inner in shape.items():
            name = field.removesuffix('?')
            there = f'{place}.{name}' if place else name
            if value.get(name) is not None:
                _check(value[name], inner, there, found)
            elif name == field and not (name in value and isinstance(inner, Real) and inner.can_be_null):
                found.append(f'{there} is missing' if name not in value else f'{there} is null')
    elif isinstance(shape, Each) and isinstance(value, dict):
        for name, inner in value.items():
            _check(inner, shape.shape, f'{place}.{name}', found)
    elif isinstance(shape, list) and isinstance(value, list):
        for number, inner in enumerate(value):
            _check(inner, shape[0], f'{place}[{number}]', found)
    elif not isinstance(shape, type) or not isinstance(value, shape) or (shape is int and isinstance(value, bool)):
        found.append(f'{place} is {_called(value)}')


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # of an integer that no float holds
        return False


def _called(value: Any) -> str:
    """What a value is, in JSON's words."""
    if value is None or isinstance(value, bool):
        return 'null' if value is None else 'true or false'
    return {dict: 'an object', list: 'a list', str: 'a text', int: 'a number', float: 'a number'}[type(value)]
