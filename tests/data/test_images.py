"""Files of every kind a stranger may hand over: read as documented, or refused with a clear message."""

import errno
import io
import os
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageFile

from qsnet_jax.data import images

RGB = np.random.default_rng(0).integers(0, 256, (13, 21, 3), dtype=np.uint8)
GREY = np.random.default_rng(1).integers(0, 256, (13, 21), dtype=np.uint8)
ALPHA = np.random.default_rng(2).integers(0, 256, (13, 21), dtype=np.uint8)
WIDE = np.random.default_rng(3).integers(0, 65536, (13, 21, 3), dtype=np.uint16)
# Smooth, so that JPEG at quality 95 stays within a few levels of it.
SMOOTH = np.stack([*np.meshgrid(np.linspace(20, 230, 32), np.linspace(40, 200, 24)), np.full((24, 32), 90)], -1)
SMOOTH = SMOOTH.round().astype(np.uint8)


def write(path, array, **options):
    """An image file of `array` by Pillow; the extension of `path` says the format."""
    Image.fromarray(array).save(path, **options)
    return path


def opened(path):
    """What Pillow itself finds in a file, the file closed."""
    return Image.open(io.BytesIO(path.read_bytes()))


def png(path, width, height, depth, colour, rows, *chunks):
    """A PNG put together by hand, for headers and sample formats that no encoder writes."""

    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0))
    body = b''.join(chunk(kind, data) for kind, data in (*chunks, (b'IDAT', zlib.compress(rows)), (b'IEND', b'')))
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + header + body)
    return path


def samples(array):
    """The rows of a PNG without filter; `array` big-endian or uint8."""
    return b''.join(b'\0' + row.tobytes() for row in array)


def exif_bytes(orientation):
    """EXIF with an orientation, a camera, a date and a place."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = 'Camera'
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.DateTimeOriginal: '2020:02:02 20:20:20', ExifTags.IFD.Interop: {1: 'R98'}}
    exif[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: 'N'}
    return exif.tobytes()


def rewritten(path):
    """Opens `path`, writes its own pixels back beside it, returns that file."""
    photo = images.open_photo(path)
    target = path.with_name('rewritten' + path.suffix)
    images.save_photo(target, photo.rgb, photo)
    return target


def upright(stored, orientation):
    """What a viewer shows of an array stored under an EXIF orientation; the EXIF table written in NumPy."""
    return {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: x.swapaxes(0, 1)[:, ::-1],
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: x.swapaxes(0, 1)[::-1],
    }[orientation](stored)


# Reading


@pytest.mark.parametrize('name', ['a.png', 'a.bmp', 'a.tif', 'a.tiff', 'A.PNG'])
def test_lossless_rgb_is_read_exactly(tmp_path, name):
    """A lossless RGB file gives its own pixels, uint8, contiguous and writable."""
    rgb = images.read(write(tmp_path / name, RGB))
    np.testing.assert_array_equal(rgb, RGB)
    assert rgb.dtype == np.uint8 and rgb.flags.c_contiguous and rgb.flags.writeable


@pytest.mark.parametrize('options', [{}, {'progressive': True}, {'subsampling': 0}])
def test_jpeg_is_read_closely(tmp_path, options):
    """Baseline and progressive JPEG give RGB in the right order."""
    rgb = images.read(write(tmp_path / 'a.jpg', SMOOTH, quality=95, **options))
    assert np.abs(rgb.astype(int) - SMOOTH).max() <= 6  # quantisation at quality 95


def test_webp_is_read_exactly(tmp_path):
    """A lossless WebP gives its own pixels."""
    np.testing.assert_array_equal(images.read(write(tmp_path / 'a.webp', RGB, lossless=True)), RGB)


@pytest.mark.parametrize('name', ['a.png', 'a.bmp', 'a.tif'])
def test_grey_becomes_three_equal_channels(tmp_path, name):
    """A grey file gives three copies of its channel."""
    np.testing.assert_array_equal(images.read(write(tmp_path / name, GREY)), np.stack([GREY] * 3, -1))


@pytest.mark.parametrize('name', ['a.png', 'a.bmp', 'a.tif'])
def test_one_bit_becomes_black_and_white(tmp_path, name):
    """A 1-bit file gives 0 and 255."""
    np.testing.assert_array_equal(images.read(write(tmp_path / name, GREY > 127))[..., 1], (GREY > 127) * 255)


def test_palette_with_transparency(tmp_path):
    """A palette file gives the colours of its palette and the alpha of its entries."""
    image = Image.fromarray(GREY % 4)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    image.save(tmp_path / 'a.png', transparency=bytes([0, 100, 200, 255]))
    assert opened(tmp_path / 'a.png').mode == 'P'
    photo = images.open_photo(tmp_path / 'a.png')
    np.testing.assert_array_equal(photo.rgb[..., 2], 30 * (1 + GREY % 4))
    np.testing.assert_array_equal(photo.alpha, np.array([0, 100, 200, 255])[GREY % 4])
    assert photo.notes == ('palette expanded to RGB',)


@pytest.mark.parametrize('name', ['a.png', 'a.tif', 'a.webp'])
def test_alpha_is_dropped_without_blending(tmp_path, name):
    """Reading RGBA gives the stored colours, also where alpha is 0."""
    alpha = np.where(ALPHA < 128, 0, ALPHA)
    options = {'lossless': True, 'exact': True} if name == 'a.webp' else {}
    path = write(tmp_path / name, np.dstack([RGB, alpha.astype(np.uint8)]), **options)
    rgb = images.read(path)
    np.testing.assert_array_equal(rgb, RGB)
    assert rgb.flags.c_contiguous and rgb.flags.writeable


def test_transparent_colour_becomes_alpha(tmp_path):
    """A PNG's single transparent colour gives alpha 0 there and 255 elsewhere."""
    photo = images.open_photo(write(tmp_path / 'a.png', RGB, transparency=tuple(map(int, RGB[2, 3]))))
    assert photo.alpha[2, 3] == 0 and (photo.alpha == 255).sum() == photo.alpha.size - 1


@pytest.mark.parametrize('name', ['a.png', 'a.tif'])
def test_16_bit_grey_is_rounded(tmp_path, name):
    """16-bit grey gives round(value / 257)."""
    cv2.imwrite(str(tmp_path / name), WIDE[..., 0])
    photo = images.open_photo(tmp_path / name)
    np.testing.assert_array_equal(photo.rgb[..., 0], np.rint(WIDE[..., 0] / 257))
    assert photo.is_grey and photo.notes == ('16-bit samples reduced to 8 bits',)


@pytest.mark.parametrize('name', ['a.png', 'a.tif'])
def test_16_bit_colour_keeps_the_high_byte(tmp_path, name):
    """16-bit colour gives value // 256, in RGB order."""
    cv2.imwrite(str(tmp_path / name), WIDE[..., ::-1])
    photo = images.open_photo(tmp_path / name)
    np.testing.assert_array_equal(photo.rgb, WIDE >> 8)
    assert not photo.is_grey and photo.notes == ('16-bit samples reduced to 8 bits',)


def test_16_bit_grey_with_alpha_stays_grey(tmp_path):
    """A 16-bit PNG of grey and alpha, which Pillow hands over as RGBA, counts as grey."""
    path = png(tmp_path / 'a.png', 21, 13, 16, 4, samples(WIDE[..., :2].astype('>u2')))
    photo = images.open_photo(path)
    np.testing.assert_array_equal(photo.rgb, np.stack([WIDE[..., 0] >> 8] * 3, -1))
    np.testing.assert_array_equal(photo.alpha, WIDE[..., 1] >> 8)
    assert opened(rewritten(path)).mode == 'LA'


@pytest.mark.parametrize(('colour', 'channels'), [(0, 1), (2, 3)])
def test_16_bit_transparent_colour_is_dropped_with_a_note(tmp_path, colour, channels):
    """The transparent colour of a 16-bit PNG is not compared with 8-bit samples."""
    rows = samples(WIDE[..., :channels].astype('>u2'))
    transparent = WIDE[0, 0, :channels].astype('>u2').tobytes()
    photo = images.open_photo(png(tmp_path / 'a.png', 21, 13, 16, colour, rows, (b'tRNS', transparent)))
    assert photo.alpha is None and 'transparent colour of a 16-bit file dropped' in photo.notes


def test_16_bit_tiff_with_white_as_zero(tmp_path):
    """A 16-bit grey TIFF whose header says that white is 0 comes out the right way round."""
    path = write(tmp_path / 'a.tif', WIDE[..., 0], tiffinfo={262: 0})
    np.testing.assert_array_equal(images.read(path)[..., 0], np.rint((65535 - WIDE[..., 0].astype(int)) / 257))


def test_12_bit_tiff_uses_the_whole_range(tmp_path):
    """A 12-bit grey TIFF is scaled by 4095, not by 65535."""
    path = write(tmp_path / 'a.tif', np.array([[0, 0]], np.uint16))
    data = bytearray(path.read_bytes())
    entry = data.index(struct.pack('<HHI', 258, 3, 1))
    data[entry + 8 : entry + 10] = struct.pack('<H', 12)
    offset = opened(path).tag_v2[273][0]
    data[offset : offset + 3] = bytes([0xFF, 0xF8, 0x00])  # 4095 and 2048
    path.write_bytes(data)
    np.testing.assert_array_equal(images.read(path)[0, :, 0], [255, 128])


@pytest.mark.parametrize('dtype', [np.int32, np.float32])
def test_samples_without_a_known_range_are_refused(tmp_path, dtype):
    """Values beyond 16 bits and floats are refused, for nothing says what white is."""
    cv2.imwrite(str(tmp_path / 'a.tif'), WIDE[..., 0].astype(dtype) * 2)
    with pytest.raises(images.ImageError, match='a.tif: holds (integers from|F samples)'):
        images.read(tmp_path / 'a.tif')


def test_cmyk_jpeg_becomes_rgb_without_its_profile(tmp_path):
    """A CMYK JPEG gives RGB colours near the original and loses its profile with a note."""
    Image.fromarray(SMOOTH).convert('CMYK').save(tmp_path / 'a.jpg', quality=95, icc_profile=b'profile of a press')
    photo = images.open_photo(tmp_path / 'a.jpg')
    assert np.abs(photo.rgb.astype(int) - SMOOTH).max() <= 6  # quantisation at quality 95
    assert photo.icc_profile is None and photo.notes == ('CMYK converted to RGB, its colour profile dropped',)
    assert opened(rewritten(tmp_path / 'a.jpg')).mode == 'RGB'


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('name', ['a.png', 'a.tif', 'a.webp', 'a.jpg'])
def test_orientation_is_applied(tmp_path, name, orientation):
    """Every EXIF orientation is turned upright by `read` and counted by `size`."""
    options = {'lossless': True} if name == 'a.webp' else {'quality': 95} if name == 'a.jpg' else {}
    path = write(tmp_path / name, SMOOTH, exif=exif_bytes(orientation), **options)
    rgb, expected = images.read(path), upright(SMOOTH, orientation)
    assert rgb.shape == expected.shape and images.size(path) == rgb.shape[:2]
    assert np.abs(rgb.astype(int) - expected).max() <= (6 if name == 'a.jpg' else 0)  # quantisation at quality 95


@pytest.mark.parametrize('orientation', [2, 6])
def test_16_bit_and_alpha_are_turned_too(tmp_path, orientation):
    """Orientation applies to 16-bit grey and to the alpha channel."""
    write(tmp_path / 'wide.png', WIDE[..., 0], exif=exif_bytes(orientation))
    write(tmp_path / 'alpha.png', np.dstack([RGB, ALPHA]), exif=exif_bytes(orientation))
    expected = upright(np.rint(WIDE[..., 0] / 257), orientation)
    np.testing.assert_array_equal(images.read(tmp_path / 'wide.png')[..., 0], expected)
    np.testing.assert_array_equal(images.open_photo(tmp_path / 'alpha.png').alpha, upright(ALPHA, orientation))


def test_png_orientation_behind_the_pixels(tmp_path):
    """A PNG may carry its EXIF after the pixels; `read` and `size` both honour it."""
    data = write(tmp_path / 'a.png', RGB, exif=exif_bytes(6)).read_bytes()
    start = data.index(b'eXIf') - 4
    end = start + 12 + struct.unpack('>I', data[start : start + 4])[0]
    (tmp_path / 'a.png').write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
    assert images.size(tmp_path / 'a.png') == images.read(tmp_path / 'a.png').shape[:2] == (21, 13)


@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.bmp', 'a.tif', 'a.webp'])
def test_size_does_not_decode(tmp_path, monkeypatch, name):
    """The size comes from the header; no pixel is decoded for it."""
    path, decoded = write(tmp_path / name, RGB), []
    monkeypatch.setattr(ImageFile.ImageFile, 'load', lambda image: decoded.append(image))
    assert images.size(path) == (13, 21) and decoded == []


def test_content_not_name_decides_the_format(tmp_path):
    """A PNG named .jpg is read, and written again as PNG."""
    Image.fromarray(RGB).save(tmp_path / 'a.jpg', 'PNG')
    photo = images.open_photo(tmp_path / 'a.jpg')
    np.testing.assert_array_equal(photo.rgb, RGB)
    assert photo.format == 'PNG' and opened(rewritten(tmp_path / 'a.jpg')).format == 'PNG'


def test_bytes_after_a_jpeg_are_ignored(tmp_path):
    """A JPEG followed by other bytes opens."""
    path = write(tmp_path / 'a.jpg', SMOOTH)
    expected = images.read(path)
    path.write_bytes(path.read_bytes() + b'something else' * 100)
    np.testing.assert_array_equal(images.read(path), expected)


def test_mpo_is_its_first_jpeg(tmp_path):
    """A phone's MPO file counts as a JPEG of its first picture."""
    first, second = Image.fromarray(SMOOTH), Image.fromarray(255 - SMOOTH)
    first.save(tmp_path / 'a.jpg', 'MPO', save_all=True, append_images=[second], quality=95)
    assert opened(tmp_path / 'a.jpg').format == 'MPO'
    photo = images.open_photo(tmp_path / 'a.jpg')
    assert np.abs(photo.rgb.astype(int) - SMOOTH).max() <= 6  # quantisation at quality 95
    assert photo.format == 'JPEG' and photo.notes == ('only the first of 2 pictures kept',)
    assert images.size(tmp_path / 'a.jpg') == (24, 32)


def test_one_pixel(tmp_path):
    """A single pixel is an image."""
    assert images.read(write(tmp_path / 'a.png', RGB[:1, :1])).tolist() == [[RGB[0, 0].tolist()]]


# Refusals


@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.bmp', 'a.tif', 'a.webp'])
def test_truncated_files_are_refused(tmp_path, name):
    """A file cut in the middle is refused, not filled up with grey."""
    path = write(tmp_path / name, RGB)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(images.ImageError, match=f'{name}: is (truncated|damaged)'):
        images.read(path)


@pytest.mark.parametrize('action', [images.read, images.size, images.open_photo])
@pytest.mark.parametrize(
    ('content', 'found'),
    [
        (b'', 'is empty'),
        (b'this is text', 'starts with b.this is text'),
        (b'\0\0\0\x18ftypheic\0\0\0\0', 'HEIC.*convert'),
        (b'%!PS-Adobe-3.0 EPSF-3.0\n', 'is damaged or of another kind'),
    ],
)
def test_other_content_is_refused(tmp_path, action, content, found):
    """What is no image is refused with what it is, whatever its name."""
    (tmp_path / 'a.png').write_bytes(content)
    with pytest.raises(images.ImageError, match=f'a.png: .*{found}'):
        action(tmp_path / 'a.png')


@pytest.mark.parametrize('action', [images.read, images.size])
@pytest.mark.parametrize('name', ['a.webp', 'a.png', 'a.tif'])
def test_several_frames_are_refused(tmp_path, name, action):
    """Animations and multi-page files are refused with the number of frames."""
    others = [Image.fromarray(RGB // 2), Image.fromarray(RGB // 3)]
    write(tmp_path / name, RGB, save_all=True, append_images=others)
    with pytest.raises(images.ImageError, match='holds 3 frames'):
        action(tmp_path / name)


def test_gif_is_refused(tmp_path):
    """An animated GIF is refused by name of its format."""
    write(tmp_path / 'a.gif', GREY, save_all=True, append_images=[Image.fromarray(GREY // 2)])
    with pytest.raises(images.ImageError, match='is a GIF'):
        images.read(tmp_path / 'a.gif')


@pytest.mark.parametrize('width', [15_000, 20_000, 2**31 - 1])
@pytest.mark.parametrize('action', [images.read, images.size])
def test_decompression_bombs_are_refused(tmp_path, width, action):
    """A header that promises more than MAX_PIXELS is refused before anything is decoded."""
    path = png(tmp_path / 'a.png', width, 15_000, 8, 2, b'')
    for warnings_are in ('error', 'ignore'):
        with warnings.catch_warnings(), pytest.raises(images.ImageError, match='too large.*200000000 pixels'):
            warnings.simplefilter(warnings_are)
            action(path)


def test_large_photos_pass_without_a_warning(tmp_path):
    """A size between Pillow's own limit and MAX_PIXELS is accepted silently."""
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert images.size(png(tmp_path / 'a.png', 15_000, 13_000, 8, 2, b'')) == (13_000, 15_000)


def test_zero_size_is_refused(tmp_path):
    """An image without pixels is refused."""
    with pytest.raises(images.ImageError):
        images.size(png(tmp_path / 'a.png', 0, 5, 8, 2, b''))


@pytest.mark.parametrize('action', [images.read, images.size])
def test_missing_files_and_folders_are_refused(tmp_path, action):
    """A missing path, a folder and a pipe, which would block, are refused."""
    os.mkfifo(tmp_path / 'pipe.png')
    for name, found in [('none.png', 'does not exist'), ('', 'not a regular file'), ('pipe.png', 'not a regular file')]:
        with pytest.raises(images.ImageError, match=found):
            action(tmp_path / name)


def test_missing_permission_is_named(tmp_path, monkeypatch):
    """A file that may not be read is refused as such."""

    def deny(*args):
        raise PermissionError(errno.EACCES, 'Permission denied')

    path = write(tmp_path / 'a.png', RGB)
    monkeypatch.setattr('builtins.open', deny)
    with pytest.raises(images.ImageError, match='may not be read'):
        images.read(path)


# Writing photos


@pytest.mark.parametrize('name', ['a.png', 'a.bmp', 'a.tif', 'a.webp', 'grey.png', 'grey.tif', 'la.png', 'rgba.tif'])
def test_lossless_photos_return_unchanged(tmp_path, name):
    """Writing a lossless photo's own pixels back gives the same mode, colours and alpha."""
    la = np.dstack([GREY, ALPHA])
    array = {'a': RGB, 'grey': GREY, 'la': la, 'rgba': np.dstack([RGB, ALPHA])}[name.partition('.')[0]]
    path = write(tmp_path / name, array, **({'lossless': True} if name == 'a.webp' else {}))
    before, after = opened(path), opened(rewritten(path))
    assert (after.mode, after.format) == (before.mode, before.format)
    np.testing.assert_array_equal(np.asarray(after), array)


def test_tiff_is_compressed(tmp_path):
    """A TIFF without EXIF is written with lossless compression."""
    assert opened(rewritten(write(tmp_path / 'a.tif', RGB))).info['compression'] == 'tiff_adobe_deflate'


def test_webp_keeps_colours_under_alpha_zero(tmp_path):
    """A transparent WebP returns every colour, also the invisible ones."""
    rgba = np.dstack([RGB, np.where(ALPHA < 128, 0, ALPHA).astype(np.uint8)])
    path = write(tmp_path / 'a.webp', rgba, lossless=True, exact=True)
    np.testing.assert_array_equal(np.asarray(opened(rewritten(path))), rgba)


def test_jpeg_is_written_at_quality_95_without_subsampling(tmp_path):
    """A JPEG photo gets the quantisation tables of quality 95 and full-size chroma."""
    written = opened(rewritten(write(tmp_path / 'a.jpg', SMOOTH, quality=50)))
    expected = opened(write(tmp_path / 'b.jpg', SMOOTH, quality=95, subsampling=0))
    assert written.quantization == expected.quantization and written.layer == expected.layer


def test_grey_photos_get_the_luma(tmp_path):
    """Colours given for a grey photo are written as 0.299 R + 0.587 G + 0.114 B, rounded."""
    photo = images.open_photo(write(tmp_path / 'a.png', GREY))
    images.save_photo(tmp_path / 'b.png', RGB, photo)
    luma = RGB @ np.array([0.299, 0.587, 0.114])
    written = opened(tmp_path / 'b.png')
    assert written.mode == 'L' and np.abs(np.asarray(written) - luma).max() < 0.51  # fixed point may tip a tie


def test_one_bit_photos_return_as_grey(tmp_path):
    """A 1-bit photo is written as 8-bit grey, with a note."""
    path = write(tmp_path / 'a.png', GREY > 127)
    assert images.open_photo(path).notes == ('1-bit pixels become 8-bit grey',)
    assert opened(rewritten(path)).mode == 'L'


def test_bmp_alpha_is_dropped_with_a_note(tmp_path):
    """The alpha of a BMP, which would be lost in writing, is dropped when it is opened."""
    header = struct.pack('<IiiHHIIiiII', 108, 21, 13, 1, 32, 3, 0, 2835, 2835, 0, 0)
    masks = struct.pack('<IIII', 0xFF0000, 0xFF00, 0xFF, 0xFF000000).ljust(68, b'\0')
    pixels = np.dstack([RGB[..., ::-1], ALPHA])[::-1].tobytes()
    data = struct.pack('<2sIHHI', b'BM', 122 + len(pixels), 0, 0, 122) + header + masks + pixels
    (tmp_path / 'a.bmp').write_bytes(data)
    assert opened(tmp_path / 'a.bmp').mode == 'RGBA'
    photo = images.open_photo(tmp_path / 'a.bmp')
    np.testing.assert_array_equal(photo.rgb, RGB)
    assert photo.alpha is None and photo.notes == ('alpha of a BMP dropped',)


@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.tif', 'a.webp'])
def test_icc_profile_is_kept_byte_for_byte(tmp_path, name):
    """A colour profile comes out as it went in."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    path = write(tmp_path / name, RGB, icc_profile=profile)
    assert opened(rewritten(path)).info['icc_profile'] == profile


@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.tif', 'a.webp'])
def test_exif_is_kept_and_marked_upright(tmp_path, name):
    """Camera, date and place stay; the orientation becomes 1, so that no viewer turns the picture again."""
    path = write(tmp_path / name, RGB, exif=exif_bytes(6))
    target = rewritten(path)
    exif = opened(target).getexif()
    assert exif[ExifTags.Base.Make] == 'Camera' and exif.get(ExifTags.Base.Orientation, 1) == 1
    assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] == '2020:02:02 20:20:20'
    assert ExifTags.IFD.Interop not in exif.get_ifd(ExifTags.IFD.Exif)  # an offset into the old file
    assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == 'N'
    assert images.size(target) == (21, 13)


def test_thumbnail_is_dropped(tmp_path):
    """The EXIF thumbnail, which shows the photo before, is not written."""
    thumbnail = io.BytesIO()
    Image.fromarray(RGB).save(thumbnail, 'JPEG')
    first = struct.pack('<HHHI', 1, 271, 2, 4) + b'abc\0'  # one tag, the camera
    second = struct.pack('<HHHIIHHIII', 2, 513, 4, 1, 56, 514, 4, 1, len(thumbnail.getvalue()), 0)
    exif = b'Exif\0\0II*\0\x08\0\0\0' + first + struct.pack('<I', 26) + second + thumbnail.getvalue()
    path = write(tmp_path / 'a.jpg', RGB, exif=exif)
    assert opened(path).getexif().get_ifd(ExifTags.IFD.IFD1)
    after = opened(rewritten(path)).getexif()
    assert after[ExifTags.Base.Make] == 'abc' and not after.get_ifd(ExifTags.IFD.IFD1)


@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.tif', 'a.bmp'])
def test_resolution_is_kept(tmp_path, name):
    """Dots per inch stay."""
    target = rewritten(write(tmp_path / name, RGB, dpi=(300, 150)))
    assert opened(target).info['dpi'] == pytest.approx((300, 150), abs=0.1)  # PNG and BMP count dots per metre


@pytest.mark.parametrize('name', ['a.jpg', 'a.webp'])
def test_damaged_exif_does_not_refuse_the_photo(tmp_path, name):
    """A photo whose EXIF cannot be parsed is read and written without it."""
    path = write(tmp_path / name, SMOOTH, exif=b'Exif\0\0garbage that is no TIFF')
    assert images.size(path) == (24, 32)
    photo = images.open_photo(path)
    assert photo.exif is None and photo.notes == ('damaged EXIF dropped',)
    assert 'exif' not in opened(rewritten(path)).info


def test_metadata_that_cannot_be_written_is_dropped_at_once(tmp_path):
    """EXIF that would be too long when written again is dropped when opening, before anybody computes, with a note."""
    # Camera and comment share their 40,000 bytes here; written again they take 80,000, and JPEG holds 65,533.
    folders = struct.pack('<HHHIIHHIII', 2, 271, 2, 40_000, 56, 34665, 4, 1, 38, 0)
    folders += struct.pack('<HHHIII', 1, 37510, 7, 40_000, 56, 0)
    exif = b'Exif\0\0II*\0\x08\0\0\0' + folders + b'x' * 39_999 + b'\0'
    path = write(tmp_path / 'a.jpg', RGB, exif=exif)
    photo = images.open_photo(path)
    assert photo.exif is None and 'cannot be written again' in photo.notes[0]
    assert 'exif' not in opened(rewritten(path)).info


def test_shape_and_type_must_match_the_photo(tmp_path):
    """Another size, or floats, are refused with both shapes or the type."""
    photo = images.open_photo(write(tmp_path / 'a.png', RGB))
    with pytest.raises(ValueError, match=r'\(12, 21, 3\).*\(13, 21, 3\)'):
        images.save_photo(tmp_path / 'b.png', RGB[1:], photo)
    with pytest.raises(ValueError, match='float64.*to_uint8'):
        images.save_photo(tmp_path / 'b.png', RGB / 255, photo)
    assert not (tmp_path / 'b.png').exists()


# Never half a file


def fail_midway(monkeypatch, error):
    """Makes Pillow write a few bytes and then raise `error`."""

    def broken(self, file, *args, **options):
        file.write(b'half')
        raise error

    monkeypatch.setattr(Image.Image, 'save', broken)


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left on device'), RuntimeError('encoder')])
def test_failed_writing_leaves_the_old_file(tmp_path, monkeypatch, error):
    """When encoding fails, the file under the final name is the old one and nothing else lies in the folder."""
    path = write(tmp_path / 'a.png', RGB)
    before = path.read_bytes()
    photo = images.open_photo(path)
    fail_midway(monkeypatch, error)
    with pytest.raises(images.ImageError, match='a.png: cannot be written .*(No space left|encoder)'):
        images.save_photo(path, photo.rgb, photo)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ['a.png']


def test_interrupt_leaves_no_temporary(tmp_path, monkeypatch):
    """Ctrl-C while writing passes through and leaves nothing behind."""
    fail_midway(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        images.save(tmp_path / 'a.png', RGB)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('folder', ['none', 'file'])
def test_unwritable_folders_are_named(tmp_path, folder):
    """A folder that is missing, or is a file, is refused with the reason."""
    (tmp_path / 'file').write_text('')
    with pytest.raises(images.ImageError, match='cannot be written .(No such file|Not a directory)'):
        images.save(tmp_path / folder / 'a.png', RGB)


def test_writing_replaces_and_leaves_one_file(tmp_path):
    """Writing twice leaves one file with the second picture and the permissions of any new file."""
    (tmp_path / 'other').write_text('')
    images.save(tmp_path / 'a.png', RGB)
    images.save(tmp_path / 'a.png', 255 - RGB)
    np.testing.assert_array_equal(images.read(tmp_path / 'a.png'), 255 - RGB)
    assert sorted(os.listdir(tmp_path)) == ['a.png', 'other']
    assert (tmp_path / 'a.png').stat().st_mode == (tmp_path / 'other').stat().st_mode


# Result pictures


def test_save_takes_colour_and_grey(tmp_path):
    """PNG returns colour and grey exactly, JPEG closely."""
    images.save(tmp_path / 'a.PNG', RGB)
    images.save(tmp_path / 'b.png', GREY)
    images.save(tmp_path / 'c.jpg', SMOOTH)
    np.testing.assert_array_equal(images.read(tmp_path / 'a.PNG'), RGB)
    assert opened(tmp_path / 'b.png').mode == 'L'
    np.testing.assert_array_equal(np.asarray(opened(tmp_path / 'b.png')), GREY)
    assert np.abs(images.read(tmp_path / 'c.jpg').astype(int) - SMOOTH).max() <= 6  # quantisation at quality 95


def test_save_refuses_other_extensions_and_arrays(tmp_path):
    """An extension that names no format, floats and channels-first arrays are refused."""
    with pytest.raises(images.ImageError, match=r"extension '.gif'; expected one of .png, .jpg, .jpeg"):
        images.save(tmp_path / 'a.gif', RGB)
    for wrong in (RGB / 255, np.moveaxis(RGB, -1, 0), RGB[:0]):
        with pytest.raises(ValueError, match='expected uint8'):
            images.save(tmp_path / 'a.png', wrong)


# uint8 and float


def test_all_levels_survive_the_round_trip():
    """to_uint8(to_float(x)) == x for all 256 levels, in any shape, through float32."""
    levels = np.arange(256, dtype=np.uint8).reshape(2, 8, 16)
    floats = images.to_float(levels)
    assert floats.dtype == np.float32 and floats.min() == 0 and floats.max() == 1
    np.testing.assert_array_equal(floats, levels / np.float32(255))
    back = images.to_uint8(floats)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, levels)


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_to_uint8_rounds_to_the_nearest(dtype):
    """A value 0.4 of a level away goes back to its level, and nothing is truncated."""
    levels = np.arange(1, 255)
    for offset in (-0.3, 0.3):  # float16 resolves an eighth of a level near 1
        np.testing.assert_array_equal(images.to_uint8(((levels + offset) / 255).astype(dtype)), levels)


def test_to_uint8_clips():
    """Values outside 0..1, infinities included, become black or white and never wrap around."""
    np.testing.assert_array_equal(
        images.to_uint8(np.array([-np.inf, -0.1, 1.01, 300.0, np.inf])), [0, 0, 255, 255, 255]
    )


def test_wrong_types_and_nan_are_refused():
    """NaN, integers to to_uint8 and floats to to_float are errors."""
    with pytest.raises(ValueError, match='1 NaN'):
        images.to_uint8(np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match='floats in 0..1, got uint8'):
        images.to_uint8(RGB)
    with pytest.raises(ValueError, match='uint8, got float64'):
        images.to_float(RGB / 255)


@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.bmp', 'a.tif', 'a.webp'])
def test_damaged_files_end_in_an_image_or_an_image_error(tmp_path, name):
    """Whatever bytes are changed, no other error comes out."""
    path = write(tmp_path / name, RGB, exif=exif_bytes(6), dpi=(300, 300))
    data, generator, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(60):
        damaged = bytearray(data)
        for position in generator.integers(0, len(data), 6):
            damaged[position] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            photo = images.open_photo(path)
            images.save_photo(tmp_path / 'b', photo.rgb, photo)
        except images.ImageError:
            refused += 1
    assert 0 < refused
