"""What describes a picture is kept and stays true of it, or is said to be dropped."""

import functools
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from qsnet_jax.data import images

RGB = np.random.default_rng(0).integers(1, 256, (24, 40, 3), dtype=np.uint8)
TAGS = {
    0xA002: 40,
    0xA003: 24,
    0x9214: (5, 6, 7, 8),
    0xA214: (5, 6),
    0xA20E: 300.0,
    0xA20F: 200.0,
    0x9003: '2020:02:02',
}


def exif(orientation, tags=TAGS):
    """EXIF whose tags speak of pixels."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.IFD.Exif] = tags
    return exif.tobytes()


def rewritten(path, array, **options):
    """Notes of a photo, and the file that it is written to again, as Pillow opens it."""
    Image.fromarray(array).save(path, **options)
    return again(path)


def again(path):
    """The same for a file that lies there already."""
    photo = images.open_photo(path)
    target = path.with_name(f'again{path.suffix}')
    images.save_photo(target, photo.rgb, photo)
    return photo.notes, Image.open(io.BytesIO(target.read_bytes()))


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.tif', 'a.webp'])
def test_exif_speaks_of_the_upright_picture(tmp_path, name, orientation):
    """Size and the camera's resolution follow turning; places in pixels, which do not, are dropped."""
    _, image = rewritten(tmp_path / name, RGB, exif=exif(orientation))
    found = image.getexif().get_ifd(ExifTags.IFD.Exif)
    is_on_side = orientation >= 5
    assert image.size == ((24, 40) if is_on_side else (40, 24)) == (found[0xA002], found[0xA003])
    assert (found[0xA20E], found[0xA20F]) == ((200, 300) if is_on_side else (300, 200))
    assert (0x9214 in found) == (0xA214 in found) == (orientation == 1)
    assert found[0x9003] == '2020:02:02'


def test_a_size_in_exif_that_was_never_true_is_made_true(tmp_path):
    """A cropped photo often keeps the size of the whole."""
    _, image = rewritten(tmp_path / 'a.jpg', RGB, exif=exif(1, {0xA002: 4000, 0xA003: 3000}))
    found = image.getexif().get_ifd(ExifTags.IFD.Exif)
    assert (found[0xA002], found[0xA003]) == image.size


def test_exif_gets_no_size_that_it_did_not_have(tmp_path):
    """Only what stood there is corrected."""
    _, image = rewritten(tmp_path / 'a.jpg', RGB, exif=exif(6, {0x9003: '2020:02:02'}))
    assert set(image.getexif().get_ifd(ExifTags.IFD.Exif)) == {0x9003}


@pytest.mark.parametrize('encoding', ['utf-8', 'latin-1'])
@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.tif', 'a.webp'])
def test_names_in_exif_that_are_not_ascii_stay_as_they_are(tmp_path, name, encoding):
    """Byte by byte, for the standard knows no encoding: the author's, and that of the camera's owner."""
    author, owner = 'Jörg'.encode(encoding), 'Zoë'.encode(encoding)
    tags = Image.Exif()
    tags[ExifTags.Base.Artist] = '#' * len(author)
    tags[ExifTags.IFD.Exif] = {ExifTags.Base.CameraOwnerName: '@' * len(owner)}

    def named(content):
        return content.replace(b'#' * len(author), author).replace(b'@' * len(owner), owner)

    Image.fromarray(RGB).save(tmp_path / name, exif=tags.tobytes() if name == 'a.tif' else named(tags.tobytes()))
    if name == 'a.tif':
        (tmp_path / name).write_bytes(named((tmp_path / name).read_bytes()))
    notes, image = again(tmp_path / name)
    found = image.getexif()
    texts = found[ExifTags.Base.Artist], found.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.CameraOwnerName]
    assert [text.encode('latin-1') for text in texts] == [author, owner] and notes == ()


@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.tif'])
def test_resolution_turns_with_the_picture(tmp_path, name):
    """Dots per inch across are those that were down."""
    _, image = rewritten(tmp_path / name, RGB, exif=exif(6), dpi=(300, 150))
    assert image.info['dpi'] == pytest.approx((150, 300), abs=0.1)  # PNG counts dots per metre


@pytest.mark.parametrize('density', [(4, 3), (3, 3), (0, 3)])
@pytest.mark.parametrize('name', ['a.png', 'a.jpg'])
def test_pixels_that_are_not_square_are_said(tmp_path, name, density):
    """PNG and JPEG may say how many pixels across are as long as how many down, and no resolution."""
    packed = struct.pack('>IIB', *density, 0)
    if name == 'a.png':
        png(tmp_path / name, RGB, {b'pHYs': packed})
    else:
        Image.fromarray(RGB).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        place = content.index(b'JFIF\0') + 7
        (tmp_path / name).write_bytes(content[:place] + struct.pack('>BHH', 0, *density) + content[place + 5 :])
    notes, _ = again(tmp_path / name)
    assert notes == (('aspect of the pixels, 3:4, dropped',) if density == (4, 3) else ())


def test_adobe_rgb_in_exif_alone_is_said(tmp_path):
    """A camera's second way to name a colour space does not go unnoticed."""
    notes, _ = rewritten(tmp_path / 'a.jpg', RGB, exif=exif(1))
    assert notes == ()
    camera = {**TAGS, ExifTags.IFD.Interop: {1: 'R03'}}
    notes, _ = rewritten(tmp_path / 'a.jpg', RGB, exif=exif(1, camera))
    assert notes == ('EXIF says Adobe RGB without a profile; that is dropped',)


# What else is in a file

XMP = b'<x:xmpmeta><rdf:Description xmp:Rating="5"/></x:xmpmeta>'


@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'plain.png', 'plain.jp2'])
def test_comments_are_said_to_be_dropped(tmp_path, name):
    """A JPEG's, and a PNG's text, in which its author may stand."""
    text = PngImagePlugin.PngInfo()
    if name == 'a.png':
        text.add_text('Author', 'somebody')
    notes, image = rewritten(
        tmp_path / name, RGB, **{'a.jpg': {'comment': b'of somebody'}, 'a.png': {'pnginfo': text}}.get(name, {})
    )
    assert notes == (() if name.startswith('plain') else ('comments dropped',))
    assert not getattr(image, 'text', {}) and b'somebody' not in image.info.get('comment', b'')


@pytest.mark.parametrize('name', ['a.png', 'a.tif', 'a.webp', 'a.jpg', 'late.png'])
def test_xmp_is_said_to_be_dropped(tmp_path, name):
    """In every format that Pillow reads it in; also where it lies behind the pixels of a PNG."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt('XML:com.adobe.xmp', XMP.decode())
    options = {'.png': {'pnginfo': chunks}, '.tif': {'tiffinfo': {700: XMP}}}.get(name[name.index('.') :], {'xmp': XMP})
    path = tmp_path / name
    Image.fromarray(RGB).save(path, **options)
    if name == 'late.png':
        content = path.read_bytes()
        start, end = content.index(b'iTXt') - 4, content.index(b'IDAT') - 4
        path.write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    notes, image = again(path)
    assert notes == ('XMP dropped',) and 'xmp' not in image.info


@pytest.mark.parametrize('key', ['XML:com.adobe.xmp', 'Description'])
def test_megabytes_of_packed_text_are_no_damage(tmp_path, key):
    """Which Photoshop's history reaches in a PNG; Pillow alone would refuse the picture."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(key, 'layer by layer ' * 2**18, zip=True)
    Image.fromarray(RGB).save(tmp_path / 'a.png', pnginfo=chunks)
    notes, image = again(tmp_path / 'a.png')
    assert notes == ('XMP dropped' if key.startswith('XML') else 'comments dropped',)
    np.testing.assert_array_equal(np.asarray(image), RGB)


def test_what_else_a_file_says_is_said_to_be_dropped(tmp_path):
    """Places of a GeoTIFF, layers of a TIFF of Photoshop, credentials, comments of netpbm and TGA, XMP of JPEG 2000."""
    for name, tags in (
        ('place on the map (GeoTIFF)', {33550: (1.0, 1.0, 0.0)}),
        ('layers of Photoshop', {37724: b'8BIM'}),
    ):
        assert rewritten(tmp_path / 'a.tif', RGB, tiffinfo=tags)[0] == (f'{name} dropped',)
    Image.fromarray(RGB).save(tmp_path / 'a.jpg')
    content = (tmp_path / 'a.jpg').read_bytes()
    box = b'JP\0\1\0\0\0\1' + b'\0\0\0\x30jumb\0\0\0\x28jumdc2pa' + bytes(32)
    (tmp_path / 'a.jpg').write_bytes(content[:2] + b'\xff\xeb' + struct.pack('>H', len(box) + 2) + box + content[2:])
    assert again(tmp_path / 'a.jpg')[0] == ('content credentials (C2PA) dropped',)
    pixels = np.full_like(RGB, ord('#'))  # which are no comment
    pixels[1:] = ord('\n')
    for comment, notes in ((b'# by somebody\n', ('comments dropped',)), (b'', ())):
        header = b'P6\n%d ' % pixels.shape[1] + comment + b'%d 255\n' % pixels.shape[0]
        (tmp_path / 'a.ppm').write_bytes(header + pixels.tobytes())
        assert again(tmp_path / 'a.ppm')[0] == notes
    assert rewritten(tmp_path / 'a.tga', RGB, id_section=b'by somebody')[0] == ('comments dropped',)
    box = struct.pack('>I', 24 + 5) + b'uuid' + bytes.fromhex('be7acfcb97a942e89c71999491e3afac') + b'<xmp>'
    Image.fromarray(RGB).save(tmp_path / 'a.jp2')
    content = (tmp_path / 'a.jp2').read_bytes()
    start = content.index(b'jp2c') - 4
    (tmp_path / 'a.jp2').write_bytes(content[:start] + box + content[start:])
    assert again(tmp_path / 'a.jp2')[0] == ('XMP dropped',)


def test_iptc_is_said_to_be_dropped(tmp_path):
    """In a JPEG's block of Photoshop, a TIFF's tag, and a PNG's text; other blocks are none."""
    for kind, notes in ((0x0404, ('IPTC dropped',)), (0x040A, ())):
        block = b'Photoshop 3.0\0' + b'8BIM' + struct.pack('>HHI', kind, 0, 8) + b'\x1c\x02\x78\0\3sky'
        extra = b'\xff\xed' + struct.pack('>H', len(block) + 2) + block
        assert rewritten(tmp_path / 'a.jpg', RGB, extra=extra)[0] == notes
    assert rewritten(tmp_path / 'a.tif', RGB, tiffinfo={33723: b'\x1c\x02\x78\0\3sky'})[0] == ('IPTC dropped',)
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text('Raw profile type iptc', 'x')
    chunks.add_text('photoshop', 'x')
    assert rewritten(tmp_path / 'a.png', RGB, pnginfo=chunks)[0] == ('comments dropped', 'IPTC dropped')


def test_the_film_behind_a_photo_is_said_to_be_dropped(tmp_path):
    """That phones append to what they call a motion photo."""
    path = tmp_path / 'a.jpg'
    Image.fromarray(RGB).save(path)
    path.write_bytes(path.read_bytes() + b'\0\0\0\x18ftypmp42' + bytes(500))
    notes, _ = again(path)
    assert notes == ('film behind the photo dropped',) and b'ftyp' not in (tmp_path / 'again.jpg').read_bytes()


# Colours of a PNG

GAMMA, PRIMARIES = struct.pack('>I', 100000), struct.pack('>8I', 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
COLOURS = {b'gAMA': GAMMA, b'cHRM': PRIMARIES, b'sRGB': b'\1', b'cICP': b'\x09\x10\0\1'}


def chunks(content):
    """Kinds and data of a PNG's chunks."""
    found, position = {}, 8
    while position < len(content):
        length, kind = struct.unpack('>I4s', content[position : position + 8])
        found[kind] = content[position + 8 : position + 8 + length]
        position += length + 12
    return found


def png(path, array, added, **options):
    """A PNG with chunks between its header and its pixels."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, 'PNG', **options)
    content = file.getvalue()
    middle = b''.join(
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        for kind, data in added.items()
    )
    path.write_bytes(content[:33] + middle + content[33:])
    return path


@pytest.mark.parametrize('kind', COLOURS)
@pytest.mark.parametrize('array', [RGB, RGB[..., 0], np.dstack([RGB, RGB[..., 0]])])
def test_what_says_the_meaning_of_colours_is_kept(tmp_path, kind, array):
    """gAMA, cHRM, sRGB and cICP come out byte for byte, with the pixels as they were."""
    path = png(tmp_path / 'a.png', array, {kind: COLOURS[kind]})
    notes, image = again(path)
    assert notes == () and chunks((tmp_path / 'again.png').read_bytes())[kind] == COLOURS[kind]
    np.testing.assert_array_equal(np.asarray(image), array)


def test_they_are_kept_together_and_with_16_bits(tmp_path):
    """As programs write them: gAMA with cHRM."""
    path = png(tmp_path / 'a.png', RGB[..., 0].astype(np.uint16) * 257, {b'gAMA': GAMMA, b'cHRM': PRIMARIES})
    again(path)
    found = chunks((tmp_path / 'again.png').read_bytes())
    assert found[b'gAMA'] == GAMMA and found[b'cHRM'] == PRIMARIES


@pytest.mark.parametrize('added', [{b'gAMA': GAMMA + b'\0'}, {b'cLLI': bytes(8)}, {b'mDCV': bytes(24)}])
def test_chunks_that_are_not_kept_are_said(tmp_path, added):
    """Damaged ones, and those about the screen a picture was made on."""
    notes, _ = again(png(tmp_path / 'a.png', RGB, added))
    assert notes == (f'{next(iter(added)).decode()} of a PNG dropped',)


def test_colours_in_other_formats_are_said(tmp_path):
    """TIFF's tags and a BMP's primaries are not written again."""
    notes, _ = rewritten(tmp_path / 'a.tif', RGB, tiffinfo={318: (0.3127, 0.329)})
    assert notes == ('description of colours in TIFF tags dropped',)
    header = struct.pack('<IiiHHIIiiII', 108, 40, 24, 1, 24, 0, 0, 2835, 2835, 0, 0).ljust(60, b'\0') + b'\1' * 48
    pixels = RGB[::-1, :, ::-1].tobytes()
    (tmp_path / 'a.bmp').write_bytes(struct.pack('<2sIHHI', b'BM', 122 + len(pixels), 0, 0, 122) + header + pixels)
    notes, image = again(tmp_path / 'a.bmp')
    assert notes == ('description of colours in a BMP dropped',)
    np.testing.assert_array_equal(np.asarray(image), RGB)


# Profiles


@functools.cache  # or another second would make another one
def profile(kind):
    """A colour profile that says it is of some kind of pictures."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes())
    content[16:20] = kind
    return bytes(content)


@pytest.mark.parametrize(
    ('name', 'is_grey'),
    [
        ('a.jpg', False),
        ('a.png', False),
        ('a.tif', False),
        ('a.webp', False),
        ('a.jpg', True),
        ('a.png', True),
        ('a.tif', True),
    ],
)
@pytest.mark.parametrize('kind', [b'GRAY', b'RGB ', b'CMYK', b'Lab '])
def test_only_a_profile_of_such_pictures_is_kept(tmp_path, name, kind, is_grey):
    """A profile of another kind would be refused or misread by viewers; it is dropped with a note."""
    notes, image = rewritten(tmp_path / name, RGB[..., 0] if is_grey else RGB, icc_profile=profile(kind))
    fits = kind == (b'GRAY' if is_grey else b'RGB ')
    assert (image.info.get('icc_profile') == profile(kind)) == fits == (notes == ())
    if not fits:
        assert f'colour profile of {kind.decode().strip()} pictures dropped' in notes[0]


@pytest.mark.parametrize('content', [b'x', b'x' * 500, profile(b'RGB ')[:100]], ids=['short', 'long', 'cut'])
def test_a_damaged_profile_is_dropped(tmp_path, content):
    """What is no profile is not written again."""
    notes, image = rewritten(tmp_path / 'a.jpg', RGB, icc_profile=content)
    assert notes == ('damaged colour profile dropped',) and 'icc_profile' not in image.info


def test_a_profile_that_cannot_be_read_is_told(tmp_path):
    """The first of two parts in a JPEG, and what cannot be inflated in a PNG."""
    Image.fromarray(RGB).save(tmp_path / 'a.jpg')
    content, part = (tmp_path / 'a.jpg').read_bytes(), b'ICC_PROFILE\0\1\2' + profile(b'RGB ')
    (tmp_path / 'a.jpg').write_bytes(content[:2] + b'\xff\xe2' + struct.pack('>H', len(part) + 2) + part + content[2:])
    Image.fromarray(RGB).save(tmp_path / 'a.png')
    content, chunk = (tmp_path / 'a.png').read_bytes(), b'iCCPname\0\0xxxx'
    chunk = struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
    (tmp_path / 'a.png').write_bytes(content[:33] + chunk + content[33:])
    for name in ('a.jpg', 'a.png'):
        notes, image = again(tmp_path / name)
        assert notes == ('damaged colour profile dropped',) and 'icc_profile' not in image.info


@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.tif', 'a.webp'])
def test_what_windows_and_scanners_write_is_kept(tmp_path, name):
    """Title, keywords, rating, name and computer."""
    exif = Image.Exif()
    told = {40091: 'Title'.encode('utf-16le'), 40094: 'cat;rain'.encode('utf-16le'), 18246: 5, 18249: 99}
    told |= {269: 'scan', 316: 'computer'}
    for tag, value in told.items():
        exif[tag] = value
    notes, image = rewritten(tmp_path / name, RGB, exif=exif.tobytes() if name != 'a.tif' else exif)
    assert {tag: image.getexif().get(tag) for tag in told} == told and notes == ()


def test_a_profile_of_an_odd_tag_type_is_dropped(tmp_path):
    """A TIFF may hold it as numbers or text."""
    path = tmp_path / 'a.tif'
    Image.fromarray(RGB).save(path, icc_profile=profile(b'RGB '))
    content = bytearray(path.read_bytes())
    entry = content.index(struct.pack('<HH', 34675, 7))
    size = struct.unpack_from('<I', content, entry + 4)[0]
    for kind, count in ((2, size), (3, size // 2), (6, size)):  # text, 16-bit numbers, signed bytes
        struct.pack_into('<HI', content, entry + 2, kind, count)
        path.write_bytes(content)
        notes, image = again(path)
        assert any('colour profile' in note for note in notes) and 'icc_profile' not in image.info


def test_a_jpeg_2000_loses_its_profile_with_a_note(tmp_path):
    """Pillow reads its pixels but writes no profile."""
    path = tmp_path / 'a.jp2'
    Image.fromarray(RGB).save(path)
    content = path.read_bytes()
    colour = content.index(b'colr') - 4
    length = struct.unpack('>I', content[colour : colour + 4])[0]
    held = profile(b'RGB ')
    box = struct.pack('>I4sBBB', 11 + len(held), b'colr', 2, 0, 0) + held
    header = content.index(b'jp2h') - 4
    size = struct.unpack('>I', content[header : header + 4])[0] + len(box) - length
    content = (
        content[:header] + struct.pack('>I', size) + content[header + 4 : colour] + box + content[colour + length :]
    )
    path.write_bytes(content)
    notes, image = again(path)
    assert any('profile of a JPEG 2000 dropped' in note for note in notes)
    np.testing.assert_array_equal(np.asarray(image), RGB)


def test_pillows_warnings_are_notes(tmp_path, recwarn):
    """They are told with the photo, not printed beside it."""
    path = tmp_path / 'a.tif'
    Image.fromarray(RGB).save(path, tiffinfo={315: 'somebody'})
    content = bytearray(path.read_bytes())
    struct.pack_into('<H', content, content.index(struct.pack('<HH', 315, 2)) + 2, 3)  # text as numbers: too many
    path.write_bytes(content)
    notes, _ = again(path)
    assert any(note.startswith('the decoder says: Metadata Warning, tag 315') for note in notes)
    assert list(recwarn) == []
