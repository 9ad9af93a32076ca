"""The blocks of many code bases, as small torch modules of our own writing."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def trained(model: nn.Module, seed: int = 0) -> nn.Module:
    """Eval mode, with batch norms and scales as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.ndim > 1:
                tensor.copy_(
                    torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5
                )
            else:
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
        for name, tensor in model.named_buffers():
            if name.endswith("running_mean"):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return model.eval()


class Branches(nn.Module):
    """A convolution and its norm under names of choice."""

    def __init__(self, conv: nn.Module, out: int, names: tuple[str, str] = ("conv", "bn")) -> None:
        super().__init__()
        self.names = names
        self.add_module(names[0], conv)
        self.add_module(names[1], nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.names[1])(getattr(self, self.names[0])(x))


def conv_norm(
    cin: int, out: int, k: int, stride: int = 1, groups: int = 1, dilation: int = 1,
    names: tuple[str, str] = ("conv", "bn"),
) -> nn.Module:  # fmt: skip
    padding = dilation * (k // 2)
    return Branches(
        nn.Conv2d(cin, out, k, stride, padding, dilation, groups, bias=False), out, names
    )


class SE(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, 2, 1)
        self.up = nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class RepVGGBlock(nn.Module):
    """The official one; ``post_se`` as in RepVGGplus."""

    def __init__(
        self, cin: int, out: int, stride: int = 1, groups: int = 1, dilation: int = 1,
        se: bool = False, post_se: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.nonlinearity = nn.ReLU()
        self.se = SE(out) if se else nn.Identity()
        self.post_se = SE(out) if post_se else nn.Identity()
        same = cin == out and stride == 1
        self.rbr_identity = nn.BatchNorm2d(cin) if same else None
        self.rbr_dense = conv_norm(cin, out, 3, stride, groups, dilation)
        self.rbr_1x1 = conv_norm(cin, out, 1, stride, groups)

    def forward(self, x: Tensor) -> Tensor:
        skip = 0 if self.rbr_identity is None else self.rbr_identity(x)
        total = self.rbr_dense(x) + self.rbr_1x1(x) + skip
        return self.post_se(self.nonlinearity(self.se(total)))


class RepVGG(nn.Module):
    def __init__(self, width: int = 4, **options: bool) -> None:
        super().__init__()
        self.stage0 = RepVGGBlock(3, width, 2, **options)
        self.stage1 = nn.Sequential(
            RepVGGBlock(width, width, **options), RepVGGBlock(width, width, groups=2, **options)
        )
        self.stage2 = nn.Sequential(RepVGGBlock(width, width, 2), RepVGGBlock(width, width))
        self.linear = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.stage1(self.stage0(x)))
        return self.linear(x.mean((2, 3)))


class RepConv(nn.Module):
    """YOLOv7's."""

    def __init__(self, cin: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.rbr_identity = nn.BatchNorm2d(cin) if cin == out and stride == 1 else None
        self.rbr_dense = nn.Sequential(
            nn.Conv2d(cin, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out, eps=1e-3)
        )
        self.rbr_1x1 = nn.Sequential(
            nn.Conv2d(cin, out, 1, stride, bias=False), nn.BatchNorm2d(out, eps=1e-3)
        )

    def forward(self, x: Tensor) -> Tensor:
        skip = 0 if self.rbr_identity is None else self.rbr_identity(x)
        return self.act(self.rbr_dense(x) + self.rbr_1x1(x) + skip)


class QARepVGGBlock(nn.Module):
    def __init__(self, cin: int, out: int, stride: int = 1, pool: bool = False) -> None:
        super().__init__()
        same = cin == out and stride == 1
        self.nonlinearity, self.se = nn.ReLU(), nn.Identity()
        self.rbr_dense = conv_norm(cin, out, 3, stride)
        self.rbr_1x1 = nn.Conv2d(cin, out, 1, stride, bias=False)
        self.rbr_identity = nn.Identity() if same else None
        self.rbr_avg = nn.AvgPool2d(3, 1, 1) if same and pool else None
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        total = self.rbr_dense(x) + self.rbr_1x1(x)
        for branch in (self.rbr_identity, self.rbr_avg):
            total = total if branch is None else total + branch(x)
        return self.nonlinearity(self.bn(self.se(total)))


class MobileOneBlock(nn.Module):
    def __init__(self, cin: int, out: int, k: int, count: int, stride: int = 1, groups: int = 1,
                 act: bool = True) -> None:  # fmt: skip
        super().__init__()
        self.se, self.activation = nn.Identity(), nn.ReLU() if act else nn.Identity()
        self.rbr_skip = nn.BatchNorm2d(cin) if cin == out and stride == 1 else None
        self.rbr_conv = nn.ModuleList(conv_norm(cin, out, k, stride, groups) for _ in range(count))
        self.rbr_scale = conv_norm(cin, out, 1, stride, groups) if k > 1 and count else None

    def forward(self, x: Tensor) -> Tensor:
        branches = [*self.rbr_conv, self.rbr_scale, self.rbr_skip]
        return self.activation(self.se(sum(b(x) for b in branches if b is not None)))


class RepMixer(nn.Module):
    """FastViT's, as Apple wrote it."""

    def __init__(self, dim: int, scale: bool = True) -> None:
        super().__init__()
        self.norm = MobileOneBlock(dim, dim, 3, 0, groups=dim, act=False)
        self.mixer = MobileOneBlock(dim, dim, 3, 1, groups=dim, act=False)
        self.layer_scale = nn.Parameter(torch.ones(dim, 1, 1)) if scale else None

    def forward(self, x: Tensor) -> Tensor:
        change = self.mixer(x) - self.norm(x)
        return x + (change if self.layer_scale is None else self.layer_scale * change)


class Scale(nn.Module):
    """A factor for each channel, as timm's LayerScale2d and RepOpt-VGG's ScaleLayer."""

    def __init__(self, channels: int, name: str) -> None:
        super().__init__()
        self.name = name
        self.register_parameter(name, nn.Parameter(torch.ones(channels)))

    def forward(self, x: Tensor) -> Tensor:
        return x * getattr(self, self.name).view(1, -1, 1, 1)


class LinearAddBlock(nn.Module):
    """RepOpt-VGG's, with constant scales."""

    def __init__(self, cin: int, out: int) -> None:
        super().__init__()
        self.relu, self.post_se = nn.ReLU(), nn.Identity()
        self.conv = nn.Conv2d(cin, out, 3, 1, 1, bias=False)
        self.conv_1x1 = nn.Conv2d(cin, out, 1, bias=False)
        self.scale_conv, self.scale_1x1 = Scale(out, "weight"), Scale(out, "weight")
        if cin == out:
            self.scale_identity = Scale(out, "weight")
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        total = self.scale_conv(self.conv(x)) + self.scale_1x1(self.conv_1x1(x))
        if hasattr(self, "scale_identity"):
            total = total + self.scale_identity(x)
        return self.post_se(self.relu(self.bn(total)))


class RepVggBlock(nn.Module):
    """RT-DETR's."""

    def __init__(self, cin: int, out: int) -> None:
        super().__init__()
        self.conv1 = conv_norm(cin, out, 3, names=("conv", "norm"))
        self.conv2 = conv_norm(cin, out, 1, names=("conv", "norm"))
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv1(x) + self.conv2(x))


class RepVGGDW(nn.Module):
    """RepViT's."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = conv_norm(dim, dim, 3, groups=dim, names=("c", "bn"))
        self.conv1 = nn.Conv2d(dim, dim, 1, groups=dim)
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x) + self.conv1(x) + x)


def repvit_head(dim: int, classes: int) -> nn.Module:
    norm_linear = [("bn", nn.BatchNorm1d(dim)), ("l", nn.Linear(dim, classes))]
    return nn.Sequential(OrderedDict(head=nn.Sequential(OrderedDict(norm_linear))))
