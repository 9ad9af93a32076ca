"""int8 side by side: public tools and ours, on the same networks, images and evaluation.

    python -m tests.benchmarks.int8 --data /usr/share/datasets/fashion-mnist --checkpoints DIR

Every method quantizes the same fp32 models with the same 512 training images and the options that
the record shows; then all are judged once on the 10,000 test images. Nothing is tuned on those.
Writes docs/results/int8.json: a run replaces the networks that it ran, each as a whole. ModelOpt
goes into a venv of its own, for it asks for older versions of our packages:

    python -m venv modelopt-venv && modelopt-venv/bin/pip install "nvidia-modelopt[onnx]==0.47.0"
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from repvgg_deploy.bench.environment import environment
from repvgg_deploy.files import sha256_file

from . import images, networks, table
from .method import Images, Method, NotHere
from .ours import our_methods
from .public import modelopt_versions, public_methods
from .score import Logits, Score, logits, score, top1

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "results" / "int8.json"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the IDX .gz files")
    parser.add_argument(
        "--checkpoints", type=Path, required=True, help="folder of <network>.pth; trained if absent"
    )
    parser.add_argument("--network", nargs="+", choices=networks.EPOCHS, default=["a0"])
    parser.add_argument("--methods", nargs="+", help="only rows whose name holds one of these")
    parser.add_argument("--sigmas", nargs="*", type=int, default=networks.SIGMAS)
    parser.add_argument("--modelopt-python", type=Path, default=Path("modelopt-venv/bin/python"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def chosen(args: argparse.Namespace) -> list[Method]:
    methods = [*public_methods(args.modelopt_python), *our_methods()]
    wanted = args.methods or [""]
    return [method for method in methods if any(part in method.name for part in wanted)]


@dataclass(frozen=True)
class Test:
    """The test images, their labels, and what each variant's fp32 model says of them."""

    images: Images
    labels: NDArray[np.int64]
    fp32: dict[str, Logits]


def run_method(
    method: Method, models: dict[str, onnx.ModelProto], calibration: Images, test: Test
) -> dict[str, Score]:
    """Quantize every variant and judge what came out."""
    scores = {}
    for variant, model in models.items():
        start = time.perf_counter()
        int8 = method.quantize(model, calibration)
        seconds = time.perf_counter() - start
        reference = test.fp32[variant]
        scores[variant] = score(model, int8, test.images, test.labels, reference, seconds)
    return scores


def run_network(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Every method on every variant of a network: printed, and JSON-ready."""
    path = networks.checkpoint(args.checkpoints, name, args.data)
    models = networks.variants(path, args.sigmas)
    calibration = images.calibration_images(args.data)
    inputs, labels = images.test_images(args.data)
    test = Test(inputs, labels, {key: logits(model, inputs) for key, model in models.items()})
    fp32 = {variant: top1(found, test.labels) for variant, found in test.fp32.items()}
    low, high = min(fp32.values()), max(fp32.values())
    print(f"\n{name}: fp32 top-1 {fp32['original']:.2f} %, with the twins {low:.2f} to {high:.2f}")

    methods = chosen(args)
    rows: dict[str, dict[str, Any]] = {}
    each = []
    width = max(len(method.name) for method in methods)
    print(table.heading(width), flush=True)
    for method in methods:
        rows[method.name] = {"options": {key: str(value) for key, value in method.options.items()}}
        try:
            scores = run_method(method, models, calibration, test)
        except NotHere as reason:
            rows[method.name]["skipped"] = str(reason)
            print(f"{method.name:{width}} | skipped: {reason}")
            continue
        summary = table.summarise(scores)
        by_variant = {variant: asdict(one) for variant, one in scores.items()}
        rows[method.name] |= {"summary": asdict(summary), "scores": by_variant}
        print(table.row(method.name, summary, width), flush=True)
        each.append(table.each_top1(method.name, scores, width))
    print("\n".join([f"\ntop-1 on {'; '.join(models)}:", *each]))
    return {"checkpoint_sha256": sha256_file(path), "fp32_top1": fp32, "methods": rows}


def main() -> None:
    args = arguments()
    record = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name in args.network:
        record[name] = {
            "command": f"python -m tests.benchmarks.int8 {' '.join(sys.argv[1:])}",
            "environment": environment(os.cpu_count() or 1),
            "modelopt_venv": modelopt_versions(args.modelopt_python),
            "calibration": f"{images.CALIBRATION_IMAGES} training images of Fashion-MNIST, "
            f"numpy's default_rng({images.CALIBRATION_SEED}).permutation(60000)",
            **run_network(name, args),
        }
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
