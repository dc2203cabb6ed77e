"""Weights of a network as safetensors: one tensor per parameter path, the settings and a record as metadata.

Paths are `params/stem_1/conv/kernel`, `batch_stats/...`; whoever holds a file can rebuild its network. No pickle is
read here; see torch_twin for PyTorch's files.
"""

import json
import os
import pathlib
import struct
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from qsnet_jax import UserError, model, storage

MARK = 'qsnet_jax weights 1'
INCLUDED = pathlib.Path(__file__).parent  # those that come with the package
TORCH_MARK = 'qsnet_jax torch weights 1'  # of state_dicts that torch_twin wrote
TORCH_SUFFIXES = ('.pth', '.pt')  # PyTorch's own format


def save_weights(
    path: str | os.PathLike, variables: dict[str, Any], settings: dict[str, Any], record: dict[str, Any] | None = None
) -> None:
    """Writes a network's variables and settings as safetensors, whole or not at all.

    record: JSON-ready provenance (commit, data fingerprint, scores), kept in the file.
    """
    path = pathlib.Path(path)
    tensors = {name: np.asarray(value) for name, value in flax.traverse_util.flatten_dict(variables, sep='/').items()}
    metadata = {'format': MARK, 'settings': json.dumps(settings), 'record': json.dumps(record or {})}
    with storage.writable(path.parent):
        storage.write_bytes(path, safetensors.numpy.save(tensors, metadata=metadata))


def find_weights(name: str | os.PathLike) -> pathlib.Path:
    """The file itself or, for a name without folder and extension such as 'default', that of the package."""
    path, included = pathlib.Path(name).expanduser(), INCLUDED / f'{name}.safetensors'
    is_name = path == pathlib.Path(path.stem) and not path.is_file()
    return included if is_name and included.exists() else path


def load_weights(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads (variables, settings) of a weights file; variables = {'params': ..., 'batch_stats': ...}.

    path: also the name of weights that come with the package, see `find_weights`.
    Files that the PyTorch twin wrote are read as well, where PyTorch is installed.
    Raises UserError that names missing, extra and wrongly shaped parameters.
    """
    path = find_weights(path)
    metadata, tensors = ({}, {}) if path.suffix in TORCH_SUFFIXES else _read(path)
    if path.suffix in TORCH_SUFFIXES or metadata.get('format') == TORCH_MARK:
        from qsnet_jax.peers import torch_twin  # PyTorch is not needed otherwise

        return torch_twin.load_weights(path)
    if metadata.get('format') != MARK:
        raise UserError(f'{path} was not written by qsnet_jax: its format is {metadata.get("format")!r}, not {MARK!r}.')
    try:
        settings = json.loads(metadata['settings'])
        expected = expected_shapes(settings)
    except (ValueError, TypeError, KeyError, ArithmeticError) as error:
        raise UserError(f'{path} has settings of which no network can be built: {error!r}.') from error
    problems = differences(expected, {name: value.shape for name, value in tensors.items()})
    if problems:
        raise UserError(f'{path} does not fit the network of its settings {settings}: {"; ".join(problems)}.')
    bad = [name for name, value in tensors.items() if not np.isfinite(value).all()]
    if bad:
        raise UserError(f'{path} holds values that are not finite: {", ".join(bad[:10])}.')
    variables = flax.traverse_util.unflatten_dict(tensors, sep='/')
    return jax.tree.map(jnp.asarray, variables), model.current(settings)


def _read(path: pathlib.Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and tensors of a safetensors file."""
    try:
        with safetensors.safe_open(path, framework='numpy') as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no dict
    except FileNotFoundError:
        names = ', '.join(sorted(each.stem for each in INCLUDED.glob('*.safetensors')))
        raise UserError(
            f'{path} does not exist; expected a weights file (safetensors) or a name of those in the package: {names}.'
        ) from None
    except (OSError, safetensors.SafetensorError, struct.error) as error:
        raise UserError(f'{path} is not a readable safetensors file: {error}.') from error


def load_record(path: str | os.PathLike) -> dict[str, Any]:
    """The provenance stored in a weights file that `load_weights` accepts."""
    path = find_weights(path)
    if path.suffix in TORCH_SUFFIXES:
        from qsnet_jax.peers import torch_twin

        return torch_twin.load_record(path)
    with safetensors.safe_open(path, framework='numpy') as file:
        return json.loads(file.metadata().get('record', '{}'))


def expected_shapes(settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of every variable of the network with these settings, by path, without computing anything."""
    variables = model.shapes(model.from_config(settings))
    return {name: value.shape for name, value in flax.traverse_util.flatten_dict(variables, sep='/').items()}


def differences(expected: dict[str, tuple], found: dict[str, tuple]) -> list[str]:
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
