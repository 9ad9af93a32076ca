"""Training for int8: rounding that gradients pass, and the network made of it."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from repvgg_deploy.data.demo import demo_checkpoint, demo_images
from repvgg_deploy.models.build import build
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.quantize.fake import (
    Int8State,
    dequantize,
    fake_quantized,
    int8_tensors,
    quantize,
)
from repvgg_deploy.quantize.layers import layer_key
from repvgg_deploy.quantize.qdq import insert_qdq
from repvgg_deploy.quantize.qdq import representable as representable_scales
from repvgg_deploy.quantize.quantizer import QuantizedNetwork
from repvgg_deploy.quantize.read import read_qdq
from repvgg_deploy.reparam.state_dict import fuse_in_place
from repvgg_deploy.steps.weights import read_weights
from repvgg_deploy.train.qat.distill import Distillation
from repvgg_deploy.train.qat.fake_quantize import fake_quantize, representable
from repvgg_deploy.train.qat.layer import QatLayer
from repvgg_deploy.train.qat.network import insert_norms, trainable, trained
from repvgg_deploy.train.qat.settings import QatSettings, Scales

from .qat import Array, fused_network, in_batches, noise, post_training, train

VARIANTS = {
    "plain": ({}, QatSettings()),
    "fp32": ({}, QatSettings(float_type="fp32", scales="learned")),
    "learned": ({}, QatSettings(scales="learned", start="quick")),
    "no stem": ({}, QatSettings(stem=False)),
    "linear": ({}, QatSettings(linear=True)),
    "squeeze-excitation": ({"se_ratio": 4}, QatSettings(start="equalize")),
    "batch norms": ({}, QatSettings(reinsert_bn=True)),
}


@cache
def start_of(name: str) -> tuple[QuantizedNetwork, QatSettings]:
    changes, settings = VARIANTS[name]
    return post_training(fused_network(**changes), settings, noise()), settings


def network_of(name: str) -> tuple[torch.nn.Module, QuantizedNetwork]:
    start, settings = start_of(name)
    network = trainable(start, settings)
    if settings.reinsert_bn:
        insert_norms(network, in_batches(noise()))
    return network.eval(), start


def fake(network: QuantizedNetwork) -> torch.nn.Module:
    """quantize's own network of the same integers."""
    scales = {layer_key(layer.name): layer.input_scale for layer in network.layers}
    return fake_quantized(Int8State(int8_tensors(network.model, network.layers), scales))


def logits(network: torch.nn.Module, images: Array) -> Tensor:
    with torch.no_grad():
        found: Tensor = network(torch.from_numpy(images))
    return found


# -- rounding


@pytest.mark.parametrize("scale", [2.0**-4, 0.0379, 1e-6])
def test_values_are_those_of_quantize_bit_for_bit(scale: float) -> None:
    rng = np.random.default_rng(0)
    ties = np.arange(-140, 140, 0.5, dtype=np.float32) * np.float32(scale)
    values = np.concatenate([ties, rng.normal(0, 60 * scale, 100_000).astype(np.float32)])
    x = torch.from_numpy(values)
    exact = float(np.float32(scale))
    wanted = dequantize(quantize(x, exact), exact, torch.float32)
    assert torch.equal(fake_quantize(x, torch.tensor(exact), -128, 127), wanted)


def test_gradients_of_values_and_scale_by_hand() -> None:
    # scale 0.5: steps -300, -1.4, 0.5, 2.5, 200 -> -128, -1, 0, 2, 127
    x = torch.tensor([[-150.0, -0.7, 0.25, 1.25, 100.0]], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    y = fake_quantize(x, scale, -128, 127)
    assert y.tolist() == [[-64.0, -0.5, 0.0, 1.0, 63.5]]
    y.backward(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]))
    assert x.grad is not None and x.grad.tolist() == [[0.0, 2.0, 3.0, 4.0, 0.0]]
    # LSQ, equation 3: -128, round(v) - v = 0.4, -0.5, -0.5, and 127; each by its gradient
    by_hand = 1 * -128 + 2 * 0.4 + 3 * -0.5 + 4 * -0.5 + 5 * 127
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx(by_hand / (5 * 127) ** 0.5, rel=1e-5)


def test_every_channel_of_a_weight_has_the_gradient_of_its_own_scale() -> None:
    weight = torch.tensor([[0.9, 0.1], [3.3, 9.0]])
    scales = torch.tensor([[0.5], [1.0]], requires_grad=True)
    fake_quantize(weight, scales, -127, 127).sum().backward()
    assert scales.grad is not None
    wanted = torch.tensor([[(2 - 1.8) + (0 - 0.2)], [(3 - 3.3) + 0]]) / (2 * 127) ** 0.5
    assert torch.allclose(scales.grad, wanted, atol=1e-6)


@pytest.mark.parametrize("float_type", ["fp16", "fp32"])
def test_scales_are_those_that_the_float_type_holds_and_gradients_pass(float_type: str) -> None:
    values = np.array([0.0379, 1e-3, 3e-8, -1.0, 1e9, 2.0**-4], np.float32)
    scales = torch.tensor(values, requires_grad=True)
    found = representable(scales, float_type)
    assert np.array_equal(found.detach().numpy(), representable_scales(values, float_type))
    found.sum().backward()
    assert scales.grad is not None and bool((scales.grad == 1).all())


# -- the network


@pytest.mark.parametrize("name", VARIANTS)
def test_training_starts_from_what_post_training_quantization_made(name: str) -> None:
    network, start = network_of(name)
    back = trained(network, start)
    for layer, first in zip(back.layers, start.layers, strict=True):
        assert (layer.name, layer.input_scale) == (first.name, first.input_scale)
        assert np.array_equal(layer.weight, first.weight)
        assert np.array_equal(layer.weight_scales, first.weight_scales)
        assert np.array_equal(layer.bias, first.bias)
    images = noise(seed=1)
    assert torch.equal(logits(network, images), logits(fake(start), images))


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_exported_is_what_was_trained(name: str) -> None:
    network, start = network_of(name)
    images = noise(seed=1)
    losses = train(network, Distillation(fused_network(**VARIANTS[name][0])), images, 6, 0.02)
    assert np.isfinite(losses).all()
    network.eval()
    made = trained(network, start)
    moved = [
        not np.array_equal(one.weight, other.weight)
        for one, other in zip(made.layers, start.layers, strict=True)
    ]
    assert any(moved)
    assert torch.equal(logits(network, images), logits(fake(made), images))
    written = read_qdq(insert_qdq(made.model, made.layers, VARIANTS[name][1].float_type)).layers
    for layer, meant in zip(written, made.layers, strict=True):
        assert np.array_equal(layer.weight, meant.weight)
        assert np.array_equal(layer.weight_scales, meant.weight_scales)
        assert layer.input_scale == meant.input_scale


def test_scales_are_learned_or_stay() -> None:
    for name, changes in (("learned", True), ("plain", False)):
        network, start = network_of(name)
        train(network, Distillation(fused_network()), noise(), 3, 0.05)
        found = trained(network, start).layers
        same = [
            np.array_equal(one.weight_scales, other.weight_scales)
            and one.input_scale == other.input_scale
            for one, other in zip(found, start.layers, strict=True)
        ]
        assert all(same) != changes


def test_layers_in_int8_are_those_asked_for() -> None:
    for name, stem, linear in (
        ("plain", True, False),
        ("no stem", False, False),
        ("linear", True, True),
    ):
        network, _ = network_of(name)
        assert isinstance(network.get_submodule("stage0.rbr_reparam"), QatLayer) == stem
        assert isinstance(network.get_submodule("linear"), QatLayer) == linear


def test_what_is_in_float_is_trained_and_exported_too() -> None:
    network, start = network_of("squeeze-excitation")
    train(network, Distillation(fused_network(se_ratio=4)), noise(), 3, 0.05)
    before = int8_tensors(start.model, start.layers)
    after = int8_tensors(trained(network, start).model, start.layers)
    for key in ("linear.weight", "stage0.se.down.weight"):
        assert not torch.equal(after[key], before[key])
        assert torch.equal(after[key], network.state_dict()[key])


@pytest.mark.parametrize("name", ["plain", "learned", "batch norms"])
def test_the_state_is_plain_tensors_that_load_again(name: str) -> None:
    network, _ = network_of(name)
    train(network, Distillation(fused_network()), noise(), 3, 0.05)
    again, _ = network_of(name)
    again.load_state_dict(network.state_dict(), strict=True)
    images = noise(seed=2)
    assert torch.equal(logits(again.eval(), images), logits(network.eval(), images))
    average = copy.deepcopy(network)  # as a moving average is made
    assert torch.equal(logits(average, images), logits(network, images))


# -- batch norms behind the convolutions


def test_batch_norms_change_nothing_at_the_start_and_fold_exactly() -> None:
    network, start = network_of("batch norms")
    plain = trainable(*start_of("batch norms"))
    images = noise(seed=3)
    assert torch.equal(logits(network, images), logits(plain.eval(), images))
    train(network, Distillation(fused_network()), noise(), 3, 0.05)
    network.eval()
    layer = network.get_submodule("stage1.0.rbr_reparam")
    assert isinstance(layer, QatLayer) and layer.bn is not None
    weight, bias = layer.folded()
    assert not torch.equal(weight, layer.weight)
    x = torch.rand(2, weight.shape[1], 5, 5)
    with torch.no_grad():
        geometry = (2, 1)
        plain_sum = torch.nn.functional.conv2d(x, layer.weight, None, *geometry)
        apart = layer.bn.eval()(plain_sum) + layer.bias.reshape(-1, 1, 1)
        whole = torch.nn.functional.conv2d(x, weight, bias, *geometry)
    assert torch.allclose(apart, whole, atol=1e-4)
    assert torch.equal(logits(network, images), logits(fake(trained(network, start)), images))


def test_training_sees_the_statistics_of_the_batch() -> None:
    network, _ = network_of("batch norms")
    layer = network.get_submodule("stage0.rbr_reparam")
    assert isinstance(layer, QatLayer) and layer.bn is not None and layer.bias is not None
    assert not layer.bias.requires_grad  # the batch norm has one
    x = torch.from_numpy(noise() * 3 + 1)
    y = layer.train()(x) - layer.bias.reshape(-1, 1, 1)
    assert torch.allclose(y.mean((0, 2, 3)), layer.bn.bias, atol=1e-3)
    assert layer.bn.num_batches_tracked == 1


# -- distillation


def test_distillation_is_nothing_for_the_float_network_itself() -> None:
    teacher = fused_network()
    objective = Distillation(fused_network())
    assert train(teacher.requires_grad_(True), objective, noise(), 1, 0.0) == [0.0]


@cache
def demo() -> tuple[RepVGG, QuantizedNetwork]:
    """The bundled network, fused, and quantized on 32 of its images."""
    read = read_weights(demo_checkpoint())
    state = dict(read.checkpoint.state)
    fuse_in_place(state, read.blocks)
    network = build(state, read.network.spec, "deploy")
    return network, post_training(network, QatSettings(start="mse"), demo_images()[0][:32])


@pytest.mark.parametrize("scales", ["fixed", "learned"])
def test_training_on_the_demo_lowers_its_loss_without_labels(scales: Scales) -> None:
    teacher, start = demo()
    network = trainable(start, QatSettings(scales=scales))
    losses = train(network, Distillation(teacher), demo_images()[0][:32], 12, 0.001)
    assert 0 < np.mean(losses[-3:]) < 0.8 * losses[0]
    assert not teacher.training and all(not p.requires_grad for p in teacher.parameters())
