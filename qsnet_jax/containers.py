"""Where the file of a video ends, as its container says: a file that is shorter was truncated."""

import struct
from typing import BinaryIO

BOXES = (b'moov', b'moof', b'mdat')  # of MP4: tables, and the pictures and sound that they list


def listed_end(file: BinaryIO, size: int, container: str) -> int:
    """The byte at which a whole file ends, or one before it; 0 where the container does not say.

    file: open at its start, of `size` bytes. container: FFmpeg's name of it.
    """
    if 'matroska' in container:
        return _segment_end(file)
    return _boxes_end(file, size) if 'mp4' in container else 0


def _segment_end(file: BinaryIO) -> int:
    """Where a Matroska file says that it ends; 0 where it does not, as recordings of live pictures."""
    head = file.read(4096)
    start = head.find(b'\x18\x53\x80\x67') + 4  # of the length of the segment, which all pictures are in
    if start < 4 or head[start : start + 1] in (b'', b'\0'):
        return 0
    count = 9 - head[start].bit_length()  # its bytes: one more than the zeros before the first one
    unknown = (1 << 7 * count) - 1
    length = int.from_bytes(head[start : start + count]) & unknown
    return 0 if length == unknown else start + count + length


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last of the boxes that matter says that it ends; what follows them may be anything."""
    place = end = 0
    while place + 8 <= size:
        file.seek(place)
        length, kind = struct.unpack('>I4s', file.read(8))
        if length == 1:  # too long for four bytes
            length = int.from_bytes(file.read(8))
        if length < 8:  # 0: all the rest; others are no part of a video
            break
        place += length
        if kind in BOXES:
            end = place
    return end
