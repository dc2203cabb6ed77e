"""Pictures and their files for the tests of images."""

import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image

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
