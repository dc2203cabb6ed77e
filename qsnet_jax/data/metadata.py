"""What describes a picture beside its pixels: EXIF, colours, resolution; what is kept, what is said of the rest."""

import dataclasses
import os
import re
import struct

from PIL import ExifTags, Image, PngImagePlugin

_KEPT_TAGS = (  # of the photo, not of how its bytes lie
    *(269, 270, 271, 272, 305, 306, 315, 316, 33432),  # name, description, make, ..., date, author, computer, copyright
    *(18246, 18249, *range(40091, 40096)),  # of Windows: rating, title, comment, author, keywords, subject
)
_WIDTH, _HEIGHT = ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight
_FOCAL = (ExifTags.Base.FocalPlaneXResolution, ExifTags.Base.FocalPlaneYResolution)
_PLACES = (0x9214, 0xA214)  # subject's area and location, in pixels of the picture as it lay
_PNG_COLOURS = {b'cHRM': 32, b'cICP': 4, b'gAMA': 4, b'sRGB': 1}  # chunks that say what colours mean, and their lengths
_PNG_LIGHT = (b'mDCV', b'mDCv', b'cLLI', b'cLLi')  # of the screen it was made on
_XMP = ('xmp', 'XML:com.adobe.xmp')  # what Pillow calls it
_HAD_XMP = 'had XMP'
_ENCODER = b'Created by OpenJPEG'  # how the encoder of JPEG 2000 comments on itself
_RAW_PROFILE = 'Raw profile type '  # EXIF, IPTC and XMP as ImageMagick writes them into the text of a PNG
_IPTC, _TIFF_IPTC, _PNG_IPTC = 0x0404, 33723, f'{_RAW_PROFILE}iptc'  # of Photoshop's blocks, tag, and kind of text
_FILM = re.compile(rb'\0\0\0.ftyp', re.DOTALL)  # how an MP4 begins
_TIFF_COLOURS = (301, 318, 319)  # transfer function, white point, primaries
_TIFF_NOTES = {  # tags, and what they hold
    'place on the map (GeoTIFF)': {33550, 33922, 34264, 34735},
    'layers of Photoshop': {37724},
}
_CREDENTIALS = b'jumdc2pa'  # how a box of C2PA begins
_JP2_XMP = bytes.fromhex('be7acfcb97a942e89c71999491e3afac')  # name of the box
_NUMBER = rb'(?:(?:\s|#[^\n]*\n)+\d+)'  # of a netpbm header, and what may stand before it
_PPM_HEADER = re.compile(rb'P(?:[14]%b{2}|[2356]%b{3})' % (_NUMBER, _NUMBER))


class _Text(str):
    """Text of EXIF as Pillow reads it, each byte a character of Latin-1; it would write '?' for what is not ASCII."""

    def encode(self, *_) -> bytes:  # type: ignore[override]
        return super().encode('latin-1', 'replace')


@dataclasses.dataclass
class Kept:
    """What is written again, and a short sentence for each thing that is not."""

    exif: bytes | None
    icc_profile: bytes | None
    dpi: tuple[float, float] | None
    options: dict  # of Pillow's encoder
    notes: list[str]


def forget_xmp(image) -> None:
    """Takes away XMP, where Pillow would look for an orientation that other programs do not apply; leaves a mark."""
    if any([image.info.pop(name, None) for name in _XMP]):
        image.info[_HAD_XMP] = True


def orientation(image) -> int:
    """The EXIF orientation still to be applied; Pillow applies a TIFF's itself, when opening and when decoding."""
    if image.format == 'TIFF':
        return 1
    if image.format == 'PNG' and not {'exif', f'{_RAW_PROFILE}exif'} & image.info.keys():
        image.info['exif'] = _late_png_exif(image.fp)  # or Pillow would decode the whole file to look for it
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # no reason to refuse the pixels
        return 1


def collect(image, file, turned: int, is_grey: bool) -> Kept:
    """Of a decoded image, not yet turned by Pillow or as `turned` says, and of its file."""
    is_on_side = turned in (5, 6, 7, 8)
    size = image.size[::-1] if is_on_side and image.format != 'TIFF' else image.size
    exif, notes = _exif(image, turned, size)
    profile, more = _profile(image, is_grey)
    notes += more + _left_out(image, file)
    options: dict = {}
    if image.format == 'PNG':
        chunks = _png_colours(file, notes)
        if chunks is not None:
            options['pnginfo'] = chunks
    if image.format == 'TIFF' and any(tag in image.tag_v2 for tag in _TIFF_COLOURS):
        notes.append('description of colours in TIFF tags dropped')
    if image.format == 'BMP' and _has_bmp_colours(file):
        notes.append('description of colours in a BMP dropped')
    if image.format == 'TGA' and image.info.get('compression'):
        options['compression'] = image.info['compression']
    if image.format == 'JPEG2000':
        options['no_jp2'] = _head(file, 4) == b'\xff\x4f\xff\x51'
        if profile or exif or _has_jp2_profile(file):
            notes.append('EXIF and colour profile of a JPEG 2000 dropped')
        profile = exif = None
    dpi = image.info.get('dpi')
    return Kept(exif, profile, dpi[::-1] if dpi and is_on_side else dpi, options, notes)


def _exif(image, turned: int, size: tuple[int, int]) -> tuple[bytes | None, list[str]]:
    """EXIF to keep, with the size of the upright picture, and notes.

    Kept is what describes the photo; tags that describe how the old file's bytes lay would be wrong in the new one.
    """
    kept, notes = Image.Exif(), []
    try:
        exif = image.getexif()
        for tag in _KEPT_TAGS:
            if tag in exif:
                kept[tag] = _as_read(exif[tag])
        for folder in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            if folder in exif:
                kept[folder] = {tag: _as_read(value) for tag, value in exif.get_ifd(folder).items()}
                if kept[folder].pop(ExifTags.IFD.Interop, None):  # an offset in the old file
                    is_adobe = exif.get_ifd(ExifTags.IFD.Interop).get(1) == 'R03'
                    notes += ['EXIF says Adobe RGB without a profile; that is dropped'] * is_adobe
        if not len(kept):  # Pillow leaves EXIF empty that it cannot parse
            damaged = image.info.get('exif') and not len(exif)
            return None, ['damaged EXIF dropped'] if damaged else []
        if ExifTags.IFD.Exif in kept:
            _turn(kept[ExifTags.IFD.Exif], turned, size)
        kept[ExifTags.Base.Orientation] = 1
        return kept.tobytes(), notes
    except Exception:  # no reason to refuse the pixels
        return None, ['damaged EXIF dropped']


def _as_read(value):
    """A value of EXIF that is written with the bytes that it was read from."""
    return _Text(value) if isinstance(value, str) else value


def for_tiff(exif: bytes) -> Image.Exif:
    """EXIF as Pillow writes it into a TIFF, where it would read and encode bytes anew."""
    parsed = Image.Exif()
    parsed.load(exif)
    for tag in list(parsed):
        parsed[tag] = _as_read(parsed[tag])
    for folder in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if folder in parsed:
            tags = parsed.get_ifd(folder)  # its own, which is written
            tags |= {tag: _as_read(value) for tag, value in tags.items()}
    return parsed


def _turn(tags: dict, turned: int, size: tuple[int, int]) -> None:
    """Makes the tags that speak of pixels true of the upright picture."""
    for tag, extent in zip((_WIDTH, _HEIGHT), size, strict=True):
        if tag in tags:
            tags[tag] = extent
    if turned != 1:
        for place in _PLACES:
            tags.pop(place, None)
    if turned in (5, 6, 7, 8):
        found = {tag: tags.pop(tag) for tag in _FOCAL if tag in tags}
        tags |= {other: found[tag] for tag, other in zip(_FOCAL, _FOCAL[::-1], strict=True) if tag in found}


def _profile(image, is_grey: bool) -> tuple[bytes | None, list[str]]:
    """The colour profile, if it is one of pictures such as will be written, or a note."""
    profile = image.info.get('icc_profile', b'')  # None: Pillow has found one that it cannot read
    if profile == b'' or image.mode == 'CMYK':
        return None, []
    if not isinstance(profile, bytes) or len(profile) < 128 or profile[36:40] != b'acsp':
        return None, ['damaged colour profile dropped']
    kind, expected = profile[16:20], b'GRAY' if is_grey else b'RGB '
    if kind != expected:
        of, written = (space.decode('ascii', 'replace').strip() for space in (kind, expected))
        return None, [f'colour profile of {of} pictures dropped, for this one is {written}']
    return profile, []


def _left_out(image, file) -> list[str]:
    """What is neither in EXIF nor in the pixels. XMP often says how the old pixels lay, or what followed them."""
    notes, is_jpeg, tags = [], image.format in ('JPEG', 'MPO'), getattr(image, 'tag_v2', {})
    content = b'' if image.format in ('TIFF', 'BMP') else _head(file, -1)
    if (
        _HAD_XMP in image.info
        or any(name in image.info for name in _XMP)  # a PNG's may lie behind the pixels
        or (image.format == 'JPEG2000' and _JP2_XMP in content)
    ):
        notes.append('XMP dropped')
    texts = [key for key in getattr(image, 'text', {}) if key not in _XMP and not key.startswith(_RAW_PROFILE)]
    comment = image.info.get('comment', b'') or image.info.get('id_section', b'').strip(b'\0 ')  # the latter of TGA
    header = _PPM_HEADER.match(content) if image.format == 'PPM' else None
    if texts or (comment and not comment.startswith(_ENCODER)) or (header and b'#' in header[0]):
        notes.append('comments dropped')
    blocks = image.info.get('photoshop', {}) if is_jpeg else {}
    if _IPTC in blocks or _TIFF_IPTC in tags or _PNG_IPTC in image.info:
        notes.append('IPTC dropped')
    notes += [f'{name} dropped' for name, kinds in _TIFF_NOTES.items() if kinds & tags.keys()]
    if is_jpeg and _FILM.search(content):
        notes.append('film behind the photo dropped')
    if _CREDENTIALS in content:
        notes.append('content credentials (C2PA) dropped')
    across, down = image.info.get('aspect') or _jfif_aspect(image) or (1, 1)
    if across and down and across != down:
        notes.append(f'aspect of the pixels, {down}:{across}, dropped')
    return notes


def _jfif_aspect(image) -> tuple[int, int] | None:
    """How many pixels across are as long as how many down, where a JPEG says only that."""
    return image.info.get('jfif_density') if image.info.get('jfif_unit') == 0 else None


def _late_png_exif(file) -> bytes:
    """A PNG's eXIf chunk, which may lie behind the pixels; empty where there is none."""
    for kind, length in _png_chunks(file):
        if kind == b'eXIf':
            return b'Exif\0\0' + file.read(length)
    return b''


def _png_chunks(file):
    """Kind and length of each chunk, the file standing at its data."""
    position = 8
    file.seek(position)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack('>I4s', head)
        yield kind, length
        position += length + 12
        file.seek(position, os.SEEK_SET)


def _png_colours(file, notes: list[str]) -> PngImagePlugin.PngInfo | None:
    """The chunks that say what the colours of a PNG mean, as Pillow writes them; adds to the notes what is lost."""
    found: dict[bytes, bytes] = {}
    for kind, length in _png_chunks(file):
        if kind == b'IDAT':
            break
        if kind in _PNG_COLOURS and length == _PNG_COLOURS[kind]:
            found.setdefault(kind, file.read(length))
        elif kind in _PNG_COLOURS or kind in _PNG_LIGHT:
            notes.append(f'{kind.decode()} of a PNG dropped')
    chunks = PngImagePlugin.PngInfo()
    for kind, data in found.items():
        chunks.add(kind, data)
    return chunks if found else None


def _has_bmp_colours(file) -> bool:
    """Whether the header of a BMP describes its primaries, or a profile follows."""
    head = _head(file, 14 + 4 + 104)
    if len(head) < 122 or struct.unpack_from('<I', head, 14)[0] < 108:
        return False
    kind = head[70:74][::-1]
    return kind in (b'MBED', b'LINK') or (kind == bytes(4) and any(head[74:122]))


def _has_jp2_profile(file) -> bool:
    """Whether a box of a JP2 file's header holds a profile."""
    return b'colr\x02' in _head(file, 2**16)


def _head(file, length: int) -> bytes:
    """The first bytes of a file; all of them for a length of -1."""
    file.seek(0)
    return file.read(length)
