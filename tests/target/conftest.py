"""The sample model and its artifact, made once for each module; models for the web, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from burnish.targets.cpu import artifact
from native_model import Sample, sample
from web_model import dtypes, lenet, lenet_folder

__all__ = ["dtypes", "lenet", "lenet_folder"]


@pytest.fixture(scope="module")
def made() -> Sample:
    return sample()


@pytest.fixture(scope="module")
def folder(made: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact.write(*made.arguments, tmp_path_factory.mktemp("native") / "net", passes=("fold",), tools={"burnish": "0"})
