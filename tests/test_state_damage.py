"""Random state dicts with one tensor missing or misshapen: refused or left, not folded wrongly."""

from __future__ import annotations

import random
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from repvgg_deploy.errors import UserError
from repvgg_deploy.reparam.blocks import TrainBlock
from repvgg_deploy.reparam.find import find_blocks
from repvgg_deploy.reparam.state_dict import fold_block

from .state_blocks import Made, under
from .state_files import NUMBERS, SEEDS, File, make
from .state_truth import EXACT, as_4d, image, passes_on, same, truth


def misshapen(tensor: Tensor, pick: random.Random) -> Tensor:
    """Numbers in another shape; never none at all, which load_checkpoint refuses."""
    shape = list(tensor.shape)
    axis = pick.randrange(len(shape)) if shape else 0
    shapes = [(), (1,) * tensor.ndim, (tensor.numel(),), (1, *shape), (*shape, 1), (2, 3)]
    shapes += [(*shape[:axis], size, *shape[axis + 1 :]) for size in (1, 2, 3, 5, 7)]
    return torch.rand(pick.choice([s for s in shapes if tuple(s) != tuple(shape)]))


def damaged(file: File, seed: int) -> tuple[dict[str, Tensor], Made]:
    """The tensors of a file after one of a block's was hurt, and that block."""
    pick, state = random.Random(seed), dict(file.state)
    made = pick.choice(file.made)
    key = pick.choice(sorted(made.state))
    if pick.randrange(2):
        del state[key]
    else:
        state[key] = misshapen(state[key], pick)
    return state, made


def is_right(state: dict[str, Tensor], block: TrainBlock, weight: Tensor, bias: Tensor) -> bool:
    """Whether a block's fold is what its tensors, as they are now, compute."""
    outputs, width = as_4d(weight).shape[:2]
    family, path = block.family, block.path
    strided = family.strided and re.search(family.strided, path)
    own = passes_on(family, state, path)
    passes = own or (width in (1, outputs) and not strided)
    alone = own or (passes and any(not branch.steps for branch in family.branches))
    groups = outputs // width if alone else 1
    x = image(groups * width, weight)
    true, size = truth(state, path, family, x, groups=groups, passes=passes)
    actual = same(x, weight, bias, groups)
    return true.shape == actual.shape and bool(
        ((actual - true).abs().amax((0, 2, 3)) <= EXACT * size).all()
    )


@settings(max_examples=900, deadline=None, suppress_health_check=list(HealthCheck))
@given(NUMBERS, SEEDS)
def test_one_tensor_is_damaged(numbers: list[int], seed: int) -> None:
    state, hurt = damaged(make(numbers, seed), seed)
    try:
        blocks = find_blocks(state, make(numbers, seed).families, megengine=True).blocks
    except UserError:
        return
    for block in blocks:
        weight, bias = fold_block(state, block, block.eps(), torch.float64)
        assert is_right(state, block, weight, bias), block.path
        if block.path == hurt.path:  # nothing of it is forgotten
            kept = hurt.family.outer_norm if hurt.family.keeps_outer_norm else "-"
            rest = (set(hurt.state) & set(state)) - set(block.keys(state))
            assert all(key.startswith(under(hurt.path, f"{kept}.")) for key in rest)


def norm(name: str, channels: int) -> dict[str, Tensor]:
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{leaf}": torch.arange(1.0, channels + 1) for leaf in leaves}


def heads() -> dict[str, Tensor]:
    """RepViT's classifier and its distilled twin, 3 channels in, 2 classes."""
    state = {**norm("head.bn", 3), **norm("head_dist.bn", 3)}
    for head in ("head", "head_dist"):
        state |= {f"{head}.l.weight": torch.ones(2, 3), f"{head}.l.bias": torch.ones(2)}
    return {f"head.{key}": tensor for key, tensor in state.items()}


def linear_add() -> dict[str, Tensor]:
    """RepOpt-VGG's LinearAddBlock where a RealVGGBlock may stand as well."""
    scales = {f"stage1.0.scale_{name}.weight": torch.ones(2) for name in ("conv", "1x1")}
    kernels = {"conv": torch.ones(2, 2, 3, 3), "conv_1x1": torch.ones(2, 2, 1, 1)}
    named = {f"stage1.0.{name}.weight": kernel for name, kernel in kernels.items()}
    return {**scales, **named, **norm("stage1.0.bn", 2)}


@pytest.mark.parametrize(
    ("state", "missing"),
    [
        (heads(), "head.head_dist.l.weight"),
        (heads(), "head.head_dist.bn.weight"),
        (linear_add(), "stage1.0.scale_conv.weight"),
        (linear_add(), "stage1.0.conv_1x1.weight"),
    ],
)
def test_a_torn_block_is_no_smaller_one(state: dict[str, Tensor], missing: str) -> None:
    (block,) = find_blocks(state).blocks
    del state[missing]
    found = find_blocks(state)
    assert found.blocks == []
    assert block.path in found.left


def test_a_batch_norm_alone_is_no_block() -> None:
    """A torn RepVGG block of timm has an identity, as its MobileOne blocks may."""
    state = {**norm("b.conv_kxk.bn", 2), **norm("b.conv_1x1.bn", 2), **norm("b.identity", 2)}
    state["b.conv_1x1.conv.weight"] = torch.ones(2, 2, 1, 1)
    found = find_blocks(state)
    assert found.blocks == []
    assert "conv_kxk.conv.weight is missing" in found.left["b"]


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("head.head.l.bias", (1,)),  # would be added to every class
        ("head.head.bn.running_var", (2,)),
        ("head.head.bn.bias", (6,)),
    ],
)
def test_every_length_is_checked(key: str, shape: tuple[int, ...]) -> None:
    state = {**heads(), key: torch.ones(shape)}
    assert find_blocks(state).blocks == []
    assert "do not fit together" in find_blocks(state).left["head"]


def test_a_batch_norm_is_told_by_its_statistics() -> None:
    state, (block,) = heads(), find_blocks(heads()).blocks
    flat = fold_block(state, block, 1e-5)
    state["head.head.bn.weight"] = state["head.head.bn.weight"][
        :, None
    ]  # two axes, as linear layers have
    (block,) = find_blocks(state).blocks
    assert all(map(torch.equal, fold_block(state, block, 1e-5), flat))


def test_an_even_kernel_has_no_place_for_an_identity() -> None:
    state = {**norm("p.rbr_conv.0.bn", 4), **norm("p.rbr_skip", 4)}
    found = find_blocks({**state, "p.rbr_conv.0.conv.weight": torch.ones(4, 1, 2, 2)})
    assert found.blocks == []
    assert "have no common centre" in found.left["p"]


def test_kernels_of_crossed_sizes() -> None:
    """1 x 3 and 3 x 1 add up to a cross in 3 x 3."""
    state = {**norm("b.rbr_conv.0.bn", 1), **norm("b.rbr_conv.1.bn", 1)}
    state["b.rbr_conv.0.conv.weight"] = torch.ones(1, 1, 1, 3)
    state["b.rbr_conv.1.conv.weight"] = torch.ones(1, 1, 3, 1)
    (block,) = find_blocks(state).blocks
    weight, _ = fold_block(state, block, 0.0)
    assert weight.tolist() == [[[[0, 1, 0], [1, 2, 1], [0, 1, 0]]]]


def test_a_kernel_that_no_identity_fits_is_refused() -> None:
    state = {**norm("b.rbr_conv.0.bn", 4), **norm("b.rbr_skip", 4)}
    found = find_blocks({**state, "b.rbr_conv.0.conv.weight": torch.ones(4, 3, 3, 3)})
    assert found.blocks == []
    assert "do not fit together" in found.left["b"]
