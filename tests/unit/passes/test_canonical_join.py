"""Slices that a Concat puts together again."""

import pytest
from burnish.passes.canonical.join_slices import JoinSlices
from burnish.passes.canonical.split_to_slices import SplitToSlices
from harness import check, ops

# the end of the graph -> the ops that are left of it
ENDS = {
    "y = Concat<axis = 1>(a, b, c)": ["Concat"],
    "z = Relu(b)  y = Concat<axis = -1>(a, b, c, z)": ["Concat", "Relu", "Slice"],
    "y = Concat<axis = 1>(x, a, b, c, x, a, b, c)": ["Concat"],
    "y = Concat<axis = 1>(a, c, b)": ["Concat", "Slice", "Slice", "Slice"],
    "y = Concat<axis = 1>(a, b)": ["Concat", "Slice", "Slice"],
    "y = Concat<axis = 1>(b, c)": ["Concat", "Slice", "Slice"],
    "y = Concat<axis = 1>(a, b, b, c)": ["Concat", "Slice", "Slice", "Slice"],
}


@pytest.mark.parametrize("end", ENDS)
def test_parts_of_a_value_in_order(end):
    model = check(f"""g (float[2,7] x) => (float[A,B] y) {{
        s = Constant<value_ints = [1, 2, 4]>()  a, b, c = Split<axis = 1>(x, s)  {end} }}""", SplitToSlices(), JoinSlices())
    assert sorted(ops(model)) == ENDS[end]


@pytest.mark.parametrize("slices", [
    "a = Slice(x, zero, two, zero)  b = Slice(x, two, four, zero)",        # along another axis
    "a = Slice(x, zero, four, one, two)  b = Slice(x, one, four, one, two)",   # every second
    "a = Slice(x, zero, two, one)  b = Slice(z, two, four, one)"])       # of two values
def test_what_is_no_value_cut_once(slices):
    check(f"""g (float[4,4] x) => (float[A,B] y) {{ z = Relu(x)
        zero = Constant<value_ints = [0]>()  one = Constant<value_ints = [1]>()  two = Constant<value_ints = [2]>()
        four = Constant<value_ints = [4]>()  {slices}  y = Concat<axis = 1>(a, b) }}""", JoinSlices(), changed=False)
