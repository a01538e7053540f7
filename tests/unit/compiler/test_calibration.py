"""Sample inputs: what is accepted, what is refused and in which words, and that nothing is held in memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx_ir as ir
import pytest
from burnish.compiler.compress.calibration import observe
from burnish.compiler.compress.sources import Pixels, calibration
from burnish.compiler.errors import DataRefused
from burnish.targets.plan import Signature
from onnx import parser
from PIL import Image

IMAGE = (Signature("image", (1, 3, 4, 5), "float32"),)
TEXT = (Signature("ids", (1, 6), "int64"), Signature("mask", (1, 6), "float32"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def pictures(folder, count, rng):
    folder.mkdir()
    for n in range(count):
        Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).save(folder / f"{n:03}.png")
    return folder


def assert_feeds(samples, expected):
    for _ in range(2):      # again and again
        feeds = list(samples)
        assert len(samples) == len(feeds) == len(expected)
        for feed, arrays in zip(feeds, expected, strict=True):
            assert feed.keys() == arrays.keys()
            for name, a in arrays.items():
                np.testing.assert_array_equal(feed[name], a)


def test_pictures_are_scaled_as_run_does(tmp_path, rng):
    folder = pictures(tmp_path / "p", 3, rng)
    samples = calibration(folder, IMAGE, Pixels("0.5,0.4,0.3", "2"))
    for feed, path in zip(samples, sorted(folder.iterdir()), strict=True):
        pixels = np.asarray(Image.open(path), np.float64).transpose(2, 0, 1)[None] / 255
        np.testing.assert_allclose(feed["image"], (pixels - np.reshape([0.5, 0.4, 0.3], (3, 1, 1))) / 2, atol=1e-6)
        assert feed["image"].dtype == np.float32


@pytest.mark.parametrize("lead", [(), (1,)])
def test_a_folder_of_arrays_and_one_array_of_samples_give_the_same(tmp_path, rng, lead):
    x = rng.standard_normal((5, *lead, 3, 4, 5)).astype(np.float32)
    (tmp_path / "folder").mkdir()
    for n, sample in enumerate(x):
        np.save(tmp_path / "folder" / f"{n}.npy", sample)
    np.save(tmp_path / "all.npy", x)
    expected = [{"image": sample.reshape(1, 3, 4, 5)} for sample in x]
    assert_feeds(calibration(tmp_path / "folder", IMAGE), expected)
    assert_feeds(calibration(tmp_path / "all.npy", IMAGE), expected)
    assert_feeds(calibration(str(tmp_path / "all.npy"), IMAGE).most(2), expected[::3])
    first, second = calibration(tmp_path / "all.npy", IMAGE).halves()
    assert_feeds(first, expected[::2])
    assert_feeds(second, expected[1::2])
    assert_feeds(second.most(1), expected[1:2])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_several_inputs_come_from_npz(tmp_path, rng, save):
    ids, mask = rng.integers(0, 99, (7, 6)), rng.standard_normal((7, 6)).astype(np.float32)
    save(tmp_path / "all.npz", mask=mask, ids=ids.astype(np.int32))
    (tmp_path / "folder").mkdir()
    for n in range(7):
        save(tmp_path / "folder" / f"{n}.npz", ids=ids[n], mask=mask[n:n + 1].astype(np.float64))
    expected = [{"ids": i[None], "mask": m[None]} for i, m in zip(ids, mask, strict=True)]
    assert_feeds(calibration(tmp_path / "all.npz", TEXT), expected)
    assert_feeds(calibration(tmp_path / "folder", TEXT), expected)
    assert_feeds(calibration(tmp_path / "all.npz", TEXT).halves()[1], expected[1::2])


def test_a_function_by_name_is_called_each_time(tmp_path, monkeypatch, rng):
    (tmp_path / "mine_for_test.py").write_text(
        "import numpy as np\n"
        "def samples():\n    for n in range(4): yield {'ids': np.full(6, n), 'mask': np.ones((1, 6), 'f4')}\n"
        "def arrays():\n    return [(np.full(6, n), np.ones(6)) for n in range(4)]\n"
        "def broken():\n    yield np.ones(6), np.ones(6)\n    raise RuntimeError('no more disk')\n"
        "def single():\n    return np.ones(6)\n")
    monkeypatch.chdir(tmp_path)
    expected = [{"ids": np.full((1, 6), n), "mask": np.ones((1, 6), np.float32)} for n in range(4)]
    assert_feeds(calibration("mine_for_test:samples", TEXT), expected)
    assert_feeds(calibration("mine_for_test:arrays", TEXT), expected)
    refusals = {"broken": "broken failed: RuntimeError: no more disk", "single": "must yield", "absent": "no function"}
    for name, words in refusals.items():
        with pytest.raises(DataRefused, match=words):
            calibration(f"mine_for_test:{name}", TEXT)
    with pytest.raises(DataRefused, match="cannot import 'not_there_at_all'"):
        calibration("not_there_at_all:x", TEXT)


def test_one_sample_is_enough_but_warned_of(tmp_path, rng):
    samples = calibration(pictures(tmp_path / "p", 1, rng), IMAGE)
    assert len(samples) == 1 and "one sample only" in samples.notes[0]
    assert not calibration(pictures(tmp_path / "q", 2, rng), IMAGE).notes


@pytest.mark.parametrize("array, words", [
    (np.ones((2, 3, 4, 4), "f4"), r"shape \[1, 3, 4, 5\], the sample has \[3, 4, 4\]"),
    (np.full((2, 3, 4, 5), np.nan, "f4"), "has NaN"),
    (np.full((2, 3, 4, 5), np.inf, "f4"), "has infinite"),
    (np.full((2, 3, 4, 5), 1e300), "has infinite"),
    (np.ones((2, 3, 4, 5), "c8"), "takes float32, the sample is complex64"),
    (np.ones((0, 3, 4, 5), "f4"), "no samples"),
    (np.array(1.0), "single number"),
    (np.asfortranarray(np.ones((2, 3, 4, 5), "f4")), "ascontiguousarray"),
    (np.array([None, 1]), "Python objects")])
def test_arrays_that_do_not_fit_are_refused(tmp_path, array, words):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(DataRefused, match=words) as e:
        list(calibration(tmp_path / "x.npy", IMAGE))
    assert "\n" not in str(e.value) and e.value.exit_code == 2


def test_names_numbers_and_dtypes_of_several_inputs_are_checked(tmp_path):
    def refused(words, **arrays):
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(DataRefused, match=words):
            calibration(tmp_path / "x.npz", TEXT)
    ones = np.ones((3, 6), "f4")
    refused("no input idx and input ids is missing; the model has the inputs ids, mask", idx=ones, mask=ones)
    refused("different numbers of samples: 2 of ids, 3 of mask", ids=ones[:2].astype(int), mask=ones)
    refused("input ids takes int64, the sample is float32", ids=ones, mask=ones)
    np.save(tmp_path / "x.npy", ones)
    with pytest.raises(DataRefused, match="one array, the model has the inputs ids, mask"):
        calibration(tmp_path / "x.npy", TEXT)
    small = (Signature("byte", (1, 2), "uint8"),)
    np.save(tmp_path / "y.npy", np.array([[1, 256]]))
    with pytest.raises(DataRefused, match=r"uint8.*beyond|takes uint8"):
        calibration(tmp_path / "y.npy", small)


def test_broken_and_missing_files_are_refused(tmp_path, rng):
    def refused(words, path):
        with pytest.raises(DataRefused, match=words):
            list(calibration(path, IMAGE))
    (tmp_path / "empty").mkdir()
    refused("neither pictures nor", tmp_path / "empty")
    refused("there is no file or folder", tmp_path / "nowhere")
    (tmp_path / "x.txt").write_text("x")
    refused("neither a folder", tmp_path / "x.txt")
    (tmp_path / "x.npz").write_bytes(b"PK\3\4 no archive")
    refused("cannot read", tmp_path / "x.npz")
    np.save(tmp_path / "cut.npy", np.ones((9, 3, 4, 5), "f4"))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-7])
    refused("ends in row 8 of 9", tmp_path / "cut.npy")
    folder = pictures(tmp_path / "p", 3, rng)
    (folder / "001.png").write_bytes(b"not a picture")
    refused("cannot read the image .*001.png", folder)
    np.save(folder / "x.npy", np.ones(3))
    refused("files of 2 kinds", folder)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_samples_stream(tmp_path, suffix):
    count, signature = 64, (Signature("x", (1, 1024, 256), "float32"),)
    x = np.random.default_rng(0).standard_normal((count, 1024, 256), np.float32)       # 64 MiB
    np.save(tmp_path / "x.npy", x) if suffix == "npy" else np.savez(tmp_path / "x.npz", x=x)
    model = ir.from_proto(parser.parse_model('<ir_version: 10, opset_import: ["": 20]>\n'
                                             "g (float[1,1024,256] x) => (float[1,1024,256] y) { y = Abs(x) }"))
    totals = {"x": 0.0, "y": 0.0}

    class Sum:
        def __init__(self, name):
            self.name = name

        def update(self, array):
            totals[self.name] += float(array.sum(dtype=np.float64))

    samples = calibration(tmp_path / f"x.{suffix}", signature)
    tracemalloc.start()
    observe(model, {name: Sum(name) for name in totals}, samples)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert totals["x"] == pytest.approx(x.sum(dtype=np.float64))
    assert totals["y"] == pytest.approx(np.abs(x).sum(dtype=np.float64), rel=1e-6)
