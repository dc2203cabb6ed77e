"""Weights files: whoever holds one can rebuild the network; wrong ones are refused in words."""

import errno
import json
import os
import pathlib
import re

import flax
import jax
import numpy as np
import pytest
import safetensors.numpy
from qsnet_jax.configs import release

from qsnet_jax import UserError, model
from qsnet_jax.weights import files, reading, torch_files

SETTINGS = {
    'channels': 12, 'groups': 3, 'units': 1, 'scale_channels': 6, 'rates': [1, 2], 'encoder_stride': 1,
    'norm': 'batch', 'share_groups': True, 'share_scales': 'features', 'decoder_groups': None,
    'dtype': 'float32',
}  # fmt: skip

ZERO_GROUPS = json.dumps({**SETTINGS, 'groups': 0})


@pytest.fixture(scope='module')
def variables():
    return model.initialize(model.from_config(SETTINGS), seed=0)


@pytest.fixture
def path(variables, tmp_path):
    files.save_weights(tmp_path / 'w.safetensors', variables, SETTINGS, {'commit': 'abc'})
    return tmp_path / 'w.safetensors'


def rewrite(path, change=None, metadata=None):
    """The file with some tensors or metadata changed."""
    with safetensors.safe_open(path, framework='numpy') as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        kept = file.metadata()
    (change or (lambda _: None))(tensors)
    safetensors.numpy.save_file(tensors, path, metadata={**kept, **(metadata or {})})


def test_round_trip_is_exact(variables, path):
    """Variables, settings and record come back as they went in."""
    found, settings = files.load_weights(path)
    assert settings.keys() >= SETTINGS.keys() and model.from_config(settings) == model.from_config(SETTINGS)
    assert files.load_record(path) == {'commit': 'abc'}
    first, second = (flax.traverse_util.flatten_dict(tree, sep='/') for tree in (variables, found))
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


@pytest.mark.parametrize(
    'laid_out',
    [
        np.asfortranarray,
        lambda value: np.ascontiguousarray(value.T).T,  # as a kernel of another framework
        lambda value: np.ascontiguousarray(value[::-1])[::-1],
        lambda value: np.broadcast_to(value.ravel()[:1], value.shape),
        lambda value: value.astype(value.dtype.newbyteorder()),
        jax.numpy.asarray,
    ],
    ids=['columns', 'transposed', 'reversed', 'broadcast', 'bytes', 'jax'],
)
@pytest.mark.parametrize('module', [files, torch_files])
def test_values_are_written_however_they_lie_in_memory(variables, tmp_path, laid_out, module):
    """Views and other byte orders, in files of both kinds."""
    given = jax.tree.map(lambda value: laid_out(np.asarray(value)), variables)
    module.save_weights(tmp_path / 'w.safetensors', given, SETTINGS)
    found, _ = files.load_weights(tmp_path / 'w.safetensors')
    jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(np.asarray, given))


@pytest.mark.parametrize('module', [files, torch_files])
def test_what_is_no_place_for_a_file_is_refused(variables, tmp_path, module):
    """No path, a folder, and the ending of another kind of file, before anything is written."""
    for nothing in (None, '', 'a\0b'):
        with pytest.raises(UserError, match=re.escape(f'{nothing!r} names no file; expected a path')):
            module.save_weights(nothing, variables, SETTINGS)
    with pytest.raises(UserError, match='is a folder; name a file in it'):
        module.save_weights(tmp_path, variables, SETTINGS)
    with pytest.raises(UserError, match=r'w\.(pth|bin) .*\.safetensors'):
        module.save_weights(tmp_path / ('w.pth' if module is files else 'w.bin'), variables, SETTINGS)
    assert not list(tmp_path.iterdir())


def test_the_file_alone_rebuilds_the_network(variables, path):
    """A network made from the stored settings computes what the original did."""
    found, settings = files.load_weights(path)
    images = jax.random.uniform(jax.random.key(1), (1, 9, 7, 3))
    expected = model.from_config(SETTINGS).apply(variables, images)
    np.testing.assert_array_equal(model.from_config(settings).apply(found, images).rain, expected.rain)


SAVERS = pytest.mark.parametrize('save', [files.save_weights, torch_files.save_weights], ids=['ours', 'torch'])


@SAVERS
def test_settings_that_are_not_given_are_stored_too(save, tmp_path):
    """Also where the network that they come from was computed in some other way."""
    given = {'channels': 12, 'units': 1, 'scale_channels': 6, 'form': 'plain', 'remat': True}
    network = model.from_config(given)
    save(tmp_path / 'w.safetensors', model.initialize(network, 0), given)
    found, settings = files.load_weights(tmp_path / 'w.safetensors')
    assert settings == {**model.defaults(), 'channels': 12, 'units': 1, 'scale_channels': 6}
    assert jax.tree.structure(found) == jax.tree.structure(model.initialize(network, 0))


@SAVERS
@pytest.mark.parametrize(
    ('change', 'settings', 'text'),
    [
        ({'bias': np.full(3, np.nan, np.float32)}, {}, 'it holds values that are not finite: '),
        ({'bias': np.zeros(4, np.float32)}, {}, r'is \(4,\), expected \(3,\)'),
        ({'bias': np.zeros(3, np.int32)}, {}, '1 not floating .*int32'),
        ({'other': np.zeros(3, np.float32)}, {}, '1 extra: .*main.rain.other'),
        ({}, {'scale_channels': 12}, 'cannot be written: it does not fit the network'),
        ({}, {'groups': 0}, 'cannot be written: it has settings of which no network'),
        ({}, {'parent': None}, 'no setting parent'),
    ],
    ids=str,
)
def test_what_would_be_refused_is_not_written(variables, save, change, settings, text, tmp_path):
    """The savers say what the reader would say, before there is a file."""
    flat = flax.traverse_util.flatten_dict(variables)
    flat |= {('params', 'main', 'rain', name): value for name, value in change.items()}
    with pytest.raises(UserError, match=text):
        save(tmp_path / 'w.safetensors', flax.traverse_util.unflatten_dict(flat), {**SETTINGS, **settings})
    assert not list(tmp_path.iterdir())


@SAVERS
def test_prepared_weights_are_not_written(variables, save, tmp_path):
    """They are of one device's form, and no file's."""
    with pytest.raises(UserError, match='hold prepared; expected params and batch_stats alone'):
        save(tmp_path / 'w.safetensors', {**variables, 'prepared': {'stem_1': ((), np.zeros(3))}}, SETTINGS)
    with pytest.raises(UserError, match='variables are NoneType; expected'):
        save(tmp_path / 'w.safetensors', None, SETTINGS)


def test_missing_extra_and_wrong_shapes_are_named(path):
    """All three kinds in one message."""

    def change(tensors):
        tensors['params/other'] = tensors.pop('params/C_1/conv/kernel')
        tensors['params/main/rain/bias'] = np.zeros(4, np.float32)

    rewrite(path, change)
    with pytest.raises(UserError) as error:
        files.load_weights(path)
    for text in ('1 missing: params/C_1/conv/kernel', '1 extra: params/other', 'is (4,), expected (3,)'):
        assert text in str(error.value)


def test_values_that_are_not_finite_are_refused(path):
    """A network of NaN would spoil every photo."""
    rewrite(path, lambda tensors: tensors['params/main/rain/bias'].__setitem__(0, np.nan))
    with pytest.raises(UserError, match='not finite: params/main/rain/bias'):
        files.load_weights(path)


def test_settings_that_do_not_fit_the_tensors_are_refused(path):
    """A file that claims another width."""
    rewrite(path, metadata={'settings': json.dumps({**SETTINGS, 'scale_channels': 12})})
    with pytest.raises(UserError, match='wrong shape'):
        files.load_weights(path)


@pytest.mark.parametrize(
    'settings', ['{', '{"channels": 12}', '[]', '{"channels": 13, "rates": [1]}', '{"rates": 3}', ZERO_GROUPS]
)
def test_settings_without_sense_are_refused(path, settings):
    """Metadata from strangers ends in a clear error."""
    rewrite(path, metadata={'settings': settings})
    with pytest.raises(UserError, match='settings'):
        files.load_weights(path)


def test_foreign_and_broken_files_are_refused(path, tmp_path):
    """Other safetensors, truncated files, text, folders and nothing at all."""
    rewrite(path, metadata={'format': 'pt'})
    with pytest.raises(UserError, match="format is 'pt'"):
        files.load_weights(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match='not a readable'):
        files.load_weights(path)
    path.write_text('text')
    with pytest.raises(UserError, match='not a readable'):
        files.load_weights(path)
    with pytest.raises(UserError, match='does not exist'):
        files.load_weights(tmp_path / 'none.safetensors')
    with pytest.raises(UserError):
        files.load_weights(tmp_path)


def test_a_failed_write_leaves_the_old_file(variables, path, monkeypatch):
    """Weights are whole or absent under their name."""
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(pathlib.Path, 'replace', fail)
    with pytest.raises(UserError, match='No space left'):
        files.save_weights(path, variables, SETTINGS)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_weights_of_the_package_have_names(tmp_path, monkeypatch):
    """'default' is the package's; a file of that name, or anything that looks like a path, is taken as it is."""
    assert files.find_weights('default') == files.INCLUDED / 'default.safetensors'
    assert files.find_weights('other').name == 'other'
    assert files.find_weights('runs/default').parts == ('runs', 'default')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'light').mkdir()
    (tmp_path / 'default').touch()
    assert files.find_weights('default') == pathlib.Path('default')
    with pytest.raises(UserError, match=r'name of those in the package \(there are default, '):
        files.load_weights('nothing')


def test_files_with_a_dot_in_front_are_no_weights(tmp_path, monkeypatch):
    """As a Mac's copies bring them along."""
    for name in ('mine', '._mine'):
        (tmp_path / f'{name}.safetensors').touch()
    monkeypatch.setattr(reading, 'INCLUDED', tmp_path)
    assert files.names() == ['mine']


@pytest.mark.parametrize('path', sorted(files.INCLUDED.glob('*.safetensors')), ids=lambda path: path.name)
def test_the_weights_that_come_with_the_package_say_what_they_are(path):
    """Small, made from a clean commit, with settings, fingerprints of what they were trained on, scores and licence."""
    assert path.stat().st_size < 8e6
    record = files.load_record(path)
    assert not any(start['commit'].endswith('+changes') for start in record['starts'])
    assert 'Apache-2.0' in record['config']['note'] and record['config']['model']['channels']
    assert all(len(each['sha256']) == 64 for each in record['training_data'].values())
    general, _, kind = path.stem.rpartition('-')  # a specialist of `narrow` is held against `narrow`
    purpose = {'light': 'layers/RainTrainL', 'heavy': 'layers/RainTrainL+RainTrainH'}.get(kind)
    for name in [purpose] if purpose else record['config']['data']['eval'].split(','):
        each = record['scores'][name]
        assert each['y']['ssim'] > each['input']['y']['ssim']
        if name.startswith('layers'):  # Rain800 also changes the brightness of the whole photo
            assert each['y']['psnr'] > each['input']['y']['psnr'] + 5
        if purpose:
            of_general = files.load_record(general or 'default')['scores'][name]
            assert all(each[protocol]['psnr'] > of_general[protocol]['psnr'] for protocol in ('rgb', 'y'))


def test_a_link_to_nowhere_and_the_folder_of_a_run_are_told(variables, tmp_path):
    """As such, with what was meant."""
    (tmp_path / 'link.safetensors').symlink_to('gone.safetensors')
    with pytest.raises(UserError, match='link.safetensors is a link to gone.safetensors, which is not there'):
        files.load_weights(tmp_path / 'link.safetensors')
    files.save_weights(tmp_path / 'run/weights.safetensors', variables, SETTINGS)
    with pytest.raises(UserError, match='run is a folder; expected a weights file, as .*run/weights.safetensors'):
        files.load_weights(tmp_path / 'run')


@pytest.mark.parametrize('name', ['w.safetensors', 'w.pth'])
def test_a_file_that_may_not_be_read_is_no_damaged_one(tmp_path, monkeypatch, name):
    """It is said that permission is missing, and how to take it."""

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (tmp_path / name).write_bytes(b'x' * 99)
    monkeypatch.setattr('zipfile.io.open', refuse)
    monkeypatch.setattr(pathlib.Path, 'open', refuse)
    with pytest.raises(UserError, match='cannot be opened: Permission denied. Take the rights to read it'):
        files.load_weights(tmp_path / name)


@pytest.mark.parametrize('path', sorted(files.INCLUDED.glob('*.safetensors')), ids=lambda path: path.name)
def test_the_weights_that_come_with_the_package_can_be_trained_on(path):
    """Each with the config that WEIGHTS.md names for fine-tuning."""
    config = release.get_config('cpu-default' if path.stem.startswith('narrow') else 'wide-default')
    assert model.from_config(files.load_weights(path)[1]) == model.from_config(config.model)
