"""Processes of one run that meet before JAX starts and end together: who is missing or gone is said in one line.

JAX's own service ends a process natively, with a stack, where another does not come, and notices a killed one after a
minute and a half. So the processes first meet over plain TCP at the address that JAX uses afterwards, and keep these
connections: the system closes them the moment a process dies, and the others hear of it.
"""

import atexit
import contextlib
import dataclasses
import os
import re
import selectors
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from qsnet_jax import UserError

WAIT = 300  # seconds that processes wait for each other
GRACE = 2.0  # seconds in which a process that hears of another's end may still say what itself found
GREETING = 'qsnet_jax'
_SLURM = ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID')


@dataclasses.dataclass(frozen=True)
class Place:
    """Where `count` processes meet, and which of them this one is; `devices` of this machine are its own, None: all."""

    host: str
    port: int
    count: int
    index: int
    devices: list[int] | None = None

    @property
    def address(self) -> str:
        """HOST:PORT, with the brackets that numbers of IPv6 need."""
        return f'[{self.host}]:{self.port}' if ':' in self.host else f'{self.host}:{self.port}'


def find_in_slurm(environment: Mapping[str, str]) -> Place | None:
    """The place that Slurm's variables name, as JAX would choose it; None outside a job step."""
    if not all(name in environment for name in _SLURM):
        return None
    job, nodes, count, index, local = (environment[name] for name in _SLURM)
    first = re.match(r'(?:[^,\[]|\[[^\]]*\])+', nodes)
    host = re.sub(r'\[([^,\-\]]+)[^\]]*\]', r'\1', first.group() if first else nodes)  # n[1-2,7] begins with n1
    port = int(environment.get('JAX_COORDINATOR_PORT', 61440 + int(job) % 4096))
    together = int(re.split(r'\D', environment.get('SLURM_STEP_TASKS_PER_NODE', count))[0])  # 4(x2): 4 on each of 2
    return Place(host, port, int(count), int(index), _share(environment, int(local), together))


def _share(environment: Mapping[str, str], local: int, together: int) -> list[int] | None:
    """Which of the visible GPUs belong to process `local` of those on this machine; None for all, as on CPUs."""
    visible = [each for each in environment.get('CUDA_VISIBLE_DEVICES', '').split(',') if each]
    if together == 1 or len(visible) < 2:  # with one visible, Slurm has shared them out
        return None
    share = len(visible) // together
    if not share:
        raise UserError(f'{together} processes on this machine share {len(visible)} GPUs; give each at least one.')
    return list(range(local * share, (local + 1) * share))


def meet(place: Place, wait: float = WAIT) -> 'Tether':
    """Returns when all processes have come. Raises UserError that says who has not, or why they cannot meet."""
    if not 0 <= place.index < place.count or not 0 < place.port < 2**16:
        raise UserError(
            f'Process {place.index} of {place.count} at port {place.port}: processes are numbered from 0 to '
            f'{place.count - 1}, and ports go to 65535.'
        )
    others = f'process{"es" * (place.count > 2)} {_span(range(1, place.count))} at port {place.port}'
    whom = f'process 0 at {place.address}' if place.index else others
    print(f'process {place.index} of {place.count}: waiting up to {wait:.0f} s for {whom}', flush=True)
    until = time.monotonic() + wait
    return Tether(place, _join(place, until, wait) if place.index else _gather(place, until, wait))


def _span(indices: Any) -> str:
    """'1', '1 to 3' or '1, 3'."""
    listed = sorted(indices)
    if len(listed) > 2 and listed[-1] - listed[0] == len(listed) - 1:
        return f'{listed[0]} to {listed[-1]}'
    return ', '.join(map(str, listed))


def _gather(place: Place, until: float, wait: float) -> dict[int, socket.socket]:
    """What process 0 does: its connections to all others, once they are complete."""
    connections: dict[int, socket.socket] = {}
    try:
        server = _listen(place.port)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UserError(
            f'Port {place.port} of {socket.gethostname()}, where the processes were to meet, is not free: {reason}. '
            'Name another: --distributed=HOST:PORT,..., or JAX_COORDINATOR_PORT with --distributed=auto.'
        ) from error
    with server:
        while len(connections) < place.count - 1:
            server.settimeout(max(until - time.monotonic(), 0.01))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                missing = _span(set(range(1, place.count)) - connections.keys())
                plural = 'es' * (place.count - 1 - len(connections) > 1)
                where = f'{place.address} in {wait:.0f} s'
                text = f'Process{plural} {missing} of {place.count} did not come to {where}'
                _tell(connections, f'no {text}')
                raise UserError(f'{text}. Start all with the same command but for INDEX, and see their logs.') from None
            index = _greet(connection, place, connections)
            if index:
                connections[index] = connection
            else:
                connection.close()
    _tell(connections, 'go')
    return connections


def _listen(port: int) -> socket.socket:
    """A socket for all addresses of this machine."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(('', port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(('', port))


def _greet(connection: socket.socket, place: Place, known: Mapping[int, Any]) -> int:
    """Number of the process that has come; 0 for a stranger, and for one that does not belong here, which is told."""
    with contextlib.suppress(OSError):  # also one that says nothing
        connection.settimeout(5)
        match = re.fullmatch(rf'{GREETING} (\d+) (\d+)', _read_line(connection))
        if not match:
            return 0
        index, count = int(match[1]), int(match[2])
        if count != place.count:
            connection.sendall(f'no This is process {index} of {count}, and process 0 one of {place.count}\n'.encode())
        elif index in known or not 0 < index < count:
            connection.sendall(f'no A process {index} has come before\n'.encode())
        else:
            return index
    return 0


def _join(place: Place, until: float, wait: float) -> dict[int, socket.socket]:
    """What all others do: the connection to process 0, once it has said that all are there."""
    reason = 'nobody answered'
    while (left := until - time.monotonic()) > 0:
        try:
            connection = socket.create_connection((place.host, place.port), timeout=left)
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(min(0.3, left))
            continue
        try:
            connection.sendall(f'{GREETING} {place.index} {place.count}\n'.encode())
            connection.settimeout(max(until - time.monotonic(), 0) + 5)  # process 0 says who is missing
            answer = _read_line(connection)
        except OSError as error:  # the service of a run that ends, or another program
            answer, reason = '', error.strerror or str(error)
        if answer == 'go':
            return {0: connection}
        connection.close()
        if answer.startswith('no '):
            raise UserError(f'{answer[3:].strip()}. Start all with the same command but for INDEX.')
        reason = 'what answered there is no process 0' if answer else reason
        time.sleep(0.3)
    raise UserError(
        f'Process {place.index} of {place.count} waited {wait:.0f} s for process 0 at {place.address}: '
        f'{reason}. Start process 0 with the same command, and see its log.'
    )


def relay(place: Place) -> str:
    """The address of JAX's service for this process: in process 0 its own, in others one that leads there.

    JAX's client aborts with a stack as soon as the connection to its service breaks, often before the line of the
    `Tether` is said. A connection through here goes silent instead.
    """
    if not place.index:
        return place.address
    server = socket.create_server(('127.0.0.1', 0))
    threading.Thread(target=_accept, args=(server, place), daemon=True).start()
    return f'127.0.0.1:{server.getsockname()[1]}'


def _accept(server: socket.socket, place: Place) -> None:
    """Leads every connection on to process 0."""
    kept = []  # so that they stay open
    while True:
        near, _ = server.accept()
        try:
            far = socket.create_connection((place.host, place.port), timeout=10)
        except OSError:  # the service has not begun; JAX tries again
            near.close()
            continue
        far.settimeout(None)
        kept.append((near, far))
        for pair in ((near, far), (far, near)):
            threading.Thread(target=_pass_on, args=pair, daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Copies what comes until there is no more; the other side is not told."""
    with contextlib.suppress(OSError):
        while content := source.recv(2**16):
            sink.sendall(content)


def _read_line(connection: socket.socket) -> str:
    """What comes before the end of a line, and nothing of what follows it."""
    line = b''
    while len(line) < 999 and not line.endswith(b'\n'):
        byte = connection.recv(1)
        if not byte:
            break
        line += byte
    return line.decode(errors='replace').rstrip('\n')


def _tell(connections: Mapping[int, socket.socket], text: str) -> None:
    """Says a line to all who still listen."""
    for connection in connections.values():
        with contextlib.suppress(OSError):
            connection.sendall(f'{text}\n'.encode())


class Tether:
    """Ends this process in one line when another of the run is gone, and tells the others when this one fails."""

    def __init__(self, place: Place, connections: dict[int, socket.socket]):
        self._place, self._connections = place, connections
        self._lost = threading.Event()
        for connection in connections.values():
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine without power closes nothing
            for option, value in (('TCP_KEEPIDLE', 20), ('TCP_KEEPINTVL', 10), ('TCP_KEEPCNT', 3)):
                if hasattr(socket, option):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        atexit.register(_tell, connections, 'bye')
        sys.excepthook = self._explain
        threading.Thread(target=self._watch, daemon=True).start()

    def leave(self, status: int) -> None:
        """Ends this process, which has failed; the others hear of it, and JAX does not wait for them."""
        _tell(self._connections, f'lost {self._place.index}')
        sys.stdout.flush()
        sys.stderr.flush()
        self._wait_for_others()
        os._exit(status)

    def _watch(self) -> None:
        """Waits for the end of the others."""
        with selectors.DefaultSelector() as selector:
            for index, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, index)
            while selector.get_map():
                for key, _ in selector.select():
                    try:
                        heard = key.fileobj.recv(99)  # type: ignore[union-attr]
                    except OSError:
                        heard = b''
                    if heard.startswith(b'bye'):
                        selector.unregister(key.fileobj)
                    else:
                        self._end(int(heard.split()[1]) if heard.startswith(b'lost ') else key.data, bool(heard))

    def _end(self, lost: int, is_told: bool) -> None:
        """Ends this process because another is gone, of which it `is_told` unless its connection broke."""
        self._lost.set()
        _tell(self._connections, f'lost {lost}')
        if is_told:
            time.sleep(GRACE)  # with process 0 JAX's service has gone, and JAX would abort within a third of a second
        self._wait_for_others()
        text = (
            f'error: process {lost} of {self._place.count} has ended, and process {self._place.index} cannot go on '
            f'without it. See the log of process {lost}; the same command goes on from the last checkpoint.'
        )
        os.write(2, f'\n{text}\n'.encode())
        os._exit(1)

    def _wait_for_others(self) -> None:
        """In process 0, which has JAX's service: without it the others would abort before they can say why."""
        if not self._place.index:
            time.sleep(GRACE + 1)

    def _explain(self, kind: Any, error: Any, trace: Any) -> None:
        """Instead of the traceback of a broken connection, the line of `_end`; any other ends all processes."""
        if self._lost.wait(timeout=0 if kind is KeyboardInterrupt else 3):
            threading.Event().wait()  # for _end
        sys.__excepthook__(kind, error, trace)
        self.leave(1)
