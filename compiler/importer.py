"""An ONNX file, which nobody has vouched for, becomes a graph with static shapes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx import ModelProto

from . import consistency, inputs, wire
from .errors import ImportRefused
from .files import DataFolder, read_model
from .limits import Deadline, Limits, quoted
from .tensors import Tensors
from .validate import Validator

DEFAULT = Limits()


def load(path: str | Path, shapes: Mapping[str, tuple[int, ...]] | None = None, limits: Limits = DEFAULT,
         isolated: bool = True) -> ir.Model:
    """The model in the file, all of its data in memory, every input of a static shape.

    shapes: {input: shape} for inputs with free dimensions; a dim with a name is fixed wherever the name stands. Opsets 7 to the
    newest that the installed onnx knows. External data is read from the model's folder only, and not through links. isolated:
    native code of onnx sees the model first in a process of its own (0.3 s); otherwise the caller is one that may crash.

    Raises ImportRefused, one line that says what, where and what to do, for whatever is not such a model: no hostile file makes
    this take more than `limits`, read elsewhere, wait, or crash.
    """
    file = Path(path)
    try:
        return _load(file, shapes or {}, limits, isolated)
    except ImportRefused as e:
        raise ImportRefused(f"{_shown(file)}: {e}") from None


def _load(file: Path, shapes: Mapping[str, tuple[int, ...]], limits: Limits, isolated: bool) -> ir.Model:
    deadline = Deadline(limits.seconds)
    data = read_model(file, limits.total)
    wire.scan(data, limits, deadline)
    try:
        model = ModelProto.FromString(data)
    except DecodeError as e:
        raise ImportRefused(f"is corrupt or not ONNX ({e})") from None
    size = len(data)
    del data
    for field in ("training_info", "configuration"):        # neither is of use here
        model.ClearField(field)
    with DataFolder(file.parent.resolve()) as folder:
        Validator(model, Tensors(folder, limits, size), limits, deadline).check()
    inputs.fix(model.graph, shapes, limits)
    consistency.check(model, deadline, isolated)
    try:
        return ir.serde.deserialize_model(model)
    except Exception as e:      # whatever onnx_ir cannot hold: it has many types of exception for it
        cause: BaseException = e
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ImportRefused(f"cannot be represented: {' '.join(str(cause).split())[:300]}") from None


def _shown(file: Path) -> str:
    text = str(file)
    return text if text.isprintable() else quoted(text, 200)
