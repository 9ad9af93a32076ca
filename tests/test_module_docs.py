"""The Python of docs/python.md runs, block after block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import module_nets as nets
from .module_nets import trained
from .test_docs import ROOT, fenced


class PSPNet(nn.Module):
    def __init__(self, backbone: nets.RepVGG) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        b = self.backbone
        return self.head(b.stage2(b.stage1(b.stage0(x))))


class MyBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.big, self.small = nets.conv_norm(4, 4, 5), nets.conv_norm(4, 4, 3)
        self.skip, self.act = nn.BatchNorm2d(4), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.big(x) + self.small(x) + self.skip(x))


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nets.RepConv(3, 4), nets.RepConv(4, 4))
        for block in self.model:
            block.f = -1


def test_every_block_of_the_page() -> None:
    names = {
        "model": trained(nets.RepVGG()),
        "repvgg": nets.RepVGG,
        "PSPNet": PSPNet,
        "detector": Detector(),
        "MyNet": lambda: nn.Sequential(MyBlock()),
    }
    blocks = fenced(ROOT / "docs" / "python.md", "python")
    assert len(blocks) == 6
    torch.manual_seed(0)
    for block in blocks:
        exec(block, names)
    assert isinstance(names["fused"][0].conv, nn.Conv2d)  # type: ignore[index]
