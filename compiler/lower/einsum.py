"""What is left of Einsum when the passes have made products of it (diagonals, broadcasts), and other plain sums of products."""

from __future__ import annotations

from functools import reduce

from ...schedules.expr import Expr, all_of, cast, clip, const, equal, floordiv, floormod, select
from .registry import ANCHOR, INJECTIVE, Anchor, Context, Output, lowering
from .rows import Rows, result, wide
from .tensor import Tensor

Index = tuple[Expr, ...]


@lowering("Einsum", kind=ANCHOR, rereads=True)
def einsum(ctx: Context) -> Anchor:
    """The sum over every letter that the output does not name of the product of the operands."""
    operands = [t for t in ctx.inputs if t is not None]
    left, arrow, out = ctx.attr("equation").replace(" ", "").partition("->")
    terms = [spelled(term, len(t.shape)) for term, t in zip(left.split(","), operands, strict=True)]
    letters = "".join(dict.fromkeys("".join(terms)))
    broadcast = "".join(sorted(c for c in letters if c.isdigit()))
    if arrow:
        out = out.replace("...", broadcast)
    else:
        joined = "".join(terms)
        out = broadcast + "".join(sorted(c for c in letters if joined.count(c) == 1 and not c.isdigit()))
    size = {c: max(n for term, t in zip(terms, operands, strict=True) for d, n in zip(term, t.shape, strict=True) if d == c)
            for c in letters}
    summed = [c for c in letters if c not in out]
    rows = Rows(tuple(size[c] for c in out) or (1,), tuple(size[c] for c in summed) or (1,), "space" if out else "reduce")
    dtype = wide(ctx.output_dtype())

    def product(row: Index, step: Index) -> Expr:
        at = dict(zip([*out, *summed], [*row[:len(out)], *step[:len(summed)]], strict=True))
        factors = [cast(t.at([at[c] for c in term]), dtype) for term, t in zip(terms, operands, strict=True)]
        return reduce(lambda a, b: a * b, factors)
    return rows.anchor([rows.stage("sum", product)], Output(rows.row[:len(out)], cast(result(0, dtype), ctx.output_dtype())))


def spelled(term: str, rank: int) -> str:
    """The term with `...` as digits, one for each axis, counted from the last, so that they broadcast as numpy's do."""
    before, dots, after = term.partition("...")
    extra = rank - len(before) - len(after) if dots else 0
    return before + "".join(str(9 - n) for n in reversed(range(extra))) + after


@lowering("Col2Im", kind=ANCHOR, rereads=True)
def col2im(ctx: Context) -> Anchor:
    """x [n, c prod(block), prod(positions)] -> [n, c, image…]: each pixel sums over the blocks' elements that fall on it."""
    x, shape = ctx.input(0), ctx.output_shape()
    image, rank = shape[2:], len(shape) - 2
    block = [int(b) for b in ctx.known(2, "the block's shape")]
    dilations, strides = ctx.attr("dilations", [1] * rank), ctx.attr("strides", [1] * rank)
    pads = ctx.attr("pads", [0] * 2 * rank)
    positions = [(n + before + after - d * (b - 1) - 1) // s + 1 for n, b, d, s, before, after in zip(
        image, block, dilations, strides, pads[:rank], pads[rank:], strict=True)]
    rows, dtype = Rows(shape, tuple(block), "space"), wide(x.dtype)
    columns = x.reshape((shape[0], shape[1], *block, *positions))

    def element(index: Index, step: Index) -> Expr:
        places, falls = [], []
        for i, k, d, s, before, n in zip(index[2:], step, dilations, strides, pads, positions, strict=False):
            start = i + before + k * -d
            at = floordiv(start, s)
            falls += [at >= 0, at < n, equal(floormod(start, s), 0)]
            places.append(clip(at, 0, n - 1))
        return select(all_of(falls), cast(columns.at((*index[:2], *step, *places)), dtype), const(0, dtype))
    return rows.anchor([rows.stage("sum", element)], Output(rows.row, cast(result(0, dtype), x.dtype)))


@lowering("Det", kind=INJECTIVE)
def determinant(ctx: Context) -> Tensor:
    """Of matrices up to 4x4, by expansion along the first row."""
    x = ctx.input(0)
    n = x.shape[-1]
    if n > 4:
        ctx.refuse(f"the determinant of a {n}x{n} matrix", "burnish computes determinants up to 4x4")

    def minor(index: Index, row: int, columns: tuple[int, ...]) -> Expr:
        if not columns:
            return const(1, x.dtype)
        terms = [x.at((*index, row, c)) * minor(index, row + 1, columns[:k] + columns[k + 1:])
                 for k, c in enumerate(columns)]
        return reduce(lambda a, b: a + b, [-t if k % 2 else t for k, t in enumerate(terms)])
    return Tensor(ctx.output_shape(), x.dtype, lambda index: minor(tuple(index), 0, tuple(range(n))))


