"""Videos: every frame at its time, sound and tags as they were, in bounded memory, whole or not there."""

import errno
import fractions
import os
import pathlib
import resource
import struct

import numpy as np
import pytest
import skimage.data
from PIL import Image
from test_derain import make

from qsnet_jax import UserError, derain, metrics, photos, progress, video
from qsnet_jax.data import rain

av = pytest.importorskip('av', reason='PyAV is not installed (extra video)')
RATE, HEIGHT, WIDTH = 25, 96, 128
CODECS = {'.webm': 'libvpx', '.avi': 'mpeg4'}  # others H.264


def moving_photo(count, height=HEIGHT, width=WIDTH):
    """A window that wanders over a bundled photo, rainy and clean; every frame has rain of its own."""
    photo = skimage.data.chelsea()
    for index in range(count):
        shift = 2 * (index % 60)
        clean = np.ascontiguousarray(photo[shift // 4 : shift // 4 + height, shift : shift + width])
        layer = rain.draw_layer(rain.STYLES['light'], height, width, seed=3, index=index)
        yield rain.add_rain(clean, layer), clean


def write_clip(path, count, sound=True, rotation=0, gaps=False, codec='libx264', pix_fmt='yuv420p', tags=None, **size):
    """A clip with a tone; `gaps` leaves out frames, so that times are uneven."""
    frames = list(moving_photo(count, **size))
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), 'w') as container:
        options = {'crf': '10'} if codec.startswith('libx') else {}
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.height, stream.width = frames[0][0].shape[:2]
        stream.pix_fmt = pix_fmt
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        tone = container.add_stream('aac', rate=8000, layout='mono') if sound else None
        for index, (rainy, _) in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(rainy, format='rgb24')
            picture.pts = index + index // 3 if gaps else index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        if tone:
            wave = np.sin(np.arange(8000 * count // RATE) / 5).astype(np.float32)[None]
            for start in range(0, wave.shape[1], 1024):
                part = av.AudioFrame.from_ndarray(wave[:, start : start + 1024], format='fltp', layout='mono')
                part.sample_rate, part.pts = 8000, start
                container.mux(tone.encode(part))
            container.mux(tone.encode())
    return [clean for _, clean in frames]


def read(path):
    """Frames, their times, the packets of sound, and the stream's tags."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(frame.to_ndarray(format='rgb24'), frame.time, frame.rotation) for frame in container.decode(stream)]
        tags = {name: int(getattr(stream.codec_context, name))
                for name in ('color_range', 'color_primaries', 'color_trc', 'colorspace')}  # fmt: skip
        tags['name'] = stream.codec_context.codec.canonical_name
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.audio) if container.streams.audio else []
        sound = [(bytes(packet), float(packet.pts * packet.time_base)) for packet in packets if packet.size]
    images, times, turns = zip(*frames, strict=True)
    return images, times, sound, tags, set(turns)


def identity(image):
    return image


@pytest.mark.parametrize('gaps', [False, True])
@pytest.mark.parametrize('extension', ['.mp4', '.mov', '.mkv'])
def test_frames_times_and_sound_stay(tmp_path, extension, gaps):
    """As many frames, at the same times, uneven ones too, and every packet of sound."""
    source, target = tmp_path / f'in{extension}', tmp_path / 'out' / f'in{extension}'
    write_clip(source, 20, gaps=gaps)
    summary = video.derain_video(identity, source, target, show_progress=False)
    (images, times, sound, *_), (copies, new_times, new_sound, *_) = read(source), read(target)
    assert summary.frames == len(images) == len(copies) == 20
    np.testing.assert_allclose(new_times, times, atol=1e-4)
    assert [content for content, _ in new_sound] == [content for content, _ in sound] and len(sound) > 5
    np.testing.assert_allclose([time for _, time in new_sound], [time for _, time in sound], atol=1e-3)
    assert min(metrics.psnr(a, b, 'rgb') for a, b in zip(images, copies, strict=True)) > 36
    assert summary.flicker[1] == pytest.approx(summary.flicker[0]) and not summary.notes


def test_rotation_is_kept_and_frames_are_restored_upright(tmp_path):
    """The network sees what people see; the file says how it lies, as before."""
    seen = []

    def remember(image):
        seen.append(image)
        return image

    write_clip(tmp_path / 'in.mp4', 3, rotation=90, sound=False)
    video.derain_video(remember, tmp_path / 'in.mp4', tmp_path / 'out.mp4', show_progress=False)
    images, _, _, _, turns = read(tmp_path / 'in.mp4')
    copies, _, _, _, new_turns = read(tmp_path / 'out.mp4')
    assert turns == new_turns == {90} and copies[0].shape == images[0].shape
    assert seen[0].shape == (WIDTH, HEIGHT, 3)
    assert metrics.psnr(seen[0], np.rot90(images[0]).copy(), 'rgb') > 40


@pytest.mark.parametrize('range_', [1, 2])
@pytest.mark.parametrize('matrix', [1, 6, 9])
def test_colour_tags_and_colours_stay(tmp_path, matrix, range_):
    """Whatever the tags say, they are the same, and so are the samples."""
    tags = {'color_range': range_, 'color_primaries': 1, 'color_trc': 1, 'colorspace': matrix}
    write_clip(tmp_path / 'in.mp4', 3, tags=tags, sound=False)
    video.derain_video(identity, tmp_path / 'in.mp4', tmp_path / 'out.mp4', show_progress=False)
    assert read(tmp_path / 'out.mp4')[3] == read(tmp_path / 'in.mp4')[3] == {**tags, 'name': 'h264'}
    with av.open(str(tmp_path / 'in.mp4')) as before, av.open(str(tmp_path / 'out.mp4')) as after:
        for old, new in zip(before.decode(video=0), after.decode(video=0), strict=True):
            difference = old.to_ndarray(format='yuv420p').astype(float) - new.to_ndarray(format='yuv420p')
            assert abs(difference.mean()) < 0.15 and np.sqrt(np.mean(difference**2)) < 3


@pytest.mark.parametrize(
    'name, codec, pix_fmt, matrix',
    [
        ('x.mp4', 'libx264rgb', 'rgb24', 0),
        ('x.mov', 'png', 'rgb24', 0),
        ('x.mov', 'png', 'rgb48be', 0),
        ('x.webm', 'libvpx-vp9', 'gbrp', 0),
        ('x.mkv', 'ffv1', 'bgr0', 2),
        ('x.mkv', 'ffv1', 'bgr0', 1),
        ('x.mkv', 'ffv1', 'bgr0', 8),
        ('x.mkv', 'ffv1', 'gbrp10le', 2),
        ('x.mkv', 'ffv1', 'yuv422p', 2),
        ('x.mkv', 'ffv1', 'yuv444p', 0),
        ('x.avi', 'rawvideo', 'bgr24', 2),
    ],
)
def test_colours_of_rgb_stay(tmp_path, name, codec, pix_fmt, matrix):
    """Results are YUV and say nothing else; colours of every pixel stay those of every pixel, less is noted."""
    write_clip(tmp_path / name, 2, codec=codec, pix_fmt=pix_fmt, tags={'colorspace': matrix}, sound=False)
    summary = video.derain_video(identity, tmp_path / name, tmp_path / f'out-{name}', show_progress=False)
    images, copies = read(tmp_path / name)[0], read(tmp_path / f'out-{name}')[0]
    assert min(metrics.psnr(a, b, 'rgb') for a, b in zip(images, copies, strict=True)) > 35
    with av.open(str(tmp_path / f'out-{name}')) as container:
        made = container.streams.video[0].codec_context.format.name
    assert made[-4:] == ('420p' if pix_fmt == 'yuv422p' else '444p')
    lost = 'colour samples of yuv422p reduced to those of yuv420p'
    assert [note for note in summary.notes if 'colour' in note] == [lost] * (pix_fmt == 'yuv422p')


def test_other_codecs(tmp_path):
    """HEVC stays so; MPEG-4 becomes H.264, which is said; odd sizes keep their last row and column."""
    for codec, name, notes in (('libx265', 'hevc', []), ('mpeg4', 'h264', ['mpeg4 pictures are written as h264'])):
        write_clip(tmp_path / f'{codec}.mkv', 3, codec=codec, sound=False)
        summary = video.derain_video(identity, tmp_path / f'{codec}.mkv', tmp_path / 'x.mkv', show_progress=False)
        assert summary.notes == notes and read(tmp_path / 'x.mkv')[3]['name'] == name
    write_clip(tmp_path / 'odd.mkv', 2, pix_fmt='yuv444p', height=97, width=127, sound=False)
    video.derain_video(identity, tmp_path / 'odd.mkv', tmp_path / 'out.mkv', show_progress=False)
    assert read(tmp_path / 'out.mkv')[0][0].shape == (97, 127, 3)


@pytest.mark.parametrize('name', ['x.mp4', 'x.mov', 'x.m4v', 'x.mkv'])
def test_apples_players_take_hevc(tmp_path, name):
    """In their containers it has the only tag that they know."""
    write_clip(tmp_path / 'first.mp4', 4, codec='libx265', sound=False)
    os.rename(tmp_path / 'first.mp4', tmp_path / name)
    video.derain_video(identity, tmp_path / name, tmp_path / f'out-{name}', show_progress=False)
    with av.open(str(tmp_path / f'out-{name}')) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.codec_tag == 'hvc1') == (name != 'x.mkv')
        assert len(list(container.decode(stream))) == 4


def describe(path, template, metadata, chapters=()):
    """The packets of a clip, with metadata of the container; byte by byte, so that no encoding is asked."""
    options = {'movflags': 'use_metadata_tags'} if path.suffix == '.mov' else {}
    errors = {'metadata_errors': 'surrogateescape'}
    with av.open(str(template)) as reader, av.open(str(path), 'w', options=options, **errors) as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        writer.metadata.update(metadata)
        writer.set_chapters(list(chapters))
        for packet in reader.demux(video=0):
            if packet.size:
                packet.stream = stream
                writer.mux(packet)


def test_a_title_in_an_old_encoding_is_passed_on(tmp_path):
    """AVI knows no encoding; the bytes stay."""
    write_clip(tmp_path / 'first.avi', 2, codec='mpeg4', sound=False)
    describe(tmp_path / 'x.avi', tmp_path / 'first.avi', {'title': 'B\udce4r'})
    video.derain_video(identity, tmp_path / 'x.avi', tmp_path / 'out.avi', show_progress=False)
    assert b'INAM\x04\0\0\0B\xe4r\0' in (tmp_path / 'out.avi').read_bytes()


def test_what_a_video_says_of_itself_is_kept_or_counted(tmp_path):
    """Chapters and a title stay, in the upper case of Matroska too; a telephone's own words are counted."""

    def passed_on(name, metadata, chapters=()):
        describe(tmp_path / name, tmp_path / 'first.mkv', metadata, chapters)
        out = tmp_path / f'out-{name}'
        summary = video.derain_video(identity, tmp_path / name, out, show_progress=False)
        with av.open(str(out)) as container:
            found = {name.lower(): value for name, value in container.metadata.items()}
            return found, [each['metadata']['title'] for each in container.chapters()], summary.notes

    write_clip(tmp_path / 'first.mkv', 4, sound=False)
    place, day = '+27.5916+086.5640/', '2026-05-01T10:00:00+0200'
    parts = [{'id': n, 'start': 40 * n, 'end': 40 * n + 40, 'time_base': fractions.Fraction(1, 1000),
              'metadata': {'title': f'part {n}'}} for n in range(3)]  # fmt: skip
    for name in ('x.mkv', 'x.mp4'):  # MP4 keeps chapters as a stream of text, and a place under two names
        found, titles, notes = passed_on(name, {'title': 'rain', 'comment': 'at home', 'location': place}, parts)
        assert (found['title'], found['comment'], found['location']) == ('rain', 'at home', place) and not notes
        assert titles == ['part 0', 'part 1', 'part 2']
    telephone = {
        'make': 'x',
        'model': 'x',
        'software': 'x',
        'sort': 'x',
        'creationdate': day,
        'location.ISO6709': place,
    }
    found, _, notes = passed_on('x.mov', {f'com.apple.quicktime.{name}': value for name, value in telephone.items()})
    names = 'com.apple.quicktime.make, com.apple.quicktime.model, com.apple.quicktime.software, ...'
    assert notes == [f'4 metadata entries dropped ({names})']
    assert (found['date'], found['location']) == (day, place)


def test_the_day_of_a_cameras_avi_stays(tmp_path):
    """Cameras write it in a chunk that writers of AVI do not know; the name of the old writer is none of it."""
    write_clip(tmp_path / 'x.avi', 2, codec='mpeg4', sound=False)
    content = (tmp_path / 'x.avi').read_bytes()
    day = b'FRI JAN 02 02:03:55 2008\n\0'
    at = content.index(b'LIST', content.index(b'hdrl') + 4)  # before the first list in the headers
    chunk = b'IDIT' + struct.pack('<I', len(day)) + day
    content = bytearray(content[:at] + chunk + content[at:])
    for place in (4, 16):  # sizes of the file and of its headers
        struct.pack_into('<I', content, place, struct.unpack_from('<I', content, place)[0] + len(chunk))
    (tmp_path / 'x.avi').write_bytes(content)
    summary = video.derain_video(identity, tmp_path / 'x.avi', tmp_path / 'out.avi', show_progress=False)
    with av.open(str(tmp_path / 'out.avi')) as container:
        assert container.metadata['date'].startswith('2008-01-02') and container.metadata['software']
    assert summary.notes == ['mpeg4 pictures are written as h264']


def test_what_pyav_trips_over_is_one_failure(tmp_path, monkeypatch, capsys):
    """Whatever it raises: the next video comes out."""
    for name in ('a', 'b'):
        write_clip(tmp_path / f'in/{name}.mp4', 2, sound=False)
    check = video._check
    monkeypatch.setattr(video, '_check', lambda source, reader: (
        b'\xe4'.decode() if source.stem == 'a' else check(source, reader)))  # fmt: skip
    assert photos.derain_files(identity, str(tmp_path / 'in'), str(tmp_path / 'out')) == 1
    printed = capsys.readouterr().out
    assert f'failed: {tmp_path}/in/a.mp4: cannot be read or written again (UnicodeDecodeError: ' in printed
    assert [path.name for path in (tmp_path / 'out').glob('*.mp4')] == ['b.mp4']


def test_a_network_restores_every_frame(tmp_path):
    """Results are those of the derainer on the frames, but for what the codec costs; flicker is of both."""
    derainer = make()
    write_clip(tmp_path / 'in.mp4', 4)
    summary = video.derain_video(derainer, tmp_path / 'in.mp4', tmp_path / 'out.mp4', show_progress=False)
    images, copies = read(tmp_path / 'in.mp4')[0], read(tmp_path / 'out.mp4')[0]
    expected = [derainer(image) for image in images]
    assert min(metrics.psnr(a, b, 'rgb') for a, b in zip(expected, copies, strict=True)) > 30
    for frames, found in ((images, summary.flicker[0]), (expected, summary.flicker[1])):
        steps = [np.mean(np.abs(b.astype(float) - a)) for a, b in zip(frames, frames[1:], strict=False)]
        assert found == pytest.approx(np.mean(steps), rel=0.05)
    assert '4 frames of 128x96' in str(summary)


def test_an_interrupted_run_leaves_nothing(tmp_path):
    """Neither half a result nor a temporary file; an older result stays."""
    write_clip(tmp_path / 'in.mp4', 4)
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/in.mp4').write_bytes(b'older')

    def stop(image):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        video.derain_video(stop, tmp_path / 'in.mp4', tmp_path / 'out/in.mp4', show_progress=False)
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['in.mp4']
    assert (tmp_path / 'out/in.mp4').read_bytes() == b'older'


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path):
    """Fifteen times the frames take no more than a few megabytes beyond what the short clip took; all would be 66."""
    write_clip(tmp_path / 'in.mp4', 40, height=160, width=240)
    video.derain_video(identity, tmp_path / 'in.mp4', tmp_path / 'out.mp4', show_progress=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with av.open(str(tmp_path / 'in.mp4')) as reader, av.open(str(tmp_path / 'long.mp4'), 'w') as writer:
        packets = [packet for packet in reader.demux(video=0) if packet.dts is not None]
        stream = writer.add_stream_from_template(reader.streams.video[0])
        length, start = 40 * packets[0].duration, [(packet.pts, packet.dts) for packet in packets]
        for repeat in range(15):
            for packet, (pts, dts) in zip(packets, start, strict=True):
                packet.stream, packet.pts, packet.dts = stream, pts + repeat * length, dts + repeat * length
                writer.mux(packet)
    summary = video.derain_video(identity, tmp_path / 'long.mp4', tmp_path / 'out.mp4', show_progress=False)
    assert summary.frames == 600
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 30


@pytest.mark.slow
def test_seconds_of_a_moving_photo(tmp_path, capsys):
    """Frames, times and sound are those of the input, and every second is nearer to the truth by more than 2 dB."""
    clean = write_clip(tmp_path / 'in.mp4', 4 * RATE, height=144, width=192)
    derainer = derain.load('default', tile=0)
    summary = video.derain_video(derainer, tmp_path / 'in.mp4', tmp_path / 'out.mp4', show_progress=False)
    (images, times, sound, tags, _), (copies, new_times, new_sound, new_tags, _) = map(
        read, (tmp_path / 'in.mp4', tmp_path / 'out.mp4')
    )
    assert summary.frames == len(images) == len(copies) == 4 * RATE and times[-1] == 4 - 1 / RATE
    assert new_times == times and new_sound == sound and len(sound) > 25 and new_tags == tags
    scores = [[metrics.psnr(each, truth, 'y') for each, truth in zip(found, clean, strict=True)]
              for found in (images, copies)]  # fmt: skip
    dB = np.reshape(scores, (2, 4, RATE)).mean(-1)
    with capsys.disabled():
        print(f'\n{summary}; y {dB[0].mean():.2f} -> {dB[1].mean():.2f} dB')
    assert (dB[1] - dB[0] > 2.0).all() and summary.flicker[1] < summary.flicker[0]


def cut(path):
    """Takes the end, where MP4 has its table."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def cut_a_fifth(path):
    """Takes the last pictures."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])


def write_again(path, template, **options):
    """The packets of `template` in a container with other options."""
    with av.open(str(template)) as reader, av.open(str(path), 'w', options=options) as writer:
        copies = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
        for packet in reader.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                writer.mux(packet)


FRAGMENTS = {'movflags': 'frag_keyframe+empty_moov', 'frag_duration': '200000'}


def cut_fragments(path):
    """Of an MP4 file whose table does not list all pictures."""
    write_clip(path.with_name('whole.mp4'), 20, sound=False)
    write_again(path, path.with_name('whole.mp4'), **FRAGMENTS)
    path.with_name('whole.mp4').unlink()
    cut_a_fifth(path)


def cut_the_sound(path):
    """Of a file whose table comes first and whose sound is longer than its pictures."""
    with av.open(str(path), 'w', options={'movflags': 'faststart'}) as container:
        stream = container.add_stream('libx264', rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
        tone = container.add_stream('aac', rate=8000, layout='mono')
        container.mux(stream.encode(av.VideoFrame.from_ndarray(next(moving_photo(1))[0], format='rgb24')))
        container.mux(stream.encode())
        for start in range(0, 16000, 1024):
            wave = np.sin(np.arange(start, start + 1024) / 5).astype(np.float32)[None]
            part = av.AudioFrame.from_ndarray(wave, format='fltp', layout='mono')
            part.sample_rate, part.pts = 8000, start
            container.mux(tone.encode(part))
        container.mux(tone.encode())
    path.write_bytes(path.read_bytes()[:-1000])


def cut_the_table(path):
    """Takes the sound from a table that comes last: it is listed behind the pictures."""
    write_clip(path, 4)
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b'trak') - 4])


def forget_codec(path):
    """Its four letters become others that nobody knows."""
    path.write_bytes(path.read_bytes().replace(b'FMP4', b'ZZZZ').replace(b'fmp4', b'ZZZZ'))


def write_transparent(path, codec='libvpx', pix_fmt='yuva420p'):
    """Two pictures that one can see through."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=RATE, options={'auto-alt-ref': '0'} if codec == 'libvpx' else {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        for index, (rainy, _) in enumerate(moving_photo(2)):
            seen_through = np.dstack([rainy, np.full(rainy.shape[:2], 99, np.uint8)])
            picture = av.VideoFrame.from_ndarray(seen_through, format='rgba')
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def cut_behind_the_table(path):
    """Takes the last pictures of a file whose table comes first."""
    video.derain_video(identity, path, path.with_name('whole.mp4'), show_progress=False)
    path.with_name('whole.mp4').rename(path)
    path.write_bytes(path.read_bytes()[:-12000])


@pytest.mark.parametrize(
    'extension, change, words',
    [
        ('.mp4', lambda path: path.write_bytes(b''), 'truncated, damaged'),
        ('.mp4', lambda path: path.write_bytes(b'no video at all' * 99), 'truncated, damaged'),
        ('.mp4', cut, 'truncated, damaged'),
        ('.mp4', cut_behind_the_table, 'holds . of the 4 pictures|truncated, damaged'),
        ('.mp4', cut_fragments, 'bytes that it lists'),
        ('.mp4', cut_the_sound, 'bytes that it lists'),
        ('.mp4', cut_the_table, 'bytes that it lists'),
        ('.avi', cut_a_fifth, 'pictures that it lists'),
        ('.mkv', cut_a_fifth, 'bytes that it lists'),
        ('.webm', cut_a_fifth, 'bytes that it lists'),
        ('.avi', forget_codec, 'cannot be decoded'),
        ('.mp4', lambda path: write_clip(path, 2, tags={'color_trc': 16}), 'high dynamic range'),
        ('.webm', write_transparent, 'transparent'),
        ('.webm', lambda path: write_transparent(path, 'libvpx-vp9'), 'transparent'),
        ('.avi', lambda path: write_transparent(path, 'utvideo', 'gbrap'), 'transparent'),
        ('.mov', lambda path: write_transparent(path, 'png', 'rgba'), 'transparent'),
    ],
)
def test_what_cannot_come_out_right_is_refused(tmp_path, extension, change, words):
    """In one line, and nothing is left."""
    source, target = tmp_path / f'in{extension}', tmp_path / f'out{extension}'
    write_clip(source, 4, sound=False, codec=CODECS.get(extension, 'libx264'))
    change(source)
    with pytest.raises(video.VideoError, match=words):
        video.derain_video(identity, source, target, show_progress=False)
    assert list(tmp_path.iterdir()) == [source]
    with pytest.raises(video.VideoError, match='input itself'):
        video.derain_video(identity, source, source)


@pytest.mark.parametrize(
    'name, options',
    [('x.mp4', FRAGMENTS), ('x.mkv', {'live': '1'}), ('x.webm', {'live': '1'}), ('x.webm', {}), ('x.avi', {})],
)
def test_what_is_whole_is_taken(tmp_path, name, options):
    """Also where no number of pictures and no length is given, times are uneven and sound goes on behind them."""
    codec = CODECS.get(pathlib.Path(name).suffix, 'libx264')
    write_clip(tmp_path / name, 20, codec=codec, sound='webm' not in name, gaps=True)
    if options:
        (tmp_path / name).rename(tmp_path / f'first-{name}')
        write_again(tmp_path / name, tmp_path / f'first-{name}', **options)
    assert video.derain_video(identity, tmp_path / name, tmp_path / f'out-{name}', show_progress=False).frames == 20


@pytest.mark.parametrize('codec', ['libx264', 'mpeg4'])
def test_frames_of_avi_come_in_order(tmp_path, codec):
    """It stores places, no times: pictures that lean on later ones are put in order, and no such ones are written."""

    def places(path):
        with av.open(str(path)) as container:
            return [packet.dts for packet in container.demux(video=0) if packet.size]

    write_clip(tmp_path / 'x.avi', 12, codec=codec, sound=False, gaps=True)
    video.derain_video(identity, tmp_path / 'x.avi', tmp_path / 'out.avi', show_progress=False)
    (images, times, *_), (copies, new_times, *_) = read(tmp_path / 'x.avi'), read(tmp_path / 'out.avi')
    assert (sorted(times) == list(times)) == (codec == 'mpeg4')  # else the clip tests nothing
    assert places(tmp_path / 'out.avi') == places(tmp_path / 'x.avi') and sorted(new_times) == list(new_times)
    assert min(metrics.psnr(a, b, 'rgb') for a, b in zip(images, copies, strict=True)) > 36


def test_what_stands_behind_a_whole_video_is_no_fault(tmp_path):
    """Also where the pictures' box has its size in 64 bits, or reaches to the end of the file."""
    write_clip(tmp_path / 'first.mp4', 4)
    write_again(tmp_path / 'x.mp4', tmp_path / 'first.mp4', movflags='faststart')
    content = (tmp_path / 'x.mp4').read_bytes()
    at = content.index(b'mdat') - 4
    assert content[at - 4 : at] == b'free'  # whose eight bytes the longer size takes
    longer = struct.pack('>I4sQ', 1, b'mdat', len(content) - at + 8)
    for changed in (
        content + b'garbage' * 99,
        content + struct.pack('>I4s', 99, b'free'),
        content[: at - 8] + longer + content[at + 8 :],
        content[:at] + bytes(4) + content[at + 4 :],
    ):
        (tmp_path / 'x.mp4').write_bytes(changed)
        summary = video.derain_video(identity, tmp_path / 'x.mp4', tmp_path / 'out.mp4', show_progress=False)
        assert summary.frames == 4 and read(tmp_path / 'out.mp4')[2] == read(tmp_path / 'first.mp4')[2]


def test_what_is_no_video_file_is_refused_at_once(tmp_path):
    """A pipe is not waited for, and a list of other files is not followed."""
    write_clip(tmp_path / 'own.mkv', 2, sound=False)
    os.mkfifo(tmp_path / 'pipe.mp4')
    (tmp_path / 'list.mkv').write_text('ffconcat version 1.0\nfile own.mkv\n')
    for name, words in (('pipe.mp4', 'not a regular file'), ('none.mp4', 'not there'), ('list.mkv', 'damaged')):
        with pytest.raises(video.VideoError, match=words):
            video.derain_video(identity, tmp_path / name, tmp_path / f'out-{name}', show_progress=False)


@pytest.mark.parametrize(
    ('number', 'side', 'words'),
    [
        (errno.ENOSPC, 'writer', '{}/out/a.mp4: cannot be written (No space left on device)'),
        (errno.EIO, 'reader', '{}/in/a.mp4: cannot be read (Input/output error)'),
    ],
)
def test_a_drive_is_not_blamed_on_the_video(tmp_path, monkeypatch, capsys, number, side, words):
    """FFmpeg's errors of drives name the file that is there; no other video is begun on a full disk."""
    for name in ('a', 'b'):
        write_clip(tmp_path / f'in/{name}.mp4', 2, sound=False)
    monkeypatch.setattr(video._Job, 'run', lambda self, _: av.error.err_check(-number, getattr(self, side).name))
    assert photos.derain_files(identity, str(tmp_path / 'in'), str(tmp_path / 'out')) == 2
    printed = capsys.readouterr().out
    assert f'failed: {words.format(tmp_path)}' in printed and 'damaged' not in printed
    assert ('1 more photos were not tried' in printed) == (side == 'writer')


def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path, monkeypatch):
    """And not the result. The bar's title obeys no name."""
    titles = []
    write_clip(tmp_path / 'a\x1b[2J.mp4', 2, sound=False)
    monkeypatch.setattr(progress, 'bar', lambda items, title, *rest, bar=progress.bar, **options: (
        titles.append(title) or bar(items, title, *rest, **options)))  # fmt: skip
    video.derain_video(identity, tmp_path / 'a\x1b[2J.mp4', tmp_path / 'out.mp4', show_progress=False)
    assert titles == ['a\\x1b[2J.mp4']

    def refuse(self):
        raise PermissionError(errno.EACCES, 'Permission denied', str(self))

    monkeypatch.setattr(pathlib.Path, 'is_file', refuse)
    with pytest.raises(video.VideoError, match='/a.mp4: cannot be read .Permission denied.; .*rights to read it'):
        video.derain_video(identity, tmp_path / 'a.mp4', tmp_path / 'b.mp4')


def test_a_layer_is_of_photos_alone(tmp_path, capsys):
    """None of a video is planned, so that nothing is in its place, and that is said."""
    write_clip(tmp_path / 'in/a.mp4', 2, sound=False)
    Image.fromarray(next(moving_photo(1))[0]).save(tmp_path / 'in/a.mp4.rain.png')
    assert photos.derain_files(identity, str(tmp_path / 'in'), str(tmp_path / 'out'), layers=True) == 0
    found = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert found == ['.qsnet-derained', 'a.mp4', 'a.mp4.rain.png', 'a.mp4.rain.png.rain.png']
    assert capsys.readouterr().out.count('a.mp4: of a video no layer is written') == 1


def test_a_name_is_no_address(tmp_path, monkeypatch):
    """What stands before a colon is no protocol, in either name."""
    write_clip(tmp_path / 'in.mp4', 2, sound=False)
    monkeypatch.chdir(tmp_path)
    os.mkdir('out:x')
    os.rename('in.mp4', 'tcp:in.mp4')
    assert video.derain_video(identity, pathlib.Path('tcp:in.mp4'), pathlib.Path('out:x/a.mp4')).frames == 2


@pytest.mark.parametrize('extension', video.EXTENSIONS)
def test_a_space_behind_a_name_ends_no_run(tmp_path, extension):
    """In a folder, beside others; the result has the name."""
    (tmp_path / 'in').mkdir()
    write_clip(tmp_path / f'x{extension}', 2, sound=False, codec=CODECS.get(extension, 'mpeg4'))
    os.rename(tmp_path / f'x{extension}', tmp_path / f'in/x{extension.upper()} ')
    assert photos.derain_files(identity, str(tmp_path / 'in'), str(tmp_path / 'out')) == 0
    assert len(read(tmp_path / f'out/x{extension.upper()} ')[0]) == 2


def test_without_the_extra_one_line_says_so(tmp_path, without):
    """PyAV is not needed to know what a video is, and its absence is told with the remedy."""
    assert video.is_video('a/B.MP4') and video.is_video('x.mov') and not video.is_video('x.png')
    without('av')
    with pytest.raises(UserError, match=r'pip install "qsnet-jax\[video\]"') as caught:
        video.derain_video(identity, tmp_path / 'in.mp4', tmp_path / 'out.mp4')
    assert '\n' not in str(caught.value)
