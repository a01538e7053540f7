"""saturate(round_half_even(x) + zero) of float32, as QuantizeLinear ends: whole vectors, and several of them to one of bytes.

Inside `T.vectorized` code is scalar, so a kernel first holds a call that VectorizeLoop widens (`quantize`); when vectors have
their lanes, `lowered` puts in its place what the device does best. Rounding: to a number below 2^22 in size 1.5 * 2^23 is added,
whose last bits then hold the rounded number; where a device packs with saturation, its own conversion.

Zen 5, from int32 in L1, scaled and shifted, ns for 16 elements: 0.74 with round, clip and cast of their own, 0.62 by that sum,
0.49 packed (0.40 for the floats alone).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Call
from tvm.tirx.script import builder as T

from ..device import Device
from .forms import PrimExpr, dtype_of, hold, known, like, wide

LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535)}
_PLACEHOLDER = "llvm.fptosi.sat"
_MAGIC, _MAGIC_BITS = 1.5 * 2**23, 0x4B400000


def quantize(x: PrimExpr, zero: PrimExpr, dtype: str) -> PrimExpr:
    """x: float32; zero: int32 within the limits of `dtype`."""
    return T.call_llvm_pure_intrin(wide(dtype, dtype_of(x)[1]), _PLACEHOLDER, hold(x), zero)


def lowered(mod: Any, device: Device) -> Any:
    """The module with real instructions in place of what `quantize` gave."""
    number = int(T.call_llvm_pure_intrin("int32", _PLACEHOLDER, T.float32(0)).args[0])

    def replace(call: Any) -> Any:
        if getattr(call.op, "name", "") != "tirx.call_llvm_pure_intrin" or known(call.args[0]) != number:
            return call
        dtype, lanes = dtype_of(call)
        pack = _packing(device, dtype, lanes, known(call.args[2]))
        return (pack or _clipped)(call.args[1], call.args[2], dtype)

    return tvm.IRModule({gv: tvm_ffi.structural_map(f, (Call, replace), order="post") for gv, f in mod.functions.items()})


def _clipped(x: PrimExpr, zero: PrimExpr, dtype: str) -> PrimExpr:
    """With what every device has. The limits less the zero point are exact in float32."""
    integers = wide("int32", dtype_of(x)[1])
    low, high = (_less(limit, zero, x) for limit in LIMITS[dtype])
    rounded = T.min(high, T.max(low, x)) + like(_MAGIC, x)
    return (T.reinterpret(integers, rounded) + (zero - like(_MAGIC_BITS, zero))).astype(wide(dtype, dtype_of(x)[1]))


def _less(limit: int, zero: PrimExpr, x: PrimExpr) -> PrimExpr:
    """limit - zero, as x is."""
    value = known(zero)
    return like(limit - value, x) if value is not None else (like(limit, zero) - zero).astype(wide(*dtype_of(x)))


# ---- Several vectors to one of bytes -----------------------------------------------------------------------------------------

# By bytes of a register: conversion to int32 by rounding, two vectors of int32 to one of int16, two of int16 to one of bytes.
_X86 = {
    16: ("llvm.x86.sse2.cvtps2dq", "llvm.x86.sse2.packssdw.128", {"uint8": "llvm.x86.sse2.packuswb.128",
                                                                    "int8": "llvm.x86.sse2.packsswb.128"}),
    32: ("llvm.x86.avx.cvt.ps2dq.256", "llvm.x86.avx2.packssdw", {"uint8": "llvm.x86.avx2.packuswb",
                                                                  "int8": "llvm.x86.avx2.packsswb"}),
    64: ("llvm.x86.avx512.mask.cvtps2dq.512", "llvm.x86.avx512.packssdw.512", {"uint8": "llvm.x86.avx512.packuswb.512",
                                                                               "int8": "llvm.x86.avx512.packsswb.512"}),
}
_WASM = ("llvm.wasm.narrow.signed", {"uint8": "llvm.wasm.narrow.unsigned", "int8": "llvm.wasm.narrow.signed"})


def _packing(device: Device, dtype: str, lanes: int, zero: float | int | None
             ) -> Callable[[PrimExpr, PrimExpr, str], PrimExpr] | None:
    """How `lanes` elements are packed on the device; None where nothing is better than `_clipped`."""
    if dtype not in _WASM[1] or zero is None or lanes % device.lanes or lanes > 4 * device.lanes:
        return None
    if device.arch == "x86_64" and lanes > device.lanes and (device.lanes < 16 or "avx512bw" in device.isa):
        return lambda x, zero, dtype: _packed_x86(x, int(known(zero) or 0), dtype, device.lanes)
    if device.arch == "wasm32":
        return lambda x, zero, dtype: _packed_wasm(x, int(known(zero) or 0), dtype)
    return None


def _parts(x: PrimExpr, lanes: int) -> list[PrimExpr]:
    """The vectors of `lanes` that x consists of."""
    return [tirx.Shuffle([x], list(range(at, at + lanes))) for at in range(0, dtype_of(x)[1], lanes)]


def _packed_x86(x: PrimExpr, zero: int, dtype: str, lanes: int) -> PrimExpr:
    """Large numbers would become the least integer, and are clipped; small ones do so, and are saturated."""
    convert, halve, quarter = _X86[4 * lanes]
    integers = [_rounded(convert, T.min(like(2.0**30, part), part)) for part in _parts(x, lanes)]
    words = [T.call_llvm_pure_intrin(f"int16x{2 * lanes}", halve, *integers[n:n + 2]) for n in range(0, len(integers), 2)]
    if zero:
        add = f"llvm.sadd.sat.v{2 * lanes}i16"
        words = [T.call_llvm_pure_intrin(f"int16x{2 * lanes}", add, w, like(zero, w)) for w in words]
    packed = T.call_llvm_pure_intrin(wide(dtype, 4 * lanes), quarter[dtype], words[0], words[-1])
    if lanes == 4:      # a register of 128 bits is packed in order, and so are its halves
        return packed if len(words) == 2 else tirx.Shuffle([packed], list(range(2 * lanes)))
    # Packing works within each 128 bits, where four bytes of each register stand behind each other.
    order = [4 * part + register for register in range(dtype_of(x)[1] // lanes) for part in range(lanes // 4)]
    fours = tirx.Shuffle([T.reinterpret(f"int32x{lanes}", packed)], order)
    return T.reinterpret(wide(dtype, dtype_of(x)[1]), fours)


def _rounded(convert: str, x: PrimExpr) -> PrimExpr:
    integers = wide("int32", dtype_of(x)[1])
    if "mask" not in convert:
        return T.call_llvm_pure_intrin(integers, convert, x)
    return T.call_llvm_pure_intrin(integers, convert, x, like(0, T.reinterpret(integers, x)), T.int16(-1), T.int32(4))


def _packed_wasm(x: PrimExpr, zero: int, dtype: str) -> PrimExpr:
    low, high = (limit - zero for limit in LIMITS[dtype])
    sums = [T.min(like(high, p), T.max(like(low, p), p)) + like(_MAGIC, p) for p in _parts(x, 4)]
    integers = [i - like(_MAGIC_BITS - zero, i) for i in (T.reinterpret("int32x4", s) for s in sums)]
    pairs = [(integers[n], integers[min(n + 1, len(integers) - 1)]) for n in range(0, len(integers), 2)]
    words = [T.call_llvm_pure_intrin("int16x8", _WASM[0] + ".v8i16.v4i32", *pair) for pair in pairs]
    packed = T.call_llvm_pure_intrin(wide(dtype, 16), _WASM[1][dtype] + ".v16i8.v8i16", words[0], words[-1])
    return packed if len(integers) == 4 else tirx.Shuffle([packed], list(range(4 * len(integers))))
