"""The unfused network with what every exporter folds already: batch norm into its convolution."""

from __future__ import annotations

import copy
from collections import OrderedDict

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .network import RepVGG


def fold_conv_bn(network: RepVGG) -> RepVGG:
    """A copy of a training-form network whose 3x3 and 1x1 branches are one convolution each.

    The branches stay parallel, and batch norms of the identity or of the branches' sum stay: this
    is the fair baseline for re-parameterization, since conv-BN folding is what any deployment has
    without it.
    """
    folded = copy.deepcopy(network)
    for _, block in folded.chain:
        for branch in ("rbr_dense", "rbr_1x1"):
            if isinstance(block.get_submodule(branch), nn.Conv2d):
                continue  # a qarepvgg block's 1x1 has no batch norm
            conv, norm = block.get_submodule(branch).children()
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            fused = fuse_conv_bn_eval(conv, norm)
            setattr(block, branch, nn.Sequential(OrderedDict(conv=fused, bn=nn.Identity())))
    return folded
