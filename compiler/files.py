"""Reading what a user names, and what an untrusted model names: regular files only, and a model's data only from its folder."""

from __future__ import annotations

import errno
import os
import re
import stat
import string
from pathlib import Path
from types import TracebackType
from typing import Self

from .errors import ImportRefused
from .limits import gib, quoted

# Without O_NONBLOCK, opening a pipe waits for its writer.
FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
LINK = "is a symbolic link, which may lead out of the folder: put the file itself there"
KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
         (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))
LOOKS_LIKE: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer: fetch the model itself (git lfs pull)"),
    (0, b"PK\x03\x04", "a zip archive: unpack it (or, if it is a PyTorch model, export it with torch.onnx.export)"),
    (0, b"\x1f\x8b", "a gzip archive: unpack it"),
    (0, b"\x80\x02", "a pickle: export the model with torch.onnx.export"),
    (0, b"\x89HDF", "an HDF5 file: convert the model with tf2onnx"),
    (4, b"TFL3", "a TensorFlow Lite model: burnish reads ONNX"),
    (4, b"ORTM", "in onnxruntime's own format: burnish reads ONNX"),
    (0, b"<", "a web page or XML, not an ONNX model: was the download complete?"),
)


def read_model(path: Path, most: int) -> bytes:
    """The content of the file that the user named, links followed. Raises ImportRefused for all that is not a regular file of
    1 to `most` bytes, or is plainly another format. Never waits."""
    try:
        status = path.stat()
        _regular(status)                # before it is opened: to open a device may act on it
        fd = os.open(path, FLAGS)
    except OSError as e:
        raise ImportRefused(_why(e)) from None
    except ValueError:
        raise ImportRefused("is no file name") from None
    with open(fd, "rb", buffering=0) as file:
        status = os.fstat(fd)
        _regular(status)
        if status.st_size == 0:
            raise ImportRefused("is empty")
        if status.st_size > most:
            raise ImportRefused(f"has {gib(status.st_size)}; at most {gib(most)} are read")
        data = _pread(file.fileno(), 0, status.st_size)
    for at, magic, what in LOOKS_LIKE:
        if data.startswith(magic, at):
            raise ImportRefused(f"is {what}")
    if all(c in string.printable.encode() for c in data[:256]):
        raise ImportRefused("is text, not an ONNX model (which is binary)")
    return data


class DataFolder:
    """External data of a model, confined to the folder that the model lies in. Paths are walked name by name from the open
    folder, so that no link, made before or meanwhile, leads out of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._folder)

    def read(self, location: str, offset: int, length: int) -> bytes:
        """`length` bytes of the file; raises ImportRefused where it may not be read or does not hold them."""
        fd = self._find(location)
        try:
            size = os.fstat(fd).st_size
            if offset + length > size:
                raise ImportRefused(f"external data at {quoted(location)}: bytes {offset} to {offset + length} are wanted, "
                                    f"it has {size}")
            return _pread(fd, offset, length)
        finally:
            os.close(fd)

    def _find(self, location: str) -> int:
        name = quoted(location)
        if not location or "\0" in location:
            raise ImportRefused("external data without a file name")
        if location.startswith("/") or "\\" in location or re.match("[A-Za-z]:", location):
            raise ImportRefused(f"external data at {name}: only a relative path with / is allowed")
        parts = [p for p in location.split("/") if p not in ("", ".")]
        if ".." in parts or not parts:
            raise ImportRefused(f"external data at {name}: it may not leave the model's folder")
        here = os.dup(self._folder)
        try:
            for n, part in enumerate(parts):
                kind = os.O_DIRECTORY | os.O_RDONLY | os.O_CLOEXEC if n + 1 < len(parts) else FLAGS
                inside = os.open(part, kind | os.O_NOFOLLOW, dir_fd=here)
                os.close(here)
                here = inside
            status = os.fstat(here)
            _regular(status)
            if status.st_nlink > 1:
                raise ImportRefused("is a hard link, which may lead out of the folder: copy the file")
        except OSError as e:
            os.close(here)
            why = LINK if _is_link(e, parts[:n + 1], self._folder) else _why(e)
            raise ImportRefused(f"external data at {name}: it {why}") from None
        except ImportRefused as e:
            os.close(here)
            raise ImportRefused(f"external data at {name}: it {e}") from None
        return here


def _is_link(e: OSError, parts: list[str], folder: int) -> bool:
    """O_NOFOLLOW says ELOOP at a link, or ENOTDIR where a folder was asked for."""
    if e.errno == errno.ENOTDIR:
        try:
            return stat.S_ISLNK(os.stat("/".join(parts), dir_fd=folder, follow_symlinks=False).st_mode)
        except OSError:
            return False
    return e.errno == errno.ELOOP


def _regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImportRefused(f"is {next((name for test, name in KINDS if test(status.st_mode)), 'no file')}, not a file")


def _pread(fd: int, offset: int, length: int) -> bytes:
    pieces: list[bytes] = []
    while length > 0:
        pieces.append(os.pread(fd, length, offset))      # at most 2 GiB at once
        if not pieces[-1]:
            raise ImportRefused("became shorter while it was read")
        offset, length = offset + len(pieces[-1]), length - len(pieces[-1])
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _why(e: OSError) -> str:
    match e.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return "does not exist"
        case errno.EACCES | errno.EPERM:
            return "may not be read (permissions)"
        case errno.ENXIO:
            return "is a socket, not a file"
        case _:
            return f"cannot be read: {os.strerror(e.errno or 0)}"
