"""Files as a model's inputs, and outputs as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..targets.plan import Signature
from .errors import BurnishError

MAX_TOP = 5


def read_input(paths: Sequence[Path], inputs: Sequence[Signature], mean: str, std: str) -> list[np.ndarray]:
    """One array for each input, from one file for each or a single .npz. An image is resized to the input's height and width,
    scaled to 0..1 (floats) and normalised. Raises BurnishError for a file that does not fit."""
    if len(paths) == 1 and paths[0].suffix == ".npz":
        archive = _load(paths[0])
        if isinstance(archive, np.ndarray):
            raise BurnishError(f"{paths[0]} is one array, not an archive: name it .npy")
        with archive:
            missing = [s.name for s in inputs if s.name not in archive]
            if missing and len(archive.files) == len(inputs):
                return [_fit(archive[f], s) for f, s in zip(archive.files, inputs, strict=True)]
            if missing:
                raise BurnishError(f"{paths[0]} has no array {', '.join(missing)}; it has {', '.join(archive.files)}")
            return [_fit(archive[s.name], s) for s in inputs]
    if len(paths) != len(inputs):
        raise BurnishError(f"the model takes {len(inputs)} inputs ({', '.join(map(str, inputs))}), {len(paths)} files came")
    return [_fit(_array(p), s) if p.suffix == ".npy" else image(p, s, mean, std) for p, s in zip(paths, inputs, strict=True)]


def _load(path: Path) -> np.ndarray | np.lib.npyio.NpzFile:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise BurnishError(f"cannot read {path}: {e}") from None


def _array(path: Path) -> np.ndarray:
    loaded = _load(path)
    if not isinstance(loaded, np.ndarray):
        raise BurnishError(f"{path} is an archive, not one array: name it .npz")
    return loaded


def _fit(array: np.ndarray, s: Signature) -> np.ndarray:
    if array.shape != s.shape and array.size == np.prod(s.shape, dtype=np.int64):
        array = array.reshape(s.shape)
    if array.shape != s.shape:
        raise BurnishError(f"input {s.name} has shape {s.shape}, an array of {array.shape} came")
    return np.ascontiguousarray(array, s.dtype)


def image(path: Path, s: Signature, mean: str, std: str) -> np.ndarray:
    """[1,C,H,W] or [1,H,W,C] for C of 1 or 3, from a picture."""
    channels_first = len(s.shape) == 4 and s.shape[1] in (1, 3)
    if len(s.shape) != 4 or s.shape[0] != 1 or not (channels_first or s.shape[3] in (1, 3)):
        raise BurnishError(f"input {s.name} of shape {s.shape} does not look like an image: give an .npy file")
    c, h, w = (s.shape[1], s.shape[2], s.shape[3]) if channels_first else (s.shape[3], s.shape[1], s.shape[2])
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB" if c == 3 else "L").resize((w, h), Image.Resampling.BICUBIC)
    except (OSError, UnidentifiedImageError) as e:
        raise BurnishError(f"cannot read the image {path}: {e}") from None
    pixels = np.asarray(picture, np.float64).reshape(h, w, c)
    if s.dtype.startswith("float"):
        pixels = (pixels / 255 - _numbers(mean, c)) / _numbers(std, c)
    return np.ascontiguousarray((pixels.transpose(2, 0, 1) if channels_first else pixels)[None], s.dtype)


def _numbers(text: str, channels: int) -> np.ndarray:
    try:
        values = np.array([float(v) for v in text.split(",")])
    except ValueError:
        raise BurnishError(f"{text!r} is not a number, nor numbers with commas between them") from None
    if values.size not in (1, channels):
        raise BurnishError(f"{text!r} has {values.size} numbers, the image {channels} channels")
    return values


def save_outputs(path: Path, names: Sequence[str], outputs: Sequence[np.ndarray]) -> None:
    if path.suffix == ".npy" and len(outputs) == 1:
        np.save(path, outputs[0])
    elif path.suffix == ".npz":
        np.savez(path, **dict(zip(names, outputs, strict=True)))  # type: ignore[arg-type]  # numpy's stub takes names for flags
    else:
        raise BurnishError(f"{path} must end in .npz" + (" or .npy" if len(outputs) == 1 else ": there are several outputs"))


def top(scores: np.ndarray) -> list[tuple[int, float]]:
    """The five largest of a vector of scores, with their places; nothing for other shapes."""
    flat = scores.reshape(-1)
    if flat.size != scores.shape[-1] if scores.ndim else True:
        return []
    if flat.size < 10 or not np.issubdtype(flat.dtype, np.floating):
        return []
    return [(int(i), float(flat[i])) for i in np.argsort(-flat, kind="stable")[:MAX_TOP]]
