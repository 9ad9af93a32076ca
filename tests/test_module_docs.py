"""The Python of docs/python.md runs, block after block."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from . import module_nets as nets
from .engine_files import doubling, fake_machine
from .fake_tensorrt import DataType
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


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The engine of the page, on a stand-in for a machine with a GPU."""
    monkeypatch.chdir(tmp_path)
    network = replace(
        doubling(),
        outputs={"logits": (DataType.FLOAT, (-1, 3))},
        compute=lambda arrays: {"logits": arrays["x"] * 2},
    )
    fake_machine(monkeypatch).engine(Path("engines/ckpt/fp16.tensorrt.engine"), network)


@pytest.mark.filterwarnings("ignore:.*lazy loading")
def test_every_block_of_the_page(engine: None) -> None:
    names = {
        "model": trained(nets.RepVGG()),
        "repvgg": nets.RepVGG,
        "PSPNet": PSPNet,
        "detector": Detector(),
        "MyNet": lambda: nn.Sequential(MyBlock()),
        "images": np.ones((2, 3), np.float32),
    }
    blocks = fenced(ROOT / "docs" / "python.md", "python")
    assert len(blocks) == 7
    torch.manual_seed(0)
    for block in blocks:
        exec(block, names)
    assert isinstance(names["fused"][0].conv, nn.Conv2d)  # type: ignore[index]
    assert np.array_equal(names["logits"], np.full((2, 3), 2))  # type: ignore[arg-type]
