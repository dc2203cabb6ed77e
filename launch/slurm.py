"""A study as a Slurm job array, one task per variant and seed that has no row yet (extra [slurm]).

  python launch/slurm.py --config=configs/losses.py --config.data.root=PAIRS --partition=gpu --gpus=1 --hours=24

The flags of the study itself go to `python -m qsnet_jax.main --mode=study`. A job that is preempted or
runs out of time saves its state, is queued again and goes on. With several nodes or GPUs, one process per GPU trains as
one. --dry_run prints what would be submitted, --local runs it here, without Slurm, one task after the other.
"""

import contextlib
import os
import pathlib
import shlex
import signal
import subprocess
import sys

import submitit
from absl import app, flags
from ml_collections import config_flags

from qsnet_jax import UserError
from qsnet_jax.training import study

GRACE = 300  # seconds that a job has to save itself
TRIES = 1000  # times that a job may run out of time and be queued again

_CONFIG = config_flags.DEFINE_config_file('config', None, 'A study, such as configs/losses.py.')
_RESULTS = flags.DEFINE_string('results', 'results', 'Folder for rows.')
flags.DEFINE_string('workdir', None, 'Folder of the runs; as for --mode=study.')
flags.DEFINE_string('compilation_cache', None, 'Folder that keeps what XLA compiled, shared by all tasks.')
_PARTITION = flags.DEFINE_string('partition', None, "Slurm's partition; the cluster's default without.")
_NODES = flags.DEFINE_integer('nodes', 1, 'Nodes of each run.', lower_bound=1)
_GPUS = flags.DEFINE_integer('gpus', 1, 'GPUs, and processes, per node; 0 for one process on CPUs.', lower_bound=0)
_CPUS = flags.DEFINE_integer('cpus', 8, 'CPU cores per process.', lower_bound=1)
_HOURS = flags.DEFINE_integer('hours', 24, 'Time limit of a job; it is queued again until it is done.', lower_bound=1)
_AT_ONCE = flags.DEFINE_integer('at_once', 16, 'Jobs that run at the same time.', lower_bound=1)
_ONLY = flags.DEFINE_string('only', None, 'These variants alone, as in V1,V2.')
_LOGS = flags.DEFINE_string('logs', 'runs/slurm', 'Folder for the logs of the jobs.')
_LOCAL = flags.DEFINE_bool('local', False, 'Runs the tasks on this machine.')
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Prints what would be submitted.')
_OWN = (
    *('only', 'partition', 'nodes', 'gpus', 'cpus', 'hours', 'at_once', 'logs'),
    *('local', 'nolocal', 'dry_run', 'nodry_run'),
)


class Task:
    """One command; when Slurm wants the node back, it is told to save, and the task is queued again."""

    def __init__(self, command: list[str]):
        self.command = command
        self.process: subprocess.Popen | None = None

    def __call__(self) -> None:
        self.process = subprocess.Popen(self.command)
        status = self.process.wait()
        if status:
            raise RuntimeError(f'{shlex.join(self.command)} ended with status {status}.')

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What submitit calls when the job's time is up or it is preempted."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            # This runs in a signal handler, perhaps within wait(), whose lock it must not ask for.
            with contextlib.suppress(ChildProcessError):  # it had ended before
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(Task(self.command))


def commands(arguments: list[str], is_distributed: bool) -> list[list[str]]:
    """What each task runs: the study, limited to one variant and seed that has no row."""
    config, results = _CONFIG.value, pathlib.Path(_RESULTS.value)
    missing = [run for run in study.plan(config, _ONLY.value) if not study.is_done(config, *run, results)]
    base = [sys.executable, '-m', 'qsnet_jax.main', '--mode=study', *arguments]
    base += ['--distributed=auto'] * is_distributed
    return [[*base, f'--only={name}', f'--config.study.seeds=({seed},)'] for name, seed in missing]


def main(arguments: list[str]) -> int:
    forwarded = [each for each in sys.argv[1:] if each.lstrip('-').partition('=')[0] not in _OWN]
    processes = _NODES.value * max(_GPUS.value, 1)
    try:
        loose = [each for each in sys.argv[1:] if not each.startswith('-')]  # absl takes --gpus 4, jobs would get the 4
        if _CONFIG.value is None or len(arguments) > 1 or loose:
            raise UserError('Give --config=configs/STUDY.py, and flags as --name=value.')
        tasks = commands(forwarded, is_distributed=processes > 1 and not _LOCAL.value)
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    parameters = {
        'nodes': _NODES.value,
        'tasks_per_node': max(_GPUS.value, 1),
        'cpus_per_task': _CPUS.value,
        'timeout_min': 60 * _HOURS.value,
    }
    slurm = {'slurm_array_parallelism': _AT_ONCE.value, 'slurm_signal_delay_s': GRACE}
    slurm |= {'slurm_gres': f'gpu:{_GPUS.value}'} if _GPUS.value else {}
    slurm |= {'slurm_partition': _PARTITION.value} if _PARTITION.value else {}
    if _DRY_RUN.value or not tasks:
        print(f'{len(tasks)} tasks; {parameters | slurm}')
        for command in tasks:
            print(shlex.join(command))
        return 0
    if _LOCAL.value:
        executor = submitit.LocalExecutor(folder=_LOGS.value)
        executor.update_parameters(timeout_min=parameters['timeout_min'])
        return _run_here(executor, tasks)
    executor = submitit.AutoExecutor(folder=_LOGS.value, cluster='slurm', slurm_max_num_timeout=TRIES)
    executor.update_parameters(name='qsnet', **parameters, **slurm)
    with executor.batch():  # one job array
        jobs = [executor.submit(Task(command)) for command in tasks]
    print(f'submitted {len(jobs)} tasks as job {jobs[0].job_id.partition("_")[0]}; logs in {_LOGS.value}')
    return 0


def _run_here(executor: submitit.LocalExecutor, tasks: list[list[str]]) -> int:
    """One task after the other, because each takes the whole machine; returns 1 where one failed."""
    failures = 0
    for command in tasks:
        job = executor.submit(Task(command))
        error = job.exception()  # waits
        print(f'{shlex.join(command[-2:])}: {"failed" if error else "done"}, log in {job.paths.stdout}', flush=True)
        if error:
            print(error, file=sys.stderr)
            failures += 1
    return int(failures > 0)


if __name__ == '__main__':
    app.run(main)
