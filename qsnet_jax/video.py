"""Videos in, videos out: frame by frame in bounded memory, with sound, times, rotation and colour tags kept (PyAV).

Title, dates, place and chapters stay too; what else a file says of itself is counted in a note.
Frames are restored one by one, so nothing ties neighbours together; how much results flicker is measured as the mean
difference of neighbouring frames, beside that of the input. The result has the container of the input and, as far as
PyAV can write it, its codec; pictures are encoded anew, sound and subtitles are copied. A run that is interrupted
leaves nothing of this video, and starts it again from the beginning.
"""

import contextlib
import dataclasses
import fractions
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qsnet_jax import UserError, containers, progress, spelling, storage

EXTENSIONS = ('.mp4', '.m4v', '.mov', '.mkv', '.webm', '.avi')
# Of the codecs that can be written: PyAV's name of the encoder, and options close to no visible loss. Others get H.264.
ENCODERS = {
    'h264': ('libx264', {'crf': '16', 'preset': 'medium'}),
    'hevc': ('libx265', {'crf': '18', 'preset': 'medium', 'x265-params': 'log-level=none'}),
    'vp9': ('libvpx-vp9', {'crf': '20', 'b': '0', 'deadline': 'good', 'cpu-used': '4'}),
}
OTHER = {'.webm': 'vp9'}  # what containers ask for where they do not take H.264
HDR = (16, 18)  # transfer characteristics of ITU-T H.273: PQ and HLG
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}  # matrix coefficients, likewise: FFmpeg's number of each
COPIED = ('audio', 'subtitle')
_KEPT = ('title', 'artist', 'date', 'creation_time', 'comment', 'copyright', 'description', 'location')
_OF_THE_FILE = ('major_brand', 'minor_version', 'compatible_brands', 'encoder')  # how the old one was written
_APPLE = 'com.apple.quicktime.'
_SAME = {f'{_APPLE}creationdate': 'date', f'{_APPLE}location.iso6709': 'location'}
BYTES = 'surrogateescape'  # titles in old encodings are passed on as they are
MAX_PIXELS = 8192 * 4320  # of a frame
CONTAINERS = {'format_whitelist': 'mov,matroska,avi'}  # no lists of other files and addresses, whatever the name says


class VideoError(UserError):
    """A video cannot be read or written; says which, what was found, what was expected and what to do."""


@dataclasses.dataclass
class Summary:
    """What was done with one video."""

    frames: int
    width: int
    height: int
    flicker: tuple[float, float]  # mean absolute difference of neighbouring frames, in levels: input, result
    notes: list[str]

    def __str__(self) -> str:
        before, after = self.flicker
        size = f'{self.frames} frames of {self.width}x{self.height}'
        return f'{size}, each restored by itself; neighbours differ by {before:.2f} levels before and {after:.2f} after'


def is_video(path: str | pathlib.Path) -> bool:
    """Whether a file's name is that of a video that can be read and written."""
    return spelling.extension(path) in EXTENSIONS


def derain_video(
    derainer: Callable[[np.ndarray], np.ndarray],
    source: pathlib.Path,
    target: pathlib.Path,
    show_progress: bool = True,
) -> Summary:
    """Restores every frame of a video; `target`, of the same extension, is whole or not there.

    derainer: uint8 (H, W, 3), the restored image. Frames are restored upright, as they are seen.
    Raises VideoError for what cannot be read or written, OSError where the drive of `target` takes nothing, UserError
    where PyAV is not installed.
    """
    av = _av()
    source, target = pathlib.Path(source), pathlib.Path(target)
    extension = spelling.extension(source)
    if spelling.extension(target) != extension:
        raise VideoError(f'{target}: expected the extension of {source}; change the name of the result')
    with _reading(source):
        is_file = source.is_file()
    if not is_file:  # a pipe would block
        raise VideoError(f'{source}: is not there, or is not a regular file; expected a whole video; check the path')
    if target.exists() and target.samefile(source):
        raise VideoError(f'{target}: is the input itself, which would be overwritten; name another folder')
    with storage.replacing(target) as temporary, _explained(av, source, temporary), contextlib.ExitStack() as stack:
        reader = stack.enter_context(av.open(os.path.abspath(source), options=CONTAINERS, metadata_errors=BYTES))
        picture = _check(source, reader)
        _check_end(source, reader.format.name)
        muxer = {'.mp4': 'mp4', '.m4v': 'mp4', '.mov': 'mov', '.mkv': 'matroska', '.webm': 'webm', '.avi': 'avi'}
        options = {'movflags': '+faststart'} if muxer[extension] in ('mp4', 'mov') else {}
        how = {'format': muxer[extension], 'container_options': options, 'metadata_errors': BYTES}
        writer = stack.enter_context(av.open(os.path.abspath(temporary), 'w', **how))
        return _Job(source, reader, picture, writer, derainer).run(show_progress)


class _Job:
    """One video on its way from container to container."""

    def __init__(self, source: pathlib.Path, reader: Any, picture: Any, writer: Any, derainer: Callable[..., Any]):
        self.source, self.reader, self.picture, self.writer = source, reader, picture, writer
        self.derainer = derainer
        self.notes: list[str] = []
        self.output: Any = None
        self.copied: dict[int, Any] = {}
        self.places: list[int] | None = [] if reader.format.name == 'avi' else None  # of pictures not yet shown
        self.frames = self.packets = 0
        self.shape: tuple[int, ...] = (0, 0)
        self.turns = 0
        self.sums = [0.0, 0.0]
        self.last: tuple[np.ndarray, np.ndarray] | None = None

    def run(self, show_progress: bool) -> Summary:
        """Reads all packets in order; sound waits in the muxer for the pictures beside it."""
        options = {'unit': 'frame', 'disable': not show_progress}
        bar = progress.bar(None, spelling.shown(self.source.name), _count(self.picture), **options)
        with bar:
            for frame, packets in self._frames():
                if frame is not None:
                    if self.output is None:
                        self._start(frame)
                    self._restore(frame)
                    bar.update()
                for packet in packets:
                    self._copy(packet)
        if self.output is None or self.packets < self.picture.frames:
            found = f'holds {self.packets} of the {self.picture.frames or "unknown number of"} pictures that it lists'
            raise VideoError(f'{self.source}: {found}; expected a whole video; fetch or export it again')
        for packet in self.output.encode():
            self.writer.mux(packet)
        pairs = max(self.frames - 1, 1)
        flicker = (self.sums[0] / pairs, self.sums[1] / pairs)
        return Summary(self.frames, self.shape[1], self.shape[0], flicker, self.notes)

    def _frames(self) -> Iterator[tuple[Any, list[Any]]]:
        """Each frame with the packets of sound and subtitles that came since the last; they alone at the end."""
        waiting: list[Any] = []
        wanted = [stream for stream in self.reader.streams if stream.type in COPIED]
        for packet in self.reader.demux([self.picture, *wanted]):
            if packet.stream.index == self.picture.index:
                if packet.dts is not None:  # AVI lists places, of which some stand empty: the picture before stays
                    if self.places is None:
                        self.packets += 1
                    else:
                        self.packets = packet.dts + 1
                        self.places.append(packet.dts)
                for frame in packet.decode():
                    yield frame, waiting
                    waiting = []
            elif packet.dts is not None:
                waiting.append(packet)
        yield None, waiting

    def _start(self, frame: Any) -> None:
        """Opens the streams of the result, like those of the input."""
        name = self.picture.codec_context.codec.canonical_name
        wanted = OTHER.get(spelling.extension(self.source), name if name in ENCODERS else 'h264')
        encoder, options = ENCODERS[wanted]
        if wanted != name:
            self.notes.append(f'{name} pictures are written as {wanted}')
        self.output = output = self.writer.add_stream(encoder, rate=_rate(self.picture), options=options)
        context, given = output.codec_context, self.picture.codec_context
        bits = given.format.components[0].bits if given.format.components else 8
        if bits > 8:
            self.notes.append(f'{bits} bits of each sample reduced to 8')
        is_even = frame.width % 2 == 0 and frame.height % 2 == 0
        context.width, context.height = frame.width, frame.height
        chroma = _chroma(frame.format)
        context.pix_fmt = 'yuv420p' if is_even and chroma != (8, 8) else 'yuv444p'
        if context.pix_fmt == 'yuv420p' and max(chroma) > 4:
            self.notes.append(f'colour samples of {frame.format.name} reduced to those of yuv420p')
        context.time_base = output.time_base = self.picture.time_base
        if self.places is not None:
            context.max_b_frames = 0  # AVI would show pictures in the order in which they are decoded
        if given.sample_aspect_ratio:
            context.sample_aspect_ratio = given.sample_aspect_ratio
        for tag in ('color_range', 'color_primaries', 'color_trc', 'colorspace'):
            setattr(context, tag, int(getattr(given, tag)))
        matrix = int(given.colorspace)
        if matrix == 0 or (given.format.is_rgb and matrix not in MATRICES):  # 0: samples are G, B, R; now they are not
            context.colorspace = 2  # not said: players guess, as `_matrix` does
        if _is_full(given):  # also of the yuvj formats, which say it by their name alone
            context.color_range = 2
        self.turns = round(frame.rotation / 90) % 4  # quarter turns to the left that make it upright
        if self.turns:
            output.set_display_rotation(frame.rotation)
        if wanted == 'hevc' and spelling.extension(self.source) in ('.mp4', '.m4v', '.mov'):
            context.codec_tag = 'hvc1'  # Apple's players take no other
        self._describe(output)
        for stream in self.reader.streams:
            if stream.type in COPIED:
                self._add_copy(stream)
            elif stream.index != self.picture.index and stream.discard.name != 'all':  # all: they are the chapters
                self.notes.append(f'stream {stream.index} ({stream.type}) is left out')

    def _describe(self, output: Any) -> None:
        """Titles, dates, places and chapters."""
        output.metadata.update({k: v for k, v in self.picture.metadata.items() if k in ('language', 'title')})
        kept, lost = _sorted(self.reader.metadata, spelling.extension(self.source))
        self.writer.metadata.update(kept)
        if lost:
            names = ', '.join(lost[:3]) + ', ...' * (len(lost) > 3)
            self.notes.append(f'{len(lost)} metadata {"entries" if lost[1:] else "entry"} dropped ({names})')
        chapters = self.reader.chapters()  # writers refuse those that end before they begin
        self.writer.set_chapters([each for each in chapters if each['time_base'] and each['start'] <= each['end']])

    def _add_copy(self, stream: Any) -> None:
        """A stream that is copied, where the container takes it."""
        try:
            self.copied[stream.index] = self.writer.add_stream_from_template(stream)
        except (ValueError, OSError) as error:
            self.notes.append(f'stream {stream.index} ({stream.type}) cannot be copied and is left out: {error}')

    def _copy(self, packet: Any) -> None:
        output = self.copied.get(packet.stream.index)
        if output is not None:
            packet.stream = output
            self.writer.mux(packet)

    def _restore(self, frame: Any) -> None:
        """One frame into the result, at its own time."""
        stored = frame.to_ndarray(format='rgb24', **_matrix(self.picture.codec_context, frame, 'src'))
        if self.frames == 0:
            self.shape = stored.shape[:2]
        elif stored.shape[:2] != self.shape:
            raise VideoError(f'{self.source}: changes its size at frame {self.frames}; expected one; cut it there')
        if frame.interlaced_frame and self.frames == 0:
            self.notes.append('it is interlaced; both fields are restored together')
        upright = np.ascontiguousarray(np.rot90(stored, self.turns))
        restored = self.derainer(upright)
        self._compare(upright, restored)
        made = _av().VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(restored, -self.turns)), format='rgb24')
        context = self.output.codec_context
        made = made.reformat(format=context.pix_fmt, **_matrix(self.picture.codec_context, frame, 'dst'))
        made.pts, made.time_base = self._time(frame), self.picture.time_base
        if frame.duration:
            made.duration = frame.duration
        for packet in self.output.encode(made):
            self.writer.mux(packet)
        self.frames += 1

    def _time(self, frame: Any) -> int:
        """The frame's own time; in AVI, which has none, its place in the order of showing; else by the rate."""
        if self.places:
            return self.places.pop(0)
        if frame.pts is not None:
            return frame.pts
        return round(self.frames / (_rate(self.picture) * self.picture.time_base))

    def _compare(self, *now: np.ndarray) -> None:
        """Adds to the differences of neighbours."""
        if self.last is not None:
            for index, (image, before) in enumerate(zip(now, self.last, strict=True)):
                self.sums[index] += float(np.mean(np.abs(image.astype(np.int16) - before)))
        self.last = (now[0], now[1])


def _sorted(metadata: dict[str, str], extension: str) -> tuple[dict[str, str], list[str]]:
    """What a file says of itself, under the names that its container writes, and the names of what is dropped."""
    kept: dict[str, str] = {}
    lost: list[str] = []
    own = _OF_THE_FILE + ('software',) * (extension == '.avi')
    for key, value in sorted(metadata.items(), key=lambda item: item[0].lower() in _SAME):
        name = _SAME.get(key.lower(), key.lower().partition('-')[0])  # location-eng
        if name in _KEPT:
            is_day = name == 'creation_time' and extension == '.avi'  # which writes no other date
            kept.setdefault('date' if is_day else name, value)
        elif name not in own:
            lost.append(key)
    return kept, sorted(lost)


def _av() -> Any:
    """PyAV."""
    try:
        import av
    except ImportError as error:
        raise UserError(
            'A video needs PyAV, which is not installed; expected the extra video: pip install "qsnet-jax[video]".'
        ) from error
    return av


@contextlib.contextmanager
def _reading(source: pathlib.Path) -> Iterator[None]:
    """What the drive of the input raises, in one line."""
    try:
        yield
    except OSError as error:
        found = f'cannot be read ({error.strerror or error})'
        raise VideoError(f'{source}: {found}; expected a whole video; {storage.remedy(error, True)}') from error


@contextlib.contextmanager
def _explained(av: Any, source: pathlib.Path, target: pathlib.Path) -> Iterator[None]:
    """What FFmpeg raises, in one line; of the drive of the result, which is no fault of the input, as an OSError."""
    try:
        yield
    except av.error.FFmpegError as error:
        if isinstance(error, OSError) and error.filename == os.path.abspath(source):
            with _reading(source):
                raise
        if isinstance(error, OSError) and error.filename in (None, os.path.abspath(target)):  # else of a codec
            raise OSError(error.errno, error.strerror) from error
        found = f'is truncated, damaged, or cannot be written again ({error.strerror or error})'
        raise VideoError(f'{source}: {found}; expected a whole video; export it again as MP4') from error


def _check(source: pathlib.Path, reader: Any) -> Any:
    """The stream of pictures. Refuses what would come out wrong."""
    expected = 'one moving picture of 8 to 12 bits in standard dynamic range'
    streams = [stream for stream in reader.streams.video if not stream.disposition & 1024]  # attached covers
    if len(streams) != 1:
        raise VideoError(f'{source}: holds {len(streams)} streams of pictures; expected {expected}; split it')
    context = streams[0].codec_context  # None: of a codec that nobody knows, or protected
    if context is None or context.format is None or not context.width:
        raise VideoError(f'{source}: holds pictures that cannot be decoded; expected {expected}; export it as MP4')
    if int(context.color_trc) in HDR:
        raise VideoError(f'{source}: holds high dynamic range; expected {expected}; convert it to SDR (BT.709)')
    is_apart = streams[0].metadata.get('alpha_mode', '0') != '0'  # of VP8 and VP9, which FFmpeg decodes without it
    if is_apart or any(component.is_alpha for component in context.format.components):
        raise VideoError(f'{source}: holds transparent pictures; expected {expected}; put it on a background')
    if context.width * context.height > MAX_PIXELS:
        raise VideoError(
            f'{source}: is {context.width}x{context.height}; expected up to {MAX_PIXELS} pixels; shrink it'
        )
    streams[0].thread_type = 'AUTO'
    return streams[0]


def _check_end(source: pathlib.Path, container: str) -> None:
    """Refuses truncated files, which may have lost sound behind the last picture."""
    with _reading(source), source.open('rb') as file:
        size = os.fstat(file.fileno()).st_size
        listed = containers.listed_end(file, size, container)
    if listed > size:
        found = f'is truncated, damaged or still being written: holds {size} of the {listed} bytes that it lists'
        raise VideoError(f'{source}: {found}; expected a whole video; fetch or export it again')


def _rate(stream: Any) -> fractions.Fraction:
    """Frames per second, for the header alone: each frame keeps its time."""
    return stream.average_rate or stream.guessed_rate or fractions.Fraction(25)


def _count(stream: Any) -> int | None:
    """Frames, as far as the file says."""
    if stream.frames:
        return stream.frames
    length = stream.duration * stream.time_base if stream.duration else None
    return round(length * _rate(stream)) if length else None


def _chroma(format_: Any) -> tuple[int, int]:
    """Columns and rows of colour samples to 8 of pixels: (8, 8) where every pixel has its own, (0, 0) of grey."""
    if len(format_.components) == 1 and not format_.has_palette:
        return 0, 0
    return format_.chroma_width(8), format_.chroma_height(8)


def _is_full(context: Any) -> bool:
    """Whether samples use all levels."""
    return int(context.color_range) == 2 or context.format.name.startswith('yuvj')


def _matrix(context: Any, frame: Any, side: str) -> dict[str, Any]:
    """How colours are made of samples ('src'), or these of colours ('dst'); where it is not said, as players guess."""
    guess = MATRICES[1] if frame.height >= 720 else MATRICES[6]
    matrix = MATRICES.get(int(context.colorspace), guess)
    flags = _av().video.reformatter.Interpolation
    exact = flags.BICUBIC | flags.ACCURATE_RND | flags.FULL_CHR_H_INT | flags.FULL_CHR_H_INP  # else .7 levels darker
    return {
        f'{side}_colorspace': matrix,
        f'{side}_color_range': 2 if _is_full(context) else 1,
        'interpolation': exact,
    }
