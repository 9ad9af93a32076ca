"""What training starts from: new networks, and the weights of checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from repvgg_deploy.errors import UserError
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.models.spec import AUX_STAGES, ArchSpec
from repvgg_deploy.steps.weights import Network, read_weights
from repvgg_deploy.train.initial import Taken, fine_tuned_spec, new_network, take_weights

from .helpers import GOLDEN, golden, tiny_spec, training_state

LAYOUTS = {
    "official": golden("official_plain"),
    "moving average": golden("official_ddp"),
    "squeeze-excitation": golden("official_se"),
    "repvggplus": golden("repvggplus_pse"),
    "timm": GOLDEN / "families" / "timm_repvgg_se.pth",
    "mmpretrain": GOLDEN / "families" / "mmpretrain_repvgg.pth",
    "qarepvgg": GOLDEN / "families" / "qarepvgg.pth",
}


def fine_tuned(whole: Network, classes: int, keep_head: bool = False) -> tuple[RepVGG, Taken]:
    network = new_network(fine_tuned_spec(whole.spec, classes, keep_head), 3)
    return network, take_weights(network, whole.spec, whole.form, whole.state, keep_head)


def is_head(key: str) -> bool:
    return key.startswith("linear.") or "_aux." in key


@pytest.mark.parametrize("name", LAYOUTS)
def test_everything_but_the_heads_is_taken(name: str) -> None:
    whole = read_weights(LAYOUTS[name]).network
    network, taken = fine_tuned(whole, 3)
    state, new = network.state_dict(), new_network(network.spec, 3).state_dict()
    assert network.training
    assert network.spec.num_classes == 3
    assert sorted([*taken.taken, *taken.fresh]) == sorted(state)
    assert all(torch.equal(state[key], whole.state[key].float()) for key in taken.taken)
    assert all(torch.equal(state[key], new[key]) for key in taken.fresh)
    assert {key for key in taken.fresh if not key.endswith("num_batches_tracked")} >= {
        key for key in state if is_head(key) and not key.endswith("num_batches_tracked")
    }
    assert not any(is_head(key) for key in taken.taken)


@pytest.mark.parametrize("name", LAYOUTS)
def test_with_its_head_it_is_the_same_network(name: str) -> None:
    whole = read_weights(LAYOUTS[name]).network
    network, taken = fine_tuned(whole, whole.spec.num_classes, keep_head=True)
    x = torch.randn(2, whole.spec.in_channels, 32, 32)
    torch.testing.assert_close(network.eval()(x), whole.build()(x))
    assert {"linear.weight", "linear.bias"} <= set(taken.taken)


def test_lost_auxiliary_heads_are_new() -> None:
    spec = tiny_spec(family="repvggplus", se_ratio=4)
    state = {key: t for key, t in training_state(spec).items() if "_aux." not in key}
    bare = ArchSpec(spec.family, spec.blocks, spec.num_classes)
    assert fine_tuned_spec(bare, 5, keep_head=True).aux_stages == AUX_STAGES
    network = new_network(fine_tuned_spec(bare, 5, keep_head=True), 0)
    taken = take_weights(network, bare, "train", state, keep_head=True)
    assert set(taken.taken) == set(state)
    assert set(taken.fresh.values()) == {"not in the checkpoint"}
    assert {key.split(".")[0] for key in taken.fresh} == {f"{stage}_aux" for stage in AUX_STAGES}


def test_counters_that_a_checkpoint_lacks_start_anew() -> None:
    state = training_state()
    state = {key: t for key, t in state.items() if not key.endswith("num_batches_tracked")}
    network = new_network(tiny_spec(), 0)
    taken = take_weights(network, tiny_spec(), "train", state, keep_head=True)
    assert set(taken.taken) == set(state)
    assert all(key.endswith("num_batches_tracked") for key in taken.fresh)


def test_half_precision_weights_are_trained_in_single() -> None:
    state = {k: t.half() if t.is_floating_point() else t for k, t in training_state().items()}
    network = new_network(tiny_spec(), 0)
    take_weights(network, tiny_spec(), "train", state, keep_head=False)
    kernel = network.get_parameter("stage0.rbr_dense.conv.weight")
    assert kernel.dtype == torch.float32
    assert kernel.requires_grad
    assert torch.equal(kernel, state["stage0.rbr_dense.conv.weight"].float())


def test_the_checkpoint_is_not_trained_along() -> None:
    state = training_state()
    network = new_network(tiny_spec(), 0)
    take_weights(network, tiny_spec(), "train", state, keep_head=True)
    before = state["linear.bias"].clone()
    with torch.no_grad():
        network.linear.bias.add_(1)
    assert torch.equal(state["linear.bias"], before)


@pytest.mark.parametrize("block", ["repvgg", "qarepvgg"])
def test_a_seed_is_a_network(block: str) -> None:
    spec = tiny_spec(block=block)
    before = torch.get_rng_state()
    first, again, other = (new_network(spec, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    key = "stage0.rbr_dense.conv.weight"
    assert not torch.equal(first[key], other[key])
    assert first[key].dtype == torch.float32


REFUSED = {
    "in channels": (tiny_spec(in_channels=1), r"network of 1 input channels, not 3; train what"),
    "block": (tiny_spec(block="qarepvgg"), "holds qarepvgg blocks, not repvgg ones"),
    "depth": (tiny_spec(depths=(1, 1, 3, 1)), r"depths 1-1-3-1, .*, not custom \("),
    "family": (tiny_spec(family="repvggplus"), r"holds custom \(repvggplus"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_another_network_is_refused_by_what_differs(name: str) -> None:
    given, sentence = REFUSED[name]
    network = new_network(tiny_spec(num_classes=7), 0)
    with pytest.raises(UserError, match=sentence):
        take_weights(network, given, "train", training_state(given), keep_head=False)


def test_a_fused_checkpoint_is_refused() -> None:
    whole = read_weights(golden("official_deployed")).network
    with pytest.raises(UserError, match=r"needs the training form .* \(train --qat takes fused"):
        fine_tuned(whole, 3)


def test_a_head_of_other_classes_is_not_kept() -> None:
    with pytest.raises(UserError, match="its head has 5 classes and the data 3; leave out"):
        fine_tuned_spec(tiny_spec(), 3, keep_head=True)


@pytest.mark.parametrize(
    ("key", "tensor", "sentence"),
    [
        ("stage0.rbr_dense.conv.weight", None, "is missing"),
        ("stage0.rbr_dense.conv.weight", torch.ones(4, 3, 1, 1), "has shape"),
        ("stage0.extra", torch.ones(1), "'stage0.extra' belongs to no part"),
    ],
)
def test_every_tensor_is_accounted_for(key: str, tensor: Tensor | None, sentence: str) -> None:
    state = training_state()
    state.pop(key, None)
    if tensor is not None:
        state[key] = tensor
    network = new_network(tiny_spec(), 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(UserError, match=sentence):
        take_weights(network, tiny_spec(), "train", state, keep_head=True)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
