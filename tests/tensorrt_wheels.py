"""The Python bindings of each TensorRT that the contract test checks.

    python -m tests.tensorrt_wheels

installs them into the virtual environment, each in a folder of its own: one holds one version only.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: The oldest that the extra ``tensorrt`` takes, the last of 10.x and the newest.
VERSIONS = ("10.13.3.9", "10.16.1.11", "11.4.0.106")


def folder(version: str) -> Path:
    return Path(sys.prefix) / "tensorrt-bindings" / version


def install(version: str) -> bool:
    """False where NVIDIA ships none for this platform and this Python."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    target = ["--no-deps", "--upgrade", "--target", str(folder(version))]
    return subprocess.run([*pip, *target, f"tensorrt-cu13-bindings=={version}"]).returncode == 0


if __name__ == "__main__":
    for version in VERSIONS:
        if not install(version):
            print(f"tensorrt-cu13-bindings {version} could not be installed: not checked here")
