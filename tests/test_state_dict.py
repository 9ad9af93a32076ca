"""Folding a state dict: against hand-worked values and the official conversion."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repvgg_deploy.errors import UserError
from repvgg_deploy.models.build import build
from repvgg_deploy.reparam import state_dict
from repvgg_deploy.reparam.find import find_blocks
from repvgg_deploy.reparam.state_dict import fold_block, fuse_in_place
from repvgg_deploy.steps.weights import read_weights

from .helpers import MANIFEST, TRAIN_NAMES, golden, golden_arrays, tiny_spec, training_state


def test_a_block_by_hand() -> None:
    """One channel: every factor and offset is worked out on paper.

    3x3: kernel 1..9, gamma 2, sigma 2 -> factor 1; mean 3, beta 5 -> bias 5 - 3 = 2.
    1x1: kernel 10, gamma 6, sigma 3 -> factor 2, adds 20 to the centre; mean 1, beta 0 -> -2.
    identity: gamma 4, sigma 4 -> factor 1, adds 1 to the centre; mean 0, beta 7 -> 7.
    Sum: 1 2 3 / 4 26 6 / 7 8 9, bias 7.
    """
    state = {
        "b.rbr_dense.conv.weight": torch.arange(1.0, 10).reshape(1, 1, 3, 3),
        "b.rbr_1x1.conv.weight": torch.full((1, 1, 1, 1), 10.0),
    }
    norms = {
        "rbr_dense.bn": (2, 5, 3, 3),
        "rbr_1x1.bn": (6, 0, 1, 8),
        "rbr_identity": (4, 7, 0, 15),
    }
    for name, values in norms.items():
        for leaf, value in zip(
            ("weight", "bias", "running_mean", "running_var"), values, strict=True
        ):
            state[f"b.{name}.{leaf}"] = torch.tensor([float(value)])
    (block,) = find_blocks(state, asked=True).blocks
    weight, bias = fold_block(state, block, eps=1.0)
    assert weight.tolist() == [[[[1, 2, 3], [4, 31 - 5, 6], [7, 8, 9]]]]
    assert bias.tolist() == [7]


@pytest.mark.parametrize("name", TRAIN_NAMES)
def test_golden_networks_fuse_to_the_truth(name: str) -> None:
    """As near to the official network's float64 output as the official conversion comes."""
    arrays = golden_arrays(name)
    weights = read_weights(golden(name))
    state = {k: v for k, v in weights.checkpoint.state.items() if "_aux." not in k}
    fuse_in_place(state, weights.blocks)
    fused = build(state, weights.network.spec, "deploy")
    with torch.inference_mode():
        output = fused(torch.from_numpy(arrays["x"])).numpy()
    own = np.abs(arrays["y"] - arrays["y64"]).max()
    assert np.abs(output - arrays["y64"]).max() <= 4 * own
    if keys := MANIFEST[name].get("peer_deploy_keys"):
        assert sorted(state) == sorted(keys)


@pytest.mark.parametrize("name", TRAIN_NAMES)
def test_golden_training_form_is_ours(name: str) -> None:
    """Our training module computes what the official one did, in float64 to the last digits."""
    arrays = golden_arrays(name)
    with torch.inference_mode():
        output = read_weights(golden(name)).network.build(torch.float64)(
            torch.from_numpy(arrays["x"]).double()
        )
    np.testing.assert_allclose(output.numpy(), arrays["y64"], rtol=0, atol=1e-14)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([1, 2, 4]), st.integers(1, 5), st.integers(0, 10**6))
def test_row_slices_change_nothing(groups: int, rows: int, seed: int) -> None:
    """However few rows are folded at once, grouped or not, the result is the same to the bit."""
    state = training_state(tiny_spec(widths=(8, 8, 8, 8, 8), groups=groups), seed)
    blocks = find_blocks(state).blocks
    whole = [fold_block(state, block, 1e-5, torch.float64) for block in blocks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_dict, "ROWS_AT_ONCE", rows)
        patch.setattr(state_dict, "_ELEMENTS_AT_ONCE", 0)
        sliced = [fold_block(state, block, 1e-5, torch.float64) for block in blocks]
    for (weight, bias), (weight2, bias2) in zip(whole, sliced, strict=True):
        assert torch.equal(weight, weight2)
        assert torch.equal(bias, bias2)


def test_fusing_leaves_the_rest_alone_and_lets_branches_go() -> None:
    state = training_state()
    original, kept = dict(state), {k: v.clone() for k, v in state.items()}
    fuse_in_place(state, find_blocks(state).blocks, 1e-5)
    assert find_blocks(state).blocks == []
    assert [
        k.removesuffix(".rbr_reparam.weight") for k in state if k.endswith("reparam.weight")
    ] == [
        "stage0",
        "stage1.0",
        "stage2.0",
        "stage3.0",
        "stage3.1",
        "stage4.0",
    ]
    assert state["linear.weight"] is original["linear.weight"]
    assert all(torch.equal(original[key], kept[key]) for key in kept)  # inputs untouched


def test_overwriting_gives_the_same_and_spares_tied_weights() -> None:
    spec = tiny_spec(widths=(8, 8, 8, 8, 8), depths=(1, 1, 3, 1))
    state = training_state(spec)
    tied = "stage3.{}.rbr_dense.conv.weight"
    state[tied.format(2)] = state[tied.format(1)]  # as torch.load keeps tied weights
    expected, overwritten = dict(state), {k: v.clone() for k, v in state.items()}
    overwritten[tied.format(2)] = overwritten[tied.format(1)]
    blocks = find_blocks(state).blocks
    fuse_in_place(expected, blocks, 1e-5)
    kernel = overwritten["stage0.rbr_dense.conv.weight"]
    fuse_in_place(overwritten, blocks, 1e-5, overwrite=True)
    assert overwritten["stage0.rbr_reparam.weight"] is kernel
    assert all(torch.equal(overwritten[key], expected[key]) for key in expected)


def test_half_precision_checkpoints_fold_in_float64() -> None:
    state = training_state()
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    exact = {k: v.double() if v.is_floating_point() else v for k, v in half.items()}
    (block, *_) = find_blocks(half).blocks
    weight, _ = fold_block(half, block, 1e-5)
    expected, _ = fold_block(exact, block, 1e-5, torch.float64)
    assert weight.dtype == torch.float32
    assert torch.equal(weight, expected.float())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("drop", "stage2.0.rbr_1x1.conv.weight"), "stage2.0: rbr_1x1.conv.weight is missing"),
        (("drop", "stage2.0.rbr_dense.bn.running_var"), "rbr_dense.bn.running_var is missing"),
        (("drop", "stage3.1.rbr_identity.bias"), "stage3.1: rbr_identity.bias is missing"),
        (("shape", "stage2.0.rbr_1x1.conv.weight", (8, 3, 1, 1)), "do not fit together"),
        (("shape", "stage2.0.rbr_1x1.bn.bias", (7,)), "do not fit together"),
        (("shape", "stage2.0.rbr_dense.conv.weight", (8, 4)), "do not fit together"),
    ],
)
def test_damaged_blocks(change: tuple[object, ...], sentence: str) -> None:
    state = training_state()
    kind, key, *rest = change
    if kind == "drop":
        del state[str(key)]
    else:
        state[str(key)] = torch.zeros(rest[0])  # type: ignore[arg-type]
    with pytest.raises(UserError, match=sentence):
        find_blocks(state)
