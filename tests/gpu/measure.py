"""All that needs a GPU, in one run: ``python -m tests.gpu.measure --out FILE``.

Writes one JSON file, whole, after each part: the machine, and of each part either what came out or
why it did not run. Safe anywhere; without a GPU it writes the reasons. Each part is a process of
its own, so that one that crashes, or leaves CUDA broken, does not take the others along.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from repvgg_deploy.bench.environment import environment
from repvgg_deploy.engine.gpu import this_gpu
from repvgg_deploy.sidecar import to_json, write_json

from .parts import PARTS

_MARK = "result: "


def main() -> int:
    """Exit code 1 where a part failed, or the file is there already."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the JSON file; none may stand there")
    parser.add_argument("--duration", type=float, default=3.0, help="seconds for each comparison")
    parser.add_argument("--timeout", type=float, default=1200.0, help="seconds for each part")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--run-here", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run_here:
        print(_MARK + json.dumps(json.loads(to_json(PARTS[given.run_here].run(given.duration)))))
        return 0
    if given.out is None or given.out.exists():
        parser.exit(1, f"{given.out}: give --out FILE, where no file stands yet\n")
    record: dict[str, Any] = {
        "command": f"python -m tests.gpu.measure {' '.join(sys.argv[1:])}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "gpu": this_gpu(),
        "driver": _driver(),
        "cuda_of_torch": torch.version.cuda,
        "environment": environment(1),
        "parts": {},
    }
    for name in given.parts:
        reason = PARTS[name].obstacle()
        outcome = _run(name, given) if reason is None else {"not_run": reason}
        record["parts"][name] = outcome
        write_json(given.out, record)
        print(f"{name}: {outcome.get('not_run') or outcome.get('failed') or 'done'}", flush=True)
    return int(any("failed" in outcome for outcome in record["parts"].values()))


def _run(name: str, given: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.gpu.measure", "--run-here", name]
    command += ["--duration", str(given.duration)]
    begin = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=given.timeout)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {given.timeout:g} s"}
    seconds = time.perf_counter() - begin
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or not lines:
        return {"failed": f"exit code {done.returncode}: {done.stderr[-4000:]}", "seconds": seconds}
    return {"result": json.loads(lines[-1].removeprefix(_MARK)), "seconds": seconds}


def _driver() -> str | None:
    """The driver's own version, which CUDA does not tell."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout else None


if __name__ == "__main__":
    sys.exit(main())
