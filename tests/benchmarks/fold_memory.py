"""Memory that folding holds beside its input and output tensors (Linux only).

    python -m tests.benchmarks.fold_memory ckpt.pth

Prints JSON: bytes of the largest block, and the peak of resident memory during the fold less what
was resident before it and less the output.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from repvgg_deploy.reparam.state_dict import fold_block, fuse_in_place
from repvgg_deploy.steps.weights import read_weights


def resident(field: str) -> int:
    """Bytes that /proc/self/status tells: VmRSS now, or VmHWM at the peak."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    weights = read_weights(Path(sys.argv[1]))
    state, blocks = weights.checkpoint.state, weights.blocks
    sizes = [sum(state[key].nbytes for key in block.keys(state)) for block in blocks]
    eps = weights.network.spec.eps
    fold_block(state, blocks[0], eps)  # threads and libraries are loaded by now
    kept = dict(state)  # the input stays, so that nothing it frees hides what the fold takes
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    fuse_in_place(kept, blocks, eps)
    output = sum(kept[key].nbytes for key in kept if key not in state)
    extra = resident("VmHWM") - before - output
    json.dump({"largest_block": max(sizes), "extra": extra, "output": output}, sys.stdout)


if __name__ == "__main__":
    main()
