"""Write docs/cli.md from --help: python docs/make_cli_reference.py

A test holds the file against what this makes.
"""

from __future__ import annotations

from pathlib import Path

import click

from repvgg_deploy.cli.main import COMMANDS, cli

TARGET = Path(__file__).with_name("cli.md")
HEAD = """# Command line reference

Made by `make docs` from `--help`; do not edit. Exit codes of every command: 0 done, 1 error (one
sentence on stderr), 2 wrong usage, 3 it ran but the check failed. What humans read goes to stderr;
stdout holds results and what `--json` prints.
"""


def help_text(command: click.Command, name: str, parent: click.Context | None = None) -> str:
    settings = {**cli.context_settings, "max_content_width": 90, "terminal_width": 90}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    return command.get_help(context)


def reference() -> str:
    """The whole page."""
    parent = click.Context(cli, info_name="repvgg-deploy")
    parts = [HEAD, f"```text\n{help_text(cli, 'repvgg-deploy')}\n```\n"]
    for name in COMMANDS:
        command = cli.get_command(parent, name)
        assert command is not None
        text = help_text(command, name, parent)
        parts.append(f"## {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(reference())
    print(f"wrote {TARGET}")
