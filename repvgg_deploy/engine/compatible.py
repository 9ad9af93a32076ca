"""Whether an engine loads on this machine: compared by NVIDIA's rules, not tried.

TensorRT wants the version that built the engine (major, minor, patch and build), the same platform,
and a GPU of the same compute capability; of an engine built version-compatible, the same or a newer
version of the same major, or 11 for one of 10; of one built hardware-compatible, any GPU from
Ampere (sm80) on. It warns of another model of the same capability. (TensorRT documentation: "Engine
Compatibility"; "Support Matrix" 11.4, "Engine Portability"; DRIVE OS 7.0.3, "Release Properties";
issue NVIDIA/TensorRT 4233.)

TensorRT-RTX wants the same release and a GPU among the engine's targets; Linux or Windows is all
one. (TensorRT-RTX documentation: "Engine Compatibility"; "CPU-Only AOT and TensorRT-RTX Engines".)
Its own check of a header compares the first three numbers of the version (tried with 1.7.1.116).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version

from ..artifacts import EngineArtifact
from .gpu import Gpu, this_gpu, this_platform
from .names import MODULES, NAMES
from .plan import Plan

#: Numbers of a version that have to be the same.
_COMPARED = {"tensorrt": 4, "rtx": 3}

#: Majors across which version-compatible engines load, built by and loaded by.
_ACROSS_MAJORS = {(8, 10), (10, 11)}

_AMPERE = 80


@dataclass(frozen=True)
class Machine:
    """What an engine meets here: the installed version of its flavour, if any, and the GPU."""

    version: str | None
    gpu: Gpu | None
    platform: str


@dataclass(frozen=True)
class Verdict:
    """``loads`` is None where the engine tells too little; ``differences`` say why it does not.

    ``notes`` speak of what does not keep it from loading.
    """

    loads: bool | None
    sentence: str
    differences: list[str]
    notes: list[str]


def this_machine(flavour: str) -> Machine:
    """For an engine of that flavour."""
    return Machine(installed_version(flavour), this_gpu(), this_platform())


def installed_version(flavour: str) -> str | None:
    """As the installed package says, so that inspecting an engine does not load the library."""
    packages = packages_distributions().get(MODULES[flavour])
    return version(packages[0]) if packages else None


def differences(
    artifact: EngineArtifact, flavour_version: str | None, gpu: Gpu | None
) -> list[str]:
    """What keeps the engine from loading on this machine, each as half a sentence; [] if nothing.

    ``flavour_version`` is the installed version of the engine's own flavour, None where it is not
    installed; ``gpu`` is None where there is no GPU or no driver.
    """
    flavour = artifact.flavour
    options = artifact.options if flavour == "tensorrt" else {}
    found = [
        _version_difference(
            flavour, artifact.version, flavour_version, options.get("version_compatible") is True
        ),
        _gpu_difference(artifact.targets, gpu, options.get("hardware_compatible") is True),
    ]
    if flavour == "tensorrt" and artifact.platform != this_platform():
        found.append(f"it was built on {artifact.platform}, and this machine is {this_platform()}")
    return [difference for difference in found if difference]


def contradiction(plan: Plan, artifact: EngineArtifact) -> str:
    """What a sidecar says otherwise than the engine's own header; empty if nothing.

    The build number is one byte in the header, which may not hold every one: it is not compared.
    """
    same = plan.version is None or same_version(plan.version, artifact.version, compared=3)
    if plan.flavour != artifact.flavour or not same:
        named = f"{NAMES[artifact.flavour]} {artifact.version}"
        return f"names {named}, but the engine itself says {plan.maker}"
    if plan.targets and not plan.other_targets and set(plan.targets) != set(artifact.targets):
        ours, own = ", ".join(artifact.targets), ", ".join(plan.targets)
        return f"names the targets {ours}, but the engine itself says {own}"
    return ""


def judge(artifact: EngineArtifact, machine: Machine) -> Verdict:
    """Of an engine with its sidecar."""
    found = differences(artifact, machine.version, machine.gpu)
    return _verdict(artifact.flavour, machine, found, _other_model(artifact, machine.gpu))


def judge_plan(plan: Plan, machine: Machine) -> Verdict:
    """Of an engine without sidecar, as far as its header tells."""
    if plan.version is None:
        return _unknown("its header does not say which release made it")
    # A header does not say whether TensorRT built the engine version-compatible.
    newer_may_load = plan.flavour == "tensorrt"
    targets, gpu = plan.targets or [], machine.gpu
    found = [_version_difference(plan.flavour, plan.version, machine.version, newer_may_load)]
    if gpu is None or (targets and not plan.other_targets):
        found.append(_gpu_difference(targets, gpu, False))
    if any(found) or (gpu is not None and gpu.capability in targets):
        return _verdict(plan.flavour, machine, [text for text in found if text], [])
    here = f"{NAMES[plan.flavour]} {machine.version}"
    if _version_difference(plan.flavour, plan.version, machine.version, False):
        return _unknown(
            f"it was built by {plan.maker}, and this machine has {machine.version}, which loads it "
            "only if it was built version-compatible"
        )
    return _unknown(f"this machine has {here}, as it needs, but its header does not name the GPU")


def _verdict(flavour: str, machine: Machine, found: list[str], notes: list[str]) -> Verdict:
    if found or machine.gpu is None:
        return Verdict(False, f"does not load here: {'; '.join(found)}", found, notes)
    here = f"{NAMES[flavour]} {machine.version} and {_gpu_text(machine.gpu)}"
    sentence = f"should load here (compared, not tried): this machine has {here}"
    return Verdict(True, sentence, found, notes)


def _unknown(reason: str) -> Verdict:
    return Verdict(None, f"whether it loads here cannot be told: {reason}", [], [])


def _version_difference(
    flavour: str, built_by: str, installed: str | None, newer_loads: bool
) -> str:
    name = NAMES[flavour]
    if installed is None:
        return f"it was built by {name} {built_by}, and {name} is not installed here"
    built, here = _numbers(built_by), _numbers(installed)
    majors = built[0], here[0]
    newer = here > built and (majors[0] == majors[1] or majors in _ACROSS_MAJORS)
    if same_version(built_by, installed, _COMPARED[flavour]) or (newer_loads and newer):
        return ""
    return f"it was built by {name} {built_by}, and this machine has {installed}"


def same_version(one: str, other: str, compared: int = 4) -> bool:
    """By the first numbers, as far as both have them: older releases call themselves 10.7.0."""
    return all(a == b for a, b in zip(_numbers(one)[:compared], _numbers(other), strict=False))


def _numbers(text: str) -> tuple[int, ...]:
    """Numbers, so that 10.2 is older than 10.13; what follows them (rc1, .post1) does not count."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else (0,)


def _gpu_difference(targets: list[str], gpu: Gpu | None, hardware_compatible: bool) -> str:
    if gpu is None:
        return "CUDA finds no GPU here"
    fits_all = hardware_compatible and int(gpu.capability.removeprefix("sm")) >= _AMPERE
    if gpu.capability in targets or fits_all:
        return ""
    wanted = "GPUs from Ampere (sm80) on" if hardware_compatible else ", ".join(targets)
    return f"it was built for {wanted}, and this machine has {_gpu_text(gpu)}"


def _gpu_text(gpu: Gpu) -> str:
    return f"{gpu.name} ({gpu.capability})"


def _other_model(artifact: EngineArtifact, gpu: Gpu | None) -> list[str]:
    built_on = artifact.gpu["name"] if artifact.gpu else None
    if gpu is None or built_on is None or built_on == gpu.name:
        return []
    return [
        f"it was built on {built_on}, and this machine has {gpu.name}: TensorRT warns of another "
        "model, which may be slower or fail; build it here to be sure"
    ]
