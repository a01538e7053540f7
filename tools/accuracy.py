"""A trained model's metric on real data, with onnxruntime and with its artifact: `python -m burnish.tools.accuracy lenet5`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from .. import compile, models
from ..models.data import imagenet, mnist, text
from .peers import Runner, burnish_runner, onnxruntime_runner


@dataclass(frozen=True)
class Outcome:
    """Scores by metric, and the outputs that they were made from: float32 [samples, …]."""

    scores: dict[str, float]
    outputs: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Scores of both by metric; `error` is the largest difference of outputs over the largest output."""

    model: str
    onnxruntime: dict[str, float]
    burnish: dict[str, float]
    error: float

    @property
    def equal(self) -> bool:
        """Equal metrics; a rank correlation may move where two scores are closer than rounding."""
        return all(abs(self.burnish[name] - score) < 1e-4 for name, score in self.onnxruntime.items())


def top1(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of ranks; equal values share the mean of their ranks."""
    def ranks(values: np.ndarray) -> np.ndarray:
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        last = np.cumsum(count)
        return ((last - count + 1 + last) / 2)[place]
    return pearson(ranks(a), ranks(b))


def lenet5(run: Runner) -> Outcome:
    """Top-1 on MNIST's whole test set; published with the weights: 0.9889."""
    images, labels = mnist.test_set()
    logits = np.concatenate([run({"image": image[None]})[0] for image in images])
    return Outcome({"MNIST top-1 (10,000)": top1(logits, labels)}, logits)


def efficientnet_lite0(run: Runner) -> Outcome:
    """Top-1 on 50 labelled ImageNet pictures: 0.80."""
    pictures, labels = zip(*imagenet.labelled(), strict=True)
    logits = np.concatenate([run({"image": imagenet.preprocess(picture)})[0] for picture in pictures])
    return Outcome({"ImageNet top-1 (50)": top1(logits, np.array(labels))}, logits)


def minilm(run: Runner) -> Outcome:
    """Rank correlation with human judgement on WordSim353 (0.729), linear correlation on Lee's documents (0.654)."""
    pairs = text.word_pairs()
    documents, judged = text.lee_documents()
    words = [word for a, b, _ in pairs for word in (a, b)]
    vectors = text.embeddings(lambda inputs: run(inputs)[0], words + documents)
    of_words, of_documents = vectors[:len(words)], vectors[len(words):]
    likeness = (of_words[0::2] * of_words[1::2]).sum(axis=1)
    upper = np.triu_indices(len(documents), 1)
    return Outcome({"WordSim353 Spearman": spearman(likeness, np.array([score for *_, score in pairs])),
                    "Lee Pearson": pearson((of_documents @ of_documents.T)[upper], judged[upper])}, vectors)


METRICS: dict[str, Callable[[Runner], Outcome]] = {"lenet5": lenet5, "efficientnet_lite0": efficientnet_lite0, "minilm": minilm}


def compare(name: str, artifact: Path, threads: int | None = None) -> Comparison:
    """The metric of a model of the zoo with onnxruntime and with its artifact."""
    expected = METRICS[name](onnxruntime_runner(models.build(name), threads))
    got = METRICS[name](burnish_runner(artifact, threads))
    error = float(np.abs(got.outputs - expected.outputs).max() / np.abs(expected.outputs).max())
    return Comparison(name, expected.scores, got.scores, error)


def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(METRICS)}.")],
    artifact: Annotated[Path | None, typer.Option(help="A compiled artifact; compiled to out/NAME when not given.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of both.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measures a trained model on real data with onnxruntime and with its artifact. Exits 1 when the metrics differ.

    Example: python -m burnish.tools.accuracy lenet5 --artifact out/lenet5
    """
    if name not in METRICS:
        raise typer.BadParameter(f"no data for {name!r}; there are {', '.join(METRICS)}")
    console = Console(stderr=True)
    if artifact is None:
        artifact = Path("out") / name
        with console.status(f"compiling {name}") as status:
            compile(models.build(name), artifact, shapes=models.ZOO[name].inputs,
                    progress=lambda step, done, total: status.update(f"compiling {name}: {step} {done}/{total}"))
    with console.status(f"running {name}"):
        result = compare(name, artifact, threads)
    if as_json:
        print(json.dumps({**asdict(result), "equal": result.equal}, indent=2))
    else:
        table = Table("metric", "onnxruntime", "burnish", title=f"{name}: largest difference {result.error:.1e} of the scale")
        for metric, score in result.onnxruntime.items():
            table.add_row(metric, f"{score:.4f}", f"{result.burnish[metric]:.4f}")
        Console().print(table)
    raise typer.Exit(0 if result.equal else 1)


if __name__ == "__main__":
    typer.run(main)
