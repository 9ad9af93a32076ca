"""The documentation is true: every command of the README runs, generated pages are fresh."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import Cli
from .helpers import golden
from .test_packaging import required

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fenced(page: Path, language: str) -> list[str]:
    """Bodies of a page's fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def commands(page: Path) -> list[str]:
    return [line for block in fenced(page, "sh") for line in block.splitlines() if line.strip()]


def test_every_command_of_the_readme(cli: Cli, tmp_path: Path) -> None:
    """Ours run, in one folder and in order; make targets and extras exist."""
    pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx, which this platform lacks")
    shutil.copy(golden("official_plain"), tmp_path / "ckpt.pth")
    ran = []
    for line in commands(ROOT / "README.md"):
        program, *arguments = shlex.split(line)
        if program == "repvgg-deploy":
            bounded = ["--duration", "1"] if arguments[0] == "bench" else []
            result = cli(*arguments, *bounded)
            assert result.code == 0, (line, result.err)
            ran.append(arguments[0])
        elif program == "make":
            subprocess.run(["make", "-n", *arguments], cwd=ROOT, check=True, capture_output=True)
        else:
            assert (program, arguments[0]) == ("pip", "install"), line
            for extra in re.search(r"\[(.*)\]", arguments[1])[1].split(","):  # type: ignore[index]
                assert required("linux-x86", extra)
    assert ran == ["fuse", "export", "bench", "report"]


def test_the_readme_shows_what_the_commands_print(cli: Cli, tmp_path: Path) -> None:
    """The lines without timings are the same, word for word."""
    shutil.copy(golden("official_plain"), tmp_path / "ckpt.pth")
    (shown,) = (
        block for block in fenced(ROOT / "README.md", "text") if "fused and proved" in block
    )
    printed = cli("fuse", "ckpt.pth").err
    assert printed.splitlines()[0] in shown
    for word in ("proof on cpu, 8 samples", "folded in float64", "fused.safetensors  747.7 kB"):
        assert word in shown
        assert word in printed


def test_the_cli_reference_is_fresh() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_cli_reference.py"))["reference"]()
    assert (ROOT / "docs" / "cli.md").read_text() == made, "run make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_files_named_in_the_docs_exist() -> None:
    for page in PAGES:
        for name in re.findall(
            r"\b(?:tests|docs|repvgg_deploy)/[\w./-]+\.(?:py|md|json|svg)", page.read_text()
        ):
            assert (ROOT / name).exists(), (page.name, name)
