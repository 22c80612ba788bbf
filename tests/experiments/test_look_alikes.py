"""The look-alikes experiment: exact videos, rules that match as they say, and numbers that are those of the tracked boxes."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from keepsight.boxes import Box
from keepsight.cli import main
from keepsight.errors import InputError
from keepsight.experiments.look_alikes import (
    BASE,
    KEPT,
    POSITION,
    RANK,
    RUNS,
    SUMMARY,
    CrossingVideo,
    LookAlikes,
    LookAlikesConfig,
    PositionMatcher,
    RankMatcher,
    describe,
    judge,
    load_trackers,
    table,
)
from keepsight.nn.association import Candidates

SMALL = LookAlikesConfig(seeds=2, videos=2, frames=12)


def test_boxes_are_where_the_pictures_are():
    """Without ground and noise, the target alone is what is in its box."""
    video = CrossingVideo(LookAlikesConfig(frames=30, noise=0.0), 0, 0)
    video._ground = np.zeros_like(video._ground)
    video._others, video._behind, video._paths = [], [], (video._paths[0], [])
    for i in (0, 13, 29):
        rows, cols = np.nonzero(video[i].max(axis=2) > 40)
        x, y, w, h = video.boxes[i]
        edges = cols.min(), rows.min(), cols.max() + 1, rows.max() + 1
        assert np.allclose(edges, (x, y, x + w, y + h), atol=1.6)


def test_videos_differ_and_repeat():
    one, again, other = (CrossingVideo(SMALL, *key) for key in ((0, 1), (0, 1), (1, 1)))
    assert np.array_equal(one[5], again[5])
    assert np.array_equal(one.others, again.others)
    assert not np.array_equal(one[5], other[5])
    assert not np.array_equal(one.boxes, other.boxes)
    assert one[0].shape == (240, 320, 3)
    assert one[0].dtype == np.uint8


def test_look_alikes_come_near_but_do_not_start_there():
    config = LookAlikesConfig()
    for number in range(12):
        video = CrossingVideo(config, 7, number)
        assert 1 <= len(video.others) <= 3
        apart = np.hypot(*(video.others - video.boxes)[..., :2].transpose(2, 0, 1))  # (K, N)
        assert (apart.min(axis=1) > 0.6 * config.side).all()
        assert (apart.min(axis=1) < 1.7 * config.side).all()
        assert (apart[:, 0] > 1.3 * config.side).all()
        centres = video.others[..., :2] + video.others[..., 2:] / 2
        assert (centres > 0).all()
        assert (centres < config.size).all()


def candidates(points) -> Candidates:
    points = torch.tensor([points], dtype=torch.float32)
    return Candidates(torch.zeros(1, points.shape[1], 0), points, torch.ones(1, points.shape[1]))


def test_rules_match_as_they_say():
    before, now = candidates([[0, 0], [50, 50]]), candidates([[49, 50], [2, 0], [90, 90]])
    near, _ = PositionMatcher().match(before, now, (100, 100))
    assert near.index0.tolist() == [[1, 0]]
    assert near.index1.tolist() == [[1, 0, -1]]
    assert near.probability1.tolist() == [[1, 1, 0]]
    rank, _ = RankMatcher().match(before, now, (100, 100))
    assert rank.index0.tolist() == [[0, 1]]
    assert rank.index1.tolist() == [[0, 1, -1]]


def test_judge():
    target = np.array([[0, 0, 10, 10]] * 6, float)
    others = np.array([[[30, 0, 10, 10]] * 6], float)
    boxes = np.array(
        [[0, 0, 10, 10], [30, 0, 10, 10], [15, 0, 10, 10], [30, 0, 10, 10], [1, 0, 10, 10], [31, 0, 10, 10]]
    )
    assert judge(boxes, target, others) == {
        "on_target": 2 / 6, "on_look_alike": 3 / 6, "elsewhere": 1 / 6, "switches": 2,
    }  # fmt: skip


class Planted:
    """Follows the target, or from half of the video on the first look-alike."""

    def __init__(self, strays: bool) -> None:
        self.strays, self.seed, self.number = strays, 0, 0

    def init(self, frame, box) -> None:
        videos = [CrossingVideo(SMALL, self.seed, n) for n in range(2)]
        self.video = next(v for v in videos if np.allclose(v.boxes[0], box))
        self.i = 0

    def update(self, frame):
        self.i += 1
        strayed = self.strays and self.i >= 6
        box = (self.video.others[0] if strayed else self.video.boxes)[self.i]
        return SimpleNamespace(box_unclipped=Box(*box))


@pytest.fixture
def done(tmp_path):
    config = {name: Planted(strays=name == BASE) for name in (BASE, KEPT)}
    experiment = LookAlikes(config, tmp_path, SMALL)
    return experiment, experiment.run()


def test_numbers_are_those_of_the_boxes(done):
    experiment, summary = done
    assert summary["results"][KEPT]["on_target"] == 1
    assert summary["results"][KEPT]["switches"] == 0
    base = summary["results"][BASE]
    assert base["on_target"] + base["on_look_alike"] + base["elsewhere"] == pytest.approx(1)
    assert 5 / 11 <= base["on_target"] < 1  # more where the look-alike hides it
    lead = summary["lead"][BASE]["on_target"]
    assert lead["difference"] == pytest.approx(1 - base["on_target"])
    assert len(lead["of_seeds"]) == 2
    assert lead["wins"] == 4
    assert lead["losses"] == 0
    assert json.loads((experiment.out / SUMMARY).read_text()) == json.loads(json.dumps(summary))
    with (experiment.out / RUNS).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2
    mean = np.mean([float(r["on_target"]) for r in rows if r["tracker"] == BASE])
    assert mean == pytest.approx(base["on_target"])


def test_words(done):
    _, summary = done
    lines = table(summary)
    assert len(lines) == 3
    assert lines[2].startswith(KEPT)
    assert " 100.0 " in lines[2]
    assert len(describe(summary)) == 1
    assert "worse in 0 videos" in describe(summary)[0]


def test_real_trackers_share_the_features(tmp_path):
    trackers = load_trackers("random", "cpu")
    assert list(trackers) == [BASE, KEPT, POSITION, RANK]
    base, kept, position, rank = trackers.values()
    assert base.net is kept.net is position.net is rank.net
    assert kept.follower is not position.follower
    assert isinstance(position.follower.matcher, PositionMatcher)
    summary = LookAlikes(trackers, tmp_path, LookAlikesConfig(seeds=1, videos=1, frames=4)).run()
    assert all(0 < row["on_target"] <= 1 for row in summary["results"].values())
    assert summary["lead"][BASE]["on_target"]["interval"] is None  # of one video


def test_bad_numbers():
    with pytest.raises(InputError, match="frames is 1"):
        LookAlikesConfig(frames=1)


def test_command(tmp_path, capsys):
    out = tmp_path / "out"
    asked = ["--seeds", "1", "--videos", "1", "--frames", "3", "--gap", "1", "1.2", "--matcher", "random"]
    assert main(["experiment", "look-alikes", "--out", str(out), "--device", "cpu", *asked]) == 0
    assert sorted(path.name for path in out.iterdir()) == [RUNS, SUMMARY]
    assert json.loads((out / SUMMARY).read_text())["config"]["gap"] == [1, 1.2]
    said = capsys.readouterr().out
    assert "% of frames" in said
    assert "keeptrack-lite - dimp-lite" in said
    assert main(["experiment", "look-alikes", "--out", str(out), "--frames", "1", "--matcher", "random"]) == 2
