"""What a user asks of a compression: numbers from text, and refusals of what cannot be read or contradicts itself."""

import pytest
from burnish.compiler.compress.request import Request, RequestRefused
from burnish.passes.compress.treatment import Sparsity, Treatment


def test_methods_combine() -> None:
    r = Request.parse(quantize="int8", sparsity="block:75%", low_rank="0.5")
    assert r.treatment == Treatment("int8", Sparsity(share=0.25), 0.5)
    assert r.compresses and not r.searches and r.goal == "speed"


@pytest.mark.parametrize(("text", "bytes"), [("4MB", 4e6), ("800 KB", 8e5), ("2MiB", 2 * 2**20), ("1e", None), ("0MB", None)])
def test_sizes(text: str, bytes: float | None) -> None:
    if bytes is None:
        with pytest.raises(RequestRefused, match="4MB"):
            Request.parse(max_size=text)
    else:
        assert Request.parse(max_size=text).max_size == bytes


def test_times_and_shares() -> None:
    r = Request.parse(max_latency="3ms", max_drop="1%")
    assert r.max_latency == pytest.approx(3e-3) and r.max_drop == pytest.approx(0.01) and r.searches
    assert Request.parse(max_latency="800us", max_drop="0.02").max_latency == pytest.approx(8e-4)


@pytest.mark.parametrize("text", ["2:4", "1:4", "4:8", "block:75%", "block:50%/32", "2:4/8"])
def test_sparsity_reads_what_it_writes(text: str) -> None:
    assert str(Sparsity.parse(text)) == text


@pytest.mark.parametrize(("pattern", "k", "step", "kept"), [
    ("2:4", 16, 1, 8), ("2:4", 18, 1, 10), ("1:4", 64, 4, 4), ("block:75%", 100, 1, 25), ("block:75%", 3, 1, 1)])
def test_how_many_units_are_kept(pattern: str, k: int, step: int, kept: int) -> None:
    s = Sparsity.parse(pattern)
    assert Sparsity(s.kept, s.period, s.share, step=step).units(k) == kept


@pytest.mark.parametrize(("asked", "says"), [
    ({"quantize": "int3"}, "there are int8, integer-only, w8, w4"), ({"sparsity": "half"}, "write 2:4"),
    ({"sparsity": "4:2"}, "0 < N < M"), ({"sparsity": "block:0%"}, "between 0% and 100%"), ({"low_rank": "2"}, "a share such as"),
    ({"shift": 3}, "one or two"), ({"quantize": "w4", "shift": 1}, "choose one"), ({"max_latency": "3 parsecs"}, "3ms"),
    ({"quantize": "integer-only", "max_drop": "1%"}, "leave out"), ({"prefer": "beauty"}, "speed, size")])
def test_refusals_say_what_to_write(asked: dict, says: str) -> None:
    with pytest.raises(RequestRefused, match=says):
        Request.parse(**asked)


def test_what_makes_only_the_weights_smaller_is_for_size() -> None:
    assert Request.parse(quantize="w4").goal == Request.parse(shift=2).goal == "size"
    assert Request.parse(quantize="w4", prefer="speed").goal == "speed"
