"""Random state dicts with one tensor missing or misshapen: refused or left, not folded wrongly."""

from __future__ import annotations

import random
import re

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


@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(NUMBERS, SEEDS)
def test_one_tensor_is_damaged(numbers: list[int], seed: int) -> None:
    state, hurt = damaged(make(numbers, seed), seed)
    try:
        blocks = find_blocks(state, make(numbers, seed).families).blocks
    except UserError:
        return
    for block in blocks:
        weight, bias = fold_block(state, block, block.eps(), torch.float64)
        assert is_right(state, block, weight, bias), block.path
        if block.path == hurt.path:  # nothing of it is forgotten
            kept = hurt.family.outer_norm if hurt.family.keeps_outer_norm else "-"
            rest = (set(hurt.state) & set(state)) - set(block.keys(state))
            assert all(key.startswith(under(hurt.path, f"{kept}.")) for key in rest)
