"""Reads what the packager must know of WebAssembly binaries (core specification, section 5.5: modules; for the symbols of object
files, tool-conventions/Linking.md)."""

from __future__ import annotations

from collections.abc import Iterator

MAGIC = b"\0asm\1\0\0\0"
CUSTOM, IMPORTS, GLOBALS, EXPORTS, CODE = 0, 2, 6, 7, 10    # section numbers
FUNCTION, TABLE, MEMORY, GLOBAL = range(4)                  # kinds of imports and exports
SYMBOL_TABLE = 8                                            # part of the custom section "linking"
DATA_SYMBOL, SECTION_SYMBOL = 1, 3
UNDEFINED, EXPLICIT_NAME = 0x10, 0x40                       # flags of a symbol
I32_CONST = 0x41
RELAXED_DOTS = (b"\xfd\x92\x02", b"\xfd\x93\x02")    # i16x8.relaxed_dot_i8x16_i7x16_s and i32x4.relaxed_dot_i8x16_i7x16_add_s


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


def function_sizes(data: bytes) -> list[int]:
    """Bytes of each function's body."""
    sizes = []
    content = dict(sections(data)).get(CODE, b"\0")
    count, at = unsigned(content, 0)
    for _ in range(count):
        size, at = unsigned(content, at)
        sizes.append(size)
        at += size
    return sizes


def code_bytes(data: bytes, symbol: str) -> int:
    """Size of the function `symbol` of an object file; 0 where there is none. (TVM adds conversions of halves to each object.)"""
    number = function_symbols(data).get(symbol)
    return 0 if number is None else function_sizes(data)[number - imported_functions(data)]


def has_relaxed_dot(data: bytes) -> bool:
    """Does the code use relaxed dot products? Seldom true where it does not: where an immediate looks like one."""
    code = dict(sections(data)).get(CODE, b"")
    return any(dot in code for dot in RELAXED_DOTS)


def imported_functions(data: bytes) -> int:
    """How many: functions are numbered after those."""
    content = dict(sections(data)).get(IMPORTS, b"\0")
    count, at = unsigned(content, 0)
    functions = 0
    for _ in range(count):
        for _ in ("module", "field"):
            size, at = unsigned(content, at)
            at += size
        kind, at = content[at], at + 1
        functions += kind == FUNCTION
        if kind == GLOBAL:              # type, mutability
            at += 2
        elif kind == FUNCTION:          # type
            _, at = unsigned(content, at)
        else:                           # limits, of a table after its type
            at += kind == TABLE
            bounded, at = content[at], at + 1
            for _ in range(1 + (bounded & 1)):
                _, at = unsigned(content, at)
    return functions


def function_symbols(data: bytes) -> dict[str, int]:
    """Number of each function that an object file defines, by symbol."""
    found: dict[str, int] = {}
    for kind, content in sections(data):
        if kind != CUSTOM or not content.startswith(b"\x07linking"):
            continue
        _, at = unsigned(content, 8)    # version
        while at < len(content):
            part, (size, start) = content[at], unsigned(content, at + 1)
            if part == SYMBOL_TABLE:
                found |= symbols(content[start:start + size])
            at = start + size
    return found


def symbols(content: bytes) -> dict[str, int]:
    """The functions of a symbol table."""
    found: dict[str, int] = {}
    count, at = unsigned(content, 0)
    for _ in range(count):
        kind = content[at]
        flags, at = unsigned(content, at + 1)
        number = 0
        if kind != DATA_SYMBOL:
            number, at = unsigned(content, at)
        if kind == DATA_SYMBOL or (kind != SECTION_SYMBOL and (not flags & UNDEFINED or flags & EXPLICIT_NAME)):
            size, at = unsigned(content, at)
            name, at = content[at:at + size].decode(errors="replace"), at + size
            if kind == FUNCTION and not flags & UNDEFINED:
                found[name] = number
        if kind == DATA_SYMBOL and not flags & UNDEFINED:
            for _ in ("segment", "offset", "size"):
                _, at = unsigned(content, at)
    return found


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
        if here == name.encode() and kind == GLOBAL:
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
