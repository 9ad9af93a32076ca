"""The command group, and the one place that turns errors into a sentence and an exit code."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import click

from .. import __version__
from ..errors import RepvggDeployError, is_out_of_memory
from ..redo_log import recover, recover_inside
from ..report.text import one_line
from .console import say

#: In the order of the pipeline; each is a function of the same name in cli/<command>.py.
COMMANDS = (
    *("fuse", "inspect", "verify", "quantize", "export", "evaluate", "bench", "report", "serve"),
    *("train", "models", "doctor", "demo"),
)


class Pipeline(click.Group):
    """Imports a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{meant}")
        _recover(args[1:])
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f".{name}", __package__)
        command: click.Command = module.command
        return command


def _recover(args: Sequence[str]) -> None:
    """Complete what a killed run left where this one reads: whatever the arguments name."""
    for path in (Path(arg.partition("=")[2] or arg) for arg in args):
        with suppress(OSError, ValueError):  # too long for a path, say, or with a null character
            recover(path if path.is_dir() else path.parent)
            recover_inside(path)


@click.group(cls=Pipeline, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="repvgg-deploy")
def cli() -> None:
    """Take a RepVGG training checkpoint to a deployed network, and prove every step.

    \b
    repvgg-deploy fuse ckpt.pth
    repvgg-deploy export --onnx --trt fp16
    repvgg-deploy bench --batch 128

    Each command takes up what the one before left in engines/. Exit codes: 0 done, 1 error,
    2 wrong usage, 3 it ran but the check failed.
    """


class _Notes(logging.Handler):
    """What the library warns of, as the command line says it."""

    def emit(self, record: logging.LogRecord) -> None:
        say(one_line(f"note: {record.getMessage()}"))


def _terminated(number: int, frame: FrameType | None) -> None:
    """Leave by way of every ``finally``, so that a killed command leaves no temporary files."""
    sys.exit(128 + number)


def _give_up_stdout() -> None:
    """Where stdout takes no more: at exit Python would try once more, and end with code 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Entry point of the ``repvgg-deploy`` command."""
    before = signal.signal(signal.SIGTERM, _terminated)
    notes, log = _Notes(logging.WARNING), logging.getLogger("repvgg_deploy")
    log.addHandler(notes)
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted; nothing was left half-written.", err=True)
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        click.echo("Error: not enough memory for this; use a smaller --batch or --size.", err=True)
        sys.exit(1)
    except OSError as error:  # a full disk behind stdout, say; files are handled where they are
        click.echo(f"Error: the system refused: {error}.", err=True)
        _give_up_stdout()
        sys.exit(1)
    except RepvggDeployError as error:
        say(one_line(f"Error: {error.sentence}"))
        if error.code:
            say(error.code)
        sys.exit(error.exit_code)
    finally:
        log.removeHandler(notes)
        signal.signal(signal.SIGTERM, before)
