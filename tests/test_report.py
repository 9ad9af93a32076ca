"""report: what it holds, what it says of what is missing or damaged, and that names stay text."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from repvgg_deploy.errors import UserError
from repvgg_deploy.rebuild import read_json, rebuild
from repvgg_deploy.report.html.page import html, markdown
from repvgg_deploy.report.html.summary import summarize
from repvgg_deploy.sidecar import to_json
from repvgg_deploy.sqnr import LOWEST
from repvgg_deploy.steps.lineage import collect as collect_module
from repvgg_deploy.steps.lineage.collect import collect
from repvgg_deploy.steps.lineage.intervals import median_interval
from repvgg_deploy.steps.lineage.record import Report
from repvgg_deploy.workspace import ModelFolder

from .conftest import Cli
from .helpers import GOLDEN, training_state
from .report_models import SCRIPT, bench, make_model
from .report_numbers import expected_tables

pytest.importorskip("matplotlib", reason="needs the extra report")
pytest.importorskip("jinja2", reason="needs the extra report")

ROOT = Path(__file__).parents[1]
FOLDER = Path("engines/ckpt")
SCHEMA = json.loads((ROOT / "docs/schemas/report-2.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_model(folder)
    return folder


@pytest.fixture
def model(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    """A copy of the model, measured, in the current folder."""
    shutil.copytree(made / "engines", tmp_path / "engines")
    shutil.copy(made / "bench.json", tmp_path / FOLDER / "bench.json")
    monkeypatch.chdir(tmp_path)
    return ModelFolder(FOLDER)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def statuses(report: Report) -> dict[str, str]:
    return {Path(file.name).name: file.status for file in report.files}


def verdicts(report: Report) -> dict[str, str]:
    return {proof.target: proof.verdict for proof in report.proofs}


class Tags(HTMLParser):
    """Start tags, and the attributes that could run or fetch something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.active: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            leads_away = name in ("src", "href", "xlink:href") and not (value or "").startswith(
                ("#", "data:")
            )
            if name.startswith("on") or leads_away:
                self.active.append((name, value))


def test_the_command_writes_three_files_of_one_content(cli: Cli, model: ModelFolder) -> None:
    result = cli("report", "--json")
    assert result.code == 0, result.err
    assert "4 of 4 steps proved" in result.err
    page, text, data = (FOLDER / f"report.{end}" for end in ("html", "md", "json"))
    report = read_json(data, Report)
    assert json.loads(result.out) == json.loads(data.read_text())
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(data.read_text()))
    assert rebuild(Report, json.loads(to_json(report))) == report
    for file in report.files:
        assert file.sha256 is not None
        assert file.sha256 in page.read_text()
        assert file.sha256 in text.read_text()
    for command in report.commands:
        assert f"    {command.line}\n" in text.read_text()
    assert cli("report").code == 0  # a report may be written over


def test_what_a_report_holds(model: ModelFolder) -> None:
    report = collect(model)
    names = ["ckpt.pth", "fused.safetensors", "fp32.onnx", "fp16.onnx", "int8.onnx"]
    assert list(statuses(report).items()) == [(name, "intact") for name in names]
    assert verdicts(report) == dict.fromkeys(names[1:], "proved")
    fused = report.proofs[0]
    stored = json.loads((FOLDER / "fused.safetensors.json").read_text())["proof"]
    assert [one.ratio for one in fused.compared] == [
        *(part["ratio"] for part in stored["parts"]), stored["end_to_end"]["ratio"],
    ]  # fmt: skip
    assert fused.algebra == max(stored["algebra"].values())
    int8 = report.proofs[-1].likeness
    assert int8 is not None
    assert int8.sqnr_db == json.loads((FOLDER / "int8.onnx.json").read_text())["proof"]["sqnr_db"]
    # six blocks, each of 3x3 and 1x1 with batch norm, and one identity
    before, after, *graphs = report.operators
    assert before.counts == {"BatchNormalization": 13, "Conv": 12, "Add": 7}
    assert after.counts == {"Conv": 6}
    assert [graph.counts["Conv"] for graph in graphs] == [6, 6, 6]
    assert {one.section for one in report.absent} == {"engine", "accuracy"}


def test_ranges_are_those_of_the_tensors(model: ModelFolder, made: Path) -> None:
    ranges = collect(model).ranges
    state = torch.load(made / "ckpt.pth", weights_only=True)
    for one in ranges.weights:
        kernels = [state[f"{one.block}.rbr_{name}.conv.weight"] for name in ("dense", "1x1")]
        assert one.before is not None
        assert one.before.minimum == min(float(kernel.min()) for kernel in kernels)
        assert one.before.maximum == max(float(kernel.max()) for kernel in kernels)
    assert len(ranges.weights) == len(ranges.activations) == 6
    assert (ranges.samples, ranges.without) == (24, [])
    for block in ranges.activations:  # the same function, so the same range but for rounding
        assert block.before is not None
        assert block.after.maximum == pytest.approx(block.before.maximum, rel=1e-4)
        assert block.after.minimum == pytest.approx(block.before.minimum, rel=1e-4)


def test_no_ranges_where_values_are_not_finite(
    model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = np.full((2, 3, 32, 32), 3e38, np.float32)
    monkeypatch.setattr(collect_module, "find_images", lambda files: ("huge", iter([huge])))
    report = collect(model)
    assert report.ranges.activations == []
    (without,) = report.ranges.without
    assert "huge: the network gives NaN or infinity" in without
    jsonschema.validate(json.loads(to_json(report)), SCHEMA)


def test_without_images_the_weights_alone(model: ModelFolder) -> None:
    for path in FOLDER.glob("int8*"):
        path.unlink()
    ranges = collect(model).ranges
    assert len(ranges.weights) == 6
    assert ranges.activations == []
    (without,) = ranges.without
    assert "no sidecar names images" in without


def test_speed_is_what_the_benchmark_measured(model: ModelFolder) -> None:
    speed = collect(model).speed
    assert speed is not None
    assert [(one.batch, one.label) for one in speed.timings] == [
        (batch, label) for batch in (1, 8) for label in ("unfused", "fused", "int8")
    ]
    fused = speed.timings[4]
    assert fused.median == pytest.approx(0.016)
    assert fused.images_per_second == pytest.approx(8 / 0.016)
    assert fused.ratio == pytest.approx(2.0)
    assert fused.interval is not None
    assert fused.interval[0] < fused.median < fused.interval[1]
    assert fused.file == "fused.safetensors"
    assert speed.outdated == []


def test_the_interval_of_a_median_by_order_statistics() -> None:
    """Ranks by the binomial distribution's table: 2 and 9 of 10, 40 and 61 of 100."""
    import numpy as np

    assert median_interval(np.arange(1.0, 6.0)) is None
    assert median_interval(np.arange(1.0, 7.0)) == (1, 6)
    assert median_interval(np.arange(1.0, 11.0)) == (2, 9)
    assert median_interval(np.arange(1.0, 101.0)) == (40, 61)
    low, high = median_interval(np.arange(1.0, 2001.0)) or (0, 0)
    assert (low, high) == (956, 1045)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda: (FOLDER / "fp32.onnx").unlink(), ("fp32.onnx", "missing", "not proved")),
        (
            lambda: (FOLDER / "fp32.onnx").write_bytes(b"other"),
            ("fp32.onnx", "differs", "failed"),
        ),
        (
            lambda: (FOLDER / "fp32.onnx.json").write_text('{"sha256": [1], "source": 3'),
            ("fp32.onnx", "differs", None),
        ),
        (
            lambda: edit(FOLDER / "fp32.onnx.json", lambda d: d.update(precision="fp16")),
            ("fp32.onnx", "differs", "failed"),
        ),
        (
            lambda: (FOLDER / "fp32.onnx.json").unlink(),
            ("fp32.onnx", "unrecorded", None),
        ),
        (
            lambda: edit(FOLDER / "fp32.onnx.json", lambda d: d["source"].update(sha256="0" * 64)),
            ("fp32.onnx", "stale", "not proved"),
        ),
        (
            lambda: edit(
                FOLDER / "fp32.onnx.json", lambda d: d["proof"]["checks"][0].update(ratio=99.0)
            ),
            ("fp32.onnx", "intact", "failed"),
        ),
    ],
)
def test_a_file_that_is_not_what_was_recorded(
    model: ModelFolder,
    damage: Callable[[], object],
    expected: tuple[str, str, str | None],
) -> None:
    damage()
    report = collect(model)
    name, status, verdict = expected
    assert statuses(report)[name] == status
    assert verdicts(report).get(name) == verdict
    assert statuses(report)["fp16.onnx"] == "intact"
    loud = status in ("missing", "differs", "stale")
    assert (name in [file.name for file in report.broken]) == loud
    for text in (html(report, "r.json"), markdown(report, "r.json")):
        assert ("Files that are not what was recorded" in text) == loud


def test_what_comes_from_a_changed_file_is_out_of_date(model: ModelFolder) -> None:
    (FOLDER / "fused.safetensors").write_bytes(b"other")
    report = collect(model)
    assert statuses(report)["fused.safetensors"] == "differs"
    assert {statuses(report)[name] for name in ("fp32.onnx", "fp16.onnx", "int8.onnx")} == {"stale"}
    assert report.ranges.weights == []
    assert "proved" not in verdicts(report).values()
    html(report, "r.json")


def test_a_checkpoint_that_is_gone_or_another(cli: Cli, checkpoint: Path) -> None:
    assert cli("fuse", checkpoint).code == 0
    checkpoint.rename("elsewhere.pth")
    report = collect(ModelFolder(FOLDER))
    assert statuses(report)["ckpt.pth"] == "missing"
    assert verdicts(report) == {"fused.safetensors": "proved"}
    assert "ckpt.pth is not here any more" in report.ranges.without[0]
    torch.save(training_state(seed=1), checkpoint)
    report = collect(ModelFolder(FOLDER))
    assert statuses(report) == {"ckpt.pth": "differs", "fused.safetensors": "stale"}
    assert {one.section for one in report.absent} == {
        "training", "ONNX", "int8", "engine", "speed", "accuracy",
    }  # fmt: skip
    page = html(report, "r.json")
    assert "repvgg-deploy quantize --calib IMAGES" in page
    assert "repvgg-deploy bench" in page


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "NaN", '{"schema": 9}', '{"a":' * 100_000, "\udcff"],
)
def test_a_benchmark_that_cannot_be_used(model: ModelFolder, content: str) -> None:
    model.bench.write_bytes(content.encode(errors="surrogateescape"))
    report = collect(model)
    assert report.speed is None
    (absent,) = (one for one in report.absent if one.section == "speed")
    assert "bench.json" in absent.reason
    assert absent.command == "repvgg-deploy bench"


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["contests"][0]["measured"][0].update(seconds=[]),
        lambda d: d["contests"][0]["measured"][0].update(seconds=[0.1, -1.0]),
        lambda d: d["contests"][0]["measured"][0].update(label="another"),
        lambda d: d["contests"][0]["measured"][0]["summary"].update(median=0.0),
        lambda d: d["contests"][0].update(batch="8"),
        lambda d: d.pop("subjects"),
        lambda d: d.update(more=1),
    ],
)
def test_a_damaged_benchmark(
    model: ModelFolder, change: Callable[[dict[str, Any]], object]
) -> None:
    edit(model.bench, change)
    report = collect(model)
    assert report.speed is None
    assert "speed" in {one.section for one in report.absent}


def test_a_benchmark_of_files_that_have_changed_since(model: ModelFolder) -> None:
    edit(model.bench, lambda d: d["subjects"][2].update(sha256="0" * 64))
    report = collect(model)
    assert report.speed is not None
    assert report.speed.outdated == ["int8.onnx"]
    assert "Measured files that have changed since" in html(report, "r.json")


def test_a_damaged_report_of_accuracy_is_an_error(cli: Cli, model: ModelFolder) -> None:
    Path("bad.json").write_text("[1]")
    for name, words in (("gone.json", "no such file"), ("bad.json", "is not what evaluate")):
        result = cli("report", "--evaluation", name)
        assert result.code == 1
        assert name in result.err
        assert words in result.err
        assert "Traceback" not in result.err
    assert not (FOLDER / "report.html").exists()


def test_accuracy_stands_beside_speed(cli: Cli, model: ModelFolder, made: Path) -> None:
    """From the record that evaluate leaves, without an option."""
    result = cli("evaluate", "--data", made / "x.npz", "--json")
    assert result.code == 0, result.err
    report = collect(model)
    assert report.evaluation is not None
    names = ["ckpt.pth", "fused.safetensors", "fp32.onnx", "fp16.onnx", "int8.onnx"]
    assert [one.file for one in report.evaluation.networks] == names
    assert [one.changed for one in report.evaluation.networks] == [False] * 5
    assert [one.target for one in report.commands[-2:]] == ["bench.json", "evaluation.json"]
    page = html(report, "r.json")
    table = page[page.index('id="accuracy-table"') :]
    first = report.evaluation.networks[0]
    assert first.top1 is not None
    assert f'<data value="{first.top1.value}">{first.top1.value:.1%}</data>' in table
    elsewhere = json.loads(result.out)
    Path("accuracy.json").write_text(json.dumps(elsewhere))
    named = collect(model, Path("accuracy.json"))
    assert named.evaluation == replace(report.evaluation, path="accuracy.json")
    edit(Path("accuracy.json"), lambda d: [n.update(path="/other.onnx") for n in d["networks"]])
    with pytest.raises(UserError, match="of none of this model's files"):
        collect(model, Path("accuracy.json"))


def test_equal_outputs_are_exact_and_those_with_nan_are_not(
    cli: Cli, model: ModelFolder, made: Path
) -> None:
    """JSON has null for the one; earlier versions had it for both."""
    assert cli("evaluate", "--data", made / "x.npz").code == 0

    def spoil(record: dict[str, Any]) -> None:
        for one, sqnr_db, not_finite in zip(
            record["networks"], (None, None, None, LOWEST, 30.0), (0, 0, 2, 2, 0), strict=True
        ):
            one["scores"].update(sqnr_db=sqnr_db, not_finite=not_finite)

    edit(model.evaluation, spoil)
    report = collect(model)
    assert report.evaluation is not None
    found = [one.sqnr_db for one in report.evaluation.networks]
    assert found == [None, None, LOWEST, LOWEST, 30.0]
    jsonschema.validate(json.loads(to_json(report)), SCHEMA)
    page, text = html(report, "r.json"), markdown(report, "r.json")
    assert page[page.index('id="accuracy-table"') :].count("exact") == 1, "not of the reference"
    (row,) = (line for line in text.splitlines() if "| exact |" in line)
    assert row.startswith("| fused.safetensors |")


@pytest.mark.parametrize("agreement", [1.0, None])
def test_an_int8_model_that_is_exact(model: ModelFolder, agreement: float | None) -> None:
    edit(
        FOLDER / "int8.onnx.json",
        lambda d: d["proof"].update(sqnr_db=None, agreement=agreement, min_agreement=None),
    )
    report = collect(model)
    (int8,) = (one for one in report.proofs if one.likeness is not None)
    assert (int8.verdict, int8.detail) == ("proved", "")
    answer = summarize(report)[3]
    assert ("exact" in answer.short) == (agreement is None)
    for text in (html(report, "r.json"), markdown(report, "r.json")):
        assert "SQNR exact" in text


def test_a_file_that_has_changed_since_it_was_evaluated(
    cli: Cli, model: ModelFolder, made: Path
) -> None:
    assert cli("evaluate", "--data", made / "x.npz").code == 0
    assert cli("export", "--onnx", "--size", "32", "--opset", "18").code == 0
    report = collect(model)
    assert report.evaluation is not None
    changed = [one.file for one in report.evaluation.networks if one.changed]
    assert changed == ["fp32.onnx"]
    page, text = html(report, "r.json"), markdown(report, "r.json")
    assert "Evaluated files that have changed since" in page
    assert r"**Changed since they were evaluated:** fp32.onnx" in text
    assert cli("verify").code == 0  # which takes no notice of the record


def test_the_record_is_found_when_the_workspace_has_moved(
    cli: Cli, model: ModelFolder, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("evaluate", "--data", made / "x.npz").code == 0
    shutil.move("engines", "elsewhere")
    Path("other").mkdir()
    monkeypatch.chdir("other")
    evaluation = collect(ModelFolder(Path("../elsewhere/ckpt"))).evaluation
    assert evaluation is not None
    assert len(evaluation.networks) == 5


@pytest.mark.parametrize("content", ["", "[1]", '{"networks": []}', '{"networks": [{"path": 1}]}'])
def test_a_damaged_record_of_accuracy_is_told(model: ModelFolder, content: str) -> None:
    model.evaluation.write_text(content)
    report = collect(model)
    assert report.evaluation is None
    (absent,) = (one for one in report.absent if one.section == "accuracy")
    assert "evaluation.json: is not what evaluate" in absent.reason
    assert absent.command.startswith("repvgg-deploy evaluate --data IMAGES --model ckpt")


def test_numbers_of_the_page_are_those_of_the_json(model: ModelFolder) -> None:
    report = collect(model)
    page = html(report, "r.json")
    for name, rows in expected_tables(json.loads(to_json(report))).items():
        table = re.search(rf'id="{name}".*?</table>', page, re.S)
        assert table is not None, name
        shown = [float(value) for value in re.findall(r'<data value="([^"]+)"', table[0])]
        assert shown == [value for row in rows for _, value in row], name
        assert len(rows) > 0
    assert html(report, "r.json") == page  # no dates, no random ids


def test_failures_and_doubts_stand_beside_the_times(model: ModelFolder) -> None:
    report = collect(model)
    page, text = html(report, "r.json"), markdown(report, "r.json")
    for words in ("onnxruntime-cpu, batch 8: fused drifted", "batch 8, bf16.onnx: this runtime"):
        assert words in page[page.index('id="speed"') : page.index('id="timing-table"')]
    table = page[page.index('id="timing-table"') : page.index('id="detail-table"')]
    assert table.count(">yes</span>") == table.count(">none</span>") == 3  # of batch 8, and 1
    assert "**Doubt:** onnxruntime-cpu, batch 8: fused drifted" in text
    assert "**No time:** onnxruntime-cpu, batch 8, bf16.onnx: this runtime has no bf16" in text
    assert '<span class="word bad">power</span>' in page  # the GPU was throttled


def test_the_headline_leaves_out_ratios_of_too_few_samples(model: ModelFolder) -> None:
    def without_interval(data: dict[str, Any], contests: int) -> None:
        for contest in data["contests"][:contests]:
            contest["measured"][1]["ratio"].update(value=9.0, low=None, high=None)

    edit(model.bench, lambda data: without_interval(data, 1))
    faster = summarize(collect(model))[2]
    assert faster.short == "2.00\N{MULTIPLICATION SIGN}"
    assert (
        "in 1 contest; the 95 % interval is above 1 in 1 of them; 1 more had too few" in faster.text
    )
    edit(model.bench, lambda data: without_interval(data, 2))
    assert summarize(collect(model))[2].short == "too few samples to say"


def test_a_benchmark_of_an_older_schema(model: ModelFolder) -> None:
    shutil.copy(GOLDEN / "bench-1.json", model.bench)
    report = collect(model)
    assert report.speed is not None
    assert {one.kind for one in report.speed.timings} == {"unfused", "folded", "fused"}
    assert 'id="timing-table"' in html(report, "r.json")
    assert 'id="condition-table"' not in html(report, "r.json")


def test_hostile_names_stay_text(cli: Cli, made: Path, tmp_path: Path) -> None:
    evil = tmp_path / f"{SCRIPT.replace('/', '_')} $x^{{$ \u202e\x1b[31m.pth"
    shutil.copy(made / "ckpt.pth", evil)
    name = "<img src=x onerror=alert(1)>|`$a_{$"
    assert cli("fuse", evil, "--name", name).code == 0
    folder = ModelFolder(Path("engines") / name)
    hostile = f"{SCRIPT}|[x](http://x)`$\\frac{{$ -->\n# title \u202e"
    measured = bench_of(folder, hostile)
    (folder.path / "bench.json").write_text(to_json(measured))
    result = cli("report")
    assert result.code == 0, result.err
    assert "\x1b" not in result.err
    page = (folder.path / "report.html").read_text()
    found = Tags(page)
    assert not found.tags & {"script", "img", "iframe", "object", "a1"}
    assert found.active == []
    for text in (page, (folder.path / "report.md").read_text()):
        assert "\u202e" not in text
        assert "\x1b" not in text
    text = (folder.path / "report.md").read_text()
    assert not re.search(r"(?<!\\)<(script|img)", re.sub(r"(?m)^    .*$", "", text))
    assert "\n# title" not in text
    assert SCRIPT in json.loads((folder.path / "report.json").read_text())["speed"]["notes"][0]


def bench_of(folder: ModelFolder, hostile: str) -> Any:
    """A benchmark in which every text is hostile."""
    shutil.copy(folder.fused, folder.path / "int8.onnx")
    shutil.copy(f"{folder.fused}.json", folder.path / "int8.onnx.json")
    measured = bench(folder.path)
    for name in ("int8.onnx", "int8.onnx.json"):
        (folder.path / name).unlink()

    def renamed(label: str) -> str:
        return f"{label} {hostile}"

    return replace(
        measured,
        command=hostile,
        scenario=hostile,
        notes=[hostile],
        environment={hostile: hostile},
        settings={hostile: [hostile]},
        subjects=[replace(one, label=renamed(one.label)) for one in measured.subjects],
        contests=[
            replace(
                contest,
                runtime=hostile,
                baseline=renamed(contest.baseline),
                doubts=[hostile],
                measured=[replace(one, label=renamed(one.label)) for one in contest.measured],
            )
            for contest in measured.contests
        ],
        rooflines=[replace(one, label=hostile, bound=hostile) for one in measured.rooflines],
        explanations=[replace(one, text=hostile) for one in measured.explanations],
        ceilings=[{"device": hostile, "macs": {hostile: 5e10, "x": "much"}, "bytes": 1e10}, {}],
    )


def test_sidecars_that_name_one_another_in_a_ring(model: ModelFolder) -> None:
    for one, other in (("fp32.onnx", "fp16.onnx"), ("fp16.onnx", "fp32.onnx")):
        edit(FOLDER / f"{one}.json", lambda d, to=other: d["source"].update(path=to))
    page = html(collect(model), "r.json")
    assert page.count(">fp32.onnx</span>") == 1


def test_what_stands_there_is_not_written_over(cli: Cli, model: ModelFolder) -> None:
    Path("README.html").write_text("mine")
    before = (FOLDER / "fp32.onnx.json").read_bytes()
    for output in ("README.html", FOLDER / "fp32.onnx.html", FOLDER / "bench.html", "report.txt"):
        result = cli("report", "--output", output)
        assert result.code == 1, output
        assert "Error: " in result.err
    assert Path("README.html").read_text() == "mine"
    assert (FOLDER / "fp32.onnx.json").read_bytes() == before


def test_nothing_is_left_where_writing_fails(
    cli: Cli, model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> str:
        raise UserError("no.")

    monkeypatch.setattr("repvgg_deploy.report.html.write.markdown", fails)
    assert cli("report").code == 1
    assert not list(FOLDER.glob("*report*"))


def test_no_fused_model_is_an_error(cli: Cli) -> None:
    result = cli("report")
    assert result.code == 1
    assert "run repvgg-deploy fuse CHECKPOINT first" in result.err


@pytest.mark.parametrize("module", ["matplotlib", "jinja2"])
def test_without_the_extra(
    cli: Cli, model: ModelFolder, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    result = cli("report")
    assert result.code == 1
    assert module in result.err
    assert 'pip install "repvgg-deploy[report]"' in result.err


def test_the_commands_make_the_same_files_again(cli: Cli, model: ModelFolder) -> None:
    """All but the training and the benchmark, which were made up; the hashes are the recorded
    ones."""
    import shlex

    report = collect(model)
    recorded = {file.name: file.sha256 for file in report.files}
    shutil.rmtree("engines")
    for command in report.commands:
        program, *arguments = shlex.split(command.line)
        assert program == "repvgg-deploy"
        if arguments[0] not in ("train", "bench"):
            assert cli(*arguments).code == 0, command.line
    again = {file.name: file.sha256 for file in collect(model).files}
    assert again == recorded
