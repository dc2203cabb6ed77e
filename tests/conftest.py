"""Strict JAX, four CPU devices, generated rainy pairs, and a network small enough to train in a test."""

import builtins
import errno
import fcntl
import gc
import os
import pathlib
import shutil
import signal

import jax
import pytest
from absl import flags

from qsnet_jax.data import images
from tests.drawn import draw_pair

jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_numpy_dtype_promotion', 'strict')
flags.FLAGS(['tests'])
gc.set_threshold(100_000, 20, 100)  # JAX keeps what it traced, and to look through all of it takes seconds each time


def pytest_configure(config):
    """One compilation cache for the whole suite, its workers and the programs that they start.

    The fast tier has XLA compile quickly; the slow one has it optimise as users do, but for `compiled_quickly`.
    """
    settings = {
        'compilation_cache_dir': str(pathlib.Path(config.rootpath, '.pytest_cache', 'xla')),
        'persistent_cache_min_compile_time_secs': 0.0,
        'persistent_cache_min_entry_size_bytes': -1,
        'disable_most_optimizations': 'not slow' in config.getoption('markexpr'),
    }
    for signum, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(signum) == signal.SIG_IGN:  # by a shell in the background, by nohup
            signal.signal(signum, handler)
    for name, value in settings.items():
        os.environ[f'JAX_{name.upper()}'] = str(value)
        jax.config.update(f'jax_{name}', value)


def pytest_collection_modifyitems(items):
    """What hangs is ended. Slow tests start programs, which on a busy machine compile for minutes."""
    for item in items:
        if item.get_closest_marker('slow') and not item.get_closest_marker('timeout'):
            item.add_marker(pytest.mark.timeout(2400))


@pytest.fixture
def compiled_quickly():
    """In both tiers: for what runs once and is held to rounding, half of whose time would go into optimising it."""
    before = jax.config.values['jax_disable_most_optimizations']
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', before)


@pytest.fixture(scope='session')
def data_root():
    """Folder of the real image sets; tests that need it skip where it is absent."""
    path = pathlib.Path(os.environ.get('QSNET_DATA', pathlib.Path(__file__).parents[2] / 'shared' / 'data'))
    if not path.is_dir():
        pytest.skip(f'no image sets at {path}; QSNET_DATA names their folder')
    return path


@pytest.fixture
def without(monkeypatch):
    """Takes away a package by its name, as where its extra was not installed."""
    real = builtins.__import__

    def remove(package):
        def find(name, *rest):
            if name == package:
                raise ImportError(name)
            return real(name, *rest)

        monkeypatch.setattr(builtins, '__import__', find)

    return remove


@pytest.fixture(scope='session')
def pairs_root(tmp_path_factory):
    """train/ and val/ with rain-N.png and norain-N.png of one size."""
    root = tmp_path_factory.mktemp('pairs')
    for part, numbers in (('train', range(6)), ('val', range(6, 9))):
        (root / part).mkdir()
        for number in numbers:
            rainy, clean = draw_pair(number)
            images.save(root / part / f'rain-{number}.png', rainy)
            images.save(root / part / f'norain-{number}.png', clean)
    return root


@pytest.fixture
def tiny_config(pairs_root):
    """A run of ten short steps on the generated pairs."""
    from qsnet_jax.configs import default

    config = default.get_config()
    config.model.update({'channels': 12, 'units': 1, 'scale_channels': 6, 'rates': (2,)})
    config.data.update({'train': 'pairs', 'eval': 'pairs', 'root': str(pairs_root), 'crop': 24, 'batch': 4})
    config.train.update({'steps': 10, 'schedule': 'plateau', 'plateau_window': 2, 'plateau_patience': 1})
    config.train.update({'log_every': 2, 'eval_every': 5, 'eval_images': 2, 'checkpoint_every': 2})
    return config


@pytest.fixture
def refuse_locks(monkeypatch):
    """A function that has every lock on a file fail with a number of `errno`."""

    def refuse(number):
        def flock(*_):
            raise OSError(number, 'No locks available')

        monkeypatch.setattr(fcntl, 'flock', flock)

    return refuse


@pytest.fixture
def deny(monkeypatch):
    """A function that has a call of `os` refuse the paths for which a test of their text holds, as without rights."""

    def refuse(is_denied, call='stat'):
        original = getattr(os, call)

        def guarded(path, *args, **options):
            if is_denied(str(path)):
                raise PermissionError(errno.EACCES, 'Permission denied', str(path))
            return original(path, *args, **options)

        monkeypatch.setattr(os, call, guarded)

    return refuse


@pytest.fixture
def lenient_promotion():
    """Flax's norms beyond float32 and Optax's Adam let JAX promote types; what they are made of is tested strictly."""
    with jax.numpy_dtype_promotion('standard'):
        yield


@pytest.fixture(scope='module')
def browser():
    """Chromium without a window; tests that need it are skipped where there is none."""
    playwright = pytest.importorskip('playwright.sync_api')
    names = ('chromium', 'chromium-browser', 'google-chrome')
    path = next((found for name in names if (found := shutil.which(name))), '')
    if not path:
        pytest.skip('no Chromium is installed; pages are not looked at')
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture(scope='session')
def axe():
    """What axe-core, of which AXE_CORE or node_modules/ holds axe.min.js, objects to in a tab: (rule, elements)."""
    places = [os.environ.get('AXE_CORE', ''), pathlib.Path(__file__).parents[1] / 'node_modules/axe-core/axe.min.js']
    script = next((path for path in map(pathlib.Path, places) if path.is_file()), None)
    if script is None:
        pytest.skip('axe-core is not there (npm install --no-save axe-core); labels and contrast are not checked')

    def check(tab):
        tab.evaluate(script.read_text())
        found = tab.evaluate('axe.run()')
        assert len(found['passes']) > 10
        return [(each['id'], [node['html'][:200] for node in each['nodes']]) for each in found['violations']]

    return check
