"""Random state dicts of random blocks: found where they were put, folded to what they compute."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from repvgg_deploy.equivalence.blocks import prove_blocks
from repvgg_deploy.reparam import state_dict
from repvgg_deploy.reparam.blocks import TrainBlock
from repvgg_deploy.reparam.find import find_blocks
from repvgg_deploy.reparam.state_dict import fold_block, fuse_in_place

from .state_blocks import Made, under
from .state_files import NUMBERS, SEEDS, File, label, make
from .state_truth import EXACT, as_4d, image, same, truth

CPU = torch.device("cpu")


def found_in(file: File) -> list[tuple[TrainBlock, Made]]:
    """The blocks of a file, each with what was made there."""
    found = find_blocks(file.state, file.families)
    assert found.left == {}
    made = {block.path: block for block in file.made}
    assert sorted(b.path for b in found.blocks) == sorted(made)
    return [(block, made[block.path]) for block in found.blocks]


def agree(file: File, block: TrainBlock, made: Made, weight: Tensor, bias: Tensor) -> None:
    x = image(made.inputs, weight)
    true, size = truth(
        file.state, made.path, made.family, x, groups=made.groups, passes=made.passes
    )
    actual = same(x, weight, bias, made.groups)
    assert actual.shape == true.shape
    difference = (actual - true).abs().amax((0, 2, 3))
    assert (difference <= EXACT * size).all(), (label(made.family), difference / size)


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(NUMBERS, SEEDS)
def test_blocks_are_found_and_fold_to_what_they_compute(numbers: list[int], seed: int) -> None:
    file = make(numbers, seed)
    before = dict(file.state)
    order = {key: place for place, key in enumerate(file.state)}
    places = []
    for block, made in found_in(file):
        assert label(block.family) == label(made.family)
        assert block.eps() == made.family.eps
        places.append(min(order[key] for key in made.state if key in block.keys(file.state)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(state_dict, "_ELEMENTS_AT_ONCE", 0)
            patch.setattr(state_dict, "ROWS_AT_ONCE", 1 + made.choice % 5)
            weight, bias = fold_block(file.state, block, block.eps(), torch.float64)
        agree(file, block, made, weight, bias)
    assert places == sorted(places)
    assert all(file.state[key] is tensor for key, tensor in before.items())
