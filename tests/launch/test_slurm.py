"""launch/slurm.py and the other launchers, before any cluster sees them: what is submitted, refused and said."""

import functools
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest

from qsnet_jax import config_files

ROOT = pathlib.Path(__file__).parents[2]
slow = pytest.mark.slow
TINY = (
    *('--config.model.channels=12', '--config.model.units=1', '--config.model.scale_channels=6'),
    *('--config.model.rates=(2,)', '--config.train.steps=4', '--config.train.eval_every=2'),
    *('--config.train.eval_images=1', '--config.train.checkpoint_every=2', '--config.data.crop=24'),
    *('--config.data.train=pairs', '--config.data.eval=pairs'),
)
FAKES = {  # commands of a cluster whose arrays have at most five tasks, and of whose jobs 41 runs its second task
    'srun': 'exit 0',
    'scontrol': 'echo "MaxArraySize            = 5"',
    'squeue': 'echo "41|1|RUNNING|1:30|n1"; echo "41|3|PENDING|0:00|(Priority)"',
    'sbatch': 'cp "$1" "$0.$(ls "$0".* 2>/dev/null | wc -l)"; echo "Submitted batch job 5$(ls "$0".* | wc -l)"',
}


LAUNCHER = ROOT / 'launch/slurm.py'
# The launcher where no run is started: what each would have been started with, and a status of 0.
STARTS_NOTHING = f"""
import runpy, subprocess, sys
class Shown(subprocess.Popen):
    def __init__(self, command, env, **_):
        told = [env.get(name, '-') for name in ('XLA_FLAGS', 'JAX_PLATFORMS', 'CUDA_VISIBLE_DEVICES')]
        sys.stdout.write('|'.join((*told, command[-2])) + chr(10))
    def wait(self): return 0
    def __del__(self): pass
subprocess.Popen = Shown
runpy.run_path({str(LAUNCHER)!r}, run_name='__main__')
"""
# The launcher whose runs say who they are and wait for their end.
STARTS_SLEEPERS = f"""
import runpy, signal, subprocess
class Sleeper(subprocess.Popen):
    def __init__(self, command, *rest, **options):
        is_run = 'qsnet_jax.main' in command
        super().__init__(['sh', '-c', 'echo $$; exec sleep 60'] if is_run else command, *rest, **options)
    def send_signal(self, signum):
        print('told', signal.Signals(signum).name, flush=True)
        super().send_signal(signum)
subprocess.Popen = Sleeper
runpy.run_path({str(LAUNCHER)!r}, run_name='__main__')
"""
STUDY = """from qsnet_jax.configs import studies
VARIANTS = {
    'further': {'train.start_from': '{workdir}/paper-{seed}/weights.safetensors'},
    'longer': {'train.steps': 6},
}
def get_config(selection=''):
    return studies.make(VARIANTS, selection)
"""


def run(*command, status=0, folder=ROOT, **environment):
    """Output and errors of a program, as the terminal shows them."""
    variables = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT), **environment}
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == status, done.stdout
    assert 'Traceback' not in done.stdout
    return done.stdout


@functools.cache
def help_text():
    """What --help prints."""
    return run(sys.executable, LAUNCHER, '--help')


@pytest.fixture
def slurm(pairs_root):
    pytest.importorskip('submitit', reason='the extra [slurm] is not installed')
    command = [sys.executable, 'launch/slurm.py', '--config=configs/losses.py:small', *TINY]
    return [*command, f'--config.data.root={pairs_root}', '--config.data.batch=8']


@pytest.fixture
def fakes(tmp_path):
    """A folder of commands that answer as Slurm's would, for PATH."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name, script in FAKES.items():
        (folder / name).write_text(f'#!/bin/sh\n{script}\n')
        (folder / name).chmod(stat.S_IRWXU)
    return folder


def test_a_dry_run_prints_what_would_be_submitted(slurm, tmp_path):
    """Resources, and a command per variant and seed, with one process per GPU and one seed each."""
    flags = ('--partition=gpu', '--nodes=2', '--gpus=a100:4', '--minutes=90', '--dry_run', f'--results={tmp_path}')
    flags += ('--account=lab', '--qos=night', '--mem=64G', '--constraint=ib', '--exclude=n7', '--nodelist=n1,n2')
    flags += ('--setup=module load cuda', '--mail=me@example.org', "--sbatch=--reservation='a b' --exclusive")
    lines = run(*slurm, *flags, '--config.study.seeds=(0,1)').splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith('8 tasks'))
    for expected in (
        *("'nodes': 2", "'ntasks_per_node': 4", "'gres': 'gpu:a100:4'", "'time': 90", "'partition': 'gpu'"),
        *("'account': 'lab'", "'qos': 'night'", "'mem': '64G'", "'constraint': 'ib'", "'exclude': 'n7'"),
        *("'nodelist': 'n1,n2'", "'module load cuda'", "'mail_user': 'me@example.org'", "'reservation': 'a b'"),
        *("'exclusive': True", "'signal': 'TERM@300'", "'requeue': True", '--kill-on-bad-exit=0'),
        *('JAX_PLATFORMS:-cuda', 'xla_gpu_deterministic_ops'),
    ):
        assert expected in lines[head]
    commands = lines[head + 1 :]
    assert len(commands) == 8 and all('--distributed=auto' in line for line in commands)
    chosen = [re.findall(r'--only=(\w+)', line) + re.findall(r'study.seeds=\((.*?)\)', line) for line in commands]
    assert chosen == [[name, f'{seed},'] for seed in (0, 1) for name in ('paper', 'V1', 'V2', 'V3')]
    assert '--partition' not in lines[head + 2] and '--mem' not in lines[head + 2]


@pytest.mark.parametrize(
    'flag, message',
    [
        pytest.param('4', "'4' stands alone; write flags as --name=value", marks=slow),  # the jobs would get it
        pytest.param('--only=', '--only= has no value', marks=slow),  # of a variable not set: not all variants
        ('--config.data.batch=6', 'paper: data.batch is 6 and 4 devices share it'),
        pytest.param('--config=loses', 'did you mean losses?', marks=slow),
        pytest.param('--config=configs/none.py', 'none.py', marks=slow),
        pytest.param('--config=quickstart', 'needs a config with variants', marks=slow),
        pytest.param('--config.nothing=1', 'nothing', marks=slow),
        pytest.param('--config.train.steps=many', 'expected int, as 4', marks=slow),
        pytest.param('--config.study.seeds=a', '--config.study.seeds=a: expected numbers', marks=slow),
    ],
)
def test_what_a_job_would_refuse_is_refused_at_once(slurm, fakes, tmp_path, flag, message):
    """One line before anything is submitted: values, folders, weights, resources."""
    path = f'{fakes}:{os.environ["PATH"]}'
    output = run(*slurm, '--nodes=4', f'--results={tmp_path}', f'--workdir={tmp_path}', flag, status=1, PATH=path)
    assert output.splitlines()[-1].startswith('error: ') and message in output.splitlines()[-1]
    assert not list(fakes.glob('sbatch.*'))


@slow
@pytest.mark.parametrize('config', ['losses:small', 'configs/losses.py:small'])
def test_a_config_is_found_by_name_and_path_from_any_folder(pairs_root, tmp_path, config):
    """As `qsnet` finds it, which the tasks are told to run with the same words."""
    flags = (
        f'--config={config}',
        f'--config.data.root={pairs_root}',
        '--config.study.seeds=(0,)',
        '--only=V1,V2',
        '--config.data.exclude=',
    )  # which may be empty
    lines = run(sys.executable, LAUNCHER, *flags, '--dry_run', folder=tmp_path).splitlines()
    assert lines[-3].startswith('2 tasks') and all(f' --config={config} ' in line for line in lines[-2:])


@pytest.fixture
def stretches(slurm, tmp_path):
    """The flags of a study of which one variant starts from what another leaves, and one has steps of its own."""
    (tmp_path / 'mine.py').write_text(STUDY)
    flags = (f'--config={tmp_path}/mine.py:small', f'--results={tmp_path}', f'--workdir={tmp_path}', '--gpus=0')
    return [*slurm[2:], *flags, '--config.study.seeds=(0,)', '--noconfig.data.flip']


def test_what_can_start_is_submitted(stretches, tmp_path):
    """A run that starts from what another leaves is not, which is said; each gets the fields that it takes."""
    lines = run(sys.executable, LAUNCHER, *stretches, '--dry_run').splitlines()
    assert '--config.train.steps is not for longer, which have a value of their own' in lines
    assert 'further-0 starts from what paper-0 leaves: submit again when that is done' in lines
    assert lines[-3].startswith('2 tasks') and '--only=paper' in lines[-2] and '--only=longer' in lines[-1]
    assert '--config.train.steps=4' in lines[-2] and '--config.train.steps=4' not in lines[-1]
    assert all('--noconfig.data.flip' in line for line in lines[-2:])


def test_of_seeds_given_twice_the_last_count(stretches):
    """As in the program, which gets the same words."""
    lines = run(sys.executable, LAUNCHER, *stretches, '--config.study.seeds=(4,)', '--dry_run').splitlines()
    assert lines[-3].startswith('2 tasks')
    assert all(re.findall(r'study.seeds=\((.*?)\)', line)[-1] == '4,' for line in lines[-2:])


def test_on_this_machine_it_comes_after_the_other(stretches, tmp_path):
    shown = run(sys.executable, '-c', STARTS_NOTHING, *stretches, '--local', f'--logs={tmp_path}')
    assert re.findall(r'--only=(\w+)', shown) == ['paper', 'longer', 'further'] and shown.count('-0: done') == 3


@pytest.mark.parametrize(
    ('signum', 'told'),
    [(signal.SIGTERM, 'SIGTERM'), (signal.SIGINT, 'SIGINT'), (signal.SIGHUP, 'SIGTERM')],
)
def test_a_signal_is_passed_on_to_the_runs_on_this_machine(slurm, tmp_path, signum, told):
    """As one on which they save themselves; they end, no other one starts, and one line says so."""
    flags = (f'--logs={tmp_path}', f'--results={tmp_path}', '--local', '--gpus=0')
    process = subprocess.Popen([sys.executable, '-c', STARTS_SLEEPERS, *slurm[2:], *flags], cwd=ROOT, text=True,
                               env={**os.environ, 'PYTHONPATH': str(ROOT)}, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)  # fmt: skip
    log = tmp_path / 'paper-0.log'
    while process.poll() is None and not (log.exists() and log.read_text()):
        time.sleep(0.05)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signum, output
    assert output.splitlines()[-1].startswith(f'Stopped by {signum.name}. ') and 'Traceback' not in output
    assert re.findall('^told (.*)', output, re.MULTILINE) == [told], output
    assert list(tmp_path.glob('*.log')) == [log]
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


@slow
@pytest.mark.parametrize(
    'gpus, own',
    [
        (4, {'XLA_FLAGS': '--xla_cpu_enable_fast_math=false', 'CUDA_VISIBLE_DEVICES': '2,3,6,7'}),
        pytest.param(0, {}, marks=slow),
    ],
)
def test_what_a_task_on_this_machine_is_told(slurm, tmp_path, gpus, own):
    """Runs on GPUs compute without chance, each on one that the user left visible, beside the user's own flags."""
    environment = {name: value for name, value in os.environ.items() if name not in ('JAX_PLATFORMS', 'XLA_FLAGS')}
    flags = (f'--gpus={gpus}', '--only=V1', f'--logs={tmp_path}', f'--results={tmp_path}', '--local')
    done = subprocess.run([sys.executable, '-c', STARTS_NOTHING, *slurm[2:], *flags], cwd=ROOT, text=True,
                          env={**environment, 'PYTHONPATH': str(ROOT), **own}, capture_output=True)  # fmt: skip
    shown = [line.split('|') for line in done.stdout.splitlines() if '|' in line]
    assert done.returncode == 0 and len(shown) == 3, done.stderr
    words = ['--xla_gpu_deterministic_ops=true', own['XLA_FLAGS']] if gpus else ['-']
    assert all(line[0].split() == words and line[1] == ('cuda' if gpus else 'cpu') for line in shown)
    assert {line[2] for line in shown} <= ({'2', '3', '6', '7'} if gpus else {'-'})
    assert all(line[3] == '--only=V1' for line in shown)


@pytest.mark.parametrize(
    ('flags', 'status', 'last'),
    [
        pytest.param(('--dry_run', '--results=/proc/n\udce4cht'), 0, r"'--results=/proc/n\xe4cht'", marks=slow),
        (('--local', '--logs=/proc/n\udce4cht'), 1, r'error: /proc/n\xe4cht: No such file or directory. Something has'),
    ],
)
def test_odd_names_and_faults_of_drives_are_one_line(slurm, tmp_path, flags, status, last):
    """Bytes that are not UTF-8 are printed escaped, and what a drive does not do is said with the remedy."""
    output = run(*slurm, f'--results={tmp_path}', '--gpus=0', *flags, status=status, PYTHONIOENCODING='utf-8:strict')
    assert last in output.splitlines()[-1]


@slow
def test_submission(slurm, fakes, tmp_path):
    """What is queued is left alone, what is free goes out in arrays that are small enough, and is remembered."""
    (tmp_path / 'submitted').mkdir()
    runs = [['paper', 0], ['V1', 0], ['V2', 0], ['V3', 0]]
    (tmp_path / 'submitted' / '41.json').write_text(json.dumps({'runs': runs, 'logs': f'{tmp_path}/logs'}))
    flags = ('--gpus=0', '--processes=2', f'--results={tmp_path}', f'--workdir={tmp_path}', f'--logs={tmp_path}/logs')
    path = f'{fakes}:{os.environ["PATH"]}'
    output = run(*slurm, *flags, '--at_once=4', PATH=path)
    assert '2 in the queue already and left alone: V1-0 (job 41_1), V3-0 (job 41_3)' in output
    assert 'submitted 5 tasks as job 51' in output and 'submitted 5 tasks as job 52' in output
    written = [json.loads((tmp_path / 'submitted' / f'{job}.json').read_text())['runs'] for job in (51, 52)]
    assert written[0][:2] == [['paper', 0], ['V2', 0]] and written[1][-1] == ['V3', 2]
    script = (fakes / 'sbatch.0').read_text()
    for line in ('--array=0-4%2', '--ntasks-per-node=2', '--requeue', '--signal=TERM@300'):
        assert f'#SBATCH {line}\n' in script
    assert '--gres' not in script and 'JAX_PLATFORMS:-cpu' in script and ' --cpus-per-task=8 ' in script

    output = run(*slurm, *flags, '--only=V1,V3', '--config.study.seeds=(0,)', status=1, PATH=path)
    assert output.splitlines()[-1].startswith('error: All is in the queue already: V1-0 (job 41_1), V3-0 (job 41_3)')
    (fakes / 'sbatch').write_text(
        '#!/bin/sh\necho "sbatch: error: Bad account" >&2\necho "sbatch: error: no" >&2\nexit 1'
    )
    output = run(*slurm, *flags, '--only=V2', '--config.study.seeds=(5,)', status=1, PATH=path)
    assert output.splitlines()[-1] == 'error: Slurm refused array 1 of 1: Bad account; no'


@slow
def test_without_slurm(slurm, tmp_path):
    """One line says what is missing, and what works without."""
    output = run(*slurm, f'--workdir={tmp_path}', f'--results={tmp_path}', status=1, PATH='/nowhere')
    assert output.splitlines()[-1].startswith('error: ') and '--local' in output.splitlines()[-1]


def test_help_has_three_examples():
    """They can be copied; every flag is explained."""
    pytest.importorskip('submitit', reason='the extra [slurm] is not installed')
    output = help_text()
    assert output.count('  python launch/slurm.py --config=losses') == 3 and '--account=LAB \\\n' in output
    assert all(f'--{name}:' in output for name in ('account', 'qos', 'mem', 'setup', 'sbatch', 'minutes'))


def test_pages_name_flags_that_there_are():
    """Commands of the pages and of the launcher's own head: its flags, and fields of their configs."""
    known = set(re.findall(r'^  --(?:\[no\])?(\w+):', help_text(), re.MULTILINE))
    found = 0
    for page in (ROOT / 'README.md', ROOT / 'launch/README.md', LAUNCHER):
        for command in re.findall(r'launch/slurm\.py (--[^\n`#]*)', re.sub(r'\\+\n', ' ', page.read_text())):
            found += 1
            flags = dict(each.lstrip('-').partition('=')[::2] for each in shlex.split(command))
            for name in flags:
                if name.startswith('config.'):
                    config_files.check_field(name.removeprefix('config.'), config_files.load(flags['config']), name)
                else:
                    assert name in {'help', *known}, command
    assert found >= 8


def test_the_number_of_trainings_is_what_is_said():
    """Of gpu.sh: the variants of its studies, `paper` once, with all seeds and with one."""
    studies = re.search(r'for name in (.*); do', (ROOT / 'launch/gpu.sh').read_text())[1].split()
    configs = [config_files.load(name).study for name in studies]
    variants, seeds = {name for study in configs for name in study.variants}, len(configs[0].seeds)
    page = (ROOT / 'launch/README.md').read_text()
    assert f'{len(variants) * seeds} trainings at full size' in page and f'one seed of each: {len(variants)}\n' in page


@pytest.mark.slow
def test_tasks_on_this_machine_end_in_the_rows_of_the_study(slurm, pairs_root, tmp_path):
    """Two runs by --local and the same two by --mode=study; a run that fails is named, with its log."""
    common = [*slurm[2:], '--config.study.seeds=(0,)', '--only=paper,V1']
    run(sys.executable, '-m', 'qsnet_jax.main', '--mode=study', *common, f'--workdir={tmp_path}/a',
        f'--results={tmp_path}/a')  # fmt: skip
    here = ('--local', '--gpus=0', f'--logs={tmp_path}/logs', f'--workdir={tmp_path}/b', f'--results={tmp_path}/b')
    output = run(*slurm[:2], *common, *here)
    assert output.count('done') == 2
    assert scores(tmp_path / 'a') == scores(tmp_path / 'b') and len(scores(tmp_path / 'a')) == 2
    output = run(*slurm[:2], *common, *here, '--config.study.seeds=(7,)', '--only=V1', '--gpus=1', status=1,
                 JAX_PLATFORMS='cuda')  # fmt: skip
    assert f'V1-7: failed with status 1, log in {tmp_path}/logs/V1-7.log' in output
    log = (tmp_path / 'logs' / 'V1-7.log').read_text()
    assert 'error: ' in log and 'JAX_PLATFORMS=cuda' in log and 'Traceback' not in log


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


@pytest.mark.parametrize('script, platform', [('gpu', 'cuda'), ('local', 'cpu'), ('release', 'cuda')])
def test_scripts_say_what_they_compute_on(script, platform, tmp_path):
    """JAX is told, and by the user's own choice first; where a GPU does not work nothing goes on on the CPU."""
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\necho "on $JAX_PLATFORMS"\nexit 143\n')
    python.chmod(stat.S_IRWXU)
    environment = {key: value for key, value in os.environ.items() if key != 'JAX_PLATFORMS'}
    environment['PATH'] = f'{tmp_path}:{environment["PATH"]}'
    for own, expected in (({}, platform), ({'JAX_PLATFORMS': 'rocm'}, 'rocm')):
        done = subprocess.run(
            [ROOT / 'launch' / f'{script}.sh', tmp_path], env={**environment, **own}, capture_output=True, text=True
        )
        assert done.returncode == 143 and done.stdout.splitlines() == [f'on {expected}']  # as of SIGTERM


@pytest.mark.parametrize('script', ['gpu', 'local', 'release'])
def test_scripts_refuse_flags_whose_value_stands_alone(script, tmp_path):
    """Which the studies would take, while the script looked for rows and weights elsewhere."""
    (tmp_path / 'python').write_text('#!/bin/sh\necho run\n')
    (tmp_path / 'python').chmod(stat.S_IRWXU)
    path = f'{tmp_path}:{os.environ["PATH"]}'
    words = run(ROOT / 'launch' / f'{script}.sh', tmp_path, '--results', 'mine', status=1, PATH=path)
    assert words == 'error: write flags as --name=value, not mine\n'


def test_weights_are_taken_from_where_the_runs_lie(tmp_path):
    """Those of --workdir take their place, of the last stretch there; what is not there is said."""
    copy, runs = tmp_path / 'copy', tmp_path / 'runs'
    for folder in (copy / 'launch', copy / 'qsnet_jax/weights', copy / 'runs/release-wide/light-0', tmp_path / 'bin'):
        folder.mkdir(parents=True)
    for name in ('release.sh', 'flags.sh'):
        shutil.copy(ROOT / 'launch' / name, copy / 'launch')
    (copy / 'runs/release-wide/light-0/weights.safetensors').write_text('older')
    for name in ('default', 'fourth', 'heavy', 'heavy_further'):
        (runs / f'{name}-0').mkdir(parents=True)
        (runs / f'{name}-0/weights.safetensors').write_text(name)
    (tmp_path / 'bin/python').write_text('#!/bin/sh\n')
    (tmp_path / 'bin/python').chmod(stat.S_IRWXU)
    path = f'{tmp_path / "bin"}:{os.environ["PATH"]}'
    output = run(copy / 'launch/release.sh', tmp_path, 'wide', f'--workdir={runs}', PATH=path)
    placed = {file.name: file.read_text() for file in (copy / 'qsnet_jax/weights').iterdir()}
    assert placed == {'default.safetensors': 'fourth', 'heavy.safetensors': 'heavy_further'}
    missing = [line for line in output.splitlines() if line.startswith('not found: ')]
    absent = ('further', 'longer', 'fifth', 'sixth', 'seventh', 'light', 'light_further')
    expected = [f'{runs}/{name}-0/weights.safetensors' for name in absent]
    assert [line.split()[2].rstrip(',') for line in missing] == expected
