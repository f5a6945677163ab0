"""Files that were made to be misread."""

import struct
import zlib
from pathlib import Path

from PIL import Image

from tests.data.trees import smooth


def png(height: int, width: int, depth: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG of any depth and colour type (0: grey, 2: RGB, 4: grey with alpha, 6: RGBA)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    )


def write_turned_jpeg(path: Path, height: int, width: int, orientation: int) -> Path:
    """A JPEG whose EXIF has an orientation, and a resolution that is a text where a fraction should be."""
    tags = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + struct.pack("<HHI4s", 0x011A, 2, 3, b"72\0\0")
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + tags + bytes(4)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(smooth(1, height, width)).save(path, exif=exif, quality=95)
    return path


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 30 20
%%EndComments
showpage
%%EOF
"""
