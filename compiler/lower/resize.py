"""Resize: along each resized axis an output element is a weighted sum of a few taps, whose places and weights are known now.

The axes are separable, so an element sums over the taps of all its axes. Where the taps follow a pattern (an integer factor,
nearest) the table is replaced by arithmetic. Coordinates are computed in single precision, as onnxruntime does: where one falls
on an element, floor and ceil hang on its rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ...schedules.expr import FLOATS, Expr, cast, clip, floordiv
from .pointwise import convert
from .registry import INJECTIVE, Context, lowering
from .tensor import Tensor

Index = tuple[Expr, ...]
HALFWAY = 1e-5      # a coordinate this near to the middle of two elements lies there
MAX_TAPS = 512      # loads of one element: past this the kernel's text itself becomes the problem


@dataclass(frozen=True)
class Taps:
    """Along one axis: output element o reads places[o, t] with weights[o, t] (both [out, taps]); inside[o] is 0 where only the
    extrapolation value stands."""

    places: np.ndarray
    weights: np.ndarray
    inside: np.ndarray

    @property
    def count(self) -> int:
        return self.places.shape[1]


@lowering("Resize", kind=INJECTIVE)
def resize(ctx: Context) -> Tensor:
    x, shape = ctx.input(0), ctx.output_shape()
    axes, scales = scaling(ctx, x.shape, shape)
    taps = {axis: t for n, axis in enumerate(axes)
            if (t := axis_taps(ctx, n, len(axes), x.shape[axis], shape[axis], scales[n])) is not None}
    reads = math.prod(t.count for t in taps.values())
    if reads > MAX_TAPS:
        ctx.refuse(f"each output element would read {reads} input elements", "resize by a smaller factor, or in steps")
    return weighted(ctx, x, shape, taps, ctx.attr("extrapolation_value", 0.0))


def scaling(ctx: Context, given: tuple[int, ...], shape: tuple[int, ...]) -> tuple[list[int], list[float]]:
    """The axes that the parameters speak of, and the scale of each: of `scales`, or of the sizes asked for."""
    axes = [a % len(given) for a in ctx.attr("axes", list(range(len(given))))]
    if ctx.has(2) and ctx.input(2).size:
        return axes, [float(s) for s in ctx.known(2, "scales")]
    wanted = [float(s) for s in ctx.known(3, "sizes")]
    scales = [w / given[a] for w, a in zip(wanted, axes, strict=True)]
    match ctx.attr("keep_aspect_ratio_policy", "stretch"):
        case "not_larger": return axes, [min(scales)] * len(axes)
        case "not_smaller": return axes, [max(scales)] * len(axes)
        case _: return axes, scales


def axis_taps(ctx: Context, n: int, count: int, size: int, out: int, scale: float) -> Taps | None:
    """The taps of the n-th of `count` axes, from `size` to `out` elements; None where the axis stays as it is."""
    mode = ctx.attr("coordinate_transformation_mode", "half_pixel")
    roi = (0.0, 1.0)
    if mode == "tf_crop_and_resize":
        given = ctx.known(1, "the region of interest")
        roi = float(given[n]), float(given[count + n])
    if scale == 1 and out == size and roi == (0.0, 1.0):
        return None
    at = coordinates(mode, out, size, scale, roi)
    inside = np.ones(out) if mode != "tf_crop_and_resize" else ((at >= 0) & (at <= size - 1)).astype(float)
    shrink = min(scale, 1.0) if ctx.attr("antialias", 0) else 1.0
    match ctx.attr("mode", "nearest"):
        case "nearest":
            places, weights = nearest(at, ctx.attr("nearest_mode", "round_prefer_floor"))[:, None], np.ones((out, 1))
        case "linear": places, weights = spread(at, lambda t: np.maximum(0, 1 - np.abs(t)), 1, shrink)
        case "cubic":
            a = ctx.attr("cubic_coeff_a", -0.75)
            places, weights = spread(at, lambda t: cubic(np.abs(t), a), 2, shrink)
        case other: ctx.refuse(f"mode {other}")
    if ctx.attr("exclude_outside", 0):
        weights = np.where((places >= 0) & (places < size), weights, 0)
        weights = weights / np.where(weights.sum(1, keepdims=True) == 0, 1, weights.sum(1, keepdims=True))
    used = np.any(weights != 0, axis=0)
    used[0] |= not used.any()
    return Taps(np.clip(places, 0, size - 1)[:, used].astype(np.int32), (weights * inside[:, None])[:, used], inside)


def coordinates(mode: str, out: int, size: int, scale: float, roi: tuple[float, float]) -> np.ndarray:
    """Where each output element lies among the input's (ONNX Resize, coordinate_transformation_mode)."""
    o, length = np.arange(out, dtype=np.float32), scale * size
    scale = float(np.float32(scale))
    match mode:
        case "half_pixel": return (o + 0.5) / scale - 0.5
        case "pytorch_half_pixel": return (o + 0.5) / scale - 0.5 if length != 1 else np.zeros(out)
        case "half_pixel_symmetric": return size / 2 * (1 - out / length) + (o + 0.5) / scale - 0.5
        case "align_corners": return o * (size - 1) / (length - 1) if length != 1 else np.zeros(out)
        case "tf_crop_and_resize":
            start, extent = roi[0] * (size - 1), (roi[1] - roi[0]) * (size - 1)
            return start + (o * extent / (length - 1) if length != 1 else np.full(out, extent / 2))
        case _: return o / scale


def nearest(at: np.ndarray, mode: str) -> np.ndarray:
    low = np.floor(at)
    match mode:
        case "floor": place = low
        case "ceil": place = np.ceil(at)
        case "round_prefer_ceil": place = np.floor(at + (0.5 + HALFWAY))
        case _: place = np.ceil(at - (0.5 + HALFWAY))
    return place.astype(np.int64)


def spread(at: np.ndarray, kernel: Callable[[np.ndarray], np.ndarray], radius: int,
           shrink: float) -> tuple[np.ndarray, np.ndarray]:
    """The taps under a kernel of that radius, widened by 1 / shrink (antialias: the weights then sum to 1 again)."""
    reach = math.ceil(radius / shrink)
    places = np.floor(at).astype(np.int64)[:, None] + np.arange(1 - reach, reach + 1)
    weights = kernel((places - at[:, None]) * shrink)
    return places, weights / weights.sum(1, keepdims=True) if shrink != 1 else weights


def cubic(t: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (1981, eq. 4 with a free parameter a)."""
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


# ---- Elements ----------------------------------------------------------------------------------------------------------


def weighted(ctx: Context, x: Tensor, shape: tuple[int, ...], taps: dict[int, Taps], outside: float) -> Tensor:
    """The sum over all taps; a plain read where each axis has one tap of weight 1."""
    places = {axis: place_table(ctx, t.places) for axis, t in taps.items()}
    copies = all(t.count == 1 and (t.weights == 1).all() for t in taps.values())
    dtype = x.dtype if x.dtype == "float64" else "float32"
    weights = {} if copies else {axis: ctx.constant(t.weights.astype(dtype)) for axis, t in taps.items()}
    inside = {axis: ctx.constant(t.inside.astype(dtype)) for axis, t in taps.items() if outside and not t.inside.all()}

    def over(axes: list[int], index: Index, at: list[Expr]) -> Expr:
        """The sum over the taps of `axes`, nested, so that the first axis' weights are applied last."""
        if not axes:
            return x.at(at) if copies else cast(x.at(at), dtype)
        axis, *rest = axes
        total: Expr | None = None
        for t in range(taps[axis].count):
            at[axis] = places[axis](index[axis], t)
            value = over(rest, index, at)
            if not copies:
                value = value * weights[axis].at([index[axis], t])
            total = value if total is None else total + value
        at[axis] = index[axis]
        assert total is not None
        return total

    def element(index: Index) -> Expr:
        value = over(list(taps), index, list(index))
        if inside:
            share = math.prod((t.at([index[axis]]) for axis, t in inside.items()), start=1)
            value = value + (1 - share) * outside
        return convert(value, x.dtype) if x.dtype in FLOATS or copies else saturated(value, x.dtype)
    return Tensor(shape, x.dtype, element)


def saturated(value: Expr, dtype: str) -> Expr:
    limits = np.iinfo(dtype)
    return convert(value if limits.bits > 16 else clip(value, int(limits.min), int(limits.max)), dtype)


def place_table(ctx: Context, places: np.ndarray) -> Callable[[Expr, int], Expr]:
    """(output element, tap) -> input element: o * a // b where nearest follows that, a table otherwise."""
    out = len(places)
    if places.shape[1] == 1 and out > 1:
        step = Fraction(int(places[-1, 0]) + 1, out).limit_denominator(64)
        if np.array_equal(np.arange(out) * step.numerator // step.denominator, places[:, 0]):
            return lambda o, t: floordiv(o * step.numerator, step.denominator)
    table = ctx.constant(places)
    return lambda o, t: table.at([o, t])
