"""Every configuration that serve can write, read back by Triton's own protobuf schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repvgg_deploy.engine.options import Profile
from repvgg_deploy.serving.triton.model import Scheduling, TritonModel, check_batches, configuration
from repvgg_deploy.serving.triton.pbtxt import Word, render
from repvgg_deploy.serving.triton.servable import LARGEST, Servable, Tensor

from .triton import SCHEMA, check_rules, parse

NAMES = st.text(min_size=1, max_size=12)
SIZES = st.integers(1, LARGEST)
TYPES = st.sampled_from(sorted(set(SCHEMA.DataType.keys()) - {"TYPE_INVALID"}))
SHAPES = st.lists(SIZES, min_size=1, max_size=4).map(tuple)
PROFILES = st.lists(
    st.tuples(SIZES, SIZES, SIZES).map(lambda sizes: Profile(*sorted(sizes))), min_size=1
)
SCHEDULING = st.builds(
    Scheduling,
    max_batch=st.none() | SIZES,
    queue_delay=st.integers(0, 2**63),
    instances=st.integers(1, 64),
)


@st.composite
def tensors(draw: Any, batch: int) -> tuple[Tensor, ...]:
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    return tuple(Tensor(name, draw(TYPES), (batch, *draw(SHAPES))) for name in names)


@st.composite
def models(draw: Any) -> TritonModel:
    batch = draw(st.just(-1) | SIZES)
    backend = draw(st.sampled_from(["onnx", "tensorrt"]))
    shared: dict[str, Any] = {
        "sha256": "",
        "precision": "fp16",
        "backend": backend,
        "inputs": draw(tensors(batch)),
        "outputs": draw(tensors(batch)),
    }
    targets: list[tuple[str, ...]] = [()]
    if backend == "tensorrt":
        shared["profiles"] = tuple(draw(PROFILES)) if batch == -1 else ()
        capabilities = st.sampled_from(["7.5", "8.0", "8.6", "8.9", "9.0", "12.0"])
        targets = [(c,) for c in draw(st.lists(capabilities, min_size=1, unique=True))]
        targets += [()] if draw(st.booleans()) else []
    members = tuple(Servable(path=Path("x"), targets=t, **shared) for t in targets)
    return TritonModel(draw(NAMES), members, draw(SCHEDULING))


@given(models(), st.booleans())
def test_triton_reads_what_was_meant(model: TritonModel, labelled: bool) -> None:
    """Any names, shapes, types, batch sizes and settings survive the text format."""
    config = parse(render(configuration(model, labelled)))
    first, batched = model.first, model.first.dynamic
    assert config.name == model.name
    assert config.max_batch_size == model.max_batch
    for read, meant in ((config.input, first.inputs), (config.output, first.outputs)):
        assert [(t.name, SCHEMA.DataType.Name(t.data_type), tuple(t.dims)) for t in read] == [
            (t.name, t.dtype, t.shape[1:] if batched else t.shape) for t in meant
        ]
    assert config.output[0].label_filename == ("labels.txt" if labelled else "")
    assert config.instance_group[0].count == model.scheduling.instances
    assert config.HasField("dynamic_batching") == (model.max_batch > 1)
    if model.max_batch > 1:
        assert config.dynamic_batching.max_queue_delay_microseconds == model.scheduling.queue_delay
    named = {t: f for f, m in model.files.items() for t in m.targets if len(model.files) > 1}
    assert config.cc_model_filenames == named
    assert len(model.files) == len(model.members)


@given(models())
def test_triton_takes_it(model: TritonModel) -> None:
    """What Triton checks when it loads a model holds, for whatever check_batches lets pass."""
    if model.first.dynamic and model.max_batch < model.smallest:
        with pytest.raises(Exception, match=r"runs no batch below|no batch to fill"):
            check_batches([model], model.scheduling)
        return
    config = parse(render(configuration(model, labelled=False)))
    check_rules(config)
    sizes = [sample.batch_size for sample in config.model_warmup]
    assert sizes
    for size in sizes if model.first.profiles else ():
        assert any(profile.min <= size <= profile.max for profile in model.first.profiles)


@given(st.text())
def test_strings_come_back(text: str) -> None:
    assert parse(render({"name": text, "platform": text})).name == text


def test_the_text_is_plain_to_the_eye() -> None:
    text = render(
        {
            "name": 'a "b"',
            "input": [{"data_type": Word("TYPE_FP32"), "dims": [3, -1]}, {"optional": True}],
            "dynamic_batching": {},
        }
    )
    assert text == (
        'name: "a \\042b\\042"\n'
        "input {\n  data_type: TYPE_FP32\n  dims: [3, -1]\n}\n"
        "input {\n  optional: true\n}\n"
        "dynamic_batching {\n}\n"
    )
    assert parse(text).HasField("dynamic_batching")
