"""Weights files from strangers: whatever they hold ends in one line, soon, in little memory."""

import collections
import importlib.util
import io
import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from qsnet_jax import UserError, model
from qsnet_jax.weights import checks, files, reading, torch_files

SETTINGS = {
    'channels': 12, 'groups': 3, 'units': 1, 'scale_channels': 6, 'rates': [1, 2], 'encoder_stride': 1,
    'norm': 'batch', 'share_groups': True, 'share_scales': True, 'dtype': 'float32',
}  # fmt: skip


@pytest.fixture(scope='module')
def variables():
    return model.initialize(model.from_config(SETTINGS), seed=0)


@pytest.fixture
def path(variables, tmp_path):
    files.save_weights(tmp_path / 'w.safetensors', variables, SETTINGS, {'commit': 'abc'})
    return tmp_path / 'w.safetensors'


def split(path):
    """(header, data) of a safetensors file."""
    content = path.read_bytes()
    length = struct.unpack('<Q', content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join(path, header, data=b'', size=None):
    """A safetensors file of any header; size: of the data, all holes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with path.open('wb') as file:
        file.write(struct.pack('<Q', len(text)) + text + data)
        if size is not None:
            file.truncate(8 + len(text) + size)


def refusal(path, read=files.load_weights):
    """The one line that a file is refused with."""
    with pytest.raises(UserError) as error:
        read(path)
    message = str(error.value)
    assert message.isprintable() and len(message) < 1100, message
    return message


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


def shapes_header(settings):
    """Header and size of an honest file of these settings."""
    header, at = {'__metadata__': {'format': files.MARK, 'settings': json.dumps(settings)}}, 0
    for name, shape in checks.expected_shapes(model.from_config(settings)).items():
        header[name] = {'dtype': 'F32', 'shape': shape, 'data_offsets': [at, at + 4 * math.prod(shape)]}
        at += 4 * math.prod(shape)
    return header, at


def archive(path, table, records=(), compression=zipfile.ZIP_STORED):
    """A .pth file of any table and records."""
    with zipfile.ZipFile(path, 'w', compression) as file:
        file.writestr('a/data.pkl', table)
        file.writestr('a/version', '3\n')
        for name, content in records:
            file.writestr(name, content)


HOSTILE_TABLES = {
    'an array of any size': b'\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.',
    'a tensor of any size': b'\x80\x02ctorch\nTensor\nJ\xff\xff\xff\x7f\x85\x81.',
    'code': b"cos\nsystem\n(S'true'\ntR.",
    'code by another step': b"(S'true'\nios\nsystem\n.",
    'a memo of any size': b'\x80\x02}r\xff\xff\xff\x7f.',
    'no end': b'\x80\x02' + b'(' * 500_000,
    'nothing': b'',
    'nested': b'\x80\x02' + b']' * 100_000 + b'a' * 99_999 + b'.',
    'a number': b'\x80\x02K\x01.',
    'bytes beyond the end': b'\x80\x02X\xff\xff\xff\x7fabc.',
}


@pytest.mark.parametrize('name', HOSTILE_TABLES)
def test_tables_that_call_for_more_than_plain_tensors_are_refused(name, tmp_path):
    """No step of them is run that makes anything large, or anything but tensors."""
    pytest.importorskip('torch')
    archive(tmp_path / 'w.pth', HOSTILE_TABLES[name])
    assert 'state_dict' in refusal(tmp_path / 'w.pth')


def test_tensors_that_are_not_what_they_look_like_are_refused(tmp_path, variables):
    """Sparse, quantised, without data, and of whole numbers; and archives with two tables."""
    torch = pytest.importorskip('torch')
    state = torch_files.to_torch(variables)
    bias = state['main.rain.bias']
    path = tmp_path / 'w.pth'
    for odd, text in (
        (bias.to_sparse(), 'state_dict'),
        (bias.int(), 'main.rain.bias is int32'),
        (bias.to(torch.complex64), 'main.rain.bias is complex64'),
        (bias.to(torch.float8_e4m3fn), 'state_dict|float8'),
    ):
        torch.save({**state, 'main.rain.bias': odd}, path)
        message = refusal(path, lambda path: torch_files.load_weights(path, SETTINGS))
        assert any(each in message for each in text.split('|'))
    for odd in (bias.to_sparse(), bias.to('meta')):
        with pytest.raises(UserError, match=r'main\.rain\.bias'):
            torch_files.from_torch({**state, 'main.rain.bias': odd}, SETTINGS)
    torch.save(state, path)
    with zipfile.ZipFile(path) as source, pytest.warns(UserWarning, match='Duplicate'):
        table = next(name for name in source.namelist() if name.endswith('data.pkl'))
        with zipfile.ZipFile(path, 'a') as target:
            target.writestr(table, b'\x80\x02}.')
    assert 'archive' in refusal(path, lambda path: torch_files.load_weights(path, SETTINGS))


def make_large_files(folder: pathlib.Path):
    """Files that would take long or much memory: holes, bombs, and the largest that are still read."""
    settings = {**SETTINGS, 'channels': 600, 'scale_channels': 300, 'units': 12, 'rates': [1, 2, 4, 6]}
    join(folder / 'largest.safetensors', *shapes_header(settings)[:1], size=shapes_header(settings)[1])
    if importlib.util.find_spec('torch'):
        shapes = checks.expected_shapes(model.from_config(settings))
        variables = checks.variables({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
        torch_files.save_weights(folder / 'largest.pth', variables, settings)
    most = {'units': checks.LARGEST['units'], 'rates': [1] * checks.LARGEST['rates'], 'channels': 240}
    settings = {**SETTINGS, **most, 'scale_channels': 240}
    join(folder / 'deepest.safetensors', *shapes_header(settings)[:1], size=shapes_header(settings)[1])
    header, _ = shapes_header(SETTINGS)
    wide, size = shapes_header({**SETTINGS, 'channels': 12_000, 'scale_channels': 6_000})
    join(folder / 'honest and wide.safetensors', wide, size=size)
    join(folder / 'holes.safetensors', header, size=10**12)
    with (folder / 'endless header.safetensors').open('wb') as file:
        file.write(struct.pack('<Q', 10**11))
        file.truncate(10**11 + 8)
    many = {f't{i}': {'dtype': 'F32', 'shape': [0], 'data_offsets': [0, 0]} for i in range(60_000)}
    join(folder / 'many.safetensors', {**many, '__metadata__': header['__metadata__']})
    empty = {**header, 'params/wide': {'dtype': 'F32', 'shape': [12 * 10**9, 0], 'data_offsets': [0, 0]}}
    empty['__metadata__'] = {**header['__metadata__'], 'settings': json.dumps({**SETTINGS, 'channels': 12 * 10**9})}
    join(folder / 'wide without data.safetensors', empty, size=shapes_header(SETTINGS)[1])
    archive(folder / 'bomb.pth', b'\x80\x02}.', [('a/data/0', bytes(10**8))], zipfile.ZIP_DEFLATED)
    archive(folder / 'bomb in the table.pth', bytes(10**8), compression=zipfile.ZIP_DEFLATED)
    for name, table in HOSTILE_TABLES.items():
        archive(folder / f'{name}.pth', table)
    archive(folder / 'many entries.pth', b'\x80\x02}.', [(f'a/data/{i}', b'') for i in range(50_000)])
    with (folder / 'holes.pth').open('wb') as file:
        file.truncate(10**12)
    lying = io.BytesIO()
    archive(lying, b'\x80\x02}.', [('a/data/0', bytes(10**6))], zipfile.ZIP_DEFLATED)
    (folder / 'lying.pth').write_bytes(lying.getvalue().replace(struct.pack('<I', 10**6), struct.pack('<I', 10)))


@pytest.mark.skipif(not pathlib.Path('/proc/self/status').exists(), reason='memory is read where Linux tells it')
def test_no_file_takes_long_or_much_memory(tmp_path):
    """At most 2 s of computing and 1 GiB for any file, imports included in the memory alone."""
    make_large_files(tmp_path)
    program = textwrap.dedent("""
        import pathlib, resource, sys, time
        from qsnet_jax import UserError
        from qsnet_jax.weights import files
        try:
            import torch
        except ImportError:
            torch = None
        def peak():  # KiB; getrusage's would be that of the process which started this one
            lines = pathlib.Path('/proc/self/status').read_text().splitlines()
            return next(line.split()[1] for line in lines if line.startswith('VmHWM:'))
        resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
        files.load_weights('default')
        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            begun, result = time.process_time(), 'loaded'
            try:
                files.load_weights(path)
            except UserError as error:
                result = 'refused'
                assert str(error).isprintable()
            seconds = time.process_time() - begun
            print(path.name, result, seconds, peak(), sep='|')
    """)
    command = [sys.executable, '-c', program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split('|') for line in done.stdout.splitlines()]
    assert len(rows) == len(list(tmp_path.iterdir())) > 20
    loaded = {name for name, result, _, _ in rows if result == 'loaded'}
    assert loaded - {'largest.pth'} == {'largest.safetensors', 'deepest.safetensors'}
    assert max(float(seconds) for _, _, seconds, _ in rows) < 2, done.stdout
    assert max(int(kib) for *_, kib in rows) < 2**20, done.stdout
    assert collections.Counter(result for _, result, _, _ in rows)['refused'] > 18
