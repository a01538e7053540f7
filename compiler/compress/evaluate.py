"""How good a compressed model is: close to the model that it was, without labels; or by a score that labels or the user give."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...targets.plan import Signature
from ..driver import Progress, silent
from ..errors import BurnishError, DataRefused
from ..sample import session
from .calibration import Calibration, Feed
from .sources import Folder, Pixels, files, function

Predict = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]        # the model's inputs by name -> its outputs in order


@dataclass(frozen=True)
class Score:
    """A figure of merit."""

    name: str
    value: float
    higher_is_better: bool = True

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g}"


def drop(before: Score, after: Score) -> float:
    """By how much it became worse, in the score's own unit; negative where it became better."""
    return (before.value - after.value) * (1 if before.higher_is_better else -1)


def predictor(model: ir.Model, threads: int = 0) -> Predict:
    """The model in onnxruntime, which computes it as burnish does: what it says is float stays float. Raises OracleError."""
    run = session(model, threads, as_written=True)
    return lambda feed: [np.asarray(o) for o in run.run(None, dict(feed))]


# ---- Without labels ------------------------------------------------------------------------------------------------------


@dataclass
class Fidelity:
    """How close outputs are to those of the model that was compressed, summed up sample by sample.

    error: |y - y'| / |y|, the Euclidean norm over all outputs and samples. agreement: the share of samples with the same top
    class, where an output is a vector of class scores [1, C]; else None. cosine: of y and y', the mean over samples.
    """

    samples: int = 0
    scored: int = 0
    agreed: int = 0
    cosines: float = 0.0
    noise: float = 0.0      # the sum of squares of y - y'
    signal: float = 0.0     # of y
    finite: bool = True

    def update(self, expected: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> None:
        """One sample's outputs of both models, in the same order."""
        a = np.concatenate([np.asarray(e, np.float64).ravel() for e in expected])
        b = np.concatenate([np.asarray(g, np.float64).ravel() for g in got])
        self.finite &= bool(np.isfinite(b[np.isfinite(a)]).all())
        known = np.isfinite(a) & np.isfinite(b)
        a, b = a[known], b[known]
        self.samples += 1
        self.noise += float(((a - b) ** 2).sum())
        self.signal += float((a ** 2).sum())
        norms = math.sqrt((a ** 2).sum() * (b ** 2).sum())
        self.cosines += float(a @ b) / norms if norms else float(np.array_equal(a, b))
        for e, g in zip(expected, got, strict=True):
            if _class_scores(e):
                self.scored += 1
                self.agreed += int(np.argmax(e) == np.argmax(g))

    @property
    def error(self) -> float:
        if not self.finite:
            return math.inf
        return math.sqrt(self.noise / self.signal) if self.signal else (math.inf if self.noise else 0.0)

    @property
    def agreement(self) -> float | None:
        return self.agreed / self.scored if self.scored else None

    @property
    def cosine(self) -> float:
        return self.cosines / self.samples if self.samples else 1.0

    @property
    def snr(self) -> float:
        """The ratio of signal to noise in decibel; infinite where the outputs are equal."""
        return -20 * math.log10(self.error) if self.error else math.inf

    @property
    def scores(self) -> tuple[Score, ...]:
        """The first is what decides: agreement where there are classes, else 1 - error."""
        agreed = (Score("agreement", self.agreement),) if self.agreement is not None else ()
        return (*agreed, Score("fidelity", 1 - self.error), Score("cosine", self.cosine), Score("SNR dB", self.snr))


def _class_scores(output: np.ndarray) -> bool:
    return output.ndim == 2 and output.shape[0] == 1 and output.shape[1] > 1 and output.dtype.kind == "f"


def fidelity(expected: Predict, got: Predict, data: Calibration, progress: Progress = silent) -> Fidelity:
    """Of `got` to `expected`, one sample after another."""
    found = Fidelity()
    for n, feed in enumerate(data, 1):
        found.update(expected(feed), got(feed))
        progress("evaluate", n, len(data))
    return found


# ---- With labels, or by a function of the user's ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Labelled:
    """Samples in files, each with the number of its class."""

    folder: Folder
    classes: tuple[int, ...]

    @classmethod
    def of(cls, path: Path, signatures: Sequence[Signature], pixels: Pixels) -> Labelled:
        """A folder with a sub-folder of samples for each class, named by its number, or with files whose names end in it
        (cat_0281.png). Raises DataRefused."""
        found = files(path)
        classes = [_class_of(p, path) for p in found]
        unknown = [p for p, c in zip(found, classes, strict=True) if c is None]
        if unknown:
            raise DataRefused(f"{unknown[0]} has no class: put it into a folder named by the class's number, or end its name in "
                              f"it, as in {unknown[0].stem}_281{unknown[0].suffix}")
        return cls(Folder(found, tuple(signatures), pixels), tuple(c for c in classes if c is not None))

    def __iter__(self) -> Iterator[tuple[Feed, int]]:
        yield from zip(self.folder.feeds(range(len(self.classes))), self.classes, strict=True)

    def accuracy(self, predict: Predict, progress: Progress = silent) -> Score:
        """The share of samples whose top class is theirs, by the model's first output. Raises DataRefused where that has no
        such class."""
        right = 0
        for n, (feed, label) in enumerate(self, 1):
            scores = predict(feed)[0]
            if label >= scores.size:
                raise DataRefused(f"{self.folder.files[n - 1]} is of class {label}, the model's first output has {scores.size} "
                                  "values")
            right += int(np.argmax(scores) == label)
            progress("evaluate", n, len(self.classes))
        return Score("top-1", right / len(self.classes))


def _class_of(path: Path, root: Path) -> int | None:
    if path.parent != root and path.parent.name.isdecimal():
        return int(path.parent.name)
    found = re.search(r"_(\d+)$", path.stem)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class Judge:
    """Scores models, given as functions from inputs to outputs."""

    name: str
    call: Callable[[Predict, Progress], object] = field(repr=False)

    def __call__(self, predict: Predict, progress: Progress = silent) -> Score:
        found = self.call(predict, progress)
        if isinstance(found, Score):
            return found
        try:
            value = float(found)  # type: ignore[arg-type]  # what the user's function returns
        except (TypeError, ValueError):
            kind = type(found).__name__
            raise DataRefused(f"{self.name} returned {kind}: it must return a number, higher for better") from None
        if not math.isfinite(value):
            raise DataRefused(f"{self.name} returned {value}: it must return a finite number, higher for better")
        return Score(self.name, value)


def judge(spec: str | Path | Callable[[Predict], float], signatures: Sequence[Signature], pixels: Pixels | None = None) -> Judge:
    """What scores the model: a folder of labelled samples (top-1 accuracy), or a function, given as itself or as
    "module:function", called with predict(feed) -> outputs, that returns a number, higher for better. Raises DataRefused."""
    if not callable(spec):
        path = Path(spec)
        if path.is_dir():
            return Judge("top-1", Labelled.of(path, signatures, pixels or Pixels()).accuracy)
        if ":" not in str(spec):
            raise DataRefused(f"there is no folder {path}: give a folder of labelled samples, or module:function")
        return _judged_by(function(str(spec)), str(spec))
    return _judged_by(spec, spec.__name__)


def _judged_by(score: Callable[[Predict], float], name: str) -> Judge:
    def call(predict: Predict, progress: Progress) -> float:
        try:
            return score(predict)
        except BurnishError:
            raise
        except Exception as e:      # it runs the user's code
            raise DataRefused(f"{name} failed: {type(e).__name__}: {' '.join(str(e).split())[:300]}") from e
    return Judge(name, call)
