"""Random state dicts of random blocks: found where they were put, folded to what they compute."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from repvgg_deploy.equivalence.blocks import prove_blocks
from repvgg_deploy.reparam import state_dict
from repvgg_deploy.reparam.blocks import TrainBlock
from repvgg_deploy.reparam.families import FAMILIES
from repvgg_deploy.reparam.find import find_blocks
from repvgg_deploy.reparam.state_dict import fold_block, fuse_in_place

from .state_blocks import Made, under
from .state_files import NUMBERS, SEEDS, File, label, make
from .state_truth import EXACT, as_4d, image, same, truth

CPU = torch.device("cpu")


def found_in(file: File) -> list[tuple[TrainBlock, Made]]:
    """The blocks of a file, each with what was made there."""
    found = find_blocks(file.state, file.families, megengine=True)
    assert found.left == {}
    made = {block.path: block for block in file.made}
    assert sorted(b.path for b in found.blocks) == sorted(made)
    return [(block, made[block.path]) for block in found.blocks]


@contextmanager
def rows_at_once(rows: int) -> Iterator[None]:
    """Folding in slices of so few rows, which small kernels are otherwise not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_dict, "_ELEMENTS_AT_ONCE", 0)
        patch.setattr(state_dict, "ROWS_AT_ONCE", rows)
        yield


def agree(file: File, block: TrainBlock, made: Made, weight: Tensor, bias: Tensor) -> None:
    x = image(made.inputs, weight)
    true, size = truth(
        file.state, made.path, made.family, x, groups=made.groups, passes=made.passes
    )
    actual = same(x, weight, bias, made.groups)
    assert actual.shape == true.shape
    difference = (actual - true).abs().amax((0, 2, 3))
    assert (difference <= EXACT * size).all(), (label(made.family), difference / size)


@settings(max_examples=900, deadline=None, suppress_health_check=list(HealthCheck))
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
        with rows_at_once(1 + made.choice % 5):
            weight, bias = fold_block(file.state, block, block.eps(), torch.float64)
        agree(file, block, made, weight, bias)
    assert places == sorted(places)
    assert all(file.state[key] is tensor for key, tensor in before.items())


def goes_away(made: Made) -> set[str]:
    """Keys that fusing a block takes from a file."""
    if made.family.keeps_branches:
        return set()
    kept = made.family.keeps_outer_norm and under(made.path, made.family.outer_norm) + "."
    return {key for key in made.state if not (kept and key.startswith(kept))}


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(NUMBERS, SEEDS, st.booleans())
def test_fusing_a_file(numbers: list[int], seed: int, overwrite: bool) -> None:
    """Kernels in the dtype promised, the rest the same objects in their order, and a proof."""
    file = make(numbers, seed)
    pairs = found_in(file)
    exact = {
        block.path: fold_block(file.state, block, block.eps(), torch.float64) for block, _ in pairs
    }
    values = {key: tensor.clone() for key, tensor in file.state.items()}
    fused = copy.deepcopy(file.state) if overwrite else dict(file.state)  # tied tensors stay tied
    given_in = dict(fused)
    with rows_at_once(1 + seed % 5):
        fuse_in_place(fused, [block for block, _ in pairs], overwrite=overwrite)
    rest = [key for key in file.state if not any(key in goes_away(made) for _, made in pairs)]
    new = [key for block, _ in pairs for key in block.fused_keys]
    assert [key for key in fused if key not in new] == rest
    assert set(fused) == {*rest, *new}
    assert all(fused[key] is given_in[key] for key in rest)
    assert all(torch.equal(fused[key], values[key]) for key in rest)
    assert all(torch.equal(file.state[key], values[key]) for key in values)
    for block, made in pairs:
        for key, wide in zip(block.fused_keys, exact[block.path], strict=True):
            assert key.startswith(under(made.path, made.family.fused))
            assert fused[key].dtype == torch.promote_types(torch.float32, made.dtype)
            assert torch.equal(fused[key], wide.to(fused[key].dtype))
        weight, bias = (fused[key] for key in block.fused_keys)
        kernels = [tensor for tensor in made.state.values() if tensor.ndim in (2, 4, 5)]
        alike = [k.shape for k in kernels if as_4d(k).shape == as_4d(weight).shape]
        assert weight.shape in (alike or [as_4d(weight).shape])
        normed = any(key.endswith("running_mean") for key in made.state)
        assert bias.ndim == (1 if made.flat_norms or not normed else 4)
    proof = prove_blocks(file.state, fused, [block for block, _ in pairs], CPU)
    assert proof.passed, proof.failures


def test_every_entry_of_the_table_is_drawn() -> None:
    for number, family in enumerate(FAMILIES):
        file = make([number], seed=number)
        assert family in [block.family for _, block in found_in(file)]
