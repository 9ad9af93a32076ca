"""What would be lost with the modules inside a block keeps the block from being fused."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from repvgg_deploy import UserError, fuse, fuse_modules

from . import module_nets as nets
from .module_nets import RepVGGBlock, trained


def nothing(*_: object) -> None:
    return None


HOOKS: dict[str, Callable[[nn.Module], object]] = {
    "forward hook": lambda m: m.register_forward_hook(nothing),
    "forward pre hook": lambda m: m.register_forward_pre_hook(nothing),
    "backward hook": lambda m: m.register_full_backward_hook(nothing),
    "backward pre hook": lambda m: m.register_full_backward_pre_hook(nothing),
    "state dict hook": lambda m: m.register_state_dict_post_hook(nothing),
    "state dict pre hook": lambda m: m.register_state_dict_pre_hook(nothing),
    "load state dict pre hook": lambda m: m.register_load_state_dict_pre_hook(nothing),
    "load state dict post hook": lambda m: m.register_load_state_dict_post_hook(nothing),
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", HOOKS)
def test_every_kind_of_hook_inside_a_block(kind: str, inplace: bool) -> None:
    model = trained(nn.Sequential(RepVGGBlock(4, 4), RepVGGBlock(4, 4)))
    HOOKS[kind](model[0].rbr_1x1.conv)
    fusion = fuse_modules(model, inplace=inplace)
    assert [one.path for one in fusion.fused] == ["1"]
    assert [(one.path, one.reason) for one in fusion.left] == [
        ("0", f"rbr_1x1.conv has a {kind}, which would be lost with it")
    ]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("method", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_on_parameters(method: str, inplace: bool) -> None:
    model = trained(nn.Sequential(RepVGGBlock(4, 4), nets.RepMixer(4), RepVGGBlock(4, 4)))
    getattr(model[0].rbr_dense.conv.weight, method)(nothing)
    getattr(model[1].layer_scale, method)(nothing)
    left = {one.path: one.reason for one in fuse_modules(model, inplace=inplace).left}
    assert left == {
        "0": "rbr_dense.conv.weight has a gradient hook, which would be lost with it",
        "1": "layer_scale has a gradient hook, which would be lost with it",
    }


def test_a_hook_on_an_identity_branch() -> None:
    block = trained(nets.QARepVGGBlock(4, 4))
    block.rbr_identity.register_forward_hook(nothing)
    (left,) = fuse_modules(block).left
    assert left.reason.startswith("rbr_identity has a forward hook")


def test_hooks_on_what_stays_are_kept() -> None:
    block = trained(RepVGGBlock(4, 4, se=True))
    called: list[str] = []
    block.register_full_backward_hook(lambda *_: called.append("block"))
    block.se.register_full_backward_hook(lambda *_: called.append("se"))
    block.nonlinearity.register_forward_hook(lambda *_: called.append("act"))
    fuse(block, inplace=True)(torch.ones(1, 4, 5, 5, requires_grad=True)).sum().backward()
    assert called == ["act", "se", "block"]


def test_a_hook_on_an_activation_without_effect() -> None:
    class Dropped(nets.RepConv):
        def forward(self, x: Tensor) -> Tensor:
            total = self.rbr_dense(x) + self.rbr_1x1(x) + self.rbr_identity(x)
            self.act(total)
            return total

    block = trained(Dropped(4, 4))
    block.act.register_forward_hook(nothing)
    (left,) = fuse_modules(block).left
    assert left.reason.startswith("act has a forward hook")


class Gain(RepVGGBlock):
    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        return super().forward(x) * gain


class Keyword(RepVGGBlock):
    def forward(self, x: Tensor, *, gain: float = 1.0) -> Tensor:
        return super().forward(x) * gain


class Anything(RepVGGBlock):
    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(sum(inputs))


@pytest.mark.parametrize("kind", [Gain, Keyword, Anything])
def test_a_forward_with_more_than_one_input(kind: type[RepVGGBlock]) -> None:
    model = trained(kind(4, 4))
    x = torch.ones(1, 4, 5, 5)
    before = model(x)
    (left,) = fuse_modules(model, inplace=True).left
    name = "inputs" if kind is Anything else "gain"
    assert f"its forward takes more than one input ({name})" in left.reason
    assert torch.equal(model(x), before)


def test_a_graph_of_torch_fx() -> None:
    """It calls the convolutions itself, and torch.fx puts it into training mode."""
    graph = torch.fx.symbolic_trace(trained(nets.RepVGG()))
    with pytest.raises(UserError, match=r"in training mode.*call model\.eval\(\) before fuse"):
        fuse(graph)
    before = copy.deepcopy(graph)
    fusion = fuse_modules(graph.eval())
    assert len(fusion.left) == 5
    assert "fuse the model before it is traced" in fusion.left[0].reason
    x = torch.ones(1, 3, 8, 8)
    assert torch.equal(fusion.model(x), before.eval()(x))


def test_instance_attributes_stay_and_the_class_does_not() -> None:
    class Named(RepVGGBlock):
        kind = "class attribute"

    block = trained(Named(4, 4))
    block.name = "instance attribute"
    fused = fuse(block)
    assert fused.name == block.name
    assert not isinstance(fused, RepVGGBlock)
    assert not hasattr(fused, "kind")
