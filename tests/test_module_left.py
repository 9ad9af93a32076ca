"""What fuse() refuses or leaves, always with the reason."""

from __future__ import annotations

import copy
from collections.abc import Callable
from threading import Lock
from types import MethodType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repvgg_deploy import BlockFamily, UserError, conv_bn, fuse, fuse_modules, norm

from . import module_nets as nets
from .module_nets import RepVGGBlock, trained


@pytest.mark.parametrize("which", ["all", "block", "norm"])
def test_training_mode_is_refused(which: str) -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 1), RepVGGBlock(4, 4)))
    {"all": model, "block": model[1], "norm": model[1].rbr_1x1.bn}[which].train()
    with pytest.raises(UserError, match=r"block 1 is in training mode.*batch.*model\.eval\(\)"):
        fuse(model)
    with pytest.raises(UserError, match="training mode"):
        fuse(model, inplace=True)
    assert type(model[1]) is RepVGGBlock
    with pytest.raises(UserError, match="the root is in training mode"):
        fuse(RepVGGBlock(4, 4))


def without_statistics(block: RepVGGBlock) -> None:
    block.rbr_1x1.bn = nn.BatchNorm2d(4, track_running_stats=False).eval()


def without_anything(block: RepVGGBlock) -> None:
    block.rbr_1x1.bn = nn.BatchNorm2d(4, affine=False, track_running_stats=False).eval()


def reflected(block: RepVGGBlock) -> None:
    block.rbr_dense.conv.padding_mode = "reflect"


def transposed(block: RepVGGBlock) -> None:
    block.rbr_dense.conv = nn.ConvTranspose2d(4, 4, 3, padding=1, bias=False)


def instance_norm(block: RepVGGBlock) -> None:
    block.rbr_identity = nn.InstanceNorm2d(4, affine=True, track_running_stats=True).eval()


def group_norm(block: RepVGGBlock) -> None:
    block.rbr_dense.bn = nn.GroupNorm(2, 4)


def three_dimensions(block: RepVGGBlock) -> None:
    block.rbr_dense.conv, block.rbr_1x1.conv = nn.Conv3d(4, 4, 3), nn.Conv3d(4, 4, 1)


def one_dimension(block: RepVGGBlock) -> None:
    block.rbr_dense.conv, block.rbr_1x1.conv = nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 1)


def dilated_apart(block: RepVGGBlock) -> None:
    block.rbr_1x1.conv = nn.Conv2d(4, 4, 3, padding=1)
    block.rbr_dense.conv.dilation = block.rbr_dense.conv.padding = (2, 2)


def strided_apart(block: RepVGGBlock) -> None:
    block.rbr_dense.conv.stride = (2, 2)


def padded_wrongly(block: RepVGGBlock) -> None:
    block.rbr_dense.conv.padding = (0, 0)


def not_finite(block: RepVGGBlock) -> None:
    block.rbr_dense.conv.weight.data[0, 0, 0, 0] = float("nan")


def on_meta(block: RepVGGBlock) -> None:
    block.to("meta")


def partly_on_meta(block: RepVGGBlock) -> None:
    block.rbr_1x1.to("meta")


def negative_variance(block: RepVGGBlock) -> None:
    block.rbr_identity.running_var[0] = -1


def overflowing(block: RepVGGBlock) -> None:
    block.half()
    block.rbr_dense.bn.weight.data.fill_(6e4)
    block.rbr_dense.bn.running_var.fill_(1e-7)


def another_child(block: RepVGGBlock) -> None:
    block.extra = nn.Conv2d(4, 4, 1)


def an_activation_inside(block: RepVGGBlock) -> None:
    block.rbr_dense.act = nn.ReLU()


def another_parameter(block: RepVGGBlock) -> None:
    block.alpha = nn.Parameter(torch.ones(1))


def a_buffer(block: RepVGGBlock) -> None:
    block.register_buffer("scale", torch.ones(1))


def a_hook_inside(block: RepVGGBlock) -> None:
    block.rbr_dense.conv.register_forward_hook(lambda *_: None)


def another_forward(block: RepVGGBlock) -> None:
    block.forward = MethodType(lambda self, x: self.rbr_dense(x), block)


def shapes_apart(block: RepVGGBlock) -> None:
    block.rbr_1x1 = nets.conv_norm(4, 6, 1)


def branch_in_part(block: RepVGGBlock) -> None:
    block.rbr_1x1.bn = nn.Identity()


def branch_missing(block: RepVGGBlock) -> None:
    del block.rbr_1x1


LEFT: dict[Callable[[RepVGGBlock], None], str] = {
    without_statistics: "rbr_1x1.bn has no running statistics",
    without_anything: "rbr_1x1.bn has no running statistics",
    reflected: "'reflect' is not zero padding",
    transposed: "rbr_dense.conv is a ConvTranspose2d",
    instance_norm: "rbr_identity is a InstanceNorm2d",
    group_norm: "rbr_dense.bn is a GroupNorm",
    three_dimensions: "rbr_dense.conv is a Conv3d",
    one_dimension: "rbr_dense.conv is a Conv1d",
    dilated_apart: "differ in dilation",
    strided_apart: "differ in stride",
    padded_wrongly: "padding does not match",
    not_finite: "NaN or infinity",
    on_meta: "meta device",
    partly_on_meta: "several devices",
    negative_variance: "running variance",
    overflowing: "overflows float16",
    another_child: "extra, a Conv2d, is nothing that RepVGGBlock of repvgg has",
    an_activation_inside: "rbr_dense.act, a ReLU, is nothing",
    another_parameter: "alpha is no parameter",
    a_buffer: "scale is no buffer that RepVGGBlock of repvgg has",
    a_hook_inside: "rbr_dense.conv has a forward hook",
    another_forward: "its forward was replaced",
    shapes_apart: "do not fit together",
    branch_in_part: "rbr_1x1.bn.weight is missing",
    branch_missing: "rbr_1x1.conv.weight is missing",
}


@pytest.mark.parametrize("damage", LEFT, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("inplace", [False, True])
def test_left_with_the_reason(damage: Callable[[RepVGGBlock], None], inplace: bool) -> None:
    model = trained(nn.Sequential(RepVGGBlock(4, 4), RepVGGBlock(4, 4)))
    damage(model[0])
    before = copy.deepcopy(model.state_dict())
    fusion = fuse_modules(model, inplace=inplace)
    assert [one.path for one in fusion.fused] == ["1"]
    (left,) = fusion.left
    assert left.path == "0"
    assert LEFT[damage] in left.reason
    assert "1 blocks fused, 1 left\nleft 0: " in str(fusion)
    after = fusion.model.state_dict()
    assert all(torch.allclose(after[key], before[key], equal_nan=True)
               for key in before if key.startswith("0.") and not before[key].is_meta)  # fmt: skip


def test_fuse_warns_of_every_block_left() -> None:
    model = trained(nn.Sequential(RepVGGBlock(4, 4), RepVGGBlock(4, 4)))
    reflected(model[0]), group_norm(model[1])
    with pytest.warns(UserWarning, match=r"left \d as it was") as warned:
        fuse(model)
    assert len(warned) == 2
    with pytest.warns(UserWarning, match="left the root as it was"):
        fuse(model[0])


class Doubled(RepVGGBlock):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Functional(RepVGGBlock):
    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(super().forward(x))


class Halved(RepVGGBlock):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, ::2]


class SquaredFirst(RepVGGBlock):
    """Squeezes and excites in the wrong place."""

    def forward(self, x: Tensor) -> Tensor:
        skip = self.rbr_identity(x)
        return self.nonlinearity(self.se(self.rbr_dense(x)) + self.rbr_1x1(x) + skip)


class Clamped(RepVGGBlock):
    """As a ReLU6, on values that noise does not reach."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(max=50)


class Pair(RepVGGBlock):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, super().forward(x)


@pytest.mark.parametrize("kind", [Doubled, Functional, Halved, SquaredFirst, Clamped, Pair])
def test_a_forward_of_its_own_is_noticed(kind: type[RepVGGBlock]) -> None:
    (left,) = fuse_modules(trained(kind(4, 4, se=kind is SquaredFirst))).left
    assert left.reason == "its own forward does something else than the sum of its branches"


def test_an_activation_without_effect_is_left_out() -> None:
    """Apple's large-kernel block calls its activation and drops the result."""

    class Dropped(nets.RepConv):
        def forward(self, x: Tensor) -> Tensor:
            return self.rbr_dense(x) + self.rbr_1x1(x) + self.rbr_identity(x)

    block = trained(Dropped(4, 4))
    fused = fuse(block)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(fused(x), block(x), atol=1e-4)
    assert bool((fused(x) < -1).any()), "SiLU gives no such values"


def test_a_forward_that_cannot_be_run() -> None:
    class Square(RepVGGBlock):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[2] != x.shape[3]:
                raise ValueError("squares only")
            return super().forward(x)

    (left,) = fuse_modules(trained(Square(4, 4))).left
    assert "could not be run on (2, 4, 7, 8): squares only" in left.reason


def test_sequential_convolutions_are_not_branches() -> None:
    """They have the names of RT-DETR's block, but follow one another."""

    class Bottleneck(nets.RepVggBlock):
        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.conv2(self.conv1(x)))

    fusion = fuse_modules(trained(Bottleneck(4, 4)))
    assert not fusion.fused
    assert len(fusion.left) == 1


def test_parts_of_a_block_that_is_left_are_fused() -> None:
    mixer = trained(nets.RepMixer(4))
    mixer.extra = nn.Conv2d(4, 4, 1).eval()
    fusion = fuse_modules(mixer)
    assert [one.path for one in fusion.fused] == ["norm", "mixer"]
    assert [one.path for one in fusion.left] == [""]


def test_batch_norm_without_affine_is_folded() -> None:
    block = trained(RepVGGBlock(4, 4))
    block.rbr_1x1.bn.weight = block.rbr_1x1.bn.bias = None
    block.rbr_identity.weight = block.rbr_identity.bias = None
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(fuse(block)(x), block(x), atol=1e-4)


def test_a_frozen_batch_norm_is_folded() -> None:
    class FrozenBatchNorm2d(nn.Module):
        """As torchvision's: buffers, no parameters."""

        def __init__(self, norm: nn.BatchNorm2d) -> None:
            super().__init__()
            self.eps = norm.eps
            for leaf in ("weight", "bias", "running_mean", "running_var"):
                self.register_buffer(leaf, getattr(norm, leaf).detach().clone())

        def forward(self, x: Tensor) -> Tensor:
            shape = (1, -1, 1, 1)
            scale = self.weight * (self.running_var + self.eps).rsqrt()
            return x * scale.view(shape) + (self.bias - self.running_mean * scale).view(shape)

    block = trained(RepVGGBlock(4, 4))
    block.rbr_identity = FrozenBatchNorm2d(block.rbr_identity)
    assert len(fuse_modules(block).fused) == 1


def test_ordinary_networks_give_no_noise() -> None:
    """conv and bn, conv1 and conv2: names that many have."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.act = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.SiLU()
            self.conv1, self.conv2 = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)
            self.norm, self.pe = nn.LayerNorm(4), nn.Conv2d(4, 4, 3)

    for model in (Plain(), nn.Sequential(Plain(), nets.conv_norm(4, 4, 3))):
        fusion = fuse_modules(model.eval())
        assert not fusion.fused
        assert not fusion.left


class Uncopied:
    def __deepcopy__(self, memo: object) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("what", ["history", "generator", "lock", "own"])
def test_a_model_that_cannot_be_copied(what: str) -> None:
    model = trained(nn.Sequential(RepVGGBlock(4, 4)))
    why, model.kept = {
        "history": (
            "Only Tensors created explicitly.* at the moment",
            model(torch.zeros(1, 4, 4, 4)),
        ),
        "generator": ("cannot pickle 'generator' object", (i for i in range(3))),
        "lock": ("cannot pickle '_thread.lock' object", Lock()),
        "own": ("NotImplementedError", Uncopied()),
    }[what]
    message = rf"cannot be copied \({why}\); pass inplace=True to change it itself\.$"
    with pytest.raises(UserError, match=message):
        fuse(model)
    assert type(model[0]) is RepVGGBlock
    assert fuse(model, inplace=True) is model
    assert type(model[0]) is not RepVGGBlock


def test_not_a_module() -> None:
    with pytest.raises(UserError, match="not a dict"):
        fuse({"a": 1})  # type: ignore[arg-type]


def test_described_wrongly_is_noticed() -> None:
    """A family that forgets the identity, or the activation."""
    model = trained(nets.RepConv(4, 4))
    model.rbr_other = model.rbr_dense
    del model.rbr_dense
    branches = (conv_bn("rbr_other", "0", "1"), conv_bn("rbr_1x1", "0", "1"))
    forgetful = BlockFamily("mine", "RepConv", branches, "conv", tail=("act",))
    (left,) = (one for one in fuse_modules(model, families=[forgetful]).left)
    assert "rbr_identity, a BatchNorm2d, is nothing" in left.reason
    silent = BlockFamily("mine", "RepConv", (*branches, norm("rbr_identity")), "conv")
    (left,) = fuse_modules(model, families=[silent]).left
    assert "act, a SiLU, is nothing" in left.reason
