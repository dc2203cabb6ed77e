"""Other runtimes restore what JAX restores, in tiles too, and what they lack or cannot do is one line."""

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
            output = tmp_path / f'{name}-{source.name}'
            given = [f'--input={source}', f'--output={output}', f'--weights={weights}', f'--runtime={name}']
            assert main.run(['--mode=derain', *given, '--tile=96']) == 0
            found.append(images.read(output / 'a.png').astype(int))
        assert np.abs(found[1] - found[0]).max() <= 1
        assert np.abs(found[1] - picture(97, 131)).mean() > 1  # and it is no copy
    assert len(made) == 1 and made[0][1].parent == tmp_path


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


def test_weights_that_are_none_are_named(capsys, tmp_path):
    """Before anything is exported."""
    pytest.importorskip('onnxruntime')
    (tmp_path / 'none.safetensors').write_text('none')
    assert 'not a readable safetensors file' in say(
        capsys, '--runtime=onnxruntime', f'--weights={tmp_path}/none.safetensors'
    )


def test_what_a_runtime_says_is_one_line():
    """Of memory it is an error of memory, which names the photo and the tile."""

    def fail(text):
        def run(rainy):
            raise RuntimeError(text)

        return runtimes._explained('openvino', run)

    with pytest.raises(MemoryError):
        fail('bad_alloc: failed\nto allocate')(picture(4, 4))
    with pytest.raises(UserError, match='openvino cannot run the network: no such kernel. Leave --runtime out'):
        fail('no such\nkernel')(picture(4, 4))


def test_names_of_runtimes_are_those_of_the_flag():
    """Which may not import them."""
    assert main.FLAGS['runtime'].options['enum_values'] == ['jax', *runtimes.RUNTIMES]


def test_the_export_is_of_these_weights(weights, tmp_path, monkeypatch):
    """Other weights, or another exporter, have another file."""
    monkeypatch.setattr(runtimes.export, 'export', lambda source, path, **_: path.write_text('made'))
    first = runtimes._exported(weights, tmp_path)
    assert runtimes._exported(weights, tmp_path) == first != runtimes._exported('default', tmp_path)
    assert derain.load(str(weights)).runtime is None
