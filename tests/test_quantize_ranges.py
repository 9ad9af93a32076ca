"""Ranges of activations: the histograms, the thresholds that they give, and what feeds them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import ModelProto, parser

from repvgg_deploy.errors import UserError
from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.models.build import build
from repvgg_deploy.quantize import collect as collect_module
from repvgg_deploy.quantize import threads
from repvgg_deploy.quantize.collect import activations, collect, collect_channels
from repvgg_deploy.quantize.histograms import BINS, ChannelHistograms, Histogram
from repvgg_deploy.quantize.ranges import (
    METHODS,
    kl,
    mean_squared_errors,
    minmax,
    mse,
    mse_thresholds,
    percentile,
)
from repvgg_deploy.reparam.find import find_blocks
from repvgg_deploy.reparam.state_dict import fuse_in_place

from .graphs import HEAD, graph
from .helpers import tiny_spec, training_state

Floats = NDArray[np.float32]
FINITE = st.one_of(
    st.sampled_from([0.0, 0.25, -1.0, 3.0]),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
TENSORS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=6), elements=FINITE
)

_RANDOM = np.random.default_rng(0)
SAMPLES: dict[str, NDArray[np.float64]] = {
    "normal": _RANDOM.standard_normal(100_000),
    "relu": np.maximum(_RANDOM.standard_normal(100_000), 0),
    "laplace": _RANDOM.laplace(size=100_000),
    "heavy tail": _RANDOM.standard_t(3, 100_000),
    "heavier tail": np.exp(2 * _RANDOM.standard_normal(100_000)),
    "uniform": _RANDOM.random(100_000),
    "mostly zeros": np.where(_RANDOM.random(100_000) < 0.99, 0, _RANDOM.standard_normal(100_000)),
    "outliers": np.concatenate([_RANDOM.standard_normal(100_000), [60.0, -80.0]]),
    "few": _RANDOM.standard_normal(300),
}


def counted(values: NDArray[np.floating], name: str = "t") -> Histogram:
    histogram = Histogram(name)
    histogram.add(values.astype(np.float32))
    return histogram


def contents(histogram: Histogram) -> tuple[list[int], float, float, float]:
    return histogram.counts.tolist(), histogram.limit, histogram.minimum, histogram.maximum


def true_error(values: NDArray[np.floating], threshold: float) -> float:
    """The mean squared error of int8 with this threshold, from the values themselves."""
    scale = threshold / 127
    quantized = np.clip(np.rint(values / scale), -127, 127) * scale
    return float(np.mean((values - quantized) ** 2))


@given(TENSORS)
def test_every_value_is_in_its_bin(values: Floats) -> None:
    histogram = counted(values)
    magnitudes = np.abs(values.astype(np.float64)).ravel()
    bins = np.floor(magnitudes / histogram.limit * BINS).astype(int)
    assert histogram.counts.tolist() == np.bincount(bins, minlength=BINS).tolist()
    assert (histogram.minimum, histogram.maximum) == (values.min(), values.max())
    assert histogram.peak == magnitudes.max()


@given(TENSORS)
def test_more_than_2048_bins_lie_over_the_range_in_use(values: Floats) -> None:
    histogram = counted(values)
    assert histogram.peak < histogram.limit
    if histogram.peak > 1e-30:
        assert histogram.peak / histogram.limit * BINS >= 2048


@given(TENSORS, st.randoms())
def test_parts_and_order_change_no_count(values: Floats, random: Random) -> None:
    shuffled = values.ravel().tolist()
    random.shuffle(shuffled)
    parts = Histogram("t")
    for value in shuffled:
        parts.add(np.array([value], np.float32))
    assert contents(parts) == contents(counted(values))


@given(TENSORS)
def test_channels_are_histograms_of_their_own_and_add_up_to_the_tensor(values: Floats) -> None:
    channels = ChannelHistograms("t", values.shape[1])
    for image in values:
        channels.add(image[None])
    for c in range(values.shape[1]):
        alone = counted(values[:, c])
        assert channels.counts[c].tolist() == alone.counts.tolist()
        assert channels.limits[c] == alone.limit
        assert (channels.minimum[c], channels.maximum[c]) == (alone.minimum, alone.maximum)
    assert contents(channels.total()) == contents(counted(values))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused_by_name(bad: float) -> None:
    histogram = counted(np.ones(3), "stage1/Relu")
    with pytest.raises(UserError, match="NaN or infinity in its tensor 'stage1/Relu'"):
        histogram.add(np.array([1, bad, 2], np.float32))
    assert histogram.counts.sum() == 3


def test_minmax_is_exact() -> None:
    assert minmax(counted(np.array([0.1, -3.3]))) == np.float32(3.3)


@pytest.mark.parametrize("values", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("percent", [50, 99, 99.99])
def test_percentile(values: NDArray[np.float64], percent: float) -> None:
    histogram, magnitudes = counted(values), np.abs(values)
    threshold, width = percentile(histogram, percent), histogram.limit / BINS
    assert np.mean(magnitudes <= threshold + width) >= percent / 100
    assert np.mean(magnitudes < threshold - width) <= percent / 100


def test_percentile_is_linear_inside_a_bin() -> None:
    ramp = counted((np.arange(BINS) + 0.5) / BINS * 4)  # one value in each bin of [0, 4)
    assert percentile(ramp, 50) == pytest.approx(2)
    assert percentile(ramp, 100 / BINS / 4) == pytest.approx(1 / BINS)
    assert percentile(ramp, 100) == ramp.peak


@pytest.mark.parametrize("percent", [0, -1, 100.1, np.nan])
def test_percentiles_that_do_not_exist_are_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 100"):
        percentile(counted(np.ones(3)), percent)


@pytest.mark.parametrize("values", SAMPLES.values(), ids=SAMPLES)
def test_mse_is_within_one_percent_of_brute_force(values: NDArray[np.float64]) -> None:
    threshold = mse(counted(values))
    candidates = np.abs(values).max() * np.geomspace(1 / 64, 1, 600)
    best = min(true_error(values, candidate) for candidate in candidates)
    assert true_error(values, threshold) <= 1.01 * best


@pytest.mark.parametrize("values", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("part", [1, 0.5, 0.1])
def test_the_error_of_a_threshold(values: NDArray[np.float64], part: float) -> None:
    histogram = counted(values)
    threshold = histogram.peak * part
    told = mean_squared_errors(histogram.as_row(), np.array([threshold]))
    assert told == pytest.approx(true_error(values, threshold), rel=0.02)


def test_mse_of_channels_is_that_of_each() -> None:
    values = np.stack([SAMPLES[name] for name in ("normal", "relu", "uniform")] * 30)
    values *= np.geomspace(1e-6, 1e6, len(values))[:, None]
    values[7] = 0
    channels = ChannelHistograms("t", len(values))
    channels.add(values.astype(np.float32)[None])
    expected = [mse(counted(row)) for row in values]
    assert mse_thresholds(channels).tolist() == expected
    assert expected[7] == 0
    errors = mean_squared_errors(channels, mse_thresholds(channels))
    assert errors[7] == 0 and (errors[np.arange(90) != 7] > 0).all()


def test_more_levels_clip_less_and_err_less() -> None:
    histogram = counted(SAMPLES["laplace"])
    thresholds = [mse(histogram, levels) for levels in (7, 127)]
    errors = [
        mean_squared_errors(histogram.as_row(), np.array([threshold]), levels)[0]
        for threshold, levels in zip(thresholds, (7, 127), strict=True)
    ]
    assert thresholds[0] < thresholds[1] and errors[0] > 50 * errors[1]


def written_out_kl(histogram: Histogram) -> float:
    """The search of Migacz's slides, bin by bin."""
    counts = histogram.counts.astype(float)
    counts[0] = counts[1]
    width = histogram.limit / BINS
    divergences = {}
    for kept in range(128, int(histogram.peak / width) + 2):
        reference, spread = counts[:kept].copy(), np.zeros(kept)
        reference[-1] += counts[kept:].sum()
        for level in range(128):
            bins = slice(level * kept // 128, (level + 1) * kept // 128)
            filled = reference[bins] > 0
            spread[bins][filled] = counts[:kept][bins].sum() / max(filled.sum(), 1)
        p = reference[reference > 0] / reference.sum()
        q = spread[reference > 0] / max(spread.sum(), 1)
        if (q > 0).all():
            divergences[kept] = float(np.sum(p * np.log(p / q)))
    best = min(divergences, key=lambda kept: divergences[kept])
    return min((best + 0.5) * width, histogram.peak)


@pytest.mark.parametrize("name", ["relu", "laplace", "heavier tail", "outliers", "few"])
def test_kl_is_the_published_search(name: str) -> None:
    histogram = counted(SAMPLES[name])
    assert kl(histogram) == pytest.approx(written_out_kl(histogram), rel=1e-12)


def test_kl_clips_outliers() -> None:
    histogram = counted(SAMPLES["outliers"])
    assert kl(histogram) < 10 < histogram.peak


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("values", [np.zeros(5), np.zeros(0)], ids=["zeros", "nothing"])
def test_a_dead_tensor_has_the_threshold_zero(
    method: Callable[[Histogram], float], values: NDArray[np.float64]
) -> None:
    assert method(counted(values)) == 0.0


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@given(values=TENSORS)
@settings(max_examples=25, deadline=None)
def test_a_threshold_lies_under_the_peak_and_follows_the_scale(
    method: Callable[[Histogram], float], values: Floats
) -> None:
    values = np.clip(values, -1e30, 1e30) + np.float32(1e-3)
    threshold = method(counted(values))
    assert 0 < threshold <= np.abs(values).max()
    assert method(counted(values * 4)) == 4 * threshold


# Collecting


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    spec, state = tiny_spec(), training_state()
    fuse_in_place(state, find_blocks(state).blocks)
    return build(state, spec, "deploy")


@pytest.fixture(scope="module")
def model(network: torch.nn.Module) -> ModelProto:
    return to_onnx(network, (32, 32))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def images() -> Floats:
    return np.random.default_rng(1).standard_normal((50, 3, 32, 32), dtype=np.float32)


def inner(model: ModelProto) -> list[str]:
    """The network's input and what every ReLU gives."""
    relus = (node for node in model.graph.node if node.op_type == "Relu")
    return ["input", *(node.output[0] for node in relus)]


def in_batches(images: Floats, size: int) -> Iterator[Floats]:
    return (images[start : start + size] for start in range(0, len(images), size))


def test_activations_are_those_of_the_network(
    network: torch.nn.Module, model: ModelProto, images: Floats
) -> None:
    expected: list[torch.Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _, __, output: expected.append(output))
        for _, block in network.chain  # type: ignore[union-attr,operator]
    ]
    network(torch.from_numpy(images))
    for hook in hooks:
        hook.remove()
    names = inner(model)
    found = list(activations(model, names, in_batches(images, 8)))
    for name, values in zip(names, [torch.from_numpy(images), *expected], strict=True):
        given = np.concatenate([arrays[name] for arrays in found])
        np.testing.assert_allclose(given, values.numpy(), rtol=1e-4, atol=1e-4)


def test_batch_size_and_cores_change_no_count(
    model: ModelProto, images: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = collect(model, inner(model), [images])
    assert {name: h.counts.sum() for name, h in whole.items()}["input"] == images.size
    for size, cores in ((1, 1), (7, 3), (49, 2)):
        monkeypatch.setattr(threads, "_cores", lambda cores=cores: cores)
        again = collect(model, inner(model), in_batches(images, size))
        assert {n: contents(h) for n, h in again.items()} == {
            n: contents(h) for n, h in whole.items()
        }


def test_order_changes_no_count_where_images_run_alone(
    model: ModelProto, images: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect_module, "_VALUES_AT_ONCE", 1)
    first = collect(model, inner(model), [images])
    other = collect(model, inner(model), [images[::-1]])
    assert {n: contents(h) for n, h in first.items()} == {n: contents(h) for n, h in other.items()}


def test_channels_add_up_to_the_tensors(model: ModelProto, images: Floats) -> None:
    whole = collect(model, inner(model), [images])
    channels = collect_channels(model, inner(model), in_batches(images, 16))
    assert list(channels) == list(whole) == inner(model)
    for name, histogram in whole.items():
        assert contents(channels[name].total()) == contents(histogram)


def test_a_model_of_a_fixed_batch_counts_no_image_twice(
    network: torch.nn.Module, model: ModelProto, images: Floats
) -> None:
    fixed = to_onnx(network, (32, 32), batch=4)  # type: ignore[arg-type]
    found = collect(fixed, inner(fixed), [images])  # 50 images: the last two runs are half empty
    for name, histogram in collect(model, inner(model), [images]).items():
        assert found[name].counts.sum() == histogram.counts.sum()
        assert found[name].peak == pytest.approx(histogram.peak, rel=1e-5)


def test_a_file_with_external_data(tmp_path: Path, model: ModelProto, images: Floats) -> None:
    path = tmp_path / "net.onnx"
    copy = ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, path, save_as_external_data=True, location="net.data", size_threshold=0)
    found, expected = (collect(m, inner(model), [images[:5]]) for m in (path, model))
    assert {n: contents(h) for n, h in found.items()} == {
        n: contents(h) for n, h in expected.items()
    }


def test_only_the_images_at_hand_are_kept(
    model: ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect_module, "_VALUES_AT_ONCE", 1)
    monkeypatch.setattr(threads, "_cores", lambda: 2)
    alive: set[int] = set()
    most = 0

    def batches() -> Iterator[Floats]:
        nonlocal most
        for number in range(60):
            batch = np.full((1, 3, 32, 32), number, np.float32)
            alive.add(number)
            weakref.finalize(batch, alive.discard, number)
            most = max(most, len(alive))
            yield batch

    collect(model, inner(model), batches())
    assert most <= 6  # two that run, one that waits, one to come; a frame or two still hold theirs


SMALL = np.ones((2, 2, 6, 6), np.float32)


def test_what_cannot_be_calibrated_is_said(
    model: ModelProto, images: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect_module, "_VALUES_AT_ONCE", SMALL.size)

    def sentence(model: ModelProto | Path, tensors: list[str], batches: list[Floats]) -> str:
        with pytest.raises(UserError) as refused:
            collect(model, tensors, batches)
        return refused.value.sentence

    one, two = images[:1], images[1:2].copy()
    two[0, 0, 0, 0] = np.nan
    assert "has no tensor 'conv9'" in sentence(model, ["conv9"], [one])
    assert "there are no calibration images" in sentence(model, ["input"], [])
    assert "there are no calibration images" in sentence(model, ["input"], [images[:0]])
    assert "a calibration image holds NaN" in sentence(model, ["input"], [one, two])
    assert "differ in size" in sentence(model, ["input"], [one, one[:, :, :16]])
    assert "cannot run it" in sentence(model, ["input"], [one[:, :2]])
    assert "no such file" in sentence(Path("none.onnx"), ["input"], [one])

    overflow = graph("z = Exp(x) y = Identity(z)")
    assert "in its tensor 'z'" in sentence(overflow, ["z"], [SMALL * 1000])
    flat = graph("z = Flatten <axis = 0> (x) y = Identity(x)")
    assert "is float32 of shape [1, 144]" in sentence(flat, ["z"], [SMALL])


def test_other_types_are_refused(images: Floats, network: torch.nn.Module) -> None:
    half = to_onnx(network.half(), (32, 32), precision="fp16")  # type: ignore[arg-type]
    network.float()
    with pytest.raises(UserError, match="calibrate a float32 model with one image input"):
        collect(half, inner(half), [images])
    ends = "(float[n,2,h,w] x, float[n,2,h,w] z) => (float[n,2,h,w] y)"
    two = parser.parse_model(f"{HEAD} g {ends} {{ y = Add(x, z) }}")
    with pytest.raises(UserError, match="with one image input"):
        collect(two, ["y"], [SMALL])
