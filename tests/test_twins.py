"""The int8 benchmark's rescaled twins are the same function; its bounds say what issue 5 says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repvgg_deploy.data.demo import demo_checkpoint, demo_images
from repvgg_deploy.models.build import build
from repvgg_deploy.models.spec import ArchSpec
from repvgg_deploy.models.zoo import make_spec
from repvgg_deploy.reparam.find import find_blocks, pick_families
from repvgg_deploy.reparam.state_dict import fuse_in_place
from repvgg_deploy.steps.weights import read_weights

from .benchmarks.int8.networks import fused
from .benchmarks.int8.score import Score, logits, score, sqnr_db, squeeze_excite_convs
from .benchmarks.int8.table import row, summarise
from .benchmarks.int8.twins import draw_factors, rescaled
from .helpers import training_state
from .qdq import quantized


def spec_of(groups: int, se_ratio: int, family: str = "repvgg") -> ArchSpec:
    """Every kind of block there is: with and without identity, grouped in both."""
    spec = make_spec(
        (2, 3, 3, 1), (8, 8, 8, 16, 16),
        num_classes=5, groups=groups, se_ratio=se_ratio, family=family,
    )  # fmt: skip
    return replace(spec, aux_stages=())


def double_logits(state: dict[str, torch.Tensor], spec: ArchSpec, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return build(state, spec, "train", torch.float64)(x)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.floats(0.0, 3.0), st.sampled_from([1, 2, 4]),
    st.sampled_from([0, 4]), st.sampled_from(["repvgg", "repvggplus"]),
)  # fmt: skip
def test_a_twin_computes_the_same_logits(
    seed: int, sigma: float, groups: int, se_ratio: int, family: str
) -> None:
    spec = spec_of(groups, se_ratio, family)
    state = {
        key: tensor.double() if tensor.is_floating_point() else tensor
        for key, tensor in training_state(spec, seed % 1000).items()
    }
    twin = rescaled(state, spec, draw_factors(spec, sigma, seed))
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected, found = double_logits(state, spec, x), double_logits(twin, spec, x)
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_eps_weighs_the_same_where_a_channel_is_nearly_dead() -> None:
    """An identity BN with a variance far below eps: where scaling the variance would go wrong."""
    spec = spec_of(1, 0)
    state = {k: v.double() if v.is_floating_point() else v for k, v in training_state(spec).items()}
    for key in state:
        if key.endswith("rbr_identity.running_var"):
            state[key] = torch.full_like(state[key], 1e-12)
    twin = rescaled(state, spec, draw_factors(spec, 2.0, 0))
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    expected, found = double_logits(state, spec, x), double_logits(twin, spec, x)
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_a_twin_is_rescaled_and_keeps_its_layout() -> None:
    spec = spec_of(2, 4)
    state = training_state(spec)
    factors = draw_factors(spec, 1.0, 0)
    twin = rescaled(state, spec, factors)
    assert {k: (v.shape, v.dtype) for k, v in twin.items()} == {
        k: (v.shape, v.dtype) for k, v in state.items()
    }
    found = {}
    for name, one in (("original", state), ("twin", twin)):
        deployed = dict(one)
        blocks = find_blocks(deployed, pick_families(None)).blocks
        fuse_in_place(deployed, blocks)
        found[name] = deployed["stage0.rbr_reparam.weight"]
    expected = found["original"] * factors[0][:, None, None, None].float()
    torch.testing.assert_close(found["twin"], expected)
    assert not torch.equal(draw_factors(spec, 1.0, 1)[0], factors[0])


@pytest.mark.parametrize("sigma", [1, 2])
def test_twins_of_the_demo_predict_the_same_classes_in_float32(sigma: int) -> None:
    weights = read_weights(demo_checkpoint())
    network = weights.network
    inputs, _ = demo_images()
    original = build(network.state, network.spec, "train")
    twin = rescaled(network.state, network.spec, draw_factors(network.spec, sigma, 0))
    with torch.no_grad():
        x = torch.from_numpy(inputs[:128])
        expected = original(x).argmax(1)
        found = build(twin, network.spec, "train")(x).argmax(1)
    assert torch.equal(found, expected)


def test_a_score_counts_convolutions_left_in_float_but_not_squeeze_excitation() -> None:
    spec = spec_of(1, 4)
    state = training_state(spec)
    fp32 = fused(state, spec)
    int8 = quantized(fp32, "int8", "fp32")
    x = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    reference = logits(fp32, x)
    labels = reference.argmax(1)
    assert len(squeeze_excite_convs(fp32)) == 2 * len(spec.blocks)
    assert score(fp32, int8, x, labels, reference, 0.0).float_convs == 0
    same = score(fp32, fp32, x, labels, reference, 0.0)
    assert same.float_convs == len(spec.blocks)
    assert (same.top1, same.top1_drop, same.agreement) == (100, 0, 100)


def test_sqnr_is_in_decibels() -> None:
    reference = np.array([[3.0, 4.0]], np.float32)
    assert sqnr_db(reference, reference * np.float32(0.5)) == pytest.approx(20 * np.log10(2))
    assert sqnr_db(reference, reference) == float("inf")


GOOD = Score(89.6, 0.15, 99.3, 33.0, 0, 1.0)


@pytest.mark.parametrize(
    ("twin", "missed"),
    [
        (GOOD, []),
        (replace(GOOD, top1_drop=-0.3, sqnr_db=33.5), []),
        (replace(GOOD, top1_drop=0.16), ["top-1"]),
        (replace(GOOD, agreement=99.29), ["agreement"]),
        (replace(GOOD, sqnr_db=29.9), ["SQNR", "twins alike"]),
        (replace(GOOD, sqnr_db=33.6), ["twins alike"]),
        (replace(GOOD, float_convs=1), ["all convs int8"]),
    ],
)
def test_bounds_hold_on_the_original_and_on_every_twin(twin: Score, missed: list[str]) -> None:
    summary = summarise({"original": GOOD, "sigma 1, seed 0": GOOD, "sigma 1, seed 1": twin})
    assert summary.missed == missed
    assert ("PASS" in row("ours", summary, 10)) == (not missed)
    assert summarise({"original": twin}).missed == [m for m in missed if m != "twins alike"]
