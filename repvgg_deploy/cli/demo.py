"""repvgg-deploy demo"""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .console import say, uninterrupted


@click.command("demo")
@options.engines
@click.pass_context
def command(ctx: click.Context, engines: Path) -> None:
    """Run the whole pipeline on a bundled checkpoint.

    It is a slim RepVGG trained on Fashion-MNIST (docs/demo-checkpoint):
    fuse, export (ONNX, and a TensorRT-RTX engine where that is installed), verify, bench, and
    top-1 of every network on 512 bundled test images.
    """
    with uninterrupted():
        from ..data.demo import DEMO_IMAGE_SIZE, demo_checkpoint
        from ..engine.flavour import NoTensorRT
        from ..report.demo import accuracy_text
        from ..steps.demo import demo_accuracy
        from ..workspace import Workspace
        from . import bench, export, fuse, verify

    _step(ctx, "fuse", fuse.command, subject=str(demo_checkpoint()), name="demo", engines=engines)
    size = DEMO_IMAGE_SIZE
    try:
        _step(
            ctx, "export --onnx --trt fp16 --size 56", export.command,
            want_onnx=True, trt="fp16", image_size=size, engines=engines,
        )  # fmt: skip
    except NoTensorRT as error:
        say(f"no engine: {error}")
    _step(ctx, "verify", verify.command, files=(), engines=engines)
    _step(
        ctx,
        "bench --batch 1,32 --duration 3 --no-roofline",
        bench.command,
        batches=[1, 32],
        duration=3.0,
        roofline=False,
        engines=engines,
    )
    say("\n# top-1 on the bundled test images")
    say(accuracy_text(demo_accuracy(Workspace(engines).model("demo"))))


def _step(ctx: click.Context, title: str, step: click.Command, **arguments: object) -> None:
    say(f"\n# repvgg-deploy {title}")
    ctx.invoke(step, **arguments)
