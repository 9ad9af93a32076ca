"""docs/serving.md and its compose file say what serve writes."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from repvgg_deploy.export.graph import INPUT, OUTPUT

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "serving.md").read_text()
SERVICES = yaml.safe_load((DOCS / "serving" / "compose.yaml").read_text())["services"]


def test_server_and_client_are_of_one_release() -> None:
    server, client = (SERVICES[name]["image"] for name in ("triton", "perf"))
    assert client == f"{server}-sdk"
    (default,) = re.findall(r"\$\{TRITON_TAG:-([0-9.]+)\}", server)
    assert f"tritonserver:{default}-py3" in PAGE


def test_the_repository_is_mounted_where_the_server_looks() -> None:
    triton = SERVICES["triton"]
    (volume,) = triton["volumes"]
    assert volume.endswith(":/models:ro")
    assert "--model-repository=/models" in triton["command"]
    variable = re.match(r"\$\{([A-Z_]+):\?", volume)
    assert variable is not None
    assert f"{variable[1]}=$PWD/repo" in PAGE


def test_it_is_reached_from_this_machine_alone() -> None:
    """Triton asks nobody who they are."""
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["triton"]["ports"])


def test_it_gets_the_gpus() -> None:
    (device,) = SERVICES["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_the_client_names_our_tensors() -> None:
    assert f'InferInput("{INPUT}"' in PAGE
    assert f'as_numpy("{OUTPUT}")' in PAGE
