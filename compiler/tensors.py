"""Tensors of an untrusted model: is the data there that the dims promise? External data is read in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import onnx
import onnx_ir as ir
from onnx import TensorProto

from .errors import ImportRefused
from .files import DataFolder
from .limits import Limits, gib, quoted

TYPES = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum"})
TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
FIELD_OF: Mapping[int, str] = {
    TensorProto.FLOAT: "float_data", TensorProto.COMPLEX64: "float_data", TensorProto.DOUBLE: "double_data",
    TensorProto.COMPLEX128: "double_data", TensorProto.INT64: "int64_data", TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data", TensorProto.STRING: "string_data"}        # all others: int32_data


class Tensors:
    """Checks tensors one after another and counts their bytes. Errors do not name the tensor: the caller knows where it is."""

    def __init__(self, folder: DataFolder, limits: Limits, used: int) -> None:
        self.folder, self.limits = folder, limits
        self.left = limits.total - used

    def check(self, t: onnx.TensorProto) -> None:
        """Raises ImportRefused unless dims, dtype and data fit together. Afterwards the data is in the tensor itself."""
        if t.data_type not in TYPES:
            raise ImportRefused(f"has the unknown dtype {t.data_type}")
        if t.HasField("segment"):
            raise ImportRefused("is stored in segments, which burnish does not read")
        count = elements(t.dims, self.limits)
        if t.data_type == TensorProto.STRING:
            size = sum(map(len, t.string_data))
            if t.data_location == TensorProto.EXTERNAL:
                raise ImportRefused("has text as external data, which ONNX does not have")
        else:
            size = -(-count * ir.DataType(t.data_type).bitwidth // 8)
        if size > self.limits.tensor:
            raise ImportRefused(f"takes {gib(size)}; at most {gib(self.limits.tensor)} are allowed")
        if t.data_location == TensorProto.EXTERNAL:
            self._read_external(t, size)
        elif t.data_location != TensorProto.DEFAULT or t.external_data:
            raise ImportRefused("has external data, but does not say so (data_location)")
        filled = [f for f in TYPED_FIELDS if len(getattr(t, f))]
        if t.HasField("raw_data"):
            if filled or t.data_type == TensorProto.STRING:
                raise ImportRefused(f"has its data twice, in raw_data and in {filled[0] if filled else 'no'} field")
            if len(t.raw_data) != size:
                raise ImportRefused(f"of shape {list(t.dims)} takes {size} bytes, but has {len(t.raw_data)}")
            return
        field = FIELD_OF.get(t.data_type, "int32_data")
        if filled not in ([], [field]):
            raise ImportRefused(f"of dtype {TensorProto.DataType.Name(t.data_type)} has its data in {filled[0]}, not in {field}")
        wanted, got = stored(t.data_type, count), len(getattr(t, field))
        if wanted != got:
            raise ImportRefused(f"of shape {list(t.dims)} needs {wanted} entries of {field}, but has {got}")

    def _read_external(self, t: onnx.TensorProto, size: int) -> None:
        entries = [(e.key, e.value) for e in t.external_data]
        found = dict(entries)
        odd = sorted(found.keys() - EXTERNAL_KEYS)
        if odd:
            raise ImportRefused(f"has external data with the unknown key {quoted(odd[0])}")
        if len(found) != len(entries):
            raise ImportRefused("has external data with the same key twice")
        if t.HasField("raw_data") or any(len(getattr(t, f)) for f in TYPED_FIELDS):
            raise ImportRefused("has its data twice, in the model and as external data")
        offset, length = (_number(found, key, default) for key, default in (("offset", 0), ("length", size)))
        if length != size:
            raise ImportRefused(f"of shape {list(t.dims)} takes {size} bytes, but has {length} bytes of external data")
        self.left -= size
        if self.left < 0:
            raise ImportRefused(f"with its external data takes the model past {gib(self.limits.total)}")
        t.raw_data = self.folder.read(found.get("location", ""), offset, length)
        t.ClearField("external_data")
        t.ClearField("data_location")


def elements(dims: object, limits: Limits) -> int:
    """How many, as a Python number, which does not overflow."""
    known = [int(d) for d in dims]      # type: ignore[attr-defined]
    if len(known) > limits.rank:
        raise ImportRefused(f"has {len(known)} dimensions; at most {limits.rank} are allowed")
    if any(d < 0 for d in known):
        raise ImportRefused(f"has a negative dimension: {known}")
    return math.prod(known)


def stored(data_type: int, count: int) -> int:
    """Entries of the typed field that hold `count` elements: complex numbers take two, those of 2 and 4 bits share a byte."""
    if data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        return 2 * count
    bits = 8 if data_type == TensorProto.STRING else ir.DataType(data_type).bitwidth
    return -(-count * bits // 8) if bits in (2, 4) else count


def _number(entries: Mapping[str, str], key: str, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ImportRefused(f"has external data whose {key} is {quoted(text)}, not a number of bytes")
    return int(text)
