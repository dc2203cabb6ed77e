"""Weights files from strangers: whatever they hold ends in one line, soon, in little memory."""

import json
import math
import os
import struct

import numpy as np
import pytest
import safetensors.numpy
from strangers import SETTINGS, join, refusal, split

from qsnet_jax import UserError, model
from qsnet_jax.weights import checks, files, reading, torch_files


@pytest.fixture(scope='module')
def variables():
    return model.initialize(model.from_config(SETTINGS), seed=0)


@pytest.fixture
def path(variables, tmp_path):
    files.save_weights(tmp_path / 'w.safetensors', variables, SETTINGS, {'commit': 'abc'})
    return tmp_path / 'w.safetensors'


def change_settings(path, **changes):
    header, data = split(path)
    settings = {**SETTINGS, **changes}
    header['__metadata__']['settings'] = json.dumps(
        {name: value for name, value in settings.items() if value is not ...}
    )
    join(path, header, data)


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'channels': 12 * 10**9}, 'channels is 12000000000, and the tensors make 12 at most'),
        ({'scale_channels': 6 * 10**9}, 'scale_channels is 6000000000'),
        ({'units': 10**4}, 'units is 10000, and the tensors make 1 at most'),
        ({'groups': 10**12}, 'groups is'),
        ({'encoder_stride': 10**12}, 'encoder_stride is'),
        ({'rates': [1] * 10**4}, '10000 rates, and the tensors make 2'),
        ({'rates': [1, 10**9]}, 'a rate of 1000000000'),
        ({'rates': [1, 0]}, 'rates are'),
        ({'rates': 3}, 'rates is 3 of a wrong type'),
        ({'rates': [1, 2.0]}, 'rates is [1, 2.0] of a wrong type'),
        ({'rates': [1, True]}, 'of a wrong type'),
        ({'units': True}, 'units is True of a wrong type'),
        ({'units': -1}, 'units'),
        ({'channels': '12'}, "channels is '12' of a wrong type"),
        ({'channels': None}, 'channels is None of a wrong type'),
        ({'groups': 0}, 'groups'),
        ({'share_scales': [1]}, 'share_scales is [1] of a wrong type'),
        ({'share_groups': 1}, 'share_groups is 1 of a wrong type'),
        ({'norm': 'x\n\x1b[31m'}, 'norm'),
        ({'dtype': 'float8'}, 'dtype'),
        ({'dtype': ...}, 'dtype missing'),
        ({'channels': ..., 'rates': ...}, 'channels, rates missing'),
        ({'width': 3}, 'width unknown'),
        ({'parent': None}, 'parent unknown'),
        ({'name': 'x'}, 'name unknown'),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else None,
)
def test_settings_are_bounded_by_the_tensors(path, changes, text, monkeypatch):
    """Claims that the tensors do not bear out are refused before a network is traced for them."""
    change_settings(path, **changes)
    monkeypatch.setattr(model, 'shapes', lambda *_: pytest.fail('traced'))
    assert text in refusal(path)


def test_settings_younger_than_a_file_take_their_default(path, monkeypatch):
    """What a later version adds is filled in, and told."""
    monkeypatch.setattr(checks, 'ORIGINAL', tuple(name for name in checks.ORIGINAL if name != 'share_groups'))
    change_settings(path, share_groups=...)
    header, data = split(path)
    del header['__metadata__']['sha256']
    join(path, header, data)
    _, settings = files.load_weights(path)
    assert settings['share_groups'] is True and model.from_config(settings) == model.from_config(SETTINGS)


@pytest.mark.parametrize('error', [AssertionError('x'), IndexError('x'), ZeroDivisionError('x')])
def test_whatever_a_network_cannot_be_built_of_ends_in_one_line(path, error, monkeypatch):
    """Also what the frameworks raise below."""

    def fail(*_):
        raise error

    monkeypatch.setattr(model, 'shapes', fail)
    assert 'settings of which no network can be built' in refusal(path)


@pytest.mark.parametrize('dtype', ['I32', 'I64', 'U8', 'BOOL', 'F8_E4M3', 'F8_E5M2'])
def test_tensors_that_are_not_floating_are_refused_unread(path, dtype):
    """Integers are no weights, whatever their bytes would mean as floats."""
    header, data = split(path)
    name, width = 'params/main/rain/bias', {'I32': 4, 'I64': 8}.get(dtype, 1)
    entries = {each: value for each, value in header.items() if each not in (name, '__metadata__')}
    tensors = {
        each: np.frombuffer(data[slice(*value['data_offsets'])], np.float32).reshape(value['shape'])
        for each, value in entries.items()
    }
    kept = safetensors.numpy.save(tensors, metadata=header['__metadata__'])
    length = struct.unpack('<Q', kept[:8])[0]
    header, data = json.loads(kept[8 : 8 + length]), kept[8 + length :]
    start = len(data)
    header[name] = {'dtype': dtype, 'shape': [3], 'data_offsets': [start, start + 3 * width]}
    join(path, header, data + b'\1' * 3 * width)
    assert f'{name} is {dtype}' in refusal(path)
    with reading.open_tensors(path) as tensors:
        unread = tensors._replace(get=lambda name: pytest.fail(f'{name} was read'))
        refusal(path, lambda path: checks.read(path, unread, SETTINGS))


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_halves_become_single_exactly(path, variables, dtype):
    """Weights stored in 16 bits are read as float32, and each value is what it was."""
    import ml_dtypes

    half = np.dtype({'float16': np.float16, 'bfloat16': ml_dtypes.bfloat16}[dtype])
    with safetensors.safe_open(path, framework='numpy') as file:
        tensors = {name: file.get_tensor(name).astype(half) for name in file.keys()}  # noqa: SIM118
        metadata = {name: value for name, value in file.metadata().items() if name != 'sha256'}
    safetensors.numpy.save_file(tensors, path, metadata=metadata)
    found = files.load_weights(path)[0]['params']['main']['rain']['kernel']
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, tensors['params/main/rain/kernel'].astype(np.float32))


@pytest.mark.parametrize(('value', 'text'), [(np.nan, 'not finite'), (-np.inf, 'not finite'), (-1e-3, 'negative var')])
def test_values_that_no_training_makes_are_refused(path, variables, value, text):
    """NaN, infinity, and variances below zero, of which the root would be NaN."""
    name = 'batch_stats/C_1/norm/batch/var'
    with safetensors.safe_open(path, framework='numpy') as file:
        tensors = {each: file.get_tensor(each) for each in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors[name] = np.full_like(tensors[name], value)
    safetensors.numpy.save_file(tensors, path, metadata=metadata)
    message = refusal(path)
    assert text in message and name in message


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
def test_a_bit_that_turned_is_found(variables, tmp_path, suffix):
    """Weights that are off by a little restore photos a little wrong, and nothing else would tell."""
    path = tmp_path / f'w{suffix}'
    if suffix == '.pth':
        pytest.importorskip('torch')
    for save in (torch_files.save_weights, *([files.save_weights] if suffix == '.safetensors' else [])):
        save(path, variables, SETTINGS)
        files.load_weights(path)
        kernel = np.asarray(variables['params']['main']['conv_1']['conv']['kernel'])
        kernel = kernel if save is files.save_weights else kernel.transpose(3, 2, 0, 1)
        content = bytearray(path.read_bytes())
        content[content.index(np.ascontiguousarray(kernel).tobytes())] ^= 1
        path.write_bytes(content)
        assert ('damaged' if suffix == '.safetensors' else 'Bad CRC-32') in refusal(path)


def test_settings_that_are_given_pass_over_stored_ones_of_any_kind(tmp_path, variables):
    """Tables of strangers may hold anything under these names."""
    torch = pytest.importorskip('torch')
    path = tmp_path / 'w.pth'
    state = torch_files.to_torch(variables)
    torch.save({'state_dict': state, 'settings': 3, 'record': [1], 'format': None}, path)
    torch_files.load_weights(path, SETTINGS)
    torch.save({'state_dict': state, 'settings': torch.zeros(2), 'sha256': torch.zeros(2)}, path)
    assert 'damaged' in refusal(path, lambda path: torch_files.load_weights(path, SETTINGS))
    assert 'no settings' in refusal(path)
    torch.save({'state_dict': state, 'settings': torch.zeros(2), 'format': torch_files.MARK}, path)
    assert 'has settings that' in refusal(path)


def test_files_without_a_checksum_load(path, variables):
    """Those that were written before there was one."""
    header, data = split(path)
    del header['__metadata__']['sha256']
    join(path, header, data)
    files.load_weights(path)


@pytest.mark.parametrize(
    'record', ['x', '[]', '3', 'null', '"text"', 'NaN', '{"psnr": NaN}', '{"psnr": 1e999}', '[' * 10**5, '{"a": 1', '']
)
def test_records_of_any_shape_end_in_one_line(path, record):
    """Only an object with finite numbers is a record; the weights themselves still load."""
    header, data = split(path)
    header['__metadata__']['record'] = record
    join(path, header, data)
    assert 'a record' in refusal(path, files.load_record)
    files.load_weights(path)


@pytest.mark.parametrize('text', ['', 'x', 'null', '[1]', '"x"', '{"channels": 12}', '[' * 10**5, '{' * 10**5])
def test_settings_that_are_no_object_end_in_one_line(path, text):
    """Not JSON, other JSON, nested beyond what can be read."""
    header, data = split(path)
    header['__metadata__']['settings'] = text
    join(path, header, data)
    assert 'settings' in refusal(path)
    del header['__metadata__']['settings']
    join(path, header, data)
    assert 'settings' in refusal(path)


@pytest.mark.parametrize(
    'change',
    [
        {'data_offsets': [0, 24]},
        {'data_offsets': [10**15, 10**15 + 24]},
        {'data_offsets': [24, 0]},
        {'data_offsets': [-24, 0]},
        {'shape': [-6]},
        {'shape': [2**63, 2]},
        {'shape': '6'},
        {'dtype': 'F31'},
        {'dtype': 'F64'},
        {'dtype': None},
    ],
    ids=str,
)
def test_headers_that_contradict_themselves_are_refused(path, change):
    """Overlapping, reversed and distant offsets; shapes and types that their bytes do not fit."""
    header, data = split(path)
    header['batch_stats/C_2/norm/batch/mean'].update(change)
    join(path, header, data)
    assert 'not a readable safetensors' in refusal(path)


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('w.safetensors', b'version https://git-lfs.github.com/spec/v1\noid', 'is a pointer of Git LFS'),
        ('w.pth', b'version https://git-lfs.github.com/spec/v1\noid', 'is a pointer of Git LFS'),
        ('w.safetensors', b'\n<!DOCTYPE html><html>', 'is a web page'),
        ('w.pt', b'<html lang="en">', 'is a web page'),
        ('w.safetensors', b'PK\3\4' + bytes(99), r'is a zip archive.* end in \.pth'),
        ('w.pth', bytes([40]) + bytes(7) + b'{"__metadata__"', r'holds safetensors.*ends in \.safetensors'),
    ],
)
def test_a_file_of_another_kind_is_called_by_it(tmp_path, name, content, message):
    """What a download leaves in place of weights, and weights under the other ending."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        files.load_weights(tmp_path / name)


def test_names_from_strangers_are_shown_escaped(path):
    """A tensor's name cannot send anything to a terminal, nor break the line."""
    header, data = split(path)
    header['a\n\x1b]0;title\x07\ud800'] = header.pop('params/main/rain/bias')
    join(path, json.dumps(header, ensure_ascii=True).replace('\\ud800', '').encode(), data)
    assert '\\n\\x1b]0;title\\x07' in refusal(path)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    """Folders, pipes without a writer, devices without an end, names that no file can have."""
    os.mkfifo(tmp_path / 'fifo.safetensors')
    os.mkfifo(tmp_path / 'fifo.pth')
    (tmp_path / 'folder.pth').mkdir()
    for read in (files.load_weights, files.load_record):
        assert 'a pipe, socket or device' in refusal(tmp_path / 'fifo.safetensors', read)
        assert 'a pipe, socket or device' in refusal(tmp_path / 'fifo.pth', read)
        assert 'a pipe, socket or device' in refusal('/dev/zero', read)
        assert 'is a folder' in refusal(tmp_path / 'folder.pth', read)
        assert 'is a folder' in refusal(tmp_path, read)
        assert 'cannot be opened' in refusal('a' * 5000, read)
        assert 'zero' in refusal('zero\0byte', read) and 'does not exist' in refusal('~nobody/x', read)


def test_what_would_not_be_read_again_is_not_written(tmp_path, variables):
    """A record that is not JSON, or endless, and tensors beyond the limit."""
    for save in (files.save_weights, torch_files.save_weights):
        for record in ({'psnr': math.inf}, {'path': tmp_path}, {'text': 'x' * 3_000_000}):
            with pytest.raises(UserError, match='cannot be written'):
                save(tmp_path / 'w.safetensors', variables, SETTINGS, record)
        with pytest.raises(UserError, match='cannot be written: its tensors'):
            big = {'params': {'main': {'rain': {'bias': np.zeros(reading.DATA_LIMIT // 4 + 1, np.float32)}}}}
            save(tmp_path / 'w.safetensors', big, SETTINGS)
    assert not list(tmp_path.iterdir())
