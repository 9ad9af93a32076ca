"""Blocks whose tensors something hides from fuse() are left, with what to do about it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from repvgg_deploy import fuse, fuse_modules

from . import module_nets as nets
from .module_nets import RepVGGBlock, trained

X = torch.randn(2, 4, 8, 9, generator=torch.Generator().manual_seed(2))


class LoraConv2d(nn.Module):
    """As peft's, with its ``base_layer``; ``name``: as wrappers of other makers."""

    def __init__(self, conv: nn.Module, name: str = "base_layer") -> None:
        super().__init__()
        self.name = name
        self.add_module(name, conv)

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.name)(x)


class Quantized(nn.Module):
    """As in torch.ao.nn.quantized: the weight is a method, the tensors are packed."""

    kernel_size = (3, 3)

    def weight(self) -> Tensor:
        raise NotImplementedError


def in_place(change: Callable[[nn.Module], object]) -> Callable[[nn.Module, str], None]:
    def apply(branch: nn.Module, name: str) -> None:
        change(branch.get_submodule(name))

    return apply


def replaced(make: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module, str], None]:
    def apply(branch: nn.Module, name: str) -> None:
        setattr(branch, name, make(branch.get_submodule(name)))

    return apply


HIDDEN: dict[str, tuple[Callable[[nn.Module, str], None], str]] = {
    "weight norm": (
        in_place(parametrizations.weight_norm),
        "is parametrized; call torch.nn.utils.parametrize.remove_parametrizations(module, "
        "'weight') first",
    ),
    "spectral norm": (in_place(parametrizations.spectral_norm), "is parametrized; call"),
    "old weight norm": (
        in_place(torch.nn.utils.weight_norm),
        "has weight norm; call torch.nn.utils.remove_weight_norm(module) first",
    ),
    "old spectral norm": (
        in_place(torch.nn.utils.spectral_norm),
        "has spectral norm; call torch.nn.utils.remove_spectral_norm(module) first",
    ),
    "pruned": (
        in_place(lambda conv: prune.l1_unstructured(conv, "weight", 0.3)),
        "is pruned; call torch.nn.utils.prune.remove(module, 'weight') first",
    ),
    "LoRA": (replaced(LoraConv2d), "is wrapped in a LoraConv2d; merge or take off"),
    "compiled": (replaced(torch.compile), "is wrapped in a OptimizedModule"),
    "quantized": (replaced(lambda _: Quantized()), "is a quantized Quantized; fuse the model"),
    "lazy": (
        replaced(lambda conv: nn.LazyConv2d(4, conv.kernel_size)),
        "is lazy and has no weights yet; run the model on an example first",
    ),
    "traced": (
        replaced(lambda conv: torch.jit.trace(conv, X)),
        "is a TorchScript module; fuse the model before it is scripted or traced",
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("where", [("rbr_dense",), ("rbr_dense", "rbr_1x1")], ids=len)
@pytest.mark.parametrize("name", HIDDEN)
def test_layers_that_hide_their_weights(name: str, where: tuple[str, ...]) -> None:
    hide, reason = HIDDEN[name]
    model = trained(nn.Sequential(RepVGGBlock(4, 4), RepVGGBlock(4, 4)))
    for branch in where:
        hide(model[0].get_submodule(branch), "conv")
    fusion = fuse_modules(model.eval(), inplace=True)
    assert [one.path for one in fusion.fused] == ["1"]
    ((path, why),) = [(one.path, one.reason) for one in fusion.left]
    assert (path, why[: why.index("conv")]) == ("0", "rbr_dense.")
    assert reason in why
    with pytest.warns(UserWarning, match=r"left 0 as it was: rbr_dense\.conv"):
        fuse(model, inplace=True)


def test_lazy_batch_norm_and_a_parametrized_skip() -> None:
    model = trained(nn.Sequential(RepVGGBlock(4, 4), RepVGGBlock(4, 4), RepVGGBlock(4, 4)))
    model[0].rbr_1x1.bn = nn.LazyBatchNorm2d().eval()
    parametrizations.weight_norm(model[1].rbr_identity, dim=None)
    fusion = fuse_modules(model, inplace=True)
    assert [one.path for one in fusion.fused] == ["2"]
    assert [one.reason.split(";")[0] for one in fusion.left] == [
        "rbr_1x1.bn is lazy and has no weights yet",
        "rbr_identity is parametrized",
    ]


def test_a_wrapped_branch_and_one_among_many() -> None:
    model = trained(nn.Sequential(RepVGGBlock(4, 4), nets.MobileOneBlock(4, 4, 3, 2)))
    model[0].rbr_dense = LoraConv2d(model[0].rbr_dense, "module")
    parametrizations.weight_norm(model[1].rbr_conv[1].conv)
    left = {one.path: one.reason.split(" ")[0] for one in fuse_modules(model).left}
    assert left == {"0": "rbr_dense", "1": "rbr_conv.1.conv"}


def test_kernel_sizes_still_tell_blocks_from_others() -> None:
    """RT-DETR's names, which others have too: only with its kernels is it one."""

    class Stem(nets.RepVggBlock):
        pass

    model = trained(nn.Sequential(Stem(4, 4), Stem(4, 4)))
    for block in model:
        parametrizations.weight_norm(block.conv1.conv)
    model[1].conv1.conv.kernel_size = (5, 5)
    (left,) = fuse_modules(model).left
    assert (left.path, left.reason.split(" ")[0]) == ("0", "conv1.conv")


def test_wrappers_of_unknown_kind_are_named_by_what_is_missing() -> None:
    model = trained(nn.Sequential(RepVGGBlock(4, 4), nets.MobileOneBlock(4, 4, 3, 1)))
    for branch in (model[0].rbr_dense, model[0].rbr_1x1, *model[1].rbr_conv, model[1].rbr_scale):
        branch.conv = LoraConv2d(branch.conv, "inner")
    left = {one.path: one.reason for one in fuse_modules(model).left}
    assert left == {
        "0": "rbr_dense.conv.weight is missing",
        "1": "rbr_conv.0.conv.weight is missing",
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("way", ["script", "trace"])
def test_torchscript(way: str, inplace: bool) -> None:
    def scripted(module: nn.Module, channels: int) -> nn.Module:
        x = torch.zeros(1, channels, 8, 8)
        return torch.jit.script(module) if way == "script" else torch.jit.trace(module, x)

    class Block(nn.Module):
        """Plain enough for scripting."""

        def __init__(self, cin: int) -> None:
            super().__init__()
            self.rbr_dense = nn.Sequential()
            self.rbr_dense.add_module("conv", nn.Conv2d(cin, 4, 3, padding=1, bias=False))
            self.rbr_dense.add_module("bn", nn.BatchNorm2d(4))
            self.rbr_1x1 = nn.Sequential()
            self.rbr_1x1.add_module("conv", nn.Conv2d(cin, 4, 1, bias=False))
            self.rbr_1x1.add_module("bn", nn.BatchNorm2d(4))
            self.nonlinearity = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.nonlinearity(self.rbr_dense(x) + self.rbr_1x1(x))

    model = trained(nn.Sequential(Block(3), Block(4)))
    for whole in (scripted(model, 3), nn.Sequential(scripted(model, 3), nn.ReLU())):
        fusion = fuse_modules(whole, inplace=inplace)
        assert not fusion.fused
        assert len(fusion.left) == 2
        assert all("is a TorchScript module; fuse" in one.reason for one in fusion.left)
        assert torch.equal(fusion.model(X[:, :3]), whole(X[:, :3]))
    model[1] = scripted(model[1], 4)
    fusion = fuse_modules(model, inplace=inplace)
    assert [one.path for one in fusion.fused] == ["0"]
    assert [one.path for one in fusion.left] == ["1"]
    fusion.model(X[:, :3])
