"""manifest.json: what an artifact is, in a form that both its writer and its loader check."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ..plan import Signature
from .errors import ArtifactError

FILE = "manifest.json"
MAX_BYTES = 64 << 20    # of a manifest: more is no manifest of ours

M = TypeVar("M")


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tensor(Record):
    """An input or output, by its ONNX name; dtype as numpy names it."""

    name: str
    dtype: str = Field(pattern=r"^(bool|u?int(8|16|32|64)|float(16|32|64))$")
    shape: tuple[int, ...]

    @property
    def signature(self) -> Signature:
        return Signature(self.name, self.shape, self.dtype)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


class Kernel(Record):
    """code_bytes: machine code of the function; task: the key of what it computes; origin: who chose template and knobs."""

    symbol: str
    code_bytes: int
    template: str
    knobs: dict[str, int | str]
    task: str
    origin: str = ""


class Launch(Record):
    """One kernel call. scratch: bytes for each thread; flops and bytes: what the operation needs; args: where each lies;
    variants: kernels that may run in its place."""

    kernel: str
    nodes: tuple[str, ...]
    tiles: int
    scratch: int
    flops: int
    bytes: int
    args: tuple[tuple[str, int, int], ...]
    variants: tuple[str, ...] = ()


class Machine(Record):
    """The device for which the artifact was compiled, without what does not change its code."""

    name: str
    arch: str
    llvm: dict[str, str | tuple[str, ...]]
    isa: tuple[str, ...]
    lanes: int
    vector_registers: int


class Code(Record):
    """The code for one device. file: where it lies; kernels: what is in it."""

    file: str
    device: Machine
    kernels: tuple[Kernel, ...]


class Made(Record):
    """What the manifests of all targets say. name: the model's; identifier: what its C symbols and files start with. arena,
    scratch (for each thread), weights and prepared: bytes. setup: launches that run once, when the model is created. passes:
    applied to the model, in order; tools: versions; info: what else the compiler has to say; files: SHA-256 by path."""

    format: str
    version: Literal[1] = 1
    name: str
    identifier: str = Field(pattern=r"^[A-Za-z_]\w{0,80}$")
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    arena: int = Field(ge=0)
    scratch: int = Field(ge=0)
    weights: int = Field(ge=0)
    prepared: int = Field(ge=0)
    launches: tuple[Launch, ...]
    setup: tuple[Launch, ...]
    passes: tuple[str, ...] = ()
    tools: dict[str, str] = {}
    info: dict[str, Any] = {}
    files: dict[str, str]


class Manifest(Made):
    """Of a library."""

    format: Literal["burnish-cpu"] = "burnish-cpu"
    device: Machine
    kernels: tuple[Kernel, ...]

    @property
    def codes(self) -> dict[str, Code]:
        return {self.device.name: Code(file=f"lib{self.identifier}.so", device=self.device, kernels=self.kernels)}

    @property
    def memory(self) -> int:
        """Bytes that a model of one thread holds, weights included."""
        return self.weights + self.prepared + self.arena + self.scratch


def read(folder: Path) -> Manifest:
    """Raises ArtifactError as `parse` does."""
    return parse(folder, TypeAdapter(Manifest))


def parse(folder: Path, kind: TypeAdapter[M]) -> M:
    """The folder's manifest, of a target's kind. Raises ArtifactError where the folder has none, or one that is not ours or not
    whole."""
    path = folder / FILE
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ArtifactError(f"{path} is too large to be a manifest")
        return kind.validate_json(path.read_bytes())
    except OSError as e:
        raise ArtifactError(f"{folder} is not an artifact: {FILE}: {e.strerror}") from e
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{path} is not a manifest of this version: {where or 'content'}: {first['msg']}") from e


def verify(folder: Path, manifest: Made) -> None:
    """Every file that the manifest names is there with the content that it names; raises ArtifactError. 1 s for about 1.5 GB."""
    for name, expected in manifest.files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ArtifactError(f"{folder}: the manifest names a file outside the folder: {name}")
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as e:
            raise ArtifactError(f"{folder}: {name}: {e.strerror}") from e
        if found != expected:
            raise ArtifactError(f"{folder}: {name} is damaged or was changed: its SHA-256 is not the manifest's")
