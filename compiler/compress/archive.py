"""Large .npy and .npz files, row by row: an .npz is unpacked as far as it is read, nothing is held but a row."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import DataRefused


@dataclass(frozen=True)
class Rows:
    """An array's rows along the first axis. member: its name in an archive; "" for an .npy file."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def of(cls, path: Path) -> dict[str, Rows]:
        """The arrays of a file by name; of an .npy file one, with an empty name. Raises DataRefused."""
        try:
            if path.suffix == ".npy":
                return {"": cls._describe(path, "")}
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.namelist() if m.endswith(".npy")]
            return {m.removesuffix(".npy"): cls._describe(path, m) for m in members}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
            raise DataRefused(f"cannot read {path}: {' '.join(str(e).split())[:300]}") from None

    @classmethod
    def _describe(cls, path: Path, member: str) -> Rows:
        with _opened(path, member) as file:
            shape, fortran, dtype = _header(file)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, not numbers")
        if fortran and len(shape) > 1:
            raise ValueError("its columns are contiguous: save it with np.ascontiguousarray")
        if not shape:
            raise ValueError("it holds a single number: samples lie along the first axis")
        return cls(path, member, shape, dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, wanted: range) -> Iterator[np.ndarray]:
        """The rows of these numbers (ascending). Raises EOFError where the file ends too early."""
        nbytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        with _opened(self.path, self.member) as file:
            _header(file)
            at, start = 0, file.tell()
            for n in wanted:
                if file.seekable() and not self.member:
                    file.seek(start + n * nbytes)
                else:
                    for _ in range(n - at):
                        file.read(nbytes)
                data, at = file.read(nbytes), n + 1
                if len(data) != nbytes:
                    raise EOFError(f"it ends in row {n} of {len(self)}")
                yield np.frombuffer(data, self.dtype).reshape(self.shape[1:])


@contextmanager
def _opened(path: Path, member: str) -> Iterator[IO[bytes]]:
    if not member:
        with path.open("rb") as file:
            yield file
    else:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            yield file


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version} of numpy's format is not known")
    return read(file)
