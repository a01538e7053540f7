"""Einsum is transposes around one batched product."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import Builder, NodePass, Stage, attr, shape


class DecomposeEinsum(NodePass):
    """Operand after operand: sum over the letters that nothing else needs; with batch letters in both and still needed, m and n
    in one, k in both and no longer needed: [batch, m, k] @ [batch, k, n]; in the end a transpose to the output's order.

    Left alone: a letter twice in one operand (a diagonal) and dimensions that broadcast behind `...`.
    """

    stage = Stage.CANONICAL
    ops = frozenset({"Einsum"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        dims = [shape(v) for v in node.inputs]
        if any(d is None for d in dims):
            return False
        terms, out = letters(attr(node, "equation"), [len(d) for d in dims if d is not None])
        size: dict[str, int] = {}
        for term, d in zip(terms, dims, strict=True):
            assert d is not None
            if len(set(term)) < len(term) or any(size.setdefault(c, n) != n for c, n in zip(term, d, strict=True)):
                self.miss(node, "a diagonal, or dimensions that broadcast")
                return False
        contraction = Contraction(Builder(node, model), size)
        (value, term), *rest = ((v, t) for v, t in zip(node.inputs, terms, strict=True) if v is not None)
        for i, (other, other_term) in enumerate(rest):
            needed = set(out).union(*(t for _, t in rest[i + 1:]))
            value, term = contraction.sum(value, term, needed | set(other_term))
            other, other_term = contraction.sum(other, other_term, needed | set(term))
            value, term = contraction.product(value, term, other, other_term, needed)
        value, term = contraction.sum(value, term, set(out))
        contraction.build.put(contraction.order(value, term, out))
        return True


class Contraction:
    """Values with a letter for each axis, and the steps that an einsum is made of. size: the extent of each letter."""

    def __init__(self, build: Builder, size: dict[str, int]) -> None:
        self.build, self.size = build, size

    def _dims(self, term: str) -> list[int]:
        return [self.size[c] for c in term]

    def sum(self, value: ir.Value, term: str, needed: set[str]) -> tuple[ir.Value, str]:
        gone = [i for i, c in enumerate(term) if c not in needed]
        if not gone:
            return value, term
        kept = "".join(c for c in term if c in needed)
        return self.build.make("ReduceSum", value, self.build.integers(gone), shape=self._dims(kept), keepdims=0), kept

    def order(self, value: ir.Value, term: str, wanted: str) -> ir.Value:
        if term == wanted:
            return value
        return self.build.make("Transpose", value, shape=self._dims(wanted), perm=[term.index(c) for c in wanted])

    def product(self, a: ir.Value, ta: str, b: ir.Value, tb: str, needed: set[str]) -> tuple[ir.Value, str]:
        shared = [c for c in ta if c in tb]
        batch, k = ("".join(c for c in shared if (c in needed) == kept) for kept in (True, False))
        m, n = "".join(c for c in ta if c not in tb), "".join(c for c in tb if c not in ta)
        a, b = self.order(a, ta, batch + m + k), self.order(b, tb, batch + k + n)
        flat = [int(np.prod(self._dims(t))) for t in (batch, m, k, n)]
        a, b = self.build.reshape(a, (flat[0], flat[1], flat[2])), self.build.reshape(b, (flat[0], flat[2], flat[3]))
        product = self.build.make("MatMul" if k else "Mul", a, b, shape=(flat[0], flat[1], flat[3]))
        return self.build.reshape(product, self._dims(batch + m + n)), batch + m + n


def letters(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """(terms of the operands, term of the output), with capital or rare letters for what `...` stands for."""
    left, _, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    used = set(equation)
    spare = [chr(c) for c in range(0x100, 0x120) if chr(c) not in used]
    width = max((r - len(t.replace("...", "")) for t, r in zip(terms, ranks, strict=True) if "..." in t), default=0)
    dots = spare[:width]

    def fill(term: str, rank: int) -> str:
        n = rank - len(term.replace("...", ""))
        return term.replace("...", "".join(dots[width - n:] if n else []))

    filled = [fill(t, r) for t, r in zip(terms, ranks, strict=True)]
    if "->" in equation:
        return filled, right.replace("...", "".join(dots))
    single = sorted(c for c in set(left) - set(".,") if left.count(c) == 1)
    return filled, "".join(dots) + "".join(single)
