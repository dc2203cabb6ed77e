"""Several processes as one: how they meet, agree, train, and end."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from functools import partial

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from safetensors.numpy import load_file

from qsnet_jax import UserError, signals
from qsnet_jax.training import parallel, rendezvous

ROOT = pathlib.Path(__file__).parents[2]
TINY = (
    *('--config.model.channels=12', '--config.model.units=1', '--config.model.scale_channels=6'),
    *('--config.model.rates=(2,)', '--config.train.steps=4', '--config.train.eval_every=2'),
    *('--config.train.eval_images=1', '--config.train.checkpoint_every=2', '--config.data.crop=24'),
    *('--config.data.train=pairs', '--config.data.eval=pairs'),
)
MEET = """
import sys, time
from qsnet_jax import UserError
from qsnet_jax.training import rendezvous
port, count, index, wait = map(int, sys.argv[1:5])
try:
    tether = rendezvous.meet(rendezvous.Place('localhost', port, count, index), wait)
except UserError as error:
    sys.exit(f'error: {error}')
print('met', flush=True)
"""


def start(*command, **environment):
    variables = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT), **environment}
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def finish(process, status=0):
    output, _ = process.communicate(timeout=1500)
    assert process.returncode == status, output
    return output


def meet(port, count, index, wait=60, then=''):
    return start('-c', MEET + then, port, count, index, wait)


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(('localhost', 0))
        return free.getsockname()[1]


@pytest.mark.parametrize('text', ['here', 'host:1', 'host:1,2', 'host:1,two,0', 'host,2,0', 'host:1,2,0,0', ':1,2,0'])
def test_processes_that_are_not_understood(text):
    """--distributed says what it expects."""
    with pytest.raises(UserError, match='HOST:PORT,PROCESSES,INDEX'):
        parallel.start(text)


@pytest.mark.parametrize('text', ['host:1,2,2', 'host:70000,2,0'])
def test_processes_that_cannot_be(text):
    """An index beyond the number of processes, and a port beyond all ports."""
    with pytest.raises(UserError, match='numbered from 0 to 1, and ports'):
        parallel.start(text)


def test_the_address_of_an_ipv6_number_has_brackets(monkeypatch):
    """JAX ends natively without; names and other numbers have none."""
    told = []
    monkeypatch.setattr(rendezvous, 'meet', lambda *_: None)
    monkeypatch.setattr(jax.distributed, 'initialize', lambda *given, **_: told.append(given))
    for host in ('[::1]', '::1', '10.0.0.7'):
        parallel.start(f'{host}:29500,2,0')
    assert told == [('[::1]:29500', 2, 0), ('[::1]:29500', 2, 0), ('10.0.0.7:29500', 2, 0)]


def test_what_slurm_says_of_a_process():
    """Host, port, number and GPUs, for lists of nodes and ways of sharing GPUs that clusters have."""

    def find(nodes, local='0', together='2(x2)', visible='0,1,2,3'):
        environment = {'SLURM_JOB_ID': '5000', 'SLURM_STEP_NODELIST': nodes, 'SLURM_NTASKS': '4', 'SLURM_PROCID': '3'}
        environment |= {'SLURM_LOCALID': local, 'SLURM_STEP_TASKS_PER_NODE': together, 'CUDA_VISIBLE_DEVICES': visible}
        return rendezvous.find_in_slurm(environment)

    assert find('n[1-2]') == rendezvous.Place('n1', 61440 + 904, 4, 3, [0, 1])
    hosts = {'n07': 'n07', 'n07,m1': 'n07', 'n[007-9,12],m1': 'n007', 'r[2,4]n[3-4]-ib': 'r2n3-ib', 'a[5]': 'a5'}
    assert {nodes: find(nodes).host for nodes in hosts} == hosts
    assert find('n1', local='1').devices == [2, 3] and find('n1', local='3', together='4').devices == [3]
    assert find('n1', visible='2').devices is None and find('n1', visible='').devices is None  # shared out; no GPUs
    assert find('n1', together='1(x2)').devices is None
    assert rendezvous.find_in_slurm({'SLURM_JOB_ID': '1'}) is None
    with pytest.raises(UserError, match='8 processes on this machine share 4 GPUs'):
        find('n1', together='8')


@pytest.mark.slow
def test_processes_say_whom_they_wait_for_and_who_did_not_come(port):
    """Beforehand whom and how long; after that time one line each, and no abort."""
    first, second = meet(port, 4, 0, wait=4), meet(port, 4, 1)
    begun = time.monotonic()
    output = finish(first, status=1).splitlines()
    assert output[0] == f'process 0 of 4: waiting up to 4 s for processes 1 to 3 at port {port}'
    assert output[1].startswith(f'error: Processes 2, 3 of 4 did not come to localhost:{port} in 4 s.')
    other = finish(second, status=1).splitlines()
    assert other[0] == f'process 1 of 4: waiting up to 60 s for process 0 at localhost:{port}'
    assert other[1].startswith('error: Processes 2, 3 of 4 did not come') and len(output) == len(other) == 2
    assert time.monotonic() - begun < 25
    lonely = finish(meet(port, 2, 1, wait=1), status=1).splitlines()
    assert lonely[1].startswith(
        f'error: Process 1 of 2 waited 1 s for process 0 at localhost:{port}: Connection refused'
    )


@pytest.mark.slow
def test_a_port_in_use(port):
    """Process 0 says so at once; another process finds no process 0 there."""
    with socket.create_server(('', port)):
        output = finish(meet(port, 2, 0), status=1).splitlines()
        assert output[1].startswith(f'error: Port {port} of {socket.gethostname()}') and 'already in use' in output[1]
        assert 'waited 1 s for process 0' in finish(meet(port, 2, 1, wait=1), status=1)


def test_processes_that_do_not_belong(port):
    """A second one of the same number, and one that counts otherwise, are told; a stranger is ignored."""
    first, second = meet(port, 3, 0), meet(port, 3, 1)
    while True:
        try:
            with socket.create_connection(('localhost', port)) as stranger:
                stranger.sendall(b'GET / HTTP/1.0\r\n\r\n')
            break
        except OSError:
            time.sleep(0.1)
    assert 'This is process 1 of 2, and process 0 one of 3' in finish(meet(port, 2, 1), status=1)
    pair = [second, meet(port, 3, 1)]
    while all(process.poll() is None for process in pair):
        time.sleep(0.1)
    pair.sort(key=lambda process: process.poll() is None)
    assert 'A process 1 has come before' in finish(pair[0], status=1)
    assert all('met' in finish(process) for process in (first, pair[1], meet(port, 3, 2)))


@pytest.mark.parametrize(
    'victim', [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_a_process_that_is_killed_ends_the_others(port, victim):
    """Within seconds, in one line that names it; one that has finished ends nobody."""
    processes = [meet(port, 3, index, then='\ntime.sleep(60)') for index in range(3)]
    for process in processes:
        while process.stdout.readline() != 'met\n':
            pass
    processes[victim].kill()
    begun = time.monotonic()
    finish(processes[victim], status=-signal.SIGKILL)
    for index, process in enumerate(processes):
        if index != victim:
            lines = finish(process, status=1).strip().splitlines()
            assert len(lines) == 1 and lines[0].startswith(
                f'error: process {victim} of 3 has ended, and process {index}'
            )
    assert time.monotonic() - begun < 8


@pytest.mark.slow
def test_a_process_that_fails_ends_the_others_and_one_that_is_done_does_not(port):
    """An exception counts as a failure; the end of the program does not."""
    first = meet(port, 3, 0, then='\ntime.sleep(4)\nprint("whole")')
    second = meet(port, 3, 1, then='\ntime.sleep(4)\nprint("whole")')
    finish(meet(port, 3, 2))
    assert 'whole' in finish(first) and 'whole' in finish(second)
    first = meet(port, 2, 0, then='\ntime.sleep(60)')
    output = finish(meet(port, 2, 1, then='\nraise KeyError("here")'), status=1)
    assert "KeyError: 'here'" in output and 'error: process 1 of 2 has ended' in finish(first, status=1)


def test_one_process_agrees_with_itself():
    """A signal counts at once where nobody else must be asked; values are what they are."""
    assert parallel.agree(15, is_time=False) == 15 and parallel.agree(0, is_time=True) == 0
    parallel.agree_on({'rate': 1})


def test_processes_that_hold_other_values(monkeypatch):
    """What differs is named, with the value of each, whichever is longer as text."""

    def gather(own):
        others = [json.dumps(each).encode() for each in ({'rate': 1e-3, 'steps': 5}, {'rate': 0.123456789})]
        if own.ndim == 0:
            return np.array([own, *map(len, others)])
        return np.stack([own, *(np.frombuffer(each.ljust(own.size), np.uint8) for each in others)])

    monkeypatch.setattr(jax, 'process_count', lambda: 3)
    monkeypatch.setattr(multihost_utils, 'process_allgather', gather)
    with pytest.raises(UserError) as caught:
        parallel.agree_on({'rate': 1e-3, 'steps': 5})
    assert 'rate is 0.001 in process 0 and 0.123456789 in process 2; steps is 5 in process 0 and None' in str(
        caught.value
    )
    assert 'in process 1' not in str(caught.value)


def test_devices_that_jax_cannot_use():
    """One line for a driver that fails, where the user has asked for a GPU."""
    script = 'from qsnet_jax import UserError\nfrom qsnet_jax.training import parallel\n'
    script += 'try:\n    parallel.make_mesh()\nexcept UserError as error:\n    print(f"error: {error}")'
    output = finish(start('-c', script, JAX_PLATFORMS='cuda', CUDA_VISIBLE_DEVICES='')).splitlines()
    assert output[-1].startswith('error: JAX finds no device of JAX_PLATFORMS=cuda') and 'nvidia-smi' in output[-1]


def test_signals_are_noted_until_the_state_is_saved():
    """SIGTERM and SIGUSR2, which Slurm sends, as often as they come; of SIGINT a second one ends the program."""
    before = signal.getsignal(signal.SIGUSR2)
    with signals.deferred() as received:
        for signum in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(signum)
        assert received == [signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM, signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGUSR2) == before


def test_signals_that_are_ignored_stay_so():
    """Ctrl-C ends no training in the background of a script; SIGUSR2 is ignored only until the training begins."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    before = [signal.signal(signum, signal.SIG_IGN) for signum in numbers]
    try:
        with signals.deferred() as received:
            for signum in numbers:
                signal.raise_signal(signum)
        assert received == [signal.SIGUSR2] and signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN
    finally:
        for signum, handler in zip(numbers, before, strict=True):
            signal.signal(signum, handler)


@pytest.mark.slow
def test_two_processes_train_as_one(pairs_root, tmp_path, port):
    """The same parameters, in double precision up to the order of sums: 1e-4, where single steps are 3e-3.

    Nearly all agree far better; where |x| in the loss meets x = 0 but for rounding, a pixel's slope differs, and Adam
    divides what rounding leaves of the smallest gradients by their own size.
    """
    arguments = ['-m', 'qsnet_jax.main', '--config=configs/quickstart.py', *TINY, f'--config.data.root={pairs_root}',
                 '--config.model.dtype=float64']  # fmt: skip
    pair = [
        start(*arguments, f'--workdir={tmp_path}/pair', f'--distributed=localhost:{port},2,{index}', JAX_ENABLE_X64='1')
        for index in range(2)
    ]
    outputs = [finish(process) for process in pair]
    finish(start(*arguments, f'--workdir={tmp_path}/one', JAX_ENABLE_X64='1'))
    assert 'scores and pictures' in outputs[0] and 'scores and pictures' not in outputs[1]
    first, second = (load_file(tmp_path / name / 'weights.safetensors') for name in ('pair', 'one'))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-4), first, second)
    logs = [[json.loads(line) for line in (tmp_path / name / 'metrics.jsonl').read_text().splitlines()]
            for name in ('pair', 'one')]  # fmt: skip
    assert [line['step'] for line in logs[0]] == [line['step'] for line in logs[1]]  # written once


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_a_training_whose_partner_is_killed(pairs_root, tmp_path, port, victim):
    """One line within seconds; neither JAX's stack nor a traceback of the broken connection."""
    arguments = ['-m', 'qsnet_jax.main', '--config=configs/quickstart.py', *TINY, f'--config.data.root={pairs_root}',
                 '--config.train.steps=100000', '--config.train.log_every=1', f'--workdir={tmp_path}']  # fmt: skip
    arguments += ['--config.train.eval_every=100000', '--config.train.checkpoint_every=100000']
    pair = [start(*arguments, f'--distributed=localhost:{port},2,{index}') for index in range(2)]
    log, until = tmp_path / 'metrics.jsonl', time.monotonic() + 1500
    while not (log.exists() and log.stat().st_size):
        assert time.monotonic() < until
        time.sleep(0.2)
    pair[victim].kill()
    begun = time.monotonic()
    finish(pair[victim], status=-signal.SIGKILL)
    output = finish(pair[1 - victim], status=1)
    assert time.monotonic() - begun < 10
    assert output.splitlines()[-1].startswith(f'error: process {victim} of 2 has ended') and 'Traceback' not in output
    assert 'Fatal' not in output and 'distributed service' not in output


@pytest.mark.slow
def test_a_process_with_another_learning_rate(pairs_root, tmp_path, port):
    """It is found before the first step, in every process."""
    arguments = ['-m', 'qsnet_jax.main', '--config=configs/quickstart.py', *TINY, f'--config.data.root={pairs_root}',
                 f'--workdir={tmp_path}']  # fmt: skip
    pair = [
        start(*arguments, f'--config.train.learning_rate={rate}', f'--distributed=localhost:{port},2,{index}')
        for index, rate in enumerate((0.1, 0.2))
    ]
    for output in [finish(process, status=1) for process in pair]:
        assert 'train.learning_rate is 0.1 in process 0 and 0.2 in process 1' in output
    assert not (tmp_path / 'metrics.jsonl').exists()
