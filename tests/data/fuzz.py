"""Damaged picture files from seeds of many formats; `python tests/data/fuzz.py COUNT SEED FOLDER` reads them."""

import collections
import io
import json
import os
import pathlib
import resource
import struct
import sys
import time
import zlib

import numpy as np
import tifffile
from PIL import Image

from qsnet_jax.data import images

LIMIT = 2 * 2**30  # bytes of address space, of which the imports take half
SECONDS = 20  # for one file


def picture(height=37, width=45):
    """Waves and noise, uint8 (H, W, 3), the last rows and columns neither black nor grey."""
    rows, columns = np.mgrid[:height, :width]
    waves = [120 + 60 * np.sin(columns / 7), 110 + 50 * np.cos(columns / 9 + rows / 11), 90 + 40 * np.sin(rows / 6)]
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    return np.clip(np.stack(waves, -1) + noise, 1, 255).astype(np.uint8)


def encoded(mode, format, **options):
    """A file's bytes by Pillow."""
    file = io.BytesIO()
    Image.fromarray(picture()).convert(mode).save(file, format, **options)
    return file.getvalue()


def tiff(array, **options):
    """A file's bytes by tifffile, which writes planes, tiles and both byte orders."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def interlaced():
    """An RGB PNG in Adam7's seven passes, unfiltered."""
    array, rows = picture(), []
    for left, top, across, down in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        rows += [b'\0' + row.tobytes() for row in array[top::down, left::across]]
    header = struct.pack('>IIBBBBB', array.shape[1], array.shape[0], 8, 2, 0, 0, 1)
    chunks = ((b'IHDR', header), (b'IDAT', zlib.compress(b''.join(rows))), (b'IEND', b''))
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data)) for kind, data in chunks
    )


def seeds():
    """Whole files by a name that ends in their extension."""
    wide = picture().astype(np.uint16) * 257
    rgba = np.dstack([wide, wide[..., 0]])
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0xA002] = 45
    second = {'save_all': True, 'append_images': [Image.fromarray(255 - picture())]}
    separate = {'photometric': 'rgb', 'planarconfig': 'separate'}
    file = io.BytesIO()
    Image.fromarray(wide[..., 0]).save(file, 'PNG')
    return {
        'baseline.jpg': encoded('RGB', 'JPEG'),
        'full.jpg': encoded('RGB', 'JPEG', subsampling=0, quality=98),
        'grey.jpg': encoded('L', 'JPEG', optimize=True),
        'progressive.jpg': encoded('RGB', 'JPEG', progressive=True),
        'restarts.jpg': encoded('RGB', 'JPEG', restart_marker_blocks=2),
        'restarts_progressive.jpg': encoded('RGB', 'JPEG', progressive=True, restart_marker_rows=1),
        'cmyk.jpg': encoded('CMYK', 'JPEG'),
        'turned.jpg': encoded('RGB', 'JPEG', exif=exif),
        'mpo.jpg': encoded('RGB', 'MPO', **second),
        'rgb.png': encoded('RGB', 'PNG'),
        'rgba.png': encoded('RGBA', 'PNG', exif=exif),
        'palette.png': encoded('P', 'PNG'),
        'bits.png': encoded('1', 'PNG'),
        'grey16.png': file.getvalue(),
        'interlaced.png': interlaced(),
        'rgb.bmp': encoded('RGB', 'BMP'),
        'palette.bmp': encoded('P', 'BMP'),
        'raw.tif': encoded('RGB', 'TIFF'),
        'deflate.tif': encoded('RGBA', 'TIFF', compression='tiff_deflate'),
        'lzw.tif': encoded('L', 'TIFF', compression='tiff_lzw'),
        'packbits.tif': encoded('RGB', 'TIFF', compression='packbits'),
        'jpeg.tif': encoded('RGB', 'TIFF', compression='jpeg'),
        'fax.tif': encoded('1', 'TIFF', compression='group4'),
        'planar16.tif': tiff(np.moveaxis(wide, -1, 0), byteorder='>', rowsperstrip=10, **separate),
        'tiles16.tif': tiff(np.moveaxis(rgba, -1, 0), tile=(16, 16), extrasamples=['unassalpha'], **separate),
        'tiles.tif': tiff(picture(), photometric='rgb', tile=(16, 16), compression='zlib'),
        'lossy.webp': encoded('RGB', 'WEBP'),
        'lossless.webp': encoded('RGBA', 'WEBP', lossless=True),
        'boxes.jp2': encoded('RGB', 'JPEG2000'),
        'tiles.j2k': encoded('L', 'JPEG2000', no_jp2=True, tile_size=(32, 32)),
        'lossy.jp2': encoded('RGBA', 'JPEG2000', irreversible=True, quality_layers=[20]),
        'colour.ppm': encoded('RGB', 'PPM'),
        'grey16.pgm': b'P5 45 37 65535\n' + wide[..., 0].astype('>u2').tobytes(),
        'plain.pgm': b'P2 45 37 255\n' + ' '.join(map(str, picture()[..., 0].ravel())).encode() + b'\n',
        'bits.pbm': encoded('1', 'PPM'),
        'rgba.tga': encoded('RGBA', 'TGA'),
        'runs.tga': encoded('RGB', 'TGA', compression='tga_rle'),
    }


ENDS = {'.jpg': b'\xff\xd9', '.png': b'\0\0\0\0IEND\xaeB`\x82', '.j2k': b'\xff\xd9', '.jp2': b'\xff\xd9'}


def damage(content, name, generator):
    """One damaged file, and whether nothing but its end was taken, so that it is refused or still the same picture."""
    kind = generator.integers(8)
    data = bytearray(content)
    place = int(generator.integers(len(data)))
    if kind == 0:
        return bytes(data[:place]), True
    if kind == 1:  # and mended, as programs do that write what they have
        return bytes(data[:place]) + ENDS.get(pathlib.Path(name).suffix, b''), True
    if kind == 2:
        for position in generator.integers(0, len(data), generator.integers(1, 12)):
            data[position] = generator.integers(256)
    elif kind == 3:
        for position in generator.integers(0, min(len(data), 200), generator.integers(1, 4)):
            data[position] ^= 1 << int(generator.integers(8))
    elif kind == 4:
        del data[place : place + int(generator.integers(1, 60))]
    elif kind == 5:
        data[place:place] = generator.bytes(int(generator.integers(1, 60)))
    elif kind == 6:
        extreme = [b'\0\0\0\0', b'\xff\xff\xff\xff', b'\0\1\0\0', b'\x7f\xff\xff\xff', b'\x10\0\0\0'][
            generator.integers(5)
        ]
        place = int(generator.integers(min(len(data), 300)))
        data[place : place + 4] = extreme
    else:
        other = int(generator.integers(len(data)))
        data[place : place + 200] = data[other : other + 200]
    return bytes(data), False


def run(count, seed, folder):
    """Reads `count` damaged files; returns how many ended how, and what should not have happened."""
    generator = np.random.default_rng(seed)
    whole, counts, wrong = seeds(), collections.Counter(), []
    pixels = {}
    for name, content in whole.items():
        (folder / name).write_bytes(content)
        pixels[name] = images.read(folder / name)
    names = list(whole)
    for index in range(count):
        name = names[index % len(names)]
        content, is_cut = damage(whole[name], name, generator)
        path = folder / f'damaged-{name}'
        path.write_bytes(content)
        begun = time.perf_counter()
        try:
            photo = images.open_photo(path)
            images.size(path)
            images.save_photo(folder / 'written', photo.rgb, photo)
        except images.ImageError:
            counts['refused'] += 1
        except Exception as error:  # whatever it is, it should have been an ImageError
            wrong.append((index, name, repr(error)))
        else:
            counts['whole'] += 1
            good = photo.rgb.dtype == np.uint8 and photo.rgb.ndim == 3 and photo.rgb.shape[2] == 3
            is_cut &= name != 'plain.pgm'  # whose last number may be another one
            if not good or (is_cut and not np.array_equal(photo.rgb, pixels[name])):
                wrong.append((index, name, f'half a picture, {len(content)} of {len(whole[name])} bytes'))
        if time.perf_counter() - begun > SECONDS:
            wrong.append((index, name, 'too slow'))
        if wrong and wrong[-1][0] == index and os.environ.get('QSNET_FUZZ_KEEP'):
            pathlib.Path(os.environ['QSNET_FUZZ_KEEP'], f'{index}-{name}').write_bytes(content)
    return counts, wrong


if __name__ == '__main__':
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    counts, wrong = run(int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3]))
    print(json.dumps({'counts': counts, 'wrong': wrong}))
