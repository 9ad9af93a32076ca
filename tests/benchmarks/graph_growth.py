"""Fusing ONNX graphs: time against the number of nodes, peak memory against the weights.

python -m tests.benchmarks.graph_growth prints JSON. Each figure is from a process of its own, since
a peak never falls; memory is counted beyond what the interpreter and the imports take.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

NODES = (100, 1_000, 5_000, 10_000)
#: Channels and blocks of the large model: 12 x (9 + 1) x 1024^2 floats are 503 MB.
WIDE, BLOCKS = 1024, 12


def write_blocks(path: Path, blocks: int, channels: int) -> None:
    """RepVGG blocks in a row: 3x3 and 1x1 with batch norm, identity norm, two sums, ReLU."""
    generator = np.random.default_rng(0)
    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []

    def weight(*shape: int) -> str:
        name = f"w{len(tensors)}"
        values = generator.random(shape, np.float32) / np.float32(channels)
        tensors.append(numpy_helper.from_array(values, name))
        return name

    def add(kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def norm(x: str, output: str) -> str:
        statistics = [weight(channels) for _ in range(4)]
        return add("BatchNormalization", [x, *statistics], output)

    x = "x"
    for i in range(blocks):
        dense = add("Conv", [x, weight(channels, channels, 3, 3)], f"{i}.dense", pads=[1] * 4)
        point = add("Conv", [x, weight(channels, channels, 1, 1)], f"{i}.point")
        both = [norm(dense, f"{i}.dense.norm"), norm(point, f"{i}.point.norm")]
        total = add("Add", both, f"{i}.sum")
        total = add("Add", [total, norm(x, f"{i}.norm")], f"{i}.all")
        x = add("Relu", [total], f"{i}.out")
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, "h", "w"])
        for name in ("x", x)
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def measure(source: Path) -> dict[str, Any]:
    """What fuse_onnx takes without its proof: seconds, of planning too, and memory at the peak."""
    from repvgg_deploy.reparam.graph.files import read_model
    from repvgg_deploy.reparam.graph.plan import make_plan
    from repvgg_deploy.steps.fuse_onnx import fuse_onnx

    before = _peak()
    start = time.perf_counter()
    result = fuse_onnx(source, source.with_suffix(".fused.onnx"), prove=False)
    total = time.perf_counter() - start
    peak = _peak() - before
    model = read_model(source)
    weights = sum(tensor.ByteSize() for tensor in model.weights.values())
    start = time.perf_counter()
    make_plan(model)
    return {
        "nodes": len(model.graph.node),
        "regions": len(result.fused),
        "seconds": round(total, 3),
        "seconds_of_planning": round(time.perf_counter() - start, 3),
        "weights_mb": round(weights / 1e6, 1),
        "peak_mb": round(peak / 1e6, 1),
        "peak_over_weights": round(peak / weights, 2),
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _in_a_process(*arguments: str) -> str:
    # A child's peak starts at its parent's size, so models are made in children as well.
    command = [sys.executable, "-m", "tests.benchmarks.graph_growth", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--make", nargs=3, metavar=("PATH", "BLOCKS", "CHANNELS"))
    parser.add_argument("--measure", type=Path)
    options = parser.parse_args()
    if options.make:
        path, blocks, channels = options.make
        write_blocks(Path(path), int(blocks), int(channels))
    elif options.measure:
        print(json.dumps(measure(options.measure)))
    else:
        results = []
        # A block is 8 nodes.
        for blocks, channels in (*((nodes // 8, 8) for nodes in NODES), (BLOCKS, WIDE)):
            with tempfile.TemporaryDirectory() as folder:
                path = f"{folder}/model.onnx"
                _in_a_process("--make", path, str(blocks), str(channels))
                results.append(json.loads(_in_a_process("--measure", path)))
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
