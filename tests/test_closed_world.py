"""A block with anything added, removed, renamed, reshaped or scaled: right, or left, or refused."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from repvgg_deploy.errors import UserError
from repvgg_deploy.reparam.blocks import TrainBlock
from repvgg_deploy.reparam.families import FAMILIES
from repvgg_deploy.reparam.find import find_blocks
from repvgg_deploy.reparam.state_dict import fold_block

from .wired_blocks import DISTILLED, EVERY, PLAIN, WIRINGS, State, agrees, load, random_block

#: Entries that no wiring stands for: V2 has the keys of V1 and has to be asked for.
ASKED = {("yolov6-qarepvgg-v2", "QARepVGGBlockV2"), ("yolov6-qarepvgg-v2", "Conv")}
TABLE = {(family.family, family.block): family for family in FAMILIES}
NAMES = sorted(EVERY)
Change = Callable[[State, random.Random], State]


def test_every_family_is_wired() -> None:
    assert set(EVERY) | ASKED == set(TABLE)
    for name, wiring in EVERY.items():
        assert wiring.eps == TABLE[name].eps, name


def a_norm(path: str, channels: int) -> State:
    state = {f"{path}.{leaf}": torch.rand(channels) + 0.1 for leaf in ("weight", "bias")}
    return state | {
        f"{path}.running_{leaf}": torch.rand(channels) + 0.1 for leaf in ("mean", "var")
    }


def width_of(state: State) -> int:
    return max(tensor.shape[0] for tensor in state.values() if tensor.ndim)


def a_branch(path: str, size: tuple[int, int], channels: int, conv: str, bn: str) -> State:
    kernel = {f"{path}.{conv}.weight": torch.randn(channels, channels, *size)}
    return kernel | a_norm(f"{path}.{bn}", channels)


def added(state: State, pick: random.Random) -> State:
    """A parameter, a layer, a norm or a branch more, anywhere in the block."""
    channels = width_of(state)
    holders = ["", *sorted({f"{key.rpartition('.')[0]}." for key in state if "." in key})]
    holders += sorted({f"{key.split('.')[0]}." for key in state if "." in key})
    holder = pick.choice(holders)
    leaves = (
        "alpha",
        "gamma",
        "scale",
        "weight",
        "bias",
        "weight_orig",
        "running_mean",
        "c.weight",
    )
    names = (
        "post_bn",
        "identity",
        "bn",
        "norm",
        "rbr_avg.bn",
        "rbr_identity",
        "lab",
        "bn2",
        "branch_norm",
    )
    branches = (
        "rbr_3x1",
        "conv_1x1",
        "conv3",
        "rbr_conv.2",
        "conv_kxk.3",
        "branch_1x1",
        "conv2",
        "small_conv",
    )
    fused = ("rbr_reparam", "reparam_conv", "conv", "lkb_reparam", "branch_reparam")
    more: State
    kind = pick.randrange(4)
    if kind == 0:
        shape = pick.choice([(1,), (channels,), (channels, 1, 1), ()])
        more = {f"{holder}{pick.choice(leaves)}": torch.rand(shape)}
    elif kind == 1:
        more = a_norm(f"{holder}{pick.choice(names)}", channels)
    elif kind == 2:
        size = pick.choice([(3, 1), (1, 1), (1, 3), (3, 3)])
        conv, bn = pick.choice([("conv", "bn"), ("conv", "norm"), ("0", "1"), ("c", "bn")])
        more = a_branch(f"{holder}{pick.choice(branches)}", size, channels, conv, bn)
    else:
        name = pick.choice(fused)
        more = {
            f"{name}.weight": torch.randn(channels, channels, 3, 3),
            f"{name}.bias": torch.rand(channels),
        }
    return {**more, **state}


def removed(state: State, pick: random.Random) -> State:
    """A tensor less, or a layer, or a branch."""
    key = pick.choice(sorted(state))
    gone = pick.choice([key, key.rpartition(".")[0] or key, key.split(".")[0]])
    return {k: v for k, v in state.items() if k != gone and not k.startswith(f"{gone}.")}


def renamed(state: State, pick: random.Random) -> State:
    """A tensor, a layer or a branch by another name, or two that change their names."""
    parts = [key.split(".") for key in sorted(state)]
    names = sorted(
        {".".join(part[:length]) for part in parts for length in range(1, len(part) + 1)}
    )
    old, other = pick.choice(names), pick.choice(names)
    last = pick.choice(
        [f"{old.rpartition('.')[2]}_", "conv", "bn", "norm", "c", "x", "gamma", "rbr_skip"]
    )
    new = pick.choice([other, f"{old.rpartition('.')[0]}.{last}".strip(".")])

    def rename(key: str, one: str, two: str) -> str:
        return two + key[len(one) :] if key == one or key.startswith(f"{one}.") else key

    made: State = {}
    for key, tensor in state.items():
        swapped = rename(key, old, new)
        made[rename(key, new, old) if swapped == key else swapped] = tensor
    return made


def reshaped(state: State, pick: random.Random) -> State:
    key = pick.choice(sorted(state))
    tensor = state[key]
    shape, n = list(tensor.shape), width_of(state)
    axis = pick.randrange(len(shape)) if shape else 0
    shapes = [(1,), (n,), (n, 1, 1), (1, n, 1, 1), (tensor.numel(),), (1, *shape), (*shape, 1)]
    shapes += [(*shape[:axis], size, *shape[axis + 1 :]) for size in (1, 2, 3, 5, 8)]
    return {**state, key: torch.rand(pick.choice(shapes)) + 0.1}


def scaled(state: State, pick: random.Random) -> State:
    key = pick.choice([key for key in sorted(state) if state[key].is_floating_point()])
    return {**state, key: state[key] * pick.choice([1e-3, 0.5, 1.01, 300.0])}


CHANGES: dict[str, Change] = {
    "added": added, "removed": removed, "renamed": renamed, "reshaped": reshaped, "scaled": scaled,
}  # fmt: skip


def is_right(state: State, block: TrainBlock, groups: int) -> bool:
    """Whether a fold is what some block of that family computes of which these are all tensors."""
    name = (block.family.family, block.family.block)
    start = len(block.path) + 1
    own = {key[start:]: tensor for key, tensor in state.items() if key.startswith(f"{block.path}.")}
    weight, bias = fold_block(state, block, EVERY[name].eps, torch.float64)
    with_outer = block.outer_norm is not None
    factor = 0.5 if name in DISTILLED else 1.0
    as_wide = max(1, weight.shape[0] // weight.shape[1])  # as an identity needs it
    return any(
        agrees(wired, weight, bias, with_outer, factor, count)
        for count in {groups, 1, as_wide}
        for wired in load(EVERY[name], own, block.family.tail, count)
    )


def outcome(state: State, groups: int) -> str:
    """``right``, ``left`` or ``refused``; an AssertionError for anything else."""
    try:
        found = find_blocks(state)
        rights = [is_right(state, block, groups) for block in found.blocks]
    except UserError:
        return "refused"
    assert all(rights), [(block.path, block.family.family) for block in found.blocks]
    return "right" if found.blocks else "left"


def a_file(name: tuple[str, str], pick: random.Random) -> tuple[str, State, State, int]:
    """The path of a block, its tensors, the rest of the file, and the groups of its kernels."""
    wiring = EVERY[name]
    groups = pick.choice([1, 1, 2])
    grouped = groups if any(b.startswith("?") and b.endswith(":n") for b in wiring.branches) else 1
    state = random_block(wiring, pick, 4, grouped)
    rest: State = {}
    if name in PLAIN:  # looked for beside other blocks only
        first = next(key for key in WIRINGS if key[0] == name[0])
        beside = random_block(EVERY[first], pick, 4, 1)
        rest = {f"{EVERY[first].place}.{key}": tensor for key, tensor in beside.items()}
    return wiring.place, state, rest, grouped


@settings(max_examples=2500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(NAMES), st.sampled_from(sorted(CHANGES)), st.integers(0, 2**32 - 1))
@example(("fastvit", "RepMixer"), "reshaped", 288)  # a scale of [C, 1, 1, 1]: one an image
def test_one_thing_is_changed(name: tuple[str, str], change: str, seed: int) -> None:
    pick = random.Random(seed)
    path, state, rest, groups = a_file(name, pick)
    changed = CHANGES[change](state, pick)
    outcome({**rest, **{f"{path}.{key}": tensor for key, tensor in changed.items()}}, groups)


@pytest.mark.parametrize("name", NAMES)
def test_unchanged_and_scaled_blocks_are_fused(name: tuple[str, str]) -> None:
    for seed in range(5):
        pick = random.Random(seed)
        path, state, rest, groups = a_file(name, pick)
        for block in (state, scaled(state, pick)):
            whole = {**rest, **{f"{path}.{key}": tensor for key, tensor in block.items()}}
            found = find_blocks(whole)
            assert path in [block.path for block in found.blocks]
            assert outcome(whole, groups) == "right"


LOOK_ALIKES: dict[str, Callable[[int, str, str], State]] = {
    "alpha": lambda n, conv, bn: {"alpha": torch.rand(1)},
    "gamma": lambda n, conv, bn: {"gamma": torch.rand(n, 1, 1)},
    "3x1 branch": lambda n, conv, bn: a_branch("rbr_3x1", (3, 1), n, conv, bn),
    "second 1x1 branch": lambda n, conv, bn: a_branch("rbr_1x1_b", (1, 1), n, conv, bn),
    "norm after the sum": lambda n, conv, bn: a_norm("post_bn", n),
    "average pool with a norm": lambda n, conv, bn: a_norm("rbr_avg.bn", n),
    "identity of another name": lambda n, conv, bn: a_norm("skip_norm", n),
    "fused convolution beside": lambda n, conv, bn: {"rbr_reparam.weight": torch.ones(n, n, 3, 3)},
}


#: RT-DETRv2's block has an alpha.
LOOKS = [(n, kind) for n in NAMES for kind in LOOK_ALIKES if (n[0], kind) != ("rtdetrv2", "alpha")]


@pytest.mark.parametrize(("name", "kind"), LOOKS)
def test_look_alikes_are_left_and_named(name: tuple[str, str], kind: str) -> None:
    path, state, rest, _ = a_file(name, random.Random(0))
    more = LOOK_ALIKES[kind](4, "conv", "bn")
    looks = {**rest, **{f"{path}.{key}": tensor for key, tensor in {**state, **more}.items()}}
    found = find_blocks(looks)
    assert path not in [block.path for block in found.blocks]
    assert outcome(looks, 1) in ("right", "left")  # a plain layer below it may be one in itself
    assert any(key in found.left[path] for key in more)
