"""Training on a GPU: mixed precision, its loss scale, resuming."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from repvgg_deploy.train.interruption import Stopped
from repvgg_deploy.train.loop import Finished, run_training
from repvgg_deploy.train.observer import Silent
from repvgg_deploy.train.processes import Launch, start
from repvgg_deploy.train.recipe import Recipe
from repvgg_deploy.train.run_folder import RunFolder

from ..training import RECIPE, make_task

FULL = replace(RECIPE, epochs=12, mixup=0.2, ema=0.9, channels_last=True)
PRECISIONS = ("fp32", "bf16", "fp16")


class StopAt(Silent):
    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, step: int, loss: float | None, images_per_second: float | None) -> None:
        if step == self.at:
            signal.raise_signal(signal.SIGINT)


def train(folder: Path, recipe: Recipe, stop: int = 0, resume: bool = False) -> Finished:
    among = start(Launch("cuda"), recipe.precision)
    task = make_task(recipe, among=among)
    return run_training(task, recipe, RunFolder(folder), among, StopAt(stop), resume)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_learns(tmp_path: Path, precision: Any) -> None:
    done = train(tmp_path, replace(FULL, precision=precision))
    assert done.epochs[-1].loss < 0.85 * done.epochs[0].loss
    content = torch.load(tmp_path / "last.pth", weights_only=True)
    assert ("scaler" in content) == (precision == "fp16")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_resumed(tmp_path: Path, precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    recipe = replace(FULL, precision=precision, epochs=4)
    train(tmp_path / "whole", recipe)
    with pytest.raises(Stopped):
        train(tmp_path / "run", recipe, stop=7)
    train(tmp_path / "run", recipe, resume=True)
    whole, run = (
        torch.load(tmp_path / name / "last.pth", weights_only=True) for name in ("whole", "run")
    )
    assert run.get("scaler") == whole.get("scaler")
    for key, value in whole["state_dict"].items():
        torch.testing.assert_close(run["state_dict"][key], value, rtol=1e-3, atol=1e-4)


def test_recomputation_changes_little(tmp_path: Path) -> None:
    recipe = replace(FULL, precision="bf16", epochs=2)
    plain = train(tmp_path / "a", recipe)
    again = train(tmp_path / "b", replace(recipe, recompute=True))
    losses = [epoch.loss for epoch in plain.epochs]
    assert [epoch.loss for epoch in again.epochs] == pytest.approx(losses, rel=1e-2)
