"""Regions of a graph that become one Conv: values worked by hand, shapes of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from repvgg_deploy.reparam.graph import fuse_graph

from .graphs import HEAD, assert_same, fuse, graph, operators, weights

BN = "BatchNormalization<epsilon: float = 1.0>"


def test_conv_and_batch_norm_by_hand() -> None:
    """var + eps = 4 and 9, so gamma / sigma = 1/2 and 2/3; bias (10-5)/2+3 and (20-6)*2/3+4."""
    result = fuse(f"t = Conv(x, swap, b)  y = {BN}(t, gamma, beta, mean, var)")
    assert operators(result.model) == {"Conv": 1}
    held = weights(result.model)
    assert held["y.weight"].reshape(2, 2) == pytest.approx(np.array([[0, 1 / 2], [2 / 3, 0]]))
    assert held["y.bias"] == pytest.approx(np.array([5.5, 14 * 2 / 3 + 4]))
    (region,) = result.fused
    assert (region.source, region.end, region.convs) == ("x", "y", 1)
    assert region.nodes == ("Conv 't'", "BatchNormalization 'y'")
    assert (region.macs_before, region.macs_after) == (4, 4)
    assert (region.weights_before, region.weights_after) == (4 + 2 + 4 * 2, 4 + 2)


def test_repvgg_block_by_hand() -> None:
    """3x3 + 1x1 + identity: the swap and the identity land on the centre of the 3x3 kernel."""
    result = fuse(
        """a = Conv<pads = [1, 1, 1, 1]>(x, three)  c = Conv(x, swap)
        s = Add(a, c)  t = Add(s, x)  y = Relu(t)"""
    )
    assert operators(result.model) == {"Conv": 1, "Relu": 1}
    kernel = weights(result.model)["t.weight"]
    assert kernel[:, :, 1, 1].tolist() == [[5 + 1, 1 + 1], [2 + 1, 5 + 1]]
    assert kernel[0, 0].tolist() == [[1, 2, 3], [4, 6, 6], [7, 8, 9]]
    assert "t.bias" not in weights(result.model)
    assert result.left == ()
    assert result.fused[0].macs_before == 36 + 4


def test_constants_in_every_position_by_hand() -> None:
    """-((x * [2, 3] + 0.5) / 0.5 - [4, 5]) = -4x + 3 and -6x + 4, then the swap."""
    result = fuse(
        """p = Mul(two_three, x)  q = Add(p, half)  r = Div(q, half)  s = Sub(r, four_five)
        t = Neg(s)  i = Identity(t)  u = Sub(zero, i)  v = Neg(u)  y = Conv(v, swap)"""
    )
    assert operators(result.model) == {"Conv": 1}
    held = weights(result.model)
    assert held["y.weight"].reshape(2, 2).tolist() == [[0, -6], [-4, 0]]
    assert held["y.bias"].tolist() == [4, 3]


@pytest.mark.parametrize(
    "body",
    [
        # sums in any order of association, with an inner tensor that several branches read
        "t = Conv(x, swap)  a = Conv<pads=[1,1,1,1]>(t, three)  s = Add(a, x)  c = Conv(t, swap)"
        " y = Add(s, c)",
        "t = Conv(x, swap)  a = Conv<pads=[1,1,1,1]>(t, three)  c = Conv(t, swap)  s = Add(c, a)"
        " y = Add(x, s)",
        "a = Conv<pads=[1,1,1,1]>(x, three)  c = Conv(x, swap)  y = Sum(x, a, c, x, c)",
        "a = Conv<pads=[1,1,1,1]>(x, three)  y = Sub(x, a)",
        "a = Conv<pads=[1,1,1,1]>(x, three)  y = Add(a, a)",
        "a = Conv(x, swap)  y = Sub(a, a)",
        # a branch behind a scale, between two sums
        "t = Conv(x, swap)  a = Conv<pads=[1,1,1,1]>(t, three)  s = Add(a, x)  n = Neg(s)"
        " c = Conv(t, swap)  y = Add(n, c)",
        # 1x1 in front of 3x3; a strided 1x1 behind it
        "t = Conv(x, swap)  y = Conv<pads=[1,1,1,1], strides=[2,2]>(t, three)",
        "t = Conv(x, three, b)  y = Conv<strides=[2,2]>(t, swap, b)",
        # padding: a node of its own, uneven, by auto_pad
        "t = Pad(x, around)  y = Conv(t, three, b)",
        "t = Pad(x, around)  u = Conv<pads=[0,1,1,0]>(t, three, b)  y = Mul(u, half)",
        'a = Conv<auto_pad="SAME_UPPER">(x, three)  y = Add(a, x)',
        'a = Conv<auto_pad="SAME_LOWER", dilations=[2,2]>(x, three)  y = Add(a, x)',
        'a = Conv<auto_pad="VALID">(x, three, b)  y = Mul(a, half)',
        # depthwise branches stay depthwise
        "a = Conv<group=2, pads=[1,1,1,1]>(x, deep)  y = Add(a, x)",
        "n = Mul(x, two_three)  a = Conv<group=2, pads=[1,1,1,1]>(n, deep)  y = Add(a, n)",
        # average pools
        "a = Conv<pads=[1,1,1,1]>(x, three)  y0 = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1],"
        " count_include_pad=1>(x)  y = Add(a, y0)",
        "t = Conv(x, swap)  p = AveragePool<kernel_shape=[3,3]>(t)  a = Conv(x, three)"
        " y = Add(a, p)",
    ],
)
def test_whole_bodies_become_one_conv(body: str) -> None:
    result = fuse(body)
    assert operators(result.model) == {"Conv": 1}
    (region,) = result.fused
    assert (region.source, region.end) == ("x", "y")
    assert region.macs_after <= region.macs_before
    assert result.left == ()


def test_groups_stay_where_every_branch_has_them() -> None:
    result = fuse("a = Conv<group=2, pads=[1,1,1,1]>(x, deep)  s = Mul(a, half)  y = Add(s, x)")
    assert weights(result.model)["y.weight"].shape == (2, 1, 3, 3)


def test_an_unfit_end_falls_back_to_the_regions_inside() -> None:
    """The sum of two sources stays; the batch norm of each branch goes into its convolution."""
    result = fuse(
        f"""r = Relu(x)  a = Conv(x, swap)  n = {BN}(a, gamma, beta, mean, var)
        c = Conv(r, swap)  m = {BN}(c, gamma, beta, mean, var)  y = Add(n, m)"""
    )
    assert operators(result.model) == {"Relu": 1, "Conv": 2, "Add": 1}
    (left,) = result.left
    assert left.reason == "its branches start from different tensors: 'x', 'r'"


def test_constants_of_every_kind() -> None:
    """Constant nodes in each form of value, and an Identity that shares a weight."""
    result = fuse(
        """k = Identity(swap)  l = Identity(k)  c = Constant<value = float[2,2,1,1] {1, 2, 3, 4}>()
        f = Constant<value_float: float = 2.0>()  g = Constant<value_floats: floats = [3.0]>()
        i = Constant<value_ints: ints = [0, 0, 1, 1, 0, 0, 1, 1]>()
        p = Pad(x, i)  a = Conv(p, l)  t = Mul(a, f)  u = Mul(t, g)  y = Conv(u, c)"""
    )
    assert operators(result.model) == {"Conv": 1}
    assert weights(result.model)["y.weight"].reshape(2, 2).tolist() == [[12, 6], [24, 18]]
    assert set(weights(result.model)) >= {"three", "y.weight"}
    assert "swap" not in weights(result.model)


def test_costlier_only_when_asked() -> None:
    """Depthwise and then 1x1: 18 + 4 multiply-adds a pixel, as one dense 3x3 36."""
    body = "a = Conv<group=2>(x, deep)  y = Conv(a, swap)"
    result = fuse(body)
    assert operators(result.model) == {"Conv": 2}
    (left,) = result.left
    assert "36 multiply-adds a pixel where the branches take 22" in left.reason
    costlier = fuse(body, allow_costlier=True)
    assert operators(costlier.model) == {"Conv": 1}
    assert (costlier.fused[0].macs_before, costlier.fused[0].macs_after) == (22, 36)


def test_a_stride_counts_in_the_cost() -> None:
    """A 3x3 at stride 1 before a strided 1x1 works on four pixels for each that is kept."""
    result = fuse("a = Conv(x, three)  y = Conv<strides=[2,2]>(a, swap)")
    assert (result.fused[0].macs_before, result.fused[0].macs_after) == (4 * 36 + 4, 36)


def test_nothing_to_fuse_gives_the_same_model() -> None:
    model = graph("t = Conv(x, three, b)  y = Relu(t)")
    result = fuse_graph(model)
    assert result.model is model
    assert result.fused == result.left == ()


def test_opset_11_pad_and_older_attributes() -> None:
    head = '<ir_version: 4, opset_import: ["" : 9]>'
    result = fuse("t = Pad<pads=[0,0,1,1,0,0,1,1]>(x)  y = Conv(t, three)", head=head)
    assert operators(result.model) == {"Conv": 1}
    head = HEAD.replace("17", "18")
    result = fuse(
        "t = Pad(x, sides, zero, axes)  y = Conv(t, three)", head=head,
        more=", int64[4] sides = {1, 2, 0, 1}, int64[2] axes = {-1, 2}",
    )  # fmt: skip
    (conv,) = result.model.graph.node
    assert next(a.ints for a in conv.attribute if a.name == "pads") == [2, 1, 1, 0]


def test_convolution_and_pool_at_its_stride_by_hand() -> None:
    """3x3 of ones on one channel, then the mean of 2x2: corners 1/4, edges 1/2, 1 in the middle."""
    model = parser.parse_model(
        f"""{HEAD} g (float[n,1,h,w] x) => (float[n,1,k,l] y)
        <float[1,1,3,3] ones = {{1, 1, 1, 1, 1, 1, 1, 1, 1}}> {{
          t = Conv<pads=[1,1,1,1]>(x, ones)
          y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(t) }}"""
    )
    result = fuse_graph(model)
    assert [(region.macs_before, region.macs_after) for region in result.fused] == [(36, 16)]
    (node,) = result.model.graph.node
    attributes = {a.name: list(a.ints) for a in node.attribute if a.ints}
    assert attributes["strides"] == [2, 2]
    assert attributes["pads"] == [1, 1, 1, 1]
    side = np.array([0.5, 1, 1, 0.5])
    np.testing.assert_array_equal(weights(result.model)["y.weight"][0, 0], np.outer(side, side))
    assert_same(model, result.model)
