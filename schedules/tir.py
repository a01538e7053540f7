"""The one door to TVM: emits TIR through its IRBuilder and lowers it to object code of bare-pointer kernels.

Everything that works around TVM 0.27 stands here. Import this module only where kernels are emitted (worker processes).
A kernel is `void name(buffer…, [scratch], int32 begin, int32 end)`; it needs neither TVM's runtime nor libm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import Call, PointerType, PrimType
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from . import clang
from .device import Device
from .expr import Expr, post_order
from .mathlib import MATH, dtype_of, hold, like, quantization, wide
from .mathlib.forms import known
from .task import ITEMSIZE, Task

PrimExpr = Any
Array = Any

__all__ = ["Kernel", "T", "alloc", "build", "get", "ld", "put", "splat", "st", "strides", "tirx", "vectors", "wide"]


# ---- Vectors -----------------------------------------------------------------------------------------------------------


def ld(buf: Array, off: PrimExpr, n: int) -> PrimExpr:
    """Vector of n elements at flat offset `off` (a scalar where n is 1)."""
    return buf[T.ramp(off, 1, n)] if n > 1 else buf[off]


def st(buf: Array, off: PrimExpr, value: PrimExpr, n: int) -> None:
    T.buffer_store(buf, value, [T.ramp(off, 1, n) if n > 1 else off])


def splat(x: PrimExpr | float, n: int) -> PrimExpr:
    """x in every lane; a Python number is a float32."""
    x = T.float32(x) if isinstance(x, int | float) else x
    return T.broadcast(x, n) if n > 1 else x


def alloc(n: int, dtype: str = "float32") -> Array:
    """Registers: LLVM's SROA promotes the array when every index is a constant; else it lies on the stack."""
    return T.alloc_buffer((n,), dtype, scope="local")


def vectors(n: int, lanes: int) -> Iterator[tuple[int, int]]:
    """(offset, width) of the vectors that cover n elements: whole ones, then powers of two."""
    at = 0
    while at < n:
        while n - at < lanes:
            lanes //= 2
        yield at, lanes
        at += lanes


def prefetch(buf: Array, off: PrimExpr, level: int = 1) -> None:
    """Ask for the cache line at `off`, into L1 or L2; past the end of the buffer it does nothing."""
    T.evaluate(tirx.call_intrin("void", "tirx.prefetch", T.address_of(buf[off]), 0, 4 - level, 1))


def strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides, in elements."""
    return tuple(math.prod(shape[n + 1:]) for n in range(len(shape)))


# ---- Kernels -----------------------------------------------------------------------------------------------------------


class Kernel:
    """A PrimFunc being written for a task: its buffers as flat arrays, and its expressions as TIR.

        k = Kernel(task, scratch_bytes, {1: packed_size})

        def body(begin, end):
            with T.serial(0, end - begin) as z:
                …
        return k.write(body)
    """

    def __init__(self, task: Task, scratch: int = 0, packed: Mapping[int, int] | None = None, dtype: str = "float32") -> None:
        """packed: elements of the constants that the template repacks. Scratch is an array `k.scratch` of `dtype`."""
        self.task, self._scratch, self._packed, self._dtype = task, scratch, dict(packed or {}), dtype
        self.arrays: list[Array] = []
        self.scratch: Array = None
        self.begin: PrimExpr = None
        self.func: Any = None

    def write(self, body: Callable[[PrimExpr, PrimExpr], None]) -> Any:
        """The PrimFunc whose body `body(begin, end)` emits."""
        with IRBuilder() as b, T.prim_func(s_tir=True):
            T.func_name("k")
            T.func_attr({"tirx.noalias": True})
            for n, buf in enumerate(self.task.buffers):
                size = max(1, self._packed.get(n, buf.size))
                self.arrays.append(T.arg(f"b{n}", T.Buffer((size,), storage(buf.dtype))))
            if self._scratch:
                self.scratch = T.arg("scratch", T.Buffer((-(-self._scratch // ITEMSIZE[self._dtype]),), self._dtype))
            self.begin, end = (T.arg(name, T.int32()) for name in ("begin", "end"))
            body(self.begin, end)
        self.func = b.get()
        return self.func

    def rolled(self, count: int) -> PrimExpr:
        """`count`, as LLVM cannot know it (begin is never negative): of a register tile's loop over few steps it would make one
        piece of code, in an order that holds more values than there are registers."""
        return T.max(T.int32(count), -self.begin)

    def nothing(self, i: PrimExpr) -> PrimExpr:
        """0, as LLVM cannot know it, of the variable of a loop of `rolled` length: what is loaded from an address with it is
        loaded in the loop. LLVM would load it before, and V8 has no registers to hold it in (Zen 5: 209 GOP/s, without 105)."""
        return i >> 30

    def offset(self, buffer: int, index: Sequence[PrimExpr]) -> PrimExpr:
        """Flat offset of an element, row-major in the buffer's declared shape."""
        shape = self.task.buffers[buffer].shape
        flat: PrimExpr = T.int32(0)
        for i, s in zip(index, strides(shape), strict=True):
            flat = flat + i * s
        return flat

    def value(self, root: Expr, env: Mapping[str, PrimExpr],
              arrays: Mapping[int, Callable[..., PrimExpr]] | None = None) -> PrimExpr:
        """TIR of an expression, with its variables from `env`. What is used twice is bound to a name, at this point of the
        program. Inside `T.vectorized` the same scalar code becomes vectors. `arrays` overrides how a buffer is read."""
        order = post_order([root])
        uses: dict[int, int] = {}
        for e in order:
            for a in e.args:
                uses[id(a)] = uses.get(id(a), 0) + 1
        done: dict[int, PrimExpr] = {}
        for e in order:
            args = [done[id(a)] for a in e.args]
            x = self._node(e, args, env, arrays or {})
            if uses.get(id(e), 0) > 1 and e.op not in ("const", "var"):
                x = T.Bind(x) if e.dtype == "int32" else hold(x)    # int32 is mostly positions, which TVM shall see through
            done[id(e)] = x
        return done[id(root)]

    def _node(self, e: Expr, args: list[PrimExpr], env: Mapping[str, PrimExpr],
              arrays: Mapping[int, Callable[..., PrimExpr]]) -> PrimExpr:
        if e.op == "var":
            return env[e.value]
        if e.op == "load":
            if e.value in arrays:
                return arrays[e.value](*args)
            return get(self.arrays[e.value], self.offset(e.value, args), e.dtype)
        return node(e, args)

    def store(self, buffer: int, index: Sequence[PrimExpr], value: PrimExpr) -> None:
        put(self.arrays[buffer], self.offset(buffer, index), value, self.task.buffers[buffer].dtype)


def storage(dtype: str) -> str:
    """How an element lies in memory: numpy's bool is a byte."""
    return "uint8" if dtype == "bool" else dtype


def get(array: Array, offset: PrimExpr, dtype: str) -> PrimExpr:
    x = array[offset]
    return tirx.NE(x, T.uint8(0)) if dtype == "bool" else x


def put(array: Array, offset: PrimExpr, value: PrimExpr, dtype: str) -> None:
    T.buffer_store(array, tirx.Select(value, T.uint8(1), T.uint8(0)) if dtype == "bool" else value, [offset])


_BINARY: dict[str, Callable[[PrimExpr, PrimExpr], PrimExpr]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "floordiv": tirx.floordiv, "floormod": tirx.floormod, "truncmod": tirx.truncmod,
    "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
    "eq": lambda a, b: tirx.EQ(a, b),
    "and": lambda a, b: tirx.And(a, b), "or": lambda a, b: tirx.Or(a, b),
    "bitand": lambda a, b: a & b, "bitor": lambda a, b: a | b, "bitxor": lambda a, b: a ^ b,
    "shl": lambda a, b: a << b, "shr": lambda a, b: a >> b,
}


def node(e: Expr, a: list[PrimExpr]) -> PrimExpr:
    """One operator. Transcendental functions are our own polynomials (mathlib): libm calls would scalarise."""
    if e.op == "const":
        return constant(e.value, e.dtype)
    if e.op == "div":
        return a[0] / a[1] if e.dtype.startswith("float") else tirx.truncdiv(a[0], a[1])
    if e.op in ("eq", "ne") and e.args[0].dtype == "bool":      # TVM compares booleans as floats, which LLVM refuses
        differ = tirx.Or(tirx.And(a[0], tirx.Not(a[1])), tirx.And(tirx.Not(a[0]), a[1]))
        return differ if e.op == "ne" else tirx.Not(differ)
    if e.op == "ne":
        return unequal(*a)
    if e.op in _BINARY:
        return _BINARY[e.op](*a)
    if e.op == "select":
        return tirx.Select(a[0], a[1], a[2])
    if e.op == "not":       # TVM makes `a >= b` of `not a < b`, which NaNs are not
        return tirx.Select(a[0], like(0, a[0]), like(1, a[0]))
    if e.op == "neg":
        return a[0] * like(-1, a[0]) if e.dtype.startswith("float") else like(0, a[0]) - a[0]
    if e.op == "cast":
        return cast(a[0], e.args[0].dtype, e.dtype)
    if e.op == "reinterpret":
        return T.reinterpret(wide(e.dtype, dtype_of(a[0])[1]), a[0])
    if e.op == "bitnot":
        return ~a[0]
    if e.op == "quantize":
        return quantization.quantize(a[0], a[1], e.dtype)
    return MATH[e.op](*a)


def unequal(a: PrimExpr, b: PrimExpr) -> PrimExpr:
    """As for IEEE: a NaN is unequal to everything, where TVM asks LLVM whether the numbers are ordered and unequal."""
    if not dtype_of(a)[0].startswith("float"):
        return tirx.NE(a, b)
    odd = [MATH["isnan"](x) for x in (a, b) if known(x) is None]
    return reduce(tirx.Or, odd, tirx.NE(a, b))


def constant(value: Any, dtype: str) -> PrimExpr:
    return tirx.const(bool(value) if dtype == "bool" else value, dtype)


def cast(x: PrimExpr, source: str, dtype: str) -> PrimExpr:
    to = wide(dtype, dtype_of(x)[1])
    if source == "bool":
        return tirx.Select(x, tirx.const(1, to), tirx.const(0, to))
    if dtype == "bool":
        return unequal(x, like(0, x))
    if source == "int32" and dtype.startswith("float"):
        # 0.27 bounds every bound value by sets of integers, and fails on the product of a set and a float: an index becomes a
        # float through an operation that the analysis does not look into and that costs nothing.
        x = x | like(0, x)
    return x.astype(to)


# ---- Lowering ----------------------------------------------------------------------------------------------------------


def _lower(mod: Any, target: Any) -> Any:
    S, X = s_tir.transform, tirx.transform
    return tvm.ir.transform.Sequential([
        X.BindTarget(target), S.LowerInitBlock(), S.PlanAndUpdateBufferAllocationLocation(),
        S.ConvertBlocksToOpaque(), S.CompactBufferAllocation(), S.LowerMatchBuffer(), S.StmtSimplify(), S.LowerOpaqueBlock(),
        X.FlattenBuffer(), X.NarrowDataType(32), X.VectorizeLoop(True), X.StorageRewrite(), X.UnrollLoop(),
        X.StmtSimplify(), X.RemoveNoOp(), X.CommonSubexprElim()])(mod)


def _bare_pointers(mod: Any) -> Any:
    """In place of MakePackedAPI (0.27 has no MakeUnpackedAPI): each buffer parameter becomes a raw data pointer."""
    out = {}
    for gv, f in mod.functions.items():
        params, declared = [], []
        for p in f.params:
            if type(p.ty).__name__ == "BufferType":
                v = tirx.Var(p.name + "_ptr", PointerType(PrimType(str(p.dtype)), "global"))
                params.append(v)
                declared.append(tirx.DeclBuffer(p, data=v))
            else:
                params.append(p)
        body = list(f.body.seq) if isinstance(f.body, tirx.SeqStmt) else [f.body]
        g = tirx.PrimFunc(params, _sequence(declared + body), f.ret_type, f.attrs)
        out[gv] = g.with_attr("global_symbol", gv.name_hint).with_attr("calling_conv", 0)
    return tvm.IRModule(out)


def _zeros(mod: Any) -> Any:
    """The bits of zero are zero in every type; TVM's code generator takes a reinterpreted zero for a null pointer, and fails."""
    def plain(call: Any) -> Any:
        if getattr(call.op, "name", "") == "tirx.reinterpret" and known(call.args[0]) == 0:
            return tirx.const(0, str(call.ty.dtype))
        return call
    return tvm.IRModule({gv: tvm_ffi.structural_map(f, (Call, plain), order="post")
                         for gv, f in mod.functions.items()})


def _halves_by_bits(mod: Any) -> Any:
    """For WebAssembly, which has no halves: they become floats by operations on their bits, in vectors, where LLVM calls a
    function for each. It also makes comparisons of floats that were halves ones of halves, and LLVM 22 never ends over vectors
    of those."""
    def floats(x: PrimExpr) -> PrimExpr:
        lanes = dtype_of(x)[1]
        integers, result = wide("int32", lanes), wide("float32", lanes)
        b = T.reinterpret(wide("uint16", lanes), x).astype(integers)
        rest = b & like(0x7fff, b)
        shifted = rest << like(13, b)
        finite = T.reinterpret(result, shifted) * tirx.const(2.0**112, result)      # the exponent's bias is 112 larger
        size = tirx.Select(rest >= like(0x7c00, b), shifted | like(0x7f800000, b), T.reinterpret(integers, finite))
        return T.reinterpret(result, size | (b & like(0x8000, b)) << like(16, b))

    def cast(e: PrimExpr) -> PrimExpr:
        to, lanes = dtype_of(e)
        return floats(e.value).astype(wide(to, lanes)) if dtype_of(e.value)[0] == "float16" else e

    def compare(e: PrimExpr) -> PrimExpr:
        return type(e)(floats(e.a), floats(e.b)) if dtype_of(e.a)[0] == "float16" else e

    def extreme(e: PrimExpr) -> PrimExpr:
        if dtype_of(e)[0] != "float16":
            return e
        return tirx.Select(compare((tirx.GT if isinstance(e, tirx.Max) else tirx.LT)(e.a, e.b)), e.a, e.b)

    rules = [(tirx.Cast, cast), ((tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE), compare),
             ((tirx.Max, tirx.Min), extreme)]
    return tvm.IRModule({gv: tvm_ffi.structural_map(f, rules, order="post") for gv, f in mod.functions.items()})


def _floats_in_arrays(f: Any) -> Any:
    """Floats that have a name get a place in a local array instead. TVM's code generator lets its simplifier put every value in
    the place of its name, which takes minutes for a function of a function (asinh of cos); LLVM makes registers of the arrays."""
    arrays: dict[Any, Any] = {}

    def is_float(v: Any) -> bool:
        return type(v.ty).__name__ == "PrimType" and str(v.ty.dtype).startswith("float")

    def place(v: Any) -> tuple[Any, list[Any]]:
        element, lanes = dtype_of(v)
        if v not in arrays:
            arrays[v] = tirx.decl_buffer((lanes,), element, v.name, scope="local")
        return arrays[v], [tirx.Ramp(T.int32(0), 1, lanes) if lanes > 1 else T.int32(0)]

    def use(v: Any, definition: int) -> Any:
        return tirx.BufferLoad(*place(v)) if not definition and is_float(v) else v

    def bind(s: Any, _: int) -> Any:
        if not is_float(s.var):
            return s
        array, at = place(s.var)
        return tirx.BufferStore(array, s.value, at)

    body = tvm_ffi.structural_map(f.body, with_def_region_kind=[(tirx.Var, use), (tirx.Bind, bind)])
    body = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    return tirx.PrimFunc(f.params, _sequence([tirx.AllocBuffer(a) for a in arrays.values()] + body), f.ret_type, f.attrs)


def _sequence(statements: list[Any]) -> Any:
    """TVM has no sequence of one."""
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)


def build(funcs: Mapping[str, Any], device: Device, path: Path) -> Any:
    """{symbol: PrimFunc} -> one object file at `path`. Returns TVM's module, of which only `inspect_source` is safe to touch
    (an unknown attribute of a module built for another machine crashes the process)."""
    target = tvm.target.Target({"kind": "llvm", **{k: list(v) if isinstance(v, tuple) else v for k, v in device.llvm}})
    mod = tvm.IRModule({name: f.with_attr("global_symbol", name) for name, f in funcs.items()})
    mod = quantization.lowered(_bare_pointers(_zeros(_lower(mod, target))), device)
    mod = tirx.transform.LowerIntrin()(mod)
    if device.arch == "wasm32":
        mod = _halves_by_bits(mod)
    mod = tvm.IRModule({gv: _floats_in_arrays(f) for gv, f in mod.functions.items()})
    lib = tvm.get_global_func("target.build.llvm")(mod, target)
    if device.arch == "wasm32":
        clang.wasm_object(lib.inspect_source("ll"), path)
    else:
        lib.write_to_file(str(path), "obj")
    return lib
