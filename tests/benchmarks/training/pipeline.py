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
#: Ways to train for int8, an epoch each.
QAT = {
    "qat": [],
    "qat, batch norms": ["--reinsert-bn", "--lr", "0.005"],
    "qat, distilled": ["--distill"],
}


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
        self._call("export", "--onnx", "--size", "32", "--model", self.name, *here)
        found = {"fused": self._evaluate("fused.safetensors", "fp32.onnx")}
        calibration = ["--calib", str(self.settings.data), "--split", "train", *IMAGES]
        for method in ("minmax", "thorough"):
            self._call("quantize", *calibration, "--method", method, "--model", self.name, *here)
            found[method] = self._evaluate("int8.onnx")
        found["fp32, more training"] = self._more("fp32", ["--keep-head", "--lr", "0.001"])
        for name, options in QAT.items():
            place = ["--qat", "--name", self.name, *here]
            self._more(name, [*place, *options])
            found[name] = self._evaluate("int8.onnx")
        return {"block": self.block, "seed": self.seed, "commands": self.commands, **found}

    def _more(self, name: str, options: list[str]) -> dict[str, Any]:
        """Trained on from the checkpoint; what the last weights get right."""
        run = self.run.with_name(f"{self.name}-{name.replace(', ', '-').replace(' ', '-')}")
        epochs = ["--epochs", str(self.settings.qat_epochs), "--batch", "128"]
        start = ["--init", str(self.checkpoint), *self._data(), *epochs, "--out", str(run)]
        self._call("train", *start, "--seed", str(self.seed), *IMAGES, *options)
        return {} if "--qat" in options else self._evaluate(str(run / "last.pth"))

    def _data(self) -> list[str]:
        return ["--data", str(self.settings.data)]

    def _evaluate(self, *files: str) -> dict[str, Any]:
        """Of the checkpoint as it was trained, and of files in the workspace or elsewhere, on all
        test images."""
        paths = [str(self.checkpoint), *(str(self.folder / name) for name in files)]
        options = [*self._data(), "--split", "test", *IMAGES, "--json"]
        networks = json.loads(self._call("evaluate", *paths, *options))["networks"]
        scores = [one["scores"] for one in networks]
        names = ["trained", *(Path(name).name for name in files)]
        return dict(zip(names, scores, strict=True))

    def _call(self, *arguments: str) -> str:
        print("repvgg-deploy", *arguments, flush=True)
        asked = [word for word in arguments if word != "--resume"]  # which changes no result
        self.commands.append(" ".join(["repvgg-deploy", *asked]))
        done = subprocess.run(
            [sys.executable, "-m", "repvgg_deploy", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout
