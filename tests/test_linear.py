"""The algebra, against torch's own operators in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from repvgg_deploy.reparam.linear import LinearConv, NotOneConv

EXACT = 1e-10
seeds = st.integers(0, 2**32 - 1)
groups_and_widths = st.tuples(st.sampled_from([1, 2, 3, 4]), st.integers(1, 3), st.integers(1, 3))


def randn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def hostile_batch_norm(generator: torch.Generator, channels: int) -> tuple[Tensor, ...]:
    """gamma, beta, mean, var: tiny variances; huge, zero and negative gammas."""
    gamma, beta, mean = (randn(generator, channels) for _ in range(3))
    var = torch.rand(channels, generator=generator, dtype=torch.float64)
    pick = torch.randint(0, 5, (channels,), generator=generator)
    gamma[pick == 0] *= 1e6
    gamma[pick == 1] = 0.0
    var[pick <= 2] = 1e-12
    mean[pick == 3] *= 1e3
    return gamma, beta, mean, var


def close(actual: Tensor, expected: Tensor, scale: Tensor) -> None:
    """Within 1e-10 of the largest value that went into each output channel."""
    assert actual.shape == expected.shape
    limit = EXACT * scale.abs().amax((0, 2, 3), keepdim=True).clamp_min(1e-30)
    assert bool(((actual - expected).abs() <= limit).all())


@settings(max_examples=200, deadline=None)
@given(
    groups_and_widths,
    st.sampled_from([1, 2, 3, 5, 7]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 3),
    seeds,
)
def test_conv_then_batch_norm(
    layout: tuple[int, int, int], kernel: int, stride: int, dilation: int, padding: int, seed: int
) -> None:
    groups, cin, cout = layout
    g = torch.Generator().manual_seed(seed)
    weight, bias = randn(g, groups * cout, cin, kernel, kernel), randn(g, groups * cout)
    gamma, beta, mean, var = hostile_batch_norm(g, groups * cout)
    side = dilation * (kernel - 1) + 4
    x = randn(g, 2, groups * cin, side, side + 1)
    plain = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    expected = F.batch_norm(plain, mean, var, gamma, beta, eps=1e-5)
    conv = LinearConv.conv(
        weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    fused = conv.then(LinearConv.batch_norm(gamma, beta, mean, var, 1e-5))
    factor = (gamma / (var + 1e-5).sqrt())[None, :, None, None]
    terms = F.conv2d(x.abs(), weight.abs(), bias.abs(), stride, padding, dilation, groups)
    scale = (terms + mean.abs()[None, :, None, None]) * factor.abs() + beta.abs()[
        None, :, None, None
    ]
    close(fused(x), expected, scale)


@settings(max_examples=200, deadline=None)
@given(groups_and_widths, st.integers(1, 2), st.integers(1, 2), seeds)
def test_repvgg_block(layout: tuple[int, int, int], stride: int, dilation: int, seed: int) -> None:
    """3x3 + 1x1 + identity, each with a hostile batch norm, is one 3x3 convolution."""
    groups, width, _ = layout
    channels = groups * width
    g = torch.Generator().manual_seed(seed)
    x = randn(g, 2, channels, 7, 6)
    branches = [
        LinearConv.conv(
            randn(g, channels, width, 3, 3),
            stride=stride, padding=dilation, dilation=dilation, groups=groups,
        ),
        LinearConv.conv(randn(g, channels, width, 1, 1), stride=stride, groups=groups),
    ]  # fmt: skip
    if stride == 1:
        branches.append(LinearConv.identity(channels, groups))
    expected, scale, fused = [], [], []
    for branch in branches:
        gamma, beta, mean, var = hostile_batch_norm(g, channels)
        y = F.conv2d(x, branch.kernel, None, branch.stride, branch.padding, branch.dilation, groups)
        expected.append(F.batch_norm(y, mean, var, gamma, beta, eps=1e-5))
        factor = (gamma / (var + 1e-5).sqrt()).abs()[:, None, None]
        scale.append((y.abs() + mean.abs()[:, None, None]) * factor + beta.abs()[:, None, None])
        fused.append(branch.then(LinearConv.batch_norm(gamma, beta, mean, var, 1e-5)))
    total = sum(fused[1:], fused[0])
    assert total.kernel_size == (3, 3)
    assert (total.stride, total.padding) == ((stride, stride), (dilation, dilation))
    assert total.groups == groups
    close(total(x), sum(expected), torch.stack(scale).sum(0))


@settings(max_examples=150, deadline=None)
@given(groups_and_widths, groups_and_widths, st.sampled_from([1, 3, 5]), st.integers(1, 2), seeds)
def test_pointwise_then_spatial(
    first: tuple[int, int, int], second: tuple[int, int, int], kernel: int, stride: int, seed: int
) -> None:
    """1x1 then k x k (Diverse Branch Block, transform III), over any two group counts."""
    g = torch.Generator().manual_seed(seed)
    middle = first[0] * second[0] * first[2]
    one = randn(g, middle, first[1], 1, 1)
    many = randn(g, second[0] * second[2], middle // second[0], kernel, kernel)
    bias = randn(g, middle)
    x = randn(g, 2, first[0] * first[1], kernel + 3, kernel + 2)
    expected = F.conv2d(
        F.conv2d(x, one, bias, groups=first[0]), many, None, stride, 0, 1, second[0]
    )
    fused = LinearConv.conv(one, bias, groups=first[0]).then(
        LinearConv.conv(many, stride=stride, groups=second[0])
    )
    close(fused(x), expected, expected.abs() + 1e3)


@settings(max_examples=150, deadline=None)
@given(groups_and_widths, groups_and_widths, st.sampled_from([1, 3]), st.integers(0, 1), seeds)
def test_spatial_then_pointwise(
    first: tuple[int, int, int], second: tuple[int, int, int], kernel: int, padding: int, seed: int
) -> None:
    """k x k then 1x1: here a padded first convolution and its bias are no obstacle."""
    g = torch.Generator().manual_seed(seed)
    middle = first[0] * second[0] * first[2]
    many = randn(g, middle, first[1], kernel, kernel)
    bias, last = randn(g, middle), randn(g, second[0] * second[2])
    one = randn(g, second[0] * second[2], middle // second[0], 1, 1)
    x = randn(g, 2, first[0] * first[1], kernel + 2, kernel + 3)
    inner = F.conv2d(x, many, bias, 1, padding, 1, first[0])
    expected = F.conv2d(inner, one, last, stride=2, groups=second[0])
    fused = LinearConv.conv(many, bias, padding=padding, groups=first[0]).then(
        LinearConv.conv(one, last, stride=2, groups=second[0])
    )
    close(fused(x), expected, expected.abs() + 1e3)


PADS = st.tuples(*[st.integers(0, 2)] * 4)


def pad(x: Tensor, pads: tuple[int, ...]) -> Tensor:
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom))


sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=300, deadline=None)
@given(groups_and_widths, groups_and_widths, sizes, sizes, sizes, sizes, sizes, sizes, PADS, seeds)
def test_two_spatial_convolutions_without_padding_between(
    first: tuple[int, int, int],
    second: tuple[int, int, int],
    kernel: tuple[int, int],
    after: tuple[int, int],
    stride: tuple[int, int],
    step: tuple[int, int],
    dilation: tuple[int, int],
    spread: tuple[int, int],
    padding: tuple[int, int, int, int],
    seed: int,
) -> None:
    """One larger kernel holds both; padding in front, and biases of both, are no obstacle."""
    g = torch.Generator().manual_seed(seed)
    middle = first[0] * second[0] * first[2]
    one = LinearConv.conv(
        randn(g, middle, first[1], *kernel), randn(g, middle),
        stride=stride, padding=padding, dilation=dilation, groups=first[0],
    )  # fmt: skip
    many = LinearConv.conv(
        randn(g, second[0] * second[2], middle // second[0], *after),
        randn(g, second[0] * second[2]),
        stride=step, dilation=spread, groups=second[0],
    )  # fmt: skip
    x = randn(g, 2, first[0] * first[1], 26, 27)
    inner = F.conv2d(pad(x, padding), one.kernel, one.bias, stride, 0, dilation, first[0])
    expected = F.conv2d(inner, many.kernel, many.bias, step, 0, spread, second[0])
    close(one.then(many)(x), expected, expected.abs() + 1e3)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([(3, 1, 1), (5, 2, 1), (7, 3, 1), (3, 2, 2), (3, 3, 3)]), seeds)
def test_sum_of_kernels_of_different_size(other: tuple[int, int, int], seed: int) -> None:
    kernel, padding, dilation = other
    g = torch.Generator().manual_seed(seed)
    large, small = randn(g, 4, 3, kernel, kernel), randn(g, 4, 3, 1, 1)
    x = randn(g, 1, 3, 8, 9)
    expected = F.conv2d(x, large, None, 1, padding, dilation) + F.conv2d(x, small)
    big = LinearConv.conv(large, padding=padding, dilation=dilation)
    little = LinearConv.conv(small)
    close((big + little)(x), expected, expected.abs() + 1)
    close((little + big)(x), expected, expected.abs() + 1)


def test_sum_over_different_groups() -> None:
    g = torch.Generator().manual_seed(0)
    dense, depthwise = randn(g, 6, 6, 3, 3), randn(g, 6, 1, 3, 3)
    x = randn(g, 1, 6, 5, 5)
    expected = F.conv2d(x, dense, padding=1) + F.conv2d(x, depthwise, padding=1, groups=6)
    fused = LinearConv.conv(dense, padding=1) + LinearConv.conv(depthwise, padding=1, groups=6)
    assert fused.groups == 1
    close(fused(x), expected, expected.abs() + 1)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_identity(groups: int) -> None:
    x = torch.randn(2, 6, 3, 3, dtype=torch.float64)
    identity = LinearConv.identity(6, groups)
    assert identity.groups == groups
    assert torch.equal(identity(x), x)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (2, None, 0), ((3, 2), 2, 0)])
def test_average_pool(kernel: int, stride: int | None, padding: int) -> None:
    x = torch.randn(2, 5, 9, 8, dtype=torch.float64)
    pooled = LinearConv.average_pool(5, kernel, stride=stride, padding=padding)
    torch.testing.assert_close(pooled(x), F.avg_pool2d(x, kernel, stride, padding))


@settings(max_examples=100, deadline=None)
@given(PADS, PADS, st.integers(1, 2), st.integers(1, 2), seeds)
def test_zero_pad_in_front_of_a_padded_convolution(
    before: tuple[int, ...], own: tuple[int, ...], stride: int, dilation: int, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    weight, bias = randn(g, 4, 3, 3, 2), randn(g, 4)
    x = randn(g, 2, 3, 6, 5)
    expected = F.conv2d(pad(pad(x, before), own), weight, bias, stride, 0, dilation)
    spatial = LinearConv.conv(weight, bias, stride=stride, padding=own, dilation=dilation)  # type: ignore[arg-type]
    fused = LinearConv.zero_pad(3, before).then(spatial)  # type: ignore[arg-type]
    assert fused.groups == 1
    close(fused(x), expected, expected.abs() + 1)


@settings(max_examples=100, deadline=None)
@given(groups_and_widths, PADS, st.integers(0, 2), seeds)
def test_scale_in_front_keeps_the_groups(
    layout: tuple[int, int, int], pads: tuple[int, ...], kernel: int, seed: int
) -> None:
    """An offset too, as long as the convolution does not pad."""
    groups, cin, cout = layout
    g = torch.Generator().manual_seed(seed)
    factor, offset = randn(g, groups * cin), randn(g, groups * cin)
    if any(pads):
        offset.zero_()
    weight = randn(g, groups * cout, cin, kernel + 1, 1)
    x = randn(g, 2, groups * cin, 5, 4)
    scaled = x * factor[:, None, None] + offset[:, None, None]
    expected = F.conv2d(pad(scaled, pads), weight, groups=groups)
    after = LinearConv.conv(weight, padding=pads, groups=groups)  # type: ignore[arg-type]
    fused = LinearConv.scale(factor, offset).then(after)
    assert fused.groups == groups
    close(fused(x), expected, expected.abs() + 1)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), seeds)
def test_sum_of_shifted_windows(top: int, bottom: int, left: int, right: int, seed: int) -> None:
    """Two windows that lie differently around a pixel: the sum covers both."""
    g = torch.Generator().manual_seed(seed)
    one, two = randn(g, 2, 3, 1 + top + bottom, 1), randn(g, 2, 3, 1, 1 + left + right)
    x = randn(g, 2, 3, 6, 5)
    tall, wide = (top, 0, bottom, 0), (0, left, 0, right)
    expected = F.conv2d(pad(x, tall), one) + F.conv2d(pad(x, wide), two)
    fused = LinearConv.conv(one, padding=tall) + LinearConv.conv(two, padding=wide)
    assert fused.pads == (top, left, bottom, right)
    close(fused(x), expected, expected.abs() + 1)


def test_padding_of_two_unequal_sides_is_no_pair() -> None:
    assert LinearConv.zero_pad(2, (1, 2)).padding == (1, 2)
    with pytest.raises(ValueError, match="not the same on both sides"):
        _ = LinearConv.zero_pad(2, (1, 0, 0, 0)).padding


def test_a_scale_between_wide_layers_stays_small() -> None:
    """4096 channels: a dense diagonal would hold 16.7 million numbers; the algebra needs 4096."""
    wide = LinearConv.conv(torch.ones(4096, 1, 3, 3), groups=4096)
    scale = LinearConv.scale(torch.full((4096,), 2.0), torch.zeros(4096))
    fused = scale.then(wide).then(scale)
    assert fused.kernel.shape == (4096, 1, 3, 3)
    assert bool((fused.kernel == 4).all())


def test_batch_norm_by_hand() -> None:
    """gamma 3, beta 1, mean 2, var 8.75 + eps 0.25 = 9: x * 3/3 + 1 - 2 * 1 = x - 1."""
    one = [torch.tensor([value]) for value in (3.0, 1.0, 2.0, 8.75)]
    norm = LinearConv.batch_norm(*one, eps=0.25)
    assert (norm.kernel.item(), norm.bias.item()) == (1.0, -1.0)


def test_values_are_not_changed_by_operations() -> None:
    conv = LinearConv.conv(torch.randn(4, 4, 3, 3), torch.randn(4), padding=1)
    before = conv.kernel.clone(), conv.bias.clone()
    conv.then(LinearConv.scale(torch.full((4,), 2.0), torch.ones(4)))
    _ = conv + LinearConv.identity(4)
    assert torch.equal(conv.kernel, before[0])
    assert torch.equal(conv.bias, before[1])


def conv(kernel: int = 3, cin: int = 4, cout: int = 4, **geometry: object) -> LinearConv:
    groups = int(geometry.get("groups", 1))  # type: ignore[call-overload]
    return LinearConv.conv(torch.randn(cout, cin // groups, kernel, kernel), **geometry)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (lambda: conv(padding_mode="reflect"), "not zero padding"),
        (lambda: conv(cout=5, groups=2), "do not divide into 2 groups"),
        (lambda: LinearConv.identity(5, 2), "do not divide into 2 groups"),
        (lambda: LinearConv.batch_norm(*torch.zeros(4, 3), eps=0.0), r"variance \+ eps <= 0"),
        (lambda: LinearConv.average_pool(4, 3, padding=1, count_include_pad=False), "borders"),
        (lambda: conv(groups=2).regroup(4), "2 groups cannot be written as 4"),
        (lambda: conv(cout=6).then(conv()), "6 channels feed 4"),
        (lambda: conv().then(conv(padding=1)), "padded between two spatial convolutions"),
        (lambda: conv(1, stride=2).then(conv(padding=1)), "padded between two spatial"),
        (lambda: conv().then(conv(1, padding=1)), "padded between two spatial convolutions"),
        (
            lambda: LinearConv.conv(torch.randn(4, 4, 1, 1), torch.ones(4)).then(conv(padding=1)),
            "leaks at the borders",
        ),
        (
            lambda: LinearConv.scale(torch.ones(4), torch.ones(4)).then(LinearConv.zero_pad(4, 1)),
            "leaks at the borders",
        ),
        (lambda: conv().then(LinearConv.zero_pad(4, 1)), "padded between two spatial"),
        (lambda: conv(padding=(1, 1, 0, 0)) + conv(1), "differ in size"),
        (lambda: conv() + conv(cin=8), "differ in in_channels"),
        (lambda: conv() + conv(cout=8), "differ in out_channels"),
        (lambda: conv(stride=2) + conv(), "differ in stride"),
        (lambda: conv(padding=1) + conv(padding=2, dilation=2), "differ in dilation"),
        (lambda: conv() + conv(1), "differ in size"),
        (lambda: conv(1, padding=1) + conv(), "differ in size"),
        (lambda: conv(5, padding=2) + conv(padding=2), "differ in size"),
        (lambda: conv(padding=3, dilation=3) + conv(1, padding=1), "no common dilated kernel"),
    ],
)
def test_refusals(operation: object, reason: str) -> None:
    with pytest.raises(NotOneConv, match=reason):
        operation()  # type: ignore[operator]
