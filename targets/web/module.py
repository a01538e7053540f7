"""Reads what the packager must know of a WebAssembly binary (core specification, section 5.5: modules)."""

from __future__ import annotations

from collections.abc import Iterator

MAGIC = b"\0asm\1\0\0\0"
GLOBALS, EXPORTS, CODE = 6, 7, 10       # section numbers
GLOBAL_KIND = 3                         # of an export
I32_CONST = 0x41


def unsigned(data: bytes, at: int) -> tuple[int, int]:
    """(LEB128 number at `at`, where it ends)."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def sections(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, content) of each section. Raises ValueError where the data is no WebAssembly."""
    if not data.startswith(MAGIC):
        raise ValueError("not a WebAssembly binary")
    at = len(MAGIC)
    while at < len(data):
        size, start = unsigned(data, at + 1)
        yield data[at], data[start:start + size]
        at = start + size


def code_bytes(data: bytes) -> int:
    """Size of all functions of a module or object file."""
    total = 0
    for kind, content in sections(data):
        if kind == CODE:
            count, at = unsigned(content, 0)
            for _ in range(count):
                size, at = unsigned(content, at)
                total, at = total + size, at + size
    return total


def exported_address(data: bytes, name: str) -> int:
    """Value of an exported constant i32 global, as an address. Raises ValueError where there is none. The module must not import
    globals, as ours do not: numbers of globals would begin with those."""
    found = dict(sections(data))
    count, at = unsigned(found.get(EXPORTS, b"\0"), 0)
    for _ in range(count):
        size, at = unsigned(found[EXPORTS], at)
        here, at = found[EXPORTS][at:at + size], at + size
        kind = found[EXPORTS][at]
        number, at = unsigned(found[EXPORTS], at + 1)
        if here == name.encode() and kind == GLOBAL_KIND:
            return constants(found[GLOBALS])[number]
    raise ValueError(f"the module does not export {name}")


def constants(content: bytes) -> list[int]:
    """The start values of a section of i32 globals, as addresses: each is type, mutability, i32.const, value, end."""
    count, at = unsigned(content, 0)
    values = []
    for _ in range(count):
        if content[at + 2] != I32_CONST:
            raise ValueError("a global is not a constant i32")
        value, end = unsigned(content, at + 3)
        bits = 7 * (end - at - 3)
        negative = bits < 32 and value >> (bits - 1) & 1
        values.append((value - (1 << bits) if negative else value) % (1 << 32))
        at = end + 1
    return values
