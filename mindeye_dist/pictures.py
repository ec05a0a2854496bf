"""Pictures: files of a folder or tar -> square RGB pictures and their JPEG bytes."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image
from torch.nn.functional import interpolate

from mindeye_dist.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_PIXELS = 2**26
# Pillow raises these by itself for headers that declare still larger pictures.
_PILLOW_SIZE_ALARMS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
SMALL_SIDE = 32
JPEG_QUALITY = 92
THUMBNAIL_SIDE = 16
COPY_TOLERANCE = 8.0
"""Root of the mean squared difference of two thumbnails (of 255) up to which one is a copy.

Seen: 6.3 for photos made 64 pixels wide at JPEG quality 50, 2.5 for 120 pixels; 19 is the least of
300 different scenes, 22 of 300 photos."""


class PictureFiles:
    """The JPEG and PNG files of a folder, at any depth, or of a tar; read one at a time.

    Raises:
        DataError: there is no such folder or tar, or a file cannot be read.
    """

    def __init__(self, source: Path) -> None:
        self._source = source
        self._tar: tarfile.TarFile | None = None
        if source.is_dir():
            files = (path for path in source.rglob("*") if path.is_file())
            names = [str(path.relative_to(source)) for path in files]
        else:
            try:
                self._tar = tarfile.open(source)  # noqa: SIM115 - closed by __exit__
                names = [entry.name for entry in self._tar if entry.isfile()]
            except (OSError, EOFError, tarfile.TarError) as error:
                message = f"{source}: neither a folder nor a tar of pictures: {error}"
                raise DataError(message) from error
        self.names = sorted(name for name in names if name.lower().endswith(SUFFIXES))

    def __enter__(self) -> "PictureFiles":
        return self

    def __exit__(self, *_: object) -> None:
        if self._tar is not None:
            self._tar.close()

    def read(self, name: str) -> bytes:
        """Return one file's bytes."""
        try:
            if self._tar is None:
                return (self._source / name).read_bytes()
            file = self._tar.extractfile(name)
            return file.read() if file is not None else b""
        except (OSError, EOFError, tarfile.TarError) as error:
            raise DataError(f"{self._source}: {name}: cannot be read: {error}") from error


def decode(data: bytes, where: str) -> UInt8[np.ndarray, "height width 3"]:
    """Decode the bytes of a JPEG or PNG file to RGB.

    Raises:
        DataError: the bytes cannot be decoded, or declare more than `MAX_PIXELS` pixels; names
            `where`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise DataError(
                    f"{where}: {width} x {height} pixels, expected at most {MAX_PIXELS}"
                )
            # RGBA first: a palette with transparency has no direct way to RGB.
            return np.array(picture.convert("RGBA").convert("RGB"))
    except (OSError, SyntaxError, ValueError, *_PILLOW_SIZE_ALARMS) as error:
        raise DataError(f"{where}: cannot be read as a picture: {error}") from error


def square_jpeg(data: bytes, side: int, where: str) -> bytes:
    """Return a picture's central square, `side` pixels wide, as JPEG; such a JPEG is left alone."""
    rgb = decode(data, where)
    height, width = rgb.shape[:2]
    if height == width == side and data.startswith(b"\xff\xd8"):
        return data
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    picture = Image.fromarray(rgb[top : top + edge, left : left + edge])
    return encode_jpeg(np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS)))


def thumbnail(rgb: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "16 16 3"]:
    """Return a picture's central square, averaged down, by which copies are recognised."""
    height, width = rgb.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = Image.fromarray(rgb[top : top + edge, left : left + edge])
    # Not a box: where its cells do not divide the picture evenly, they move by half a pixel.
    return np.asarray(square.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR))


def copies_among(
    thumbnails: UInt8[np.ndarray, "held 16 16 3"], shown: UInt8[np.ndarray, "shown 16 16 3"]
) -> Bool[np.ndarray, " held"]:
    """Return a mask of the pictures that are copies of a shown one (`COPY_TOLERANCE`)."""
    held = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    seen = shown.reshape(len(shown), -1).astype(np.float32)
    squares = (held**2).sum(1)[:, None] + (seen**2).sum(1) - 2 * held @ seen.T
    return np.any(squares <= COPY_TOLERANCE**2 * held.shape[1], axis=1)


def encode_jpeg(rgb: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Return a picture as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def encode_png(rgb: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Return a picture as PNG, which loses nothing."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def small(rgb: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "32 32 3"]:
    """Return the small picture that the simulator's low-level features are taken from."""
    picture = Image.fromarray(rgb).resize((SMALL_SIDE, SMALL_SIDE), Image.Resampling.BOX)
    return np.asarray(picture)


RgbPictures = UInt8[np.ndarray, "pictures side side 3"]


def as_unit(rgb: UInt8[np.ndarray, "*count height width 3"]) -> Float32[np.ndarray, "..."]:
    """Return 8-bit pictures as (..., 3, height, width) in [0, 1]."""
    return np.moveaxis(rgb, -1, -3).astype(np.float32) / 255


def as_bytes(images: Float[np.ndarray, "pictures 3 height width"]) -> RgbPictures:
    """Return pictures in [0, 1] as 8-bit ones, colours last."""
    return np.moveaxis((images * 255).round().clip(0, 255).astype(np.uint8), 1, -1)


def sized(
    images: Float[np.ndarray, "pictures 3 height width"], side: int
) -> Float32[np.ndarray, "pictures 3 side side"]:
    """Return pictures scaled to `side` x `side`, filtered where they become smaller."""
    scaled = interpolate(
        torch.from_numpy(images).float(), (side, side), mode="bilinear", antialias=True
    )
    return scaled.clamp(0, 1).numpy()
