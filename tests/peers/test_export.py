"""Exported weights restore what JAX restores, in programs that know nothing of this package."""

import contextlib
import errno
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pytest

from qsnet_jax import UserError, derain, main, model, weights
from qsnet_jax.peers import export
from qsnet_jax.weights import files

SETTINGS = {
    'channels': 12, 'groups': 3, 'units': 1, 'scale_channels': 6, 'rates': [1, 2], 'encoder_stride': 1,
    'norm': 'batch', 'share_groups': True, 'share_scales': True, 'dtype': 'float32',
}  # fmt: skip
RECORD = {'commit': 'abc', 'config': {'note': 'Free for all'}, 'scores': {'set': {'rgb': {'psnr': 30.5}}}}
EXAMPLES = {'.onnx': ('jax', 'flax', 'torch', 'qsnet_jax'), '.stablehlo': ('flax', 'torch', 'qsnet_jax')}
slow = pytest.mark.slow


def needs(suffix):
    """Skips where the packages for a format are not installed."""
    for name in {'.onnx': ('torch', 'onnx', 'onnxscript', 'onnxruntime'), '.stablehlo': ('flatbuffers',)}.get(
        suffix, ('torch',)
    ):
        pytest.importorskip(name)


def save(folder, **changes):
    """A file of weights whose statistics, too, are not where they start."""
    settings = {**SETTINGS, **changes}
    generator = np.random.default_rng(0)
    variables = model.initialize(model.from_config(settings), seed=0)
    for statistics in jax.tree.leaves(variables['batch_stats']):
        statistics[:] = generator.uniform(0.5, 1, statistics.shape)
    variables['params']['main']['rain']['bias'][:] = 0.02
    files.save_weights(folder / 'weights.safetensors', variables, settings, RECORD)
    return folder / 'weights.safetensors'


def picture(batch, height, width):
    return np.random.default_rng(1).integers(256, size=(batch, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A function that exports each kind of network to each format once: (weights, exported file, what was printed)."""
    made = {}

    def get(suffix, **changes):
        needs(suffix)
        key = (suffix, *changes.items())
        if key not in made:
            folder = tmp_path_factory.mktemp('export')
            source, path = save(folder, **changes), folder / 'new' / f'default{suffix}'
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                export.run(str(source), str(path))
            made[key] = source, path, printed.getvalue()
        return made[key]

    return get


CASES = [
    pytest.param('.onnx', {'encoder_stride': 2}, id='onnx, stride 2', marks=slow),
    pytest.param('.onnx', {'norm': 'instance'}, id='onnx, instance', marks=slow),
    pytest.param('.onnx', {'encoder_stride': 4, 'norm': 'none', 'share_groups': False}, id='onnx, no norm', marks=slow),
    pytest.param('.onnx', {'dtype': 'bfloat16'}, id='onnx, bfloat16', marks=slow),
    pytest.param('.stablehlo', {'encoder_stride': 2}, id='stablehlo, stride 2'),
    pytest.param('.stablehlo', {'encoder_stride': 4, 'norm': 'instance'}, id='stablehlo, stride 4', marks=slow),
]


@pytest.mark.parametrize(('suffix', 'changes'), CASES)
def test_exports_restore_what_jax_restores(suffix, changes, exported, lenient_promotion):
    """Any size, odd ones, one pixel and several images at once: at most 1 level."""
    source, path, printed = exported(suffix, **changes)
    assert re.search(r'largest difference from JAX: [01] of 255 levels \(5x7: [01], .*75x101: [01]\)\n$', printed)
    restore = {'.onnx': export._run_onnx, '.stablehlo': export._run_stablehlo}[suffix](path)
    read = export._read(source)
    for shape in ((2, 33, 64), (1, 64, 32), *([(1, 1, 1), (1, 2, 9), (3, 3, 4)] if suffix == '.onnx' else [])):
        rainy = picture(*shape)
        restored = restore(rainy)
        assert restored.dtype == np.uint8 and restored.shape == rainy.shape
        expected = np.stack([export.restore_in_jax(read, image) for image in rainy])
        assert np.abs(restored.astype(int) - expected).max() <= 1
        assert np.abs(restored.astype(int) - rainy).mean() > 1  # and it is no copy


@pytest.mark.parametrize(
    ('suffix', 'changes'),
    [('.pth', {'encoder_stride': 2}), pytest.param('.safetensors', {'norm': 'instance'}, marks=slow)],
)
def test_state_dicts_are_the_weights_to_the_bit(suffix, changes, exported, lenient_promotion):
    """With settings, record and licence."""
    source, path, printed = exported(suffix, **changes)
    assert 'largest difference from JAX: ' in printed
    found, settings = files.load_weights(path)
    for ours, theirs in zip(*map(jax.tree.leaves, (files.load_weights(source)[0], found)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert model.from_config(settings) == model.from_config({**SETTINGS, **changes})
    assert files.load_record(path) == {**RECORD, 'licence': 'Free for all'}


def check_description(found):
    """Licence, settings, scores and commit are told."""
    assert found['licence'] == 'Free for all' and found['commit'] == 'abc'
    assert json.loads(found['settings'])['channels'] == 12
    assert json.loads(found['scores']) == RECORD['scores']


@slow
def test_onnx_says_what_it_is(exported):
    """The stated opset, axes with names, metadata, and no trace of the machine."""
    _, path, printed = exported('.onnx', encoder_stride=2)
    import onnx

    assert f'ONNX, opset {export.OPSET}' in printed
    made = onnx.load(path)
    check_description({each.key: each.value for each in made.metadata_props})
    assert [(each.domain, each.version) for each in made.opset_import] == [('', export.OPSET)]
    for each in (made.graph.input[0], made.graph.output[0]):
        axes = each.type.tensor_type.shape.dim
        assert [axis.dim_param or axis.dim_value for axis in axes] == ['batch', 'height', 'width', 3]
    content = path.read_bytes()
    assert b'.py' not in content and str(pathlib.Path.home()).encode() + b'/' not in content


def test_stablehlo_says_what_it_is(exported):
    """Both platforms, symbols for sizes, and metadata beside it."""
    _, path, _ = exported('.stablehlo', encoder_stride=2)
    found = export.jax_export.deserialize(bytearray(path.read_bytes()))
    assert found.platforms == ('cpu', 'cuda')
    assert str(found.in_avals[0].shape) == '(b, h, w, 3)'
    about = json.loads(path.with_name('default.stablehlo.json').read_text())
    check_description(about)
    assert '5 pixels or more in height and width' in about['interface']
    with pytest.raises(ValueError, match='refining shapes'):
        found.call(picture(1, 4, 9))
    assert found.call(picture(1, 5, 9)).shape == (1, 5, 9, 3)


def test_the_page_says_how_wide_margins_of_tiles_are():
    """What who cuts tiles throws away, at each side and of two neighbours together; and how scales exchange."""
    page = (files.INCLUDED / 'WEIGHTS.md').read_text()
    for name in ('default', 'narrow', 'light', 'heavy', 'narrow-light', 'narrow-heavy'):
        network = derain.load(name).network
        radius = model.receptive_radius(network)
        assert f'depends on {radius} pixels to each side' in page.replace('\n', ' ')
        assert f'overlap by {2 * radius} pixels' in page.replace('\n', ' ')
        assert f"`share_scales='{network.share_scales}'`" in page


@slow
def test_an_export_that_differs_is_not_written(tmp_path, monkeypatch):
    """An image that is continued in another way differs near its edges; the old file stays."""
    needs('.stablehlo')
    path = tmp_path / 'out.stablehlo'
    path.write_text('old')
    monkeypatch.setattr(export, '_mirrored', lambda extent, stride: export.jnp.zeros(extent, int))
    with pytest.raises(UserError, match='would differ from JAX by .* nothing was written'):
        export.export(save(tmp_path), path, overwrite=True)
    assert path.read_text() == 'old' and not path.with_name('out.stablehlo.json').exists()


def test_what_cannot_be_exported_is_refused_at_once(tmp_path, monkeypatch):
    """Other extensions, folders, the weights themselves, weights that are not there, packages that are missing."""
    source = save(tmp_path)
    monkeypatch.setattr(export, 'compare', lambda *_: pytest.fail('computed'))
    for output in ('out', 'out.tflite', '', str(tmp_path)):
        with pytest.raises(UserError, match='must end in .onnx, .stablehlo'):
            export.run(str(source), output)
    (tmp_path / 'folder.onnx').mkdir()
    for output in (tmp_path / 'folder.onnx', source):
        with pytest.raises(UserError, match='name another file'):
            export.run(str(source), str(output))
    with pytest.raises(UserError, match='does not exist'):
        export.run(str(tmp_path / 'none.safetensors'), str(tmp_path / 'out.onnx'))
    for names, suffix in ((('onnx', 'onnxruntime'), '.onnx'), (('flatbuffers',), '.stablehlo')):
        with monkeypatch.context() as patch:
            for name in names:
                patch.setitem(sys.modules, name, None)
            with pytest.raises(UserError, match=rf"needs {', '.join(names)}: pip install 'qsnet-jax\[export\]'.$"):
                export.run(str(source), str(tmp_path / f'out{suffix}'))


@pytest.mark.parametrize('name', ['out.pth', 'out.safetensors', 'out.onnx', 'out.stablehlo', 'out.stablehlo.json'])
def test_what_is_there_is_replaced_only_when_asked_for(tmp_path, monkeypatch, capsys, name):
    """Other trained weights among them; the weights that are exported not even then."""
    source, path = save(tmp_path), tmp_path / name
    path.write_text('old')
    monkeypatch.setattr(export, '_need_all', lambda _: None)
    monkeypatch.setattr(export, '_read', lambda _: pytest.fail('read'))
    given = ['--mode=export', f'--weights={source}', f'--output={path.with_name(name.removesuffix(".json"))}']
    assert main.run(given) == 1
    assert f'{path} is there already and would be replaced. Name another --output, or give' in capsys.readouterr().err
    assert path.read_text() == 'old'
    with pytest.raises(pytest.fail.Exception, match='read'):
        main.run([*given, '--overwrite'])
    assert main.run(['--mode=export', f'--weights={source}', f'--output={source}', '--overwrite']) == 1
    assert 'the weights themselves' in capsys.readouterr().err


def test_a_drive_that_takes_nothing_is_met_before_anything_is_computed(tmp_path, monkeypatch, capsys):
    """As one that is read-only or full."""
    source = save(tmp_path)

    def fail(self, content):
        raise OSError(errno.EROFS, 'Read-only file system')

    monkeypatch.setattr(pathlib.Path, 'write_bytes', fail)
    monkeypatch.setattr(export, '_read', lambda _: pytest.fail('read'))
    assert main.run(['--mode=export', f'--weights={source}', f'--output={tmp_path / "x.safetensors"}']) == 1
    assert 'cannot be written: Read-only file system' in capsys.readouterr().err


def test_a_full_folder_of_temporary_files_is_named(tmp_path, monkeypatch, capsys):
    """Not that of the output, in which there may be room."""
    pytest.importorskip('torch')
    source = save(tmp_path)

    def fail(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(export, '_write_torch', fail)
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'small'))
    (tmp_path / 'small').mkdir()
    assert main.run(['--mode=export', f'--weights={source}', f'--output={tmp_path / "x.safetensors"}']) == 1
    fault = capsys.readouterr().err
    assert fault.startswith(f'error: {tmp_path}/small cannot be written: ') and 'TMPDIR' in fault
    assert not (tmp_path / 'x.safetensors').exists()


def test_a_folder_that_fills_up_is_named(tmp_path, monkeypatch, capsys):
    """That of the output, once all that was tried in the other is right."""
    pytest.importorskip('torch')
    source = save(tmp_path)
    real = export.storage.write_bytes

    def write(path, content):
        if path.parent == tmp_path:
            raise OSError(errno.ENOSPC, 'No space left on device')
        real(path, content)

    monkeypatch.setattr(export.storage, 'write_bytes', write)
    assert main.run(['--mode=export', f'--weights={source}', f'--output={tmp_path / "x.safetensors"}']) == 1
    assert capsys.readouterr().err.startswith(f'error: {tmp_path} cannot be written: ')


def example(suffix):
    """The example that WEIGHTS.md gives for a format."""
    text = (pathlib.Path(weights.__file__).parent / 'WEIGHTS.md').read_text().split('## Use elsewhere')[1]
    found = [code for code in re.findall(r'```python\n(.*?)```', text, re.DOTALL) if f"'default{suffix}'" in code]
    assert len(found) == 1
    return found[0]


@slow
@pytest.mark.parametrize('suffix', [pytest.param('.onnx', marks=slow), '.stablehlo', '.pth'])
def test_the_examples_run_without_this_package(suffix, exported, tmp_path, lenient_promotion):
    """As printed, in a process that can import neither this package nor the others; the twin's with it."""
    source, path, _ = exported(suffix, encoder_stride=2)
    shutil.copy(path, tmp_path)
    rainy = picture(1, 75, 101)
    np.save(tmp_path / 'rainy.npy', rainy)
    code, count = re.subn(r'^rainy = .*$', "rainy = np.load('rainy.npy')", example(suffix), flags=re.MULTILINE)
    assert count == 1
    blocked = EXAMPLES.get(suffix, ())
    block = f'import sys\nfor name in {blocked}: sys.modules[name] = None\n'
    program = f'{block}{code}\nnp.save("restored.npy", restored)\n'
    root = {'PYTHONPATH': str(pathlib.Path(weights.__file__).parents[2])}
    command = [sys.executable, '-c', program]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = export.restore_in_jax(export._read(source), rainy[0])
    assert np.abs(np.load(tmp_path / 'restored.npy')[0].astype(int) - expected).max() <= 1


@slow
def test_a_home_folder_is_found(tmp_path, monkeypatch, capsys):
    """~ of a shell that leaves it in --output=~/FILE."""
    needs('.safetensors')
    monkeypatch.setenv('HOME', str(tmp_path))
    export.run(str(save(tmp_path)), '~/out.safetensors')
    assert (tmp_path / 'out.safetensors').is_file()
    assert f'{tmp_path}/out.safetensors: ' in capsys.readouterr().out
