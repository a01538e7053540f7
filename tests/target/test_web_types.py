"""TypeScript's own compiler on web packages: the types of the model's inputs and outputs, and those that the loader's JavaScript
says of itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import ways_model
from burnish.tools import npm
from web_model import Made, needs_node

pytestmark = needs_node

TYPESCRIPT = "7.0.2"
FLAGS = ("--noEmit", "--strict", "--target", "esnext", "--module", "nodenext", "--lib",
         "esnext,dom,dom.iterable,dom.asynciterable")
GOOD = """
import { load, BurnishError, type ErrorCode, type Inputs, type Outputs } from "every-dtype";

export async function use(signal: AbortSignal): Promise<Float32Array> {
  const m = await load({ threads: 2, build: "simd", base: new URL("https://example.org/"), signal,
                         onProgress: ({ loaded, total }) => console.log(loaded / total) });
  const mask = new Uint8Array(10);
  const inputs: Inputs = { ids: new BigInt64Array(10), half: new Uint16Array(8), mask, q: new Uint8Array(64) };
  const outputs: Outputs = await m.run(inputs);
  const { best, "odd \\"name\\" */": odd, narrow, ["__proto__"]: products } = outputs;
  const whole: [BigInt64Array, Uint16Array, Int32Array] = [best, narrow, products];
  const { after, choices } = await m.tune({ budgetMs: 100, signal });
  console.log(whole, after * 1e3, choices.length, m.inputs[0].shape[0], m.threads, m.memoryBytes, m.choices);
  m.dispose();
  return odd;
}

export const isMissing = (e: unknown): boolean => e instanceof BurnishError && e.code === ("FILE_MISSING" satisfies ErrorCode);
"""
RUN = "import { load } from 'every-dtype';\nconst m = await load();\n"
REST = "half: new Uint16Array(8), mask: new Uint8Array(10), q: new Uint8Array(64)"


@pytest.fixture(scope="module")
def tsc() -> Path:
    try:
        return npm.install({"typescript": TYPESCRIPT}) / ".bin" / "tsc"
    except npm.NpmError as e:
        pytest.skip(str(e))


@pytest.fixture(scope="module")
def project(dtypes: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program's folder, with the package installed as npm installs it."""
    folder = tmp_path_factory.mktemp("types")
    dtypes.write(folder / "node_modules" / "every-dtype")
    (folder / "package.json").write_text('{ "type": "module" }')
    return folder


def complaints(tsc: Path, folder: Path, *files: str, flags: tuple[str, ...] = ()) -> str:
    done = subprocess.run([str(tsc), *FLAGS, *flags, *files], cwd=folder, capture_output=True, text=True, timeout=120,
                          check=False)
    assert (done.returncode == 0) == (done.stdout + done.stderr == "")
    return done.stdout + done.stderr


def test_a_program_that_is_right(tsc: Path, project: Path) -> None:
    (project / "good.ts").write_text(GOOD)
    assert complaints(tsc, project, "good.ts") == ""


@pytest.mark.parametrize(("code", "what"), [
    (f"await m.run({{ id: new BigInt64Array(10), {REST} }});", "'id' does not exist in type 'Inputs'"),
    (f"await m.run({{ {REST} }});", "is missing in type"),
    (f"await m.run({{ ids: new Int32Array(10), {REST} }});", "'Int32Array<ArrayBuffer>' is not assignable to type"),
    (f"await m.run({{ ids: [1n, 2n], {REST} }});", "'bigint[]' is missing the following properties from type 'BigInt64Array"),
    ("await m.run();", "Expected 1 arguments"), ("(await m.run({} as any)).worst;", "'worst' does not exist on type 'Outputs'"),
    ("await load({ build: 'fast' });", "'\"fast\"' is not assignable to type 'Build"),
    ("await load({ thread: 2 });", "'thread' does not exist in type 'LoadOptions'"),
    ("m.threads = 2;", "it is a read-only property")])
def test_programs_that_are_wrong(tsc: Path, project: Path, code: str, what: str) -> None:
    (project / "bad.ts").write_text(RUN + code)
    said = complaints(tsc, project, "bad.ts")
    assert said.startswith("bad.ts(3,") and what in said and said.count("error TS") == 1


def test_what_the_loader_says_of_itself(tsc: Path, tmp_path: Path) -> None:
    """Its JSDoc types hold, as strictly as TypeScript's. Without index.d.ts, which would be taken for what index.js exports."""
    folder = ways_model.write(tmp_path / "net")
    (folder / "index.d.ts").unlink()
    scripts = sorted(p.name for p in folder.glob("*.js"))
    assert scripts == ["index.js", "threads.js", "tune.js", "ways.js", "worker.js"]
    assert complaints(tsc, folder, *scripts, flags=("--allowJs", "--checkJs")) == ""
