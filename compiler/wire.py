"""A look at the bytes of a protobuf before anything parses them: is it whole, and what will it cost in memory?

The parser allocates an object for every two bytes of a file that wants it to. This walk allocates nothing, follows the fields
that the schema (protobuf's own descriptor) declares as messages, and stops at the first limit.
"""

from __future__ import annotations

from functools import cache
from typing import NoReturn

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from onnx import ModelProto, NodeProto

from .errors import ImportRefused
from .limits import Deadline, Limits, gib

MESSAGE_BYTES = 128         # about what an empty message takes once parsed
NUMBER_BYTES = 8
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LOOK_AT_THE_CLOCK = 1 << 16
AS_IT_IS = (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE)


def scan(data: bytes, limits: Limits, deadline: Deadline) -> None:
    """Raises ImportRefused where `data` is not a whole ModelProto, or is past a limit. About 2 million fields a second."""
    node = NodeProto.DESCRIPTOR
    messages = _messages(ModelProto.DESCRIPTOR)
    at, end, kind, stack = 0, len(data), ModelProto.DESCRIPTOR, list[tuple[int, Descriptor]]()
    inner, plain = messages[kind]
    nodes = fields = decoded = 0
    while True:
        while at == end:
            if not stack:
                return
            end, kind = stack.pop()
            inner, plain = messages[kind]
        fields += 1
        if fields % LOOK_AT_THE_CLOCK == 0:
            deadline.check()
            if fields > limits.fields:
                raise ImportRefused(f"has more than {limits.fields} protobuf fields")
        begin = at
        tag, at = (data[at], at + 1) if data[at] < 128 else _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if number == 0 or wire not in (VARINT, FIXED64, BYTES, FIXED32):
            _corrupt(begin, "is no protobuf field")
        if wire != BYTES:
            if wire == VARINT:
                _, at = _varint(data, at, end)
            else:
                at += 8 if wire == FIXED64 else 4
            decoded += NUMBER_BYTES
            if at > end:
                _corrupt(begin, f"begins a number that ends {at - end} bytes past its end")
            continue
        length, at = _varint(data, at, end)
        if at + length > end:
            _corrupt(begin, f"begins a field of {length} bytes, {end - at} are left")
        sub = inner.get(number)
        if sub is not None:
            decoded += MESSAGE_BYTES
            nodes += sub is node
            if nodes > limits.nodes:
                raise ImportRefused(f"has more than {limits.nodes} nodes")
            stack.append((end, kind))
            if len(stack) > limits.nesting:
                raise ImportRefused(f"is nested deeper than {limits.nesting} protobuf messages")
            end, kind = at + length, sub
            inner, plain = messages[kind]
        else:
            cost = plain.get(number, 1)
            if cost is None:
                cost = 1
                decoded += 2 * NUMBER_BYTES
                if not _is_text(data, at, length):
                    _corrupt(begin, "begins a name that is not UTF-8 text")
            decoded += cost * length
            at += length
        if decoded > limits.decoded:
            raise ImportRefused(f"would take more than {gib(limits.decoded)} of memory")


@cache
def _messages(root: Descriptor) -> dict[Descriptor, tuple[dict[int, Descriptor], dict[int, int | None]]]:
    """For each kind of message: its fields that are messages; and of the others, if they have a length, the bytes in memory for
    each byte in the file (packed numbers have at least one byte each), None for text."""
    found: dict[Descriptor, tuple[dict[int, Descriptor], dict[int, int | None]]] = {}
    todo = [root]
    while todo:
        kind = todo.pop()
        if kind not in found:
            inner = {n: f.message_type for n, f in kind.fields_by_number.items() if f.message_type is not None}
            found[kind] = inner, {n: None if f.type == FieldDescriptor.TYPE_STRING else 1 if f.type in AS_IT_IS else NUMBER_BYTES
                                  for n, f in kind.fields_by_number.items() if n not in inner}
            todo += inner.values()
    return found


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of at most ten groups of seven bits, low ones first, and where it ends."""
    begin, value, shift = at, 0, 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    return _corrupt(begin, "begins a number that does not end")


def _is_text(data: bytes, at: int, length: int) -> bool:
    piece = data[at:at + length]
    if piece.isascii():
        return True
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def _corrupt(at: int, why: str) -> NoReturn:
    raise ImportRefused(f"is truncated, corrupt or not ONNX: byte {at} {why}")
