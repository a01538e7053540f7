"""Loads an artifact into this process and calls it on numpy arrays."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..plan import ALIGNMENT, Signature
from . import manifest, profile
from .errors import ArtifactError
from .manifest import Manifest


@dataclass(frozen=True)
class LaunchTime:
    """Wall time of one launch in one run."""

    kernel: str
    nodes: tuple[str, ...]
    seconds: float
    flops: int
    bytes: int


def load(folder: str | Path, threads: int | None = None, *, verify: bool = True) -> Model:
    """The model in an artifact folder, ready to run. threads: how many work on a run, by default as many as CPUs that this
    process may use. Raises ArtifactError where the folder is damaged (every file's SHA-256 is checked unless `verify` is False)
    or compiled for another machine."""
    path = Path(folder).resolve()
    record = manifest.read(path)
    if verify:
        manifest.verify(path, record)
    return Model(path, record, profile.cpus() if threads is None else threads)


class Model:
    """A loaded artifact. Call it with numpy arrays, by position or by the inputs' names; one output comes back as an array,
    several as a tuple. Safe to call from several threads: calls on one Model wait for each other, other Models run beside it."""

    def __init__(self, folder: Path, record: Manifest, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}, and must be 1 or more")
        self.manifest = record
        self.inputs: tuple[Signature, ...] = tuple(t.signature for t in record.inputs)
        self.outputs: tuple[Signature, ...] = tuple(t.signature for t in record.outputs)
        self._in = [(s.name, s.shape, np.dtype(s.dtype)) for s in self.inputs]
        self._out = [(s.shape, np.dtype(s.dtype), s.nbytes) for s in self.outputs]
        self._inputs, self._outputs = (ctypes.c_void_p * max(1, len(them)) for them in (self._in, self._out))
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._handle = ctypes.c_void_p()
        library = _library(folder / f"lib{record.identifier}.so", record.device.arch)
        self._function: Callable[[str], Any] = lambda name: getattr(library, f"{record.identifier}_{name}")
        self._run, self._profile, self._destroy = map(self._function, ("run", "profile", "destroy"))
        self._destroy.restype = None
        weights = os.fsencode(folder / f"{record.identifier}.weights")
        self._check(self._function("create")(ctypes.byref(self._handle), weights, ctypes.c_int(threads)))
        self.threads: int = self._function("threads")(self._handle)

    def __call__(self, *args: np.ndarray, **named: np.ndarray) -> np.ndarray | tuple[np.ndarray, ...]:
        """Inputs are used where they lie if they are C-contiguous and aligned, else copied once; outputs are new arrays.
        Raises TypeError for a missing, unknown or wrongly typed input, ValueError for a wrong shape."""
        return self._call(self._run, args, named)

    def profile(self, *args: np.ndarray, **named: np.ndarray) -> list[LaunchTime]:
        """Runs once and gives the time of every launch, in order."""
        seconds = (ctypes.c_double * max(1, len(self.manifest.launches)))()
        self._call(self._profile, args, named, seconds)
        return [LaunchTime(x.kernel, x.nodes, s, x.flops, x.bytes) for x, s in zip(self.manifest.launches, seconds, strict=False)]

    def _call(self, function: Any, args: Sequence[np.ndarray], named: dict[str, np.ndarray], *more: Any) -> Any:
        given = self._bind(args, named) if named or len(args) != len(self._in) else args
        arrays = [_prepare(x, *expected) for x, expected in zip(given, self._in, strict=True)]
        results = [_aligned(*out) for out in self._out]
        inputs, outputs = self._inputs(*map(_address, arrays)), self._outputs(*map(_address, results))
        with self._lock:
            if not self._handle:
                raise RuntimeError("the model is closed")
            if self._pid != os.getpid():
                raise RuntimeError("the model was loaded before fork(), and its threads stayed behind: load it in this process")
            self._check(function(self._handle, inputs, outputs, *more))
        return results[0] if len(results) == 1 else tuple(results)

    def _bind(self, args: Sequence[np.ndarray], named: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The inputs in order. An ONNX name that is no Python name is passed as `model(**{"input.1": x})`."""
        names = [name for name, _, _ in self._in]
        if len(args) > len(names):
            raise TypeError(f"the model takes {len(names)} inputs ({', '.join(names)}), {len(args)} came")
        values = dict(zip(names, args, strict=False))
        for name, value in named.items():
            if name not in names:
                raise TypeError(f"no input {name!r}; there are {', '.join(names)}")
            if name in values:
                raise TypeError(f"input {name!r} came twice")
            values[name] = value
        if missing := [name for name in names if name not in values]:
            raise TypeError(f"missing input {', '.join(missing)}")
        return [values[name] for name in names]

    def _check(self, code: int) -> None:
        if code:
            text = self._function("error")
            text.restype = ctypes.c_char_p
            raise ArtifactError(f"{self.manifest.name}: {text(code).decode()}")

    def close(self) -> None:
        """Ends the threads and frees the memory. The model cannot be called afterwards."""
        with self._lock:
            handle, self._handle = self._handle, ctypes.c_void_p()
            if handle and self._pid == os.getpid():     # the threads of a forked copy cannot be joined
                self._destroy(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) and not sys.is_finalizing():
            self.close()

    def __repr__(self) -> str:
        return (f"<burnish model {self.manifest.name}: {', '.join(map(str, self.manifest.inputs))} -> "
                f"{', '.join(map(str, self.manifest.outputs))}; {self.manifest.device.name}, {self.threads} threads>")


def _library(path: Path, arch: str) -> ctypes.CDLL:
    """The library, through a link of a new name: dlopen gives back the library that it once loaded from a path, even where
    another artifact has taken its place since. (Behind two names of one file it finds one library, by its inode.)"""
    with tempfile.TemporaryDirectory(prefix="burnish-load-") as folder:
        link = Path(folder) / path.name
        link.symlink_to(path)
        try:
            return ctypes.CDLL(str(link), mode=os.RTLD_LOCAL | os.RTLD_NOW)
        except OSError as e:
            raise ArtifactError(f"{path}, made for {arch}, cannot be loaded: {str(e).removeprefix(f'{link}: ')}") from e


def _prepare(x: np.ndarray, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    x = np.asarray(x)
    if x.dtype != dtype:
        raise TypeError(f"input {name!r} must be {dtype}, {x.dtype} came")
    if x.shape != shape:
        raise ValueError(f"input {name!r} must have shape {shape}, {x.shape} came")
    flags = x.flags
    return x if flags.c_contiguous and flags.aligned else np.require(x, requirements=("C", "A"))


def _aligned(shape: tuple[int, ...], dtype: np.dtype, nbytes: int) -> np.ndarray:
    """An uninitialised array that starts on a cache line."""
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    return np.ndarray(shape, dtype, memory, -_address(memory) % ALIGNMENT)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
