"""The proof: metrics by hand, faults caught, and no verdict on nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from repvgg_deploy.equivalence.compare import UNIT_ROUNDOFF, compare, failure_lines, furthest
from repvgg_deploy.equivalence.proof import Proof, prove_fusion
from repvgg_deploy.equivalence.samples import probe_inputs
from repvgg_deploy.errors import CheckFailed, UserError
from repvgg_deploy.models.build import build
from repvgg_deploy.models.spec import ArchSpec
from repvgg_deploy.reparam.find import find_blocks
from repvgg_deploy.reparam.state_dict import fold_block, fuse_in_place
from repvgg_deploy.steps.weights import read_weights

from .helpers import TRAIN_NAMES, golden, tiny_spec, training_state

CPU = torch.device("cpu")
State = dict[str, Tensor]


def test_metrics_by_hand() -> None:
    """Two channels with truth norms 5 and 5; errors 0.05 and 0 -> RMS of 0.01 and 0."""
    truth = np.array([[3.0, 5.0], [4.0, 0.0]])
    reference = truth + np.array([[0.005, 0.0], [0.0, 0.0]])  # 0.001 in one of two channels
    candidate = truth + np.array([[0.03, 0.0], [0.04, 0.0]])
    result = compare("x", truth, reference, candidate)
    assert result.error == pytest.approx(0.01 / np.sqrt(2))
    assert result.noise == pytest.approx(0.001 / np.sqrt(2))
    assert result.ratio == pytest.approx(10)
    assert not result.passed
    assert result.max_abs == pytest.approx(0.04)
    assert result.max_rel == pytest.approx(0.04 / 5)
    assert result.sqnr_db == pytest.approx(10 * np.log10(50 / 0.0025))
    assert result.top1_agreement == 1.0
    assert result.samples == 2
    assert "10 times" in result.reason
    assert "more than 8" in result.reason


def test_a_reference_without_error_counts_as_one_rounding() -> None:
    truth = np.array([[1.0, 2.0]])
    result = compare("x", truth, truth, truth * (1 + 2.0**-23))
    assert result.noise == UNIT_ROUNDOFF["fp32"]
    assert result.ratio == pytest.approx(2)
    assert result.passed


def test_the_worst_failure_comes_first() -> None:
    truth = np.array([[1.0, 2.0]])
    errors = {"fine": 0.0, "bad": 1e-3, "worse": 1e-2, "gone": np.nan}
    parts = [compare(name, truth, truth, truth * (1 + error)) for name, error in errors.items()]
    lines = failure_lines(parts)
    assert [line.split(":")[0] for line in lines] == ["gone", "worse", "bad"]
    worst = furthest(parts)
    assert worst is not None
    assert worst.name == "gone"
    assert furthest([]) is None


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reference_that_is_not_finite_proves_nothing(where: int, value: float) -> None:
    """Divided by infinity, any error would be small."""
    arrays = [np.array([[1.0, 2.0]]) for _ in range(3)]
    arrays[where][0, 0] = value
    result = compare("x", *arrays)
    assert not result.passed
    assert "reference's own output holds NaN or infinity" in result.reason


def test_a_small_channel_is_judged_by_its_own_size() -> None:
    """An error of 100 % in a channel that is 1000 times quieter than the others is seen."""
    truth = np.ones((4, 8))
    truth[:, 3] = 1e-3
    candidate = truth.copy()
    candidate[:, 3] = 0
    assert not compare("x", truth, truth + 1e-7, candidate).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_fail(bad: float) -> None:
    truth = np.ones((2, 3))
    candidate = truth.copy()
    candidate[0, 0] = bad
    result = compare("x", truth, truth, candidate)
    assert not result.passed
    assert "NaN or infinity" in result.reason


def test_no_samples_is_an_error() -> None:
    with pytest.raises(UserError, match="no samples"):
        compare("x", np.ones((0, 3)), np.ones((0, 3)), np.ones((0, 3)))
    with pytest.raises(UserError, match="prove nothing"):
        probe_inputs(3, 8, 8, count=0)


def test_outputs_of_other_shapes_are_refused() -> None:
    with pytest.raises(CheckFailed, match="different shapes"):
        compare("x", np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 4)))


def test_probe_inputs_hold_noise_and_extremes() -> None:
    batch = probe_inputs(3, 8, 8)
    assert batch.shape == (8, 3, 8, 8)
    assert np.array_equal(batch, probe_inputs(3, 8, 8))  # seeded
    assert (batch[4] == -3).all()
    assert (batch[5] == 3).all()
    assert (batch[6] != 0).sum() == 3
    assert (batch[7] != 0).mean() == 0.5
    assert np.std(probe_inputs(3, 8, 8, count=1)) > 0.5  # a single sample is noise


def prove(train: State, fused: State, spec: ArchSpec, fold_from: State | None = None) -> Proof:
    blocks = {block.path: block for block in find_blocks(train).blocks}
    source = fold_from or train
    return prove_fusion(
        build(train, spec, "train"),
        build(fused, spec, "deploy"),
        probe_inputs(spec.in_channels, 32, 32),
        CPU,
        lambda name: fold_block(source, blocks[name], spec.eps, torch.float64),
    )


def fused_state(train: State, spec: ArchSpec, eps: float = 1e-5) -> State:
    state = dict(train)
    fuse_in_place(state, find_blocks(state).blocks, eps)
    return state


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("se_ratio", [0, 4])
def test_a_right_fusion_passes(groups: int, se_ratio: int) -> None:
    spec = tiny_spec(groups=groups, se_ratio=se_ratio)
    train = training_state(spec)
    proof = prove(train, fused_state(train, spec), spec)
    assert proof.passed, proof.failures
    assert len(proof.parts) == len(spec.blocks) * (2 if se_ratio else 1) + 1  # and the classifier
    assert proof.end_to_end.samples == 8
    assert proof.worst_algebra is not None
    assert proof.worst_algebra < 1e-12


@pytest.mark.parametrize("name", TRAIN_NAMES)
def test_golden_networks_stay_near_one(name: str) -> None:
    weights = read_weights(golden(name))
    state = {k: v for k, v in weights.checkpoint.state.items() if "_aux." not in k}
    proof = prove(
        weights.checkpoint.state, fused_state(state, weights.network.spec), weights.network.spec
    )
    assert proof.passed, proof.failures
    # one part may be a few times as far off by chance, on one processor or another; not most
    assert np.median([part.ratio for part in proof.parts]) < 3


def without_identity(train: State, fused: State) -> None:
    zeroed = {
        k: torch.zeros_like(v) if ".rbr_identity." in k and "var" not in k else v
        for k, v in train.items()
    }
    fused.update(fused_state(zeroed, tiny_spec()))


def identity_of_the_wrong_group(train: State, fused: State) -> None:
    weight = fused["stage3.1.rbr_reparam.weight"]
    centre = weight[:, :, 1, 1]
    weight[:, :, 1, 1] = centre.roll(1, dims=1)


def shifted_kernel(train: State, fused: State) -> None:
    key = "stage2.0.rbr_reparam.weight"
    fused[key] = fused[key].roll(1, dims=3)


def wrong_eps(train: State, fused: State) -> None:
    fused.update(fused_state(train, tiny_spec(), eps=1e-3))


def swapped_branches(train: State, fused: State) -> None:
    key = "stage3.1.{}.bn.running_var"
    dense, one = key.format("rbr_dense"), key.format("rbr_1x1")
    fused.update(fused_state({**train, dense: train[one], one: train[dense]}, tiny_spec()))


def no_mean(train: State, fused: State) -> None:
    zeroed = {k: torch.zeros_like(v) if k.endswith("running_mean") else v for k, v in train.items()}
    fused.update(fused_state(zeroed, tiny_spec()))


def one_bias_slightly_off(train: State, fused: State) -> None:
    fused["stage1.0.rbr_reparam.bias"][2] += 1e-4


def a_wrong_head(train: State, fused: State) -> None:
    fused["linear.weight"] = fused["linear.weight"] * (1 + 1e-5)


@pytest.mark.parametrize(
    "fault",
    [
        without_identity,
        identity_of_the_wrong_group,
        shifted_kernel,
        wrong_eps,
        swapped_branches,
        no_mean,
        one_bias_slightly_off,
        a_wrong_head,
    ],
)
def test_every_fault_is_caught(fault: Callable[[State, State], None]) -> None:
    spec = tiny_spec()
    train = training_state(spec)
    fused = {key: value.clone() for key, value in fused_state(train, spec).items()}
    fault(train, fused)
    proof = prove(train, fused, spec)
    assert not proof.passed
    assert proof.failures
    assert proof.to_dict()["passed"] is False


def test_a_fold_that_is_not_exact_is_caught_by_the_algebra() -> None:
    """Errors below float32's rounding still fail the float64 check."""
    spec = tiny_spec()
    train = training_state(spec)
    nudged = {k: v.double() if v.is_floating_point() else v for k, v in train.items()}
    nudged["stage2.0.rbr_dense.conv.weight"] *= 1 + 1e-9
    proof = prove(train, fused_state(train, spec), spec, fold_from=nudged)
    assert all(comparison.passed for comparison in (*proof.parts, proof.end_to_end))
    assert len(proof.failures) == 1
    assert "stage2.0: folded in float64 it differs" in proof.failures[0]
