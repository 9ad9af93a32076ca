"""make bench: what our commands cost, against the plain way, written to docs/results/speed.json.

Every comparison runs as whole processes, in turn, and prints all its rounds. No test depends on
these figures: machines are noisy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from repvgg_deploy.cli.main import COMMANDS

from .process import Cost, in_turn, median

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "speed.json"
TOOL = [sys.executable, "-m", "repvgg_deploy"]


@dataclass(frozen=True)
class Target:
    """``value`` has to stay at or under ``limit``; None: stated, not limited."""

    what: str
    value: float
    limit: float | None


def make_checkpoint(name: str, folder: Path) -> Path:
    """A training checkpoint of a zoo network, weights as initialised.

    In a process of its own: a child's peak memory starts at its parent's size, so this one has to
    stay small.
    """
    path = folder / f"{name}.pth"
    code = (
        "import torch; from repvgg_deploy.models.network import RepVGG; "
        "from repvgg_deploy.models.zoo import ZOO; "
        f"torch.save(RepVGG(ZOO[{name!r}].spec(), 'train').state_dict(), {str(path)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    return path


def show(title: str, costs: dict[str, list[Cost]]) -> dict[str, Cost]:
    print(f"\n{title}")
    for name, rounds in costs.items():
        each = " ".join(f"{cost.seconds:.2f}" for cost in rounds)
        middle = median(rounds)
        print(f"  {name:28} {middle.seconds:7.3f} s  {middle.peak_mb:7.0f} MB   rounds: {each} s")
    return {name: median(rounds) for name, rounds in costs.items()}


def startup(folder: Path) -> tuple[dict[str, list[Cost]], list[Target]]:
    commands = {"import click": [sys.executable, "-c", "import click"], "--help": [*TOOL, "--help"]}
    commands |= {f"{verb} --help": [*TOOL, verb, "--help"] for verb in COMMANDS}
    costs = in_turn(commands, folder, rounds=9)
    middle = show("start-up", costs)
    base = middle.pop("import click").seconds
    slowest = max(cost.seconds for cost in middle.values())
    return costs, [Target("slowest --help / import click, time", slowest / base, 3)]


def fuse_b3(folder: Path) -> tuple[dict[str, list[Cost]], list[Target]]:
    path = make_checkpoint("RepVGG-B3", folder)
    fuse = [*TOOL, "fuse", str(path)]
    plain = [sys.executable, "-m", "tests.benchmarks.straightforward", "RepVGG-B3", str(path)]
    files = [sys.executable, "-m", "tests.benchmarks.read_write", str(path)]
    commands = {
        "fuse --no-verify": [*fuse, "--no-verify", "--engines", str(folder / "a")],
        "straightforward": [*plain, str(folder / "plain.pth")],
        "read and write alone": [*files, str(folder / "copy.safetensors")],
    }
    costs = in_turn(commands, ROOT, rounds=9)
    costs |= in_turn({"fuse, with the proof": [*fuse, "--engines", str(folder / "b")]}, ROOT, 3)
    ours, theirs, copied, proved = show("fuse RepVGG-B3", costs).values()
    parts = json.loads(subprocess.check_output(commands["read and write alone"], cwd=ROOT))
    print(f"  read and write alone: {parts}")
    memory = json.loads(
        subprocess.check_output(
            [sys.executable, "-m", "tests.benchmarks.fold_memory", str(path)], cwd=ROOT
        )
    )
    print(f"  folding alone: {memory}")
    share = memory["extra"] / memory["largest_block"]
    return costs, [
        Target("fuse B3 / straightforward, time", ours.seconds / theirs.seconds, 0.75),
        Target("fuse B3 / straightforward, peak memory", ours.peak_mb / theirs.peak_mb, 0.7),
        Target("fuse B3 / read and write alone, time", ours.seconds / copied.seconds, None),
        Target("extra memory of the fold / largest block", share, 1),
        Target("fuse B3 with the proof / without, time", proved.seconds / ours.seconds, None),
        Target("fuse B3 with the proof / without, memory", proved.peak_mb / ours.peak_mb, None),
    ]


def fuse_graphs(folder: Path) -> tuple[dict[str, list[Cost]], list[Target]]:
    command = [sys.executable, "-m", "tests.benchmarks.graph_growth"]
    found = json.loads(subprocess.check_output(command, cwd=ROOT))
    print("\nfuse of ONNX graphs, without the proof")
    for one in found:
        print(
            f"  {one['nodes']:6} nodes, {one['weights_mb']:6.1f} MB of weights: "
            f"{one['seconds']:6.2f} s, {one['peak_mb']:7.1f} MB at the peak"
        )
    costs = {
        f"fuse_onnx, {o['nodes']} nodes, {o['weights_mb']:.0f} MB": [
            Cost(o["seconds"], o["peak_mb"])
        ]
        for o in found
    }
    middle = next(one for one in found if one["nodes"] == 5000)
    return costs, [
        Target("fuse of a 5,000-node graph, seconds", middle["seconds"], 5),
        Target("peak memory of a 500 MB graph / weights", found[-1]["peak_over_weights"], 2.5),
    ]


def export_a0(folder: Path) -> tuple[dict[str, list[Cost]], list[Target]]:
    path = make_checkpoint("RepVGG-A0", folder)
    engines = ["--engines", str(folder / "c")]
    subprocess.run([*TOOL, "fuse", str(path), *engines], check=True, capture_output=True)
    commands = {
        "export --onnx": [*TOOL, "export", "--onnx", *engines],
        "import torch, onnx, ort": [sys.executable, "-c", "import torch, onnx, onnxruntime"],
    }
    costs = in_turn(commands, folder, rounds=7)
    ours, base = show("export RepVGG-A0 at 224 px, with its checks", costs).values()
    return costs, [Target("export A0 / imports, time", ours.seconds / base.seconds, 3)]


def empty_step(folder: Path) -> tuple[dict[str, list[Cost]], list[Target]]:
    command = [sys.executable, "-m", "tests.benchmarks.empty_step"]
    found = json.loads(subprocess.check_output(command, cwd=ROOT))
    print(f"\nbench of a step that does nothing, microseconds a call: {found}")
    return {}, [
        Target("bench: an empty step, microseconds as measured", found["median"], 2),
        Target("bench: the loop round an empty step, microseconds", found["loop"], None),
    ]


def main() -> None:
    costs: dict[str, list[Cost]] = {}
    targets: list[Target] = []
    with tempfile.TemporaryDirectory() as name:
        for part in (startup, fuse_b3, fuse_graphs, export_a0, empty_step):
            more_costs, more_targets = part(Path(name))
            costs |= more_costs
            targets += more_targets
    print()
    for target in targets:
        limit = "" if target.limit is None else f"  (limit {target.limit:g})"
        mark = "" if target.limit is None or target.value <= target.limit else "  OVER"
        print(f"{target.what:50} {target.value:6.2f}{limit}{mark}")
    from repvgg_deploy.bench.environment import environment  # heavy, so only now

    record = {
        "command": "make bench",
        "environment": environment(os.cpu_count() or 1),
        "targets": [asdict(target) for target in targets],
        "costs": {name: [asdict(cost) for cost in rounds] for name, rounds in costs.items()},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
