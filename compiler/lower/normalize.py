"""Normalisations: rows of a tensor scaled by what they hold. Family `rows`: first the stages, then a store of every element.

Variance takes two passes (the mean is subtracted before squaring), so that a large mean costs no precision; half precision is
computed in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...schedules.expr import Expr, absolute, add, all_of, cast, clip, const, equal, exp, log, power, select, sqrt
from ...schedules.task import Stage
from .registry import ANCHOR, POINTWISE, Anchor, Context, Output, lowering
from .rows import Index, Rows, Split, result, split, wide
from .tensor import Tensor, reindex
from .windows import layout_of

# ---- Softmax -------------------------------------------------------------------------------------------------------------


@lowering("Softmax", "LogSoftmax", kind=ANCHOR, rereads=True)
def softmax(ctx: Context) -> Anchor:
    """exp(x - m) / sum(exp(x - m)), or its logarithm x - m - log(sum(exp(x - m))), with m the maximum along the axis."""
    x = ctx.input(0)
    parts = split(x.shape, [ctx.attr("axis", -1)])
    rows, dtype = parts.rows, wide(x.dtype)
    top, total = result(0, dtype), result(1, dtype)

    def below(i: Index, r: Index) -> Expr:
        return cast(x.at(parts.index(i, r)), dtype) - top

    stages = [rows.stage("max", lambda i, r: cast(x.at(parts.index(i, r)), dtype)),
              rows.stage("sum", lambda i, r: exp(below(i, r)))]
    value = below(rows.row, rows.element)
    value = value - log(total) if ctx.op == "LogSoftmax" else exp(value) * (1.0 / total)
    return rows.anchor(stages, Output(parts.index(rows.row, rows.element), cast(value, x.dtype)), elementwise=True)


@lowering("LpNormalization", kind=ANCHOR, rereads=True)
def lp_normalization(ctx: Context) -> Anchor:
    """x over its p-norm along the axis (p is 1 or 2); a row of zeros stays one."""
    x = ctx.input(0)
    parts = split(x.shape, [ctx.attr("axis", -1)])
    rows, dtype = parts.rows, wide(x.dtype)
    one = ctx.attr("p", 2) == 1

    def power_at(i: Index, r: Index) -> Expr:
        v = cast(x.at(parts.index(i, r)), dtype)
        return absolute(v) if one else v * v

    norm = result(0, dtype) if one else sqrt(result(0, dtype))
    index = parts.index(rows.row, rows.element)
    value = cast(x.at(index), dtype) * (1.0 / select(equal(norm, 0), 1, norm))
    return rows.anchor([rows.stage("sum", power_at)], Output(index, cast(value, x.dtype)), elementwise=True)


# ---- Mean and variance ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moments:
    """x brought to mean 0 (unless `centred` is false) and to variance 1 along the axes of `parts`."""

    x: Tensor
    parts: Split
    centred: bool = True

    @property
    def rows(self) -> Rows:
        return self.parts.rows

    @property
    def dtype(self) -> str:
        return wide(self.x.dtype)

    @property
    def mean(self) -> Expr:
        return result(0, self.dtype) / float(self.parts.count)

    @property
    def variance(self) -> Expr:
        """Of the elements if centred, else their mean square."""
        return result(1 if self.centred else 0, self.dtype) / float(self.parts.count)

    @property
    def stages(self) -> list[Stage]:
        mean = self.mean

        def square(i: Index, r: Index) -> Expr:
            v = self._element(i, r)
            d = v - mean if self.centred else v
            return d * d

        return [*([self.rows.stage("sum", self._element)] if self.centred else []), self.rows.stage("sum", square)]

    @property
    def index(self) -> Index:
        """The element being stored, in x."""
        return self.parts.index(self.rows.row, self.rows.element)

    @property
    def deviation(self) -> Expr:
        v = self._element(self.rows.row, self.rows.element)
        return v - self.mean if self.centred else v

    def _element(self, i: Index, r: Index) -> Expr:
        return cast(self.x.at(self.parts.index(i, r)), self.dtype)

    def inverse(self, epsilon: float) -> Expr:
        return 1.0 / sqrt(self.variance + epsilon)

    def anchor(self, value: Expr, index: Index, *more: Output) -> Anchor:
        return self.rows.anchor(self.stages, Output(index, cast(value, self.x.dtype)), *more, elementwise=True)


@lowering("LayerNormalization", "RMSNormalization", kind=ANCHOR, rereads=True)
def layer_normalization(ctx: Context) -> Anchor:
    """Ba et al., Layer Normalization, and Zhang, Sennrich, RMSNorm, over the axes from `axis` on. X, Scale, B; further results
    of the former are the mean and the inverse deviation of each row."""
    x, axis = ctx.input(0), ctx.attr("axis", -1)
    axis %= len(x.shape)
    m = Moments(x, split(x.shape, range(axis, len(x.shape))), ctx.op == "LayerNormalization")
    inverse = m.inverse(ctx.attr("epsilon", 1e-5))
    value = m.deviation * inverse * cast(ctx.input(1).broadcast_at(m.index), m.dtype)
    if ctx.has(2):
        value = value + cast(ctx.input(2).broadcast_at(m.index), m.dtype)
    row = m.parts.index(m.rows.row)
    more = [Output(row, cast(v, ctx.output_dtype(n))) for n, v in ((1, m.mean), (2, inverse)) if n < len(ctx.node.outputs)]
    return m.anchor(value, m.index, *more)


@lowering("InstanceNormalization", "GroupNormalization", kind=ANCHOR, rereads=True)
@lowering("NhwcInstanceNormalization", "NhwcGroupNormalization", kind=ANCHOR, rereads=True, domain="burnish")
def group_normalization(ctx: Context) -> Anchor:
    """Wu, He, Group Normalization: over each group of channels (instance: each channel) and all of space. Scale and bias hold one
    number for each channel or, as in opset 18, for each group."""
    x, layout = ctx.input(0), layout_of(ctx)
    channels, area = layout.channels(x.shape), math.prod(layout.spatial(x.shape))
    groups = ctx.attr("num_groups", channels)
    each = channels // groups
    if layout.channels_last:
        shape, axes, group = (x.shape[0], area, groups, each), (1, 3), 2
    else:
        shape, axes, group = (x.shape[0], groups, each, area), (2, 3), 1
    m = Moments(ctx.view(0, shape), split(shape, axes))
    index = m.index

    def parameter(n: int) -> Expr:
        t = ctx.input(n)
        c = index[group] if t.size == groups else add(index[group] * each, index[group + 1])
        return cast(t.at((c,)), m.dtype)

    value = m.deviation * m.inverse(ctx.attr("epsilon", 1e-5)) * parameter(1) + parameter(2)
    return m.anchor(value, reindex(index, shape, x.shape))


@lowering("MeanVarianceNormalization", kind=ANCHOR, rereads=True)
def mean_variance_normalization(ctx: Context) -> Anchor:
    """(x - mean) / (deviation + 1e-9), as ONNX defines it."""
    x = ctx.input(0)
    m = Moments(x, split(x.shape, ctx.attr("axes") or [0, 2, 3]))
    return m.anchor(m.deviation * (1.0 / (sqrt(m.variance) + 1e-9)), m.index)


# ---- Fixed or local statistics -------------------------------------------------------------------------------------------


@lowering("BatchNormalization", kind=POINTWISE)
@lowering("NhwcBatchNormalization", kind=POINTWISE, domain="burnish")
def batch_normalization(ctx: Context) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias by channel, all given: X, scale, B, mean, variance."""
    if ctx.attr("training_mode", 0):
        return ctx.refuse("batch normalization in training mode", "export the model in inference mode")
    x, layout = ctx.input(0), layout_of(ctx)
    dtype, epsilon = wide(x.dtype), ctx.attr("epsilon", 1e-5)

    def element(index: Index) -> Expr:
        c = index[-1] if layout.channels_last else index[1]
        scale, bias, mean, variance = (cast(ctx.input(n).at((c,)), dtype) for n in (1, 2, 3, 4))
        value = (cast(x.at(index), dtype) - mean) * (scale / sqrt(variance + epsilon)) + bias
        return cast(value, x.dtype)

    return Tensor(x.shape, x.dtype, element)


@lowering("LRN", kind=ANCHOR, rereads=True)
@lowering("NhwcLRN", kind=ANCHOR, rereads=True, domain="burnish")
def local_response_normalization(ctx: Context) -> Anchor:
    """x / (bias + alpha / size * sum of squares over `size` channels around)^beta: Krizhevsky et al., ImageNet, section 3.3."""
    x, layout, size = ctx.input(0), layout_of(ctx), ctx.attr("size")
    channels, dtype = layout.channels(x.shape), wide(x.dtype)
    rows = Rows(x.shape, (size,), "space")
    n, c, at = layout.take(rows.row)

    def square(i: Index, r: Index) -> Expr:
        near = c + r[0] - (size - 1) // 2
        v = cast(x.at(layout.index(n, clip(near, 0, channels - 1), at)), dtype)
        return select(all_of((near >= 0, near < channels)), v * v, const(0, dtype))

    base = ctx.attr("bias", 1.0) + result(0, dtype) * (ctx.attr("alpha", 1e-4) / size)
    value = cast(x.at(rows.row), dtype) / power(base, ctx.attr("beta", 0.75))
    return rows.anchor([rows.stage("sum", square)], Output(rows.row, cast(value, x.dtype)))
