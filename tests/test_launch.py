"""Launchers, and several processes as one."""

import importlib.util
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from qsnet_jax import UserError
from qsnet_jax.training import parallel

ROOT = pathlib.Path(__file__).parents[1]
TINY = (
    *('--config.model.channels=12', '--config.model.units=1', '--config.model.scale_channels=6'),
    *('--config.train.steps=4', '--config.train.eval_every=2', '--config.train.eval_images=1'),
    *('--config.train.checkpoint_every=2', '--config.data.crop=24', '--config.data.train=pairs'),
    '--config.data.eval=pairs',
)


def start(*command, **environment):
    variables = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT), **environment}
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def finish(process):
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return output


def scores(folder):
    """What the rows of a folder say, without times."""
    found = {}
    for path in sorted((folder / 'rows').glob('*.json')):
        row = json.loads(path.read_text())
        for each in row['sets'].values():
            del each['evaluation_seconds']
        for line in row['curve']:
            del line['seconds']
        found[path.name] = (row['sets'], row['curve'], row['provenance']['config'])
    return found


@pytest.mark.parametrize('text', ['here', 'host:1', 'host:1,2', 'host:1,two,0', 'host,2,0', 'host:1,2,0,0'])
def test_processes_that_are_not_understood(text):
    """--distributed says what it expects."""
    with pytest.raises(UserError, match='HOST:PORT,PROCESSES,INDEX'):
        parallel.start(text)


def test_one_process_agrees_with_itself():
    """A signal counts at once where nobody else must be asked."""
    assert parallel.agree(15, is_time=False) == 15 and parallel.agree(0, is_time=True) == 0


@pytest.mark.slow
def test_two_processes_train_as_one(pairs_root, tmp_path):
    """The same parameters, in double precision up to the order of sums: 1e-10, where single steps are 1e-3."""
    arguments = ['-m', 'qsnet_jax.main', '--config=configs/quickstart.py', *TINY, f'--config.data.root={pairs_root}',
                 '--config.model.dtype=float64']  # fmt: skip
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    pair = [
        start(*arguments, f'--workdir={tmp_path}/pair', f'--distributed=localhost:{port},2,{index}', JAX_ENABLE_X64='1')
        for index in range(2)
    ]
    outputs = [finish(process) for process in pair]
    finish(start(*arguments, f'--workdir={tmp_path}/one', JAX_ENABLE_X64='1'))
    assert 'scores and pictures' in outputs[0] and 'scores and pictures' not in outputs[1]
    first, second = (load_file(tmp_path / name / 'weights.safetensors') for name in ('pair', 'one'))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-10), first, second)
    logs = [[json.loads(line) for line in (tmp_path / name / 'metrics.jsonl').read_text().splitlines()]
            for name in ('pair', 'one')]  # fmt: skip
    assert [line['step'] for line in logs[0]] == [line['step'] for line in logs[1]]  # written once


@pytest.fixture
def slurm():
    pytest.importorskip('submitit', reason='the extra [slurm] is not installed')
    return ['launch/slurm.py', '--config=configs/losses.py:small', *TINY]


def test_a_dry_run_prints_what_would_be_submitted(slurm, tmp_path):
    """Resources, and a command per variant and seed, with one process per GPU where there are several."""
    flags = ('--partition=gpu', '--nodes=2', '--gpus=4', '--hours=3', '--dry_run', f'--results={tmp_path}')
    lines = finish(start(*slurm, *flags)).splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith('12 tasks'))
    for expected in ("'nodes': 2", "'tasks_per_node': 4", "'slurm_gres': 'gpu:4'", "'timeout_min': 180", "'gpu'"):
        assert expected in lines[head]
    assert len(lines[head + 1 :]) == 12
    assert '--only=V1' in lines[head + 2] and '--distributed=auto' in lines[head + 2]
    status = subprocess.run(
        [sys.executable, *slurm, '--dry_run', '--gpus', '4'], cwd=ROOT, capture_output=True, text=True
    )
    assert status.returncode == 1 and 'flags as --name=value' in status.stderr  # the jobs would get a loose 4
    assert '--partition' not in lines[head + 2] and "'--config.study.seeds=(0,)'" in lines[head + 2]


@pytest.mark.slow
def test_jobs_end_in_the_rows_of_the_study(slurm, pairs_root, tmp_path):
    """Two runs through submitit's local executor, and the same two by --mode=study."""
    common = ['--config.study.seeds=(0,)', f'--config.data.root={pairs_root}']
    common.append('--only=paper,V1')
    finish(start('-m', 'qsnet_jax.main', '--mode=study', *slurm[1:], *common, f'--workdir={tmp_path}/a',
                 f'--results={tmp_path}/a'))  # fmt: skip
    output = finish(start(*slurm, *common, '--local', '--gpus=0', f'--logs={tmp_path}/logs',
                          f'--workdir={tmp_path}/b', f'--results={tmp_path}/b'))  # fmt: skip
    assert output.count('done') == 2
    assert scores(tmp_path / 'a') == scores(tmp_path / 'b') and len(scores(tmp_path / 'a')) == 2


def test_a_task_that_must_go_saves_itself_and_is_queued_again(slurm, tmp_path):
    """What Slurm's signal leads to: SIGTERM for the study, which may finish saving, and the same command again."""
    spec = importlib.util.spec_from_file_location('slurm', ROOT / 'launch/slurm.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    script = (
        'import pathlib, signal, sys, time\n'
        f'signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(tmp_path)!r}, "saved").touch(), sys.exit(143)))\n'
        f'pathlib.Path({str(tmp_path)!r}, "started").touch()\n'
        'time.sleep(60)\n'
    )
    task = module.Task([sys.executable, '-c', script])
    queued = []

    def handle(*_):  # as submitit's does, in the main thread, which waits for the process
        queued.append(task.checkpoint())

    previous = signal.signal(signal.SIGUSR2, handle)
    begun = time.monotonic()
    threading.Thread(target=lambda: signal_when((tmp_path / 'started').exists)).start()
    with pytest.raises(RuntimeError, match='status 143'):
        task()
    signal.signal(signal.SIGUSR2, previous)
    assert (tmp_path / 'saved').exists() and time.monotonic() - begun < 30
    assert queued[0].function.command == task.command


def signal_when(is_time):
    """SIGUSR2 for this process, once it is time."""
    while not is_time():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGUSR2)


def test_scripts_keep_their_line_ends_in_any_checkout():
    """Git for Windows would give them line ends that no shell takes."""
    names = ['launch/local.sh', 'launch/gpu.sh', '.ci/run', 'launch/slurm.py']
    shown = subprocess.run(['git', 'check-attr', 'eol', *names], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == [f'{name}: eol: lf' for name in names]
