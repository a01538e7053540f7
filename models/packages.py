"""Files of pinned registry packages (PyPI, npm), by content: each archive's sha256 is part of its name here.

Nothing downloaded is ever run as code of ours, committed or redistributed; it lies in `~/.cache/burnish/packages`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CACHE = Path.home() / ".cache" / "burnish"

# One wheel per package whatever the interpreter and machine, so that one sha256 names it.
WHEEL = ("--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=none",
         "--platform=manylinux_2_28_x86_64", "--platform=any")
# An sdist's metadata is made by running its setup.py; pip checks the hash before that.
SDIST = ("--no-binary=:all:", "--no-build-isolation")


class DownloadError(RuntimeError):
    """A package could not be had, or is not the one that was pinned."""


@dataclass(frozen=True)
class Package:
    """One archive of a registry. `form` is "wheel" or "sdist" (PyPI) or "npm"; `sha256` is the archive's, in hex."""

    form: str
    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{'npm' if self.form == 'npm' else 'PyPI'} {self.name} {self.version}"


def cached(path: Path, recipe: str, write: Callable[[Path], None]) -> Path:
    """`path`, written by `write` unless it was already written by the same `recipe`. Safe among processes: what stands under its
    own name is whole."""
    stamp = path.with_name(path.name + ".recipe")
    if not (path.exists() and stamp.exists() and stamp.read_text() == recipe):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            made = Path(scratch) / path.name
            write(made)
            os.replace(made, path)
        stamp.write_text(recipe)
    return path


def fetch(package: Package) -> Path:
    """The folder with the package's files, downloaded and unpacked at first use. Raises DownloadError."""
    folder = CACHE / "packages" / f"{package.name}-{package.version}-{package.sha256[:12]}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        archive = _download(package, Path(scratch))
        unpacked = Path(scratch) / "unpacked"
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as z:
                z.extractall(unpacked)
        else:
            with tarfile.open(archive) as t:
                t.extractall(unpacked, filter="data")
            unpacked, = unpacked.iterdir()      # sdist and npm archives hold one folder
        try:
            os.replace(unpacked, folder)
        except OSError:                         # another process was faster
            if not folder.exists():
                raise
    return folder


def _download(package: Package, scratch: Path) -> Path:
    """The archive in `scratch`, its sha256 checked."""
    into = scratch / "download"
    into.mkdir()
    if package.form == "npm":
        if shutil.which("npm") is None:
            raise DownloadError(f"{package} is on npm: install Node.js (the command `npm`)")
        command = ["npm", "pack", "--loglevel=error", f"{package.name}@{package.version}", "--pack-destination", str(into)]
    else:
        pins = scratch / "pins.txt"
        pins.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-r", str(pins),
                   "-d", str(into), *(WHEEL if package.form == "wheel" else SDIST)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    archives = list(into.iterdir())
    if done.returncode or len(archives) != 1:
        errors = [line for line in done.stderr.splitlines() if re.search("error", line, re.IGNORECASE)]
        raise DownloadError(f"{package}: {errors[0].strip() if errors else 'no archive came'}")
    found = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if found != package.sha256:
        raise DownloadError(f"{package}: sha256 is {found}, pinned is {package.sha256}")
    return archives[0]
