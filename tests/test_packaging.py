"""What gets installed, and that rooms import one way."""

from __future__ import annotations

import ast
import configparser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "repvgg_deploy"

PLATFORMS = {
    "linux-x86": {"sys_platform": "linux", "platform_machine": "x86_64"},
    "linux-arm": {"sys_platform": "linux", "platform_machine": "aarch64"},
    "windows": {"sys_platform": "win32", "platform_machine": "AMD64"},
    "windows-arm": {"sys_platform": "win32", "platform_machine": "ARM64"},
    "mac": {"sys_platform": "darwin", "platform_machine": "arm64"},
}


def required(platform: str, extra: str) -> set[str]:
    """Names that ``pip install repvgg-deploy[extra]`` asks for on a platform."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split("\n")
    if extra:
        lines += config["options.extras_require"][extra].split("\n")
    requirements = [Requirement(line) for line in lines if line]
    return {
        r.name for r in requirements if r.marker is None or r.marker.evaluate(PLATFORMS[platform])
    }


@pytest.mark.parametrize("platform", PLATFORMS)
def test_exactly_one_onnxruntime(platform: str) -> None:
    both = {"onnxruntime", "onnxruntime-gpu"}
    assert not required(platform, "") & both
    assert required(platform, "cpu") & both == {"onnxruntime"}
    has_gpu_wheel = platform in ("linux-x86", "windows")
    expected = {"onnxruntime-gpu"} if has_gpu_wheel else {"onnxruntime"}
    assert required(platform, "gpu") & both == expected
    for extra in ("rtx", "tensorrt", "hub", "report", "test", "docs"):
        assert not required(platform, extra) & both


@pytest.mark.parametrize("platform", PLATFORMS)
def test_rtx_only_where_a_wheel_exists(platform: str) -> None:
    assert ("tensorrt-rtx-cu13" in required(platform, "rtx")) == (
        platform in ("linux-x86", "windows")
    )


def test_nothing_we_require_brings_an_onnxruntime_along() -> None:
    for name in required("linux-x86", "") | required("linux-x86", "rtx"):
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # an optional one that this platform lacks
        plain = [Requirement(r) for r in requires]
        unconditional = {
            r.name for r in plain if r.marker is None or r.marker.evaluate({"extra": ""})
        }
        assert not unconditional & {"onnxruntime", "onnxruntime-gpu"}, name


#: Rooms from the top down; a room may import from rooms below it only (and from itself).
LAYERS = [
    {"__main__"},
    {"cli"},
    {"report"},
    {"steps", "serving"},
    {"train"},
    {"bench", "equivalence", "evaluation", "export", "quantize"},
    {"runners"},
    {"engine"},
    {"reparam", "models", "checkpoint", "data", "workspace"},
    {"sidecar"},
    {"artifacts"},
    {"transaction"},
    {"redo_log"},
    {"archives", "file_kinds", "files", "optional", "rebuild", "records", "signals"},
    {"errors", "sqnr"},
    {"__init__", "demo"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of our own package that a file imports from."""
    package = ("repvgg_deploy", *path.relative_to(PACKAGE).parts[:-1])
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            full = [*base, *(node.module.split(".") if node.module else [])]
            if len(full) > 1:
                rooms.add(full[1])
            else:  # from .. import name
                names = {alias.name for alias in node.names}
                rooms |= {name if name in LEVEL else "__init__" for name in names}
    return rooms


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_run_one_way(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return  # its names are looked up when they are used, which test_module_fuse.py holds it to
    room = room_of(path)
    for other in imported_rooms(path) - {room}:
        assert LEVEL[room] < LEVEL[other], f"{path.relative_to(ROOT)} ({room}) imports {other}"
