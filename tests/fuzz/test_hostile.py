"""Broken and hostile files: each is one line on standard error and exit code 2, soon, with nothing written.

Every file is a small model with one thing wrong, made by a function that returns the file's path; the text beside it must be in
the message.
"""

from __future__ import annotations

import io
import os
import random
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from burnish.compiler import consistency, importer
from burnish.compiler.cli import run_app
from burnish.compiler.errors import BurnishError, ImportRefused
from burnish.compiler.limits import Deadline, Limits
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
HUGE = 1 << 62


def value(name: str, dims: object = (2, 3), dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, dims)


def sound(opset: int = 21) -> onnx.ModelProto:
    """y = relu(x + w)"""
    nodes = [helper.make_node("Add", ["x", "w"], ["a"], name="add"), helper.make_node("Relu", ["a"], ["y"], name="relu")]
    w = numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y")], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def wrong(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], Path]:
    """A sound model with one change."""
    def make(folder: Path) -> Path:
        model = sound()
        change(model)
        path = folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path
    return make


def content(data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "model.onnx"
        path.write_bytes(data)
        return path
    return make


def external(entries: dict[str, str], prepare: Callable[[Path], object] = lambda folder: None,
             where: str = "initializer") -> Callable[[Path], Path]:
    """A model whose weight lies outside, as `entries` say. prepare: makes what lies in the folder."""
    def make(folder: Path) -> Path:
        home = folder / "home"
        home.mkdir()
        (folder / "secret.bin").write_bytes(b"\1" * 24)
        prepare(home)
        model = sound()
        tensor = model.graph.initializer.pop()
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in entries.items():
            tensor.external_data.add(key=key, value=text)
        if where == "initializer":
            model.graph.initializer.append(tensor)
        else:
            constant = helper.make_node("Constant", [], ["w"])
            constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
            if where == "function":
                model.functions.append(helper.make_function("my", "W", [], ["w"], [constant], [helper.make_opsetid("", 21)]))
                model.opset_import.add(domain="my", version=1)
                constant = helper.make_node("W", [], ["w"], domain="my")
            model.graph.node.insert(0, constant)
        path = home / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path
    return make


def nested(depth: int) -> Callable[[onnx.ModelProto], object]:
    """Branches within branches."""
    def change(model: onnx.ModelProto) -> None:
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["b"])], "inner", [], [value("b")])
        for n in range(depth):
            node = helper.make_node("If", ["c"], [f"b{n}"])
            node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.CopyFrom(graph)
            graph = helper.make_graph([node], "g", [], [value(f"b{n}")])
        model.graph.node.extend(graph.node)
    return change


def doubling(model: onnx.ModelProto) -> None:
    """Function n calls function n - 1 twice: 2^40 nodes in forty lines."""
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Relu", ["b"], ["c"])]
    for n in range(40):
        model.functions.append(helper.make_function("my", f"F{n}", ["a"], ["c"], body, [helper.make_opsetid("", 21)]))
        body = [helper.make_node(f"F{n}", ["a"], ["b"], domain="my"), helper.make_node(f"F{n}", ["b"], ["c"], domain="my")]
        model.functions[-1].opset_import.add(domain="my", version=1)
    model.opset_import.add(domain="my", version=1)
    model.graph.node.append(helper.make_node("F39", ["x"], ["z"], domain="my"))


def circular(model: onnx.ModelProto) -> None:
    for one, other in ("FG", "GF"):
        call = [helper.make_node(other, ["a"], ["b"], domain="my")]
        model.functions.append(helper.make_function("my", one, ["a"], ["b"], call, [helper.make_opsetid("my", 1)]))
    model.opset_import.add(domain="my", version=1)
    model.graph.node[0].CopyFrom(helper.make_node("F", ["x"], ["a"], domain="my"))


def sparse(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer.pop()
    model.graph.sparse_initializer.add(values=tensor, dims=[6])


def bare(*fields: str) -> Callable[[onnx.ModelProto], object]:
    return lambda model: [model.ClearField(f) for f in fields]


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("bomb", bytes(1 << 20))
    return out.getvalue()


def special(make: Callable[[Path], object]) -> Callable[[Path], Path]:
    """Something at the model's path that is no file."""
    def place(folder: Path) -> Path:
        path = folder / "model.onnx"
        make(path)
        return path
    return place


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        here = Path.cwd()
        os.chdir(path.parent)       # a socket's path is short
        try:
            s.bind(path.name)
        finally:
            os.chdir(here)


def set_dims(*dims: int) -> Callable[[onnx.ModelProto], object]:
    return lambda m: m.graph.initializer[0].dims.__setitem__(slice(None), dims)


def set_input(*dims: int) -> Callable[[onnx.ModelProto], object]:
    return lambda m: m.graph.input[0].CopyFrom(value("x", dims))


def node(*args: object, **attributes: object) -> Callable[[onnx.ModelProto], object]:
    """In place of the first node."""
    return lambda m: m.graph.node[0].CopyFrom(helper.make_node(*args, name="odd", **attributes))


def attribute(**fields: object) -> Callable[[onnx.ModelProto], object]:
    return lambda m: m.graph.node[1].attribute.add(**fields)


def full(home: Path) -> None:
    """The data that the weight needs."""
    (home / "w.bin").write_bytes(bytes(24))


W = {"location": "w.bin"}
HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    # What is no model at all
    "missing": (lambda folder: folder / "none.onnx", "does not exist"),
    "folder": (special(Path.mkdir), "is a folder"),
    "pipe": (special(os.mkfifo), "is a named pipe"),
    "socket": (special(listen), "is a socket"),
    "device": (lambda folder: Path("/dev/zero"), "is a device"),
    "empty": (content(b""), "is empty"),
    "text": (content(b"model: yes\n" * 50), "is text"),
    "web page": (content(b"<!DOCTYPE html><html>404</html>"), "web page"),
    "git lfs": (content(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS"),
    "zip": (content(archive()), "zip archive"),
    "noise": (content(random.Random(0).randbytes(1000)), "not ONNX"),
    "truncated": (content(sound().SerializeToString()[:-20]), "truncated"),
    "cut in a name": (content(sound().SerializeToString()[:40]), "truncated"),
    "bad text": (content(sound().SerializeToString().replace(b"relu", b"\xff\xfe\xff\xfe")), "not UTF-8"),
    "depth bomb": (wrong(nested(25)), "nested deeper"),
    "empty messages": (content(b"\x08\x0a\x3a" + b"\xc2\x9a\x0c" + b"\x0a\x00" * 100_001), "more than 100000 nodes"),
    # Missing, wrong and contradicting fields
    "no graph": (wrong(bare("graph")), "no graph"),
    "no opset": (wrong(bare("opset_import")), "opset_import"),
    "old opset": (wrong(lambda m: m.CopyFrom(sound(6))), "opset 6"),
    "future opset": (wrong(lambda m: m.CopyFrom(sound(99))), "opset 99"),
    "two opsets": (wrong(lambda m: m.opset_import.add(domain="", version=9)), "versions 21 and 9"),
    "future ir": (wrong(lambda m: setattr(m, "ir_version", 1000)), "IR version 1000"),
    "reserved domain": (wrong(node("NhwcConv", ["x", "w"], ["a"], domain="burnish")), "domain burnish"),
    "no op type": (wrong(lambda m: m.graph.node[0].ClearField("op_type")), "no op type"),
    "no inputs": (wrong(node("Conv", [], ["a"])), "0 inputs"),
    "missing attribute": (wrong(node("Cast", ["x"], ["a"])), "no attribute 'to'"),
    "unknown attribute": (wrong(attribute(name="wild", type=2, i=3)), "no attribute 'wild'"),
    "attribute of the wrong type": (wrong(node("Softmax", ["x"], ["a"], axis=1.5)), "of type FLOAT instead of INT"),
    "attribute with two values": (wrong(lambda m: (
        node("Softmax", ["x"], ["a"], axis=1)(m), setattr(m.graph.node[0].attribute[0], "f", 4.0))), "has values in f, i"),
    "axis that crashes onnx": (wrong(node("Softmax", ["x"], ["a"], axis=1 << 40)), "'axis' must be"),
    "zero group": (wrong(node("Conv", ["x", "w"], ["a"], group=0)), "'group' must be"),
    "bad cast": (wrong(node("Cast", ["x"], ["a"], to=999)), "does not fit together"),
    "strange dtype": (wrong(lambda m: setattr(m.graph.initializer[0], "data_type", 99)), "dtype 99"),
    "strange input dtype": (wrong(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 77)), "dtype 77"),
    "text input": (wrong(lambda m: m.graph.input[0].CopyFrom(value("x", (2, 3), TensorProto.STRING))), "dtype string"),
    "sequence input": (wrong(lambda m: m.graph.input[0].CopyFrom(
        helper.make_tensor_sequence_value_info("x", FLOAT, [2, 3]))), "sequence"),
    "optional input": (wrong(lambda m: m.graph.input[0].type.CopyFrom(
        helper.make_optional_type_proto(m.graph.input[0].type))), "optional"),
    "map input": (wrong(lambda m: m.graph.input[0].type.map_type.SetInParent()), "map"),
    # Names
    "duplicate output": (wrong(lambda m: m.graph.node[1].output.__setitem__(0, "a")), "another of this name"),
    "duplicate constant": (wrong(lambda m: m.graph.initializer.append(m.graph.initializer[0])), "another of this name"),
    "duplicate input": (wrong(lambda m: m.graph.input.append(m.graph.input[0])), "another of this name"),
    "dangling input": (wrong(node("Add", ["x", "nothing"], ["a"])), "'nothing' is made by no node"),
    "not sorted": (wrong(node("Add", ["x", "y"], ["a"])), "only later"),
    "no such output": (wrong(lambda m: m.graph.output.append(value("z"))), "'z' is made by no node"),
    # Sizes
    "negative dim": (wrong(set_dims(-2, -3)), "negative dimension"),
    "overflowing dims": (wrong(set_dims(HUGE, HUGE)), "GiB"),
    "dims that wrap around to 24 bytes": (wrong(set_dims((1 << 61) + 3, 2)), "GiB"),      # 4 * 2 * (2^61 + 3) = 2^64 + 24
    "more dims than data": (wrong(set_dims(20, 30)), "takes 2400 bytes, but has 24"),
    "huge input": (wrong(set_input(1 << 40, 1 << 40)), "GiB"),
    "free dims": (wrong(lambda m: m.graph.input[0].CopyFrom(value("x", ("batch", 3)))), "--shape x=1x3"),
    "shapes that do not fit": (wrong(set_input(2, 4)), "does not fit together"),
    # Functions
    "circular functions": (wrong(circular), "calls itself: 'my::F' calls 'my::G' calls 'my::F'"),
    "doubling functions": (wrong(doubling), "once its functions are expanded"),
    # Data outside
    "sparse": (wrong(sparse), "sparse"),
    "up": (external({"location": "../secret.bin"}), "may not leave"),
    "up within": (external({"location": "a/../../secret.bin"}, lambda home: (home / "a").mkdir()), "may not leave"),
    "absolute": (external({"location": "/etc/passwd"}), "only a relative path"),
    "windows path": (external({"location": "..\\secret.bin"}), "only a relative path"),
    "link": (external(W, lambda home: (home / "w.bin").symlink_to(home.parent / "secret.bin")), "symbolic link"),
    "link to folder": (external({"location": "sub/secret.bin"}, lambda home: (home / "sub").symlink_to(home.parent)),
                       "symbolic link"),
    "hard link": (external(W, lambda home: os.link(home.parent / "secret.bin", home / "w.bin")), "hard link"),
    "data pipe": (external(W, lambda home: os.mkfifo(home / "w.bin")), "named pipe"),
    "data folder": (external(W, lambda home: (home / "w.bin").mkdir()), "is a folder"),
    "no data file": (external(W), "does not exist"),
    "no location": (external({"offset": "0"}), "without a file name"),
    "short data": (external(W, lambda home: (home / "w.bin").write_bytes(b"\0" * 23)), "it has 23"),
    "offset past the end": (external({**W, "offset": str(HUGE)[:18]}, full), "it has 24"),
    "negative offset": (external({**W, "offset": "-8"}, full), "not a number of bytes"),
    "wrong length": (external({**W, "length": "8"}, full), "8 bytes of external data"),
    "dunder key": (external({**W, "__class__": "x"}, full), "unknown key '__class__'"),
    "up from a constant": (external({"location": "../secret.bin"}, where="attribute"), "may not leave"),
    "up from a function": (external({"location": "../secret.bin"}, where="function"), "may not leave"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_one_line_and_code_2(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, expected = HOSTILE[name]
    path = make(tmp_path)
    before, start = sorted(tmp_path.rglob("*")), time.monotonic()
    with pytest.raises(SystemExit) as end:
        run_app(["compile", str(path), "-o", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert end.value.code == 2
    assert time.monotonic() - start < 10
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("error: ")
    assert expected in said.err and "a bug of burnish" not in said.err
    assert sorted(tmp_path.rglob("*")) == before


def test_enough_of_them() -> None:
    assert len(HOSTILE) >= 40


def test_the_sound_model_is_not_refused(tmp_path: Path) -> None:
    path = wrong(lambda m: None)(tmp_path)
    assert [v.shape.numpy() for v in importer.load(path).graph.inputs] == [(2, 3)]


@pytest.mark.parametrize("where", ["initializer", "attribute", "function"])
def test_sound_external_data_is_read(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.arange(6, dtype=np.float32).reshape(2, 3)

    def store(home: Path) -> None:
        (home / "data").mkdir()
        (home / "data/w.bin").write_bytes(b"\7" * 8 + w.tobytes())

    path = external({"location": "./data/w.bin", "offset": "8", "length": "24"}, store, where)(tmp_path)
    monkeypatch.chdir(path.parent)
    model = importer.load("model.onnx")     # a bare name, for which onnx_ir checks no containment
    (path.parent / "data/w.bin").unlink()
    if where == "initializer":
        tensor = model.graph.initializers["w"].const_value
    else:
        holder = next(iter(model.functions.values())) if where == "function" else model.graph
        tensor = next(iter(holder)).attributes["value"].as_tensor()
    np.testing.assert_array_equal(tensor.numpy(), w)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path: Path) -> None:
    path = wrong(lambda m: None)(tmp_path)
    path.chmod(0)
    with pytest.raises(ImportRefused, match="may not be read"):
        importer.load(path)


def test_limits_are_kept(tmp_path: Path) -> None:
    path = wrong(lambda m: None)(tmp_path)
    importer.load(path, limits=Limits(total=1000, tensor=24, nodes=2, nesting=6, decoded=10_000, rank=2))
    for limits, expected in ((Limits(total=100), "at most 100 bytes"), (Limits(tensor=20), "at most 20 bytes"),
                             (Limits(nodes=1), "more than 1 nodes"), (Limits(nesting=2), "deeper than 2"),
                             (Limits(decoded=100), "of memory"), (Limits(rank=1), "2 dimensions"),
                             (Limits(seconds=0), "takes more than 0 s")):
        with pytest.raises(ImportRefused, match=expected):
            importer.load(path, limits=limits)


def test_external_bytes_are_counted_each_time_they_are_used(tmp_path: Path) -> None:
    def reuse(model: onnx.ModelProto) -> None:
        first = model.graph.initializer[0]
        first.ClearField("raw_data")
        first.data_location = TensorProto.EXTERNAL
        first.external_data.add(key="location", value="w.bin")
        for n in range(100):
            model.graph.initializer.add().CopyFrom(first)
            model.graph.initializer[-1].name = f"w{n}"
    full(tmp_path)
    path = wrong(reuse)(tmp_path)
    importer.load(path)
    with pytest.raises(ImportRefused, match="takes the model past"):
        importer.load(path, limits=Limits(total=path.stat().st_size + 24 * 50))


def test_intermediate_values_past_the_limit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def expand(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 20, 1 << 20, 2, 3]), "s"))
        model.graph.node[0].CopyFrom(helper.make_node("Expand", ["x", "s"], ["a"], name="bomb"))
        model.graph.output[0].CopyFrom(value("y", None))
    with pytest.raises(SystemExit) as end:
        run_app(["check", str(wrong(expand)(tmp_path))])
    said = capsys.readouterr().err
    assert end.value.code == 2 and "bomb" in said and "GiB" in said


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """A window of 2^31 numbers: onnx 1.23 would make 100 GB of objects to infer the shape of a product with it."""
    def window(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array((1 << 31) - 1, np.int32), "s"))
        model.graph.node[0].CopyFrom(helper.make_node("BlackmanWindow", ["s"], ["a"], name="window"))
    program = Path(sys.executable).with_name("burnish")
    done = subprocess.run(["bash", "-c", 'ulimit -v 8000000; COLUMNS=200 exec "$0" check "$1"', program, wrong(window)(tmp_path)],
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "its output takes 8 GiB" in done.stderr, done.stderr


@pytest.mark.parametrize("seed", range(3))
def test_damaged_bytes_are_refused_or_read(seed: int, tmp_path: Path) -> None:
    """A few bytes changed, lost or doubled: whatever comes of it, nothing but ImportRefused is raised."""
    rng, whole = random.Random(seed), sound().SerializeToString()
    path = tmp_path / "model.onnx"
    refused = 0
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(len(data))
            match rng.randrange(4):
                case 0: data[at] = rng.randrange(256)
                case 1: data[at] ^= 1 << rng.randrange(8)
                case 2: del data[at:at + rng.randrange(1, 9)]
                case 3: data[at:at] = data[at:at + rng.randrange(1, 40)]
        path.write_bytes(data)
        try:
            importer.load(path, isolated=False)
        except ImportRefused as e:
            refused += 1
            assert "\n" not in str(e)
    assert 20 < refused < 200


def test_what_crashes_native_code_does_not_crash_the_caller() -> None:
    """onnx 1.23 writes past the end of a list here (which the importer refuses before): its process dies, and we do not."""
    graph = helper.make_graph([helper.make_node("Split", ["x"], ["a", "b", "c"], num_outputs=1)], "g", [value("x")], [value("a")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(BurnishError, match=r"crashes onnx's shape inference \(SIGABRT\)"):
        consistency.check(model, Deadline(60))


@pytest.mark.parametrize("name", ["missing", "truncated", "up", "device"])
def test_the_program_itself(name: str, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("burnish")
    done = subprocess.run([program, "check", HOSTILE[name][0](tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and HOSTILE[name][1] in done.stderr
