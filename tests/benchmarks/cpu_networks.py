"""Fused and unfused RepVGG beside ResNets on the CPU, by our own commands.

    python -m tests.benchmarks.cpu_networks [--network RepVGG-A0 ...] [--duration 40]

For each network: a training checkpoint with weights as initialised and made-up batch norm
statistics, then fuse, export --onnx and bench on images of 224 px. Writes the record that bench
leaves to docs/results/bench-cpu/, one file a network. It needs an idle machine: what bench doubts
stands in the record.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from repvgg_deploy.models.zoo import ZOO

from ..helpers import training_state

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "bench-cpu"
TOOL = [sys.executable, "-m", "repvgg_deploy"]


def measure(network: str, duration: float, batches: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = f"{network}.pth"
        torch.save(training_state(ZOO[network].spec()), folder / checkpoint)
        bench = ["bench", "--batch", batches, "--duration", str(duration)]
        references = ["--reference", "resnet18", "--reference", "resnet50"]
        for arguments in (["fuse", checkpoint], ["export", "--onnx"], [*bench, *references]):
            subprocess.run([*TOOL, *arguments], cwd=folder, check=True)
        RESULTS.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "engines" / network / "bench.json", RESULTS / f"{network}.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    networks = ["RepVGG-A0", "RepVGG-B0", "RepVGG-B1g4"]
    parser.add_argument("--network", nargs="+", choices=ZOO, default=networks)
    parser.add_argument("--duration", type=float, default=40, help="seconds a contest")
    parser.add_argument("--batch", default="1,8")
    options = parser.parse_args()
    for network in options.network:
        measure(network, options.duration, options.batch)


if __name__ == "__main__":
    main()
