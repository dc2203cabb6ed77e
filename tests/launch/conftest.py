"""A Slurm cluster of one host and two nodes, on loopback addresses, which ends with the test that asked for it."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

import pytest

DAEMONS = ('munged', 'slurmctld', 'slurmd')
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/{tracker}
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=30
MessageTimeout=60
BatchStartTimeout=60
JobRequeue=0
MaxArraySize=3
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 RealMemory=2000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16 RealMemory=2000 State=UNKNOWN
PartitionName=usual Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
CGROUP = 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\n'


class Cluster:
    """Daemons of a cluster, and its commands."""

    def __init__(self, folder: pathlib.Path, tracker: str):
        self.folder, self.environment = folder, {**os.environ, 'SLURM_CONF': str(folder / 'slurm.conf')}
        for name in ('munge', 'state', 'spool.n1', 'spool.n2'):
            (folder / name).mkdir(mode=0o755)
        with contextlib.ExitStack() as stack:  # free ports, all different
            sockets = [stack.enter_context(socket.create_server(('127.0.0.1', 0))) for _ in range(3)]
            ports = [each.getsockname()[1] for each in sockets]
        config = CONFIG.format(folder=folder, host=socket.gethostname().split('.')[0], ports=ports, tracker=tracker)
        (folder / 'slurm.conf').write_text(config)
        (folder / 'cgroup.conf').write_text(CGROUP)
        hosts = pathlib.Path('/etc/hosts').read_text()
        (folder / 'hosts').write_text(f'{hosts.rstrip()}\n127.0.0.1 n1 n2 {socket.gethostname()}\n')

    def start(self) -> None:
        """Starts the daemons and waits for the nodes. Raises CalledProcessError or TimeoutError where they do not."""
        munge = self.folder / 'munge'
        (munge / 'key').write_bytes(os.urandom(128))
        (munge / 'key').chmod(0o600)
        places = [f'--{name}-file={munge}/{name}' for name in ('key', 'log', 'pid', 'seed')]
        self('munged', '--force', f'--socket={munge}/socket', *places)
        self('slurmctld')
        for node in ('n1', 'n2'):  # which must resolve, for processes meet at the first of a job's nodes
            script = f'mount --bind {self.folder}/hosts /etc/hosts && exec slurmd -N {node}'
            self('unshare', '--mount', 'sh', '-c', script)
        self.wait(lambda: self('sinfo', '--noheader', '--Node', '--format=%T').split() == ['idle'] * 4, 180)

    def stop(self) -> None:
        """Ends all jobs, then all daemons, each by its number."""
        with contextlib.suppress(subprocess.CalledProcessError, TimeoutError):
            for job in self('squeue', '--noheader', '--format=%A').split():
                self('scancel', '--signal=KILL', '--full', job)
                self('scancel', job)
            self.wait(lambda: not self('squeue', '--noheader'), 60)
        for name in ('slurmd.n1.pid', 'slurmd.n2.pid', 'slurmctld.pid', 'munge/pid'):
            if (self.folder / name).exists():
                self._end(int((self.folder / name).read_text()))

    def _end(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            for _ in range(100):
                time.sleep(0.1)
                os.kill(pid, 0)
            os.kill(pid, signal.SIGKILL)

    def __call__(self, *command: str) -> str:
        """What a command prints. Raises CalledProcessError."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout

    def wait(self, is_time, seconds=1200) -> None:
        """Waits until something is so."""
        until = time.monotonic() + seconds
        while not is_time():
            if time.monotonic() > until:
                raise TimeoutError(f'{self("squeue")}\n{self("scontrol", "show", "job")}')
            time.sleep(0.3)

    def release(self, job: str) -> None:
        """Starts a job again that would be held for two minutes, and waits until it runs."""

        def state() -> str:
            return self('squeue', '--noheader', '--array', f'--jobs={job}', '--format=%T').strip()

        def is_on() -> bool:
            if state() == 'PENDING':
                with contextlib.suppress(subprocess.CalledProcessError):  # it has begun since
                    self('scontrol', 'update', f'JobId={job}', 'StartTime=now')
                time.sleep(1)
            return state() == 'RUNNING'

        self.wait(lambda: state() == 'PENDING')
        self.wait(lambda: 'completing' not in self('sinfo', '--noheader', '--Node', '--format=%T'))
        time.sleep(3)  # a node that has not yet put the job's last start away refuses the next
        self.wait(is_on)


@pytest.fixture
def cluster(tmp_path_factory, request):
    """A running cluster that tracks processes as the test's parameter says; where there can be none the test skips."""
    missing = [name for name in (*DAEMONS, 'unshare') if not shutil.which(name)]
    if os.geteuid() or missing:
        pytest.skip(f'a cluster needs root and Slurm (apt-get install slurm-wlm munge); missing: {missing or "root"}')
    if subprocess.run(['unshare', '--mount', 'true'], capture_output=True).returncode:
        pytest.skip('a cluster needs mounts of its own, which this machine does not allow')
    made = Cluster(tmp_path_factory.mktemp('slurm'), request.param)
    try:
        try:
            made.start()
        except (subprocess.CalledProcessError, TimeoutError) as error:
            pytest.skip(f'no cluster with proctrack/{request.param} on this machine: {error}')
        yield made
    finally:
        made.stop()
