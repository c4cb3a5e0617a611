"""The names of an object file that are not for others: LLVM adds functions of its own, which two libraries would share.

    kernels0.o:  _onnxc3net_0_kernel0  __truncsfhf2 (weak)   ->   _onnxc3net_0_kernel0  _onnxc3net_0__truncsfhf2

TVM gives every module half-precision conversions under the names of libgcc. Linked statically, they would take the place of
libgcc's, whose arguments are passed otherwise, in the whole program. Objects are ELF (32 or 64 bits, little-endian), where
such symbols get a prefix, or WebAssembly, where they become local. Formats: the System V ABI's chapters on object files;
WebAssembly's tool conventions, Linking.md.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator

_SYMTAB, _LOCAL = 2, 0  # of ELF: the type of a symbol table, the binding of local symbols
_DATA, _SECTION = 1, 3  # of WebAssembly: kinds of symbols
_WEAK, _IS_LOCAL, _UNDEFINED, _EXPLICIT = 1, 2, 0x10, 0x40  # and their flags


def keep_private(data: bytes, prefix: str, public: Collection[str]) -> bytes:
    """The object file `data` whose defined global symbols but `public` bear `prefix`, or are local."""
    if data[:4] == b"\0asm":
        return _localised(bytearray(data), public)
    assert data[:4] == b"\x7fELF" and data[5] == 1, "an object of another format"
    return _renamed(bytearray(data), prefix, public)


def _renamed(data: bytearray, prefix: str, public: Collection[str]) -> bytes:
    """ELF: new names stand in a longer table of strings at the end of the file."""
    wide = data[4] == 2
    form, entry = ("<IIQQQQIIQQ", "<IBBHQQ") if wide else ("<IIIIIIIIII", "<IIIBBH")
    start = struct.unpack_from("<Q", data, 40)[0] if wide else struct.unpack_from("<I", data, 32)[0]
    size, count, _ = struct.unpack_from("<HHH", data, 58 if wide else 46)
    rows = [list(struct.unpack_from(form, data, start + i * size)) for i in range(count)]
    for _, kind, _, _, offset, length, link, _, _, step in rows:
        if kind != _SYMTAB:
            continue
        strings = rows[link]
        table = bytes(data[strings[4] : strings[4] + strings[5]])
        more = b""
        for at in range(offset, offset + length, step):
            symbol = list(struct.unpack_from(entry, data, at))
            info, section = (symbol[1], symbol[3]) if wide else (symbol[3], symbol[5])
            name = table[symbol[0] : table.index(0, symbol[0])].decode()
            if info >> 4 != _LOCAL and section and name not in public:
                symbol[0] = len(table) + len(more)
                more += f"{prefix}{name}\0".encode()
                struct.pack_into(entry, data, at, *symbol)
        if more:
            strings[4], strings[5] = len(data), len(table) + len(more)
            data += table + more
            struct.pack_into(form, data, start + link * size, *strings)
    return bytes(data)


def _localised(data: bytearray, public: Collection[str]) -> bytes:
    """WebAssembly: the flags of the symbols in the section `linking` are changed where they stand."""
    for at, flags, name in _wasm_symbols(data):
        if not flags & (_UNDEFINED | _IS_LOCAL) and name not in public:
            data[at] = flags & ~_WEAK & 0x7F | _IS_LOCAL | data[at] & 0x80
    return bytes(data)


def _wasm_symbols(data: bytes | bytearray) -> Iterator[tuple[int, int, str]]:
    """(where its flags stand, flags, name) of each symbol of functions, data, globals and tables."""
    at = 8
    while at < len(data):
        section = data[at]
        size, at = _leb(data, at + 1)
        end = at + size
        if section == 0:
            name, inside = _text(data, at)
            if name == "linking":
                _, inside = _leb(data, inside)  # version
                while inside < end:
                    kind, (size, first) = data[inside], _leb(data, inside + 1)
                    if kind == 8:  # the symbol table
                        yield from _wasm_table(data, first)
                    inside = first + size
        at = end


def _wasm_table(data: bytes | bytearray, at: int) -> Iterator[tuple[int, int, str]]:
    count, at = _leb(data, at)
    for _ in range(count):
        kind, place = data[at], at + 1
        flags, at = _leb(data, place)
        if kind == _SECTION:
            _, at = _leb(data, at)
            continue
        name = ""
        if kind == _DATA:
            name, at = _text(data, at)
            for _ in range(0 if flags & _UNDEFINED else 3):  # segment, offset, size
                _, at = _leb(data, at)
        else:
            _, at = _leb(data, at)
            if not flags & _UNDEFINED or flags & _EXPLICIT:
                name, at = _text(data, at)
        yield place, flags, name


def _text(data: bytes | bytearray, at: int) -> tuple[str, int]:
    size, at = _leb(data, at)
    return bytes(data[at : at + size]).decode(), at + size


def _leb(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number at `at`, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
