"""Graphs that were once compiled wrong, as small as they could be made."""

from __future__ import annotations

from collections.abc import Callable

from .writer import Writer

REGRESSIONS: list[Callable[[], Writer]] = []


def regression(body: Callable[[Writer], object]) -> Callable[[Writer], object]:
    """Registers a graph."""
    def make() -> Writer:
        w = Writer(0, f"{body.__name__}_")
        body(w)
        w.outputs = [n for n in w.types if not any(n in node.input for node in w.nodes)]
        return w
    REGRESSIONS.append(make)
    return body


@regression
def triangle(w: Writer) -> None:
    """Axes were merged although a condition beside the load depends on one of them."""
    w.add("Trilu", w.input("float32", (2, 3, 2, 8)), w.const(0, "int64"), upper=0)
    w.add("Trilu", w.add("Reshape", w.input("float32", (2, 3, 13, 5)), w.ints(6, 13, 5)), w.const(2, "int64"), upper=0)


@regression
def normalisation_of_strided_rows(w: Writer) -> None:
    """A value kept between the sweeps of a row was made of another such value, which its sweep did not read."""
    x = w.input("float32", (1, 6, 2, 12))
    t = w.add("Reshape", w.add("Transpose", x, perm=[0, 1, 3, 2]), w.ints(1, 6, 12, 2))
    w.add("LayerNormalization", t, w.weight(2, scale=1), w.weight(2, scale=1), epsilon=1e-3)


@regression
def functions_of_functions(w: Writer) -> None:
    """TVM's code generator took minutes."""
    w.add("Asinh", w.add("Cos", w.add("LogSoftmax", w.input("float32", (1, 16, 8)), axis=-1)))


@regression
def resized_to_one(w: Writer) -> None:
    """pytorch_half_pixel reads element 0 where a single one comes out; a coordinate that falls on an element rounds as in
    onnxruntime."""
    w.add("Resize", w.input("float32", (1, 2, 2, 3)), "", "", w.ints(1, 2, 2, 1), mode="cubic",
          coordinate_transformation_mode="pytorch_half_pixel")
    w.add("Resize", w.input("float32", (1, 1, 7, 9)), "", "", w.ints(1, 1, 1, 39), mode="nearest", nearest_mode="floor")
