"""Weights compared exactly: which pairs are, and what is said of those that are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper
from safetensors.torch import save_file

from repvgg_deploy.equivalence.compare import compare
from repvgg_deploy.equivalence.weights import Meant, WeightCheck, compare_weights, folded
from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.models.build import build
from repvgg_deploy.reparam.find import find_blocks
from repvgg_deploy.reparam.state_dict import fuse_in_place
from repvgg_deploy.steps.verify import verify_pair

from .helpers import tiny_spec, training_state

SPEC = tiny_spec()


def fused() -> dict[str, torch.Tensor]:
    """The deploy form."""
    state = training_state()
    fuse_in_place(state, find_blocks(state).blocks)
    return {key: tensor.contiguous() for key, tensor in state.items()}


def folded_in_float32() -> dict[str, torch.Tensor]:
    """By the formulas of the paper, each operation rounded to float32."""
    state = training_state()
    made = {key: tensor for key, tensor in state.items() if key.startswith("linear")}
    for block in find_blocks(state).blocks:
        weight, bias = torch.zeros(()), torch.zeros(())
        for branch in ("rbr_dense", "rbr_1x1", "rbr_identity"):
            path = f"{block.path}.{branch}"
            norm = path if branch == "rbr_identity" else f"{path}.bn"
            if f"{norm}.weight" not in state:
                continue
            if branch == "rbr_identity":
                groups = block.out_channels // block.in_per_group
                kernel = torch.zeros(block.out_channels, block.in_per_group, 3, 3)
                rows = torch.arange(block.out_channels)
                kernel[rows, rows % (block.out_channels // groups), 1, 1] = 1
            else:
                kernel = state[f"{path}.conv.weight"]
                if kernel.shape[2] == 1:
                    kernel = torch.nn.functional.pad(kernel, (1, 1, 1, 1))
            scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
            weight = weight + kernel * scale.reshape(-1, 1, 1, 1)
            bias = bias + state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        made[f"{block.path}.rbr_reparam.weight"] = weight.contiguous()
        made[f"{block.path}.rbr_reparam.bias"] = bias
    return made


def exported(path: str, precision: str = "fp32", change: object = None) -> Path:
    model = to_onnx(build(fused(), SPEC, "deploy"), (32, 32), precision=precision)
    if callable(change):
        change(model)
    onnx.save(model, path)
    return Path(path)


def check(first: Path, second: Path) -> tuple[WeightCheck, list[str]]:
    verdict = verify_pair(first, second, "cpu")
    assert verdict.weights is not None
    return verdict.weights, verdict.failures


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(training_state(), "ckpt.pth")
    save_file(fused(), "fused.safetensors")


CKPT, FUSED = Path("ckpt.pth"), Path("fused.safetensors")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_fold_of_another_tool_agrees_within_its_rounding(precision: str) -> None:
    """It is right, so it passes; what is not exact is said."""
    save_file(folded_in_float32(), "theirs.safetensors")
    found, failures = check(CKPT, Path("theirs.safetensors"))
    assert not failures
    assert not found.exact
    assert "folded otherwise" in found.reason
    model = to_onnx(build(folded_in_float32(), SPEC, "deploy"), (32, 32), precision=precision)
    onnx.save(model, "theirs.onnx")
    _, failures = check(CKPT, Path("theirs.onnx"))
    assert not failures


@pytest.mark.parametrize("pair", [("fp32", "fp16"), ("fp16", "fp32"), ("fp16", "fp16")])
def test_two_exported_models(pair: tuple[str, str]) -> None:
    one, other = (exported(f"{n}.onnx", precision) for n, precision in enumerate(pair))
    found, failures = check(one, other)
    assert found.exact
    assert not failures
    model = onnx.load(other)
    tensor = model.graph.initializer[2]
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[0] *= 1.01
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, other)
    found, failures = check(one, other)
    assert found.failures == (f"{tensor.name}: 1 of {values.size} numbers are not the reference's",)
    assert failures


def without_a_layer(model: ModelProto) -> None:
    """Right in shape: the second block's input goes past its convolution."""
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    same = next(c for c in convs if c.name.startswith("stage3.1"))
    relu = next(n for n in model.graph.node if n.input[0] == same.output[0])
    relu.input[0] = same.input[0]
    model.graph.node.remove(same)


def with_other_padding(model: ModelProto) -> None:
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    pads = next(a for a in conv.attribute if a.name == "pads")
    pads.ints[:] = [0, 0, 2, 2]


def with_layers_exchanged(model: ModelProto) -> None:
    one, other = (n for n in model.graph.node if n.name.startswith("stage3") and n.input[1:])
    one.input[1:], other.input[1:] = list(other.input[1:]), list(one.input[1:])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without_a_layer, "it has 6 convolutions and linear layers, and the network 7"),
        (with_layers_exchanged, "numbers are not the reference's"),
        (with_other_padding, "its layer stage0.rbr_reparam/Conv has other attributes"),
    ],
)
def test_an_exported_model_of_other_layers(
    change: Callable[[ModelProto], None], sentence: str
) -> None:
    found, failures = check(FUSED, exported("wrong.onnx", change=change))
    assert sentence in found.reason
    assert found.reason in failures


def test_what_another_tool_wrote_is_compared_in_its_order() -> None:
    def theirs(model: ModelProto) -> None:
        model.producer_name = "another tool"
        for place, node in enumerate(model.graph.node):
            node.name = f"node_{place}"

    found, failures = check(FUSED, exported("theirs.onnx", "fp16", theirs))
    assert found.exact
    assert not failures


def test_weights_of_another_tool_that_compute_the_same() -> None:
    """Two channels exchanged inside: another network, and the same function."""

    def theirs(model: ModelProto) -> None:
        model.producer_name = "another tool"
        tensors = {t.name: t for t in model.graph.initializer}
        order = np.arange(8)[::-1]
        for name, axis in (("stage3.1.rbr_reparam.weight", 0), ("stage3.1.rbr_reparam.bias", 0),
                           ("stage4.0.rbr_reparam.weight", 1)):  # fmt: skip
            values = np.ascontiguousarray(numpy_helper.to_array(tensors[name]).take(order, axis))
            tensors[name].CopyFrom(numpy_helper.from_array(values, name))

    found, failures = check(FUSED, exported("theirs.onnx", change=theirs))
    assert not failures
    assert not found.exact
    assert found.reason == "another tool wrote it, and its weights are others"


def test_a_cast_is_exact_and_a_fold_known_up_to_the_order_of_its_sums() -> None:
    third = torch.tensor([1 / 3])
    half = third.half()
    assert bool(Meant(third).within(half, 0).all())
    assert not bool(Meant(third).within(torch.nextafter(half, half * 2), 0).any())
    nan = torch.tensor([float("nan")])
    assert bool(Meant(nan).within(nan.half(), 0).all())
    double = third.double()
    fold = Meant(double, torch.ones(1, dtype=torch.float64))
    assert bool(fold.within(double.float(), 2.0**-45).all())
    next_one = torch.nextafter(double.float(), torch.ones(1))
    assert not bool(fold.within(next_one, 2.0**-45).any())
    assert bool(fold.within(next_one, 2.0**-20).all())


def test_a_converter_that_lifts_what_is_tiny() -> None:
    """It is not the rounding, so not exact, but no fault, unless this tool made the file."""
    tiny, lifted = Meant(torch.tensor([3e-8, 1.0])), torch.tensor([1e-7, 1.0]).half()
    found = compare_weights([("a", tiny, lifted)], must_be_exact=False)
    assert not found.exact
    assert not found.failures
    assert compare_weights([("a", tiny, lifted)], must_be_exact=True).failures


def test_what_is_missing_or_of_another_shape() -> None:
    meant = Meant(torch.ones(2, 3))
    found = compare_weights([("a", meant, None), ("b", meant, torch.ones(3, 2))], True)
    assert found.failures == ("a is missing", "b is of shape [3, 2], not [2, 3]")
    assert (found.tensors, found.values) == (2, 12)


def test_the_size_of_a_fold_counts_what_cancels() -> None:
    state = training_state()
    block = find_blocks(state).blocks[0]
    norm = f"{block.path}.rbr_dense.bn"
    state[f"{norm}.running_mean"][:] = 1e6  # a bias of a million, taken away again
    scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
    state[f"{norm}.bias"] = 1e6 * scale
    _, bias = folded(state, block, 1e-5)
    assert bias.size is not None
    assert bool((bias.size >= 1.9e6 * scale.abs()).all())
    assert bool((bias.values.abs() < 10 + scale.abs()).all())


def test_one_channel_among_many_fails_a_comparison() -> None:
    """10 % off in one of 2,048 channels is 0.2 % on average: within 8 roundings of float16."""
    generator = np.random.default_rng(0)
    truth = generator.standard_normal((4, 2048, 4, 4))
    reference = truth * (1 + 2.0**-11 * generator.standard_normal(truth.shape))
    right = truth * (1 + 2.0**-11 * generator.standard_normal(truth.shape))
    assert compare("x", truth, reference, right, "fp16").passed
    wrong = right.copy()
    wrong[:, 7] *= 1.1
    found = compare("x", truth, reference, wrong, "fp16")
    assert found.ratio < 8
    assert not found.passed
    assert found.reason.startswith("channel 7 alone is ")
