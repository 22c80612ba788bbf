"""The README's commands and Python blocks run as they stand, on a short piece of the demo's clip.

Fences marked ``bash`` and ``python`` are executed; ``sh`` and ``py`` mark what needs a camera or a download.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import torch

from keepsight.cli import DataCheck, Demo, Eval, Report, Track, Train, main
from keepsight.datasets.synthetic import render_clip
from keepsight.models.dimp import DiMPNet, network_config
from keepsight.trackers.registry import tracker_names
from keepsight.video import VideoWriter
from keepsight.weights import WeightsHeader, save_weights

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(("pip ", "#"))]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's clip (its first frame is the README's) and random PrDiMP weights."""
    folder = tmp_path_factory.mktemp("readme")
    sequence = folder / "keepsight-demo" / "clip"
    sequence.mkdir(parents=True)
    clip = render_clip(frames=5)
    with VideoWriter(sequence / "video.mp4", clip.fps) as video:
        for frame in clip:
            video.write(frame.image)
    rows = [",".join(map(str, box)) for box in clip.boxes]
    (sequence / "groundtruth.txt").write_text("\n".join(rows) + "\n")
    torch.manual_seed(0)
    config = network_config("prdimp18")
    header = WeightsHeader("dimp", "prdimp18", dataclasses.asdict(config))
    save_weights(folder / "prdimp18.safetensors", DiMPNet(config).state_dict(), header)
    return folder


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("KEEPSIGHT_WEIGHTS", str(place))


@pytest.mark.parametrize("command", commands())
def test_command(command: str, place: Path) -> None:
    words = shlex.split(command)
    if ">" in words:
        words = words[: words.index(">")]
    assert words[0] == "keepsight"
    assert main(words[1:]) == 0
    for option in ("--save", "--save-densities", "--save-masks"):
        if option in words:
            assert (place / words[words.index(option) + 1]).exists()


@pytest.mark.parametrize("code", blocks("python"), ids=range(len(blocks("python"))))
def test_python(code: str) -> None:
    exec(compile(code, "README.md, a block", "exec"), {})


def test_python_that_needs_a_camera_is_python() -> None:
    for code in blocks("py"):
        compile(code, "README.md", "exec")


def test_there_is_something_to_execute() -> None:
    assert len(commands()) >= 5
    assert len(blocks("python")) >= 4


def test_both_first_commands_stand_there() -> None:
    lines = README.splitlines()
    assert "pip install . && keepsight demo" in lines
    assert "pip install '.[test]' && pytest -n 2 --dist loadfile" in lines


def test_options_and_names_are_those_that_exist() -> None:
    fields = {f.name for command in (Track, Demo) for f in dataclasses.fields(command)} - {"source"}
    some = {f.name for command in (Eval, Report, DataCheck, Train) for f in dataclasses.fields(command)}
    elsewhere = {"name", "version", "out", "dist"}  # of subcommands, and of pytest
    torchrun = {"standalone", "nproc_per_node"}
    told = {name.replace("-", "_") for name in re.findall(r"--([a-z][a-z-]*[a-z])", README)}
    assert fields | elsewhere <= told
    assert told <= fields | some | elsewhere | torchrun
    table = README.split("## Trackers")[1].split("ATOM's ablations")[0]
    names = {
        n for line in table.splitlines() if line.startswith("| `") for n in re.findall(r"`([^`]+)`", line.split("|")[1])
    }
    assert names <= set(tracker_names())
    docs = Path(__file__).parents[1] / "docs"
    pages = "".join((docs / page).read_text(encoding="utf-8") for page in ("atom.md", "keeptrack.md"))
    for name in set(tracker_names()) - names:  # the ablations, on pages of their own
        family, _, left_out = name.partition("_")
        assert f"`{name}`" in pages or (family in ("atom", "atom-lite") and f"`.._{left_out}`" in pages), name


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if not link.startswith("http"):
            assert (Path(__file__).parents[1] / link).exists(), link
