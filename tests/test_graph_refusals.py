"""Every reason for which linear nodes stay apart; each body still computes the same."""

from __future__ import annotations

import pytest
from onnx import parser

from repvgg_deploy.reparam.graph import fuse_graph

from .graphs import HEAD, fuse, graph, operators

BN = "BatchNormalization<epsilon: float = 1.0>"
PADDED = "Conv<pads = [1, 1, 1, 1]>"
REFUSALS = {
    "two spatial kernels": (
        "t = Conv(x, three)  y = Conv(t, three)", "100 multiply-adds a pixel where the branches",
    ),
    "padding in between": (f"t = Conv(x, three)  y = {PADDED}(t, three)", "padded between two"),
    "stride in front": (
        f"t = Conv<strides=[2,2]>(x, swap)  y = {PADDED}(t, three)", "padded between two",
    ),
    "bias leaks": (f"t = Conv(x, swap, b)  y = {PADDED}(t, three)", "leaks at the borders"),
    "offset leaks": (f"t = Add(x, half)  y = {PADDED}(t, three)", "leaks at the borders"),
    "strides differ": (
        "t = Conv(x, swap)  a = Conv<strides=[7,7]>(t, swap)  c = Conv<strides=[8,8]>(t, swap)"
        " y = Add(a, c)",
        "differ in stride",
    ),
    "dilations differ": (
        "a = Conv<pads=[1,1,1,1]>(x, three)  c = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, three)"
        " y = Add(a, c)",
        "differ in dilation",
    ),
    "pool leaves out padding": (
        "p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)  y = Conv(p, swap)",
        "leaves out the padding",
    ),
    "pool with ceil_mode": (
        "p = AveragePool<kernel_shape=[2,2], ceil_mode=1>(x)  y = Conv(p, swap)", "ceil_mode",
    ),
    "pad with a value": (
        "p = Pad(x, around, half)  y = Conv(p, three)", "padding with 0.5 is not zero",
    ),
    "reflect": ('p = Pad<mode="reflect">(x, around)  y = Conv(p, three)', "mode 'reflect'"),
    "dynamic pad": (
        "s = Shape(x)  z = Mul(s, n)  p0 = Concat<axis=0>(z, z)  p = Pad(x, p0)  y = Conv(p, swap)",
        "its padding is not constant",
    ),
    "computed pad": (
        "p0 = Concat<axis=0>(n, n)  p = Pad(x, p0)  y = Conv(p, swap)",
        "its padding is computed by other nodes; run `onnxsim model.onnx simple.onnx` first",
    ),
    "negative pad": ("p = Pad(x, crop)  y = Conv(p, swap)", "crops"),
    "channel pad": ("p = Pad(x, deeper)  c = Identity(swap3)  y = Conv(p, c)", "or the channels"),
    "inner tensor read": (
        "t = Conv(x, swap)  r = Relu(t)  n = Neg(t)  y = Add(n, r)", "Relu 'r' reads 't' as well",
    ),
    "inner tensor kept twice": (
        "t = Conv(x, swap)  a = Conv(t, three)  c = Conv(t, swap)  d = Relu(c)  e = Relu(a)"
        " f = GlobalMaxPool(d)  y = Mul(e, f)",
        "several readers",
    ),
    "dynamic weights": ("k = Relu(swap)  t = Conv(x, k)  y = Neg(t)", "weights are not constant"),
    "dynamic statistics": (
        f"m = Relu(mean)  t = Conv(x, swap)  y = {BN}(t, gamma, beta, m, var)",
        "weights are not constant",
    ),
    "spatial constant": ("t = Conv(x, swap)  y = Mul(t, row)", "neither a scalar nor one number"),
    "one number a column": ("t = Conv(x, swap)  y = Mul(t, seven)", "neither a scalar nor one"),
    "division by zero": ("t = Conv(x, swap)  y = Div(t, zero)", "zero in a division"),
    "constant over tensor": ("t = Conv(x, swap)  y = Div(half, t)", "divided by a tensor"),
    "broadcast channels": ("t = Conv(x, one)  y = Add(x, t)", "channels are broadcast"),
    "negative variance": (
        f"t = Conv(x, swap)  m = Neg(t)  y = {BN}(t, gamma, beta, mean, low)", "eps <= 0",
    ),
    "wrong statistics": (
        f"t = Conv(x, one)  y = {BN}(t, gamma, beta, mean, var)", "not for the 1 channels",
    ),
    "auto_pad at a stride": (
        't = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, three)  y = Neg(t)', "hangs on",
    ),
    "sum with a constant": ("t = Conv(x, swap)  y = Sum(t, half)", "use Add"),
    "different sources": (
        "r = Relu(x)  t = Conv(x, swap)  s = Add(t, r)  u = Conv(r, swap)  y = Mul(s, u)",
        "start from different tensors",
    ),
    "unknown branch": (
        "r = Relu(x)  t = Conv(x, swap)  y = Add(t, r)", "how many channels its branch 'r' has",
    ),
    "costlier": (
        "a = Conv<group=2>(x, deep)  y = Conv(a, swap)", "36 multiply-adds a pixel where",
    ),
}  # fmt: skip
MORE = """, int64[4] n = {0, 0, 0, 0}, int64[8] crop = {0, 0, -1, 0, 0, 0, 0, 0},
  int64[8] deeper = {0, 1, 0, 0, 0, 0, 0, 0}, float[1,3,1,1] swap3 = {1, 2, 3},
  float[1,1,1,7] row = {1, 2, 3, 4, 5, 6, 7}, float[7] seven = {1, 2, 3, 4, 5, 6, 7},
  float[1,2,1,1] one = {1, 2}, float[2] low = {-5, 1}"""
#: Cannot be run at all, or not in float64: only the reason is looked at.
UNRUNNABLE = {
    "strides differ",
    "negative pad",
    "division by zero",
    "negative variance",
    "wrong statistics",
}


def test_branches_of_one_tensor_do_not_start_from_two() -> None:
    """What could not join says why; the sum it is part of has nothing to add."""
    body = (
        f"r = Relu(x)  t = {PADDED}(r, three)  d = Conv<pads=[2,2,2,2], dilations=[2,2]>(r, three)"
    )
    (left,) = fuse(f"{body}  s = Add(t, d)  y = Relu(s)").left
    assert "differ in dilation" in left.reason


@pytest.mark.parametrize("name", REFUSALS)
def test_reason(name: str) -> None:
    body, reason = REFUSALS[name]
    result = fuse_graph(graph(body, more=MORE)) if name in UNRUNNABLE else fuse(body, more=MORE)
    assert any(reason in left.reason for left in result.left), result.left
    assert all(left.nodes for left in result.left)


PARSED = {
    "batch norm in training": (
        """(float[n,2,h,w] x, float[2] s) => (float[n,2,h,w] y)
        <float[2,2,1,1] k = {1, 0, 0, 1}, float[2] g = {1, 1}>
        { t = Conv(x, k)  y, m, v = BatchNormalization<training_mode: int = 1>(t, g, g, g, g) }""",
        "batch norm in training mode",
    ),
    "1-D convolution": (
        """(float[n,2,l] x) => (float[n,2,l] y) <float[2,2,1] k = {1, 0, 0, 1}>
        { t = Conv(x, k)  y = Neg(t) }""",
        "a 1-D convolution",
    ),
    "3-D convolution": (
        """(float[n,1,d,h,w] x) => (float[n,1,d,h,w] y) <float[1,1,1,1,1] k = {1}>
        { t = Conv(x, k)  y = Neg(t) }""",
        "a 3-D convolution",
    ),
    "bfloat16": (
        """(bfloat16[n,1,h,w] x) => (bfloat16[n,1,h,w] y) <bfloat16[1,1,1,1] k = {1}>
        { t = Conv(x, k)  y = Neg(t) }""",
        "another type than float",
    ),
}


@pytest.mark.parametrize("name", PARSED)
def test_reason_of_other_shapes(name: str) -> None:
    text, reason = PARSED[name]
    model = parser.parse_model(f"{HEAD} g {text}")
    result = fuse_graph(model)
    assert result.model is model or operators(result.model) == operators(model)
    assert reason in result.left[0].reason
    assert result.fused == ()


def test_old_opsets_are_left_alone() -> None:
    head = '<ir_version: 4, opset_import: ["" : 6]>'
    model = parser.parse_model(
        f"{head} g (float[n,1,h,w] x) => (float[n,1,h,w] y) <float[1,1,1,1] k = {{1}}>"
        "{ t = Conv(x, k)  y = Neg(t) }"
    )
    result = fuse_graph(model)
    assert result.model is model
    assert "opset 6 is too old" in result.left[0].reason


def test_no_noise_for_a_plain_network() -> None:
    """A chain of Conv and Relu has nothing to fuse, and nothing to explain."""
    body = "t = Conv(x, three, b)  r = Relu(t)  u = Conv(r, three, b)  y = Relu(u)"
    assert fuse(body).left == ()


def test_rank_is_never_guessed() -> None:
    """A constant of rank 4 turns [C, H, W] into [1, C, H, W]: the Conv may not move up to x."""
    model = parser.parse_model(
        f"{HEAD} g (float[2,h,w] x) => (float[1,2,h,w] y)"
        "<float[1,2,1,1] c = {2, 3}, float[2,2,1,1] k = {0, 1, 1, 0}>"
        "{ r = Relu(x)  t = Mul(r, c)  y = Conv(t, k) }"
    )
    assert fuse_graph(model).model is model


def test_channels_are_never_guessed() -> None:
    """One channel, scaled by two numbers, becomes two: no per-channel scale."""
    model = parser.parse_model(
        f"{HEAD} g (float[n,1,h,w] x) => (float[n,2,h,w] y)"
        "<float[2,1,1] c = {2, 3}, float[2,2,1,1] k = {0, 1, 1, 0}>"
        "{ r = Relu(x)  t = Mul(r, c)  y = Conv(t, k) }"
    )
    assert fuse_graph(model).model is model
