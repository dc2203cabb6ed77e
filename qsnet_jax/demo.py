"""A page on this machine alone to try a photo: before and after, the rain layer, the five scales (gradio).

Photos that are dropped lie in a temporary folder while they are shown, and go with the page; nothing is sent anywhere.
"""

import contextlib
import dataclasses
import errno
import os
import pathlib
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from qsnet_jax import UserError, derain, memory, photos
from qsnet_jax.configs import default
from qsnet_jax.data import images, sets, sources
from qsnet_jax.weights import files

HOST = '127.0.0.1'
LARGEST = 8_000_000  # pixels of a photo; larger ones would take minutes and are shrunk
LARGEST_FILE = '64mb'
KEPT = 600  # seconds that a photo lies in the temporary folder at most
SAMPLE_STYLES = ('light', 'heavy')
FONT = ['system-ui', 'sans-serif']  # of the system: gradio's own would be fetched
CSS = """
.gradio-container { max-width: min(62rem, 100vw) !important; margin: 0 auto !important; box-sizing: border-box; }
.gradio-container .main, .gradio-container .wrap, .gradio-container main { max-width: 100%; box-sizing: border-box; }
footer { display: none !important; }
#photo .or { color: inherit; }
#scales .grid-wrap, #samples .grid-wrap { min-height: 0; height: auto; max-height: none; padding-top: 2.2rem; }
@media (max-width: 44rem) {
  #top { flex-direction: column; }
  #scales .grid-container, #samples .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)) !important; }
  #scales .gallery-item, #samples .gallery-item { min-width: 0; width: auto; }
  #top > * { min-width: 0 !important; width: 100%; }
  .gradio-container .main { padding: .75rem !important; }
}
"""
# Names that gradio leaves out or doubles, for those who hear the page instead of seeing it.
SCRIPT = """() => {
  const mend = () => {
    for (const button of document.querySelectorAll('.thumbnail-item')) {
      const caption = button.querySelector('.caption-label');
      if (caption) button.setAttribute('aria-label', caption.textContent.trim());
      for (const image of button.querySelectorAll('img')) image.alt = '';
    }
    for (const image of document.querySelectorAll('#layer img')) image.alt = 'removed rain layer';
    for (const place of document.querySelectorAll('#photo [aria-label^="Click to upload"]'))
      place.removeAttribute('aria-label');  // its own words say it
    for (const empty of document.querySelectorAll('.empty[aria-label]')) empty.setAttribute('role', 'img');
  };
  new MutationObserver(mend).observe(document.body, {childList: true, subtree: true});
  mend();
}"""
ABOUT = (
    '# Remove rain from a photo\n'
    'QSNet takes rain streaks out of one photo. It runs on this machine, and no photo leaves it. Photos are kept ten '
    'minutes; drop one again after that. Files of up to 64 MB are taken; a photo of over 8 megapixels is shrunk, '
    '`qsnet --mode=derain` keeps its size. Veils of far rain, drops on the lens and splashes stay.'
)


class Networks:
    """Derainers by name, loaded when they are first asked for."""

    def __init__(self, weights: str | None):
        self.names = files.names()
        self.names.sort(key=lambda name: name != 'default')
        if weights and weights not in self.names:
            files.load_weights(weights)  # what is wrong with them is said before the page opens
            self.names.insert(0, weights)
        self.first = weights or self.names[0]
        self._loaded: dict[str, derain.Derainer] = {}

    def __getitem__(self, name: str) -> derain.Derainer:
        if name not in self.names:  # the page sends what its visitor sends
            raise UserError(f'There are no weights called {name!r}; expected one of {", ".join(self.names)}.')
        if name not in self._loaded:
            self._loaded[name] = derain.load(name, tile=0)
        return self._loaded[name]


def restore(networks: Networks, path: str | None, weights: str, folder: pathlib.Path) -> dict[str, Any]:
    """What the page shows of one photo; the result, in the photo's format, is written to a new folder below `folder`.

    Returns 'before', 'after', 'layer', uint8 (H, W, 3); 'scales', [(image, name), ...]; 'file' and 'text'.
    A photo of more than LARGEST pixels is shrunk. Raises UserError for files that are no photo or are gone.
    """
    if not path:
        raise UserError('There is no photo yet. Drop one, or choose a sample.')
    name = pathlib.Path(path).name
    if not pathlib.Path(path).exists():
        raise UserError(f'{name} is gone. Photos are kept ten minutes; drop it again.')
    try:
        photo = _shrunk(images.open_photo(path))
    except images.ImageError as error:
        raise UserError(str(error).replace(str(path), name)) from error
    derainer, (height, width) = networks[weights], photo.rgb.shape[:2]
    begun = time.perf_counter()
    every = derainer.restore(photo.rgb, scales=True)
    seconds = time.perf_counter() - begun
    target = (
        pathlib.Path(tempfile.mkdtemp(dir=folder)) / f'{pathlib.Path(name).stem}-derained{pathlib.Path(name).suffix}'
    )
    images.save_photo(target, every[0], photo)
    labels = [f'C_{number}' for number in range(1, len(every))]
    text = f'{name}: {width} x {height} pixels in {seconds:.1f} s, weights {weights}'
    notes = ''.join(f'; {note}' for note in photo.notes)
    return {
        'before': photo.rgb,
        'after': every[0],
        'layer': photos.removed(photo.rgb, every[0]),
        'scales': list(zip(every[1:], labels, strict=True)),
        'file': str(target),
        'text': f'{text}{notes}. The first photo of a size takes longer: its program is compiled.',
    }


def _shrunk(photo: images.Photo) -> images.Photo:
    """The photo with LARGEST pixels at most; EXIF and resolution, which would tell the old size, go then."""
    height, width = photo.rgb.shape[:2]
    if height * width <= LARGEST:
        return photo
    factor = (LARGEST / (height * width)) ** 0.5
    size = max(int(width * factor), 1), max(int(height * factor), 1)

    def smaller(array: np.ndarray) -> np.ndarray:
        return np.array(Image.fromarray(array).resize(size, Image.Resampling.LANCZOS))

    alpha = None if photo.alpha is None else smaller(photo.alpha)
    note = f'shrunk from {width} x {height} pixels, without EXIF; --mode=derain keeps both'
    changed: dict[str, Any] = {'rgb': smaller(photo.rgb), 'alpha': alpha, 'notes': (note, *photo.notes)}
    return dataclasses.replace(photo, exif=None, dpi=None, **changed)


def reason(error: Exception) -> str | None:
    """What the page says of an error; None of one that is a fault of this program."""
    cause = error.__cause__ if isinstance(error, UserError) else error
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return f'The disk of {tempfile.gettempdir()} is full; free some space.'
    if isinstance(error, UserError):
        return str(error)
    return 'There is not enough memory for this photo; shrink it.' if memory.shortage(error) else None


def write_samples(folder: pathlib.Path) -> dict[pathlib.Path, str]:
    """The held-out photos that come with the dependencies with drawn rain, and of each its title and licence."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for style in SAMPLE_STYLES:
        source = sets.open_source(f'drawn_{style}', default.get_config().data, 'eval', sources.Cache(0))
        for index, licence in enumerate(sets.HELD_OUT_PHOTOS.values()):
            path = folder / f'{source.groups[index]}, {style} rain.png'
            images.save(path, source.load(index)[0])
            paths[path] = licence
    return paths


def _credit(licence: str) -> str:
    """'Title, author (licence)'."""
    title, _, terms = licence.partition('; ')
    return f'{title} ({terms})'


def forget(folder: pathlib.Path, age: float) -> None:
    """Removes the results in a folder that are older than so many seconds."""
    for path in folder.iterdir():
        if time.time() - path.stat().st_mtime > age:
            shutil.rmtree(path, ignore_errors=True)


def build(networks: Networks, folder: pathlib.Path) -> Any:
    """The page, not yet served. Its files lie below `folder`."""
    gr = _gradio()
    samples, results = write_samples(folder / 'samples'), folder / 'results'
    results.mkdir()

    def show(path: str | None, weights: str) -> list[Any]:
        shown = gr.Column(visible=True)
        try:
            forget(results, KEPT)
            found = restore(networks, path, weights, results)
        except Exception as error:
            if not (said := reason(error)):
                raise
            raise gr.Error(said, duration=None, title='This photo cannot be derained') from error
        values = [(found['before'], found['after']), found['text'], found['layer'], found['scales'], found['file']]
        return [shown, *values]

    def choose(event: gr.SelectData) -> str:  # type: ignore[name-defined]
        return str(list(samples)[event.index])

    with gr.Blocks(title='qsnet_jax', analytics_enabled=False, delete_cache=(60, KEPT)) as page:
        gr.Markdown(ABOUT)
        with gr.Row(elem_id='top'):
            with gr.Column():
                photo = gr.File(label='Photo', type='filepath', height=150, elem_id='photo')
                weights = gr.Dropdown(networks.names, value=networks.first, label='Weights')
                button = gr.Button('Remove the rain', variant='primary')
            with gr.Column():
                thumbnails = [(str(path), path.stem.split(', ')[1].split()[0]) for path in samples]
                pictures = gr.Gallery(thumbnails, label='Samples', columns=3, height='auto', allow_preview=False,
                                      elem_id='samples', buttons=[], interactive=False)  # fmt: skip
                gr.Markdown(f'{"; ".join(dict.fromkeys(map(_credit, samples.values())))}. The rain is drawn.')
        with gr.Column(visible=False) as results_column:  # nothing but empty frames before the first photo
            slider = gr.ImageSlider(label='Before and after', format='png', interactive=False, elem_id='slider',
                                    buttons=[])  # fmt: skip
            text = gr.Markdown(elem_id='text')
            file = gr.File(label='Result, in the format of the photo', elem_id='result', interactive=False)
            layer = gr.Image(label='Removed rain layer', format='png', interactive=False, buttons=[], elem_id='layer')
            scales = gr.Gallery(label='Each scale alone', format='png', columns=5, object_fit='contain', buttons=[],
                                height='auto', elem_id='scales')  # fmt: skip
        pictures.select(choose, None, photo, api_visibility='private')
        shown_values = [results_column, slider, text, layer, scales, file]
        button.click(show, [photo, weights], shown_values, api_visibility='private')
    return page


@contextlib.contextmanager
def serve(weights: str | None = None, port: int | None = None) -> Iterator[str]:
    """Serves the page on 127.0.0.1 and gives its address; at the end it is closed and its files are removed.

    weights: a file or a name, chosen at first. port: else the first free one from 7860.
    """
    networks = Networks(weights)
    with tempfile.TemporaryDirectory(prefix='qsnet-demo-') as folder, _offline(folder):
        gr = _gradio()
        page = build(networks, pathlib.Path(folder))
        theme = gr.themes.Default(font=FONT, font_mono=['ui-monospace', 'monospace'])
        fills = {f'button_primary_background_fill{state}': '*primary_700' for state in ('', '_dark')}
        hovered = {f'button_primary_background_fill_hover{state}': '*primary_800' for state in ('', '_dark')}
        theme.set(**fills, **hovered)  # gradio's own are too pale for white letters
        page.queue(default_concurrency_limit=1, max_size=8)
        try:
            shown = [f'{folder}/samples', f'{folder}/results']
            _, address, _ = page.launch(
                server_name=HOST, server_port=port, share=False, quiet=True, prevent_thread_lock=True, theme=theme,
                css=CSS, js=SCRIPT, footer_links=[], max_file_size=LARGEST_FILE, allowed_paths=shown, ssr_mode=False,
                enable_monitoring=False, mcp_server=False, pwa=False,
            )  # fmt: skip
        except OSError as error:
            raise UserError(f'--port={port} cannot be served: {error}. Take another port.') from error
        try:
            yield address
        finally:
            page.close()


def run(weights: str | None = None, port: int | None = None) -> None:
    """Serves the page until Ctrl-C."""
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:  # else `signals` minds it, and waits for the page to close
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # the photos go then too
    with serve(weights, port) as address:
        print(f'{address} shows the page; Ctrl-C ends it', flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


@contextlib.contextmanager
def _offline(folder: str) -> Iterator[None]:
    """What gradio must know before it is imported: where its files lie, and that it calls nobody."""
    wanted = {'GRADIO_ANALYTICS_ENABLED': 'False', 'GRADIO_TEMP_DIR': folder, 'HF_HUB_OFFLINE': '1',
              'GRADIO_SSR_MODE': 'False', 'HF_HUB_DISABLE_TELEMETRY': '1'}  # fmt: skip
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _gradio() -> Any:
    """Gradio."""
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            'The page needs gradio, which is not installed; expected the extra demo: pip install "qsnet-jax[demo]".'
        ) from error
    return gradio
