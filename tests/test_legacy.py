"""What was written at commit 7e14d48, before rooms and validation sets, loads, evaluates and goes on."""

import json
import pathlib
import shutil

import jax
import pytest
from ml_collections import config_dict
from qsnet_jax.configs import default

from qsnet_jax import UserError, derain, fields
from qsnet_jax.evidence import rows
from qsnet_jax.training import parallel, study, train
from qsnet_jax.weights import files

pytestmark = pytest.mark.usefixtures('lenient_promotion')
LEGACY = pathlib.Path(__file__).parent / 'legacy'


@pytest.fixture
def config():
    """The same command as then, with the pairs where they lie now."""
    config = default.get_config()
    config.model.update({'channels': 12, 'units': 1, 'scale_channels': 6, 'rates': (1,)})
    config.data.update({'train': 'pairs', 'eval': 'pairs', 'root': str(LEGACY / 'data'), 'crop': 16, 'batch': 2})
    config.train.update({'steps': 4, 'schedule': 'constant', 'log_every': 1, 'eval_every': 2, 'eval_images': 1})
    config.train.update({'checkpoint_every': 2, 'keep': 1})
    return config


@pytest.fixture
def workdir(tmp_path):
    """A copy of the run, to write to."""
    return pathlib.Path(shutil.copytree(LEGACY / 'run', tmp_path / 'run'))


def restore(config, folder, which='latest'):
    """The scores of a checkpoint or of weights."""
    return study.evaluate_stored(config, folder, None, which, derain.Derainer)['pairs']


def test_the_run_goes_on(config, workdir, capsys, monkeypatch):
    """By the same command, as the network and with the sets that it had then; that is what is scored and written."""
    assert 'validation' not in json.loads((workdir / 'config.json').read_text())['data']
    mesh = parallel.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(parallel, 'make_mesh', lambda: mesh)
    scored = study.run(config, workdir)['pairs']['provenance']
    record, (_, settings) = (read(workdir / 'weights.safetensors') for read in (files.load_record, files.load_weights))
    assert settings['share_scales'] == scored['config']['model']['share_scales'] == 'all'  # today's default is another
    assert record['step'] == 4 and [start['step'] for start in record['starts']] == [0, 2]
    assert record['training_data']['pairs']['count'] == 3  # nothing is held out of them
    assert list(record['validation_data']) == ['pairs']
    assert 'data.validation=pairs' in capsys.readouterr().out
    config.data.validation = 'drawn_light'
    config.data.batch = 4
    with pytest.raises(
        UserError, match="data.batch is 2 there and 4 here; data.validation is 'pairs' there and 'drawn_light' here"
    ):
        train.train(config, workdir)


def test_the_run_evaluates(config, workdir, capsys):
    """As well as it resumes; `best` of it was chosen on what is scored, and the row says so."""
    latest = restore(config, workdir)
    assert 'checkpoint 2 of 4 steps' in capsys.readouterr().out.splitlines()
    assert 'selected_on' not in latest['provenance'] and latest['provenance']['training']['step'] == 2
    best = restore(config, workdir, 'best')
    assert best['rgb'] == latest['rgb'] and best['provenance']['selected_on'] == ['pairs']
    assert (workdir / 'eval-best/pairs/results.json').exists()


def test_the_weights_score_what_their_row_says(config, tmp_path):
    """To the digit that is printed, in a folder of their own."""
    path = LEGACY / 'weights.safetensors'
    results = study.evaluate_stored(config, tmp_path, str(path), 'latest', derain.Derainer)
    row = json.loads((LEGACY / 'rows/tiny-paper-0.json').read_text())
    assert results['pairs']['rgb']['psnr'] == pytest.approx(row['sets']['pairs']['rgb']['psnr'], abs=5e-3)
    assert files.load_record(path)['step'] == 2
    assert [folder.name.rpartition('-')[0] for folder in tmp_path.iterdir()] == ['eval-weights']


def test_the_row_counts(config, tmp_path):
    """The report reads it, and its study takes it for done, as long as the images are the same."""
    shutil.copytree(LEGACY / 'rows', tmp_path / 'rows')
    assert [row['kind'] for row in rows.load(tmp_path)] == ['study']
    config.train.steps = 2
    config.study = config_dict.ConfigDict({'size': 'tiny', 'seeds': (0,)})
    config.study.variants = config_dict.ConfigDict({'paper': {}}, sort_keys=False)
    with pytest.raises(UserError, match="share_scales is 'all' there and 'features' here"):
        study.is_done(config, 'paper', 0, tmp_path)  # today's default is another network
    config.model.share_scales = 'all'
    assert study.is_done(config, 'paper', 0, tmp_path)
    shutil.copytree(LEGACY / 'data', tmp_path / 'data')
    shutil.copy(LEGACY / 'data/train/rain-0.png', tmp_path / 'data/train/rain-1.png')
    config.data.root = str(tmp_path / 'data')
    with pytest.raises(UserError, match='of other images of training set pairs'):
        study.is_done(config, 'paper', 0, tmp_path)
    (tmp_path / 'rows/tiny-paper-0.json').write_text('{')
    assert not study.is_done(config, 'paper', 0, tmp_path)


def test_a_stored_config_is_completed():
    """Fields that it lacks are as they were done then, or as their default."""
    stored = json.loads((LEGACY / 'run/config.json').read_text())
    completed = fields.complete(stored)
    assert completed['data']['validation'] == 'pairs' and completed['data']['validation_share'] == 0.05
    assert not fields.differences(stored, completed)
