"""What TensorRT says when it fails, in words that tell the user what to do.

TensorRT's own words follow ours, since ours cannot know every cause.
"""

from __future__ import annotations

import re

from .gpu import Gpu

#: (what TensorRT says, what it means); the first that fits counts. ``\1`` is what it names.
_MEANINGS = (
    (
        r"shiftIsAllZeros|UINT8_AND_ASYMMETRIC",
        "its Q/DQ nodes have zero points other than 0, or uint8, and TensorRT takes symmetric int8 "
        "alone; quantize it so (docs/engines.md says how with ONNX Runtime)",
    ),
    (
        r"input has type Int32 but must have type",
        "a bias is quantized to int32, and TensorRT takes it in float alone; quantize without "
        "biases (docs/engines.md says how with ONNX Runtime)",
    ),
    (
        r"as the new name is already in use",
        "nodes of its subgraphs or functions have one name; give each node a name of its own",
    ),
    (
        r"Cannot compile for target\(s\) (\w+), because the model contains HW-specific datatypes",
        r"\1 lacks a data type of this network; leave it out of --target, or use --trt fp16",
    ),
    (
        r"for Turing \(SM75\)",
        "Turing (sm75) cannot run this network; name --target without sm75, or give "
        "a model whose layers are fp16 wherever they are not quantized",
    ),
    (
        r"within workspace limit|insufficient workspace|Could not find any implementation",
        "the builder found no kernel within the workspace; give more --workspace, or leave it out",
    ),
    (
        r"[Oo]ut ?[Oo]f ?[Mm]emory|cudaError 2\b|CUDA_ERROR_OUT_OF_MEMORY|bad_alloc",
        "memory ran out; free some, or give a smaller --profile or --workspace",
    ),
    (
        r"sm_vers_\.size\(\) == 1",
        "a refittable TensorRT-RTX engine is for one GPU; name one --target",
    ),
    (
        r"libnvinfer_lean",
        "--version-compatible puts TensorRT's lean runtime into the engine, and that is not "
        "installed; install the package tensorrt-lean of the same version",
    ),
    (
        r"[Cc]ompute capability.*not supported|[Uu]nsupported SM|SM \d+ is not supported",
        "this TensorRT does not support this GPU; install another version, or use --flavour rtx",
    ),
    (
        r"[Nn]ot compatible with this version|[Vv]ersion mismatch|[Ss]erializ\w+ .*\b[Vv]ersion|"
        r"[Mm]agic [Tt]ag|magicTag",
        "it was made by another version of TensorRT; build it again with this one",
    ),
    (
        r"[Pp]lugin not found|[Nn]o importer registered|getPluginCreator|UNSUPPORTED_NODE\b",
        "it holds an operator that this TensorRT does not know; export it without that one",
    ),
)
_DRIVER = re.compile(
    r"cudaError 35|CUDA driver version is insufficient|[Nn]o CUDA-capable device|cudaError 100\b|"
    r"CUDA initialization failure|graph_jit\.cpp:\d+: CHECK\(status == CUDA_SUCCESS\)"
)


def explain(words: str, gpu: Gpu | None) -> str:
    """One sentence without its full stop: our meaning where we know one, then TensorRT's words.

    ``gpu`` is this machine's: without one, or with an old driver, TensorRT says the same.
    """
    said = f'TensorRT said: "{_shortened(words)}"' if words.strip() else "TensorRT said nothing"
    meaning = _meaning(words, gpu)
    return f"{meaning}; {said}" if meaning else said


def _meaning(words: str, gpu: Gpu | None) -> str:
    for pattern, meaning in _MEANINGS:
        if found := re.search(pattern, words):
            return found.expand(meaning)
    if not _DRIVER.search(words):  # asked last: without a GPU the parser ends other errors so too
        return ""
    if gpu is None:
        return "this needs an NVIDIA GPU and its driver, and CUDA finds none here"
    return f"the driver is too old (it supports CUDA {gpu.cuda}); install a newer one"


def _shortened(words: str) -> str:
    """One line, of a length that a terminal shows; the build log has it all."""
    line = " ".join(words.split()).rstrip(".")
    return line if len(line) <= 400 else f"{line[:400]}..."
