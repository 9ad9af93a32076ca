"""Weight decay of the equivalent kernel, against the official formula written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from repvgg_deploy.models.network import RepVGG, RepVGGBlock
from repvgg_deploy.models.spec import ArchSpec
from repvgg_deploy.train.custom_l2 import covered_kernels, custom_l2

from .helpers import randomized, tiny_spec

SPECS = {
    "repvgg": tiny_spec(),
    "grouped": tiny_spec(groups=2, depths=(1, 2, 3, 1)),
    "repvggplus": tiny_spec(family="repvggplus", se_ratio=4),
    "qarepvgg": tiny_spec(block="qarepvgg"),
    "grouped qarepvgg": tiny_spec(block="qarepvgg", groups=2, depths=(1, 2, 3, 1)),
}


def trained(spec: ArchSpec) -> RepVGG:
    torch.manual_seed(0)
    network = randomized(RepVGG(spec, "train"))
    assert isinstance(network, RepVGG)
    return network.train()


def factor(norm: torch.nn.Module) -> Tensor:
    assert isinstance(norm, torch.nn.BatchNorm2d)
    assert norm.running_var is not None
    return (norm.weight / (norm.running_var + norm.eps).sqrt()).reshape(-1, 1, 1, 1).detach()


def official(block: RepVGGBlock) -> Tensor:
    """RepVGG's repository, get_custom_L2; a 1x1 without batch norm has the factor 1."""
    dense, pointwise = block.rbr_dense, block.rbr_1x1
    k3, t3 = dense.conv.weight, factor(dense.bn)
    plain = isinstance(pointwise, torch.nn.Conv2d)
    k1 = pointwise.weight if plain else pointwise.conv.weight
    t1 = torch.ones_like(t3) if plain else factor(pointwise.bn)
    circle = (k3**2).sum() - (k3[:, :, 1:2, 1:2] ** 2).sum()
    centre = k3[:, :, 1:2, 1:2] * t3 + k1 * t1
    return circle + (centre**2 / (t3**2 + t1**2)).sum()


@pytest.mark.parametrize("name", SPECS)
def test_value_and_gradients_are_the_official_ones(name: str) -> None:
    network = trained(SPECS[name])
    penalty = custom_l2(network)
    assert penalty.shape == ()
    assert penalty.dtype == torch.float32
    penalty.backward()
    ours = {name: p.grad for name, p in network.named_parameters()}
    exact = trained(SPECS[name]).double()
    expected = torch.stack([official(block) for _, block in exact.chain]).sum()
    expected.backward()
    torch.testing.assert_close(penalty, expected.float())
    for key, parameter in exact.named_parameters():
        grad = ours[key]
        if parameter.grad is None:
            assert grad is None, key
        else:
            assert grad is not None, key
            assert grad.dtype == torch.float32
            torch.testing.assert_close(grad, parameter.grad.float())


@pytest.mark.parametrize("name", SPECS)
def test_the_covered_kernels_are_those_with_a_gradient(name: str) -> None:
    network = trained(SPECS[name])
    covered = {id(parameter) for parameter in covered_kernels(network)}
    assert len(covered) == 2 * len(network.chain)
    custom_l2(network).backward()
    assert covered == {id(p) for p in network.parameters() if p.grad is not None}


def test_a_dead_channel_is_decayed_as_its_kernel() -> None:
    """Where gamma is 0, E^2 / T^2 is 0/0, and the limit on the 3x3's circle is the kernel's own."""
    network = trained(tiny_spec())

    with torch.no_grad():
        network.chain[0][1].rbr_dense.bn.weight[2] = 0
        network.chain[0][1].rbr_1x1.bn.weight[2] = 0
    penalty = custom_l2(network)
    penalty.backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)
    kernel = network.chain[0][1].rbr_dense.conv.weight
    assert kernel.grad is not None
    circle = torch.ones(3, 3).bool()
    circle[1, 1] = False
    torch.testing.assert_close(kernel.grad[2][:, circle], 2 * kernel.detach()[2][:, circle])


def test_the_penalty_falls_when_descended() -> None:
    network = trained(tiny_spec(block="qarepvgg"))
    optimizer = torch.optim.SGD(covered_kernels(network), lr=1e-3)
    before = custom_l2(network)
    before.backward()
    optimizer.step()
    assert custom_l2(network) < before
