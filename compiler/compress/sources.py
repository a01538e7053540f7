"""Where sample inputs come from: a folder of pictures or arrays, one file of many samples, a Python function. They are read one
sample at a time, each time that they are gone through.

A sample is an array for each of the model's inputs, with or without the first axis of an input that has one there. Broken data
raise DataRefused, at the latest when they are read.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from ...targets.plan import Signature
from ..arrays import image
from ..errors import BurnishError, DataRefused
from .archive import Rows
from .calibration import Feed

T = TypeVar("T")
Function = Callable[..., Any]
ARRAYS = (".npy", ".npz")


@dataclass(frozen=True)
class Pixels:
    """How pictures become inputs, as `burnish run` has it: (pixel / 255 - mean) / std, with one number or one per channel."""

    mean: str = "0"
    std: str = "1"


class Source(Protocol):
    def __len__(self) -> int: ...

    def feeds(self, wanted: range) -> Iterator[Feed]:
        """The samples of these numbers (ascending)."""
        ...


@dataclass(frozen=True)
class Samples:
    """Some samples of a source: a Calibration. notes: what a user should know of them."""

    source: Source
    wanted: range
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.wanted)

    def __iter__(self) -> Iterator[Feed]:
        return self.source.feeds(self.wanted)

    def most(self, count: int) -> Samples:
        """At most `count` of them, spread evenly."""
        step = max(1, -(-len(self) // count))
        return replace(self, wanted=self.wanted[::step])

    def halves(self) -> tuple[Samples, Samples]:
        """Every second one, and the others: to calibrate on, and to judge by."""
        return replace(self, wanted=self.wanted[::2]), replace(self, wanted=self.wanted[1::2])


def calibration(spec: str | Path | Function, signatures: Sequence[Signature], pixels: Pixels | None = None) -> Samples:
    """The samples of a folder (pictures; .npy or .npz files, a sample in each), of an .npy or .npz file (samples along the first
    axis), or of a function without arguments, given as itself or as "module:function", that yields a sample at a time: a dict by
    input names, an array for a model of one input, or a list with an array for each. Raises DataRefused."""
    source = _source(spec, tuple(signatures), pixels or Pixels())
    if not len(source):
        raise DataRefused(f"{_name(spec)} has no samples: give at least one, better 64 or more")
    for _ in source.feeds(range(1)):    # what does not fit the model is said at once
        pass
    few = f"{_name(spec)} has one sample only: ranges seen on one sample rarely hold for others; give 64 or more"
    return Samples(source, range(len(source)), (few,) if len(source) == 1 else ())


def function(spec: str) -> Function:
    """The function "module:function" names, of the working folder or of what is installed. Raises DataRefused."""
    module, _, name = spec.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except Exception as e:      # it runs the user's code
        raise DataRefused(f"cannot import {module!r} for {spec!r}: {_reason(e)}") from e
    finally:
        sys.path.remove(here)
    target = getattr(found, name, None)
    if not callable(target):
        raise DataRefused(f"module {module!r} has no function {name!r}")
    return target


def _source(spec: str | Path | Function, signatures: tuple[Signature, ...], pixels: Pixels) -> Source:
    if callable(spec):
        return Called(spec, _name(spec), signatures)
    path = Path(spec)
    if path.is_dir():
        return Folder(files(path), signatures, pixels)
    if path.is_file():
        if path.suffix in ARRAYS:
            return Stacked(path, signatures)
        raise DataRefused(f"{path} is neither a folder of samples nor an .npy or .npz file")
    if isinstance(spec, str) and ":" in spec:
        return Called(function(spec), spec, signatures)
    raise DataRefused(f"there is no file or folder {path}: give a folder of samples, an .npy or .npz file, or module:function")


def files(folder: Path) -> tuple[Path, ...]:
    """The samples in a folder and its sub-folders, by name. Raises DataRefused where there are none, or of several kinds."""
    found = tuple(sorted(p for p in folder.rglob("*") if p.is_file() and (p.suffix in ARRAYS or is_picture(p))))
    kinds = {p.suffix if p.suffix in ARRAYS else "picture" for p in found}
    if len(kinds) > 1:
        raise DataRefused(f"{folder} has files of {len(kinds)} kinds ({', '.join(sorted(kinds))}): one kind only can be meant")
    if not found:
        raise DataRefused(f"{folder} has neither pictures nor .npy or .npz files")
    return found


@dataclass(frozen=True)
class Folder:
    """A sample in each file."""

    files: tuple[Path, ...]
    signatures: tuple[Signature, ...]
    pixels: Pixels

    def __len__(self) -> int:
        return len(self.files)

    def feeds(self, wanted: range) -> Iterator[Feed]:
        for n in wanted:
            yield self.read(self.files[n])

    def read(self, path: Path) -> Feed:
        if is_picture(path):
            signature = self._only(path)
            try:
                pixels = image(path, signature, self.pixels.mean, self.pixels.std)
            except BurnishError as e:
                raise DataRefused(str(e)) from None
            return fit({signature.name: pixels}, self.signatures, str(path))
        loaded = _load(path)
        if isinstance(loaded, np.ndarray):
            return fit({self._only(path).name: loaded}, self.signatures, str(path))
        with loaded:
            try:
                return fit(_named(dict(loaded), self.signatures), self.signatures, str(path))
            except (OSError, ValueError) as e:
                raise DataRefused(f"cannot read {path}: {_reason(e)}") from None

    def _only(self, path: Path) -> Signature:
        if len(self.signatures) == 1:
            return self.signatures[0]
        raise DataRefused(f"{path} is one array, the model has the inputs {_names(self.signatures)}: give .npz files with "
                          "their names")


def _load(path: Path) -> np.ndarray | np.lib.npyio.NpzFile:
    try:
        return np.load(path, allow_pickle=False)
    except Exception as e:      # numpy and zipfile have many ways to fail on broken files
        raise DataRefused(f"cannot read {path}: {_reason(e)}") from None


@dataclass(frozen=True)
class Stacked:
    """An .npy file, or an .npz file with an array for each input: samples along the first axis."""

    path: Path
    signatures: tuple[Signature, ...]

    def __len__(self) -> int:
        rows = self._arrays()
        counts = {name: len(r) for name, r in rows.items()}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{n} of {name}" for name, n in counts.items())
            raise DataRefused(f"{self.path}: the arrays have different numbers of samples: {said}")
        return next(iter(counts.values()))

    def feeds(self, wanted: range) -> Iterator[Feed]:
        rows = self._arrays()
        try:
            for n, sample in zip(wanted, zip(*(r.take(wanted) for r in rows.values()), strict=True), strict=True):
                yield fit(dict(zip(rows, sample, strict=True)), self.signatures, f"{self.path}, sample {n}")
        except (OSError, ValueError, EOFError) as e:
            raise DataRefused(f"cannot read {self.path}: {_reason(e)}") from None

    def _arrays(self) -> dict[str, Rows]:
        rows = Rows.of(self.path)
        if self.path.suffix == ".npy" and len(self.signatures) > 1:
            raise DataRefused(f"{self.path} is one array, the model has the inputs {_names(self.signatures)}: give an .npz file "
                              "that names them")
        named = _named(rows, self.signatures)
        strange = [name for name in named if name not in {s.name for s in self.signatures}]
        missing = [s.name for s in self.signatures if s.name not in named]
        if strange or missing:
            raise DataRefused(_other_names(strange, missing, self.signatures, str(self.path)))
        return named


@dataclass(frozen=True)
class Called:
    """What a function yields; it is called anew each time."""

    call: Function
    name: str
    signatures: tuple[Signature, ...]

    def __len__(self) -> int:
        return sum(1 for _ in self._all())

    def feeds(self, wanted: range) -> Iterator[Feed]:
        chosen = islice(enumerate(self._all()), wanted.start, wanted.stop, wanted.step)
        for n, sample in chosen:
            yield fit(self._arrays(sample, n), self.signatures, f"{self.name}, sample {n}")

    def _all(self) -> Iterator[Any]:
        try:
            made = self.call()
            if isinstance(made, np.ndarray | Mapping) or not isinstance(made, Iterable):
                raise DataRefused(f"{self.name} returns one {type(made).__name__}: it must yield samples or return a list")
            yield from made
        except BurnishError:
            raise
        except Exception as e:      # it runs the user's code
            raise DataRefused(f"{self.name} failed: {_reason(e)}") from e

    def _arrays(self, sample: Any, n: int) -> dict[str, np.ndarray]:
        if isinstance(sample, Mapping):
            return {str(k): np.asarray(v) for k, v in sample.items()}
        arrays = list(sample) if isinstance(sample, list | tuple) else [sample]
        if len(arrays) != len(self.signatures):
            raise DataRefused(f"{self.name}, sample {n}: {len(arrays)} arrays came, the model has the inputs "
                              f"{_names(self.signatures)}: yield a dict by these names")
        return {s.name: np.asarray(a) for s, a in zip(self.signatures, arrays, strict=True)}


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in Image.registered_extensions()


# ---- A sample that fits the model ----------------------------------------------------------------------------------------


def fit(arrays: Mapping[str, np.ndarray], signatures: Sequence[Signature], where: str) -> Feed:
    """The sample in the shapes and dtypes of the inputs. Raises DataRefused for what is missing, too much, misshapen, of a dtype
    that would lose its meaning, or not finite."""
    strange = [name for name in arrays if name not in {s.name for s in signatures}]
    missing = [s.name for s in signatures if s.name not in arrays]
    if strange or missing:
        raise DataRefused(_other_names(strange, missing, signatures, where))
    return {s.name: _fit_one(arrays[s.name], s, where) for s in signatures}


def _fit_one(array: np.ndarray, s: Signature, where: str) -> np.ndarray:
    dtype = np.dtype(s.dtype)
    if s.shape[:1] == (1,) and array.shape == s.shape[1:]:
        array = array[None]
    if array.shape != s.shape:
        raise DataRefused(f"{where}: input {s.name} takes shape {list(s.shape)}, the sample has {list(array.shape)}")
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise DataRefused(f"{where}: input {s.name} takes {s.dtype}, the sample is {array.dtype}")
    with np.errstate(over="ignore"):
        fitted = np.ascontiguousarray(array, dtype)
    if dtype.kind == "f" and not np.isfinite(fitted).all():
        what = "NaN" if np.isnan(fitted).any() else "infinite values"
        raise DataRefused(f"{where}: input {s.name} has {what}: leave such samples out, or mend what makes them")
    if dtype.kind in "iu" and not np.array_equal(fitted, array):
        raise DataRefused(f"{where}: input {s.name} takes {s.dtype}, the sample has values beyond it")
    return fitted


def _other_names(strange: Sequence[str], missing: Sequence[str], signatures: Sequence[Signature], where: str) -> str:
    said = [f"there is no input {', '.join(strange)}"] if strange else []
    said += [f"input {', '.join(missing)} is missing"] if missing else []
    return f"{where}: {' and '.join(said)}; the model has the inputs {_names(signatures)}"


def _named(arrays: dict[str, T], signatures: Sequence[Signature]) -> dict[str, T]:
    """A single array, whatever its name, is the only input."""
    return {signatures[0].name: next(iter(arrays.values()))} if len(arrays) == len(signatures) == 1 else arrays


def _names(signatures: Sequence[Signature]) -> str:
    return ", ".join(s.name for s in signatures)


def _name(spec: str | Path | Function) -> str:
    return getattr(spec, "__name__", repr(spec)) if callable(spec) else str(spec)


def _reason(e: Exception) -> str:
    return f"{type(e).__name__}: {' '.join(str(e).split())[:300]}" if str(e) else type(e).__name__
