"""Studies on a real Slurm of one host: what is interrupted goes on, and ends in the same digits."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from qsnet_jax.training import checkpoint
from tests.launch.test_slurm import scores

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = pathlib.Path(__file__).parents[2]
TINY = (
    *('--config.model.channels=12', '--config.model.units=1', '--config.model.scale_channels=6'),
    *('--config.train.steps=60', '--config.train.eval_every=60', '--config.train.eval_images=1'),
    *('--config.train.log_every=1', '--config.train.checkpoint_every=20', '--config.data.crop=24'),
    *('--config.data.train=pairs', '--config.data.eval=pairs', '--config.data.prefetch=2'),
)


class Study:
    """A tiny study in a folder of its own, by the launcher or without."""

    def __init__(self, cluster, pairs, folder, *flags):
        self.cluster, self.folder = cluster, folder
        self.flags = ['--config=configs/losses.py:small', *TINY, f'--config.data.root={pairs}', *flags]
        self.flags += [f'--results={folder}', f'--workdir={folder}/runs', f'--compilation_cache={pairs}/cache']

    def run(self, *command, status=0):
        """What a program of this study prints."""
        variables = {**self.cluster.environment, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
        done = subprocess.run(
            [sys.executable, *command, *self.flags], cwd=ROOT, env=variables, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == status and 'Traceback' not in done.stdout, done.stdout
        return done.stdout

    def submit(self, *flags, status=0):
        """Submits; returns what is printed."""
        return self.run('launch/slurm.py', '--gpus=0', '--cpus=1', f'--logs={self.folder}/logs', *flags, status=status)

    def step(self, name='paper-0'):
        """The last step that a run has written down."""
        path = self.folder / 'runs' / name / 'metrics.jsonl'
        with contextlib.suppress(FileNotFoundError, IndexError, json.JSONDecodeError):
            return json.loads(path.read_text().splitlines()[-1])['step']
        return 0

    def log(self, job, process=0):
        """What a process of a job has printed."""
        path = self.folder / 'logs' / f'{job}_{process}_log.out'
        return path.read_text() if path.exists() else ''

    def weights(self, name='paper-0'):
        return load_file(self.folder / 'runs' / name / 'weights.safetensors')


def submitted(output):
    """Numbers of the jobs."""
    return re.findall(r'submitted \d+ tasks as job (\d+)', output)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def interrupt(cluster, study, job, how, after):
    """Does `how` to a running job once it is `after` some step, and lets it start again when it has been saved."""
    cluster.wait(lambda: study.step() >= after)
    stops = study.log(job).count('the same command goes on')
    how()
    cluster.wait(lambda: study.log(job).count('the same command goes on') > stops)
    cluster.release(job)


def signal_to(cluster, job, name):
    return lambda: cluster('scancel', f'--signal={name}', job)


@pytest.mark.parametrize('cluster', ['linuxproc', 'cgroup'], indirect=True)
def test_a_run_that_is_interrupted_ends_in_the_same_digits(cluster, pairs_root, tmp_path):
    """By requeue, SIGTERM and SIGUSR2, each of which saves and queues again; on the second machine by preemption."""
    whole = Study(cluster, pairs_root, tmp_path / 'whole', '--only=paper', '--config.study.seeds=(0,)')
    whole.run('-m', 'qsnet_jax.main', '--mode=study')
    study = Study(cluster, pairs_root, tmp_path / 'cut', '--only=paper', '--config.study.seeds=(0,)')
    job = submitted(study.submit())[0]
    interrupt(cluster, study, job, lambda: cluster('scontrol', 'requeue', job), after=5)
    interrupt(cluster, study, job, signal_to(cluster, job, 'TERM'), after=study.step() + 5)
    interrupt(cluster, study, job, signal_to(cluster, job, 'USR2'), after=study.step() + 5)
    cluster.wait(lambda: 'scores and pictures' in study.log(job))
    log = study.log(job)
    told = [int(step) for step in re.findall(r'after step (\d+);', log)]
    assert len(told) == 3 and 'SIGTERM' in log and 'SIGUSR2' in log and 'Traceback' not in log
    assert log.count('saved, and queued again') == 2 and log.count('stopped by Slurm') == 1
    assert_same(whole.weights(), study.weights())
    starts = json.loads((study.folder / 'runs' / 'paper-0' / 'run.json').read_text())['starts']
    assert [start['step'] for start in starts] == [0, *told]  # and not from the last of every 20 steps


@pytest.mark.parametrize('cluster', ['linuxproc'], indirect=True)
def test_a_study_of_two_variants_and_two_seeds(cluster, pairs_root, tmp_path):
    """The rows of --mode=study, in arrays as small as this cluster wants, with seeds given on the command line."""
    flags = ('--only=paper,V1', '--config.study.seeds=(0,1)', '--config.train.steps=6')
    study, alone = (Study(cluster, pairs_root, tmp_path / name, *flags) for name in ('jobs', 'alone'))
    output = study.submit('--sbatch=--hold')
    jobs = submitted(output)
    assert len(jobs) == 2 and output.count('submitted 2 tasks') == 2  # MaxArraySize=3
    assert 'error: All is in the queue already: paper-0 (job' in study.submit(status=1)
    status = study.submit('--status').splitlines()
    assert status[-1] == '4 runs: 0 done, 0 running, 4 waiting, 0 failed, 0 missing' and '(JobHeldUser)' in status[0]
    for job in jobs:
        cluster('scontrol', 'release', job)
    alone.run('-m', 'qsnet_jax.main', '--mode=study')
    cluster.wait(lambda: not cluster('squeue', '--noheader'))
    assert len(scores(study.folder)) == 4 and scores(study.folder) == scores(alone.folder)
    assert study.submit('--status').splitlines()[-1] == '4 runs: 4 done, 0 running, 0 waiting, 0 failed, 0 missing'
    assert 'all 4 runs have their rows' in study.submit()
    other = Study(cluster, pairs_root, tmp_path / 'refused', '--only=V2', '--config.study.seeds=(0,)')
    refused = other.submit('--partition=none', status=1).splitlines()[-1]
    assert refused.startswith('error: Slurm refused array 1 of 1: invalid partition specified: none')


@pytest.mark.parametrize('cluster', ['linuxproc'], indirect=True)
def test_two_nodes_of_which_one_is_killed(cluster, pairs_root, tmp_path):
    """The other ends within seconds, in one line; submitted again, the parameters are those of two undisturbed ones."""
    flags = ('--only=paper', '--config.study.seeds=(0,)')
    whole, study = (Study(cluster, pairs_root, tmp_path / name, *flags) for name in ('whole', 'cut'))
    begun = time.monotonic()
    cluster('sbatch', '--nodes=2', '--output=/dev/null', '--wrap=true')
    cluster.wait(lambda: not cluster('squeue', '--noheader'))
    usual = time.monotonic() - begun  # what Slurm takes of its own
    job = submitted(study.submit('--nodes=2'))[0]
    saved = study.folder / 'runs/paper-0/checkpoints'
    cluster.wait(lambda: study.step() > 25 and (saved / '20').is_dir())
    second = [pid for pid in processes_of(job) if environment_of(pid).get('SLURM_PROCID') == '1']
    os.kill(second[0], signal.SIGKILL)
    begun = time.monotonic()
    cluster.wait(lambda: not cluster('squeue', '--noheader'))
    assert time.monotonic() - begun < 15 + 2 * usual
    last = checkpoint.steps_in(saved)[-1]
    assert last in (20, 40)
    log = study.log(job)
    assert f'waiting up to 300 s for process 1 at port {61440 + int(job) % 4096}' in log
    assert 'error: process 1 of 2 has ended, and process 0 cannot go on without it.' in log
    assert 'error: a process was killed by signal 9 (memory? --mem).' in log
    assert 'Traceback' not in log and 'Fatal' not in log and 'Current thread' not in log
    status = study.submit('--status').splitlines()
    assert status[0].startswith('paper-0') and 'failed' in status[0] and 'killed by signal 9' in status[0]
    for each in (study, whole):
        each.submit('--nodes=2')
    cluster.wait(lambda: not cluster('squeue', '--noheader'))
    assert_same(whole.weights(), study.weights())
    starts = json.loads((study.folder / 'runs' / 'paper-0' / 'run.json').read_text())['starts']
    assert [start['step'] for start in starts] == [0, last]


@pytest.mark.parametrize('cluster', ['linuxproc'], indirect=True)
def test_the_time_limit_and_a_more_urgent_job(cluster, pairs_root, tmp_path):
    """A run out of time, and one that must make room, save themselves and are queued again; status says so."""
    flags = ('--only=paper', '--config.study.seeds=(0,)', '--config.train.steps=100000')
    study = Study(cluster, pairs_root, tmp_path, *flags)
    job = submitted(study.submit('--minutes=4', '--grace=30', '--partition=usual'))[0]
    cluster.wait(lambda: study.step() > 2)
    assert '1 running' in study.submit('--status')
    cluster.wait(lambda: 'saved, and queued again' in study.log(job))  # Slurm is up to a minute early
    assert 'Stopped by SIGTERM after step' in study.log(job)
    cluster.wait(lambda: cluster('squeue', '--noheader', '--format=%T').strip() == 'PENDING')
    assert '1 waiting' in study.submit('--status')
    before = study.step()
    cluster.release(job)
    cluster.wait(lambda: study.step() > before)
    assert study.log(job).count('the same command goes on') == 1
    urgent = cluster('sbatch', '--parsable', '--partition=urgent', '--nodes=2', '--exclusive', '--output=/dev/null',
                     '--wrap=sleep 1').strip()  # fmt: skip
    cluster.wait(lambda: study.log(job).count('the same command goes on') == 2)
    cluster.wait(lambda: urgent not in cluster('squeue', '--noheader', '--format=%A'))
    assert job in cluster('squeue', '--noheader', '--states=PENDING', '--format=%A')


def processes_of(job):
    """Numbers of the processes of a job's study."""
    for path in pathlib.Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            if (
                b'qsnet_jax.main' in (path / 'cmdline').read_bytes()
                and environment_of(path.name)['SLURM_JOB_ID'] == job
            ):
                yield int(path.name)


def environment_of(pid):
    """Variables of a process."""
    text = pathlib.Path(f'/proc/{pid}/environ').read_text(errors='replace')
    return {'SLURM_JOB_ID': '', **dict(line.split('=', 1) for line in text.split('\0') if '=' in line)}
