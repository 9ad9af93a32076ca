"""Whether an engine loads on this machine, told from its sidecar before it is tried."""

from __future__ import annotations

from ..artifacts import EngineArtifact
from .gpu import Gpu


def differences(
    artifact: EngineArtifact, flavour_version: str | None, gpu: Gpu | None
) -> list[str]:
    """What keeps the engine from loading here, each as a clause; empty where nothing does.

    ``flavour_version`` is that of the installed TensorRT of the engine's flavour.
    """
    found = []
    if flavour_version is not None and flavour_version != artifact.version:
        found.append(f"it was built by version {artifact.version}, and here is {flavour_version}")
    if gpu is not None and artifact.targets and gpu.capability not in artifact.targets:
        built_for = ", ".join(artifact.targets)
        found.append(f"it was built for {built_for}, and this GPU ({gpu.name}) is {gpu.capability}")
    return found
