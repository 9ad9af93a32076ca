"""Training: what a step does, what a run leaves, what stops it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from repvgg_deploy.errors import CheckFailed, UserError
from repvgg_deploy.evaluation.tally import Tally
from repvgg_deploy.files import sha256_file
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.models.spec import AUX_STAGES
from repvgg_deploy.train.average import Average
from repvgg_deploy.train.batch import Batch
from repvgg_deploy.train.objective import Supervised, mix_neighbours, mixing_share
from repvgg_deploy.train.observer import Silent
from repvgg_deploy.train.optimizer import parameter_groups
from repvgg_deploy.train.processes import Launch, start
from repvgg_deploy.train.record import Epoch
from repvgg_deploy.train.schedule import learning_rate
from repvgg_deploy.train.validation import validate

from .conftest import Cli
from .helpers import tiny_spec
from .training import CLASSES, RECIPE, TinyBatches, processes, train


def test_warm_up_and_cosine() -> None:
    recipe = replace(RECIPE, epochs=10, lr=0.4, warmup_epochs=2)
    rates = [learning_rate(step, 5, recipe) for step in range(50)]
    assert rates[:11] == pytest.approx([0.4 * k / 11 for k in range(1, 12)])
    assert rates[30] == pytest.approx(0.2)  # the middle of the cosine
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001
    assert learning_rate(0, 5, replace(recipe, warmup_epochs=0)) == 0.4


def test_what_decays() -> None:
    network = RepVGG(tiny_spec(se_ratio=4), "train")
    names = {id(p): name for name, p in network.named_parameters()}
    exempt = [network.get_parameter("stage0.rbr_1x1.conv.weight")]
    decayed, others = parameter_groups(network, 1e-4, exempt)
    assert (decayed["weight_decay"], others["weight_decay"]) == (1e-4, 0)
    found = {names[id(p)] for p in decayed["params"]}
    left = {names[id(p)] for p in others["params"]}
    assert found | left == set(names.values())
    assert not found & left
    kernels = ("conv.weight", "linear.weight", "down.weight", "up.weight")
    expected = {name for name in names.values() if name.endswith(kernels)}
    assert found == expected - {"stage0.rbr_1x1.conv.weight"}


def test_the_average_follows() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    average = Average(network, 0.5)
    weights, expected = network[0].weight, None
    for n in range(8):
        with torch.no_grad():
            weights.add_(n + 1)
        network(torch.randn(4, 1, 3, 3))
        average.update(network)
        decay = min(0.5, (1 + n) / (10 + n))
        blend = None if expected is None else decay * expected + (1 - decay) * weights.detach()
        expected = weights.detach().clone() if blend is None else blend
        torch.testing.assert_close(average.network[0].weight, expected)
    statistics = average.network[1]
    assert statistics.num_batches_tracked == 8
    assert not torch.equal(statistics.running_mean, network[1].running_mean)
    assert statistics.running_mean.abs().sum() > 0


def soft(labels: Tensor, smoothing: float) -> Tensor:
    return functional.one_hot(labels, CLASSES) * (1 - smoothing) + smoothing / CLASSES


def test_mixup_smoothing_and_penalty() -> None:
    """The cross entropy against mixed, smoothed labels, written out."""
    recipe = replace(RECIPE, mixup=0.3, label_smoothing=0.1)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES))
    images, labels = torch.randn(4, 3, 2, 2), torch.tensor([0, 3, 1, 1])
    share = mixing_share(recipe, 7)
    partner = torch.tensor([1, 0, 3, 2])
    mixed = share * images + (1 - share) * images[partner]
    target = share * soft(labels, 0.1) + (1 - share) * soft(labels[partner], 0.1)
    expected = -(target * network(mixed).log_softmax(1)).sum(1).mean() + 5
    found = Supervised(recipe, lambda: torch.tensor(5.0))(network, Batch(images, labels), 7)
    torch.testing.assert_close(found, expected)


def test_mixup_draws_from_seed_and_step_alone() -> None:
    recipe = replace(RECIPE, mixup=0.3)
    shares = [mixing_share(recipe, step) for step in range(200)]
    assert shares == [mixing_share(recipe, step) for step in range(200)]
    assert len(set(shares)) == 200
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)
    assert mixing_share(replace(recipe, seed=1), 3) != shares[3]
    images = torch.arange(8.0).reshape(4, 2)
    halves = [mix_neighbours(part, 0.25) for part in images.split(2)]
    assert torch.equal(torch.cat(halves), mix_neighbours(images, 0.25))


def test_auxiliary_heads_count_less() -> None:
    heads = {name: torch.randn(4, CLASSES) for name in ("main", "stage1_aux", "stage2_aux")}
    labels = torch.tensor([0, 3, 1, 1])

    class Heads(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return heads

    one = {name: functional.cross_entropy(logits, labels) for name, logits in heads.items()}
    expected = one["main"] + 0.2 * (one["stage1_aux"] + one["stage2_aux"])
    found = Supervised(replace(RECIPE, aux_weight=0.2))(Heads(), Batch(labels, labels), 0)
    torch.testing.assert_close(found, expected)


def test_validation_counts_as_evaluate_does() -> None:
    torch.manual_seed(0)
    logits = torch.randint(0, 4, (30, 7)).float()  # with many ties
    logits[3, 2], logits[11, 0] = torch.nan, torch.inf
    labels = torch.arange(30) % 7
    tally = Tally(7, labelled=True, with_confusion=False)
    tally.add(logits.double().numpy(), logits.double().numpy(), labels.numpy())
    batches = [Batch(*both) for both in zip(logits.split(8), labels.split(8), strict=True)]
    found = validate(nn.Identity(), batches, 7, processes(), lambda: None)
    assert found.top1 == pytest.approx(100 * tally.top1 / 30)
    assert found.top5 == pytest.approx(100 * tally.top5 / 30)
    finite = [Batch(torch.eye(3)[:2], torch.tensor([0, 2]))]
    few = validate(nn.Identity(), finite, 3, processes(), lambda: None)
    expected = functional.cross_entropy(finite[0].images, torch.tensor([0, 2]))
    assert few.loss == pytest.approx(float(expected))
    assert (few.top1, few.top5) == (50, None)


class Heard(Silent):
    """What an observer is told, in order."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.epochs: list[Epoch] = []

    def started(self, step: int, steps: int) -> None:
        self.said.append(("started", step, steps))

    def step(self, step: int, loss: float | None, images_per_second: float | None) -> None:
        assert loss is not None
        assert images_per_second is not None
        assert images_per_second > 0
        self.said.append(step)

    def epoch(self, epoch: Epoch) -> None:
        self.said.append(f"epoch {epoch.epoch}")
        self.epochs.append(epoch)

    def saved(self, path: Path, step: int) -> None:
        self.said.append(f"saved {path.name} {step}")


def test_a_run(cli: Cli, tmp_path: Path) -> None:
    """It learns, says so, and what it leaves goes straight into fuse."""
    recipe = replace(RECIPE, epochs=12, ema=0.8)
    heard, folder = Heard(), tmp_path / "run"
    done = train(folder, recipe, observer=heard)
    assert heard.said[:7] == [
        ("started", 0, 36), 1, 2, 3, "saved last.pth 3", "epoch 1", 4,
    ]  # fmt: skip
    assert heard.epochs == done.epochs
    assert [epoch.step for epoch in done.epochs] == [3 * n for n in range(1, 13)]
    assert done.epochs[-1].loss < 0.75 * done.epochs[0].loss
    last, best = (torch.load(folder / name, weights_only=True) for name in ("last.pth", "best.pth"))
    tops = [epoch.ema_top1 for epoch in done.epochs]
    assert best["top1"] == max(tops) == done.best.ema_top1
    assert best["epoch"] == tops.index(max(tops)) + 1
    assert (last["step"], last["epoch"]) == (36, 12)
    rows = (folder / "steps.csv").read_text().splitlines()
    losses = [float(row.split(",")[3]) for row in rows[1:4]]
    assert done.epochs[0].loss == pytest.approx(np.mean(losses))
    record = json.loads((folder / "train.json").read_text())
    assert [epoch["loss"] for epoch in record["epochs"]] == [e.loss for e in done.epochs]
    assert record["checkpoints"]["best.pth"] == sha256_file(folder / "best.pth")
    fused = cli("fuse", folder / "last.pth", "--name", "last")
    assert fused.code == 0
    assert "moving average" in fused.err
    assert cli("fuse", folder / "best.pth", "--name", "best").code == 0


def test_without_validation_nothing_is_best(tmp_path: Path) -> None:
    done = train(tmp_path, RECIPE, validation=None)
    assert (done.best, done.best_path) == (None, None)
    assert not (tmp_path / "best.pth").exists()
    assert [(e.val_loss, e.val_top1) for e in done.epochs] == [(None, None)] * 3


def test_another_key_for_what_fuse_is_not_to_read(cli: Cli, tmp_path: Path) -> None:
    train(tmp_path / "run", replace(RECIPE, ema=0.9), state_key="qat_state")
    content = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    assert {"qat_state", "qat_state_ema"} < set(content)
    refused = cli("fuse", tmp_path / "run" / "last.pth")
    assert refused.code == 1
    assert "no state dict found" in refused.err


def weights(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(folder / "last.pth", weights_only=True)["state_dict"]
    return state


PLUS = tiny_spec(family="repvggplus", depths=(1, 1, 2, 1), se_ratio=4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("aux", [False, True])
def test_recomputation_changes_nothing(tmp_path: Path, precision: Any, aux: bool) -> None:
    """Weights, running statistics and counters bit for bit."""
    spec = replace(PLUS, aux_stages=AUX_STAGES[:2]) if aux else tiny_spec()
    recipe = replace(RECIPE, precision=precision, epochs=2)
    train(tmp_path / "a", recipe, spec=spec)
    train(tmp_path / "b", replace(recipe, recompute=True), spec=spec)
    kept, again = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(kept[key], again[key]) for key in kept)
    assert kept["stage0.rbr_dense.bn.num_batches_tracked"] == 6


def test_recomputation_keeps_less() -> None:
    """Of what a block computes inside, nothing waits for the backward pass."""
    network = RepVGG(tiny_spec(), "train")
    kept: list[int] = []
    for network.recompute in (False, True):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x
        ):
            network(torch.randn(2, 3, 32, 32))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


def test_channels_last_is_a_layout(tmp_path: Path) -> None:
    train(tmp_path / "a", RECIPE)
    train(tmp_path / "b", replace(RECIPE, channels_last=True))
    plain, last = weights(tmp_path / "a"), weights(tmp_path / "b")
    kernel = last["stage1.0.rbr_dense.conv.weight"]
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    for key, value in plain.items():
        torch.testing.assert_close(last[key], value, rtol=1e-3, atol=1e-4)


@dataclass
class Diverging:
    """A loss that is ``bad`` at a step (from 0)."""

    at: int
    bad: float

    def __call__(self, network: nn.Module, batch: Batch, step: int) -> Tensor:
        logits = network(batch.images)
        loss = functional.cross_entropy(logits, batch.labels)
        return loss * self.bad if step == self.at else loss


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite(tmp_path: Path, bad: float) -> None:
    """In the second epoch: the checkpoint after the first stands, and training can go on there."""
    with pytest.raises(CheckFailed, match=r"the loss of step 5 is (nan|inf)") as error:
        train(tmp_path, RECIPE, objective=Diverging(4, bad))
    assert f"{tmp_path}/last.pth holds the run after step 3" in str(error.value)
    assert torch.load(tmp_path / "last.pth", weights_only=True)["step"] == 3
    record = json.loads((tmp_path / "train.json").read_text())
    assert "the loss of step 5" in record["stopped"]
    assert record["checkpoints"]["last.pth"] == sha256_file(tmp_path / "last.pth")
    assert len(train(tmp_path, RECIPE, resume=True).epochs) == 3


def test_a_loss_that_is_not_finite_at_first(tmp_path: Path) -> None:
    """There is nothing to keep, and the folder is free for another try."""
    with pytest.raises(CheckFailed, match=r"step 1 is nan.*no checkpoint was saved before"):
        train(tmp_path, RECIPE, objective=Diverging(0, math.nan))
    assert not (tmp_path / "last.pth").exists()
    assert len(train(tmp_path, RECIPE).epochs) == 3


def test_a_finite_loss_with_a_gradient_that_is_not(tmp_path: Path) -> None:
    """At the last step of an epoch; the weights after it are not saved."""

    def objective(network: nn.Module, batch: Batch, step: int) -> Tensor:
        logits = network(batch.images)
        loss = functional.cross_entropy(logits, batch.labels)
        return loss + (logits.sum() * 0).sqrt() if step == 5 else loss

    with pytest.raises(CheckFailed, match="is not finite after step 6"):
        train(tmp_path, RECIPE, objective=objective)
    assert all(value.isfinite().all() for value in weights(tmp_path).values())
    assert torch.load(tmp_path / "last.pth", weights_only=True)["step"] == 3


def test_bf16_over_a_single_pixel(tmp_path: Path) -> None:
    class Small(TinyBatches):
        def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
            for batch in super().epoch(epoch, first):
                yield Batch(batch.images[:, :, :16, :16], batch.labels)

    recipe = replace(RECIPE, precision="bf16")
    with pytest.raises(UserError, match="wrong gradients where a 3x3 convolution sees a single"):
        train(tmp_path, recipe, batches=Small(recipe))


def test_a_batch_of_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--batch 1 leaves batch norm nothing.*choose 2"):
        train(tmp_path, replace(RECIPE, batch=1))


def test_a_warm_up_that_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a warm-up of 3 epochs leaves none of 3"):
        train(tmp_path, replace(RECIPE, warmup_epochs=3))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu() -> None:
    with pytest.raises(UserError, match="torch finds no CUDA device here"):
        start(Launch("cuda"), "fp32")


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lightning_fabric", None)
    with pytest.raises(UserError, match=r"repvgg-deploy\[train\]"):
        start(Launch("cpu"), "fp32")
