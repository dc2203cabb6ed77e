"""The page to try a photo: what it shows, what it refuses, and that nothing leaves or stays, also in a browser."""

import contextlib
import errno
import os
import pathlib
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image
from test_derain import make, picture

from qsnet_jax import UserError, demo, photos
from qsnet_jax.data import images, sets
from qsnet_jax.weights import files

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def networks(tmp_path):
    """A tiny network before those of the package."""
    derainer = make()
    files.save_weights(tmp_path / 'tiny.safetensors', derainer.variables, derainer.settings)
    return demo.Networks(str(tmp_path / 'tiny.safetensors'))


def test_all_that_is_shown(networks, tmp_path):
    """Result, layer and scales are the derainer's; the saved result has the photo's format, grey and name."""
    image = picture(24, 30)
    Image.fromarray(image).convert('L').save(tmp_path / 'photo.tif')
    (tmp_path / 'out').mkdir()
    found = demo.restore(networks, str(tmp_path / 'photo.tif'), networks.first, tmp_path / 'out')
    photo = images.open_photo(tmp_path / 'photo.tif')
    expected = make().restore(photo.rgb, scales=True)
    np.testing.assert_array_equal(found['after'], expected[0])
    np.testing.assert_array_equal(found['layer'], photos.removed(photo.rgb, expected[0]))
    assert [name for _, name in found['scales']] == ['C_1', 'C_2', 'C_3']
    saved = images.open_photo(found['file'])
    assert saved.format == 'TIFF' and saved.is_grey and found['file'].endswith('photo-derained.tif')
    assert found['text'].startswith('photo.tif: 30 x 24 pixels in ')


def test_what_is_no_photo_is_refused_without_paths(networks, tmp_path):
    """Nothing, damaged, gone, unknown weights: one sentence that names the file as its owner does."""
    (tmp_path / 'bad.png').write_bytes(b'no picture')
    images.save(tmp_path / 'good.png', picture(24, 30))
    for path, weights, words in (
        (None, networks.first, 'There is no photo yet'),
        (str(tmp_path / 'bad.png'), networks.first, '^bad.png: is damaged or of another kind'),
        (str(tmp_path / 'gone.png'), networks.first, '^gone.png is gone. Photos are kept ten minutes; drop it again'),
        (str(tmp_path / 'good.png'), '../other', "no weights called '../other'"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            demo.restore(networks, path, weights, tmp_path)
        assert str(tmp_path) not in str(caught.value).replace(networks.first, '')


def test_a_large_photo_is_shrunk_and_that_is_said(networks, tmp_path, monkeypatch):
    """With its alpha; one of the limit stays as it is."""
    rgba = np.dstack([picture(40, 90), picture(40, 90)[..., 0]])
    Image.fromarray(rgba).save(tmp_path / 'a.png', dpi=(300, 300))
    for largest, size in ((3600, (90, 40)), (900, (45, 20)), (901, (45, 20)), (1, (1, 1))):
        monkeypatch.setattr(demo, 'LARGEST', largest)
        found = demo.restore(networks, str(tmp_path / 'a.png'), networks.first, tmp_path)
        with Image.open(found['file']) as image:
            assert image.size == size and image.mode == 'RGBA'
        assert found['after'].shape[:2] == found['before'].shape[:2] == size[::-1]
        assert ('shrunk from 90 x 40 pixels' in found['text']) == (largest < 3600)


def full():
    """As `images` raises it."""
    error = images.ImageError('/tmp/x: cannot be written')
    error.__cause__ = OSError(errno.ENOSPC, 'No space left on device')
    return error


@pytest.mark.parametrize(
    ('error', 'words'),
    [
        (UserError('no photo'), 'no photo'),
        (MemoryError(), 'There is not enough memory for this photo'),
        (RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes'), 'There is not enough memory'),
        (OSError(errno.ENOSPC, 'No space left on device'), 'is full; free some space'),
        (full(), 'is full; free some space'),
        (TypeError('a fault'), None),
        (PermissionError(errno.EACCES, 'Permission denied'), None),
    ],
)
def test_what_the_page_says_of_errors(error, words):
    """Of what its visitor can mend; faults of the program are none."""
    assert words in demo.reason(error) if words else demo.reason(error) is None


def test_samples_are_those_whose_licences_are_known(tmp_path):
    """Each held-out photo of the package with light and with heavy rain, and its title, author and licence."""
    samples = demo.write_samples(tmp_path / 'samples')
    assert len(samples) == 2 * len(sets.HELD_OUT_PHOTOS) == len(list((tmp_path / 'samples').iterdir()))
    assert set(samples.values()) == set(sets.HELD_OUT_PHOTOS.values())
    assert demo._credit(samples[tmp_path / 'samples' / 'chelsea, light rain.png']).endswith('Walt (CC0)')


def test_old_results_go(tmp_path):
    """Those beyond their age, and no others."""
    for name, age in (('old', 700), ('new', 5)):
        (tmp_path / name).mkdir()
        changed = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (changed, changed))
    demo.forget(tmp_path, 600)
    assert [path.name for path in tmp_path.iterdir()] == ['new']


def test_who_minds_sigterm_hears_of_it(monkeypatch):
    """Without the program's own handler it is as Ctrl-C; either way the page is closed."""
    heard, closed = [], []

    def mind(signum, _frame):
        heard.append(signum)
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def serve(*_):
        try:
            yield 'http://127.0.0.1:1'
        finally:
            closed.append(True)

    monkeypatch.setattr(demo, 'serve', serve)
    stopped = types.SimpleNamespace(sleep=lambda _: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr(demo, 'time', stopped)
    before = signal.getsignal(signal.SIGTERM)
    try:
        for handler in (mind, signal.SIG_DFL):
            signal.signal(signal.SIGTERM, handler)
            demo.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM] and len(closed) == 2


def test_without_the_extra_one_line_says_so(without):
    """Gradio's absence is told with the remedy."""
    without('gradio')
    with pytest.raises(UserError, match=r'pip install "qsnet-jax\[demo\]"'):
        with demo.serve():
            pass


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    """The page's address, served by a program of its own that is stopped and then leaves no file."""
    pytest.importorskip('gradio', reason='gradio is not installed (extra demo)')
    root, derainer = tmp_path_factory.mktemp('demo'), make()
    files.save_weights(root / 'tiny.safetensors', derainer.variables, derainer.settings)
    (root / 'tmp').mkdir()
    code = f'from qsnet_jax import demo; demo.run({str(root / "tiny.safetensors")!r})'
    started = subprocess.Popen(
        [sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, 'TMPDIR': str(root / 'tmp'), 'JAX_PLATFORMS': 'cpu'},
    )  # fmt: skip
    with started:
        address = started.stdout.readline().split()[0]
        yield root, address
        started.terminate()  # which is as Ctrl-C, that programs in the background ignore
        try:
            assert started.wait(30) == 0
        finally:
            started.kill()
    assert not list((root / 'tmp').glob('qsnet-demo-*')) and not (root / 'tmp/gradio').exists()


def open_page(browser, address, width, scheme='light'):
    """A tab, and what it asked of others."""
    tab = browser.new_page(viewport={'width': width, 'height': 900}, color_scheme=scheme)
    outside = []
    tab.on('request', lambda request: outside.append(request.url)
           if request.url.startswith(('http', 'ws')) and '//127.0.0.1' not in request.url else None)  # fmt: skip
    tab.goto(address)
    tab.get_by_role('button', name='Remove the rain').wait_for(timeout=60_000)
    return tab, outside


def restore_photo(tab, path):
    tab.set_input_files('#photo input[type=file]', str(path))
    tab.locator('#photo .file-preview').wait_for()
    tab.get_by_role('button', name='Remove the rain').click()


@pytest.mark.parametrize('width, scheme', [(1280, 'light'), (390, 'dark')])
def test_a_photo_is_restored_in_a_browser(browser, served, width, scheme):
    """Upload, slider, five scales, the result to save; nothing wider than the window, nothing asked of others."""
    root, address = served
    assert address.startswith('http://127.0.0.1:')
    image = picture(40, 60)
    images.save(root / 'my photo.png', image)
    tab, outside = open_page(browser, address, width, scheme)
    restore_photo(tab, root / 'my photo.png')
    tab.locator('#text', has_text='60 x 40 pixels in').wait_for(timeout=60_000)
    tab.locator('#scales img').nth(2).wait_for()
    ends = [tab.locator('#scales img').nth(index).bounding_box() for index in range(3)]
    assert all(0 <= each['x'] and each['x'] + each['width'] <= width for each in ends)
    handle = tab.locator('#slider .icon-wrap')
    handle.hover()  # scrolls there and waits until nothing moves
    before = handle.bounding_box()
    tab.mouse.down()
    tab.mouse.move(before['x'] - 60, before['y'] + before['height'] / 2, steps=4)
    tab.mouse.up()
    moved = 'x => document.querySelector("#slider .icon-wrap").getBoundingClientRect().x < x - 30'
    tab.wait_for_function(moved, arg=before['x'])
    with tab.expect_download() as download:
        tab.locator('#result a').first.click()
    assert download.value.suggested_filename == 'my photo-derained.png'
    np.testing.assert_array_equal(images.read(download.value.path()), make()(image))
    assert tab.evaluate('document.documentElement.scrollWidth <= innerWidth')
    assert not outside
    tab.close()


@pytest.mark.parametrize('width, scheme', [(1280, 'light'), (1280, 'dark'), (390, 'light'), (390, 'dark')])
def test_labels_and_contrast(browser, served, axe, width, scheme):
    """By the rules of axe-core, before and after a photo was restored."""
    root, address = served
    images.save(root / 'a photo.png', picture(40, 60))
    tab, _ = open_page(browser, address, width, scheme)

    def settled():
        for _ in range(20):  # the text is pale until the page has settled
            if not (found := axe(tab)):
                break
            tab.wait_for_timeout(500)
        return found

    assert settled() == []
    restore_photo(tab, root / 'a photo.png')
    tab.locator('#scales img').nth(2).wait_for(timeout=60_000)
    assert settled() == []
    tab.close()


def test_a_bad_file_is_told_in_the_browser(browser, served):
    """The message names the file, what it is and what was expected; the next photo works."""
    root, address = served
    (root / 'broken.png').write_bytes(b'\x89PNG\r\n\x1a\n' + bytes(50))
    images.save(root / 'fine.png', picture(40, 60))
    tab, _ = open_page(browser, address, 1280)
    restore_photo(tab, root / 'broken.png')
    message = tab.get_by_text('expected one whole JPEG, PNG, BMP, TIFF, WebP')
    message.wait_for(timeout=30_000)
    assert message.inner_text().startswith('broken.png: ')
    tab.get_by_role('button', name='Close').first.click()
    tab.locator('#photo').get_by_role('button', name='Clear').click()
    restore_photo(tab, root / 'fine.png')
    tab.locator('#text', has_text='fine.png: 60 x 40 pixels').wait_for(timeout=60_000)
    tab.close()
