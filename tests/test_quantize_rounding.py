"""Weights to integers, and the statistics that they are chosen by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from repvgg_deploy.quantize import patches
from repvgg_deploy.quantize.patches import PatchStatistics, measure
from repvgg_deploy.quantize.rounding import Rounded, round_layer

LINEAR = helper.make_node("Gemm", ["x", "w"], ["y"])


def statistics_of(
    values: NDArray[np.float32], quantized: NDArray[np.float32], groups: int = 1
) -> PatchStatistics:
    """Of a 1x1 convolution that reads [n, C] at one position each."""
    pairs = [(values[:, :, None, None], quantized[:, :, None, None])]
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=groups)
    weight = np.zeros((groups, values.shape[1] // groups, 1, 1), np.float32)
    return measure(pairs, node, weight, 0)


def rounded(
    weight: NDArray[np.float32],
    statistics: PatchStatistics | None = None,
    bias: NDArray[np.float32] | None = None,
    *,
    learned: bool = False,
    correct_bias: bool = False,
    float_type: str = "fp32",
) -> Rounded:
    found = round_layer(
        weight, bias, statistics,
        learned=learned, correct_bias=correct_bias, float_type=float_type,
    )  # fmt: skip
    assert found.integers.dtype == np.int8 and found.integers.shape == weight.shape
    assert np.abs(found.integers.astype(int)).max() <= 127
    assert found.scales.dtype == np.float32 and found.scales.shape == (len(weight),)
    assert np.isfinite(found.scales).all() and (found.scales > 0).all()
    assert found.bias is None or np.isfinite(found.bias).all()
    return found


def outputs(x: NDArray[Any], weight: NDArray[Any], groups: int) -> NDArray[np.float64]:
    """Of a grouped linear layer: x [n, C], weight [out, C/groups]; [n, out]."""
    rows = weight.reshape(groups, -1, weight.shape[1]).astype(np.float64)
    split = x.reshape(len(x), groups, -1).astype(np.float64)
    return np.einsum("ngk,grk->ngr", split, rows).reshape(len(x), -1)


def kept(found: Rounded) -> NDArray[np.float64]:
    """What the integers stand for, [out, in/groups]."""
    return found.integers.reshape(len(found.scales), -1) * found.scales[:, None].astype(float)


def correlated(seed: int, n: int = 2000, channels: int = 24) -> NDArray[np.float32]:
    """Activations as behind a ReLU, that share a few causes."""
    generator = np.random.default_rng(seed)
    causes = generator.standard_normal((n, 4)) @ generator.standard_normal((4, channels))
    noise = 0.1 * generator.standard_normal((n, channels))
    return np.maximum(causes + noise + 0.5, 0).astype(np.float32)


def on_grid(x: NDArray[np.float32], step: float = 0.125) -> NDArray[np.float32]:
    return (np.clip(np.rint(x / step), -128, 127) * step).astype(np.float32)


def test_nearest_by_hand() -> None:
    """Weights that lie on a grid of 127 steps: the scale that clips nothing is exact."""
    steps = np.array([[127, -64, 3, 0], [-127, 127, 1, -1]])
    weight = (steps * np.array([[0.5], [0.0625]])).astype(np.float32)
    found = rounded(weight, bias=np.array([1, 2], np.float32))
    assert found.integers.tolist() == steps.tolist()
    assert found.scales.tolist() == [0.5, 0.0625]
    assert found.bias is not None and found.bias.tolist() == [1, 2]


def test_nearest_clips_an_outlier_where_the_others_gain_more() -> None:
    generator = np.random.default_rng(0)
    row = np.append(generator.normal(0, 1, 4000), 6).astype(np.float32)[None]
    found = rounded(row)
    full = 6 / 127
    plain = np.rint(row / full) * full
    assert found.scales[0] < full
    assert ((kept(found) - row) ** 2).sum() < ((plain - row) ** 2).sum()
    steps = np.clip(np.rint(row.astype(float) / found.scales.astype(float)), -127, 127)
    assert np.array_equal(found.integers, steps)


@pytest.mark.parametrize("groups", [1, 2, 24])
@pytest.mark.parametrize("seed", range(4))
def test_learned_rounding_loses_less(seed: int, groups: int) -> None:
    """On inputs that it has not seen."""
    x = correlated(seed)
    seen, other = slice(0, 1000), slice(1000, 2000)
    weight = np.random.default_rng(seed).normal(0, 1, (48, 24 // groups)).astype(np.float32)
    statistics = statistics_of(x[seen], x[seen], groups)
    errors = {}
    for learned in (False, True):
        found = rounded(weight, statistics, learned=learned, correct_bias=True)
        assert found.bias is not None
        wanted = outputs(x[other], weight, groups)
        got = outputs(x[other], kept(found), groups) + found.bias
        errors[learned] = float(((wanted - got) ** 2).sum())
    if groups == 24:  # a single weight a row: hardly anything to choose
        assert errors[True] <= 1.01 * errors[False]
    else:
        assert errors[True] < 0.7 * errors[False]


def test_weights_make_up_for_what_the_layers_before_have_lost() -> None:
    """An input that has been clipped away shows in those that it goes along with."""
    x = correlated(0, n=4000)
    q = on_grid(x)
    q[:, :4] *= np.float32(0.5)
    weight = np.random.default_rng(0).normal(0, 1, (16, 24)).astype(np.float32)
    errors = {}
    for learned in (False, True):
        statistics = statistics_of(x[:2000], q[:2000])
        found = rounded(weight, statistics, learned=learned, correct_bias=True)
        assert found.bias is not None
        got = outputs(q[2000:], kept(found), 1) + found.bias
        errors[learned] = float(((outputs(x[2000:], weight, 1) - got) ** 2).sum())
    assert errors[True] < 0.5 * errors[False]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3]), st.booleans(), st.booleans())
def test_bias_correction_leaves_no_mean_error(
    seed: int, groups: int, learned: bool, biased: bool
) -> None:
    x = correlated(seed, n=200, channels=6)
    q = on_grid(x, 0.5) + np.float32(0.125)
    generator = np.random.default_rng(seed)
    weight = generator.normal(0, 1, (6, 6 // groups)).astype(np.float32)
    bias = generator.normal(0, 1, 6).astype(np.float32) if biased else None
    statistics = statistics_of(x, q, groups)
    found = rounded(weight, statistics, bias, learned=learned, correct_bias=True)
    assert found.bias is not None
    wanted = outputs(x, weight, groups) + (0 if bias is None else bias)
    got = outputs(q, kept(found), groups) + found.bias
    assert np.abs((wanted - got).mean(0)).max() <= 1e-5 * max(1, np.abs(wanted).max())


def test_without_correction_the_bias_stays() -> None:
    x = correlated(0)
    weight = np.ones((2, 24), np.float32)
    bias = np.array([1, -2], np.float32)
    found = rounded(weight, statistics_of(x, on_grid(x)), bias, learned=True)
    assert found.bias is not None and np.array_equal(found.bias, bias)
    assert rounded(weight, statistics_of(x, on_grid(x)), learned=True).bias is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(-9, 4), st.booleans())
def test_scales_that_fp16_holds(seed: int, magnitude: float, learned: bool) -> None:
    x = correlated(seed, n=50, channels=6)
    weight = np.random.default_rng(seed).normal(0, 10**magnitude, (4, 6)).astype(np.float32)
    statistics = statistics_of(x, on_grid(x))
    found = rounded(weight, statistics, learned=learned, correct_bias=True, float_type="fp16")
    assert np.array_equal(found.scales.astype(np.float16).astype(np.float32), found.scales)


@pytest.mark.parametrize("value", [0.0, 1e-6, 0.1, 7.9, 1000.0, 1e6])
@pytest.mark.parametrize("learned", [False, True])
def test_inputs_that_never_change(value: float, learned: bool) -> None:
    x = np.full((500, 8), value, np.float32)
    weight = np.random.default_rng(0).normal(0, 1, (4, 8)).astype(np.float32)
    found = rounded(weight, statistics_of(x, x), learned=learned, correct_bias=True)
    assert found.bias is not None
    got = outputs(x[:1], kept(found), 1) + found.bias
    assert np.allclose(got, outputs(x[:1], weight, 1), atol=1e-5 * max(value, 1))


@pytest.mark.parametrize("offset", [10.0, 1000.0])
def test_inputs_that_hardly_change(offset: float) -> None:
    """Their mean square is far larger than their variance, which float32 sums would lose."""
    generator = np.random.default_rng(0)
    noise = on_grid(generator.standard_normal((4000, 8)).astype(np.float32), 2.0**-10)
    x = np.float32(offset) + noise * np.float32(2.0**-3)
    found = statistics_of(x, x)
    wanted = np.cov(x.astype(np.float64).T, bias=True)
    assert np.allclose(found.covariance[0].numpy(), wanted, rtol=1e-3, atol=1e-3 * wanted.max())
    weight = generator.normal(0, 1, (4, 8)).astype(np.float32)
    rounded(weight, found, learned=True, correct_bias=True)


def test_a_dead_input_among_others() -> None:
    x = correlated(0)
    x[:, ::3] = 0
    weight = np.random.default_rng(0).normal(0, 1, (8, 24)).astype(np.float32)
    found = rounded(weight, statistics_of(x, on_grid(x)), learned=True, correct_bias=True)
    assert found.bias is not None
    got = outputs(on_grid(x), kept(found), 1) + found.bias
    wanted = outputs(x, weight, 1)
    assert 10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum()) > 30


def test_rows_of_zeros() -> None:
    weight = np.zeros((2, 24), np.float32)
    x = correlated(0)
    found = rounded(weight, statistics_of(x, on_grid(x)), learned=True, correct_bias=True)
    assert not found.integers.any() and found.bias is not None and not found.bias.any()


#: attributes of a Conv on [2, 4, 5, 6], and the shape of its weight
CONVOLUTIONS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "plain": ({}, (3, 4, 3, 3)),
    "padded": ({"pads": [1, 1, 1, 1]}, (3, 4, 3, 3)),
    "strided": ({"pads": [1, 1, 1, 1], "strides": [2, 3]}, (3, 4, 3, 3)),
    "dilated": ({"pads": [2, 1, 2, 1], "dilations": [2, 1]}, (3, 4, 3, 3)),
    "grouped": ({"pads": [1, 1, 1, 1], "group": 2}, (6, 2, 3, 3)),
    "depthwise": ({"pads": [1, 1, 1, 1], "group": 4}, (4, 1, 3, 3)),
    "asymmetric": ({"pads": [0, 1, 2, 3]}, (3, 4, 3, 2)),
    "same upper": ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (3, 4, 2, 3)),
    "same lower": ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (3, 4, 2, 3)),
    "valid": ({"auto_pad": "VALID"}, (3, 4, 2, 3)),
    "1x1": ({}, (3, 4, 1, 1)),
}
#: What SAME comes to on 5 x 6 with these: top, left, bottom, right.
SAME = {"same upper": (0, 0, 1, 1), "same lower": (1, 1, 0, 0)}


def all_patches(
    x: NDArray[Any], attributes: dict[str, Any], weight: tuple[int, ...], pads: tuple[int, ...]
) -> NDArray[np.float64]:
    """[groups, K, n] by a loop over images and positions."""
    top, left, bottom, right = pads
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    (down, across), (tall, wide) = (attributes.get(k, [1, 1]) for k in ("strides", "dilations"))
    groups, (height, width) = attributes.get("group", 1), weight[2:]
    found = []
    for image in padded:
        for row in range(0, padded.shape[2] - tall * (height - 1), down):
            for column in range(0, padded.shape[3] - wide * (width - 1), across):
                rows = [row + tall * step for step in range(height)]
                columns = [column + wide * step for step in range(width)]
                found.append(image[:, rows][:, :, columns].reshape(groups, -1))
    return np.stack(found, axis=2)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_statistics_are_those_of_all_patches(name: str) -> None:
    attributes, weight = CONVOLUTIONS[name]
    generator = np.random.default_rng(0)
    pairs = []
    for _ in range(2):
        x = generator.normal(1, 1, (2, 4, 5, 6)).astype(np.float32)
        pairs.append((x, x + generator.normal(0.1, 0.3, x.shape).astype(np.float32)))
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    found = measure(pairs, node, np.zeros(weight, np.float32), 0)
    pads = SAME.get(name, tuple(attributes.get("pads", [0] * 4)))
    x, q = (
        np.concatenate([all_patches(pair[i], attributes, weight, pads) for pair in pairs], axis=2)
        for i in (0, 1)
    )
    centred = q - q.mean(2, keepdims=True)
    off = (x - q) - (x - q).mean(2, keepdims=True)
    expected = {
        "mean": x.mean(2),
        "quantized_mean": q.mean(2),
        "covariance": np.einsum("gan,gbn->gab", centred, centred) / x.shape[2],
        "error": np.einsum("gan,gbn->gab", off, centred) / x.shape[2],
    }
    for field, values in expected.items():
        assert np.allclose(getattr(found, field).numpy(), values, atol=1e-5), field
    assert found.signal == pytest.approx(sum((a.astype(float) ** 2).sum() for a, _ in pairs))
    noise = sum((a.astype(float) - b) ** 2 for a, b in pairs)
    assert found.noise == pytest.approx(noise.sum(), rel=1e-5)


def test_statistics_of_a_linear_layer() -> None:
    x = correlated(0, n=100, channels=5)
    q = on_grid(x)
    found = measure([(x[:60], q[:60]), (x[60:], q[60:])], LINEAR, np.zeros((3, 5)), 0)
    assert np.allclose(found.mean[0].numpy(), x.mean(0), atol=1e-5)
    assert np.allclose(found.covariance[0].numpy(), np.cov(q.T, bias=True), atol=1e-4)


def test_positions_are_drawn_by_the_seed() -> None:
    x = np.random.default_rng(0).standard_normal((3, 2, 16, 16)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    weight = np.zeros((1, 2, 1, 1), np.float32)
    one, again, other = (measure([(x, x)], node, weight, seed) for seed in (1, 1, 2))
    assert bool((one.covariance == again.covariance).all())
    assert not bool((one.covariance == other.covariance).all())
    drawn = patches.POSITIONS * 3
    assert drawn < x[:, 0].size
    assert one.mean.abs().max() < 5 / np.sqrt(drawn)
