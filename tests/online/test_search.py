"""How the search region of a lost target grows back, case by case; candidates' image coordinates."""

from __future__ import annotations

import json

import pytest
import torch

from keepsight.errors import InputError
from keepsight.online.search import RescaleConfig, ScaleHistory, View
from keepsight.online.snapshot import pack, unpack

CODE, PAPER = RescaleConfig(), RescaleConfig.paper()


def history(*scales: float, config: RescaleConfig = CODE) -> ScaleHistory:
    past = ScaleHistory.start()
    for scale in scales:
        past.found(scale, config)
    return past


def lose(past: ScaleHistory, frames: int, config: RescaleConfig = CODE) -> float:
    scale = past.scales[-1] if past.scales else 1.0
    for _ in range(frames):
        scale = past.rescaled(scale, config)
    return scale


def test_never_found_keeps_the_scale_and_does_not_count():
    past = history()
    assert past.rescaled(0.7, CODE) == 0.7
    assert past.lost == 0


def test_found_once_goes_back_to_that():
    past = history(0.8)
    assert past.rescaled(1.3, CODE) == 0.8
    assert past.lost == 1


@pytest.mark.parametrize(("frames", "count"), [(1, 2), (2, 2), (3, 3), (29, 29), (30, 30), (31, 30), (500, 30)])
def test_as_many_scales_as_frames_lost_at_least_2_at_most_30(frames, count):
    scales = [100.0 - i for i in range(50)]  # 100 … 51
    assert lose(history(*scales), frames) == pytest.approx(sum(scales[-count:]) / count)


@pytest.mark.parametrize(("factor", "mean"), [(0.995, 1.0), (1.0, 1.0), (1.005, 1.0025)])
def test_scales_smaller_than_the_last_are_dropped(factor, mean):
    assert lose(history(factor, 1.0), 5) == pytest.approx(mean)


def test_smaller_ones_are_dropped_before_the_latest_are_taken():
    assert lose(history(3.0, 0.5, 0.5, 0.5, 1.0), 2) == 2.0


@pytest.mark.parametrize(("between", "mean"), [(58, 1.5), (59, 1.0)])
def test_horizon_of_60(between, mean):
    past = history(2.0, *[0.5] * between, 1.0)
    assert lose(past, 30) == mean
    assert len(past.scales) == 60


def test_found_again_starts_the_count_anew():
    past = history(1.4, 1.2, 1.0)
    assert lose(past, 3) == pytest.approx(1.2)
    past.found(1.1, CODE)
    assert past.lost == 0
    assert past.rescaled(1.1, CODE) == pytest.approx((1.2 + 1.1) / 2)


def test_a_long_video_keeps_a_short_history():
    past = history(*[1.0 + i for i in range(5000)])
    assert past.scales == [4941.0 + i for i in range(60)]
    assert len(history(*[1.0] * 5000, config=PAPER).scales) == PAPER.horizon


@pytest.mark.parametrize(("factor", "mean"), [(0.995, 1.0), (1.0, 1.0), (1.005, 1.005)])
def test_paper_averages_larger_ones_only(factor, mean):
    past = history(factor, 1.0, config=PAPER)
    assert lose(past, 5, PAPER) == pytest.approx(mean)  # no larger one: stays


def test_paper_takes_one_after_one_lost_frame():
    past = history(3.0, 2.0, 1.0, config=PAPER)
    assert past.rescaled(1.0, PAPER) == 2.0
    assert past.rescaled(2.0, PAPER) == 2.5


@pytest.mark.parametrize(("frames", "count"), [(29, 29), (30, 30), (31, 30), (500, 30)])
def test_paper_takes_at_most_30(frames, count):
    scales = [100.0 - i for i in range(50)]  # 100 … 51, the last is none of the larger ones
    past = history(*scales, config=PAPER)
    assert lose(past, frames, PAPER) == pytest.approx(sum(scales[-1 - count : -1]) / count)


@pytest.mark.parametrize(("between", "scale"), [(59, 2.0), (998, 2.0), (999, 1.0)])
def test_paper_remembers_a_thousand(between, scale):
    """The paper has no horizon; ours only bounds the memory. A larger scale farther back is forgotten: nothing changes."""
    past = history(2.0, *[0.5] * between, 1.0, config=PAPER)
    assert lose(past, 30, PAPER) == scale
    assert len(past.scales) == min(between + 2, 1000)


def test_the_presets_numbers():
    assert RescaleConfig(horizon=60, fewest=2, most=30, inclusive=True) == CODE
    assert RescaleConfig(horizon=1000, fewest=1, most=30, inclusive=False) == PAPER


@pytest.mark.parametrize("wrong", [{"fewest": 0}, {"fewest": 31}, {"horizon": 0}])
def test_settings_are_checked(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        RescaleConfig(**wrong)


def test_history_can_be_saved():
    past = history(1.4, 1.2, 1.0)
    lose(past, 4)
    tensors = {}
    text = json.dumps(pack(past, tensors))
    again = unpack(json.loads(text), tensors, ScaleHistory, torch.device("cpu"))
    assert again == past
    again.found(2.0, CODE)
    assert again.scales == [1.4, 1.2, 1.0, 2.0]


def test_search_area_reaches_from_the_first_pixel_to_the_last():
    assert View((300.0, 400.0), 0.5, 480).search_area == (400 - 119.5, 300 - 119.5, 239.0, 239.0)
    # spec §0.1: corners y1 60.5, x1 160.5, y2 541, x2 641 of a crop of 480.5 pixels; §1.3: x2 - x1 - 1
    crop = View(((60.5 + 541 - 1) / 2, (160.5 + 641 - 1) / 2), 480.5 / 480, 480)
    assert crop.search_area == pytest.approx((160.5, 60.5, 479.5, 479.5))
