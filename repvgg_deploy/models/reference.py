"""Networks to hold a RepVGG against, by name; importing this imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .resnet import ResNet

#: name -> (bottleneck blocks, blocks of each stage): He et al. 2016, table 1.
RESNETS = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
}
REFERENCES = tuple(RESNETS)


def reference(name: str, num_classes: int = 1000, *, folded: bool = True) -> ResNet:
    """The network of that name, one of REFERENCES, with random weights, in eval mode.

    ``folded``: batch norms are folded into the convolutions, as any deployment has them; else it
    is as trained. The weights are the same at every call: good for timing, and for nothing else.
    KeyError for another name.
    """
    import torch

    from .resnet import ResNet

    bottleneck, depths = RESNETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ResNet(depths, bottleneck, num_classes)
        _randomize(network)
    network.eval()
    if folded:
        network.fold()
    return network


def _randomize(network: ResNet) -> None:
    """Kernels that keep the variance (He et al. 2015), norms near one; what a block adds is small
    beside its shortcut, so that numbers stay in the range of float16 however deep the network."""
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, 0, 0.1)
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    for _, block in network.blocks:
        last = block.get_submodule(f"bn{block.depth}")
        assert isinstance(last, nn.BatchNorm2d)
        last.weight.data.mul_(0.3)
