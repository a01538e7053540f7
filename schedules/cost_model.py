"""A learned cost model: ranks a task's candidates before any is measured, and learns from those that are.

Gradient-boosted trees (XGBoost) with a ranking objective: only the order among the candidates of one task matters, as their
times are compared with each other and with nothing else (Chen et al., arXiv:1805.08166, section 5). Models are shipped as
XGBoost's JSON in `pretrained/`, one for each kind of device; `tools/train_cost_model.py` makes them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .candidate import Candidate
from .device import Device
from .features import NAMES, matrix
from .task import Task
from .template import Template

if TYPE_CHECKING:       # takes a third of a second to load, which nobody should wait for who only runs an artifact
    import xgboost as xgb

PRETRAINED = Path(__file__).parent / "pretrained"
KINDS: Mapping[str, str] = {"x86_64": "cpu", "aarch64": "cpu", "wasm32": "wasm"}     # architecture -> file
STEP = math.log(1.02)       # times this close are one grade: less than the noise of most measurements
TRAINED = "templates"       # attribute of a booster: the templates whose candidates it has seen
GRADES = 31                 # of which the last is for whatever takes longer than 1.02 ** 31 = 1.85 times the best
# Of a session's trees, which see few tasks: with a weaker reg_lambda they unlearn what is right on a device that is known well.
UPDATE_ROUNDS, UPDATE = 30, {"eta": 0.1, "max_depth": 4, "reg_lambda": 20}


class ModelFileError(Exception):
    """A cost model's file is missing, damaged, or of another version; the message says which file and what to do."""


@dataclass(frozen=True)
class Group:
    """What was measured of one task on one device. seconds: of each candidate, infinite where it failed."""

    task: Task
    device: Device
    candidates: tuple[Candidate, ...]
    seconds: tuple[float, ...]


class CostModel:
    """Scores candidates; without a booster by their analytic cost. nthread: of training and prediction; seed: of training."""

    def __init__(self, booster: xgb.Booster | None = None, nthread: int = 1, seed: int = 0) -> None:
        self._base, self._booster, self._nthread, self._seed = booster, booster, nthread, seed
        if booster is not None:
            booster.set_param({"nthread": nthread})

    @classmethod
    def pretrained(cls, device: Device, nthread: int = 1, seed: int = 0) -> CostModel | None:
        """The model shipped for devices of this kind; None where there is none. Raises ModelFileError."""
        kind = KINDS.get(device.arch)
        return cls(load(PRETRAINED / f"{kind}.json"), nthread, seed) if kind else None

    def knows(self, templates: Iterable[Template]) -> bool:
        """Was it trained on all of them? What it says of others is a guess. Analytic costs know every template."""
        known = set((self._base.attr(TRAINED) or "").split()) if self._base is not None else None
        return known is None or all(t.name in known for t in templates)

    def scores(self, task: Task, candidates: Sequence[Candidate], device: Device) -> np.ndarray:
        """float32 [candidates]: the higher, the faster. Comparable among candidates of one task only."""
        if not candidates:
            return np.zeros(0, np.float32)
        x = matrix(task, candidates, device)
        return -x[:, NAMES.index("log_cost")] if self._booster is None else self._booster.inplace_predict(x)

    def update(self, groups: Sequence[Group]) -> None:
        """Learns this session's measurements: all of them so far, as it begins anew from the shipped model each time. Fewer than
        two candidates that ran teach nothing."""
        import xgboost as xgb

        data = dataset(groups, self._nthread)
        if data is None:
            self._booster = self._base
            return
        self._booster = xgb.train({**parameters(self._nthread, self._seed), **UPDATE}, data, UPDATE_ROUNDS, xgb_model=self._base)


def load(path: Path) -> xgb.Booster:
    """A booster from its JSON. XGBoost ends the process where it cannot read a file, so that the file must be as `save` left it:
    its checksum lies beside it. Raises ModelFileError."""
    import xgboost as xgb

    remedy = "reinstall burnish, or make it anew: python -m burnish.tools.train_cost_model fit"
    try:
        data, sums = path.read_bytes(), checksum(path).read_text()
    except OSError as e:
        raise ModelFileError(f"the cost model {e.filename} cannot be read ({e.strerror}): {remedy}") from None
    if sums != line(path, data):
        raise ModelFileError(f"the cost model {path} is damaged (it has not the checksum of {checksum(path).name}): {remedy}")
    booster = xgb.Booster()
    booster.load_model(bytearray(data))
    if booster.feature_names != list(NAMES):
        raise ModelFileError(f"the cost model {path} was trained on other features than this version's: {remedy}")
    return booster


def save(booster: xgb.Booster, path: Path, templates: Iterable[str]) -> None:
    """templates: names of those that it was trained on."""
    booster.set_attr(**{TRAINED: " ".join(sorted(set(templates)))})
    data = bytes(booster.save_raw("json"))
    path.write_bytes(data)
    checksum(path).write_text(line(path, data))


def checksum(path: Path) -> Path:
    return path.with_suffix(".sha256")


def line(path: Path, data: bytes) -> str:
    """As sha256sum writes it."""
    return f"{hashlib.sha256(data).hexdigest()}  {path.name}\n"


def parameters(nthread: int, seed: int) -> dict[str, Any]:
    """Of training, but for the size of the model. All else equal, what is dearer by analytic cost is never ranked higher: that is
    what holds where nothing was measured."""
    falling = ",".join("-1" if name in ("excess", "rank") else "0" for name in NAMES)
    return {"objective": "rank:pairwise", "lambdarank_pair_method": "mean", "lambdarank_num_pair_per_sample": 32,
            "monotone_constraints": f"({falling})", "tree_method": "hist", "nthread": nthread, "seed": seed}


def train(groups: Sequence[Group], rounds: int, nthread: int = 1, seed: int = 0, **other: float) -> xgb.Booster:
    """A model from measurements alone. other: more of XGBoost's parameters. Raises ValueError where there is nothing to learn."""
    import xgboost as xgb

    data = dataset(groups, nthread)
    if data is None:
        raise ValueError("no task has two candidates that ran: there is nothing to learn")
    return xgb.train({**parameters(nthread, seed), **other}, data, rounds)


def dataset(groups: Sequence[Group], nthread: int) -> xgb.DMatrix | None:
    """One ranking group for each task and device; None where nothing can be compared."""
    import xgboost as xgb

    rows, labels, sizes = [], [], []
    for g in groups:
        ran = [n for n, s in enumerate(g.seconds) if math.isfinite(s)]
        if len(ran) < 2:
            continue
        rows.append(matrix(g.task, [g.candidates[n] for n in ran], g.device))
        labels.append(grades(np.array([g.seconds[n] for n in ran])))
        sizes.append(len(ran))
    if not rows:
        return None
    return xgb.DMatrix(np.concatenate(rows), np.concatenate(labels), group=sizes, feature_names=list(NAMES), nthread=nthread)


def grades(seconds: np.ndarray) -> np.ndarray:
    """float32 [candidates]: GRADES for the fastest, down to 0."""
    slower = np.log(seconds / seconds.min()) / STEP
    return np.maximum(0, GRADES - np.round(slower)).astype(np.float32)
