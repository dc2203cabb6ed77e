"""A study on a Slurm cluster: what is checked before it is submitted, remembered then, and asked of the queue later."""

import contextlib
import dataclasses
import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from qsnet_jax import UserError, spelling, storage
from qsnet_jax.training import planning, study

Run = tuple[str, int]  # variant and seed
OWN = {  # options of sbatch that the launcher gives by itself, and its flag for them
    **{'nodes': '--nodes', 'ntasks': '--processes', 'ntasks-per-node': '--processes', 'cpus-per-task': '--cpus'},
    **{'gres': '--gpus', 'time': '--minutes or --hours', 'output': '--logs', 'error': '--logs', 'array': '--at_once'},
    **{'signal': '--grace', 'requeue': 'no flag, for it always is', 'open-mode': 'no flag, for logs are added to'},
}
_RUNNING = ('RUNNING', 'COMPLETING', 'CONFIGURING', 'STAGE_OUT', 'SIGNALING')


@dataclasses.dataclass(frozen=True)
class Job:
    """The last job that a run was submitted as; `queued` is Slurm's line about it, None where it has ended."""

    name: str
    log: str
    queued: tuple[str, str] | None = None


def check(config: Any, runs: list[Run], devices: int, workdir: pathlib.Path) -> None:
    """Raises UserError where a job would: a value that no run can use, files or weights that are not there."""
    planning.check(config, runs, workdir)
    for name, seed in runs:
        batch = planning.variant(config, name, seed).data.batch
        if batch % devices:
            raise UserError(
                f'{name}: data.batch is {batch} and {devices} devices share it; it must be a multiple of that. '
                'Change --config.data.batch, --nodes, --gpus or --processes.'
            )


def parse_gpus(text: str) -> tuple[int, str]:
    """The number of GPUs per node and the value of --gres for 'N' or 'TYPE:N'; ('a100:4' -> 4, 'gpu:a100:4')."""
    match = re.fullmatch(r'(?:[A-Za-z][\w.-]*:)?(\d+)', text)
    if not match:
        raise UserError(f'--gpus={text} is neither a number of GPUs per node nor TYPE:NUMBER, such as a100:4.')
    return int(match[1]), f'gpu:{text}'


def visible_gpus(count: int) -> list[str]:
    """Names of `count` GPUs of this machine, of those alone that CUDA_VISIBLE_DEVICES leaves where it is set."""
    told = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = [str(index) for index in range(count)] if told is None else [each for each in told.split(',') if each]
    if len(names) < count:
        raise UserError(f'--gpus={count}, and CUDA_VISIBLE_DEVICES={told} leaves {len(names)}. Change one of the two.')
    return names[:count]


def parse_options(text: str) -> dict[str, str | bool]:
    """{'key': 'value'} of '--key=value --flag', for sbatch. Raises UserError for what the launcher itself gives."""
    options: dict[str, str | bool] = {}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f'--sbatch={text} cannot be taken apart: {error}. Close every quotation mark.') from error
    for word in words:
        match = re.fullmatch(r'--([a-z][a-z-]*)(?:=(.*))?', word)
        if not match:
            raise UserError(
                f"--sbatch has {word!r}; write options of sbatch in full, as in --sbatch='--key=value ...'."
            )
        if match[1] in OWN:
            raise UserError(f'--sbatch has --{match[1]}, which the launcher gives itself: use {OWN[match[1]]}.')
        options[match[1]] = True if match[2] is None else match[2]
    return options


def ask(*command: str) -> str:
    """What a command of Slurm prints. Raises UserError with its words, in one line, where it fails."""
    try:
        encoding = sys.getfilesystemencoding()  # folders may have names that the locale cannot decode
        done = subprocess.run(command, capture_output=True, encoding=encoding, errors='surrogateescape', timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = 'there is no such program' if isinstance(error, FileNotFoundError) else error
        raise UserError(f'{command[0]} does not work here: {reason}. Without Slurm, --local runs the tasks.') from error
    if done.returncode:
        raise UserError(f'{shlex.join(command)} failed: {one_line(done.stderr or done.stdout)}')
    return done.stdout


def one_line(text: str) -> str:
    """Slurm's errors without who says it and where lines end; without commands that were echoed."""
    lines = [re.sub(r'^\w+: (error: |fatal: )?', '', line.strip()) for line in text.splitlines() if line.strip()]
    return '; '.join(dict.fromkeys(lines)) or 'it did not say why'


def largest_array() -> int:
    """How many tasks one job array may have on this cluster."""
    match = re.search(r'^MaxArraySize\s*=\s*(\d+)', ask('scontrol', 'show', 'config'), re.MULTILINE)
    return int(match[1]) if match else 1001


def split(runs: list[Any], most: int) -> list[list[Any]]:
    """Runs in arrays of at most `most`, as equal as can be."""
    count = -(-len(runs) // max(most, 1))
    return [runs[index * len(runs) // count : (index + 1) * len(runs) // count] for index in range(count)]


@contextlib.contextmanager
def claimed(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps a second submission for this folder waiting until the first is in the queue."""
    with storage.writable(workdir / 'submitted'), storage.locked(workdir / 'submitted' / '.lock', waits=True):
        yield


def remember(workdir: pathlib.Path, job: str, runs: list[Run], logs: pathlib.Path) -> None:
    """Writes down which runs a job array does."""
    content = {'runs': [list(run) for run in runs], 'logs': str(logs.absolute())}
    storage.write_json(workdir / 'submitted' / f'{job}.json', content)


def find_jobs(workdir: pathlib.Path) -> dict[Run, Job]:
    """The last job of every run that was ever submitted for this folder."""
    paths = [path for path in storage.listed(workdir / 'submitted', '[0-9]*.json') if path.stem.isdecimal()]
    paths.sort(key=lambda path: int(path.stem))
    queue = _queue([path.stem for path in paths])
    jobs: dict[Run, Job] = {}
    for path in paths:
        try:
            runs, logs = _read_submitted(path)
        except storage.Damaged as error:
            print(spelling.shown(f'left out: {error}'))
            continue
        for index, (name, seed) in enumerate(runs):
            identity = f'{path.stem}_{index}' if len(runs) > 1 else path.stem
            job = Job(identity, os.path.relpath(f'{logs}/{identity}_0_log.out'), queue.get(identity))
            before = jobs.get((name, seed))
            if before is None or before.queued is None or job.queued:
                jobs[name, seed] = job
    return jobs


def _read_submitted(path: pathlib.Path) -> tuple[list[Run], str]:
    """What `remember` wrote: runs and the folder of their logs. Raises Damaged where it is something else."""
    stored = storage.read_json(path, ('runs', 'logs'), 'What became of its jobs, squeue tells.')
    runs, logs = stored['runs'], stored['logs']
    is_whole = isinstance(runs, list) and all(
        isinstance(run, list) and [type(part) for part in run] == [str, int] for run in runs
    )
    if not is_whole or not isinstance(logs, str):
        raise storage.Damaged(f'{path} does not say which runs were submitted.')
    return [(name, seed) for name, seed in runs], logs


def _queue(jobs: list[str]) -> dict[str, tuple[str, str]]:
    """{'12_1': (state, place or reason)} of all tasks of these jobs that Slurm has not ended yet."""
    if not jobs:
        return {}
    command = ('squeue', '--noheader', '--array', f'--jobs={",".join(jobs)}', '--format=%F|%K|%T|%M|%R')
    try:
        lines = ask(*command).splitlines()
    except UserError as error:
        if 'Invalid job id' in str(error):  # all of them ended long ago
            return {}
        raise
    found = {}
    for line in lines:
        job, index, state, time, reason = line.strip().split('|', 4)
        place = f'on {reason}, {time}' if state in _RUNNING else reason
        found[f'{job}_{index}' if index.isdecimal() else job] = (state, place)
    return found


def status(config: Any, runs: list[Run], results: pathlib.Path, workdir: pathlib.Path) -> str:
    """How each run of a study stands, and how many stand how: by its row, and by the queue where it has none."""
    jobs, lines, counts = find_jobs(workdir), [], dict.fromkeys(('done', 'running', 'waiting', 'failed', 'missing'), 0)
    for name, seed in runs:
        state, words = _state(config, (name, seed), results, jobs.get((name, seed)))
        counts[state] += 1
        lines.append(f'{f"{name}-{seed}":24} {state:8} {words}'.rstrip())
    lines.append(f'{len(runs)} runs: ' + ', '.join(f'{count} {state}' for state, count in counts.items()))
    return '\n'.join(lines)


def _state(config: Any, run: Run, results: pathlib.Path, job: Job | None) -> tuple[str, str]:
    """done, running, waiting, failed or missing, and what more there is to say."""
    if study.is_done(config, *run, results):
        return 'done', str(study.row_path(config, *run, results))
    if job and job.queued:
        state, place = job.queued
        return ('running' if state in _RUNNING else 'waiting'), f'job {job.name} {place}'
    path = study.row_path(config, *run, results)
    if path.exists():
        with contextlib.suppress(storage.Damaged):
            return 'failed', str(storage.read_json(path, ('failed',))['failed'])
        return 'missing', 'its row is damaged and is made anew'
    if job:
        return 'failed', f'job {job.name} has ended without a row: {_last_line(pathlib.Path(job.log))}; {job.log}'
    return 'missing', ''


def _last_line(log: pathlib.Path) -> str:
    """The last error in a log, or its last line."""
    if not log.is_file():
        return 'there is no log'
    lines = [line for line in re.split(r'[\r\n]+', log.read_text(errors='replace')[-20_000:]) if line.strip()]
    errors = [line for line in lines if line.startswith(('error: ', 'slurmstepd'))]
    return (errors or lines or ['its log is empty'])[-1]
