"""Which engines build here: every precision for every target, with sizes and times.

``python -m tests.benchmarks.engine_matrix`` writes docs/results/engines.json. The network is a
RepVGG-A0 with weights as initialised, 224 px, profile 1,32,128. int8 and fp8 have made-up scales:
the matrix is about building, not about accuracy. No engine is run.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import onnx
import torch

from repvgg_deploy.bench.environment import environment
from repvgg_deploy.engine.flavour import choose_flavour
from repvgg_deploy.engine.options import PRECISIONS, QUANTIZED, BuildOptions
from repvgg_deploy.engine.process import build_in_process
from repvgg_deploy.engine.request import BuildRequest
from repvgg_deploy.engine.rtx_api import TensorRTRTX
from repvgg_deploy.engine.targets import known_targets
from repvgg_deploy.errors import UserError
from repvgg_deploy.export.graph import BF16_OPSET, DEFAULT_OPSET, to_onnx
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.models.zoo import ZOO

from ..qdq import quantized

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "engines.json"
ROUNDS = 3


def write_models(folder: Path) -> dict[str, Path]:
    """ONNX models by row of the matrix: quantized ones with a float32 and with a float16 head."""
    torch.manual_seed(0)
    network = RepVGG(ZOO["RepVGG-A0"].spec(), "deploy").eval()
    models = {}
    for precision in set(PRECISIONS) - set(QUANTIZED):
        opset = BF16_OPSET if precision == "bf16" else DEFAULT_OPSET
        models[precision] = to_onnx(network, (224, 224), precision=precision, opset=opset)
    for kind in QUANTIZED:
        for head in ("fp32", "fp16"):
            models[f"{kind}, {head} head"] = quantized(models["fp32"], kind, head)
    paths = {}
    for row in sorted(models):
        paths[row] = folder / f"{row.replace(', ', '-').replace(' ', '-')}.onnx"
        onnx.save(models[row], paths[row])
    return paths


def build(module: str, model: Path, precision: str, targets: tuple[str, ...]) -> dict[str, Any]:
    """Megabytes (10^6 bytes) and seconds of each round, or why it cannot be built."""
    engine = model.with_suffix(".engine")
    request = BuildRequest(
        module, str(model), str(engine), precision, BuildOptions(targets=targets)
    )
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        try:
            build_in_process(request, lambda severity, message: None)
        except UserError as error:
            return {"refused": str(error).replace(f"{model}: ", "")}
        seconds.append(round(time.perf_counter() - start, 3))
    return {"megabytes": round(engine.stat().st_size / 1e6, 3), "seconds": seconds}


def main() -> None:
    flavour = choose_flavour("rtx")
    known = known_targets(cast(TensorRTRTX, flavour.trt))
    columns = {target: (target,) for target in known} | {"all possible": ()}
    matrix: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for row, model in write_models(Path(folder)).items():
            precision = row.split(",")[0]
            matrix[row] = {}
            for name, targets in columns.items():
                cell = matrix[row][name] = build(flavour.module, model, precision, targets)
                found = cell.get("refused") or (
                    f"{cell['megabytes']} MB, {statistics.median(cell['seconds']):.2f} s"
                )
                print(f"{row:16} {name:12} {found}")
    record = {
        "command": "python -m tests.benchmarks.engine_matrix",
        "network": "RepVGG-A0, weights as initialised, 224 px, profile 1,32,128; built, not run",
        "flavour": flavour.name,
        "version": flavour.version,
        "rounds": ROUNDS,
        "environment": environment(os.cpu_count() or 1),
        "matrix": matrix,
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {RESULTS}")


if __name__ == "__main__":
    main()
