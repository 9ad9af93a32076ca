"""Faults put into the fused tensors of random blocks: the proof catches each that has an effect."""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from repvgg_deploy.equivalence.blocks import prove_blocks
from repvgg_deploy.reparam.blocks import TrainBlock
from repvgg_deploy.reparam.families import FAMILIES
from repvgg_deploy.reparam.find import find_blocks
from repvgg_deploy.reparam.state_dict import fold_block, fuse_in_place

from .state_blocks import Made, State
from .state_files import NUMBERS, SEEDS, File, make
from .state_truth import as_4d, image, same, truth

#: A fault this large in a relative distance must be caught: the proof's limit is 8 times what
#: rounding does to a float32 forward, some 1e-6 where the branches nearly cancel.
VISIBLE = 3e-5
FAULTS = ("dropped", "groups", "eps", "no mean", "shifted", "swapped rows", "swapped columns",
          "swapped branches")  # fmt: skip
CPU = torch.device("cpu")


def wrong(
    state: State, block: TrainBlock, kind: str, pick: random.Random
) -> tuple[Tensor, Tensor] | None:
    """Weight and bias of a fused block with a fault; None where the block cannot have it."""
    weight, bias = fold_block(state, block, block.eps())
    flat = weight.view(as_4d(weight).shape)
    if kind == "dropped":
        return without(state, block, [pick.randrange(len(block.branches))])
    if kind == "groups":
        return at_the_first_channel(state, block)
    norms = [step.name for step in block.steps() if step.kind == "norm"]
    if kind == "eps":
        other = 1e-5 if block.eps() == 1e-3 else 1e-3
        return fold_block(state, block, other) if norms else None
    if kind == "no mean":  # which a channel with a mean of 0 has not, nor one with a gamma of 0
        keys = [f"{name}.running_mean" for name in norms
                if (state[f"{name}.running_mean"] * state[f"{name}.weight"]).any()]  # fmt: skip
        change = {key: torch.zeros_like(state[key]) for key in pick.sample(keys, min(len(keys), 1))}
        return fold_block({**state, **change}, block, block.eps()) if change else None
    if kind == "swapped branches":
        if len(norms) < 2:
            return None
        one, two = (f"{name}.weight" for name in pick.sample(norms, 2))
        change = {one: state[two], two: state[one]}
        return fold_block({**state, **change}, block, block.eps())
    axis = {"shifted": pick.choice((2, 3)), "swapped rows": 0, "swapped columns": 1}[kind]
    return (flat.roll(1, axis).view(weight.shape), bias) if flat.shape[axis] > 1 else None


def without(state: State, block: TrainBlock, gone: list[int]) -> tuple[Tensor, Tensor] | None:
    """The fold of a block that forgets these branches."""
    rest = tuple(b for number, b in enumerate(block.branches) if number not in gone)
    sizes = [tuple(as_4d(state[b.kernel_key]).shape[2:]) for b in rest if b.kernel_key]
    if block.kernel_size not in sizes:  # nothing would be left of the fused kernel's size
        return None
    return fold_block(state, replace(block, branches=rest), block.eps())


def at_the_first_channel(state: State, block: TrainBlock) -> tuple[Tensor, Tensor] | None:
    """The identity at column 0 of every row, in place of i mod in_per_group."""
    passing = [
        number for number, b in enumerate(block.branches)
        if b.kernel_key is None and b.branch.average_pool is None
    ]  # fmt: skip
    weight, bias = fold_block(state, block, block.eps())
    rest = without(state, block, passing)
    if not passing or rest is None or block.in_per_group == 1:  # where 0 is i mod 1
        return None
    identity = as_4d(weight) - as_4d(rest[0])
    moved = torch.zeros_like(identity)
    moved[:, 0] = identity.sum(1)
    return (as_4d(rest[0]) + moved).to(weight.dtype).view(weight.shape), bias


def effect(state: State, made: Made, weight: Tensor, bias: Tensor) -> float:
    """How far a fused block is from the truth: RMS over channels of the relative distance."""
    x = image(made.inputs, weight)
    true, _ = truth(state, made.path, made.family, x, groups=made.groups, passes=made.passes)
    scale = true.square().sum((0, 2, 3)).sqrt()
    scale = scale.clamp_min(max(1e-6 * float(scale.square().mean().sqrt()), 1e-30))
    error = (same(x, weight, bias, made.groups) - true).square().sum((0, 2, 3)).sqrt()
    return float((error / scale).square().mean().sqrt())


def faulty(file: File, kind: str, seed: int) -> tuple[TrainBlock, State, float] | None:
    """A fused file with a fault in one block, and its effect; None: that block cannot have it."""
    pick = random.Random(seed)
    blocks = find_blocks(file.state, file.families, megengine=True).blocks
    block = pick.choice(blocks)
    fault = wrong(file.state, block, kind, pick)
    if fault is None:
        return None
    fused = dict(file.state)
    fuse_in_place(fused, blocks)
    fused.update(zip(block.fused_keys, fault, strict=True))
    made = next(made for made in file.made if made.path == block.path)
    return block, fused, effect(file.state, made, *fault)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(NUMBERS, SEEDS, st.sampled_from(FAULTS))
def test_a_fault_fails_the_proof(numbers: list[int], seed: int, kind: str) -> None:
    file = make(numbers, seed)
    fault = faulty(file, kind, seed)
    assume(fault is not None and fault[2] > VISIBLE)
    assert fault is not None
    block, fused, _ = fault
    blocks = find_blocks(file.state, file.families, megengine=True).blocks
    proof = prove_blocks(file.state, fused, blocks, CPU)
    name = block.path or block.family.block
    assert {line.split(":")[0] for line in proof.failures} == {name}


def test_few_faults_are_without_effect() -> None:
    """Of the faults that a block can have, nearly all can be seen; and every kind is drawn."""
    generator = random.Random(1)
    for kind in FAULTS:
        possible = visible = 0
        for _ in range(60):
            file = make([generator.randrange(len(FAMILIES))], generator.getrandbits(32))
            fault = faulty(file, kind, generator.getrandbits(32))
            possible += fault is not None
            visible += fault is not None and fault[2] > VISIBLE
        assert visible >= 10, (kind, possible, visible)
        assert visible >= 0.8 * possible, (kind, possible, visible)
