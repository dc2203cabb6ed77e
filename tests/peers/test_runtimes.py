"""Other runtimes restore what JAX restores, in tiles too, and what they lack or cannot do is one line."""

import pathlib
import sys

import numpy as np
import pytest

from qsnet_jax import UserError, cache, derain, main, model
from qsnet_jax.data import images
from qsnet_jax.peers import export, runtimes
from qsnet_jax.weights import files

SETTINGS = {'channels': 12, 'units': 1, 'scale_channels': 6, 'rates': (1,), 'encoder_stride': 2}


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A file of a small network that removes something."""
    network = model.QSNet(**SETTINGS)
    variables = model.initialize(network, seed=0)
    variables['params']['main']['rain']['bias'][:] = 0.02
    path = tmp_path_factory.mktemp('weights') / 'small.safetensors'
    everything = {name: getattr(network, name) for name in files.load_weights('default')[1]}
    files.save_weights(path, variables, everything)
    return path


def needs(runtime):
    """Skips where the extra is not installed."""
    for name in ('torch', 'onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(name)
    try:
        runtimes.need(runtime)
    except UserError as error:
        pytest.skip(str(error))


def picture(height, width):
    return np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)


@pytest.mark.usefixtures('lenient_promotion')
@pytest.mark.slow
@pytest.mark.parametrize('runtime', ['onnxruntime', 'openvino'])
def test_photos_come_out_as_with_jax(runtime, weights, tmp_path, monkeypatch):
    """By the command line, to one level; in tiles of one shape for a folder. The export is made once, and kept."""
    needs(runtime)
    made = []
    write = export.export
    monkeypatch.setattr(runtimes.export, 'export', lambda *given, **how: made.append(given) or write(*given, **how))
    monkeypatch.setattr(cache, 'folder', lambda: tmp_path)
    (tmp_path / 'in').mkdir()
    images.save(tmp_path / 'in/a.png', picture(97, 131))
    for source in (tmp_path / 'in', tmp_path / 'in/a.png'):
        found = []
        for name in ('jax', runtime):
            output = tmp_path / f'{name}-{source.stem}'
            given = [f'--input={source}', f'--output={output}', f'--weights={weights}', f'--runtime={name}']
            assert main.run(['--mode=derain', *given, '--tile=96']) == 0
            found.append(images.read(output / 'a.png').astype(int))
        assert np.abs(found[1] - found[0]).max() <= 1
        assert np.abs(found[1] - picture(97, 131)).mean() > 1  # and it is no copy
    assert len(made) == 1 and len(list(tmp_path.glob('*.onnx'))) == 1


def test_openvino_reports_its_use_to_nobody():
    """What would do so is not imported."""
    needs('openvino')
    assert sys.modules.get('openvino_telemetry') is None


def say(capsys, *flags):
    """What derain prints to stderr where it fails."""
    assert main.run(['--mode=derain', '--input=a.png', '--output=b', *flags]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_package_that_is_missing_is_named(capsys, monkeypatch):
    """With the extra that brings it."""
    for name in runtimes.RUNTIMES:
        monkeypatch.setitem(sys.modules, name, None)
        assert f"needs {name}: pip install 'qsnet-jax[runtimes]'" in say(capsys, f'--runtime={name}')


def test_what_does_not_go_together_is_refused(capsys):
    """Half precision, and runtimes that are none."""
    assert 'computes in float32; leave --dtype=bfloat16 out' in say(capsys, '--runtime=openvino', '--dtype=bfloat16')
    assert 'tensorrt' in say(capsys, '--runtime=tensorrt')
    with pytest.raises(UserError, match="The runtime is 'jax'; expected one of onnxruntime, openvino"):
        runtimes.load('default', 'jax')


def test_weights_that_are_none_are_named(capsys, tmp_path):
    """Before anything is exported."""
    pytest.importorskip('onnxruntime')
    (tmp_path / 'none.safetensors').write_text('none')
    assert 'not a readable safetensors file' in say(
        capsys, '--runtime=onnxruntime', f'--weights={tmp_path}/none.safetensors'
    )


@pytest.mark.parametrize('kind', [RuntimeError, type('Fail', (Exception,), {})])
def test_what_a_runtime_says_is_one_line(kind):
    """Of memory it is an error of memory, which names the photo and the tile; also of a class that is of no kind."""

    def fail(text):
        def run(rainy):
            raise kind(text)

        return runtimes._guarded('openvino', run)

    with pytest.raises(MemoryError):
        fail('bad_alloc: failed\nto allocate')(picture(4, 4))
    with pytest.raises(UserError, match='openvino cannot run the network: no such kernel. Leave --runtime out'):
        fail('no such\nkernel')(picture(4, 4))


def test_names_of_runtimes_are_those_of_the_flag():
    """Which may not import them."""
    assert main.FLAGS['runtime'].options['enum_values'] == ['jax', *runtimes.RUNTIMES]


def test_the_export_is_of_these_weights(weights, tmp_path, monkeypatch):
    """Other weights, or another exporter, have another file."""
    monkeypatch.setattr(cache, 'folder', lambda: tmp_path)
    first = runtimes._kept(weights)
    assert first.parent == tmp_path and runtimes._kept(weights) == first != runtimes._kept('default')
    assert derain.load(str(weights)).runtime is None


@pytest.fixture
def made(monkeypatch):
    """How often the network was exported, to a file that a runtime takes if it is whole."""
    count = []

    def take(content):
        if content != b'whole':
            raise Exception('INVALID_PROTOBUF')
        return lambda rainy: rainy

    monkeypatch.setattr(runtimes.export, 'export', lambda _, path: count.append(path.write_bytes(b'whole')))
    monkeypatch.setattr(runtimes, 'need', lambda _: None)
    monkeypatch.setattr(runtimes, '_onnxruntime', take)
    return count


@pytest.mark.parametrize('content', [b'', b'half', b'whole'])
def test_a_damaged_export_is_made_anew(weights, tmp_path, monkeypatch, made, content):
    """And takes the other's place, so that the next start finds it; what is whole is taken."""
    monkeypatch.setattr(cache, 'folder', lambda: tmp_path)
    runtimes._kept(weights).write_bytes(content)
    for _ in range(2):
        assert runtimes.load(weights, 'onnxruntime')(picture(4, 4)).shape == (4, 4, 3)
    assert len(made) == (content != b'whole') and runtimes._kept(weights).read_bytes() == b'whole'


@pytest.mark.parametrize('folder', ['/proc/none', None])
def test_nothing_stops_where_no_export_can_be_kept(weights, monkeypatch, made, folder):
    """It is made at every start."""
    monkeypatch.setattr(cache, 'folder', lambda: folder and pathlib.Path(folder))
    for _ in range(2):
        runtimes.load(weights, 'onnxruntime')(picture(4, 4))
    assert len(made) == 2


def test_an_export_that_a_runtime_does_not_take_is_one_line(weights, monkeypatch, made):
    """At the start, before any photo."""
    monkeypatch.setattr(cache, 'folder', lambda: None)
    monkeypatch.setattr(runtimes.export, 'export', lambda _, path: path.write_bytes(b'newer'))
    with pytest.raises(UserError, match='onnxruntime cannot run the network: INVALID_PROTOBUF. Leave --runtime out'):
        runtimes.load(weights, 'onnxruntime')
