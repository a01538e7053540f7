from harness import check, ops

from burnish.passes.layout.nhwc import ChannelsLast

HEAD = '<ir_version: 10, opset_import: ["": 22]>\n'


def test_lone_conv():
    m = check(HEAD + "g (float[1,3,9,7] x, float[8,3,3,3] w, float[8] b) => (float[1,8,5,4] y) "
              "{ y = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w, b) }", ChannelsLast())
    assert ops(m) == ["Transpose", "NhwcConv", "Transpose"]
