"""What was compiled is found again by the next process, and no folder, whatever its state, stops a run."""

import contextlib
import errno
import os
import pathlib
import subprocess
import sys

import filelock
import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from qsnet_jax import UserError, cache, model
from qsnet_jax.data import images
from qsnet_jax.weights import files

SCRIPT = """
import jax, sys
from qsnet_jax import cache
cache.SHORTEST = 0.0
print(cache.use(sys.argv[1] if len(sys.argv) > 1 else None))
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith('cache_hits') else None)
print(jax.jit(lambda x: x * 3 + 1)(2.0), len(hits) > 0)
"""


def start(environment, *arguments):
    """A process that compiles something with the cache."""
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', **environment}
    environment.pop('JAX_COMPILATION_CACHE_DIR', None)
    command = [sys.executable, '-W', 'error', '-c', SCRIPT, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return output.splitlines()


@pytest.fixture(autouse=True)
def settings_stay(monkeypatch):
    """JAX's own settings are as before afterwards, and name no folder."""
    names = (
        'jax_compilation_cache_dir',
        'jax_compilation_cache_max_size',
        'jax_persistent_cache_min_compile_time_secs',
        'jax_enable_compilation_cache',
    )
    before = {name: jax.config.values[name] for name in names}
    jax.config.update('jax_compilation_cache_dir', None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # or the tests after these are compiled anew, each


def test_the_next_process_finds_what_was_compiled(tmp_path):
    """In $XDG_CACHE_HOME by default: nobody else may read it, and the second start compiles nothing."""
    first, second = (finish(start({'XDG_CACHE_HOME': str(tmp_path)})) for _ in range(2))
    folder = pathlib.Path(first[0])
    assert folder.parent == tmp_path / 'qsnet_jax' and folder.stat().st_mode & 0o077 == 0
    assert (first[1], second[1]) == ('7.0 False', '7.0 True')


def test_a_folder_whose_name_is_not_utf_8_serves_too(tmp_path):
    """XLA refuses such names for its own caches, which only GPUs have."""
    folder = os.fsdecode(os.fsencode(tmp_path) + b'/n\xe4cht')
    environment = {'XDG_CACHE_HOME': folder, 'PYTHONIOENCODING': 'utf-8:backslashreplace'}
    assert [finish(start(environment))[1] for _ in range(2)] == ['7.0 False', '7.0 True']


def test_processes_share_a_folder(tmp_path):
    """Four at once end without a warning, each with its result."""
    lines = [finish(process) for process in [start({}, str(tmp_path / 'cache')) for _ in range(4)]]
    assert all(line[1].startswith('7.0') for line in lines)


def test_a_program_that_was_cut_off_is_compiled_again(tmp_path):
    """A process that was killed while it wrote leaves no time beside the program: it is dropped, and made anew."""
    folder = pathlib.Path(finish(start({}, str(tmp_path)))[0])
    for program in folder.glob('*-cache'):
        program.write_bytes(program.read_bytes()[:20])
        program.with_name(program.name.replace('-cache', '-atime')).unlink()
    assert finish(start({}, str(tmp_path)))[1] == '7.0 False'
    assert finish(start({}, str(tmp_path)))[1] == '7.0 True'


def test_a_folder_that_cannot_be_made_is_left_out(tmp_path, monkeypatch):
    """The default one silently, one that was asked for with a message."""
    (tmp_path / 'file').write_text('no folder')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert cache.use() is None
    assert jax.config.values['jax_compilation_cache_dir'] is None
    with pytest.raises(UserError, match='--compilation_cache=.*cannot be used.*off'):
        cache.use(str(tmp_path / 'file'))


def test_a_folder_that_cannot_be_written_is_left_out(tmp_path, monkeypatch):
    """As on a disk that is mounted for reading alone."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert cache.use() is not None

    def refuse(*_, **__):
        raise OSError(30, 'Read-only file system')

    monkeypatch.setattr(filelock.FileLock, 'acquire', refuse)
    jax.config.update('jax_compilation_cache_dir', None)
    assert cache.use() is None


def test_a_drive_without_locks_is_warned_of(tmp_path, refuse_locks, capsys):
    """And has no cache, though it was asked for; a real fault is not taken for it."""
    refuse_locks(errno.ENOLCK)
    assert cache.use(str(tmp_path)) is None and jax.config.values['jax_compilation_cache_dir'] is None
    assert capsys.readouterr().err == (
        f'warning: the drive of {tmp_path} has no locks (No locks available); what is compiled is not kept\n'
    )
    refuse_locks(errno.EIO)
    with pytest.raises(UserError, match='cannot be used'):
        cache.use(str(tmp_path))


def test_a_folder_of_others_is_not_used(tmp_path):
    """What lies there would be run."""
    folder = cache.use(str(tmp_path))
    folder.chmod(0o777)
    with pytest.raises(UserError, match='written by others'):
        cache.use(str(tmp_path))


def test_a_folder_that_somebody_holds_is_waited_for_and_left(tmp_path, monkeypatch):
    """Not for ever."""
    folder = cache.use(str(tmp_path))
    monkeypatch.setattr(cache, 'WAIT', 0.1)
    with filelock.FileLock(folder / '.lockfile'), pytest.raises(UserError, match='another process'):
        cache.use(str(tmp_path))


def test_what_jax_was_told_stays(tmp_path):
    """JAX_COMPILATION_CACHE_DIR wins over the default, a folder that is asked for over both; 'off' is none at all."""
    jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'told'))
    assert cache.use() == tmp_path / 'told'
    assert cache.use(str(tmp_path / 'asked')).parent == tmp_path / 'asked'
    assert cache.use('off') is None
    assert not jax.config.values['jax_enable_compilation_cache']


PROGRAM = """
import sys
from qsnet_jax import main
status = main.run(['--mode=derain', *sys.argv[1:]])
print('loaded', *sorted(sys.modules))
sys.exit(status)
"""
# What a photo does not need; together these take longer to import than the photo takes.
AWAY = ('orbax', 'optax', 'tensorflow_datasets', 'grain', 'array_record', 'tensorstore', 'cv2', 'matplotlib', 'scipy')
AWAY += ('skimage', 'torch', 'tensorboardX', 'onnxruntime', 'openvino', 'onnx', 'av', 'gradio', 'pandas')
AWAY += ('qsnet_jax.training', 'qsnet_jax.evidence', 'qsnet_jax.peers', 'qsnet_jax.data.sets', 'qsnet_jax.fused')


def test_derain_keeps_what_it_compiled_and_imports_no_more_than_it_needs(tmp_path):
    """By default in the user's cache folder, nowhere with 'off'; the second start finds it."""
    settings = {'channels': 12, 'units': 1, 'scale_channels': 6}
    network = model.QSNet(**settings)
    everything = {name: getattr(network, name) for name in files.load_weights('default')[1]}
    files.save_weights(tmp_path / 'weights.safetensors', model.initialize(network, 0), everything)
    images.save(tmp_path / 'a.png', np.full((40, 48, 3), 90, np.uint8))
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XDG_CACHE_HOME': str(tmp_path / 'cache')}
    environment.pop('JAX_COMPILATION_CACHE_DIR', None)
    flags = [f'--input={tmp_path}/a.png', f'--output={tmp_path}/out', f'--weights={tmp_path}/weights.safetensors']
    flags.append('--overwrite')  # what was done is done again
    for more, is_kept in ((['--compilation_cache=off'], False), ([], True), ([], True)):
        command = [sys.executable, '-c', PROGRAM, *flags, *more]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count('\n') < 3 and 'Target machine' not in done.stderr  # no more than the bar
        kept = list((tmp_path / 'cache').glob('qsnet_jax/*/jit__predict-*-cache'))
        assert len(kept) == is_kept
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {'jax', 'qsnet_jax.derain'} <= loaded
    assert not [name for name in AWAY if name in loaded]


def test_what_cannot_be_loaded_again_is_not_kept(tmp_path):
    """Within `unused`; before and after it things are kept, whatever JAX had decided."""
    folder = cache.use(str(tmp_path))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    kept = []
    for number in range(3):
        with cache.unused() if number == 1 else contextlib.nullcontext():
            jax.jit(lambda x, number=number: x * number + 5).lower(1.0).compile()
        kept.append(len(list(folder.glob('*-cache'))))
    assert kept == [1, 1, 2]
