"""Photos are written as they were read, whole or not at all; damaged ones end in a photo or an ImageError."""

import errno
import io
import os
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from picture_files import ALPHA, GREY, RGB, SMOOTH, exif_bytes, opened, rewritten, write
from PIL import ExifTags, Image, ImageCms

from qsnet_jax import UserError
from qsnet_jax.data import images

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


@pytest.mark.parametrize('array', [np.dstack([RGB, ALPHA]), np.dstack([GREY, GREY // 2])])
def test_alpha_that_a_tga_does_not_declare_is_dropped_with_a_note(tmp_path, array):
    """Programs leave it 0, so that all would be transparent; what is declared is kept."""
    path = write(tmp_path / 'a.tga', array)
    np.testing.assert_array_equal(images.open_photo(path).alpha, array[..., -1])
    content = bytearray(path.read_bytes())
    assert content[17] == 8
    content[17] = 0
    path.write_bytes(content)
    photo = images.open_photo(path)
    assert photo.alpha is None and photo.notes == ('alpha that a TGA does not declare dropped',)
    np.testing.assert_array_equal(photo.rgb, RGB if array.shape[-1] == 4 else np.stack([GREY] * 3, -1))


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


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (Image.fromarray(RGB), r"np.asarray\(image.convert\('RGB'\)\)"),
        (RGB.tolist(), 'np.asarray'),
        (None, 'images.read'),
        (np.dstack([RGB, RGB[..., 0]]), r'image\[..., :3\], without alpha'),
        (RGB > 9, 'as uint8'),
        (RGB[..., 0] / 255, 'to_uint8'),
        (jnp.asarray(RGB), r'np.asarray\(image\)'),
    ],
)
def test_what_is_no_picture_is_not_saved(tmp_path, given, message):
    """One line with the remedy, and the disk is not blamed."""
    with pytest.raises(UserError, match=rf'expected uint8 \(H, W, 3\) or \(H, W\), a NumPy array; .*{message}'):
        images.save(tmp_path / 'x.png', given)
    assert not list(tmp_path.iterdir())


def test_path_and_image_in_the_wrong_order_are_said():
    """With the right order."""
    with pytest.raises(UserError, match=r'Got ndarray as the path of an image; write images.save\(path, image\)'):
        images.save(RGB, 'x.png')


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
