"""Families that a user describes: what is refused, and what matched nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repvgg_deploy import BlockFamily, Branch, UserError, conv_bn, fuse, fuse_modules
from repvgg_deploy.reparam.families import FAMILIES
from repvgg_deploy.reparam.modules.given import checked

from . import module_nets as nets
from .module_nets import RepVGGBlock, trained


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.big, self.small = nets.conv_norm(4, 4, 5), nets.conv_norm(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.big(x) + self.small(x)


BRANCHES = (conv_bn("big"), conv_bn("small"))


def mine(**changes: Any) -> BlockFamily:
    given: dict[str, Any] = {"branches": BRANCHES, "fused": "conv", **changes}
    return BlockFamily("mine", "Block", **given)


@pytest.mark.parametrize("name", ["conv", "big", "", "0"])
def test_names_that_the_convolution_may_have(name: str) -> None:
    model = trained(nn.Sequential(Mine()))
    fusion = fuse_modules(model, families=[mine(fused=name)])
    assert len(fusion.fused) == 1
    fusion.model(torch.ones(1, 4, 8, 8))
    assert fusion.model[0].get_submodule(name).bias is not None


FAULTS: dict[str, tuple[Any, str]] = {
    "a number": (5, "families: a list of BlockFamily is needed, not a int."),
    "no list": (mine(), "families: a list of BlockFamily is needed, not a BlockFamily."),
    "a name": (["mine"], "families: a list of BlockFamily is needed; it holds a str."),
    "no branches": ([mine(branches=())], "family 'mine': no branch has any steps"),
    "identity only": ([mine(branches=(Branch(),))], "no branch has any steps"),
    "one branch": ([mine(branches=conv_bn("big"))], "branches has to be a list of branches"),
    "names of branches": ([mine(branches=("big", "small"))], "such as conv_bn"),
    "a name for steps": ([mine(branches=(Branch("big"),))], "a list of names, not 'big'"),  # type: ignore[arg-type]
    "a name for tail": ([mine(tail="act")], "tail has to be a list of names, not 'act'"),
    "a tail twice": ([mine(tail=("act", "act"))], "a name of its own"),
    "fused in tail": ([mine(tail=("conv",))], "a name of its own"),
    "dotted": ([mine(fused="conv.x")], "fused='conv.x' cannot be the name of a child module"),
    "a method": ([mine(fused="forward")], "fused='forward' cannot be"),
    "an attribute": ([mine(fused="training")], "fused='training' cannot be"),
    "torch's own": ([mine(fused="_modules")], "fused='_modules' cannot be"),
    "no name": ([mine(fused=None)], "fused=None cannot be"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_families_that_describe_no_block(name: str) -> None:
    families, message = FAULTS[name]
    with pytest.raises(UserError) as caught:
        fuse(trained(Mine()), families=families)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_table_itself_passes() -> None:
    assert checked(FAMILIES) == FAMILIES


def test_a_family_that_matches_nothing_is_named() -> None:
    typo = mine(branches=(conv_bn("bigg"), conv_bn("small")))
    model = trained(nn.Sequential(Mine(), RepVGGBlock(4, 4)))
    message = "family 'mine' matched nothing; no module has all of bigg.conv, bigg.bn, small.conv"
    with pytest.warns(UserWarning, match=message) as warned:
        fused = fuse(model, families=[typo])
    assert len(warned) == 1
    assert type(fused[0]) is Mine
    fusion = fuse_modules(model, families=[typo, mine()])
    assert len(fusion.fused) == 2
    assert len(fusion.notes) == 1
    assert message in str(fusion)


def test_a_family_whose_blocks_are_left_has_matched() -> None:
    model = trained(nn.Sequential(Mine()))
    model[0].small.conv.padding_mode = "reflect"
    fusion = fuse_modules(model, families=[mine()])
    assert len(fusion.left) == 1
    assert not fusion.notes
    nn.utils.parametrizations.weight_norm(model[0].big.conv)
    fusion = fuse_modules(model, families=[mine()])
    assert fusion.left[0].reason.startswith("big.conv is parametrized")
    assert not fusion.notes


def test_a_model_without_any_block() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.warns(
        UserWarning, match="no known block found; docs/python.md shows how"
    ) as warned:
        fuse(model)
    assert len(warned) == 1
    fused = fuse(trained(RepVGGBlock(4, 4)))
    assert not fuse_modules(fused).notes, "nothing is left to do"
