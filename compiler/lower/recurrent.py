"""LSTM, GRU and RNN: the family `recurrent`, one kernel for the whole sequence, its state in scratch.

i0 is the direction, i1 the batch, i2 the time, i3 the hidden unit, r0 the axis that a product reduces. params: `directions`,
`batch`, `steps`, `inputs`, `hidden`, `reverse` (forward, reverse or bidirectional), `phases` (the numbers of the gates that are
computed at a time). operands, all float32:
    x                   the input at i1, i2, r0
    bias0, bias1, …     of each gate at i0, i3
    w0 …, r0_ …         of each gate at i0, i3, r0: the factors of the input and of the state; absent where there is no product
    between             what the second phase multiplies in place of the state, in terms of g0 … and h
    c, h                the next state in terms of g0, g1, … (the gates' sums), c and h before; `h` reads the new c as c_new
    h_first, c_first    the state before the first step at i0, i1, i3
    length              how many steps each i1 has (int32); absent: all
A Store that reads i2 is written at every step (zero past the length), one that does not, after the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from ...schedules.expr import Expr, absolute, cast, clip, const, indices, load, maximum, select, sigmoid, tanh, var
from .pointwise import elu, leaky_relu, softplus
from .registry import ANCHOR, Anchor, Context, Output, lowering

Function = Callable[[Expr], Expr]
F32 = "float32"
BLOCK = 16      # hidden units that lie together: as many as the widest vector has lanes
D, B, T, J = indices(4)
K = var("r0")
C, H, C_NEW = var("c", F32), var("h", F32), var("c_new", F32)


def gate(n: int) -> Expr:
    return var(f"g{n}", F32)


def _affine(x: Expr, a: float, b: float) -> Expr:
    return x * a + b


def _hard_sigmoid(x: Expr, a: float, b: float) -> Expr:
    return clip(x * a + b, 0, 1)


def _scaled_tanh(x: Expr, a: float, b: float) -> Expr:
    return tanh(x * b) * a


class Cell:
    """What the three ops share: inputs, weights in the order that a kernel reads them, activations."""

    def __init__(self, ctx: Context, gates: int) -> None:
        self.ctx, self.gates = ctx, gates
        if ctx.input(0).dtype == "float64":
            ctx.refuse("a recurrent network in float64", "export the model in float32")
        self.hidden = ctx.input(2).shape[2]
        self.batch_first = bool(ctx.attr("layout", 0))
        batch, steps = ctx.input(0).shape[:2] if self.batch_first else ctx.input(0).shape[1::-1]
        self.directions = ctx.input(1).shape[0]
        self.params: dict[str, Any] = {
            "directions": self.directions, "batch": batch, "steps": steps, "inputs": ctx.input(0).shape[2], "hidden": self.hidden,
            "reverse": ctx.attr("direction", "forward")}
        self.operands: dict[str, Expr] = {"x": cast(ctx.input(0).at([B, T, K] if self.batch_first else [T, B, K]), F32)}
        if ctx.has(4):
            self.operands["length"] = clip(cast(ctx.input(4).at([B]), "int32"), 0, steps)

    def weight(self, n: int, number: int) -> Expr:
        """Gate `number` of input n ([directions, gates hidden, K]) at i0, i3, r0. A constant is laid out as
        [directions, hidden / 16, K, gates, 16]: a kernel with hidden units in its lanes reads it from front to back."""
        known = self.ctx.array(n)
        if known is None:
            return cast(self.ctx.input(n).at([D, J + number * self.hidden, K]), F32)
        by_unit = known.astype(np.float32).reshape(self.directions, self.gates, self.hidden, -1)
        padded = np.pad(by_unit, ((0, 0), (0, 0), (0, -self.hidden % BLOCK), (0, 0)))
        packed = padded.reshape(self.directions, self.gates, -1, BLOCK, known.shape[2]).transpose(0, 2, 4, 1, 3)
        return load(self.ctx.weight(packed), [D, J // BLOCK, K, number, J % BLOCK], F32)

    def bias(self, *places: int) -> Expr:
        """The sum of those of the 2 gates biases (the input's first, then the state's)."""
        if not self.ctx.has(3):
            return const(0, F32)
        terms = [cast(self.ctx.input(3).at([D, J + p * self.hidden]), F32) for p in places]
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    def add(self, n: int, w: int | None, r: int | None, bias: Expr) -> None:
        """Gate n: the bias, plus gate w of W times the input, plus gate r of R times the state."""
        self.operands[f"bias{n}"] = bias
        if w is not None:
            self.operands[f"w{n}"] = self.weight(1, w)
        if r is not None:
            self.operands[f"r{n}_"] = self.weight(2, r)

    def state(self, n: int) -> Expr:
        if not self.ctx.has(n):
            return const(0, F32)
        return cast(self.ctx.input(n).at([B, D, J] if self.batch_first else [D, B, J]), F32)

    def activations(self, *defaults: str) -> list[list[Function]]:
        """The functions of each direction."""
        names = self.ctx.attr("activations", list(defaults) * self.directions)
        alpha, beta = iter(self.ctx.attr("activation_alpha", [])), iter(self.ctx.attr("activation_beta", []))
        functions = [self._activation(str(name), alpha, beta) for name in names]
        return [functions[i:i + len(defaults)] for i in range(0, len(functions), len(defaults))]

    def _activation(self, name: str, alpha: Iterator[float], beta: Iterator[float]) -> Function:
        """The function, with its parameters taken from the two lists in order."""
        match name.lower():
            case "sigmoid": return sigmoid
            case "tanh": return tanh
            case "relu": return partial(maximum, 0)
            case "softplus": return softplus
            case "softsign": return lambda x: x / (1 + absolute(x))
            case "leakyrelu": return partial(leaky_relu, alpha=next(alpha, 0.01))
            case "elu": return partial(elu, alpha=next(alpha, 1.0))
            case "affine": return partial(_affine, a=next(alpha, 1.0), b=next(beta, 0.0))
            case "hardsigmoid": return partial(_hard_sigmoid, a=next(alpha, 0.2), b=next(beta, 0.5))
            case "scaledtanh": return partial(_scaled_tanh, a=next(alpha, 1.0), b=next(beta, 1.0))
            case _: return self.ctx.refuse(f"activation {name}")

    def clipped(self, x: Expr) -> Expr:
        """What goes into an activation of a gate."""
        bound = self.ctx.attr("clip", 0.0)
        return clip(x, -bound, bound) if bound else x

    def by_direction(self, functions: list[list[Function]], make: Callable[..., Expr]) -> Expr:
        """`make` with the functions of the direction i0."""
        first = make(*functions[0])
        return first if len(functions) == 1 else select(D < 1, first, make(*functions[1]))

    def anchor(self, phases: tuple[tuple[int, ...], ...], h: Expr, c: Expr | None = None, between: Expr | None = None) -> Anchor:
        dtype = self.ctx.output_dtype()
        self.operands |= {"h": h, "h_first": self.state(5)}
        if c is not None:
            self.operands |= {"c": c, "c_first": self.state(6)}
        if between is not None:
            self.operands["between"] = between
        every = (B, T, D, J) if self.batch_first else (T, D, B, J)
        last = (B, D, J) if self.batch_first else (D, B, J)
        outputs = [Output(every, cast(H, dtype)), Output(last, cast(H, dtype)), Output(last, cast(C, dtype))]
        space = (self.directions, self.params["batch"], self.params["steps"], self.hidden)
        params = self.params | {"phases": phases}
        return Anchor("recurrent", space, tuple(outputs[:3 if c is not None else 2]), params, self.operands)


@lowering("LSTM", kind=ANCHOR, rereads=True, epilogue=False)
def lstm(ctx: Context) -> Anchor:
    """Gates i, o, f, c; peepholes i, o, f (ONNX's order)."""
    cell = Cell(ctx, 4)
    for n in range(4):
        cell.add(n, n, n, cell.bias(n, 4 + n))

    def total(n: int, state: Expr) -> Expr:
        """Gate n with its peephole."""
        if not ctx.has(7):
            return cell.clipped(gate(n))
        return cell.clipped(gate(n) + cast(ctx.input(7).at([D, J + n * cell.hidden]), F32) * state)

    def next_c(f: Function, g: Function, h: Function) -> Expr:
        enter = f(total(0, C))
        keep = 1 - enter if ctx.attr("input_forget", 0) else f(total(2, C))
        return keep * C + enter * g(cell.clipped(gate(3)))

    functions = cell.activations("Sigmoid", "Tanh", "Tanh")
    return cell.anchor(((0, 1, 2, 3),), cell.by_direction(functions, lambda f, g, h: f(total(1, C_NEW)) * h(C_NEW)),
                       cell.by_direction(functions, next_c))


@lowering("GRU", kind=ANCHOR, rereads=True, epilogue=False)
def gru(ctx: Context) -> Anchor:
    """Gates z, r, h. linear_before_reset: the reset scales the product with the state, which then is a sum of its own."""
    cell = Cell(ctx, 3)
    cell.add(0, 0, 0, cell.bias(0, 3))
    cell.add(1, 1, 1, cell.bias(1, 4))
    functions = cell.activations("Sigmoid", "Tanh")

    def mixed(f: Function, candidate: Expr) -> Expr:
        keep = f(cell.clipped(gate(0)))
        return (1 - keep) * candidate + keep * H
    if ctx.attr("linear_before_reset", 0):
        cell.add(2, 2, None, cell.bias(2))
        cell.add(3, None, 2, cell.bias(5))
        return cell.anchor(((0, 1, 2, 3),), cell.by_direction(
            functions, lambda f, g: mixed(f, g(cell.clipped(gate(2) + f(cell.clipped(gate(1))) * gate(3))))))
    cell.add(2, 2, 2, cell.bias(2, 5))
    return cell.anchor(((0, 1), (2,)), cell.by_direction(functions, lambda f, g: mixed(f, g(cell.clipped(gate(2))))),
                       between=cell.by_direction(functions, lambda f, g: f(cell.clipped(gate(1))) * H))


@lowering("RNN", kind=ANCHOR, rereads=True, epilogue=False)
def rnn(ctx: Context) -> Anchor:
    cell = Cell(ctx, 1)
    cell.add(0, 0, 0, cell.bias(0, 1))
    return cell.anchor(((0,),), cell.by_direction(cell.activations("Tanh"), lambda f: f(cell.clipped(gate(0)))))

