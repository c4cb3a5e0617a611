"""Lossless entropy coding of weights, and the archive `.onnxz` that holds a model so coded (docs/archive.md).

`code` makes canonical Huffman codes, `plane` codes bytes with them, `array` splits the elements of an array into
planes, `native` decodes through C where a compiler was there, `wire` finds the tensors in a serialised model, `layout`
is the frame of an archive, `pack` writes one and `archive` reads one.
"""

from .archive import Archive, unpack
from .array import decode, encode
from .pack import pack

__all__ = ["Archive", "decode", "encode", "pack", "unpack"]
