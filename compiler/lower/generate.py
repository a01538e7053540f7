"""Ops that make a tensor from little or nothing: ranges, identities, fills, shapes."""

from __future__ import annotations

import numpy as np

from ...schedules.expr import Expr, cast, const, equal, select
from .registry import INJECTIVE, Context, lowering
from .tensor import Tensor

Index = tuple[Expr, ...]


@lowering("Range", kind=INJECTIVE)
def range_(ctx: Context) -> Tensor:
    """start + i delta; the length is static, start and delta need not be."""
    start, delta, dtype = ctx.input(0), ctx.input(2), ctx.output_dtype()
    return Tensor(ctx.output_shape(), dtype, lambda index: start.at([]) + cast(index[0], dtype) * delta.at([]))


@lowering("EyeLike", kind=INJECTIVE)
def eye_like(ctx: Context) -> Tensor:
    k, dtype = ctx.attr("k", 0), ctx.output_dtype()
    return Tensor(ctx.output_shape(), dtype, lambda index: select(
        equal(index[1], index[0] + k), const(1, dtype), const(0, dtype)))


@lowering("ConstantOfShape", kind=INJECTIVE)
def constant_of_shape(ctx: Context) -> Tensor:
    value = const(np.asarray(ctx.attr("value", np.zeros(1, np.float32))).reshape(()).item(), ctx.output_dtype())
    return Tensor(ctx.output_shape(), value.dtype, lambda index: value)


@lowering("Shape", kind=INJECTIVE)
def shape(ctx: Context) -> Tensor:
    rank = len(ctx.input(0).shape)
    start, end, _ = slice(ctx.attr("start", 0), ctx.attr("end", rank)).indices(rank)
    return ctx.constant(np.asarray(ctx.input(0).shape[start:end], np.int64))


@lowering("Size", kind=INJECTIVE)
def size(ctx: Context) -> Tensor:
    return ctx.constant(np.asarray(ctx.input(0).size, np.int64))


@lowering("NonZero", "Unique", "Compress", "NonMaxSuppression", "StringNormalizer", "TfIdfVectorizer", kind=INJECTIVE)
def dynamic(ctx: Context) -> Tensor:
    return ctx.refuse("the size of its output depends on values at run time",
                      "end the model before this op and run it in the host program")


@lowering("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", kind=INJECTIVE)
def random(ctx: Context) -> Tensor:
    return ctx.refuse("its output is random", "make the noise an input of the model")
