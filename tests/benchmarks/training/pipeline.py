"""One network's whole life, by the commands that users have."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: RepVGG-A0's depth in slim widths, on images of 28 px with a black border of 2.
SLIM_WIDTHS = (16, 16, 32, 64, 256)
ARCHITECTURE = ["--arch", "RepVGG-A0", "--widths", ",".join(map(str, SLIM_WIDTHS))]
TRAINING = ["--batch", "128", "--weight-decay", "5e-4", "--label-smoothing", "0.1"]
IMAGES = ["--preprocess", "fashion-mnist-32"]


@dataclass(frozen=True)
class Settings:
    data: Path
    out: Path
    epochs: int
    qat_epochs: int


@dataclass
class Life:
    """A network of one kind of block and one seed; ``commands`` are those that ran, in order."""

    settings: Settings
    block: str
    seed: int
    commands: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.block}-{self.seed}"

    @property
    def run(self) -> Path:
        return self.settings.out / self.name

    @property
    def checkpoint(self) -> Path:
        """The last one: the best would be chosen on the images that it is measured on."""
        return self.run / "last.pth"

    @property
    def engines(self) -> Path:
        return self.settings.out / "engines"

    @property
    def folder(self) -> Path:
        return self.engines / self.name

    def train(self) -> None:
        """From scratch, or on from where it was interrupted."""
        train = [*self._data(), "--epochs", str(self.settings.epochs), *TRAINING]
        place = ["--block", self.block, "--seed", str(self.seed), "--out", str(self.run)]
        resume = ["--resume"] if self.checkpoint.exists() else []
        self._call("train", *ARCHITECTURE, *place, *train, *IMAGES, *resume)

    def live(self) -> dict[str, Any]:
        """All of it; what each network got right of the test images, and how often it agrees."""
        self.train()
        here = ["--engines", str(self.engines)]
        self._call("fuse", str(self.checkpoint), "--name", self.name, *here)
        self._call("export", "--onnx", "--model", self.name, *here)
        found = {"fused": self._evaluate("fused.safetensors", "fp32.onnx")}
        calibration = ["--calib", str(self.settings.data), "--split", "train", *IMAGES]
        for method in ("minmax", "thorough"):
            self._call("quantize", *calibration, "--method", method, "--model", self.name, *here)
            found[method] = self._evaluate("int8.onnx")
        for name, options in (("qat", []), ("qat, distilled", ["--distill"])):
            place = ["--out", str(self.run.with_name(f"{self.name}-{name.replace(', ', '-')}"))]
            start = ["--qat", "--init", str(self.checkpoint), "--name", self.name, *here]
            epochs = ["--epochs", str(self.settings.qat_epochs), "--batch", "128"]
            seed = ["--seed", str(self.seed)]
            self._call("train", *start, *self._data(), *epochs, *seed, *place, *options, *IMAGES)
            found[name] = self._evaluate("int8.onnx")
        return {"block": self.block, "seed": self.seed, "commands": self.commands, **found}

    def _data(self) -> list[str]:
        return ["--data", str(self.settings.data)]

    def _evaluate(self, *files: str) -> dict[str, Any]:
        """Beside the checkpoint as it was trained, on all test images."""
        paths = [str(self.checkpoint), *(str(self.folder / name) for name in files)]
        options = [*self._data(), "--split", "test", *IMAGES, "--json"]
        networks = json.loads(self._call("evaluate", *paths, *options))["networks"]
        return {one["name"]: one["scores"] for one in networks}

    def _call(self, *arguments: str) -> str:
        print("repvgg-deploy", *arguments, flush=True)
        self.commands.append(" ".join(["repvgg-deploy", *arguments]))
        done = subprocess.run(
            [sys.executable, "-m", "repvgg_deploy", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout
