"""Files of every kind a stranger may hand over: read as documented, or refused with a clear message."""

import errno
import io
import os
import struct
import warnings

import cv2
import numpy as np
import pytest
from picture_files import ALPHA, GREY, RGB, SMOOTH, WIDE, exif_bytes, opened, png, rewritten, samples, upright, write
from PIL import Image, ImageFile, PngImagePlugin

from qsnet_jax.data import images

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


@pytest.mark.parametrize('depth', [1, 2, 4, 8])
def test_transparent_grey_of_few_bits_becomes_alpha(tmp_path, depth):
    """The transparent value counts in the samples' own units; the first of four is transparent here."""
    values = np.array([1, 0, 0, 1]) * (2**depth - 1)
    row = b'\0' + np.packbits([[value >> bit & 1 for bit in range(depth)[::-1]] for value in values]).tobytes()
    chunk = (b'tRNS', struct.pack('>H', values[0]))
    photo = images.open_photo(png(tmp_path / 'a.png', 4, 1, depth, 0, row, chunk))
    assert photo.rgb[0, :, 0].tolist() == [255, 0, 0, 255] and photo.alpha.tolist() == [[0, 255, 255, 0]]


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


@pytest.mark.parametrize('channels', [3, 4])
def test_16_bit_colour_in_jpeg_2000_is_refused(tmp_path, channels):
    """Pillow would turn its white black; 16-bit grey is read."""
    white = np.full((64, 64, channels), 65535, np.uint16)
    cv2.imwrite(str(tmp_path / 'a.jp2'), white)
    with pytest.raises(images.ImageError, match='a.jp2: is a JPEG 2000 of 16-bit colours; expected 8 bits, or grey'):
        images.read(tmp_path / 'a.jp2')
    cv2.imwrite(str(tmp_path / 'grey.jp2'), white[..., 0])
    assert images.read(tmp_path / 'grey.jp2').min() == 255


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


@pytest.mark.parametrize('name', ['a.png', 'a.tif', 'a.webp', 'a.jpg'])
def test_orientation_in_xmp_is_not_applied(tmp_path, name):
    """Other programs do not; by `read` and `size` alike."""
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt('XML:com.adobe.xmp', xmp.decode())
    options = {'a.png': {'pnginfo': chunks}, 'a.tif': {'tiffinfo': {700: xmp}}}.get(name, {'xmp': xmp})
    path = write(tmp_path / name, SMOOTH, **options)
    assert opened(path).getexif()[274] == 6
    assert images.read(path).shape == SMOOTH.shape and images.size(path) == SMOOTH.shape[:2]


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


def test_a_gain_map_is_dropped_with_a_note(tmp_path):
    """Of a photo that Pillow does not call an MPO, for its XMP says that the second picture lightens the first."""
    first, second = Image.fromarray(SMOOTH), Image.fromarray(255 - SMOOTH)
    first.save(tmp_path / 'a.jpg', 'MPO', save_all=True, append_images=[second], xmp=b'<x hdrgm:Version="1.0"/>')
    assert opened(tmp_path / 'a.jpg').format == 'JPEG'
    assert images.open_photo(tmp_path / 'a.jpg').notes == ('gain map of an Ultra HDR photo dropped', 'XMP dropped')
    first.save(tmp_path / 'b.jpg', xmp=b'<x hdrgm:Version="1.0"/>')  # what is left of one has none
    assert images.open_photo(tmp_path / 'b.jpg').notes == ('XMP dropped',)


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


@pytest.mark.parametrize('action', [images.read, images.read_layer, images.size, images.open_photo])
def test_what_is_no_path_is_refused_with_the_right_call(tmp_path, action):
    """Not as a damaged file, and without printing content."""
    path = write(tmp_path / 'a.png', RGB)
    for given, remedy in [
        (RGB, 'ndarray; .* an array is a picture already'),
        (path.read_bytes(), r'bytes; .* images\.decode\(content, name\)'),
        (io.BytesIO(path.read_bytes()), r'BytesIO; .* images\.decode\(file\.read\(\), name\)'),
        (None, r'NoneType; .* images\.read\(path\)'),
    ]:
        with pytest.raises(images.ImageError, match=f'^Got {remedy}') as refused:
            action(given)
        assert 'expected the path of an image file' in str(refused.value) and len(str(refused.value)) < 200


def test_content_that_is_no_bytes_is_refused_with_the_right_call(tmp_path):
    """A path among them; None does not read the file that the name calls. All kinds of bytes are decoded."""
    path = write(tmp_path / 'a.png', RGB)
    for given, kind in [(str(path), 'str'), (path, type(path).__name__), (None, 'NoneType'), (RGB, 'ndarray')]:
        with pytest.raises(images.ImageError, match=f'^Got {kind}; expected the bytes of an image file'):
            images.decode(given, str(path))
    for kind in (bytes, bytearray, memoryview):
        np.testing.assert_array_equal(images.decode(kind(path.read_bytes()), path), RGB)


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
    (tmp_path / 'ring.png').symlink_to('ring.png')
    for name, found in [
        ('ring.png', 'a link in a circle of links'),
        ('none.png', 'does not exist'),
        ('no\0ne.png', 'has a zero byte in its name'),
        ('', 'not a regular file'),
        ('pipe.png', 'not a regular file'),
    ]:
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
