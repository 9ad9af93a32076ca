"""Which engines load where, by NVIDIA's documented rules; no GPU and no TensorRT is needed."""

from __future__ import annotations

from importlib import metadata

import pytest

from repvgg_deploy.engine import compatible
from repvgg_deploy.engine.compatible import (
    Machine,
    differences,
    installed_version,
    judge,
    judge_plan,
    same_version,
)
from repvgg_deploy.engine.gpu import Gpu, this_platform
from repvgg_deploy.engine.plan import Plan

from .engines import ADA, AMPERE, TURING, artifact

HOPPER = Gpu("NVIDIA H100", "sm90", 80 << 30, "13.0")
BLACKWELL = Gpu("NVIDIA GeForce RTX 5090", "sm120", 32 << 30, "13.0")
RTX = {"flavour": "rtx", "version": "1.7.1.116", "gpu": None, "targets": ["sm86", "sm89"]}
NEWER = {"options": {"version_compatible": True}}
NEWER_8 = {**NEWER, "version": "8.6.1.6"}
ANYWHERE = {"options": {"hardware_compatible": True}}


def built(by: str, here: str) -> str:
    return f"it was built by {by}, and this machine has {here}"


def missing(maker: str) -> str:
    return f"it was built by {maker}, and {maker.split()[0]} is not installed here"


def built_for(wanted: str, gpu: Gpu) -> str:
    return f"it was built for {wanted}, and this machine has {gpu.name} ({gpu.capability})"


@pytest.mark.parametrize(
    ("changes", "version", "gpu", "expected"),
    [
        ({}, "10.13.3.9", ADA, []),
        ({}, "10.13.3.10", ADA, [built("TensorRT 10.13.3.9", "10.13.3.10")]),
        ({}, "10.2.0", ADA, [built("TensorRT 10.13.3.9", "10.2.0")]),
        ({}, None, ADA, [missing("TensorRT 10.13.3.9")]),
        ({}, "10.13.3.9.post1", ADA, []),
        ({}, "10.13.3.9", AMPERE, [built_for("sm89", AMPERE)]),
        ({}, "10.13.3.9", None, ["CUDA finds no GPU here"]),
        # version-compatible: the same major, or 11 for one of 10; never an older one
        (NEWER, "10.16.1.11", ADA, []),
        (NEWER, "11.4.0.1", ADA, []),
        (NEWER, "10.2.0", ADA, [built("TensorRT 10.13.3.9", "10.2.0")]),
        (NEWER, "12.0.0.1", ADA, [built("TensorRT 10.13.3.9", "12.0.0.1")]),
        (NEWER_8, "10.13.3.9", ADA, []),
        (NEWER_8, "11.4.0.1", ADA, [built("TensorRT 8.6.1.6", "11.4.0.1")]),
        # hardware-compatible: Ampere and newer
        (ANYWHERE, "10.13.3.9", AMPERE, []),
        (ANYWHERE, "10.13.3.9", HOPPER, []),
        (ANYWHERE, "10.13.3.9", BLACKWELL, []),
        (ANYWHERE, "10.13.3.9", TURING, [built_for("GPUs from Ampere (sm80) on", TURING)]),
        # TensorRT-RTX: the release, whose build number its runtime does not compare
        (RTX, "1.7.1.116", ADA, []),
        (RTX, "1.7.1.120", AMPERE, []),
        (RTX, "1.7.2.116", ADA, [built("TensorRT-RTX 1.7.1.116", "1.7.2.116")]),
        (RTX, "1.7.1.116", HOPPER, [built_for("sm86, sm89", HOPPER)]),
        ({**RTX, **NEWER}, "1.8.0.1", ADA, [built("TensorRT-RTX 1.7.1.116", "1.8.0.1")]),
        ({**RTX, **ANYWHERE}, "1.7.1.116", HOPPER, [built_for("sm86, sm89", HOPPER)]),
        (RTX, None, ADA, [missing("TensorRT-RTX 1.7.1.116")]),
        # a file may say anything of its options
        ({"options": {"version_compatible": "no", "hardware_compatible": 1}}, "11.4.0.1", AMPERE, [
            built("TensorRT 10.13.3.9", "11.4.0.1"),
            built_for("sm89", AMPERE),
        ]),
    ],
)  # fmt: skip
def test_differences(
    changes: dict[str, object], version: str | None, gpu: Gpu | None, expected: list[str]
) -> None:
    assert differences(artifact(**changes), version, gpu) == expected


def test_the_platform_counts_for_tensorrt_alone() -> None:
    other = {"platform": "win32-amd64"}
    assert differences(artifact(**other), "10.13.3.9", ADA) == [
        f"it was built on win32-amd64, and this machine is {this_platform()}"
    ]
    assert differences(artifact(**RTX, **other), "1.7.1.116", ADA) == []


def test_the_sentence() -> None:
    here = Machine("10.13.3.9", ADA, this_platform())
    verdict = judge(artifact(), here)
    assert (verdict.loads, verdict.differences, verdict.notes) == (True, [], [])
    assert verdict.sentence == (
        "should load here (compared, not tried): this machine has TensorRT 10.13.3.9 and "
        "NVIDIA GeForce RTX 4090 (sm89)"
    )
    verdict = judge(artifact(), Machine("10.16.1.11", AMPERE, this_platform()))
    assert verdict.loads is False
    assert verdict.sentence == (
        "does not load here: it was built by TensorRT 10.13.3.9, and this machine has 10.16.1.11; "
        "it was built for sm89, and this machine has NVIDIA GeForce RTX 3090 (sm86)"
    )


def test_another_model_of_the_capability_is_noted() -> None:
    l4 = Gpu("NVIDIA L4", "sm89", 24 << 30, "13.0")
    verdict = judge(artifact(), Machine("10.13.3.9", l4, this_platform()))
    assert verdict.loads
    (note,) = verdict.notes
    assert note.startswith(
        "it was built on NVIDIA GeForce RTX 4090, and this machine has NVIDIA L4"
    )


TRT = Plan("tensorrt", "10.13.3.9")
ONE = Plan("rtx", "1.7.1.116", ["sm89"])
ALL = Plan("rtx", "1.7.1.116", ["sm86", "sm89"], other_targets=True)
EARLY = Plan("rtx", "1.4.0.76")


@pytest.mark.parametrize(
    ("plan", "version", "gpu", "loads", "words"),
    [
        (Plan("tensorrt"), "10.13.3.9", ADA, None, "does not say which release made it"),
        # the same version: the GPU is not in the header
        (TRT, "10.13.3.9", ADA, None, "its header does not name the GPU"),
        (TRT, "10.16.1.11", ADA, None, "only if it was built version-compatible"),
        # whatever else it is, an older TensorRT or none does not load it
        (TRT, "10.2.0", ADA, False, "and this machine has 10.2.0"),
        (TRT, None, ADA, False, "TensorRT is not installed here"),
        (TRT, "10.13.3.9", None, False, "CUDA finds no GPU here"),
        (ONE, "1.7.1.116", ADA, True, "should load here"),
        (ONE, "1.7.1.116", AMPERE, False, "built for sm89, and this machine has"),
        (ONE, "1.8.0.1", ADA, False, "and this machine has 1.8.0.1"),
        (ALL, "1.7.1.116", ADA, True, "should load here"),
        (ALL, "1.7.1.116", HOPPER, None, "its header does not name the GPU"),
        (EARLY, "1.4.0.76", ADA, None, "its header does not name the GPU"),
        (EARLY, "1.7.1.116", ADA, False, "and this machine has 1.7.1.116"),
    ],
)
def test_as_far_as_the_header_tells(
    plan: Plan, version: str | None, gpu: Gpu | None, loads: bool | None, words: str
) -> None:
    verdict = judge_plan(plan, Machine(version, gpu, this_platform()))
    assert verdict.loads is loads
    assert words in verdict.sentence
    assert bool(verdict.differences) == (loads is False)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.2", "10.13", False),
        ("10.13.3.9", "10.13.3.9", True),
        ("10.7.0", "10.7.0.23", True),
        ("10.7.0.post1", "10.7.0.23", True),
        ("10.1.3.9", "10.13.9", False),
    ],
)
def test_versions_are_numbers(one: str, other: str, same: bool) -> None:
    assert same_version(one, other) is same
    assert same_version(other, one) is same


def test_the_installed_version_is_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")
    assert installed_version("rtx") == trt.__version__
    monkeypatch.setattr(compatible, "packages_distributions", lambda: {"torch": ["torch"]})
    assert installed_version("rtx") is None
    monkeypatch.setattr(compatible, "packages_distributions", lambda: {"tensorrt": ["torch"]})
    assert installed_version("tensorrt") == metadata.version("torch")
