"""Training records out of made-up epochs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from repvgg_deploy.files import sha256_file
from repvgg_deploy.train.recipe import Recipe
from repvgg_deploy.train.record import Data, Epoch, Initial, TrainRecord

from .helpers import tiny_spec


def epoch(number: int, **changes: Any) -> Epoch:
    """Of a run that gets better and better; without a moving average in the first epoch."""
    average = 60.0 + 4 * number if number > 1 else None
    values: dict[str, Any] = {
        "epoch": number, "step": 50 * number, "lr": 0.1 / number, "loss": 2.0 / number,
        "val_loss": 1.9 / number, "val_top1": 60.0 + 3 * number, "val_top5": 95.0,
        "ema_loss": None if average is None else 1.8 / number, "ema_top1": average,
        "ema_top5": None if average is None else 96.0, "seconds": 12.5, "images_per_second": 1024.0,
    }  # fmt: skip
    return Epoch(**{**values, **changes})


def training_record(checkpoint: Path, **changes: Any) -> TrainRecord:
    """Of the run whose best.pth is ``checkpoint``."""
    data = Data(
        path="/data/clothes", sha256="a" * 64, images=12_800, val_path="/data/clothes",
        val_sha256="b" * 64, val_images=1000, num_classes=5, classes=None,
        corrupt=["shirts/half.jpg"], preprocessing={"resize": [32, 32], "channels": 3},
        augmentation={"flip": True, "crop": "shift", "randaugment": None},
    )  # fmt: skip
    spec = json.loads(json.dumps(tiny_spec().to_dict()))
    initial = Initial("start.pth", "c" * 64, "RepVGG", ["stage0.rbr_dense.conv.weight"], {})
    values: dict[str, Any] = {
        "kind": "train", "command": "repvgg-deploy train --arch RepVGG-A0 --data '/data/clothes'",
        "tool": "repvgg-deploy 0.1.0", "created": "2026-01-01T00:00:00+00:00",
        "architecture": "RepVGG, 5 classes", "spec": spec, "recipe": Recipe(epochs=6).to_dict(),
        "data": data, "initial": initial, "processes": 2, "environment": {"torch": "2.13"},
        "epochs": [epoch(number) for number in range(1, 7)], "stopped": "",
        "checkpoints": {"last.pth": "d" * 64, "best.pth": sha256_file(checkpoint)},
    }  # fmt: skip
    return TrainRecord(**{**values, **changes})
