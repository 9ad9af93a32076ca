"""What reading a checkpoint and writing its tensors take alone, beside the imports.

    python -m tests.benchmarks.read_write ckpt.pth out.safetensors

Prints JSON, in seconds. The file written holds the same tensors, so it is a little larger than a
fused one; it is synced, as ours are.
"""

from __future__ import annotations

import json
import os
import sys
import time

start = time.perf_counter()
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402


def main() -> None:
    imported = time.perf_counter()
    state = torch.load(sys.argv[1], weights_only=True)
    read = time.perf_counter()
    save_file(state, sys.argv[2])
    with open(sys.argv[2], "rb") as stream:
        os.fsync(stream.fileno())
    written = time.perf_counter()
    seconds = {"imports": imported - start, "read": read - imported, "write": written - read}
    json.dump({**seconds, "bytes": os.path.getsize(sys.argv[1])}, sys.stdout)


if __name__ == "__main__":
    main()
