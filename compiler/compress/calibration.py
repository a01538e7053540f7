"""Sample inputs, and what is measured on them while they stream through onnxruntime: nothing is kept but the observers' sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from ..driver import Progress, silent
from ..sample import session

Feed = dict[str, np.ndarray]        # an array for each of the model's inputs, in its static shape


class Calibration(Protocol):
    """Sample inputs that can be gone through again and again, one Feed at a time."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Feed]: ...


class Observer(Protocol):
    """Sums up the arrays that a value of the graph takes."""

    def update(self, array: np.ndarray) -> None: ...


def observe(model: ir.Model, observers: Mapping[str, Observer], data: Calibration, what: str = "observe",
            progress: Progress = silent) -> None:
    """Runs the model on all of `data` and shows each named value to its observer, one Feed after another. The names may be of
    any values of the graph, its inputs too. Raises OracleError where onnxruntime cannot run it."""
    show = probe(model, tuple(observers))
    progress(what, 0, len(data))
    for done, feed in enumerate(data, 1):
        for name, array in show(feed).items():
            observers[name].update(array)
        progress(what, done, len(data))


def probe(model: ir.Model, names: Sequence[str]) -> Callable[[Feed], dict[str, np.ndarray]]:
    """A function that runs the model on a Feed and gives the named values of its graph, inputs too. Raises OracleError."""
    graph = model.clone()
    values = {v.name: v for v in (*graph.graph.inputs, *(o for n in graph.graph for o in n.outputs))}
    outputs = {v.name for v in graph.graph.outputs}
    inputs = {v.name for v in graph.graph.inputs}
    wanted = [name for name in names if name not in inputs]
    graph.graph.outputs.extend(values[name] for name in wanted if name not in outputs)
    run = session(graph)

    def show(feed: Feed) -> dict[str, np.ndarray]:
        found = dict(zip(wanted, run.run(wanted, feed), strict=True)) if wanted else {}
        return {name: feed[name] if name in inputs else found[name] for name in names}

    return show
