"""Plots: the files are there, are what they claim, embed TrueType fonts, and are not blank."""

from __future__ import annotations

import builtins
import itertools
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="plots need matplotlib: pip install 'keepsight[report]'")

from fabricate import longterm_scores, many, names, ope_scores, vot_scores

from keepsight.errors import InputError
from keepsight.evaluation.plots import ar_point, attribute_radar, curve_plot, ranking_plot, write_plots
from keepsight.evaluation.styles import tracker_styles


def pixels(path: Path) -> np.ndarray:
    import cv2

    image = cv2.imread(str(path))
    assert image is not None
    return image


def pdf_streams(data: bytes) -> bytes:
    """The PDF with its compressed parts unpacked."""
    parts = [data]
    for found in re.finditer(rb"stream\r?\n(.*?)endstream", data, re.DOTALL):
        try:
            parts.append(zlib.decompress(found[1]))
        except zlib.error:
            continue
    return b"\n".join(parts)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("plots")
    vot = [vot_scores(name, skill=0.3 + 0.1 * i, seed=i) for i, name in enumerate(names(3))]
    return write_plots([*many(3, 12), *vot, longterm_scores("KeepTrack")], folder)


def test_every_plot_is_written_in_both_formats(written: list[Path]) -> None:
    stems = {p.stem for p in written if p.suffix == ".pdf"}
    assert (
        stems
        == {p.stem for p in written if p.suffix == ".png"}
        == {
            *(
                f"lasot-pytracking-{n}"
                for n in ("success", "precision", "norm_precision", "attribute-radar", "attribute-table")
            ),
            *(
                f"vot2018-vot-supervised-{n}"
                for n in ("eao", "ar", "eao-ranking", "attribute-radar", "attribute-table")
            ),
            "votlt2019-vot-lt-precision_recall",
        }
    )


def test_pdfs_embed_truetype_fonts(written: list[Path]) -> None:
    for path in (p for p in written if p.suffix == ".pdf"):
        data = path.read_bytes()
        assert data.startswith(b"%PDF-")
        text = pdf_streams(data)
        assert b"/FontFile2" in text, path  # TrueType, embedded: Type 42
        assert b"/Type3" not in text.replace(b" ", b""), path
        width = re.search(rb"/MediaBox\s*\[\s*0 0 ([\d.]+)", text)
        assert width is not None
        assert float(width[1]) <= 7 * 72  # no wider than a page


def test_pngs_show_something(written: list[Path]) -> None:
    for path in (p for p in written if p.suffix == ".png"):
        image = pixels(path)
        assert min(image.shape[:2]) > 300
        assert 0.005 < (image < 200).any(axis=2).mean() < 0.9, path
        assert (image[:3] > 250).all(), path  # nothing is cut off at the rims
        assert (image[-3:] > 250).all(), path
        assert (image[:, :3] > 250).all(), path
        assert (image[:, -3:] > 250).all(), path


def test_same_scores_give_the_same_bytes(tmp_path: Path) -> None:
    scores = [ope_scores("a", sequences=4, attributes=())]
    first, second = (write_plots(scores, tmp_path / n, formats=("pdf", "png", "svg")) for n in ("1", "2"))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_legend_is_ranked_by_the_summary_number() -> None:
    figure = curve_plot(many(4, 10)[::-1], "success")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    numbers = [float(label.split("[")[1].rstrip("]")) for label in labels]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == 4


def test_odd_names_are_printed_as_they_are(tmp_path: Path) -> None:
    odd = ["_hidden", "cost $5 and $6", "a^b_c", "<script>"]
    scores = [ope_scores(name, sequences=4, seed=i, attributes=("$x$", "_y", "z")) for i, name in enumerate(odd)]
    labels = {t.get_text() for t in curve_plot(scores, "success").axes[0].get_legend().get_texts()}
    assert len(labels) == 4  # a leading underscore would hide one
    assert all(p.stat().st_size > 1000 for p in write_plots(scores, tmp_path, formats=("png",)))


def test_missing_numbers_do_not_stop_a_plot(tmp_path: Path) -> None:
    whole = ope_scores("a", sequences=4)
    holes = replace(whole, tracker="b", attributes={"IV": {"AUC": float("nan")}}, curves={}, values={}, intervals={})
    assert len(write_plots([whole, holes], tmp_path, formats=("png",))) == 5


def test_lines_differ_without_colour() -> None:
    styles = list(tracker_styles(names(28)).values())
    assert len({(s.colour, s.dash) for s in styles}) == 28
    assert all(a.dash != b.dash and a.colour != b.colour for a, b in itertools.pairwise(styles))


def test_robustness_axis_of_vot() -> None:
    """With 0.1 failures in 100 frames a tracker is on the target after 100 frames with a chance of exp(-0.1)."""
    scores = replace(vot_scores("a"), values={"A": 0.6, "R": 0.1, "EAO": 0.4})
    assert ar_point(scores, failures=True) == pytest.approx((np.exp(-0.1), 0.6))
    assert ar_point(scores, failures=False) == (0.1, 0.6)


def test_what_cannot_be_plotted_is_named(tmp_path: Path) -> None:
    scores = [ope_scores("a", sequences=3)]
    with pytest.raises(InputError, match="did you mean 'success'"):
        curve_plot(scores, "sucess")
    with pytest.raises(InputError, match="no metric 'EAO'"):
        ranking_plot(scores)
    with pytest.raises(InputError, match="one data set"):
        curve_plot([*scores, vot_scores("a")])
    with pytest.raises(InputError, match="no tracker has scores per attribute"):
        attribute_radar([replace(scores[0], attributes={})])
    with pytest.raises(InputError, match="choose from pdf, png, svg"):
        write_plots(scores, tmp_path, formats=("gif",))


def test_without_matplotlib_the_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'keepsight\[report\]'"):
        write_plots([ope_scores("a", sequences=3)], tmp_path)
