"""Signals that are passed on to child processes, whenever they come."""

import signal
import threading

import pytest

from qsnet_jax import signals


class Child:
    """A process that notes what it is sent."""

    def __init__(self):
        self.told = []

    def send_signal(self, signum):
        self.told.append(signum)


@pytest.mark.parametrize('signum, told', [(signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP, signal.SIGTERM)])
def test_every_child_is_told_once(signum, told):
    """Those that had started, and the one that starts while the signal is noted."""
    relay, early, late = signals.Relay(), Child(), Child()
    relay.add(early)
    relay.note(signum)
    relay.add(late)
    assert relay.came == [signum] and early.told == late.told == [told]


def test_a_signal_that_comes_while_a_child_is_added_is_told_once():
    """A second SIGINT would end the child unsaved. It is noted while the child's thread looks for earlier ones."""

    class Meanwhile(list):
        def __getitem__(self, key):
            noting.start()
            noting.join(0.3)
            return super().__getitem__(key)

    relay, child = signals.Relay(), Child()
    noting = threading.Thread(target=relay.note, args=(signal.SIGINT,))
    relay.came = Meanwhile()
    relay.add(child)
    noting.join()
    assert child.told == [signal.SIGINT]


@pytest.mark.parametrize('signum, times', [(signal.SIGINT, 2), (signal.SIGHUP, 1)])
def test_a_second_signal_is_passed_on_but_for_a_hangup(signum, times):
    """Who presses Ctrl-C twice means it; a terminal that closes sends SIGHUP more than once."""
    relay, child = signals.Relay(), Child()
    relay.add(child)
    relay.note(signum)
    relay.note(signum)
    assert len(child.told) == times


def test_a_signal_within_a_signal_is_passed_on():
    """As the handler of one runs, the next may come, in the same thread."""
    relay, child = signals.Relay(), Child()
    relay.add(child)

    class Nested(list):
        def append(self, signum):
            super().append(signum)
            if signum == signal.SIGINT:
                relay.note(signal.SIGTERM)

    relay.came = Nested()
    relay.note(signal.SIGINT)
    assert sorted(child.told) == sorted([signal.SIGINT, signal.SIGTERM])


def test_the_handlers_of_before_come_back():
    """And what was ignored, as under nohup, stays ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        own = signal.getsignal(signal.SIGTERM)
        with signals.passed_on() as relay:
            assert signal.getsignal(signal.SIGTERM) == relay.note and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == own
    finally:
        signal.signal(signal.SIGHUP, before)
