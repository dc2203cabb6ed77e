"""Image files in and out: the only place that does either. Arrays are of `arrays`, whose functions are found here too.

Files come from strangers. The format is taken from the content, never from the name; only raw data of cameras are
refused by it, as their small preview would pass for the photo. Whatever cannot be read in full ends in an `ImageError`,
and what has to change on the way to uint8 (H, W, 3) RGB is one of these conversions:

  grey, 1-bit         three equal channels
  palette             its colours
  16-bit grey         round(value / 257), so 65535 becomes 255; 12-bit TIFF likewise from 4095
  16-bit colour       the high byte of each sample (Pillow does this while decoding; at most 1 of 255 below rounding);
                      refused in JPEG 2000
  alpha               dropped by `read`, kept by `open_photo`; colours are not blended with any background
  CMYK                RGB by Pillow's formula, without colour management
  EXIF orientation    applied; one in XMP is not, as elsewhere
  MPO                 the first picture (many phones write their JPEGs this way)

A photo is written in the format it was read from. EXIF (camera, date, author, place), resolution, colour profile and a
PNG's gamma and primaries stay; the thumbnail, which would show the old picture, does not. What else is lost, as
comments, XMP, IPTC and the film behind a phone's photo, is in `Photo.notes`.
"""

import contextlib
import dataclasses
import errno
import io
import os
import pathlib
import stat

import numpy as np
from PIL import Image, ImagePalette, PngImagePlugin, TiffImagePlugin

from qsnet_jax import spelling, storage
from qsnet_jax.data import containers, kinds, metadata, quiet
from qsnet_jax.data.arrays import check_picture as check_picture
from qsnet_jax.data.arrays import to_float as to_float
from qsnet_jax.data.arrays import to_uint8 as to_uint8
from qsnet_jax.data.containers import MAX_PIXELS, ImageError

TGA = ('.tga', '.icb', '.vda', '.vst')
EXTENSIONS = (
    *'.jpg .jpeg .jpe .jfif .jif .jfi .pjpeg .pjp .png .bmp .dib .tif .tiff .btf .ptif .webp'.split(),
    *'.jp2 .j2k .jpf .jpx .j2c .jpc .ppm .pgm .pbm .pnm'.split(),
    *TGA,
)
COLOURED = 24  # levels between channels; JPEG moves those of a grey picture by less
JPEG_QUALITY = 95  # the highest that Pillow advises; above it files grow and little is gained

# Pillow warns above its limit and raises above twice that. Its default lies below MAX_PIXELS, so its warning would
# come for photos taken here; this package checks the size before decoding.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# Pillow's own reader takes the planes of 16-bit TIFFs for 8-bit ones, and does not check their strips.
TiffImagePlugin.READ_LIBTIFF = True
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # or a PNG with a megabyte of XMP is none for Pillow

# Never all of Pillow's: some of them run other programs.
_FORMATS = ('JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP', 'JPEG2000', 'PPM')
_EXPECTED = 'one whole JPEG, PNG, BMP, TIFF, WebP, JPEG 2000, netpbm or TGA picture'
_GREY_MODES = ('1', 'L', 'LA', 'La', 'I', 'I;16', 'I;16B', 'I;16L')
_TURN_NAMES = 'FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90'.split()
_TURNS = {orientation: Image.Transpose[name] for orientation, name in enumerate(_TURN_NAMES, 2)}  # EXIF: 2 to 8
_whole: set[tuple[int, int, int, int]] = set()  # files that were seen to be whole: device, number, size, time


@dataclasses.dataclass
class Photo:
    """One decoded file, and what `save_photo` needs to write its like."""

    rgb: np.ndarray  # uint8 (H, W, 3), upright
    alpha: np.ndarray | None  # uint8 (H, W)
    is_grey: bool
    format: str  # Pillow's name of what the content is, one of JPEG, PNG, BMP, TIFF, WEBP, JPEG2000, PPM, TGA
    icc_profile: bytes | None
    exif: bytes | None  # orientation 1, no thumbnail
    dpi: tuple[float, float] | None
    notes: tuple[str, ...]  # one short sentence for each thing the file loses
    options: dict = dataclasses.field(default_factory=dict)  # what else Pillow's encoder is told

    @classmethod
    def of_pixels(cls, pixels: np.ndarray, format: str = 'PNG') -> 'Photo':
        """A photo of uint8 (H, W, 3), or (H, W) for grey, of which nothing else is known."""
        return cls(pixels, None, pixels.ndim == 2, format, None, None, None, ())


def read(path) -> np.ndarray:
    """Decodes an image file for training or evaluation -> uint8 (H, W, 3) RGB, converted as the module says."""
    return _load(path).rgb


def read_layer(path) -> np.ndarray:
    """A rain layer, uint8 (H, W): the light that is added to all channels alike.

    Raises ImageError where it is not grey on black: transparency and colours have no place in that sum.
    """
    photo = _load(path)
    if photo.alpha is not None and photo.alpha.min() < 255:
        raise _error(path, 'has transparent parts', 'a rain layer, grey on black', 'put it on black')
    spread = int((photo.rgb.max(axis=2) - photo.rgb.min(axis=2)).max())
    if spread > COLOURED:
        raise _error(path, f'channels {spread} levels apart', 'a rain layer, grey on black', 'take out its colours')
    return np.ascontiguousarray(photo.rgb[..., 1])


def decode(content: bytes, name: str) -> np.ndarray:
    """Decodes the bytes of an image file, as `read`; errors call it `name`."""
    _check_given(content, (bytes, bytearray, memoryview), 'the bytes of an image file')
    return _load(str(name), content).rgb


def size(path) -> tuple[int, int]:
    """(height, width) of what `read` would return, from the header alone."""
    with _opened(path) as (image, _, _):
        width, height = image.size
        return (width, height) if metadata.orientation(image) in (5, 6, 7, 8) else (height, width)


def open_photo(path) -> Photo:
    """Decodes a photo with everything needed to write it back, and makes sure that it can be written back."""
    photo = _load(path)
    try:
        _encode(io.BytesIO(), np.zeros((1, 1, 3), np.uint8), dataclasses.replace(photo, alpha=None))
    except Exception:  # metadata from strangers; Pillow's encoders raise whatever they trip over
        note = 'EXIF, resolution and colour profile cannot be written again and are dropped'
        notes = (*photo.notes, note)
        photo = dataclasses.replace(photo, exif=None, dpi=None, icc_profile=None, options={}, notes=notes)
    return photo


def save_photo(path, rgb: np.ndarray, photo: Photo) -> None:
    """Writes `rgb`, uint8 (H, W, 3), to exactly `path` as `photo` was: format, grey, alpha, profile, EXIF, resolution.

    Grey is the BT.601 luma, round(0.299 R + 0.587 G + 0.114 B), which returns v for R = G = B = v. JPEG is written
    with quality 95 and no chroma subsampling; the other formats without loss, WebP, TIFF and JPEG 2000 even where the
    source was lossy: such a file grows, but nothing is lost twice.
    """
    check_picture(rgb)
    if rgb.shape != photo.rgb.shape:
        raise ValueError(f'{path}: got an image of shape {rgb.shape} for a photo of shape {photo.rgb.shape}')
    _write(path, lambda file: _encode(file, rgb, photo))


def save(path, rgb: np.ndarray) -> None:
    """Writes uint8 (H, W, 3) RGB or (H, W) grey to `path`, as PNG or JPEG by its extension."""
    if not isinstance(path, (str, os.PathLike)):
        raise ImageError(f'Got {type(path).__name__} as the path of an image; write images.save(path, image).')
    check_picture(rgb, takes_grey=True)
    formats = {'.png': 'PNG', '.jpg': 'JPEG', '.jpeg': 'JPEG'}
    extension = pathlib.Path(path).suffix.lower()
    if extension not in formats:
        raise _error(path, f'has the extension {extension!r}', 'one of ' + ', '.join(formats), 'rename the output')
    photo = Photo.of_pixels(rgb, formats[extension])
    _write(path, lambda file: _encode(file, rgb, photo))


def _error(path, found: str, expected: str, remedy: str) -> ImageError:
    """The one wording of every refusal."""
    return ImageError(f'{path}: {found}; expected {expected}; {remedy}')


@contextlib.contextmanager
def _opened(path, content: bytes | None = None):
    """The header of a file, or of its bytes, as a Pillow image, the open file, and a list of what libraries say of it.

    Whatever goes wrong, also later, is an ImageError.
    """
    if content is None:
        _check_given(path, (str, os.PathLike), 'the path of an image file')
    said: list[str] = []
    try:
        if content is None:
            _check_is_file(path)
        if spelling.extension(path) in kinds.RAW:
            raise containers.Refused('holds raw data of a camera', 'a developed photo', 'export it as TIFF or JPEG')
        with open(path, 'rb') if content is None else io.BytesIO(content) as file, quiet.python_warnings(said):
            num_bytes = file.seek(0, os.SEEK_END)
            containers.check_webp_header(file, num_bytes)
            with Image.open(file, formats=_formats(path)) as image:
                containers.check_size(image, num_bytes)
                containers.check_before(image, file, num_bytes)
                metadata.forget_xmp(image)
                yield image, file, said
    except ImageError:
        raise
    except containers.Refused as refused:
        raise _error(path, refused.found, refused.expected, refused.remedy) from refused
    except Image.DecompressionBombError as error:
        raise _error(path, f'is too large ({error})', f'at most {MAX_PIXELS} pixels', 'cut or shrink it') from error
    except Image.UnidentifiedImageError as error:
        raise _error(path, _describe(path, content), _EXPECTED, 'convert or replace it') from error
    except PermissionError as error:
        raise _error(path, 'may not be read', 'permission to read it', 'change its permissions') from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ... on damaged files
        raise _failure(path, error, said) from error


def _check_given(given, types: tuple[type, ...], expected: str) -> None:
    """Refuses what is neither a path nor content where one is expected, and names the right call."""
    if isinstance(given, types):
        return
    remedy = 'give images.read(path) or, of the bytes of a file, images.decode(content, name)'
    if isinstance(given, np.ndarray):
        remedy = 'an array is a picture already, and needs neither read nor decode'
    elif hasattr(given, 'read'):
        remedy = "give images.decode(file.read(), name) of a file that is opened by open(path, 'rb')"
    raise ImageError(f'Got {type(given).__name__}; expected {expected}; {remedy}')


def _failure(path, error: Exception, said: list[str]) -> ImageError:
    """What an exception says of a file: of the disk, of the memory, or of its content."""
    if isinstance(error, OSError) and error.errno:
        return _error(path, f'cannot be read ({os.strerror(error.errno)})', 'a disk that answers', 'look after it')
    if isinstance(error, MemoryError) or 'out of memory' in str(error):
        return _error(path, 'needs more memory than there is', 'enough for its pixels', 'free some, or shrink it')
    if missing := next((line for line in said if 'support is not configured' in line), None):
        found = f'is compressed in a way that is not supported ({missing})'
        return _error(path, found, 'deflate, LZW or no compression', 'export it with one of them')
    reasons = '; '.join([f'{type(error).__name__}: {error}', *said[:2]])
    return _error(path, f'is truncated or damaged ({reasons})', _EXPECTED, 'fetch or export it again')


def _check_is_file(path) -> None:
    """Refuses what is missing, and what would block when opened, as pipes and devices do."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        found = f'is a link to {os.readlink(path)}, which does not exist' if os.path.islink(path) else 'does not exist'
        raise _error(path, found, _EXPECTED, 'check the path') from error
    except ValueError as error:
        raise _error(path, 'has a zero byte in its name', _EXPECTED, 'check the path') from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise _error(path, 'is a link in a circle of links', _EXPECTED, 'mend or remove it') from error
    if not stat.S_ISREG(mode):
        raise _error(path, 'is not a regular file', _EXPECTED, 'check the path')


def _formats(path) -> tuple[str, ...]:
    """What a file may be. A TGA has no signature, so that its name decides whether it may be one."""
    return (*_FORMATS, 'TGA') if spelling.extension(path) in TGA else _FORMATS


def _describe(path, content: bytes | None) -> str:
    """What a file seems to be that is none of the formats read."""
    with open(path, 'rb') if content is None else io.BytesIO(content) as file:
        head = file.read(12)
    if not head:
        return 'is empty'
    if head[4:8] == b'ftyp':
        return 'is an HEIC, AVIF or video file, which is not supported'
    if head[:4] == b'GIF8':
        return 'is a GIF, which is not supported'
    if head[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'):
        return 'is a TIFF that is damaged, or whose samples or compression are not supported'
    return f'is damaged or of another kind, starts with {head!r}'


def _load(path, content: bytes | None = None) -> Photo:
    """Decodes, turns upright, converts."""
    with _opened(path, content) as (image, file, said):
        containers.check_memory(image)
        args = image.tile[0][3] if image.tile else ''
        rawmode = args if isinstance(args, str) else str(args[0])  # how samples lie in the file, as 'RGB;16B'
        is_16_bit = image.mode.startswith('I') or containers.is_deep(image, rawmode, args, file)
        orientation = metadata.orientation(image)
        turned = image.tag_v2.get(274, 1) if image.format == 'TIFF' else orientation  # which decoding takes away
        _mend(image, rawmode)
        _decode(image, file, said)
        lost_colour = image.info.pop('transparency', None) if is_16_bit else None  # Pillow would compare it as 8-bit
        is_grey = image.mode in _GREY_MODES or rawmode == 'LA;16B'
        kept = metadata.collect(image, file, turned, is_grey)
        notes = {
            f'only the first of {getattr(image, "n_frames", 1)} pictures kept': image.format == 'MPO',
            'gain map of an Ultra HDR photo dropped': containers.has_gain_map(image),
            '16-bit samples reduced to 8 bits': is_16_bit,
            'transparent colour of a 16-bit file dropped': lost_colour is not None,
            '1-bit pixels become 8-bit grey': image.mode == '1',
            'palette expanded to RGB': image.mode in ('P', 'PA'),
            'CMYK converted to RGB, its colour profile dropped': image.mode == 'CMYK',
            'a channel that is neither colour nor alpha dropped': containers.has_spare_channels(image),
            'alpha of a BMP dropped': image.format == 'BMP' and image.has_transparency_data,
        }
        lost_alpha = containers.has_undeclared_alpha(image, file)
        notes['alpha that a TGA does not declare dropped'] = lost_alpha
        turn = _TURNS.get(orientation)
        rgb, alpha = _pixels(path, image if turn is None else image.transpose(turn))
        said_of_it = [f'the decoder says: {line}' for line in dict.fromkeys(said[:3])]
        return Photo(
            rgb=rgb,
            alpha=None if image.format == 'BMP' or lost_alpha else alpha,
            is_grey=is_grey,
            format='JPEG' if image.format == 'MPO' else image.format,
            icc_profile=kept.icc_profile,
            exif=kept.exif,
            dpi=kept.dpi,
            notes=(*(note for note, applies in notes.items() if applies), *kept.notes, *said_of_it),
            options=kept.options,
        )


def _mend(image, rawmode: str) -> None:
    """Before decoding, what Pillow takes to have other units: 8-bit colour maps, as libtiff knows them, and tRNS."""
    if image.format == 'TIFF' and image.mode in ('P', 'PA') and max(image.tag_v2[320]) < 256:
        image.palette = ImagePalette.raw('RGB;L', bytes(image.tag_v2[320]))
    levels = {'L;2': 85, 'L;4': 17}.get(rawmode)  # of a sample's unit in 255
    if image.format == 'PNG' and levels and 'transparency' in image.info:
        image.info['transparency'] *= levels


def _decode(image, file, said: list[str]) -> None:
    """Decodes all pixels; raises Refused where some of them are missing."""
    lines: list[str] = []
    try:
        with quiet.printed(lines) if image.format == 'TIFF' else contextlib.nullcontext():
            image.load()
    finally:
        said += lines
    for line in lines:
        if 'Warning, ' not in line or 'remature' in line:  # errors that Pillow does not ask for
            raise containers.incomplete(line)
    identity = _identity(file)
    if identity not in _whole:
        containers.check_after(image, file, _FORMATS)
        if identity:
            _whole.add(identity)


def _identity(file) -> tuple[int, int, int, int] | None:
    """Tells the content of an open file from others; None for bytes in memory."""
    try:
        status = os.fstat(file.fileno())
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _pixels(path, image) -> tuple[np.ndarray, np.ndarray | None]:
    """uint8 (H, W, 3) and the alpha channel, if any, of a decoded image."""
    if image.mode in ('F', 'LAB'):  # floating point, CIE Lab
        raise _error(path, f'holds {image.mode} samples', '8 or 16-bit grey, RGB or CMYK', 'export it as 8-bit RGB')
    if image.mode.startswith('I'):
        grey = _grey_to_8_bit(path, np.asarray(image), getattr(image, 'tag_v2', {}))
        return np.stack([grey] * 3, axis=-1), None
    if not image.has_transparency_data:
        return np.array(image.convert('RGB')), None
    rgba = np.array((image.convert('LA') if image.mode == 'La' else image).convert('RGBA'))
    return np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])


def _grey_to_8_bit(path, values: np.ndarray, tags) -> np.ndarray:
    """Integer samples (H, W) -> uint8, rounded; `tags` are a TIFF's, for Pillow hands 16-bit TIFFs over as they lie."""
    peak = 4095 if tags.get(258) == (12,) else 65535  # BitsPerSample
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > peak:
        raise _error(path, f'holds integers from {low} to {high}', f'0 to {peak}', 'export it as 8 or 16-bit grey')
    if tags.get(262) == 0:  # PhotometricInterpretation: white is zero
        values = peak - values
    return ((values.astype(np.uint32) * 255 + peak // 2) // peak).astype(np.uint8)


def _encode(file, rgb: np.ndarray, photo: Photo) -> None:
    """Writes one picture to an open file in the format, and with the alpha and metadata, of `photo`."""
    image = Image.fromarray(rgb)
    if photo.is_grey:
        image = image.convert('L')
    if photo.alpha is not None:
        image.putalpha(Image.fromarray(photo.alpha))
    options: dict = {'icc_profile': photo.icc_profile, 'exif': photo.exif, 'dpi': photo.dpi}
    options = {key: value for key, value in options.items() if value} | photo.options
    if photo.format == 'JPEG':
        options |= {'quality': JPEG_QUALITY, 'subsampling': 0}
    if photo.format == 'TIFF':  # Pillow cannot compress a TIFF that has EXIF
        options |= {'compression': 'raw' if photo.exif else 'tiff_deflate'}
        options |= {'exif': metadata.for_tiff(photo.exif)} if photo.exif else {}
    if photo.format == 'WEBP':  # exact: keep colours where alpha is 0
        options |= {'lossless': True, 'exact': True}
    image.save(file, photo.format, **options)


def _write(path, encode) -> None:
    """Calls `encode(file)` on a temporary file beside `path` and renames it; never leaves half a file."""
    path = pathlib.Path(path)
    temporary = storage.temporary_path(path)
    try:
        with open(temporary, 'xb') as file:
            encode(file)
        os.replace(temporary, path)
    except Exception as error:
        reason = getattr(error, 'strerror', None) or f'{type(error).__name__}: {error}'
        remedy = 'check that the folder exists, its permissions and the disk'
        raise _error(path, f'cannot be written ({reason})', 'a writable folder with free space', remedy) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
