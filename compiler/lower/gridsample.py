"""GridSample: reads an image at fractional positions known at run time; each tap's place is made safe before it is read."""

from __future__ import annotations

from collections.abc import Callable

from ...schedules.expr import Expr, all_of, cast, clip, const, floor, floormod, minimum, round_even, select
from .layout import reflect
from .registry import INJECTIVE, Context, lowering
from .tensor import Tensor

Index = tuple[Expr, ...]
Tap = tuple[Expr, Expr | None]      # its place along an axis (not yet in range), its weight (None: 1)
KEYS = -0.75                        # the parameter of the cubic convolution


@lowering("GridSample", kind=INJECTIVE)
def grid_sample(ctx: Context) -> Tensor:
    """x [n, c, spatial…], grid [n, out…, axes] in -1..1, the last spatial axis first -> [n, c, out…]."""
    x, grid = ctx.input(0), ctx.input(1)
    mode, padding, aligned = ctx.attr("mode", "linear"), ctx.attr("padding_mode", "zeros"), bool(ctx.attr("align_corners", 0))
    taps: dict[str, Callable[[Expr], list[Tap]]] = {
        "nearest": nearest, "linear": linear, "bilinear": linear, "cubic": cubic, "bicubic": cubic}
    dtype = "float64" if x.dtype == "float64" else "float32"
    sizes = x.shape[2:]

    def position(index: Index, axis: int) -> Expr:
        """Where along the axis the grid points to."""
        g, n = cast(grid.at((index[0], *index[2:], len(sizes) - 1 - axis)), dtype), sizes[axis]
        at = (g + 1) * ((n - 1) / 2) if aligned else ((g + 1) * n - 1) * 0.5
        if mode == "nearest":
            at = round_even(at)
        match padding if "cubic" not in mode else "each tap for itself":
            case "border": return clip(at, 0, n - 1)
            case "reflection": return mirrored(at, 0, n - 1) if aligned else mirrored(at, -0.5, n - 0.5)
            case _: return at

    def place(i: Expr, n: int) -> Expr:
        """An index in range for a tap's."""
        if padding != "reflection":
            return clip(i, 0, n - 1)
        if aligned:
            return clip(reflect(i, n), 0, n - 1)
        there_and_back = floormod(i, 2 * n)
        return clip(minimum(there_and_back, 2 * n - 1 - there_and_back), 0, n - 1)

    def element(index: Index) -> Expr:
        choices = [taps[mode](position(index, axis)) for axis in range(len(sizes))]

        def over(axis: int, at: list[Expr], inside: list[Expr]) -> Expr:
            if axis == len(sizes):
                value = cast(x.at((index[0], index[1], *at)), dtype)
                return select(all_of(inside), value, const(0, dtype)) if inside else value
            total: Expr | None = None
            for i, weight in choices[axis]:
                known = [*inside, i >= 0, i < sizes[axis]] if padding == "zeros" else inside
                value = over(axis + 1, [*at, place(i, sizes[axis])], known)
                value = value if weight is None else value * weight
                total = value if total is None else total + value
            assert total is not None
            return total
        return cast(over(0, [], []), x.dtype)
    return Tensor(ctx.output_shape(), x.dtype, element)


def mirrored(at: Expr, low: float, high: float) -> Expr:
    """`at` reflected at both borders, as often as it takes."""
    extent = high - low
    if extent == 0:
        return at * 0 + low
    rest = (at - low) - floor((at - low) * (0.5 / extent)) * (2 * extent)
    return minimum(rest, 2 * extent - rest) + low


def nearest(at: Expr) -> list[Tap]:
    return [(cast(at, "int32"), None)]


def linear(at: Expr) -> list[Tap]:
    low = floor(at)
    i, ratio = cast(low, "int32"), at - low
    return [(i, 1 - ratio), (i + 1, ratio)]


def cubic(at: Expr) -> list[Tap]:
    """Keys' cubic convolution (1981) over the four neighbours."""
    low = floor(at)
    i, t = cast(low, "int32"), at - low

    def near(d: Expr) -> Expr:
        return ((KEYS + 2) * d - (KEYS + 3)) * d * d + 1

    def far(d: Expr) -> Expr:
        return ((KEYS * d - 5 * KEYS) * d + 8 * KEYS) * d - 4 * KEYS
    return [(i + -1, far(t + 1)), (i, near(t)), (i + 1, near(1 - t)), (i + 2, far(2 - t))]
