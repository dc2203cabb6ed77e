"""Weights of a network as safetensors: one tensor per parameter path, the settings and a record as metadata.

Paths are `params/stem_1/conv/kernel`, `batch_stats/...`; whoever holds a file can rebuild its network. No pickle is
read here; see torch_files for PyTorch's files.
"""

import os
from typing import Any

import safetensors.numpy

from qsnet_jax import UserError, storage
from qsnet_jax.weights import checks, reading, torch_files
from qsnet_jax.weights.reading import INCLUDED, MARK, find_weights, names

__all__ = ['INCLUDED', 'MARK', 'find_weights', 'load_record', 'load_weights', 'names', 'save_weights']


def save_weights(
    path: str | os.PathLike, variables: dict[str, Any], settings: dict[str, Any], record: dict[str, Any] | None = None
) -> None:
    """Writes a network's variables and settings as safetensors, whole or not at all.

    settings: stored with the defaults of those that are not given. record: JSON-ready provenance (commit, data
      fingerprint, scores), kept in the file. Raises UserError for what `load_weights` would refuse, and for the name
      of another kind of file.
    """
    path, tensors = storage.file_to_write(path), checks.flat(variables)
    if path.suffix in torch_files.SUFFIXES:
        raise UserError(f'{path} has the ending of a PyTorch file; expected .safetensors. --mode=export writes those.')
    metadata = checks.metadata(path, MARK, tensors, settings, record)
    with storage.writable(path.parent):
        storage.write_bytes(path, safetensors.numpy.save(tensors, metadata=metadata))


def load_weights(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads (variables, settings) of a weights file; variables = {'params': ..., 'batch_stats': ...}.

    path: also the name of weights that come with the package, see `find_weights`.
    Files that the PyTorch twin wrote are read as well; for .pth and .pt PyTorch has to be installed.
    settings: all that the network has, also those that are younger than the file.
    Raises UserError that names missing, extra and wrongly shaped parameters.
    """
    path = find_weights(path)
    if path.suffix in torch_files.SUFFIXES:
        return torch_files.load_weights(path)
    with reading.open_tensors(path) as tensors:
        mark = tensors.metadata.get('format')
        if mark != MARK and mark != torch_files.MARK:
            raise reading.fault(path, f' was not written by qsnet_jax: its format is {mark!r}, not {MARK!r}.')
        settings = reading.json_object(path, 'settings', tensors.metadata.get('settings'))
        if mark == torch_files.MARK:
            return torch_files.from_tensors(path, tensors, settings)
        arrays, settings = checks.read(path, tensors, settings)
        return checks.variables(arrays), settings


def load_record(path: str | os.PathLike) -> dict[str, Any]:
    """The provenance stored in a weights file that `load_weights` accepts. Raises UserError where it is no object."""
    path = find_weights(path)
    if path.suffix in torch_files.SUFFIXES:
        return torch_files.load_record(path)
    with reading.open_tensors(path) as tensors:
        return reading.record_of(path, tensors.metadata)
