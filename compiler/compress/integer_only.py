"""The integer-only mode: ranges from sample inputs, then integers from the first quantization to the last dequantization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import onnx_ir as ir

from ...passes.base import Unsupported
from ...passes.compress.integer_graph import channels
from ...passes.compress.integer_only import Product, floats, to_integers
from ...passes.compress.integer_ranges import Seen
from ..driver import Progress, silent
from ..errors import Refusal, Refused
from .calibration import Calibration, observe, probe
from .report import LayerReport

ROWS, NUMBERS = 512, 8192       # of a value that are kept of all inputs together, at least
JUDGED = 8                      # inputs on which the result is compared


@dataclass
class _Sampler:
    """Lowest and highest number of a value, its channels' means, and some of its rows of each input. axis: of the channels;
    share: among how many inputs the rows are shared out."""

    axis: int
    share: int
    low: float = 0.0
    high: float = 0.0
    total: np.ndarray | float = 0.0
    count: int = 0
    rows: list[np.ndarray] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def update(self, array: np.ndarray) -> None:
        if not array.size:
            return
        self.low, self.high = min(self.low, float(array.min())), max(self.high, float(array.max()))
        last = np.moveaxis(array, self.axis, -1) if array.ndim else array
        rows = last.reshape(-1, last.shape[-1] if array.ndim else 1)
        self.total, self.count = self.total + rows.sum(0, dtype=np.float64), self.count + len(rows)
        count = -(-max(ROWS, NUMBERS // rows.shape[1]) // self.share)
        self.rows.append(rows[self.rng.permutation(len(rows))[:count]].astype(np.float32))

    @property
    def seen(self) -> Seen:
        return Seen(self.low, self.high, np.asarray(self.total / max(1, self.count)), np.concatenate(self.rows))


def integer_only(model: ir.Model, data: Calibration, *, top: int = 127, progress: Progress = silent) -> list[LayerReport]:
    """Rewrites a model, as `passes.canonicalize` leaves it, in place. top: the largest uint8 of activations, 255, or 127 for
    kernels that take 7 bits. The errors reported are of all that happened up to a layer, on the first few inputs.

    Raises Refused with every node that has no integer form, and OracleError where onnxruntime cannot run the model.
    """
    before = model.clone()
    samplers = {v.name: _Sampler(channels(v), len(data)) for v in floats(model) if v.name}
    observe(model, samplers, data, "ranges", progress)
    try:
        products = to_integers(model, {name: sampler.seen for name, sampler in samplers.items()}, top)
    except ExceptionGroup as found:
        raise Refused([Refusal(e.node, e.op, e.version, e.reason, e.hint) for e in found.exceptions
                       if isinstance(e, Unsupported)]) from None
    return _reports(before, model, products, data, progress)


def _reports(before: ir.Model, after: ir.Model, products: Sequence[Product], data: Calibration, progress: Progress
             ) -> list[LayerReport]:
    names = [str(p.form.value.name) for p in products]
    wanted, found = probe(before, [p.output for p in products]), probe(after, names)
    wrong, size = np.zeros(len(products)), np.zeros(len(products))
    feeds = list(islice(data, JUDGED))
    for done, feed in enumerate(feeds, 1):
        real, integers = wanted(feed), found(feed)
        for n, (p, name) in enumerate(zip(products, names, strict=True)):
            y = real[p.output]
            wrong[n] += np.square(p.form.real(integers[name]) - y, dtype=np.float64).sum()
            size[n] += np.square(y, dtype=np.float64).sum()
        progress("errors", done, len(feeds))
    return [LayerReport(p.layer, "integer-only", float(np.sqrt(e / max(s, 1e-30))), p.before, p.after)
            for p, e, s in zip(products, wrong, size, strict=True)]
