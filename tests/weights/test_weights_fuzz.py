"""Mutated weights files: each loads as what it was, or is refused in one line."""

import json
import struct

import flax
import numpy as np
import pytest

from qsnet_jax import UserError, model
from qsnet_jax.weights import files, torch_files

SETTINGS = {
    'channels': 12, 'groups': 3, 'units': 1, 'scale_channels': 6, 'rates': [1], 'encoder_stride': 1,
    'norm': 'batch', 'share_groups': True, 'share_scales': True, 'dtype': 'float32',
}  # fmt: skip
VALUES = (
    0,
    -1,
    1,
    2,
    10**4,
    2**31,
    2**63,
    10**30,
    1e300,
    True,
    False,
    None,
    '',
    'x',
    'F64',
    [],
    [1],
    [-1],
    {},
    {'a': 1},
)


def cut(content, generator):
    """The beginning of the file."""
    return content[: generator.integers(len(content))]


def flip(content, generator):
    """One to eight bits turned over, half of the times within the header or the table."""
    content = bytearray(content)
    reach = len(content) if generator.integers(2) else min(len(content), 9000)
    for at in generator.integers(reach, size=generator.integers(1, 9)):
        content[at] ^= 1 << generator.integers(8)
    return bytes(content)


def move(content, generator):
    """A piece of the file written over another, or left out."""
    start, end, target = (int(each) for each in sorted(generator.integers(len(content), size=3)))
    return content[:start] + (content[end:target] if generator.integers(2) else b'') + content[end:]


def change_json(content, generator):
    """A value somewhere in the header of a safetensors file replaced, left out, renamed or doubled."""
    length = struct.unpack('<Q', content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    inside = header[str(generator.choice(list(header)))] if generator.integers(4) else header
    change_table(inside, generator)
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + content[8 + length :]


def change_settings(content, generator):
    """The same within the settings."""
    length = struct.unpack('<Q', content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    settings = json.loads(header['__metadata__']['settings'])
    change_table(settings, generator)
    header['__metadata__']['settings'] = json.dumps(settings)
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + content[8 + length :]


def change_table(table, generator):
    """Changes one entry."""
    key, value = str(generator.choice(list(table))), VALUES[generator.integers(len(VALUES))]
    other = str(generator.choice(list(table)))
    match generator.integers(4):
        case 0:
            table[key] = value
        case 1:
            del table[key]
        case 2:
            table[key + 'x'] = table.pop(key)
        case 3:
            table[key], table[other] = table[other], table[key]


def read(path):
    """Everything that a file says, or what it is refused with."""
    try:
        variables, settings = files.load_weights(path)
        flat = flax.traverse_util.flatten_dict(variables, sep='/')
        return settings, {name: np.asarray(value) for name, value in flat.items()}
    except UserError as error:
        assert str(error).isprintable()
        return None


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['ours.safetensors', 'torch.safetensors', 'torch.pth'])
def test_mutated_files_load_as_they_were_or_are_refused(kind, tmp_path):
    """1000 changes of each kind of file: no other error, no other settings, no other numbers."""
    if kind.endswith('.pth'):
        pytest.importorskip('torch')
    generator = np.random.default_rng(17)
    variables = model.initialize(model.from_config(SETTINGS), seed=0)
    path = tmp_path / kind
    save = files.save_weights if kind.startswith('ours') else torch_files.save_weights
    save(path, variables, SETTINGS, {'commit': 'abc'})
    content, original = path.read_bytes(), read(path)
    changes = [cut, flip, move] if kind.endswith('.pth') else [cut, flip, move, change_json, change_settings]
    loaded = 0
    for number in range(1000):
        change = changes[number % len(changes)]
        path.write_bytes(change(content, generator))
        found = read(path)
        loaded += found is not None
        if found is not None:
            assert found[0] == original[0], (number, change.__name__)
            for name, value in original[1].items():
                np.testing.assert_array_equal(found[1][name], value, err_msg=f'{number}, {change.__name__}, {name}')
        try:
            files.load_record(path)
        except UserError:
            pass
    assert 0 < loaded < 500
