"""Whether a file holds all of the picture that its header promises; checked before and after it is decoded.

Decoders fill up with black or grey what a file lacks, and say nothing. Before decoding, sizes are bounded:

  MAX_PIXELS        of any picture
  one frame         animations and files of several pages are refused (of an MPO, the first picture counts)
  pixels per byte   in pictures of over a million pixels: JPEG 512, for each block of 64 takes a bit; WebP and JPEG 2000
                    10,000, which flat pictures alone exceed. The other formats are bounded by what they hold
  memory            the decoder's need by the format, against what is free
"""

import contextlib
import dataclasses
import os
import re
import struct
import zlib

import numpy as np

from qsnet_jax import UserError, memory
from qsnet_jax.data import jpeg

MAX_PIXELS = 200_000_000
PIXELS_PER_BYTE = {'JPEG': 512, 'MPO': 512, 'WEBP': 10_000, 'JPEG2000': 10_000}
FREE_OF_BOUND = 1_000_000  # pixels up to which few bytes may hold a picture
# Memory at its peak for each pixel of RGB or RGBA, measured: the decoder's own, Pillow's picture, and the arrays.
BYTES_PER_PIXEL = {'WEBP': 24, 'JPEG2000': 32}
BYTES_PER_PIXEL_OF_OTHERS = 20
MOST_COUNTED = 9  # pages of a TIFF
ZEROS = 64  # bytes at the end of compressed data that no encoder writes
SMALL = 64 * 2**20  # bytes for which the free memory is not asked
DEFLATE = (8, 32946)  # compressions of a TIFF that are streams of zlib, where bits are not turned round (tag 266)
CHUNK = 2**16  # bytes, of a stream and of what it inflates to

_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # Adam7
_GAP = rb'(?:\s|#[^\n]*\n)+'  # one character or comment at a time; runs could be cut up in many ways
_NETPBM = re.compile(rb'P(?:(4)|([56]))%s(\d+)%s(\d+)(?(1)|%s(\d+))\s' % (_GAP, _GAP, _GAP))
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the colour type of a PNG


class ImageError(UserError):
    """An image file cannot be read or written; says which, what was found, what was expected and what to do."""


@dataclasses.dataclass
class Refused(Exception):
    """Why a picture is not taken, before it is said of which file."""

    found: str
    expected: str = 'one whole picture'
    remedy: str = 'fetch or export it again'


@dataclasses.dataclass
class _Header:
    """Of a picture that is not opened yet, what Pillow's images have."""

    format: str
    width: int
    height: int


def incomplete(how: str) -> Refused:
    """A picture of which something is missing."""
    return Refused(f'is truncated or damaged ({how})')


def check_size(image, num_bytes: int) -> None:
    """Refuses by the header alone: too many pixels, for any file or for this one's bytes, and several pictures."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        size = f'is too large ({image.width} x {image.height})'
        raise Refused(size, f'at most {MAX_PIXELS} pixels', 'cut or shrink it')
    frames = _count_frames(image)
    if frames != '1' and image.format != 'MPO':
        raise Refused(f'holds {frames} frames or pages', 'a single picture', 'split it into single pictures')
    bound = PIXELS_PER_BYTE.get(image.format)
    if bound and pixels > max(bound * num_bytes, FREE_OF_BOUND):
        found = f'claims {image.width} x {image.height} pixels in {num_bytes} bytes'
        raise Refused(found, f'at most {bound} pixels per byte')


def check_webp_header(file, num_bytes: int) -> None:
    """The same of a WebP before Pillow opens it, for that alone takes the memory of the whole picture."""
    file.seek(0)
    head = file.read(30)
    file.seek(0)
    if head[:4] != b'RIFF' or head[8:12] != b'WEBP' or len(head) < 30:
        return
    if head[12:16] == b'VP8X':
        width, height = (int.from_bytes(head[start : start + 3], 'little') + 1 for start in (24, 27))
    elif head[12:16] == b'VP8L':
        bits = int.from_bytes(head[21:25], 'little')
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (size & 0x3FFF for size in struct.unpack_from('<HH', head, 26))
    header = _Header('WEBP', width, height)
    check_size(header, num_bytes)
    check_memory(header)


def _count_frames(image) -> str:
    """Frames or pages, in words; a TIFF's pages are a chain, which may be as long as the file, or a ring."""
    if image.format != 'TIFF':
        return str(getattr(image, 'n_frames', 1))
    count = 1
    with contextlib.suppress(EOFError):
        while count <= MOST_COUNTED and image.is_animated:
            image.seek(count)
            count += 1
    if count > 1:
        image.seek(0)
    return f'over {MOST_COUNTED}' if count > MOST_COUNTED else str(count)


def check_memory(image) -> None:
    """Refuses what cannot be decoded in the memory that is free."""
    need = image.width * image.height * BYTES_PER_PIXEL.get(image.format, BYTES_PER_PIXEL_OF_OTHERS)
    if need > SMALL and need > (free := memory.free()):
        found = f'needs about {need / 2**30:.1f} GiB of memory for its {image.width} x {image.height} pixels'
        raise Refused(found, f'no more than the {free / 2**30:.1f} GiB that are free', 'free some, or shrink it')


def is_deep(image, rawmode: str, args, file) -> bool:
    """Whether samples of more than 8 bits are reduced; rawmode and args: what Pillow's decoder is told."""
    if image.format == 'JPEG2000':
        head = _content(file)
        start = head.find(b'\xff\x4f\xff\x51')
        return (head[start + 42] & 127) + 1 > 8
    if image.format == 'PPM':
        return not isinstance(args, str) and len(args) > 1 and args[1] > 255
    return image.format in ('PNG', 'TIFF') and '16' in rawmode


def has_spare_channels(image) -> bool:
    """Whether a TIFF has channels, as masks, that Pillow does not hand over."""
    return image.format == 'TIFF' and image.tag_v2.get(277, 1) > len(image.getbands())


def has_gain_map(image) -> bool:
    """Whether a JPEG's second picture is one that lightens it on some screens; Pillow calls such a file no MPO."""
    is_mpf = image.format == 'JPEG' and 'mp' in image.info
    return is_mpf and any(b'hdrgm:Version' in content for _, content in image.applist)


def has_undeclared_alpha(image, file) -> bool:
    """Whether a TGA says that no bits of its last channel are alpha; many programs leave it 0 then."""
    if image.format != 'TGA' or image.mode not in ('LA', 'RGBA'):
        return False
    file.seek(17)
    return not file.read(1)[0] & 15


def check_before(image, file, num_bytes: int) -> None:
    """Refuses what is seen to be incomplete without decoding."""
    if image.format == 'TIFF':
        _check_planes(image)
        _check_tiff(image.tag_v2, file, num_bytes)
    if image.format == 'JPEG2000':
        _check_jpeg_2000(_content(file), image.mode)
    if image.format in ('JPEG', 'MPO') and (found := jpeg.check_scans(_content(file))):
        raise Refused(found, f'at most {jpeg.MAX_SCANS}')
    if image.format == 'PPM':
        _check_ppm(file, num_bytes)


def check_after(image, file, formats) -> None:
    """Refuses a decoded picture, not yet turned, whose data ended early and whose rest the decoder made up."""
    if image.format == 'PNG':
        last = np.asarray(image.crop((0, max(image.height - 2, 0), image.width, image.height)))
        # Black, or never written; the last pass of an interlaced one holds every other row.
        _check_png(_content(file), may_be_short=not all(row.any() for row in last))
    if image.format == 'TIFF' and image.tag_v2.get(259) in DEFLATE and image.tag_v2.get(266, 1) == 1:
        _check_deflate(image.tag_v2, file)
    if image.format == 'WEBP':
        _check_webp(_content(file))
    if image.format in ('JPEG', 'MPO') and (lacking := jpeg.missing(image, _content(file), formats)):
        raise incomplete(lacking)


def _content(file) -> bytes:
    """All bytes of an open file."""
    file.seek(0)
    return file.read()


def _check_planes(image) -> None:
    """Of a TIFF in planes Pillow finds the alpha in the fourth of four alone; elsewhere all would be transparent."""
    is_found = image.mode == 'RGBA' and image.tag_v2.get(277) == 4
    if image.tag_v2.get(284, 1) == 2 and image.mode.endswith(('A', 'a')) and not is_found:
        raise Refused('holds alpha in a plane of its own', 'channels side by side', 'export it without planes')


def _check_tiff(tags, file, num_bytes: int) -> None:
    """Every strip or tile must be named, lie within the file, and hold its pixels where they are not compressed."""
    bits, samples, kind = _values(tags.get(258, (1,))), tags.get(277, 1), _values(tags.get(339, (1,)))[0]
    if kind == 3:
        raise Refused('holds F samples', '8 or 16-bit grey, RGB or CMYK', 'export it as 8-bit RGB')
    if max(bits) > 16 or kind == 2:
        low, high = (-(2 ** (max(bits) - 1)), 2 ** (max(bits) - 1) - 1) if kind == 2 else (0, 2 ** max(bits) - 1)
        raise Refused(f'holds integers from {low} to {high}', '0 to 65535', 'export it as 8 or 16-bit grey or RGB')
    if tags.get(254, 0) & 1 or 50706 in tags:  # NewSubfileType: a reduced copy; DNGVersion
        raise Refused('holds a preview, as raw data of a camera do', 'a developed photo', 'export it as TIFF or JPEG')
    if 347 in tags and not bytes(tags[347]).endswith(b'\xff\xd9'):
        raise incomplete('its JPEG tables end early')
    planar, height = tags.get(284, 1) == 2, tags[257]
    what, across, rows, grid, offsets, counts = _parts(tags)
    needed = grid * (samples if planar else 1)
    if len(offsets) < needed or (counts and len(counts) < needed):
        raise incomplete(f'it names {min(len(offsets), len(counts) or needed)} of {needed} {what}')
    for index in range(needed):
        if tags.get(259, 1) == 1 and tags.get(262) != 6:  # colours of YCbCr may be stored at half the size
            per_row = across * (bits[min(index // grid, len(bits) - 1)] if planar else _bits_per_pixel(bits, samples))
            extent = rows if what == 'tiles' else min(rows, height - index % grid * rows)
            least = -(-per_row // 8) * extent
        else:
            least = 1
        held = counts[index] if counts else least
        if not 0 < offsets[index] <= num_bytes - held or held < least:
            raise incomplete(f'it holds {index} of {needed} {what}')
        if tags.get(259) == 7:  # JPEG
            file.seek(max(offsets[index], offsets[index] + held - 4))
            if b'\xff\xd9' not in file.read(4):
                raise incomplete(f'it holds {index} of {needed} {what} to their end')


def _parts(tags) -> tuple[str, int, int, int, tuple, tuple]:
    """What a TIFF is cut into, columns and rows of each, how many cover a plane, their places and lengths."""
    width, height = tags[256], tags[257]
    if 322 in tags:
        what, across, rows = 'tiles', tags[322], tags.get(323, 0)
        offsets, counts = tags.get(324), tags.get(325)
    else:
        what, across, rows = 'strips', width, min(tags.get(278, height), height)
        offsets, counts = tags.get(273), tags.get(279)
    if not (isinstance(across, int) and isinstance(rows, int) and across > 0 and rows > 0):
        raise incomplete(f'its {what} are {across} x {rows} pixels')
    grid = -(-width // across) * -(-height // rows)
    return what, across, rows, grid, _values(offsets), _values(counts)


def _check_deflate(tags, file) -> None:
    """Each strip or tile of a TIFF must be as its checksum says; libtiff does not look behind the last pixel."""
    what, across, rows, grid, offsets, counts = _parts(tags)
    samples = tags.get(277, 1)
    most = -(-across * _bits_per_pixel(_values(tags.get(258, (1,))), samples) // 8) * rows + CHUNK
    needed = grid * (samples if tags.get(284, 1) == 2 else 1)
    left = file.seek(0, os.SEEK_END)  # to look at; those of a file that means well are no more
    parts = zip(offsets[:needed], counts or (left,) * needed, strict=False)
    for offset, count in dict.fromkeys(parts):  # empty ones may share their data
        file.seek(offset)
        try:
            left -= _inflate(file, min(count, left), most)
        except zlib.error as error:
            raise incomplete(f'one of its {what}: {error}') from error


def _inflate(file, num_bytes: int, most: int) -> int:
    """Inflates a stream of at most `num_bytes` to less than `most`, and keeps nothing; returns how many it took."""
    stream, taken, made = zlib.decompressobj(), 0, 0
    while not stream.eof and made < most and (data := file.read(min(CHUNK, num_bytes - taken))):
        taken += len(data)
        while data and made < most:
            made += len(stream.decompress(data, CHUNK))
            data = stream.unconsumed_tail
    if made >= most:
        raise zlib.error('more than its pixels')
    return taken


def _values(tag) -> tuple:
    """A TIFF tag's values, of which there may be one or none."""
    return tag if isinstance(tag, tuple) else () if tag is None else (tag,)


def _bits_per_pixel(bits: tuple, samples: int) -> int:
    """Of all samples together; a single number stands for each of them."""
    return sum(bits) if len(bits) >= samples else bits[0] * samples


def _check_png(content: bytes, may_be_short: bool) -> None:
    """The data must be as their checksums say and, where they `may_be_short`, inflate to all rows of all passes."""
    width, height, depth, colour, _, _, interlaced = struct.unpack('>IIBBBBB', content[16:29])
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    needed = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        needed += rows * (1 + -(-columns * depth * _CHANNELS[colour] // 8)) if columns > 0 and rows > 0 else 0
    held, position, stream = 0, 8, zlib.decompressobj()
    while position + 8 <= len(content):
        length, kind = struct.unpack('>I4s', content[position : position + 8])
        end = position + 8 + length
        if kind == b'IDAT':
            if zlib.crc32(content[position + 4 : end]) != int.from_bytes(content[end : end + 4], 'big'):
                raise incomplete('its data are not those that its checksums are of')
            data = content[position + 8 : end] if may_be_short else b''
            while data and held < needed:
                held += len(stream.decompress(data, 2**20))
                data = stream.unconsumed_tail
        position = end + 4
    if may_be_short and held < needed:
        raise incomplete(f'its data end after {held} of {needed} bytes')


def _check_webp(content: bytes) -> None:
    """The picture's data must not end in many zeros, as those of a download do that was never finished."""
    position = 12
    while position + 8 <= len(content):
        kind, length = struct.unpack('<4sI', content[position : position + 8])
        position += 8 + length + length % 2
        if kind in (b'VP8 ', b'VP8L', b'ALPH') and length > ZEROS and not any(content[position - ZEROS : position]):
            raise incomplete('its data end in zeros')


def _check_ppm(file, num_bytes: int) -> None:
    """A netpbm file may be followed by others; those would be lost."""
    several = Refused('holds several pictures', 'a single picture', 'split it into single pictures')
    file.seek(0)
    head = file.read(4096)
    if matched := _NETPBM.match(head):
        width, height = int(matched[3]), int(matched[4])
        if matched[1]:  # bits, rows of whole bytes
            length = -(-width // 8) * height
        else:
            length = width * height * (3 if matched[2] == b'6' else 1) * (2 if int(matched[5]) > 255 else 1)
        file.seek(matched.end() + length)
        if num_bytes > matched.end() + length and re.match(rb'\s*P[1-7]\s', file.read(64)):
            raise several
    elif re.match(rb'P[1-3][\s#]', head):  # numbers in ASCII, and comments anywhere
        file.seek(0)
        if re.search(rb'\sP[1-7]\s', re.sub(rb'#[^\n]*', b'', file.read())):
            raise several


def _check_jpeg_2000(content: bytes, mode: str) -> None:
    """All tiles must be there, and the codestream must go on to its end marker; decoders take less for low quality."""
    start = content.find(b'\xff\x4f\xff\x51')
    truncated = incomplete('its codestream ends early')
    if start < 0 or start + 44 > len(content):
        raise truncated
    right, bottom, left, top, across, down, first_x, first_y = struct.unpack('>8I', content[start + 8 : start + 40])
    if not across or not down or right <= first_x or bottom <= first_y:
        raise truncated
    edges = [left, right] + [first_x + across, across] * (first_x + across < right)
    edges_down = [top, bottom] + [first_y + down, down] * (first_y + down < bottom)
    _check_components(content, start + 40, mode, edges, edges_down)
    needed = -(-(right - first_x) // across) * -(-(bottom - first_y) // down)
    tiles, position = set(), start + 2
    while content[position : position + 2] != b'\xff\xd9':
        if position + 12 > len(content):
            raise truncated
        marker, length, tile, part = struct.unpack('>HHHI', content[position : position + 10])
        if marker != 0xFF90:  # not the start of a tile
            position += 2 + length
            continue
        tiles.add(tile)
        if part == 0:  # up to the end
            position = content.rfind(b'\xff\xd9')
            if position < 0:
                raise truncated
        else:
            position += max(part, 12)
    if len(tiles) < needed:
        raise incomplete(f'it holds {len(tiles)} of {needed} tiles')


def _check_components(content: bytes, start: int, mode: str, edges: list[int], edges_down: list[int]) -> None:
    """Refuses a JPEG 2000 whose colours Pillow gets wrong; start: of the table of components, edges: of the tiles.

    Where samples of more than 8 bits are no grey, it turns the lightest black. Where colours are stored at part of the
    size, it takes the next smaller one.
    """
    count = int.from_bytes(content[start : start + 2], 'big')
    components = [content[place : place + 3] for place in range(start + 2, start + 2 + 3 * count, 3)]
    if not count or any(len(each) < 3 or not each[1] or not each[2] for each in components):
        raise incomplete('its components are not described')
    depth = max((each[0] & 127) + 1 for each in components)
    if depth > 8 and not mode.startswith('I'):
        raise Refused(f'is a JPEG 2000 of {depth}-bit colours', '8 bits, or grey', 'export it with 8 bits, or as PNG')
    for _, part_across, part_down in components:
        if any(edge % part_across for edge in edges) or any(edge % part_down for edge in edges_down):
            found = f'is a JPEG 2000 with colours at 1/{part_across} x 1/{part_down} of its size, which is no multiple'
            raise Refused(found, 'colours at the whole size', 'export it without subsampling, or as PNG')
