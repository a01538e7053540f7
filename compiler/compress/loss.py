"""What a compressed model has lost, on samples that its compression did not see, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..driver import Progress, silent
from .calibration import Calibration
from .evaluate import Fidelity, Judge, Predict, Score, predictor


@dataclass(frozen=True)
class Loss:
    """value: what it lost: the drop of the score, the share of samples whose top class changed, or how far outputs are off,
    |y - y'| / |y|. error: one standard error of that, as the samples are but a sample. scores: all that is known of the model."""

    value: float
    error: float
    scores: tuple[Score, ...]

    @property
    def safe(self) -> float:
        """What the loss is not beyond in 19 of 20 sets of samples like this one."""
        return self.value + 1.645 * self.error


NONE = Loss(0.0, 0.0, ())


class Losses:
    """Judges compressed forms of one model. judge: what scores a model; without one it is compared with the original."""

    def __init__(self, original: ir.Model, unseen: Calibration, judge: Judge | None = None, progress: Progress = silent) -> None:
        self._expected, self._unseen, self._judge, self._progress = predictor(original), unseen, judge, progress
        self._before = judge(self._expected, progress) if judge is not None else None

    def __call__(self, model: ir.Model) -> Loss:
        got = predictor(model)
        if self._judge is not None and self._before is not None:
            after = self._judge(got, self._progress)
            sign = 1 if self._before.higher_is_better else -1
            return Loss(sign * (self._before.value - after.value), 0.0, (after,))
        return self._fidelity(got)

    def _fidelity(self, got: Predict) -> Loss:
        """The error of a share k / n is that of (k + 1) / (n + 2), which is not 0 for k = 0 (Agresti and Coull 1998); of |y - y'|
        that of the mean over samples."""
        found, errors = Fidelity(), list[float]()
        for n, feed in enumerate(self._unseen, 1):
            expected, mine = self._expected(feed), got(feed)
            one = Fidelity()
            one.update(expected, mine)
            found.update(expected, mine)
            errors.append(one.error)
            self._progress("judge", n, len(self._unseen))
        n = found.scored
        if found.agreement is not None:
            p = (n - found.agreed + 1) / (n + 2)
            return Loss(1 - found.agreement, math.sqrt(p * (1 - p) / n), found.scores)
        spread = float(np.std(errors)) / math.sqrt(len(errors)) if len(errors) > 1 and math.isfinite(found.error) else 0.0
        return Loss(found.error, spread, found.scores)
