"""The program as its users start it: real processes, real files, a real SIGKILL."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from qsnet_jax.weights import files

ROOT = pathlib.Path(__file__).parents[1]
TINY = [
    '--config=configs/quickstart.py',
    '--config.model.channels=12',
    '--config.model.scale_channels=6',
    '--config.model.units=1',
    '--config.data.train=pairs',
    '--config.data.eval=pairs',
    '--config.data.crop=24',
    '--config.data.batch=4',
    '--config.train.steps=60',
    '--config.train.log_every=5',
    '--config.train.eval_every=30',
    '--config.train.checkpoint_every=7',
]


def start(*arguments):
    """A process of the program, as typed into a shell in the project's folder."""
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
    command = [sys.executable, '-m', 'qsnet_jax.main', *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(*arguments):
    """Runs the program to its end -> (exit status, output, errors)."""
    process = start(*arguments)
    output, errors = process.communicate(timeout=1500)
    return process.returncode, output, errors


def logged_step(workdir):
    """Last step in metrics.jsonl, 0 before there is any."""
    path = workdir / 'metrics.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])['step'] if lines else 0


@pytest.fixture(scope='module')
def tiny(pairs_root, tmp_path_factory):
    """Flags of a tiny run, and its undisturbed workdir with what the program printed."""
    flags = [*TINY, f'--config.data.root={pairs_root}']
    workdir = tmp_path_factory.mktemp('runs') / 'whole'
    status, output, errors = run(*flags, f'--workdir={workdir}')
    assert status == 0, errors
    return flags, workdir, output


@pytest.mark.slow
def test_training_ends_with_weights_scores_and_pictures(tiny):
    """One command: a table on the screen, and files that hold what it says."""
    _, workdir, output = tiny
    assert 'psnr rgb' in output and 'pairs' in output
    results = json.loads((workdir / 'eval/pairs/results.json').read_text())
    assert results['count'] == 3
    assert results['provenance']['training']['training_data']['pairs']['count'] == 5
    assert f'{results["rgb"]["psnr"]:.2f}' in output
    scores = files.load_record(workdir / 'weights.safetensors')['scores']['pairs']
    assert scores == {name: results[name] for name in ('count', 'rgb', 'y', 'input')}
    assert (workdir / 'eval/pairs/6.png').exists()


@pytest.mark.slow
def test_a_drive_that_takes_no_checkpoint_is_one_line(tiny, tmp_path):
    """Files of 16 KiB at most stand for a full drive: no trace of Orbax's threads, and the same command goes on."""
    flags, whole, _ = tiny
    command = [sys.executable, '-m', 'qsnet_jax.main', *flags, f'--workdir={tmp_path / "run"}']
    environment = {key: value for key, value in os.environ.items() if key != 'JAX_COMPILATION_CACHE_DIR'}
    limited = ['bash', '-c', 'ulimit -f 16; exec "$@"', 'bash', *command]
    done = subprocess.run(limited, cwd=ROOT, env=environment | {'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert done.returncode == 1 and 'Traceback' not in done.stderr, done.stderr
    assert len(errors) == 1 and f'{tmp_path}/run cannot be written' in errors[0] and 'ulimit -f' in errors[0]
    status, _, errors = run(*command[3:])
    assert status == 0, errors
    expected, found = (load_file(each / 'weights.safetensors') for each in (whole, tmp_path / 'run'))
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


@pytest.mark.slow
def test_killed_at_any_moment_ends_with_the_same_parameters(tiny, tmp_path):
    """SIGKILL between and during checkpoints, started again by the same command: bit-identical weights."""
    flags, whole, _ = tiny
    workdir = tmp_path / 'killed'
    for after in (8, 25):
        process = start(*flags, f'--workdir={workdir}')
        while logged_step(workdir) < after and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, 'the run ended before it was killed'
    status, _, errors = run(*flags, f'--workdir={workdir}')
    assert status == 0, errors
    starts = files.load_record(workdir / 'weights.safetensors')['starts']
    assert starts[0]['step'] == 0 < starts[-1]['step']
    expected, found = (load_file(path / 'weights.safetensors') for path in (whole, workdir))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(value, found[name], err_msg=name)


@pytest.mark.slow
def test_evaluation_of_checkpoint_and_weights_agree_to_the_last_digit(tiny, tmp_path):
    """A fresh process restores either and finds the scores that training ended with."""
    flags, workdir, _ = tiny
    stored = json.loads((workdir / 'eval/pairs/results.json').read_text())
    status, _, errors = run(*flags, '--mode=eval', f'--workdir={workdir}')
    assert status == 0, errors
    restored = json.loads((workdir / 'eval/pairs/results.json').read_text())
    weights = f'--weights={workdir / "weights.safetensors"}'
    status, _, errors = run(*flags, '--config.model.units=3', '--mode=eval', weights, f'--workdir={tmp_path}')
    assert status == 0, errors
    (folder,) = tmp_path.glob('eval-weights-*')  # of these weights alone
    exported = json.loads((folder / 'pairs/results.json').read_text())
    for part in ('count', 'rgb', 'y', 'input', 'scales'):
        assert stored[part] == restored[part] == exported[part]
    assert restored['provenance']['training']['step'] == 60
    assert exported['provenance']['training']['step'] == 60
    assert exported['provenance']['config']['model']['units'] == 1  # of the network that was scored


@pytest.mark.slow
def test_photos_come_out_derained(tiny, pairs_root, tmp_path):
    """derain needs no config; a bad file is reported, the exit status says so, the others come out."""
    _, workdir, _ = tiny
    photos = tmp_path / 'photos'
    photos.mkdir()
    Image.open(pairs_root / 'val/rain-6.png').save(photos / 'a.jpg')
    (photos / 'b.png').write_text('no image')
    weights = f'--weights={workdir / "weights.safetensors"}'
    cache = f'--compilation_cache={tmp_path / "cache"}'
    status, output, _ = run('--mode=derain', f'--input={photos}', f'--output={tmp_path / "out"}', weights, cache)
    assert status == 1
    assert '1 of 2 photos' in output and 'b.png' in output and 'megapixels per second' in output
    assert any((tmp_path / 'cache').iterdir())
    _, output, _ = run('--mode=derain', f'--input={photos}', f'--output={tmp_path / "out"}', weights, cache)
    assert 'done already: 1;' in output
    with Image.open(tmp_path / 'out/a.jpg') as image:
        assert image.size == (56, 48)


def test_a_mistake_ends_in_one_line(tmp_path):
    """The message says what to do, without a traceback, and the exit status is not 0."""
    flags = ('--config=configs/quickstart.py', '--config.data.train=pairs', f'--workdir={tmp_path / "run"}')
    status, _, errors = run(*flags)
    assert status == 1
    assert 'config.data.root' in errors and 'Traceback' not in errors


def test_a_config_that_is_not_there_is_named():
    """With those that are, and status 1."""
    status, _, errors = run('--config=configs/none.py')
    assert status == 1
    assert errors.startswith('error: --config=configs/none.py') and 'quickstart' in errors


@pytest.mark.slow
def test_the_full_size_network_trains_and_restores(tmp_path):
    """configs/qsnet.py: initialised, one step at 2 x 96 x 96, and a 512x512 image restored."""
    code = """
import numpy as np
from qsnet_jax.configs import qsnet
from qsnet_jax import derain
from qsnet_jax.training import parallel, train

config = qsnet.get_config()
state = train.init_state(config)
config.data.update({'batch': 2, 'crop': 96})
generator = np.random.default_rng(0)
mesh = parallel.make_mesh()
images = {name: generator.integers(256, size=(2, 96, 96, 3), dtype=np.uint8) for name in ("rainy", "clean")}
batch = parallel.shard(images, mesh)
before = np.array(state.params['C_1']['conv']['kernel'])
state = parallel.replicate(state, mesh)
state, metrics = train.compile_step(config, state, batch)(state, batch)
assert np.isfinite(float(metrics['total'])) and not np.array_equal(before, state.params['C_1']['conv']['kernel'])
image = generator.integers(256, size=(512, 512, 3), dtype=np.uint8)
assert derain.Derainer(train.export(state), config.model.to_dict())(image).shape == (512, 512, 3)
"""
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True, timeout=1500)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_one_line_of_the_program(tiny, tmp_path):
    """The threads that read it say nothing of their own, and the one before it goes on to the same end."""
    flags, whole, _ = tiny
    workdir = tmp_path / 'hurt'
    shutil.copytree(whole, workdir)
    for path in (workdir / 'checkpoints/60/default/d').iterdir():
        path.write_bytes(b'')
    status, _, errors = run(*flags, f'--workdir={workdir}')
    assert status == 1 and errors.startswith('error: Checkpoint 60 in') and len(errors.splitlines()) == 1
    status, _, errors = run(
        *flags, f'--workdir={workdir}', f'--checkpoint={errors.split("--checkpoint=")[1].split()[0]}'
    )
    assert status == 0, errors
    expected, found = (load_file(path / 'weights.safetensors') for path in (whole, workdir))
    for name, value in expected.items():
        np.testing.assert_array_equal(value, found[name], err_msg=name)


@pytest.mark.slow
def test_the_python_of_the_configs_page_runs(tiny, tmp_path):
    """As printed: own steps, scores, weights that can be read again, and a run's checkpoint."""
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'runs/quickstart').symlink_to(tiny[1])
    page = (ROOT / 'configs/README.md').read_text().partition('## From Python')[2]
    code = '\n'.join(block.partition('```')[0] for block in page.split('```python\n')[1:])
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run([sys.executable, '-c', f'{code}\nprint(settings["units"], record["step"])'], cwd=tmp_path,
                          env=environment, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    scores, restored = done.stdout.splitlines()[-2:]
    assert 5 < float(scores.split()[0]) < 60 and restored.split()[0] == '1' and restored.split()[1] in ('30', '60')
    assert files.load_record(tmp_path / 'mine.safetensors')['note'] == 'mine'
