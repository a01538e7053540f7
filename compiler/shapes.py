"""`--shape name=1x3x224x224` as data."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .errors import BurnishError


def parse_shapes(options: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """{input: shape}. A scalar is `name=`. Raises BurnishError for anything that is not NAME=AxBxC."""
    shapes: dict[str, tuple[int, ...]] = {}
    for option in options or ():
        name, equals, dims = option.rpartition("=")
        if not equals or not name or not re.fullmatch(r"(\d+(x\d+)*)?", dims):
            raise BurnishError(f"--shape {option!r} is not NAME=AxBxC, such as image=1x3x224x224")
        if name in shapes:
            raise BurnishError(f"--shape gives {name!r} twice")
        shapes[name] = tuple(int(d) for d in dims.split("x")) if dims else ()
    return shapes
