"""Whether a JPEG holds all of its picture; libjpeg fills with grey what is missing, and Pillow does not say so."""

import dataclasses
import io
import itertools
import re
import struct

from PIL import Image, ImageChops

# Bytes between the end of a scan's data and the marker behind it are skipped; where data are missing they are decoded
# in their place. So a picture that changes when these are put in is not whole. None of them is a marker's.
PADDING = b'\xf7\xbd' * 48

MAX_SCANS = 100  # each goes through the whole picture, however few its bytes; encoders write about ten

_FRAMES = (0xC0, 0xC1, 0xC2)  # coded with Huffman's tables; arithmetic codes may leave out zeros at their end
_ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a length
# Each run of FF is looked at once, from its beginning.
_MARKER = re.compile(rb'(?<!\xff)\xff+[^\x00\xff\xd0-\xd7]')  # behind the data of a scan
_RESTART = re.compile(rb'(?<!\xff)\xff+([\xd0-\xd7])')
_ROWS = 256  # that are compared at once


@dataclasses.dataclass
class _Scan:
    """The bytes of one scan, and what it should have: the restart markers, and its coefficients."""

    start: int
    end: int  # where filling and the marker behind it begin
    components: list[int]
    band: tuple[int, int]  # first and last coefficient
    bit: int  # the lowest that it brings
    restarts: int


@dataclasses.dataclass
class _Frame:
    """What the header of a JPEG says."""

    code: int = 0
    height: int = 0
    width: int = 0
    factors: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict)  # by component, across and down
    is_ended: bool = False
    scans: list[_Scan] = dataclasses.field(default_factory=list)


def check_scans(content: bytes) -> str | None:
    """Whether there are so many scans that decoding might not end; what to say then."""
    try:
        count = len(_parse(content).scans)
    except (struct.error, IndexError, ValueError, ZeroDivisionError):
        return None  # the decoder will say so
    return f'holds {count} scans' if count > MAX_SCANS else None


def missing(image: Image.Image, content: bytes, formats: tuple[str, ...]) -> str | None:
    """What a decoded JPEG, not yet turned, lacks; None if it is whole, as far as can be known."""
    try:
        frame = _parse(content)
    except (struct.error, IndexError, ValueError, ZeroDivisionError):
        return 'its markers are not in order'
    if not frame.scans or not frame.is_ended:
        return 'it has no end'
    restarts = [_restarts(content, scan) for scan in frame.scans]
    for scan, found in zip(frame.scans, restarts, strict=True):
        positions, numbers = found
        if any(number != index % 8 for index, number in enumerate(numbers)) or len(numbers) != scan.restarts:
            return f'{len(numbers)} of the {scan.restarts} restart markers of a scan in order'
    lacking = _lacking(frame)
    if lacking:
        return lacking
    if frame.code not in _FRAMES:
        return None
    ends = [[*positions, scan.end] for scan, (positions, _) in zip(frame.scans, restarts, strict=True)]
    cuts = (0, *itertools.chain.from_iterable(ends), len(content))
    padded = PADDING.join(content[start:end] for start, end in itertools.pairwise(cuts))
    try:
        with Image.open(io.BytesIO(padded), formats=formats) as other:
            other.load()
            return None if _are_equal(image, other) else 'its data end early'
    except OSError:  # the padding was taken for data, and makes no sense
        return 'its data end early'


def _are_equal(image: Image.Image, other: Image.Image) -> bool:
    """Pixel for pixel, a few rows at a time."""
    for top in range(0, image.height, _ROWS):
        box = (0, top, image.width, min(top + _ROWS, image.height))
        if ImageChops.difference(image.crop(box), other.crop(box)).getbbox(alpha_only=False):
            return False
    return True


def _parse(content: bytes) -> _Frame:
    """The headers up to the end of the first picture."""
    frame, position, interval = _Frame(), 2, 0
    while position + 2 <= len(content):
        if content[position] != 0xFF or content[position + 1] in (0x00, 0xFF):  # filling
            position += 1
            continue
        code = content[position + 1]
        if code == 0xD9:
            frame.is_ended = True
            break
        if code in _ALONE:
            position += 2
            continue
        length = struct.unpack_from('>H', content, position + 2)[0]
        segment = content[position + 4 : position + 2 + length]
        position += 2 + length
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            _, frame.height, frame.width, count = struct.unpack_from('>BHHB', segment)
            frame.code = code
            triples = [segment[6 + 3 * index : 9 + 3 * index] for index in range(count)]
            frame.factors = {number: (sampling >> 4, sampling & 15) for number, sampling, _ in triples}
        elif code == 0xDD:
            interval = struct.unpack('>H', segment)[0]
        elif code == 0xDA:
            end = _end_of_scan(content, position)
            frame.scans.append(_scan(frame, segment, position, end, interval))
            position = end
    return frame


def _end_of_scan(content: bytes, position: int) -> int:
    """Where the marker behind the data of a scan begins, with its filling; the end of the file if there is none."""
    found = _MARKER.search(content, position)
    return found.start() if found else len(content)


def _scan(frame: _Frame, header: bytes, start: int, end: int, interval: int) -> _Scan:
    """One scan by its header."""
    count = header[0]
    components = [header[1 + 2 * index] for index in range(count)]
    first, last, bits = header[1 + 2 * count : 4 + 2 * count]
    wide = max(across for across, _ in frame.factors.values())
    high = max(down for _, down in frame.factors.values())
    if count == 1:
        across, down = frame.factors[components[0]]
        units = -(-frame.width * across // (8 * wide)) * -(-frame.height * down // (8 * high))
    else:
        units = -(-frame.width // (8 * wide)) * -(-frame.height // (8 * high))
    return _Scan(start, end, components, (first, last), bits & 15, -(-units // interval) - 1 if interval else 0)


def _restarts(content: bytes, scan: _Scan) -> tuple[list[int], list[int]]:
    """Positions and numbers of the restart markers within a scan."""
    positions, numbers = [], []
    for marker in _RESTART.finditer(content, scan.start, scan.end):
        positions.append(marker.start())
        numbers.append(marker[1][0] - 0xD0)
        if len(numbers) > scan.restarts:  # too many, of which a hostile file may hold millions
            break
    return positions, numbers


def _lacking(frame: _Frame) -> str | None:
    """Whether some component, or in a progressive file some coefficient or its last bit, comes in no scan."""
    lowest: dict[tuple[int, int], int] = {}
    for scan in frame.scans:
        (first, last), bit = (scan.band, scan.bit) if frame.code in (0xC2, 0xCA) else ((0, 63), 0)
        for component, coefficient in itertools.product(scan.components, range(first, last + 1)):
            lowest[component, coefficient] = bit
    needed = set(itertools.product(frame.factors, range(64)))
    if any(lowest.get(key, 1) for key in needed):
        return f'its {len(frame.scans)} scans do not bring all of it'
    return None
