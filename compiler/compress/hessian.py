"""What pruning and recovery must know of a layer's data: sums over rows of its input and of what it should make of them.

Of a layer y = x W + b the squared error of any other W and b, and the W and b of least error, follow from H = x'x, C = x'y and a
few sums. x may come from a model whose earlier layers are compressed, y from the model as it was: then W also makes up for what
those layers did. Rows are drawn at random from each sample, so that time and memory do not grow with the data; of padded texts,
none from the padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...passes.base import attr, shape
from ...passes.compress import bias, obs
from ...passes.compress.layers import Layer
from ..driver import Progress, silent
from .calibration import Calibration, Feed, probe

ROWS = 8192             # of a layer, over all samples, at least; and EACH more for each step of its reduction
EACH = 8                # with 2, what was fitted to 96 texts in MiniLM's wide layers fitted only them
BLOCK = 512             # rows whose products are summed at once
MEMORY = 1 << 30        # bytes of sums held at once
STAGES = 8              # passes over the data, about


class Inputs:
    """Sums over the rows that one or more layers multiply: `square` [groups,k,k], `total` [groups,k], `count` rows."""

    def __init__(self, layer: Layer) -> None:
        groups, k, _ = layer.matrix.shape
        self.layer, self.count = layer, 0
        self.total, self.square = np.zeros((groups, k)), np.zeros((groups, k, k))

    def add(self, rows: np.ndarray) -> None:
        """rows: float32 [groups,rows,k]."""
        self.count += rows.shape[1]
        self.total += rows.sum(axis=1, dtype=np.float64)
        self.square += rows.transpose(0, 2, 1) @ rows


@dataclass
class Moments:
    """Of a layer. With a bias that may move (`centred`), all is about the mean, which the bias then takes care of."""

    inputs: Inputs
    centred: bool
    cross: np.ndarray                               # x'y [groups,k,n]
    outputs: np.ndarray                             # sums of y [groups,n]
    squares: np.ndarray                             # sums of y^2 [groups,n]

    def add(self, rows: np.ndarray, outputs: np.ndarray) -> None:
        """After the inputs were given the same rows. outputs: [groups,rows,n]."""
        self.cross += rows.transpose(0, 2, 1) @ outputs
        self.outputs += outputs.sum(axis=1, dtype=np.float64)
        self.squares += np.einsum("grn,grn->gn", outputs, outputs, dtype=np.float64)

    def hessian(self, group: int) -> np.ndarray:
        """x'x [k,k] of a group of the convolution."""
        square, total = self.inputs.square[group], self.inputs.total[group]
        return square - np.outer(total, total / self.inputs.count) if self.centred else square

    def damped(self, group: int, damping: float = obs.DAMPING) -> np.ndarray:
        """Positive definite, see obs.damped."""
        return obs.damped(self.hessian(group), damping)

    def target(self, group: int) -> np.ndarray:
        """x'y [k,n]."""
        if not self.centred:
            return self.cross[group]
        return self.cross[group] - np.outer(self.inputs.total[group], self.outputs[group] / self.inputs.count)

    def pull(self, group: int, w: np.ndarray) -> np.ndarray:
        """x'(y - x w) [k,n]: where it is zero, no change of w makes the error smaller."""
        return self.target(group) - self.hessian(group) @ w

    def error(self, matrix: np.ndarray) -> float:
        """|y' - y| / |y| of a matrix [groups,k,n] with the best bias for it."""
        own, energy = float(self.spread.sum()), float(self.squares.sum())
        for g, w in enumerate(np.asarray(matrix, np.float64)):
            own += float(np.vdot(w, self.hessian(g) @ w - 2 * self.target(g)))
        return math.sqrt(max(0.0, own) / energy) if energy > 0 else 0.0

    @property
    def spread(self) -> np.ndarray:
        """Sums of y^2 [groups,n], about the mean if that is the bias's."""
        return self.squares - self.outputs**2 / self.inputs.count if self.centred else self.squares

    def factors(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What y would best be multiplied by to be x W, and their correlation, for each channel: [groups,n]."""
        both = np.stack([np.einsum("kn,kn->n", w, self.target(g)) for g, w in enumerate(matrix)])
        own = np.stack([np.einsum("kn,kn->n", w, self.hessian(g) @ w) for g, w in enumerate(matrix)])
        live = (self.spread > 0) & (own > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(live, both / self.spread, 1.0), np.where(live, both / np.sqrt(self.spread * own), 1.0)

    def scaled(self, factors: np.ndarray) -> Moments:
        """With y times factors [groups,n]."""
        sums = self.cross * factors[:, None], self.outputs * factors, self.squares * factors**2
        return Moments(self.inputs, self.centred, *sums)

    def bias(self, matrix: np.ndarray) -> np.ndarray:
        """The best bias [groups * n] for the matrix [groups,k,n]: the mean of y - x W."""
        return ((self.outputs - np.einsum("gk,gkn->gn", self.inputs.total, matrix)) / self.inputs.count).reshape(-1)


def gather(model: ir.Model, layers: Sequence[Layer], data: Calibration, original: ir.Model | None = None, held: int = 0,
           what: str = "observe", progress: Progress = silent, seed: int = 0) -> tuple[dict[str, Moments], dict[str, Moments]]:
    """The Moments of layers of `model` by name, one pass over `data`. y is what the layers of the same names make in `original`;
    in the model itself if that is None. The second are of each `held`-th sample, which the first then leave out; the same as the
    first where there are fewer samples. Raises OracleError."""
    held = held if held <= len(data) else 0
    folds = [_Fold(layers, len(data)) for _ in range(2 if held else 1)]
    names = {layer.name: str(layer.output.name) for layer in layers}
    if original is not None:
        names = {str(n.name): str(n.outputs[0].name) for n in original.graph if n.name in names}
    show_inputs = probe(model, tuple({str(layer.input.name) for layer in layers}))
    show_outputs = probe(original or model, tuple(names.values()))
    rng = np.random.default_rng(seed)
    progress(what, 0, len(data))
    for done, feed in enumerate(data, 1):
        seen, made = show_inputs(feed), show_outputs(feed)
        fold = folds[1 if held and done % held == 0 else 0]
        fold.update(seen, {name: made[names[name]] for name in names}, not_padding(feed), rng)
        progress(what, done, len(data))
    for fold in folds:
        for key in fold.inputs:
            fold.flush(key)
    return folds[0].moments, folds[-1].moments


class _Fold:
    def __init__(self, layers: Sequence[Layer], samples: int) -> None:
        self.layers, self.samples = layers, samples
        self.inputs: dict[tuple[object, ...], Inputs] = {}
        self.moments: dict[str, Moments] = {}
        self.waiting: dict[tuple[object, ...], list[tuple[np.ndarray, dict[str, np.ndarray]]]] = {}
        for layer in layers:
            key = _reads(layer)
            if key not in self.inputs:
                self.inputs[key] = Inputs(layer)
            groups, k, n = layer.matrix.shape
            sums = np.zeros((groups, k, n)), np.zeros((groups, n)), np.zeros((groups, n))
            self.moments[layer.name] = Moments(self.inputs[key], bias.movable(layer), *sums)

    def update(self, seen: Mapping[str, np.ndarray], made: Mapping[str, np.ndarray], real: np.ndarray | None,
               rng: np.random.Generator) -> None:
        for key, own in self.inputs.items():
            some = _draw(own.layer, self.samples, real, rng)
            rows = own.layer.rows(seen[str(own.layer.input.name)], some)
            outputs = {x.name: x.outputs(made[x.name]) for x in self.layers if _reads(x) == key}
            if some is not None:
                outputs = {name: y[:, some] for name, y in outputs.items()}
            waiting = self.waiting.setdefault(key, [])
            waiting.append((rows, outputs))
            if sum(r.shape[1] for r, _ in waiting) >= BLOCK:
                self.flush(key)

    def flush(self, key: tuple[object, ...]) -> None:
        """Many rows at once: a sum of k x k products costs as much memory traffic for one row as for hundreds."""
        waiting = self.waiting.pop(key, [])
        if waiting:
            rows = np.concatenate([r for r, _ in waiting], axis=1)
            self.inputs[key].add(rows)
            for name in waiting[0][1]:
                self.moments[name].add(rows, np.concatenate([y[name] for _, y in waiting], axis=1))


def stages(layers: Iterable[Layer], most: int = STAGES, memory: int = MEMORY) -> Iterator[list[Layer]]:
    """Layers in a row whose sums are gathered together, equally many in each of about `most` stages; more stages where memory
    asks for it. Layers that read the same value stay together."""
    heads: dict[tuple[object, ...], list[Layer]] = {}
    for layer in layers:
        heads.setdefault(_reads(layer), []).append(layer)
    share = math.ceil(sum(map(len, heads.values())) / most)
    stage: list[Layer] = []
    for group in heads.values():
        if stage and (len(stage) + len(group) > share or _bytes([*stage, *group]) > memory):
            yield stage
            stage = []
        stage = stage + group
    if stage:
        yield stage


def _bytes(layers: Sequence[Layer]) -> int:
    squares = {_reads(layer): layer.matrix.shape[0] * layer.matrix.shape[1] ** 2 for layer in layers}
    return 8 * (sum(squares.values()) + sum(layer.matrix.size for layer in layers))


def _reads(layer: Layer) -> tuple[object, ...]:
    """Equal for layers that multiply the same rows."""
    if not layer.is_conv:
        return (layer.input.name,)
    geometry = tuple(str(attr(layer.node, name)) for name in ("pads", "strides", "dilations"))
    return (layer.input.name, *geometry, layer.groups, layer.weight.shape[2:])


def not_padding(feed: Feed) -> np.ndarray | None:
    """bool [places]: which places of a text are no padding, as an integer input says that has "mask" in its name; None if none
    does. What layers make of padding matters to nobody, and in a short text it is nearly all."""
    masks = [v for name, v in feed.items() if "mask" in name.lower() and v.dtype.kind in "iub" and v.ndim == 2]
    return masks[0].reshape(-1) != 0 if len(masks) == 1 and masks[0].any() else None


def _draw(layer: Layer, samples: int, real: np.ndarray | None, rng: np.random.Generator) -> np.ndarray | None:
    """Which rows of a sample are looked at; None for all."""
    groups, k, n = layer.matrix.shape
    rows = math.prod(shape(layer.output) or ()) // (groups * n)
    wanted = math.ceil((ROWS + EACH * k) / samples)
    if real is not None and real.size == rows and not layer.is_conv:
        found = np.flatnonzero(real)
        return found if len(found) <= wanted else np.sort(rng.choice(found, wanted, replace=False))
    return None if rows <= wanted else np.sort(rng.choice(rows, wanted, replace=False))
