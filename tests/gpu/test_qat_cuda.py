"""Training for int8 on a GPU: what it computes with is what the CPU reads out of it."""

from __future__ import annotations

import numpy as np
import torch

from repvgg_deploy.train.qat.distill import Distillation
from repvgg_deploy.train.qat.layer import QatLayer
from repvgg_deploy.train.qat.network import insert_norms, trainable
from repvgg_deploy.train.qat.settings import QatSettings

from ..qat import fused_network, in_batches, noise, post_training, train


def test_integers_trained_on_the_gpu_are_those_that_the_cpu_reads() -> None:
    settings = QatSettings(scales="learned", reinsert_bn=True)
    network = trainable(post_training(fused_network(), settings, noise()), settings)
    insert_norms(network, in_batches(noise()))
    losses = train(network.cuda(), Distillation(fused_network()), noise(), 4, 0.001)
    assert np.isfinite(losses).all()
    layers = [layer for layer in network.eval().modules() if isinstance(layer, QatLayer)]
    on_gpu = [layer.quantized("one") for layer in layers]
    network.cpu()
    for layer, found in zip(layers, on_gpu, strict=True):
        meant = layer.quantized("one")
        assert found.input_scale == meant.input_scale
        assert np.array_equal(found.weight, meant.weight)
        assert np.array_equal(found.weight_scales, meant.weight_scales)


def test_training_under_autocast_rounds_in_float32() -> None:
    settings = QatSettings()
    network = trainable(post_training(fused_network(), settings, noise()), settings).cuda().eval()
    layer = network.get_submodule("stage1.0.rbr_reparam")
    seen: list[torch.Tensor] = []
    layer.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        y = network(torch.from_numpy(noise()).cuda())
    assert seen[0].dtype == torch.bfloat16
    assert bool(torch.isfinite(y).all())
