"""Packages of npm, by exact version, in a cache outside the repository."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..models.packages import CACHE

LIMIT_S = 300.0


class NpmError(Exception):
    """What npm could not do, in one line."""


def newest(package: str) -> str:
    """The version that the registry calls the latest. Raises NpmError."""
    return _npm("view", package, "version").strip()


def install(packages: Mapping[str, str]) -> Path:
    """A `node_modules` with these packages, {name: version}, and what they need. Raises NpmError."""
    kinds = [f"{name}@{version}" for name, version in packages.items()]
    place = CACHE / "npm" / "+".join(sorted(kind.replace("/", "-").lstrip("@") for kind in kinds))
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix="new-") as folder:
            _npm("install", "--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund", *kinds)
            shutil.move(folder, place)
            Path(folder).mkdir()        # for the `with` to remove
    return place / "node_modules"


def _npm(*words: str) -> str:
    path = shutil.which("npm")
    if path is None:
        raise NpmError("there is no npm on the PATH: install Node")
    try:
        done = subprocess.run([path, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=LIMIT_S,
                              check=False)
    except subprocess.TimeoutExpired:
        raise NpmError(f"npm {words[0]} did not end within {LIMIT_S:.0f} s") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        raise NpmError(f"npm {' '.join(words[:2])} failed: {lines[0] if lines else done.stderr.strip()[-200:]}")
    return done.stdout
