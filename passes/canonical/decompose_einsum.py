"""Einsum is transposes around one batched product."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import NodePass, Stage, attr, initializer, op, replace, shape


class DecomposeEinsum(NodePass):
    """Operand after operand: sum over the letters that nothing else needs; with batch letters in both and still needed, m and n in
    one, k in both and no longer needed: [batch, m, k] @ [batch, k, n]; in the end a transpose to the output's order.

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
        self.model, self.node, self.size, self.new = model, node, size, []
        assert node.inputs[0] is not None
        value, term = node.inputs[0], terms[0]
        for i in range(1, len(terms)):
            needed = set(out).union(*terms[i + 1:])
            value, term = self._sum(value, term, needed | set(terms[i]))
            other, other_term = self._sum(node.inputs[i], terms[i], needed | set(term))
            value, term = self._product(value, term, other, other_term, needed)
        value, term = self._sum(value, term, set(out))
        value = self._order(value, term, out)
        if not self.new:
            value = self._make("Identity", [value], [size[c] for c in out])
        replace(node, self.new, value)
        return True

    def _make(self, kind: str, inputs: list[ir.Value], dims: list[int], **attributes: object) -> ir.Value:
        y = self.node.outputs[0]
        self.new.append(op(kind, inputs, y, name=f"{y.name}_{kind.lower()}", shape=dims, **attributes))
        return self.new[-1].outputs[0]

    def _integers(self, values: list[int]) -> ir.Value:
        return initializer(self.model, np.array(values, np.int64), f"{self.node.outputs[0].name}_dims")

    def _dims(self, term: str) -> list[int]:
        return [self.size[c] for c in term]

    def _sum(self, value: ir.Value, term: str, needed: set[str]) -> tuple[ir.Value, str]:
        gone = [i for i, c in enumerate(term) if c not in needed]
        if not gone:
            return value, term
        kept = "".join(c for c in term if c in needed)
        return self._make("ReduceSum", [value, self._integers(gone)], self._dims(kept), keepdims=0), kept

    def _order(self, value: ir.Value, term: str, wanted: str) -> ir.Value:
        if term == wanted:
            return value
        return self._make("Transpose", [value], self._dims(wanted), perm=[term.index(c) for c in wanted])

    def _product(self, a: ir.Value, ta: str, b: ir.Value, tb: str, needed: set[str]) -> tuple[ir.Value, str]:
        shared = [c for c in ta if c in tb]
        batch, k = ("".join(c for c in shared if (c in needed) == kept) for kept in (True, False))
        m, n = "".join(c for c in ta if c not in tb), "".join(c for c in tb if c not in ta)
        a, b = self._order(a, ta, batch + m + k), self._order(b, tb, batch + k + n)
        flat = [int(np.prod(self._dims(t))) for t in (batch, m, k, n)]
        a, b = (self._make("Reshape", [v, self._integers(d)], d) for v, d in (
            (a, [flat[0], flat[1], flat[2]]), (b, [flat[0], flat[2], flat[3]])))
        kind = "MatMul" if k else "Mul"
        product = self._make(kind, [a, b], [flat[0], flat[1], flat[3]])
        term = batch + m + n
        return self._make("Reshape", [product, self._integers(self._dims(term))], self._dims(term)), term


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
