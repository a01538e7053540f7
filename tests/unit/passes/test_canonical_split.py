"""Split becomes slices."""

import pytest
from burnish.passes.canonical.split_to_slices import SplitToSlices
from harness import check, ops


@pytest.mark.parametrize("axis", [1, -1])
def test_each_part_that_is_read_becomes_a_slice(axis):
    model = check(f"""g (float[2,7,7] x) => (float[A,B,C] y, float[D,E,F] b) {{
        s = Constant<value_ints = [1, 2, 4]>()  a, b, c = Split<axis = {axis}>(x, s)  y = Relu(c) }}""", SplitToSlices())
    assert sorted(ops(model)) == ["Relu", "Slice", "Slice"]
