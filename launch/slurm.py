r"""A study as Slurm job arrays, one task per variant and seed without a row (extra [slurm]); see launch/README.md.

Three examples; the flags of the study itself go on to --mode=study, and --config takes what it takes there:

  python launch/slurm.py --config=losses --config.data.root=PAIRS --partition=gpu --gpus=1 --hours=24
  python launch/slurm.py --config=losses --config.data.root=PAIRS --nodes=2 --gpus=a100:4 --account=LAB \
      --mem=64G --minutes=90 --setup='module load cuda' --sbatch='--reservation=NIGHT' --dry_run
  python launch/slurm.py --config=losses --config.data.root=PAIRS --status

A job that is preempted, requeued or out of time saves itself, is queued again and goes on. Several GPUs are one process
each, and train one run together. --local runs the tasks here, without Slurm, one at a time on each of --gpus.
"""

import concurrent.futures
import os
import pathlib
import queue
import shlex
import signal
import subprocess
import sys
from typing import Any

from absl import app, flags

from qsnet_jax import UserError, command_line, devices, signals, spelling, storage, streams

try:
    on_interrupt = signal.getsignal(signal.SIGINT)
    if on_interrupt == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until libraries are loaded, which an exception would break
    devices.import_jax()
except UserError as fault:
    sys.exit(f'error: {fault}')
import jax

from qsnet_jax.training import cluster, planning, study

signal.signal(signal.SIGINT, on_interrupt)

TRIES = 1000  # times that a job may be queued again

_RESULTS = flags.DEFINE_string('results', 'results', 'Folder for rows.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the runs; as for --mode=study.')
flags.DEFINE_string('compilation_cache', None, 'Folder that keeps what XLA compiled, shared by all tasks.')
_ONLY = flags.DEFINE_string('only', None, 'These variants alone, as in V1,V2.')
_NODES = flags.DEFINE_integer('nodes', 1, 'Nodes of each run.', lower_bound=1)
_GPUS = flags.DEFINE_string('gpus', '1', 'GPUs per node, or TYPE:GPUS; 0 for CPUs. With --local: one run on each.')
_PROCESSES = flags.DEFINE_integer('processes', None, 'Processes per node; else one per GPU, or one.', lower_bound=1)
_CPUS = flags.DEFINE_integer('cpus', 8, 'CPU cores per process.', lower_bound=1)
_HOURS = flags.DEFINE_integer('hours', 24, 'Time limit of a job; it is queued again until it is done.', lower_bound=1)
_MINUTES = flags.DEFINE_integer('minutes', None, 'The same in minutes, instead of --hours.', lower_bound=1)
_GRACE = flags.DEFINE_integer('grace', 300, 'Seconds before that limit at which a job saves itself.', lower_bound=1)
_MEM = flags.DEFINE_string('mem', None, 'Memory per node, as in 64G.')
_PARTITION = flags.DEFINE_string('partition', None, "Slurm's partition; the cluster's default without.")
_ACCOUNT = flags.DEFINE_string('account', None, 'Whom the time is charged to.')
_QOS = flags.DEFINE_string('qos', None, 'Quality of service.')
_CONSTRAINT = flags.DEFINE_string('constraint', None, 'Features that nodes must have, as in "a100&ib".')
_EXCLUDE = flags.DEFINE_string('exclude', None, 'Nodes that are not used.')
_NODELIST = flags.DEFINE_string('nodelist', None, 'Nodes that must be used.')
_MAIL = flags.DEFINE_string('mail', None, 'Address that hears when all tasks have ended, or one has failed.')
_SETUP = flags.DEFINE_multi_string('setup', [], 'Shell line before the run, as in "module load cuda"; may be repeated.')
_SBATCH = flags.DEFINE_string('sbatch', '', 'Any other options of sbatch, as in "--key=value --flag".')
_AT_ONCE = flags.DEFINE_integer('at_once', 16, 'Jobs that run at the same time.', lower_bound=1)
_LOGS = flags.DEFINE_string('logs', 'runs/slurm', 'Folder for the logs of the jobs.')
_STATUS = flags.DEFINE_bool('status', False, 'Says how each run stands; submits nothing.')
_LOCAL = flags.DEFINE_bool('local', False, 'Runs the tasks on this machine.')
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Prints what would be submitted.')

_DETERMINISTIC = '--xla_gpu_deterministic_ops=true'  # on GPUs, or a resumed run would differ in its last digits

# Signals reach the study itself, which is the task that srun starts. It saves itself and ends with 128 + the signal.
# Slurm tells this shell too where it queues the job again by itself, or has cancelled it. Processes of one run end each
# other (rendezvous.py): srun, asked to, would send the others a SIGTERM, as if Slurm wanted the run to be queued again.
# It no longer inherits --cpus-per-task.
_BEFORE = "trap 'told=yes' TERM"
_AFTER = f"""status=$?
if [ $status = 143 ] || [ $status = 140 ]; then
  if [ -n "$told" ]; then
    echo "stopped by Slurm; where it queues the job again, the run goes on"
  elif [ "${{SLURM_RESTART_COUNT:-0}}" -ge {TRIES} ]; then
    echo "error: queued again {TRIES} times, and still not done. Give it more time: --hours."
  elif scontrol requeue "$SLURM_JOB_ID"; then
    echo "saved, and queued again"
  else
    echo "error: saved, but Slurm refused to queue the job again, see above. Submit the study again: it goes on."
  fi
elif [ $status -gt 128 ]; then
  echo "error: a process was killed by signal $((status - 128)) (memory? --mem). Submit the study again: it goes on\
 from its last checkpoint."
fi
exit $status"""


def become(command: list[str]) -> None:
    """Turns a task into its command, so that signals reach it; SIGUSR2 cannot end it before it knows what to do."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    os.execv(command[0], command)


def find_flags(arguments: list[str]) -> list[str]:
    """The flags that go on to the study; its seeds do not, for each task gets its own."""
    if loose := [each for each in arguments if not each.startswith('-')]:  # absl takes --gpus 4, jobs would get the 4
        raise UserError(f'{loose[0]!r} stands alone; write flags as --name=value.')
    valued = [each for each in arguments if not each.endswith('data.exclude=')]  # may be empty: no set is left out
    if empty := [each for each in valued if each.partition('=')[1:] == ('=', '')]:
        raise UserError(f'{empty[0]} has no value (a variable that is not set?); give one, or leave the flag out.')
    names = [each.lstrip('-').partition('=')[0] for each in arguments]
    kept = ('config', 'results', 'workdir', 'compilation_cache')
    return [
        each
        for each, name in zip(arguments, names, strict=True)
        if name in kept or name.startswith(('config.', 'noconfig.')) and name != 'config.study.seeds'
    ]


def commands(config: Any, runs: list[cluster.Run], forwarded: list[str], is_distributed: bool) -> list[list[str]]:
    """What each task runs: the study, limited to one variant and seed, without fields that the variant overrides."""
    base = [sys.executable, '-m', 'qsnet_jax.main', '--mode=study', *['--distributed=auto'] * is_distributed]
    made = []
    for name, seed in runs:
        own = planning.own_fields(config, name)
        fields = [each for each in forwarded if each.partition('=')[0].partition('config.')[2] not in own]
        made.append([*base, *fields, f'--only={name}', f'--config.study.seeds=({seed},)'])
    return made


def resources() -> dict[str, object]:
    """What submitit is told of a job."""
    gpus, gres = cluster.parse_gpus(_GPUS.value)
    processes = _PROCESSES.value or max(gpus, 1)
    if gpus and gpus % processes:
        raise UserError(f'--processes={processes} cannot share {gpus} GPUs equally.')
    minutes = _MINUTES.value or 60 * _HOURS.value
    environment = ['export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}']
    if gpus:
        environment = ['export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda}']
        environment += [f'export XLA_FLAGS="{_DETERMINISTIC} ${{XLA_FLAGS:-}}"']
    options = {
        'signal': f'TERM@{min(_GRACE.value, 60 * minutes // 2)}',
        'requeue': True,
        **cluster.parse_options(_SBATCH.value),
    }
    chosen = {
        'gres': gres if gpus else None,
        'mem': _MEM.value,
        'partition': _PARTITION.value,
        'account': _ACCOUNT.value,
        'qos': _QOS.value,
        'constraint': _CONSTRAINT.value,
        'exclude': _EXCLUDE.value,
        'nodelist': _NODELIST.value,
        'mail_user': _MAIL.value,
        'mail_type': 'END,FAIL' if _MAIL.value else None,
    }
    return {
        **{'job_name': 'qsnet', 'nodes': _NODES.value, 'ntasks_per_node': processes, 'cpus_per_task': _CPUS.value},
        **{'time': minutes, 'setup': [*environment, *_SETUP.value, _BEFORE], 'teardown': _AFTER.splitlines()},
        'srun_args': ['--kill-on-bad-exit=0', '--wait=0', f'--cpus-per-task={_CPUS.value}'],
        'stderr_to_stdout': True,
        'additional_parameters': options,
        **{name: value for name, value in chosen.items() if value is not None},
    }


def submit(config: Any, runs: list[cluster.Run], forwarded: list[str], workdir: pathlib.Path) -> int:
    """Submits what is not in the queue already, in as many arrays as this cluster needs."""
    try:
        import submitit
    except ImportError:
        raise UserError('submitit is not installed: pip install "qsnet-jax[slurm]".') from None
    parameters, logs = resources(), storage.expanded(_LOGS.value)
    is_distributed = int(str(parameters['nodes'])) * int(str(parameters['ntasks_per_node'])) > 1
    with cluster.claimed(workdir):
        jobs = cluster.find_jobs(workdir)
        queued = [run for run in runs if run in jobs and jobs[run].queued]
        free = [run for run in runs if run not in queued]
        if queued:
            names = ', '.join(f'{name}-{seed} (job {jobs[name, seed].name})' for name, seed in queued)
            if not free:
                raise UserError(f'All is in the queue already: {names}. --status says more; scancel takes jobs out.')
            print(f'{len(queued)} in the queue already and left alone: {names}')
        arrays = cluster.split(free, cluster.largest_array())
        parameters['array_parallelism'] = max(_AT_ONCE.value // len(arrays), 1)
        executor = submitit.SlurmExecutor(folder=logs)
        executor.update_parameters(**parameters)
        for number, array in enumerate(arrays):
            try:
                with executor.batch():
                    own = commands(config, array, forwarded, is_distributed)
                    tasks = [executor.submit(become, each) for each in own]
            except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
                words = cluster.one_line('\n'.join(each for each in str(error).splitlines() if 'sbatch: ' in each))
                raise UserError(f'Slurm refused array {number + 1} of {len(arrays)}: {words}') from error
            job = tasks[0].job_id.partition('_')[0]
            cluster.remember(workdir, job, array, logs)
            print(f'submitted {len(tasks)} tasks as job {job}; logs in {logs}')
    return 0


def run_here(config: Any, runs: list[cluster.Run], forwarded: list[str], workdir: pathlib.Path) -> int:
    """The tasks on this machine, one at a time or, with several GPUs, one on each; returns 1 where one failed.

    Those that start from what others leave come after these. After a signal the runs save themselves and no more start.
    """
    gpus, _ = cluster.parse_gpus(_GPUS.value)
    logs = storage.expanded(_LOGS.value)
    logs.mkdir(parents=True, exist_ok=True)
    free: queue.SimpleQueue[str] = queue.SimpleQueue()
    for device in cluster.visible_gpus(gpus) if gpus > 1 else ['']:
        free.put(device)

    def run(task: tuple[cluster.Run, list[str]]) -> bool:
        (name, seed), command = task
        device, log = free.get(), logs / f'{name}-{seed}.log'
        environment = {'JAX_PLATFORMS': 'cuda' if gpus else 'cpu', **os.environ}
        environment |= {'XLA_FLAGS': f'{_DETERMINISTIC} {os.environ.get("XLA_FLAGS", "")}'} if gpus else {}
        environment |= {'CUDA_VISIBLE_DEVICES': device} if gpus > 1 else {}
        try:
            status = 1 if relay.came else start(command, environment, log)
        finally:
            free.put(device)
        if not relay.came:
            end = f'failed with status {status}' if status else 'done'
            print(f'{name}-{seed}: {end}, log in {log}\n', end='', flush=True)  # in one piece, for others write too
        return status == 0

    def start(command: list[str], environment: dict[str, str], log: pathlib.Path) -> int:
        with log.open('a') as file:  # in a group of its own, or Ctrl-C would reach the run twice, which ends it unsaved
            child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=file,
                                     stderr=subprocess.STDOUT, process_group=0)  # fmt: skip
            relay.add(child)
            return child.wait()

    ended: list[bool] = []
    with signals.passed_on() as relay, concurrent.futures.ThreadPoolExecutor(max(gpus, 1)) as pool:
        while runs and not relay.came:
            later = planning.waiting(config, runs, workdir)
            now = [each for each in runs if each not in later]
            ended += pool.map(run, zip(now, commands(config, now, forwarded, False), strict=True))
            runs = list(later)
    return signals.end(relay.came[0]) if relay.came else int(not all(ended))


def launch(arguments: list[str]) -> int:
    """What the flags ask for. Raises UserError."""
    forwarded = find_flags(arguments)
    config, results = flags.FLAGS.config, storage.expanded(_RESULTS.value)
    if config is None:
        raise UserError('Give --config=NAME or FILE.py of a study, as --config=losses; --help has examples.')
    every = planning.plan(config, _ONLY.value)
    workdir = storage.expanded(_WORKDIR.value or f'runs/{config.study.size}')
    if _STATUS.value:
        print(cluster.status(config, every, results, workdir))
        return 0
    runs = [run for run in every if not study.is_done(config, *run, results)]
    if not runs:
        print(f'all {len(every)} runs have their rows in {results / "rows"}')
        return 0
    parameters = resources()
    processes = int(str(parameters['nodes'])) * int(str(parameters['ntasks_per_node']))
    gpus, _ = cluster.parse_gpus(_GPUS.value)
    cluster.check(config, runs, 1 if _LOCAL.value else max(_NODES.value * gpus, processes), workdir)
    planning.say_overridden(config, every, command_line.given_fields(flags.FLAGS))
    if not _LOCAL.value:
        later = planning.waiting(config, runs, workdir)
        for (name, seed), (other, its_seed) in later.items():
            print(f'{name}-{seed} starts from what {other}-{its_seed} leaves: submit again when that is done')
        runs = [each for each in runs if each not in later]
    if _DRY_RUN.value:
        print(f'{len(runs)} tasks; {parameters}')
        for command in commands(config, runs, forwarded, processes > 1 and not _LOCAL.value):
            print(shlex.join(command))
        return 0
    signals.keep('What was begun is kept; the same command goes on.')
    return (run_here if _LOCAL.value else submit)(config, runs, forwarded, workdir)


def main(_: list[str]) -> int:
    jax.config.update('jax_platforms', 'cpu')  # a login node has no GPU, and needs none
    spelling.print_escaped()
    signals.leave(streams.with_patient_output(_end))


def _end() -> int:
    """The exit status, with one line for what is wrong."""
    try:
        return launch(sys.argv[1:])
    except (UserError, OSError) as error:
        print(spelling.shown(f'error: {storage.explained(error)}'), file=sys.stderr)
    return 1


def _parse(arguments: list[str]) -> list[str]:
    """Flags, and the config as `qsnet` finds it; what is not there or not understood is one line, no traceback."""
    config = None
    try:
        source, rest = command_line.take(arguments, 'config')
        if source:
            config = command_line.define_config(source, rest, flags.FLAGS)
            rest = command_line.last_of_tuples(rest, config)
        else:
            flags.DEFINE_string(
                'config', None, 'A study: NAME of the package, or FILE.py; with :small or :wide for less.'
            )
        if {'--help', '-help', '-h', '-?'} & {*rest}:
            print(__doc__, flags.FLAGS.main_module_help(), sep='\n')
            sys.exit()
        left = flags.FLAGS(rest)
        command_line.check_tuples(rest, config, source)
        return left
    except UserError as error:
        sys.exit(f'error: {error}')
    except (flags.Error, AttributeError, TypeError, ValueError) as error:
        sys.exit(f'error: {command_line.wrong_value(str(error), config)}')


if __name__ == '__main__':
    try:
        app.run(main, flags_parser=_parse)
    except KeyboardInterrupt:
        sys.exit(signals.end(signal.SIGINT))
