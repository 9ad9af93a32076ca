"""Residual networks (He et al. 2016), for reference.

Written here because torchvision's wheels do not import beside every build of torch (0.28.0 of PyPI
does not beside the CPU build of 2.13.0). The modules have torchvision's names, so its checkpoints
fit; as there, the stride of a bottleneck is in its 3x3.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Residual(nn.Module):
    """Convolutions ``conv1`` to ``conv3`` (or ``conv2``), each with a norm, beside a shortcut."""

    def __init__(self, cin: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        cout = width * 4 if bottleneck else width
        layout = [(cin, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            layout = [(cin, width, 1, 1), (width, width, 3, stride), (width, cout, 1, 1)]
        self.depth = len(layout)
        for number, (a, b, kernel, step) in enumerate(layout, 1):
            conv = nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(b))
        self.downsample: nn.Sequential | None = None
        if stride != 1 or cin != cout:
            conv = nn.Conv2d(cin, cout, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for number in range(1, self.depth + 1):
            x = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(x))
            if number < self.depth:
                x = x.relu()
        return (x + shortcut).relu()


class ResNet(nn.Module):
    """[N, 3, H, W] -> [N, num_classes]."""

    def __init__(self, depths: tuple[int, ...], bottleneck: bool, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        cin = 64
        for stage, depth in enumerate(depths, 1):
            width, blocks = 32 << stage, nn.Sequential()
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(Residual(cin, width, stride, bottleneck))
                cin = width * 4 if bottleneck else width
            self.add_module(f"layer{stage}", blocks)
        self.fc = nn.Linear(cin, num_classes)

    @property
    def blocks(self) -> list[tuple[str, Residual]]:
        """The residual blocks by name, in order."""
        return [(name, one) for name, one in self.named_modules() if isinstance(one, Residual)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        for _, block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]

    def fold(self) -> None:
        """Fold every batch norm into the convolution before it."""
        pairs: list[tuple[nn.Module, str, str]] = [(self, "conv1", "bn1")]
        for _, block in self.blocks:
            pairs += [(block, f"conv{n}", f"bn{n}") for n in range(1, block.depth + 1)]
            if block.downsample is not None:
                pairs.append((block.downsample, "0", "1"))
        for owner, first, second in pairs:
            conv, norm = owner.get_submodule(first), owner.get_submodule(second)
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            setattr(owner, first, fuse_conv_bn_eval(conv, norm))
            setattr(owner, second, nn.Identity())
