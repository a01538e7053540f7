"""A few cases of every family of the ONNX backend suite, compiled and run. All: `python -m burnish.tools.conformance`."""

import pytest
from burnish.tools.conformance import run
from burnish.tools.suite import load

CASES = [
    "add_bcast", "and_bcast4v3d", "argmax_keepdims_random", "atan_example", "averagepool_2d_pads", "basic_conv_with_padding",
    "batchnorm_example", "bitshift_left_uint8", "cast_FLOAT_to_FLOAT16", "clip_outbounds", "col2im_pads",
    "concat_3d_axis_negative_2", "constant_pad", "conv_with_strides_and_asymmetric_padding", "convtranspose_pads",
    "cumsum_2d_axis_1", "depthtospace_crd_mode_example", "dequantizelinear_axis", "dft_axis", "einsum_inner_prod", "elu",
    "eyelike_with_dtype", "gather_1", "gather_elements_negative_indices", "gathernd_example_int32_batch_dim1", "gelu_tanh_1",
    "gemm_all_attributes", "globalaveragepool", "gridsample_bicubic", "gru_seq_length", "hardsigmoid", "instancenorm_epsilon",
    "layer_normalization_4d_axis2", "lrn", "lstm_with_peepholes", "matmul_4d", "maxpool_2d_ceil", "mod_mixed_sign_int8",
    "onehot_negative_indices", "or_bcast4v3d", "pow_types_float32_int64", "prelu_broadcast", "quantizelinear_axis",
    "range_float_type_positive_delta", "reduce_log_sum_exp_keepdims_random", "reshape_allowzero_reordered",
    "resize_downsample_scales_cubic_antialias", "resize_upsample_scales_linear", "reversesequence_time",
    "scatter_elements_with_negative_indices", "scatternd_add", "slice_negative_axes", "softmax_large_number",
    "split_variable_parts_2d_opset18", "tile", "top_k_smallest", "transpose_all_permutations_3", "tril_neg",
    "where_long_example", "xor_bcast4v4d"]


@pytest.fixture(scope="module")
def results():
    wanted = {f"test_{name}_cpu" for name in CASES}
    return {r.name: r for r in run([c for c in load(("node",)) if c.name in wanted], jobs=2)}


@pytest.mark.parametrize("name", CASES)
def test_case(name, results):
    result = results[f"test_{name}_cpu"]
    assert result.outcome == "pass", f"{result.outcome}: {result.reason}"
