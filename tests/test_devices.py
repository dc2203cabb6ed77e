"""Variables of JAX that it cannot follow: one line that names them, whatever they are called."""

import os
import shutil
import subprocess
import sys

import pytest

from qsnet_jax import UserError, devices
from tests.test_main import ROOT

DERAIN = ('--mode=derain', '--input=a', '--output=b')


def errors(*arguments, **variables):
    """(exit status, lines on stderr) of the program in a process of its own with these variables."""
    given = {name: value for name, value in os.environ.items() if not name.startswith('JAX_')} | variables
    command = [sys.executable, '-m', 'qsnet_jax.main', *arguments]
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True)
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('JAX_PLATFORMS', 'tpu', 'names a backend'),
        ('JAX_PLATFORMS', 'CPU', 'is not how JAX spells backends (abc,de); write cpu, or'),
        ('JAX_PLATFORMS', 'cuda, cpu', 'is not how JAX spells backends (abc,de); write cuda,cpu, or'),
        ('JAX_PLATFORM_NAME', 'gpu', 'names a backend'),
        ('JAX_DEFAULT_DEVICE', 'gpu', 'names a backend'),
        ('JAX_ENABLE_X64', 'banana', 'is not what JAX takes'),
        ('XLA_FLAGS', '--xla_no_such_flag=true', 'is not what XLA takes: Unknown flag in XLA_FLAGS: --xla_no_such'),
        ('XLA_FLAGS', '--xla_cpu_enable_fast_math=maybe', "is not what XLA takes: Couldn't interpret value maybe"),
    ],
)
def test_a_variable_that_jax_cannot_follow_is_one_line(name, value, message):
    """It is named with its value, and how to unset it."""
    status, lines = errors(*DERAIN, **{name: value})
    assert status == 1 and len(lines) == 1
    assert lines[0].startswith(f'error: {name}={value} {message}') and f'(unset {name})' in lines[0]


def test_flags_of_xla_that_leave_no_device_are_named():
    """Beside the variable that asks for the backend, and without it."""
    flags = '--xla_force_host_platform_device_count=0'
    for variables in ({'JAX_PLATFORMS': 'cpu'}, {}):
        status, lines = errors(*DERAIN, XLA_FLAGS=flags, **variables)
        assert status == 1 and len(lines) == 1 and f'XLA_FLAGS={flags}' in lines[0]


def test_the_launcher_says_it_too():
    """It reads a study's config, and so JAX, before it has flags."""
    command = [sys.executable, 'launch/slurm.py', '--config=losses', '--dry_run']
    given = {**os.environ, 'JAX_ENABLE_X64': 'banana'}
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith('error: JAX_ENABLE_X64=banana is not what JAX takes')
    assert len(done.stderr.splitlines()) == 1


def test_variables_that_stop_every_training_do_not_count():
    """Optax needs promotion, and a start copies to the device; nothing that is computed depends on either."""
    code = 'from qsnet_jax import devices; devices.import_jax(); import jax; import jax.numpy as jnp; '
    code += 'print(jnp.arange(3) + jnp.float32(1) * jnp.ones(3))'
    given = {**os.environ, 'JAX_NUMPY_DTYPE_PROMOTION': 'strict', 'JAX_TRANSFER_GUARD': 'disallow'}
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=given, capture_output=True, text=True)
    assert done.stdout == '[1. 2. 3.]\n', done.stderr


def test_the_report_says_it_too(tmp_path):
    """It starts JAX late, for its pictures: not where there are no rows."""
    status, lines = errors('--mode=report', f'--results={tmp_path}', JAX_PLATFORMS='tpu')
    assert status == 1 and 'There are no rows' in lines[-1]
    shutil.copytree(ROOT / 'tests/legacy/rows', tmp_path / 'rows')
    shutil.copy(ROOT / 'results/paper.json', tmp_path)
    status, lines = errors('--mode=report', f'--results={tmp_path}', JAX_PLATFORMS='tpu')
    assert status == 1 and len(lines) == 1 and lines[0].startswith('error: JAX_PLATFORMS=tpu names a backend')


@pytest.mark.parametrize(
    ('message', 'named'),
    [
        ("invalid truth value 'x' for environment 'JAX_ONE'", ['JAX_ONE']),
        ('Invalid value "x" for JAX flag jax_one', ['JAX_ONE']),
        ("jax.one must be passed a Device object, got: 'x'", ['JAX_ONE']),
        ("invalid literal for int() with base 10: 'x'", ['JAX_ONE', 'JAX_THREE']),
        ("invalid literal for int() with base 10: 'z'", []),
    ],
)
def test_the_variable_is_found_in_what_jax_says(monkeypatch, message, named):
    """By its name, else by its value; other errors are no fault of a variable."""
    for name, value in (('JAX_ONE', 'x'), ('JAX_ONE_MORE', 'y'), ('JAX_THREE', 'x')):
        monkeypatch.setenv(name, value)
    assert devices._named(message) == named


def test_no_device_at_all_tells_what_is_set(monkeypatch):
    """Where no variable names a backend."""
    for name in devices._PLATFORMS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('JAX_NUM_CPU_DEVICES', '0')

    def fail():
        raise RuntimeError('nothing')

    monkeypatch.setattr('jax.devices', fail)
    with pytest.raises(UserError, match='finds no device: nothing.*JAX_NUM_CPU_DEVICES=0'):
        devices.check()
