"""The networks that are measured: published architectures with made-up weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repvgg_deploy.equivalence.samples import probe_inputs
from repvgg_deploy.models.baseline import fold_conv_bn
from repvgg_deploy.models.build import build
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.models.zoo import ZOO
from repvgg_deploy.reparam.find import find_blocks
from repvgg_deploy.reparam.state_dict import fuse_in_place
from repvgg_deploy.steps.bench_subjects import FOLDED, FUSED, RAW

#: A plain one, a grouped one, and one with squeeze-excitation.
NAMES = ("RepVGG-A0", "RepVGG-B1g4", "RepVGG-D2se")
DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


def training_state(name: str) -> dict[str, Tensor]:
    """Weights as initialised, with the batch-norm statistics of the inputs of the proof: with
    statistics that are made up as well, the values of so deep a network soon leave float16."""
    torch.manual_seed(0)
    network = RepVGG(ZOO[name].spec(), "train")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    with torch.no_grad():
        network.train()(torch.from_numpy(probe_inputs(3, 64, 64)))
    return dict(network.state_dict())


def forms(name: str) -> dict[str, RepVGG]:
    """Unfused, with conv-BN folded, and fused, in float32 on the CPU."""
    spec, state = ZOO[name].spec(), training_state(name)
    train = build(dict(state), spec, "train")
    fuse_in_place(state, find_blocks(state).blocks)
    return {RAW: train, FOLDED: fold_conv_bn(train), FUSED: build(state, spec, "deploy")}
