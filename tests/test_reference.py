"""Reference networks: the published architectures, with weights that suit timing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from repvgg_deploy.export.reference import reference_onnx
from repvgg_deploy.models.reference import REFERENCES, reference
from repvgg_deploy.runners.onnx_runtime import OrtRunner

#: Published by torchvision with its weights.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
}


def images(batch: int = 2, side: int = 64) -> torch.Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_names_without_torch() -> None:
    code = (
        "import sys; from repvgg_deploy.models.reference import REFERENCES; "
        "assert not {'torch', 'onnx'} & set(sys.modules); print(*REFERENCES)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(PARAMETERS) == list(REFERENCES)


@pytest.mark.parametrize("name", REFERENCES)
def test_parameters_as_published(name: str) -> None:
    trained = reference(name, folded=False)
    assert sum(parameter.numel() for parameter in trained.parameters()) == PARAMETERS[name]
    assert not trained.training


def test_state_dict_has_torchvisions_names() -> None:
    keys = set(reference("resnet50", folded=False).state_dict())
    assert {
        "conv1.weight", "bn1.running_var", "layer1.0.conv3.weight", "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.bias", "layer4.2.bn3.num_batches_tracked", "fc.bias",
    } <= keys  # fmt: skip
    assert len(keys) == 320


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_folding_changes_nothing_but_the_speed(name: str) -> None:
    trained, folded = reference(name, 10, folded=False).double(), reference(name, 10).double()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        expected, found = trained(images().double()), folded(images().double())
    # Folding rounds once, to float32: the weights are folded before they are widened here.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_are_the_same_at_every_call_and_the_callers_seed_stays() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = reference("resnet18", 10).state_dict()
    assert torch.equal(torch.rand(3), expected)
    second = reference("resnet18", 10).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", REFERENCES)
def test_activations_stay_in_the_range_of_float16(name: str) -> None:
    network, largest = reference(name), []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, i, out: largest.append(float(out.abs().max())))
    with torch.inference_mode():
        logits = network(images(1))
    assert logits.shape == (1, 1000) and float(logits.std()) > 1e-3
    assert min(largest) > 1e-2 and max(largest) < 1e3


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_onnx_computes_the_same(name: str) -> None:
    model = reference_onnx(name, (64, 64), num_classes=10)
    onnx.checker.check_model(model, full_check=True)
    runner = OrtRunner(model.SerializeToString(), threads=1)
    for batch in (1, 2):
        runner.load(images(batch).numpy())
        runner.step()
        with torch.inference_mode():
            expected = reference(name, 10)(images(batch)).numpy()
        np.testing.assert_allclose(runner.output(), expected, rtol=1e-3, atol=1e-4)


def test_onnx_of_other_precisions_and_a_fixed_batch() -> None:
    half = reference_onnx("resnet18", (64, 32), 4, precision="fp16", num_classes=10)
    onnx.checker.check_model(half, full_check=True)
    shape = [dim.dim_value for dim in half.graph.input[0].type.tensor_type.shape.dim]
    assert shape == [4, 3, 64, 32]
    assert half.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    brain = reference_onnx("resnet18", (64, 64), precision="bf16", num_classes=10)
    onnx.checker.check_model(brain, full_check=True)
    assert brain.opset_import[0].version == 22


def test_another_name_is_no_network() -> None:
    with pytest.raises(KeyError):
        reference("resnet9000")
