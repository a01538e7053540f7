"""What the tests in a real Chromium share: the browser, and a model for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from burnish.targets.web import chromium
from web_model import lenet, lenet_folder

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["lenet", "lenet_folder"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for each module: no two of playwright's may be open at a time, and some modules start their own."""
    with chromium.launched() as b:
        yield b
