"""Files made to do harm: no step of a pickle is run, and nothing takes long or much memory."""

import collections
import importlib.util
import io
import json
import math
import pathlib
import struct
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
from strangers import SETTINGS, join, refusal

from qsnet_jax import UserError, model
from qsnet_jax.weights import checks, files, torch_files


@pytest.fixture(scope='module')
def variables():
    return model.initialize(model.from_config(SETTINGS), seed=0)


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
@pytest.mark.slow
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
    assert max(float(seconds) for _, _, seconds, _ in rows) < 8, done.stdout  # 1.2 s where nothing else runs
    assert max(int(kib) for *_, kib in rows) < 2**20, done.stdout
    assert collections.Counter(result for _, result, _, _ in rows)['refused'] > 18
