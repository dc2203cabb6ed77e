"""SIGINT and SIGTERM: none is lost, and the program ends quietly with what was kept and how to go on.

The handler of Python runs only between two steps of Python. Where the main thread is in XLA's compiler, or an import
swallows the exception, a second thread hears of the signal by a pipe and ends the process after a short patience.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from qsnet_jax import storage

PATIENCE = 2.0  # seconds until a main thread that does not come back from C is given up
UNWINDING = 20.0  # seconds that a main thread has to end in good order
BOTH = (signal.SIGINT, signal.SIGTERM)
BEFORE = 'Nothing was begun; the same command starts again.'
_LOADING = ('ExtensionFileLoader.create_module', 'ExtensionFileLoader.exec_module')


class Interrupted(KeyboardInterrupt):
    """A signal that ends the program."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class _Watch:
    """What is known of signals in this process."""

    def __init__(self) -> None:
        self.kept = BEFORE  # said at the end
        self.is_deferred = False  # the training loop ends itself, after a checkpoint
        self.heard = 0  # SIGINTs while deferred
        self.raised = threading.Event()
        self.ended = threading.Event()
        self.last = 0


_watch = _Watch()


def install() -> None:
    """Minds both signals from now on; to be called before anything else is imported."""
    _open_closed_streams()  # or the pipe would get the number of one
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for signum in BOTH:
        if signal.getsignal(signum) != signal.SIG_IGN:  # nohup and the like
            signal.signal(signum, _raise)
    sys.unraisablehook, sys.excepthook = _once_more, _at_the_top
    threading.Thread(target=_listen, args=(reading,), daemon=True).start()


def _open_closed_streams() -> None:
    """Leads standard streams that are closed, as of `2>&-`, into nothing: what is printed there is not missed."""
    for number, name in enumerate(('stdin', 'stdout', 'stderr')):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number free, which is this
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, 'w' if number else 'r'))


def keep(message: str) -> None:
    """What a signal from now on leaves behind, and how to go on."""
    _watch.kept = message


def received() -> int:
    """The signal that ends this process, 0 while there is none."""
    return _watch.last


def end(signum: int) -> int:
    """Says that the program ends by a signal; returns the exit status."""
    _watch.ended.set()
    print(f'Stopped by {signal.Signals(signum).name}. {_watch.kept}', file=sys.stderr, flush=True)
    return 128 + signum


def leave(status: int) -> NoReturn:
    """Ends the process; after a signal at once, for Python must not be taken down under threads that still compute."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:  # nobody reads it any more, or its disk is full: Python would try once more, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if not _watch.last:
        sys.exit(status)
    os._exit(status)


def uninstall() -> None:
    """Leaves a signal to the system: the work is done, and the process ends in any case."""
    _watch.ended.set()
    for signum in BOTH:
        if signal.getsignal(signum) == _raise:
            signal.signal(signum, signal.SIG_DFL)


@contextlib.contextmanager
def deferred() -> Iterator[list[int]]:
    """A list that signals append to instead of ending the process; a second SIGINT ends it at once.

    SIGTERM comes more than once, and SIGUSR2 before the end of the time, where Slurm wants the machine back. Of the
    others those stay ignored that are, as Ctrl-C in the background of a script.
    """
    noted: list[int] = []
    previous: dict[int, Any] = {}

    def note(signum: int, _frame: Any) -> None:
        noted.append(signum)
        if signum == signal.SIGINT:
            signal.signal(signum, previous[signum])

    _watch.heard, _watch.is_deferred = 0, True
    heeded = [signum for signum in BOTH if signal.getsignal(signum) != signal.SIG_IGN]
    for signum in (*heeded, signal.SIGUSR2):  # which is ignored until it is known what to do
        previous[signum] = signal.signal(signum, note)
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _watch.is_deferred = False


class Relay:
    """Signals that came, and the child processes that get each of them once; a second SIGINT ends a run unsaved.

    Of SIGHUP only the first is passed on: when a terminal closes, its shell and the system may both send one.
    """

    def __init__(self) -> None:
        self.came: list[int] = []
        self._children: list[subprocess.Popen] = []
        self._lock = threading.RLock()  # a signal may come while another one is noted

    def add(self, child: subprocess.Popen) -> None:
        """Minds a child from now on, which is told of a signal that came before; from any thread."""
        with self._lock:
            self._children.append(child)
            missed = self.came[:1]
        for signum in missed:
            self._tell(child, signum)

    def note(self, signum: int, _frame: Any = None) -> None:
        """Passes a signal on."""
        with self._lock:
            is_known = signum == signal.SIGHUP and signum in self.came
            self.came.append(signum)
            children = [] if is_known else list(self._children)
        for child in children:
            self._tell(child, signum)

    @staticmethod
    def _tell(child: subprocess.Popen, signum: int) -> None:
        """SIGHUP, of a terminal that was closed, would end a run unsaved: it gets a SIGTERM."""
        child.send_signal(signal.SIGTERM if signum == signal.SIGHUP else signum)


@contextlib.contextmanager
def passed_on() -> Iterator[Relay]:
    """Signals that would end this program go to its children instead, those that were added to what this yields."""
    relay = Relay()
    three = (*BOTH, signal.SIGHUP)
    heeded = [each for each in three if signal.getsignal(each) != signal.SIG_IGN]  # nohup and the like
    before = {each: signal.signal(each, relay.note) for each in heeded}
    try:
        yield relay
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _raise(signum: int, frame: Any) -> None:
    _watch.last = signum
    _watch.raised.set()
    if _is_loading(frame):
        storage.remove_unfinished()
        os._exit(end(signum))
    raise Interrupted(signum)


def _is_loading(frame: Any) -> bool:
    """Whether Python loads a library of C; some, JAX's among them, do not survive an exception while they start."""
    while frame and frame.f_code.co_qualname not in _LOADING:
        frame = frame.f_back
    return frame is not None


def _once_more(lost: Any) -> None:
    """Sends a signal again that came where Python can raise nothing, as in a callback of the garbage collector."""
    if not isinstance(lost.exc_value, Interrupted):
        if str(lost.exc_value) != 'Event loop is closed':  # TensorStore's threads, after a read that has failed
            sys.__unraisablehook__(lost)
        return
    threading.Timer(0.05, _again, (lost.exc_value.signum,)).start()


def _again(signum: int) -> None:
    """The signal once more, to the main thread, unless it has ended the program by now."""
    main = threading.main_thread().ident
    if main and not _watch.ended.is_set():
        signal.pthread_kill(main, signum)


def _at_the_top(kind: Any, error: BaseException, trace: Any) -> None:
    """Ends quietly where a signal came before anyone could catch it."""
    if not _watch.last:
        sys.__excepthook__(kind, error, trace)
        return
    os._exit(end(_watch.last))


def _listen(reading: int) -> None:
    """Ends the process where the main thread does not."""
    while True:
        signum = os.read(reading, 1)[0]
        if signum not in BOTH:
            continue
        if _watch.is_deferred:
            _watch.heard += signum == signal.SIGINT
            if _watch.heard <= 1:
                continue
        _watch.raised.wait(PATIENCE)
        if not _watch.ended.wait(UNWINDING if _watch.raised.is_set() else 0):
            storage.remove_unfinished()
            os._exit(end(signum))
