"""The page: self-contained, escaped, small enough, the same for the same scores. What it does in a browser is tested in
test_html_browser.py."""

from __future__ import annotations

import builtins
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

pytest.importorskip("plotly", reason="the page needs plotly: pip install 'keepsight[report]'")
pytest.importorskip("jinja2", reason="the page needs jinja2: pip install 'keepsight[report]'")

from fabricate import longterm_scores, many, ope_scores, vot_scores

from keepsight.datasets.frames import ArrayFrames, NoFrames
from keepsight.datasets.sequence import Annotation, Sequence
from keepsight.errors import InputError
from keepsight.evaluation.groups import group_scores
from keepsight.evaluation.html import Provenance, html_page
from keepsight.evaluation.report import paired_tests
from keepsight.evaluation.runs import Run
from keepsight.evaluation.scores import Scores
from keepsight.evaluation.strips import choose_frames, make_strips, worst_sequences

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "link", "img", "input", "br", "line"}


class Page(HTMLParser):
    """Collects elements, their attributes and the text of each kind; complains about elements that do not fit."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def data_of(page: Page) -> Any:
    return next(json.loads(t) for t in page.texts["script"] if t.startswith("[{"))


def without_plotly(text: str) -> str:
    from plotly.offline import get_plotlyjs

    assert text.count(get_plotlyjs()) == 1
    return text.replace(get_plotlyjs(), "")


def video(name: str, frames: int = 40, seed: int = 0) -> Sequence:
    """A noisy picture with a box that moves right."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 255, (frames, 90, 160, 3), dtype=np.uint8)
    boxes = np.array([[10.0 + 2 * i, 20, 30, 30] for i in range(frames)])
    return Sequence(name, "lasot", ArrayFrames(pictures), lambda: Annotation(boxes=boxes))


def with_sequences(tracker: str, values: dict[str, float]) -> Scores:
    one = ope_scores(tracker, sequences=len(values), attributes=())
    parts = tuple(
        replace(s, name=n, values={**s.values, "AUC": v})
        for s, (n, v) in zip(one.sequences, values.items(), strict=True)
    )
    return replace(one, sequences=parts)


def test_nothing_is_fetched_from_anywhere() -> None:
    text = html_page(many(2, 4))
    page = Page(text)
    sources = [a.get(k) or "" for _, a in page.elements for k in ("src", "href", "srcset", "data", "poster", "action")]
    assert all(s == "" or s.startswith(("#", "data:")) for s in sources)
    own = without_plotly(text)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", own)
    assert set(re.findall(r"https?://[^\s\"'<]+", own)) == {"http://www.w3.org/2000/svg"}  # a name of SVG
    policy = next(a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "</script" not in __import__("plotly.offline", fromlist=["get_plotlyjs"]).get_plotlyjs()


def test_names_cannot_break_out() -> None:
    evil = replace(ope_scores(EVIL, sequences=2, dataset=EVIL, attributes=(EVIL, "b", "c")), rule='"><img src=x>')
    evil = replace(
        evil, notes=(EVIL,), sequences=tuple(replace(s, name=f"{EVIL}{i}") for i, s in enumerate(evil.sequences))
    )
    page = Page(html_page([evil], title=EVIL, provenance=Provenance(command=EVIL, more={EVIL: EVIL})))
    assert len(page.of("script")) == 3
    assert page.of("img") == []
    assert not any(re.search(r"alert\(1\)", t) for t in page.texts["script"] if not t.startswith("[{"))
    assert data_of(page)[0]["trackers"][0]["name"] == EVIL
    assert EVIL in page.texts["h1"]


def test_same_scores_same_page() -> None:
    scores = [*many(3, 5), vot_scores("a")]
    assert html_page(scores) == html_page(scores)


def test_tables_can_be_read_aloud() -> None:
    page = Page(html_page([*many(3, 5), vot_scores("a"), longterm_scores("b")]))
    heads = page.of("th")
    assert heads
    assert all(a.get("scope") in ("col", "row") for a in heads)
    sortable = [a for a in heads if "data-kind" in a]
    assert sortable
    assert all(a.get("aria-sort") == "none" for a in sortable)
    assert all(a.get("aria-label") for a in page.of("div") if a.get("role") in ("region", "img"))
    assert page.of("html")[0]["lang"] == "en"
    assert [a["content"] for a in page.of("meta") if a.get("name") == "viewport"] == [
        "width=device-width, initial-scale=1"
    ]


def test_overview_marks_the_best_and_shows_published_numbers() -> None:
    scores = many(3, 5)
    page = Page(html_page(scores))
    assert len([a for a in page.of("td") if "best" in (a.get("class") or "")]) >= 3
    published = [a for a in page.of("tr") if a.get("class") == "published"]
    assert len(published) == len(group_scores(scores)[0].published()) > 50
    assert page.texts["span"].count("other rule") == 1  # DuML's, by pysot
    other = Page(html_page([replace(s, rule="lasot") for s in scores]))
    assert other.texts["span"].count("other rule") == len(published)
    assert not [a for a in Page(html_page(scores, published=False)).of("tr") if a.get("class") == "published"]


def test_data_holds_the_scores() -> None:
    scores = [ope_scores("a", sequences=3, seed=1), ope_scores("b", sequences=3, seed=2)]
    data = data_of(Page(html_page(scores)))
    best = group_scores(scores)[0].scores[0]
    assert data[0]["trackers"][0]["name"] == best.tracker
    assert data[0]["sequences"]["names"] == [s.name for s in best.sequences]
    assert data[0]["sequences"]["values"][0][0] == [pytest.approx(s.values["AUC"], abs=1e-5) for s in best.sequences]
    chart = data[0]["charts"][0]
    assert chart["traces"][0]["y"] == pytest.approx(list(best.curves["success"].y), abs=1e-5)


def test_undefined_numbers_become_dashes_and_null() -> None:
    one = ope_scores("a", sequences=2)
    nan = float("nan")
    holes = {"IV": {"P20": 0.5}, "x": {"AUC": nan, "P20": 0.1}, "y": {"AUC": 0.5}}
    one = replace(one, values={**one.values, "AUC": nan}, attributes=holes)
    data = data_of(Page(html_page([one])))
    assert data[0]["charts"][-1]["traces"][0]["y"] == [None, None, 50.0]


def test_attributes_without_any_number_are_left_out() -> None:
    nan = float("nan")
    one = replace(ope_scores("a", sequences=2), attributes={"IV": {"AUC": nan}, "SV": {"AUC": 0.5}})
    assert group_scores([one])[0].attributes == ("SV",)


def test_paired_tests_stand_in_the_page() -> None:
    scores = [ope_scores("good", skill=0.7, seed=1), ope_scores("bad", skill=0.3, seed=2)]
    tests = paired_tests(scores, ["bad", "good"])
    text = html_page(scores, comparisons=tests)
    assert "good is better; bad is better on" in text
    with pytest.raises(InputError, match="give two or more of bad, good"):
        paired_tests(scores, ["bad", "worse"])


def test_vot_is_tested_by_what_single_sequences_have() -> None:
    tests = paired_tests([vot_scores("a", seed=1), vot_scores("b", seed=2)], ["a", "b"])
    assert [t.metric for t in tests["vot2018", "vot-supervised"]] == ["A"]  # EAO exists for all sequences together only


def test_without_plotly_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("plotly"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"needs plotly.*pip install 'keepsight\[report\]'"):
        html_page([ope_scores("a", sequences=2)])


# --- strips ---------------------------------------------------------------------------------------------------------------


def test_worst_sequences_are_chosen() -> None:
    one = with_sequences("a", {"x": 0.5, "y": 0.1, "z": float("nan"), "w": 0.3})
    assert [s.name for s, _ in worst_sequences(one, 2)] == ["y", "w"]
    vot = vot_scores("a", sequences=5)  # sequences have no EAO
    assert worst_sequences(vot, 1)[0][1].name == "A"


def test_frames_show_the_failure() -> None:
    overlaps = np.full(300, 0.8)
    overlaps[120:200] = 0.0
    chosen = choose_frames(overlaps, 6)
    assert {0, 120, 299} <= set(chosen)
    assert len(chosen) == 6
    assert any(110 <= f < 120 for f in chosen)
    assert choose_frames(overlaps[:4], 6) == [0, 1, 2, 3]
    assert choose_frames(np.full(50, np.nan), 5)[-1] == 49


def test_strips_draw_prediction_and_truth() -> None:
    import cv2

    sequence = video("x")
    boxes = sequence.boxes + np.array([0, 25, 0, 0])
    one = with_sequences("a", {"x": 0.2})
    strips, notes = make_strips(group_scores([one])[0], {"x": sequence}, {"a": {"x": [Run(boxes)]}}, frames=4)
    assert notes == []
    thumbnail = strips[0].thumbnails[1]
    image = cv2.imdecode(np.frombuffer(thumbnail.jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert image.shape[:2] == (thumbnail.height, thumbnail.width)
    x, y, w, h = boxes[thumbnail.frame]
    edge = image[round(y + h), round(x) + 4 : round(x + w) - 4].mean(axis=0)
    assert edge[0] > edge[2] + 60, "the prediction's lower side is orange"
    tx, ty, tw, _ = sequence.boxes[thumbnail.frame]
    assert image[round(ty), round(tx) + 4 : round(tx + tw) - 4].mean() > 170, "the truth's upper side is white"


def test_strips_without_frames_say_so_and_small_budgets_hold() -> None:
    no_frames = replace(video("x"), frames=NoFrames(40))
    one = with_sequences("a", {"x": 0.2, "y": 0.3})
    runs = {"a": {n: [Run(no_frames.boxes)] for n in ("x", "y")}}
    strips, notes = make_strips(group_scores([one])[0], {"x": no_frames, "y": video("y")}, runs)
    assert [s.sequence for s in strips] == ["y"]
    assert "x is not shown" in notes[0]
    videos = {"x": video("x"), "y": video("y")}
    strips, notes = make_strips(group_scores([one])[0], videos, runs, max_bytes=len(strips[0].thumbnails) * 12_000)
    assert len(strips) <= 1
    assert "small" in notes[0]


def test_largest_report_stays_below_15_megabytes() -> None:
    """10 trackers on 280 sequences with curves, attributes, published numbers and frame strips, noise as pictures."""
    scores = many(10, 280)
    names = sorted({s.name for one in scores for s, _ in worst_sequences(one, 3)})
    videos = {name: video(name, frames=12, seed=i) for i, name in enumerate(names)}
    runs = {one.tracker: {name: [Run(v.boxes)] for name, v in videos.items()} for one in scores}
    text = html_page(scores, datasets={"lasot": videos}, runs={"lasot": runs})
    assert text.count("data:image/jpeg") >= 100
    assert len(text.encode()) < 15e6
