"""Ranges of RepVGG-A0 at 224 px: time and peak memory, beside ONNX Runtime's collectors.

    python -m tests.benchmarks.int8.calibration [--images 512] [--rounds 3] [--memory 64 2048]

Writes docs/results/calibration.json. Each calibration is a process of its own; times are taken in
turn, without the start of Python and the imports, and every round is kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..process import in_turn, run
from .calibrators import STRIDE

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "results" / "calibration.json"

OURS, PER_CHANNEL = "ours", "ours, per channel"
MINMAX, PERCENTILE = "ONNX Runtime MinMax", "ONNX Runtime Percentile"
AT_ONCE = "ONNX Runtime Percentile, at once"
#: Percentile in one go keeps some 17 MB an image; so far it is asked to go, and no further.
MOST_AT_ONCE = 256


def write_model(path: Path) -> None:
    """RepVGG-A0 fused, weights as initialised, made-up batch norm statistics.

    In a process of its own: a child's peak memory starts at its parent's size, so this one has to
    stay small.
    """
    code = (
        "import sys, onnx; from repvgg_deploy.export.graph import to_onnx; "
        "from repvgg_deploy.models.build import build; from repvgg_deploy.models.zoo import ZOO; "
        "from repvgg_deploy.reparam.find import find_blocks; "
        "from repvgg_deploy.reparam.state_dict import fuse_in_place; "
        "from tests.helpers import training_state; "
        "spec = ZOO['RepVGG-A0'].spec(); state = training_state(spec); "
        "fuse_in_place(state, find_blocks(state).blocks); "
        "onnx.save(to_onnx(build(state, spec, 'deploy'), (224, 224)), sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=ROOT)


def command(name: str, model: Path, images: int, times: Path) -> list[str]:
    worker = [sys.executable, "-m", "tests.benchmarks.int8.calibrators"]
    return [*worker, name, str(model), str(images), str(times)]


def measure_times(model: Path, images: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round."""
    times = {
        name: model.with_name(f"{name}.times") for name in (OURS, PER_CHANNEL, MINMAX, PERCENTILE)
    }
    commands = {name: command(name, model, images, file) for name, file in times.items()}
    in_turn(commands, ROOT, rounds)
    return {
        name: [float(line) for line in file.read_text().split()] for name, file in times.items()
    }


def measure_memory(model: Path, sizes: list[int]) -> dict[str, dict[int, float]]:
    """Peak megabytes by number of images."""
    times, peaks = model.with_name("unused.times"), {}
    for name in (OURS, PER_CHANNEL, MINMAX, PERCENTILE, AT_ONCE):
        few = sizes if name != AT_ONCE else sorted({min(n, MOST_AT_ONCE) for n in sizes})
        peaks[name] = {n: run(command(name, model, n, times), ROOT).peak_mb for n in few}
    return peaks


def show(seconds: dict[str, list[float]], peaks: dict[str, dict[int, float]], images: int) -> None:
    print(f"\nRanges, RepVGG-A0, 224 px, {images} images (Percentile: {STRIDE} at a time)")
    for name, rounds in seconds.items():
        each = " ".join(f"{value:.1f}" for value in rounds)
        print(f"  {name:34} {statistics.median(rounds):7.2f} s   rounds: {each} s")
    print("\nPeak memory")
    for name, by_images in peaks.items():
        each = ", ".join(f"{n} images {peak:.0f} MB" for n, peak in by_images.items())
        print(f"  {name:34} {each}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="+", default=[64, 2048])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "a0.onnx"
        write_model(model)
        seconds = measure_times(model, options.images, options.rounds)
        peaks = measure_memory(model, options.memory)
    show(seconds, peaks, options.images)
    middle = {name: statistics.median(rounds) for name, rounds in seconds.items()}
    few, many = min(peaks[OURS]), max(peaks[OURS])
    targets = [
        target("ours / MinMax, time", middle[OURS] / middle[MINMAX], 1),
        target("ours / Percentile, time", middle[OURS] / middle[PERCENTILE], 0.5),
        target(f"ours, peak at {many} / {few} images", peaks[OURS][many] / peaks[OURS][few], 1.05),
    ]
    write(options.out, options.images, targets, seconds, peaks)


def target(what: str, value: float, limit: float) -> dict[str, Any]:
    print(f"  {'met ' if value <= limit else 'MISSED'} {what}: {value:.2f} (at most {limit})")
    return {"what": what, "value": value, "limit": limit}


def write(path: Path, images: int, targets: list[dict[str, Any]], *measured: Any) -> None:
    """Torch is loaded only now, when no child has its memory measured any more."""
    import os

    from repvgg_deploy.bench.environment import environment

    seconds, peaks = measured
    result = {
        "command": "python -m tests.benchmarks.int8.calibration",
        "environment": environment(os.cpu_count() or 1),
        "model": "RepVGG-A0 fused, 224 px",
        "images": images,
        "targets": targets,
        "seconds": seconds,
        "peak_mb": peaks,
    }
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
