"""prove_modules: module against module, and that it catches what is wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from repvgg_deploy import CheckFailed, UserError, fuse, fuse_modules, prove_modules

from . import module_nets as nets
from .module_nets import RepVGGBlock, trained

X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def faulty(damage: Callable[[RepVGGBlock], None]) -> nn.Module:
    """A network folded from a damaged training block."""
    model = trained(nets.RepVGG())
    damage(model.stage1[1])
    return fuse(model)


def dropped_branch(block: RepVGGBlock) -> None:
    block.rbr_identity = None


def wrong_eps(block: RepVGGBlock) -> None:
    block.rbr_dense.bn.eps = 1e-3


def no_mean(block: RepVGGBlock) -> None:
    block.rbr_1x1.bn.running_mean.zero_()


def swapped(block: RepVGGBlock) -> None:
    one, other = block.rbr_dense.bn, block.rbr_1x1.bn
    block.rbr_dense.bn, block.rbr_1x1.bn = other, one


def variance_as_deviation(block: RepVGGBlock) -> None:
    block.rbr_dense.bn.running_var.pow_(2)


def shifted(conv: nn.Conv2d) -> None:
    conv.weight.data = conv.weight.roll(1, 3)


def wrong_groups(conv: nn.Conv2d) -> None:
    """The identity K[i, i] instead of K[i, i mod (C/g)]."""
    conv.weight.data[2, 0, 1, 1] -= 1
    conv.weight.data[2, 1, 1, 1] += 1


def no_bias(conv: nn.Conv2d) -> None:
    conv.bias.data.zero_()


def transposed(conv: nn.Conv2d) -> None:
    conv.weight.data = conv.weight.transpose(2, 3).contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "damage",
    [dropped_branch, wrong_eps, no_mean, swapped, variance_as_deviation, shifted, wrong_groups,
     no_bias, transposed],
)  # fmt: skip
def test_faults_are_caught(damage: Callable[[nn.Module], None], dtype: torch.dtype) -> None:
    if damage is wrong_eps and dtype in (torch.float16, torch.bfloat16):
        pytest.skip("smaller than this precision's own rounding")
    original = trained(nets.RepVGG())
    if damage in (dropped_branch, wrong_eps, no_mean, swapped, variance_as_deviation):
        fused = faulty(damage)
    else:
        fused = fuse(original)
        damage(fused.stage1[1].rbr_reparam)
    proof = prove_modules(original.to(dtype), fused.to(dtype), X)
    assert not proof.passed
    assert [c.name for c in proof.blocks if not c.passed] == ["stage1.1"]
    assert any(line.startswith("stage1.1: distance") for line in proof.failures)
    assert proof.worst.ratio > 8


def test_a_sound_proof_says_so() -> None:
    model = trained(nets.RepVGG())
    model.aux = trained(RepVGGBlock(4, 4))  # which forward does not use
    before = copy.deepcopy(model.state_dict())
    fused = fuse(model)
    proof = prove_modules(model, fused, X)
    assert proof.passed
    assert len(proof.blocks) == 5
    assert proof.not_run == ("aux",)
    assert proof.outputs[0].top1_agreement == 1
    assert proof.to_dict()["passed"]
    assert not any(module._forward_hooks for m in (model, fused) for module in m.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_wrong_tails_show_end_to_end() -> None:
    model = trained(nets.RepVGG())
    fused = fuse(model)
    fused.linear.bias.data[0] += 0.1
    assert [line[:6] for line in prove_modules(model, fused, X).failures] == [
        "output",
        "linear",
    ]


@dataclass
class Answer:
    logits: Tensor
    count: int


class Many(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = RepVGGBlock(3, 4)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> dict[str, object]:
        y = self.block(x) if scale is None else self.block(x) * scale
        return {"a": [y, y.argmax(1)], "b": Answer(y.mean((1, 2, 3)), 3), "c": y.new_zeros(0)}


@pytest.mark.parametrize("example", [X, (X, torch.ones(1)), {"x": X, "scale": torch.ones(1)}])
def test_inputs_and_outputs_of_many_shapes(example: object) -> None:
    model = trained(Many())
    proof = prove_modules(model, fuse(model), example)
    assert proof.passed
    assert [c.name for c in proof.outputs] == ["output['a'][0]", "output['b'].logits"]
    assert [a.name for a in proof.discrete] == ["output['a'][1]"]


class Beside(nn.Module):
    """A block, and what is made of its output."""

    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.block, self.make = RepVGGBlock(3, 4), make

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.block(x)
        return y, self.make(y)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (lambda y: y.argmax(1), lambda y: y.argmin(1)),
        (lambda y: y > 0.5, lambda y: y < 0.5),
        (torch.fft.fft, lambda y: torch.fft.fft(y).conj()),
    ],
)
def test_integers_bools_and_complex_numbers_are_compared(
    right: Callable[[Tensor], Tensor], wrong: Callable[[Tensor], Tensor]
) -> None:
    model = trained(Beside(right))
    fused = fuse(model)
    assert prove_modules(model, fused, X).passed
    fused.make = wrong
    (failure,) = prove_modules(model, fused, X).failures
    assert failure.startswith("output[1]: ")


def test_what_cannot_be_proved_is_refused() -> None:
    model = trained(nets.RepVGG())
    fused = fuse(model)
    with pytest.raises(UserError, match="training mode"):
        prove_modules(copy.deepcopy(model).train(), fused, X)
    with pytest.raises(UserError, match="cannot run on this example"):
        prove_modules(model, fused, torch.zeros(1, 5, 8, 8))
    with pytest.raises(UserError, match="proves nothing"):
        prove_modules(model, fused, X[:0])
    with pytest.raises(UserError, match="different structure"):
        prove_modules(trained(Many()), trained(RepVGGBlock(3, 4)), X)
    with pytest.raises(CheckFailed, match="different shapes"):
        prove_modules(trained(RepVGGBlock(3, 6)), trained(RepVGGBlock(3, 4)), X)
    with pytest.raises(UserError, match="float32 first"):
        prove_modules(nn.Linear(2, 2).eval().to(torch.float8_e4m3fn), nn.Linear(2, 2).eval(), X)
    broken = copy.deepcopy(model)
    broken.kept = model(X)
    with pytest.raises(UserError, match="cannot be copied"):
        prove_modules(broken, fused, X)


@pytest.mark.filterwarnings("ignore")  # torch's own, of torch.jit and of copies
def test_torchscript_parts_that_fuse_left() -> None:
    model = trained(nets.RepVGG())
    model.stage2 = torch.jit.trace(model.stage2, torch.zeros(1, 4, 8, 8))
    proof = prove_modules(model, fuse_modules(model).model, X)
    assert proof.passed, proof.failures
    assert [c.name for c in proof.blocks] == ["stage0", "stage1.0", "stage1.1"]
    whole = torch.jit.script(trained(nn.Sequential(nn.Conv2d(3, 4, 1))))
    assert prove_modules(whole, fuse_modules(whole).model, X).passed
