"""``python -m tests.benchmarks.training --data DIR --out DIR``: writes docs/results/training.json.

DIR holds the IDX files of Fashion-MNIST (Debian: dataset-fashion-mnist). Every network goes through
the commands that users have, and is measured on all 10,000 test images; three seeds of each kind of
block. About an hour on two cores; what is done already is not done again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from repvgg_deploy.bench.environment import environment
from repvgg_deploy.data.image_set import open_images
from repvgg_deploy.data.preprocessing import PRESETS
from repvgg_deploy.sidecar import write_json

from .faults import faulty_procedures
from .pipeline import Life, Settings

RESULTS = Path("docs/results/training.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of runs and engines")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--qat-epochs", type=int, default=1)
    parser.add_argument("--blocks", nargs="+", default=["repvgg", "qarepvgg"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    settings = Settings(given.data, given.out, given.epochs, given.qat_epochs)
    lives = [_lived(Life(settings, block, seed)) for seed in given.seeds for block in given.blocks]
    test = open_images(given.data, PRESETS["fashion-mnist-32"], split="test")
    checkpoints = {life["block"]: life["checkpoint"] for life in reversed(lives)}
    record = {
        "command": f"python -m tests.benchmarks.training {' '.join(sys.argv[1:])}",
        "environment": environment(torch.get_num_threads()),
        "summary": _summary(lives),
        "procedures": {
            block: faulty_procedures(Path(path), test) for block, path in checkpoints.items()
        },
        "networks": lives,
    }
    write_json(given.results, record)
    print(json.dumps({key: record[key] for key in ("summary", "procedures")}, indent=1))


def _lived(life: Life) -> dict[str, Any]:
    """Lived now, or before."""
    kept = life.settings.out / f"{life.name}.json"
    if not kept.exists():
        write_json(kept, {"checkpoint": str(life.checkpoint), **life.live()})
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def _summary(lives: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each kind of block, over its seeds."""
    blocks = dict.fromkeys(life["block"] for life in lives)
    return {block: _of_block([one for one in lives if one["block"] == block]) for block in blocks}


def _of_block(lives: list[dict[str, Any]]) -> dict[str, Any]:
    steps = [name for name in lives[0] if isinstance(lives[0][name], dict)]
    rows: dict[str, Any] = {}
    for step in steps:
        for file in lives[0][step]:
            name = {"int8.onnx": f"int8, {step}", "last.pth": step}.get(file, file)
            rows[name] = {
                figure: _spread([_figure(life[step][file], figure) for life in lives])
                for figure in ("top1", "agreement", "sqnr_db")
            }
    return rows


def _figure(scores: dict[str, Any], name: str) -> float | None:
    value = scores[name]
    return value["value"] if isinstance(value, dict) else value


def _spread(values: list[float | None]) -> dict[str, float] | None:
    """Mean, and the smallest and largest of the seeds."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    return {"mean": statistics.mean(numbers), "least": min(numbers), "most": max(numbers)}


if __name__ == "__main__":
    main()
