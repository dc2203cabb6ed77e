"""A photo is whole or refused: what a file lacks is found before or after decoding, and memory is bounded."""

import fractions
import io
import itertools
import pathlib
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib

import fuzz
import numpy as np
import pytest
import tifffile
from PIL import Image, TiffImagePlugin

from qsnet_jax import memory
from qsnet_jax.data import images, jpeg

SEEDS = fuzz.seeds()
# Formats whose data are the pixels as they are, where zeros are black.
PLAIN = ('raw.tif', 'planar16.tif', 'tiles16.tif', 'rgb.bmp', 'palette.bmp', 'colour.ppm', 'grey16.pgm', 'bits.pbm')
PLAIN += ('rgba.tga', 'runs.tga')


def decoded(content, name):
    """The pixels, or None where the file is refused."""
    try:
        return images.decode(content, name)
    except images.ImageError:
        return None


@pytest.mark.parametrize('name', SEEDS)
def test_a_file_cut_anywhere_is_refused_or_whole(name):
    """Cut at any byte, also with an end mark put behind, it never gives other pixels."""
    content = SEEDS[name]
    whole, end = images.decode(content, name), fuzz.ENDS.get(pathlib.Path(name).suffix, b'')
    taken = 0
    last = content.rindex(b' ') if name == 'plain.pgm' else len(content)  # the last number may be another one
    for length in range(0, last, 11):
        for tail in {b'', end}:
            pixels = decoded(content[:length] + tail, name)
            assert pixels is None or np.array_equal(pixels, whole), length
            taken += pixels is not None
    assert taken <= 3 or name == 'mpo.jpg'  # whose second picture is not read


@pytest.mark.parametrize('name', [name for name in SEEDS if name not in PLAIN])
def test_zeros_in_place_of_the_end_are_refused(name):
    """A download that made room for the whole file and then broke off does not pass as a picture."""
    content = SEEDS[name]
    whole = images.decode(content, name)
    for length in range(0, len(content) - 70, 17):
        pixels = decoded(content[:length] + bytes(len(content) - length), name)
        assert pixels is None or np.array_equal(pixels, whole), length


# TIFF


@pytest.mark.parametrize('byteorder', '<>')
@pytest.mark.parametrize('compression', [None, 'zlib'])
@pytest.mark.parametrize('tile', [None, (16, 32)])
@pytest.mark.parametrize('planarconfig', ['contig', 'separate'])
@pytest.mark.parametrize('depth', [8, 16])
def test_planes_tiles_and_byte_orders_give_the_same_pixels(tmp_path, byteorder, compression, tile, planarconfig, depth):
    """RGB and RGBA TIFFs of either layout hold value // 256 of 16 bits, value of 8, in place."""
    for channels in (3, 4):
        pixels = np.random.default_rng(channels).integers(0, 2**depth, (37, 45, channels)).astype(f'uint{depth}')
        options = {'rowsperstrip': None if tile else 10, 'tile': tile, 'compression': compression}
        options |= {'extrasamples': ['unassalpha']} if channels == 4 else {}
        array = np.moveaxis(pixels, -1, 0) if planarconfig == 'separate' else pixels
        path = tmp_path / 'a.tif'
        tifffile.imwrite(path, array, photometric='rgb', planarconfig=planarconfig, byteorder=byteorder, **options)
        photo = images.open_photo(path)
        expected = pixels >> 8 if depth == 16 else pixels
        np.testing.assert_array_equal(photo.rgb, expected[..., :3])
        if channels == 4:
            np.testing.assert_array_equal(photo.alpha, expected[..., 3])


@pytest.mark.parametrize(('photometric', 'extra'), [('minisblack', 2), ('minisblack', 1), ('rgb', 2)])
def test_alpha_in_planes_is_kept_or_refused(photometric, extra):
    """Alpha beside grey, or before yet another channel, never comes out as zeros."""
    channels = 5 if photometric == 'rgb' else 2
    planes = np.random.default_rng(0).integers(1, 256, (channels, 12, 16)).astype(np.uint8)
    options = {'planarconfig': 'separate', 'extrasamples': [extra] if channels == 2 else [extra, 0]}
    content = fuzz.tiff(planes, photometric=photometric, **options)
    with pytest.raises(images.ImageError, match='a.tif: holds alpha in a plane of its own'):
        images.decode(content, 'a.tif')


def test_planes_of_cmyk_are_those_of_the_other_layout(tmp_path):
    """A 16-bit CMYK TIFF means the same in planes and side by side."""
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 30, 4)).astype(np.uint16)
    for layout, array in (('contig', pixels), ('separate', np.moveaxis(pixels, -1, 0))):
        tifffile.imwrite(tmp_path / f'{layout}.tif', array, photometric='separated', planarconfig=layout)
    np.testing.assert_array_equal(images.read(tmp_path / 'contig.tif'), images.read(tmp_path / 'separate.tif'))


def without(content, tag, keep):
    """A little-endian TIFF whose tag of several values holds only the first `keep`."""
    data = bytearray(content)
    start = struct.unpack_from('<I', data, 4)[0]
    for index in range(struct.unpack_from('<H', data, start)[0]):
        entry = start + 2 + 12 * index
        if struct.unpack_from('<H', data, entry)[0] == tag:
            kind, _, place = struct.unpack_from('<HII', data, entry + 2)
            struct.pack_into('<I', data, entry + 4, keep)
            size = {3: 2, 4: 4}[kind]
            if keep * size <= 4:  # then it stands in the entry itself
                data[entry + 8 : entry + 12] = data[place : place + keep * size].ljust(4, b'\0')
    return bytes(data)


@pytest.mark.parametrize('compression', [None, 'zlib'])
@pytest.mark.parametrize('planarconfig', ['contig', 'separate'])
@pytest.mark.parametrize('tile', [None, (16, 16)])
@pytest.mark.parametrize('keep', [1, 2, 3])
def test_tiffs_of_too_few_parts_are_refused(compression, planarconfig, tile, keep):
    """A TIFF that names a part of its strips or tiles is refused with their numbers, whichever table is short."""
    pixels = np.moveaxis(fuzz.picture(), -1, 0) if planarconfig == 'separate' else fuzz.picture()
    options = {'photometric': 'rgb', 'planarconfig': planarconfig, 'compression': compression}
    content = fuzz.tiff(pixels, byteorder='<', tile=tile, rowsperstrip=None if tile else 4, **options)
    assert decoded(content, 'a.tif') is not None
    for tag in (324, 325) if tile else (273, 279):
        with pytest.raises(images.ImageError, match=rf'names {keep} of \d+ {"tiles" if tile else "strips"}'):
            images.decode(without(content, tag, keep), 'a.tif')


@pytest.mark.parametrize(('kind', 'found'), [(np.int16, '-32768 to 32767'), (np.uint32, '0 to 4294967295')])
def test_integers_of_unknown_white_are_refused(kind, found):
    """Signed samples and those of 32 bits do not say what white is."""
    with pytest.raises(images.ImageError, match=f'holds integers from {found}'):
        images.decode(fuzz.tiff(np.ones((8, 8), kind)), 'a.tif')


@pytest.mark.parametrize('name', ['a.nef', 'a.DNG', 'a.cr2 '])
def test_raw_data_of_a_camera_are_known_by_their_name(tmp_path, name):
    """What reads as a TIFF is their preview, wherever a photo is read."""
    path = tmp_path / name
    path.write_bytes(fuzz.tiff(fuzz.picture()))
    for read in (images.read, images.open_photo, images.size):
        with pytest.raises(images.ImageError, match='holds raw data of a camera; expected a developed photo'):
            read(path)


def test_a_raw_files_preview_is_refused():
    """A TIFF whose first page is a reduced copy, as cameras write them, is not taken for the photo."""
    content = fuzz.tiff(fuzz.picture(), photometric='rgb', subfiletype=1)
    with pytest.raises(images.ImageError, match='preview'):
        images.decode(content, 'a.tif')


@pytest.mark.parametrize(
    'options',
    [
        {'rowsperstrip': 5},
        {'tile': (16, 16)},
        {'planarconfig': 'separate'},
        {'predictor': True},
        {'byteorder': '>'},
    ],
)
def test_every_checksum_of_a_deflated_tiff_is_looked_at(options):
    """A wrong byte in any strip, tile or plane is refused, though it inflates; the whole file is taken."""
    planes = options.get('planarconfig') == 'separate'
    pixels = np.moveaxis(fuzz.picture(), -1, 0) if planes else fuzz.picture()
    content = fuzz.tiff(pixels, photometric='rgb', compression='zlib', **options)
    np.testing.assert_array_equal(images.decode(content, 'a.tif'), fuzz.picture())
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages[0]
        ends = [sum(part) for part in zip(page.dataoffsets, page.databytecounts, strict=True)]
    for end in ends:
        changed = content[: end - 2] + bytes([content[end - 2] ^ 1]) + content[end - 1 :]
        with pytest.raises(images.ImageError, match='a.tif: is truncated or damaged .*incorrect data check'):
            images.decode(changed, 'a.tif')


def deflated(stream):
    """A TIFF of 8 x 8 grey pixels whose strip is this stream."""
    content = bytearray(fuzz.tiff(np.zeros((8, 8), np.uint8), compression='zlib', byteorder='<'))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        for tag, value in ((273, len(content)), (279, len(stream))):
            struct.pack_into('<I', content, file.pages[0].tags[tag].valueoffset, value)
    return bytes(content) + stream


def test_a_deflated_strip_that_became_longer_is_refused():
    """Damage moves the end of the stream; libtiff stops at the last pixel and never sees the wrong checksum."""
    stream = zlib.compress(bytes(range(67)))
    assert images.decode(deflated(stream), 'a.tif')[7, 7, 0] == 63
    with pytest.raises(images.ImageError, match='a.tif: is truncated or damaged .*one of its strips: .*incorrect data'):
        images.decode(deflated(stream[:-1] + bytes([stream[-1] ^ 1])), 'a.tif')


def test_a_deflated_strip_that_goes_on_and_on_is_refused():
    """Before it has taken memory: the stream of a bomb."""
    content = deflated(zlib.compress(bytes(2**25)))
    tracemalloc.start()
    with pytest.raises(images.ImageError, match='a.tif: is truncated or damaged .*more than its pixels'):
        images.decode(content, 'a.tif')
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize(('photometric', 'colours'), [('minisblack', 1), ('rgb', 3), ('separated', 4)])
@pytest.mark.parametrize('layout', ['contig', 'separate'])
@pytest.mark.parametrize('extra', [[], ['unspecified'], ['unassalpha'], ['unassalpha', 'unspecified']])
def test_a_channel_that_is_dropped_is_said(tmp_path, photometric, colours, layout, extra):
    """One of unknown kind; nothing is said of alpha, which is kept, and of what is refused."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, colours + len(extra))).astype(np.uint8)
    pixels = np.moveaxis(pixels, -1, 0) if layout == 'separate' else pixels
    options = {'photometric': photometric, 'extrasamples': extra}
    options |= {'planarconfig': layout} if len(extra) + colours > 1 else {}
    tifffile.imwrite(tmp_path / 'a.tif', pixels.squeeze(), **options)
    try:
        photo = images.open_photo(tmp_path / 'a.tif')
    except images.ImageError:
        assert 'unassalpha' in extra
        return
    assert (photo.alpha is not None) == ('unassalpha' in extra)
    assert ('a channel that is neither colour nor alpha dropped' in photo.notes) == ('unspecified' in extra)


def test_an_unsupported_compression_is_not_called_damage():
    """One that libtiff was built without, and one that nobody knows."""
    content = bytearray(fuzz.tiff(fuzz.picture(), photometric='rgb', byteorder='<'))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        place = file.pages[0].tags[259].valueoffset
    for number, said in (
        (50001, 'is compressed in a way that is not supported .WEBP'),
        (34712, 'or compression are not'),
    ):
        struct.pack_into('<H', content, place, number)
        with pytest.raises(images.ImageError, match=f'a.tif: .*{said}'):
            images.decode(bytes(content), 'a.tif')


def test_pages_are_not_all_counted(monkeypatch):
    """A TIFF of many pages is refused after a few of them."""
    content = fuzz.tiff(np.zeros((400, 4, 4), np.uint8), photometric='minisblack')
    seen = []
    seek = TiffImagePlugin.TiffImageFile.seek
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, 'seek', lambda image, to: (seen.append(to), seek(image, to)))
    with pytest.raises(images.ImageError, match='holds over 9 frames or pages'):
        images.decode(content, 'a.tif')
    assert max(seen) < 12


def test_what_libtiff_prints_is_said_with_the_file(tmp_path, capfd):
    """Nothing reaches standard error, and a message of libtiff's own stands in the ImageError, with the file's name."""
    content = bytearray(SEEDS['lzw.tif'])
    content[30:60] = b'\xff' * 30
    (tmp_path / 'broken.tif').write_bytes(content)
    with pytest.raises(images.ImageError, match=r'broken.tif: is truncated or damaged \(.*not yet in table'):
        images.read(tmp_path / 'broken.tif')
    assert capfd.readouterr().err == ''


def test_a_colour_map_of_8_bits_is_read(tmp_path):
    """Some programs write those of a TIFF so, where 16 are meant; libtiff knows them by having no higher values."""
    colours = np.random.default_rng(0).integers(1, 256, (3, 256)).astype(np.uint16)
    pixels = np.arange(80, dtype=np.uint8).reshape(8, 10)
    for factor in (1, 257):
        for compression in (None, 'zlib'):
            tifffile.imwrite(
                tmp_path / 'a.tif', pixels, photometric='palette', colormap=colours * factor, compression=compression
            )
            np.testing.assert_array_equal(images.read(tmp_path / 'a.tif'), colours.T[pixels])


# JPEG


def jpeg_of(**options):
    """A JPEG of waves."""
    return fuzz.encoded('RGB', 'JPEG', **options)


@pytest.mark.parametrize('options', [{}, {'progressive': True}, {'restart_marker_blocks': 1}])
def test_a_jpeg_with_an_end_behind_half_of_it_is_refused(tmp_path, options):
    """libjpeg fills the rest with grey and Pillow says nothing; a file that lacks one bit of data is not taken."""
    content = jpeg_of(**options)
    start = content.rindex(b'\xff\xda') + 12
    for length in range(start, len(content) - 2):
        assert not any(
            pixels is not None and not np.array_equal(pixels, images.decode(content, 'a.jpg'))
            for pixels in [decoded(content[:length] + b'\xff\xd9', 'a.jpg')]
        )


def test_a_jpeg_without_some_intervals_is_refused():
    """Restart intervals that are missing in the middle, or at the end, are counted."""
    content = jpeg_of(restart_marker_blocks=1)
    marks = [match.start() for match in re.finditer(rb'\xff[\xd0-\xd7]', content)]
    assert len(marks) == 8
    for first, last in itertools.combinations([*marks, len(content) - 2], 2):
        assert decoded(content[:first] + content[last:], 'a.jpg') is None


def test_a_progressive_jpeg_without_its_last_scans_is_refused():
    """A picture without its finer scans is blurred, not whole."""
    content = jpeg_of(progressive=True)
    scans = [match.start() for match in re.finditer(rb'\xff\xda', content)]
    for scan in scans[1:]:
        tables = content.rindex(b'\xff\xc4', 0, scan)
        with pytest.raises(images.ImageError, match='scans|end'):
            images.decode(content[:tables] + b'\xff\xd9', 'a.jpg')


@pytest.mark.parametrize('mode', ['L', 'RGB', 'CMYK'])
@pytest.mark.parametrize('value', [0, 127, 128, 255])
def test_flat_jpegs_are_whole(mode, value):
    """Black, white, and the very grey that libjpeg fills with are pictures too."""
    for options in ({}, {'optimize': True}, {'progressive': True}, {'restart_marker_rows': 1}):
        file = io.BytesIO()
        Image.new(mode, (70, 50), (value,) * len(mode)).save(file, 'JPEG', **options)
        assert images.decode(file.getvalue(), 'a.jpg').shape == (50, 70, 3)


def test_padding_is_no_marker():
    """What is put between data and markers to find missing data must not look like a marker."""
    assert 0xFF not in jpeg.PADDING


def test_a_file_is_looked_through_once(tmp_path, monkeypatch):
    """Training reads a file many times; the second time costs no second decoding, unless the file has changed."""
    path, calls = tmp_path / 'a.jpg', []
    path.write_bytes(jpeg_of())
    monkeypatch.setattr(jpeg, 'missing', lambda *args: calls.append(1))
    images.read(path)
    images.read(path)
    assert len(calls) == 1
    path.write_bytes(jpeg_of(quality=60))
    images.read(path)
    assert len(calls) == 2


# Bounds


def claimed(name, width, height):
    """A small file that claims another size."""
    content = bytearray(SEEDS[name])
    if name.endswith('.jpg'):
        place = content.index(b'\xff\xc0') + 5
        content[place : place + 4] = struct.pack('>HH', height, width)
    else:  # VP8L: 14 bits each of width - 1 and height - 1
        place = content.index(b'VP8L') + 9
        bits = int.from_bytes(content[place : place + 4], 'little') >> 28 << 28
        content[place : place + 4] = (bits | (height - 1) << 14 | (width - 1)).to_bytes(4, 'little')
        if b'VP8X' in content:
            place = content.index(b'VP8X') + 12
            content[place : place + 6] = (width - 1).to_bytes(3, 'little') + (height - 1).to_bytes(3, 'little')
    return bytes(content)


@pytest.mark.parametrize(('name', 'size'), [('baseline.jpg', (4000, 3000)), ('lossless.webp', (14000, 14000))])
@pytest.mark.parametrize('action', ['read', 'size'])
def test_millions_of_pixels_in_a_few_bytes_are_refused(tmp_path, name, size, action):
    """The bound is in pixels per byte; neither much time nor much memory goes into finding out."""
    (tmp_path / name).write_bytes(claimed(name, *size))
    begun = time.process_time()
    tracemalloc.start()
    with pytest.raises(images.ImageError, match=r'claims \d+ x \d+ pixels in \d+ bytes; expected at most \d+ pixels'):
        getattr(images, action)(tmp_path / name)
    assert tracemalloc.get_traced_memory()[1] < 2**24 and time.process_time() - begun < 2
    tracemalloc.stop()


@pytest.mark.parametrize(('name', 'options'), [('JPEG', {}), ('WEBP', {'quality': 30}), ('JPEG2000', {})])
def test_smooth_pictures_of_millions_of_pixels_are_taken(name, options):
    """A gradient, which compresses far better than any photo, lies within the bounds."""
    rows, columns = np.mgrid[:1200, :1600]
    file = io.BytesIO()
    Image.fromarray(np.stack([rows // 5, columns // 7, (rows + columns) // 11], -1).astype(np.uint8)).save(
        file, name, **options
    )
    assert images.decode(file.getvalue(), 'a').shape == (1200, 1600, 3)


def test_memory_is_asked_before_decoding(tmp_path, monkeypatch):
    """A picture that needs more than is free is refused as such, and not as damaged; a small one is not asked for."""
    Image.new('RGB', (3000, 2000)).save(tmp_path / 'a.png')
    Image.new('RGB', (30, 20)).save(tmp_path / 'b.png')
    monkeypatch.setattr(memory, 'free', lambda: 2**20)
    with pytest.raises(images.ImageError, match=r'needs about 0.1 GiB of memory for its 3000 x 2000 pixels'):
        images.read(tmp_path / 'a.png')
    assert images.read(tmp_path / 'b.png').shape == (20, 30, 3)


@pytest.mark.parametrize('error', [MemoryError(), OSError('out of memory error when reading image file')])
def test_running_out_of_memory_is_not_called_damage(tmp_path, monkeypatch, error):
    """Whoever says so, NumPy or Pillow."""

    def fail(image):
        raise error

    Image.new('RGB', (30, 20)).save(tmp_path / 'a.png')
    monkeypatch.setattr('PIL.PngImagePlugin.PngImageFile.load', fail)
    with pytest.raises(images.ImageError, match='a.png: needs more memory than there is'):
        images.read(tmp_path / 'a.png')


def test_a_limit_of_the_process_counts():
    """What `ulimit -v` leaves is what is free."""
    program = 'import resource; from qsnet_jax import memory; limit = memory.free() // 4; '
    program += 'resource.setrlimit(resource.RLIMIT_AS, (limit, limit)); print(memory.free() / limit)'
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 1


# Other containers


def test_a_netpbm_file_of_several_pictures_is_refused():
    """What follows the first picture would be lost."""
    for name in ('colour.ppm', 'grey16.pgm', 'bits.pbm'):
        content = SEEDS[name]
        with pytest.raises(images.ImageError, match='several pictures'):
            images.decode(content + content, name)


@pytest.mark.parametrize('head', [b'P1\n2 2\n', b'P2\n2 2\n1\n', b'P3 # P3 of two\n2 # P6 in words\n2 1\n'])
def test_netpbm_files_in_ascii_hold_one_picture_too(head):
    """A comment may name a kind; a second picture would be lost."""
    content = head + b'1 0 0 1' + b' 0 0 0 0 1 1 1 1' * head.startswith(b'P3') + b'\n'
    assert images.decode(content, 'a.ppm').shape == (2, 2, 3)
    with pytest.raises(images.ImageError, match='several pictures'):
        images.decode(content + content, 'a.ppm')


def test_a_netpbm_header_takes_no_time():
    """Spaces before a comment can be cut up in two to the power of their number of ways."""
    begun = time.process_time()
    content = b'P5' + b' ' * 40 + b'#' + b'c' * 5000 + b'\n2 2\n255\n' + bytes(4)
    assert images.decode(content, 'a.pgm').shape == (2, 2, 3)
    commented = b'P5 # a\n\n# b\n2 # c\n 2\n255\n' + bytes(4)
    with pytest.raises(images.ImageError, match='several pictures'):
        images.decode(commented * 2, 'a.pgm')
    assert time.process_time() - begun < 2


def test_a_jpeg_2000_without_a_tile_is_refused():
    """The tiles are counted."""
    content = SEEDS['tiles.j2k']
    parts = [match.start() for match in re.finditer(rb'\xff\x90\0\x0a', content)]
    assert len(parts) == 4
    with pytest.raises(images.ImageError, match='holds 3 of 4 tiles'):
        images.decode(content[: parts[1]] + content[parts[2] :], 'a.j2k')


def encoded_by_ffmpeg(picture, pixel_format):
    """A JPEG 2000 whose colours are stored as the format says."""
    av = pytest.importorskip('av', reason='PyAV is not installed (extra video)')
    codec = av.CodecContext.create('jpeg2000', 'w')
    codec.height, codec.width, codec.pix_fmt, codec.time_base = *picture.shape[:2], pixel_format, fractions.Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format='rgb24').reformat(format=pixel_format)
    return b''.join(bytes(packet) for packet in (*codec.encode(frame), *codec.encode(None)))


@pytest.mark.parametrize(('pixel_format', 'down'), [('yuv420p', 2), ('yuv422p', 1), ('yuv444p', 1)])
def test_a_jpeg_2000_whose_size_does_not_hold_its_colours_is_refused(pixel_format, down):
    """Where Pillow would shift them from row to row; even sizes, and whole colours, are taken."""
    rows, columns = np.mgrid[:65, :65]
    picture = np.stack([60 + 2 * rows, 200 - 2 * columns, 40 + rows + columns], -1).astype(np.uint8)
    is_whole = pixel_format == 'yuv444p'
    for height, width in ((64, 64), (65, 64), (64, 65), (65, 65)):
        content = encoded_by_ffmpeg(picture[:height, :width], pixel_format)
        if is_whole or (width % 2 == 0 and height % down == 0):
            found = images.decode(content, 'a.jp2').astype(int)
            assert np.abs(found - picture[:height, :width]).max() < 20  # lossy
        else:
            with pytest.raises(images.ImageError, match=f'a.jp2: .*colours at 1/2 x 1/{down} of its size'):
                images.decode(content, 'a.jp2')


def test_tiles_must_hold_their_colours_too():
    """Odd ones of a JPEG 2000 of even size; one that is larger than the picture may be odd."""
    picture = np.full((64, 64, 3), 99, np.uint8)
    content = encoded_by_ffmpeg(picture, 'yuv420p')
    start = content.index(b'\xff\x4f\xff\x51')
    for tile, words in ((33, 'colours at 1/2 x 1/2'), (32, 'holds 1 of 2 tiles'), (255, None)):
        changed = content[: start + 24] + struct.pack('>I', tile) + content[start + 28 :]
        if words:
            with pytest.raises(images.ImageError, match=words):
                images.decode(changed, 'a.jp2')
        else:
            assert images.decode(changed, 'a.jp2').shape == (64, 64, 3)


def test_a_changed_png_is_refused():
    """A wrong byte in the data shows in the checksum, even where it still inflates."""
    content = SEEDS['rgb.png']
    start = content.index(b'IDAT') + 6
    for place in range(start, content.index(b'IEND') - 8, 97):
        with pytest.raises(images.ImageError):
            images.decode(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :], 'a.png')


def test_only_its_name_makes_a_tga():
    """TGA has no signature; a text is not taken for one."""
    content = SEEDS['rgba.tga']
    np.testing.assert_array_equal(images.decode(content, 'a.TGA'), fuzz.picture())
    with pytest.raises(images.ImageError, match='another kind'):
        images.decode(content, 'a.png')


def test_a_jpeg_of_many_scans_is_refused_at_once():
    """Each scan of a progressive JPEG goes through the whole picture, so that a small file could cost hours."""
    content = jpeg_of(progressive=True)
    scan = content.rindex(b'\xff\xda')
    begun = time.process_time()
    with pytest.raises(images.ImageError, match='holds 20010 scans; expected at most 100'):
        images.decode(content[:-2] + content[scan:-2] * 20_000 + b'\xff\xd9', 'a.jpg')
    assert time.process_time() - begun < 2


@pytest.mark.parametrize('filling', [b'\xff\xd0', b'\xff', b'\xff\x00', b'\0', b'\xff\xd8', b'\xff\xe0\0\2'])
def test_megabytes_of_markers_take_no_time(filling):
    """Whatever stands in a scan, looking through it takes about as long as reading it."""
    content = jpeg_of(restart_marker_blocks=2)
    begun = time.process_time()
    decoded(content[:700] + filling * (2**22 // len(filling)) + content[700:], 'a.jpg')
    assert time.process_time() - begun < 10


@pytest.mark.parametrize('tail', [b'', b'\0'])
def test_filling_that_leads_to_no_marker_takes_no_time(tail):
    """A run of FF at the end of a file, or before a zero, is not looked through from each of its bytes."""
    begun = time.process_time()
    decoded(jpeg_of(restart_marker_blocks=2)[:700] + b'\xff' * 2**19 + tail, 'a.jpg')
    assert time.process_time() - begun < 10


LIMITED = """
import pathlib, resource, sys
from qsnet_jax import memory
from qsnet_jax.data import images
if sys.argv[2] != "asked":
    memory.free = lambda: 2**60
used = int(pathlib.Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20,) * 2)
try:
    images.open_photo(sys.argv[1])
except images.ImageError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ('format', 'asked'),
    [
        ('PNG', 'not'),
        ('WEBP', 'asked'),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (('JPEG', 'asked'), ('TIFF', 'not'), ('JPEG', 'not'), ('JPEG2000', 'asked'))
        ),
    ],
)
def test_a_picture_beyond_the_limit_of_the_process_is_refused_as_such(tmp_path, format, asked):
    """In a process with 100 MiB left, memory is named, and damage is not; asked for before decoding, and without.

    Libraries of WebP and JPEG 2000 do not say why they fail.
    """
    rows, columns = np.mgrid[:2400, :4000]
    image = Image.fromarray(np.stack([rows // 12, columns // 16, (rows + columns) // 28], -1).astype(np.uint8))
    image.save(tmp_path / 'a', format)
    command = [sys.executable, '-c', LIMITED, str(tmp_path / 'a'), asked]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=pathlib.Path(__file__).parents[2])
    assert 'memory' in done.stdout and 'damaged' not in done.stdout and done.stderr == ''
