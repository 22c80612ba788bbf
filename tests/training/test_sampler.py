"""Which frames are drawn, rule by rule (spec/dimp-atom.md §6.1), and what bad data do."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest

from keepsight.datasets.frames import ArrayFrames
from keepsight.datasets.sequence import Annotation, Frames, Masks, Sequence
from keepsight.datasets.tracks import SequenceSet
from keepsight.errors import InputError, VideoError
from keepsight.training.sampler import GroupSampler, SamplerConfig, Unusable, draw_frames


class Numbered(Frames):
    """Grey pictures whose value is the frame number."""

    def __init__(self, count: int, broken: tuple[int, ...] = ()) -> None:
        self.count, self.broken, self.reads = count, broken, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        self.reads += 1
        if index in self.broken:
            raise VideoError(f"frame {index} is broken")
        return np.full((40, 60, 3), index, np.uint8)


class Ids(Masks):
    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> np.ndarray | None:
        return np.full((40, 60), index % 3, np.uint8)


def known(boxes: np.ndarray, visible: np.ndarray | None, masks: bool) -> Annotation:
    return Annotation(boxes, visible=visible, masks=Ids() if masks else None, objects=(2,) if masks else ())


def video(
    count: int,
    visible: list[int] | None = None,
    *,
    name: str = "clip",
    broken: tuple[int, ...] = (),
    masks: bool = False,
) -> Sequence:
    """Boxes are (frame number, 1, 5, 5)."""
    boxes = np.tile([0.0, 1.0, 5.0, 5.0], (count, 1))
    boxes[:, 0] = np.arange(count) % 50
    seen = None if visible is None else np.isin(np.arange(count), visible)
    return Sequence(name, "made", Numbered(count, broken), partial(known, boxes, seen, masks))


def draws(visible: np.ndarray, config: SamplerConfig, number: int = 2000) -> list[tuple[list[int], list[int]]]:
    rng = np.random.default_rng(0)
    return [draw_frames(visible, True, config, rng) for _ in range(number)]


def test_causal_order_and_windows() -> None:
    config = SamplerConfig(n_train=3, n_test=2, max_gap=10, mode="causal")
    found = draws(np.ones(100, bool), config)
    bases = {train[0] for train, _ in found}
    assert bases == set(range(2, 98))  # [n_train - 1, N - n_test)
    for (base, *others), test in found:
        assert len(others) == 2
        assert len(test) == 2
        assert all(base - 10 <= f < base for f in others), "train frames come before the base"
        assert all(base < f < base + 10 for f in test), "test frames come after it"
    gaps = [base - f for (base, *others), _ in found for f in others if base >= 10]
    assert set(gaps) == set(range(1, 11))
    counts = np.bincount(gaps)[1:]
    assert counts.max() < 1.35 * counts.min(), "frames of the window are equally likely"
    assert {f - train[0] for train, test in found for f in test} == set(range(1, 10))


def test_interval_windows_reach_both_sides_and_the_base_itself() -> None:
    config = SamplerConfig(n_train=2, n_test=1, max_gap=5, mode="interval")
    found = draws(np.ones(60, bool), config)
    assert {train[0] for train, _ in found} == set(range(60))
    inner = [(train, test) for train, test in found if 5 <= train[0] < 55]
    for offsets in ([train[1] - train[0] for train, _ in inner], [test[0] - train[0] for train, test in inner]):
        assert set(offsets) == set(range(-5, 5)), "half-open window around the base"


def test_only_visible_frames_are_drawn() -> None:
    visible = np.zeros(200, bool)
    visible[::7] = True
    for mode in ("causal", "interval", "pairs"):
        for train, test in draws(visible, SamplerConfig(mode=mode, max_gap=20), 300):
            assert visible[train].all()
            assert visible[test].all()


def test_window_grows_until_frames_are_found() -> None:
    visible = np.zeros(300, bool)
    visible[[100, 180, 260]] = True
    for train, test in draws(visible, SamplerConfig(n_train=2, n_test=1, max_gap=10, gap_growth=5), 50):
        assert (train, test) == ([180, 100], [260])


def test_a_base_without_neighbours_on_both_sides_is_left_for_another() -> None:
    visible = np.zeros(200, bool)
    visible[[150, 160, 170]] = True
    for (base, other), (test,) in draws(visible, SamplerConfig(n_train=2, n_test=1, max_gap=3), 50):
        assert (base, other, test) == (160, 150, 170)


def test_cases_that_stop_the_published_sampler_are_unusable() -> None:
    config = SamplerConfig(n_train=3, n_test=3)
    for frames in ([0, 1], [0, 5], [5], [57, 58, 59]):  # no base at all, or nothing before or after it
        visible = np.zeros(60, bool)
        visible[frames] = True
        with pytest.raises(Unusable):
            draw_frames(visible, True, config, np.random.default_rng(0))


def test_sequence_mode_gives_runs_of_visible_frames() -> None:
    visible = np.ones(40, bool)
    visible[20] = False
    config = SamplerConfig(n_train=2, n_test=3, mode="sequence")
    starts = set()
    for train, test in draws(visible, config, 500):
        assert train == [train[1] + 1, train[1]], "latest first"
        assert test == [train[0] + 1, train[0] + 2, train[0] + 3]
        assert visible[train + test].all()
        starts.add(train[1])
    assert starts == set(range(16)) | set(range(21, 36))
    with pytest.raises(Unusable):
        draw_frames(np.array([True, False] * 10), True, config, np.random.default_rng(0))


def test_pairs_lie_within_the_range() -> None:
    config = SamplerConfig(n_train=1, n_test=1, mode="pairs", max_gap=4)
    offsets = [test[0] - train[0] for train, test in draws(np.ones(50, bool), config) if 4 <= train[0] < 46]
    assert set(offsets) == set(range(-4, 5))


def test_images_are_repeated_and_read_once() -> None:
    picture = video(1)
    group = GroupSampler([SequenceSet("stills", [picture], is_video=False)]).draw(np.random.default_rng(0))
    assert len(group.train_images) == len(group.test_images) == 3
    assert not group.is_video
    assert all(image is group.train_images[0] for image in group.train_images + group.test_images)
    assert picture.frames.reads == 1  # type: ignore[attr-defined]


def test_group_holds_the_frames_that_its_name_says() -> None:
    sampler = GroupSampler([SequenceSet("clips", [video(50)])], config=SamplerConfig(max_gap=10))
    group = sampler.draw(np.random.default_rng(3))
    for images, boxes in ((group.train_images, group.train_boxes), (group.test_images, group.test_boxes)):
        assert [int(i[0, 0, 0]) for i in images] == boxes[:, 0].astype(int).tolist()
    train = ",".join(str(i[0, 0, 0]) for i in group.train_images)
    test = ",".join(str(i[0, 0, 0]) for i in group.test_images)
    assert group.identity == f"clips/clip train {train} test {test}"


def test_masks_are_those_of_the_object() -> None:
    config = SamplerConfig(masks=True)
    group = GroupSampler([SequenceSet("clips", [video(50, masks=True)])], config=config).draw(np.random.default_rng(0))
    assert group.train_masks is not None
    for image, mask in zip(group.train_images, group.train_masks, strict=True):
        assert mask.dtype == bool
        assert mask.all() == (image[0, 0, 0] % 3 == 2)
    plain = GroupSampler([SequenceSet("clips", [video(50)])], config=config).draw(np.random.default_rng(0))
    assert plain.train_masks is None


def test_sets_are_drawn_by_weight_and_objects_evenly() -> None:
    sets = [SequenceSet(n, [video(1, name=f"{n}{k}") for k in range(4)], is_video=False) for n in ("a", "b", "c")]
    sampler, rng = GroupSampler(sets, [0.25, 1, 0]), np.random.default_rng(0)
    names = [sampler.draw(rng).identity.split(" ")[0] for _ in range(2000)]
    shares = [sum(n.startswith(s) for n in names) / 2000 for s in "abc"]
    assert shares == pytest.approx([0.2, 0.8, 0], abs=0.03)
    of_b = [names.count(f"b/b{k}") for k in range(4)]
    assert max(of_b) < 1.25 * min(of_b)


def test_negatives_come_from_other_objects() -> None:
    clips = SequenceSet("clips", [video(30, name=f"v{k}") for k in range(5)])
    config = SamplerConfig(n_train=1, n_test=1, mode="pairs", max_gap=100, negative_probability=0.4)
    sampler, rng = GroupSampler([clips], config=config), np.random.default_rng(0)
    groups = [sampler.draw(rng) for _ in range(800)]
    negative = [g for g in groups if g.is_negative]
    assert len(negative) / 800 == pytest.approx(0.4 * 0.8, abs=0.05)  # the same object again is no negative
    assert all("test made/v" in g.identity for g in negative)


def test_same_generator_same_group() -> None:
    sampler = GroupSampler([SequenceSet("clips", [video(60, name=f"v{k}") for k in range(9)])])
    first, again = (
        [sampler.draw(np.random.default_rng([7, k])).identity for k in range(20)] for _ in range(2)
    )  # fmt: skip
    assert first == again
    assert len(set(first)) > 15
    assert pickle.loads(pickle.dumps(sampler)).draw(np.random.default_rng([7, 0])).identity == first[0]


# Bad data


def test_unsuitable_videos_are_counted_and_passed_over() -> None:
    clips = [video(60, name="good"), video(19, name="short"), video(60, list(range(12)), name="hidden"), video(0)]
    clips.append(video(60, [], name="never"))
    sampler, rng = GroupSampler([SequenceSet("clips", clips)]), np.random.default_rng(0)
    assert {sampler.draw(rng).identity.split(" ")[0] for _ in range(60)} == {"clips/good"}
    assert set(sampler.skipped) == {
        "clips: fewer than 20 frames",
        "clips: not more than 12 visible frames",
        "clips: no frames",
        "clips: never visible",
    }
    assert sampler.drawn == 60
    assert sampler.looked_at == 60 + sampler.skipped.total()
    assert "fewer than 20 frames" in sampler.report()


def test_a_set_without_a_usable_object_is_an_error_that_ends() -> None:
    sampler = GroupSampler([SequenceSet("stubs", [video(1)])], config=SamplerConfig(max_tries=50))
    with pytest.raises(InputError, match=r"50 objects of stubs in a row.*fewer than 20 frames"):
        sampler.draw(np.random.default_rng(0))


def test_broken_files_are_counted_then_too_many_are_an_error() -> None:
    clips = [video(60, name=f"v{k}") for k in range(24)] + [video(60, name="bad", broken=tuple(range(60)))]
    sampler, rng = GroupSampler([SequenceSet("clips", clips)]), np.random.default_rng(0)
    groups = [sampler.draw(rng) for _ in range(150)]
    assert sampler.skipped["clips: broken"] == sum(len(g.skipped) for g in groups) > 0
    assert "is broken" in next(g for g in groups if g.skipped).skipped[0]
    assert all("bad" not in g.identity for g in groups)
    worse = GroupSampler([SequenceSet("clips", clips[-1:] + clips[:2])])
    with pytest.raises(InputError, match=r"are broken, more than max_broken_share = 0.1.*is broken"):
        all(worse.draw(rng) for _ in range(200))


def test_boxes_outside_the_image_are_broken() -> None:
    boxes = np.tile([500.0, 1.0, 5.0, 5.0], (30, 1))
    clip = Sequence("out", "made", Numbered(30), partial(known, boxes, None, False))
    sampler = GroupSampler([SequenceSet("clips", [clip])], config=SamplerConfig(max_tries=5))
    with pytest.raises(InputError, match=r"lies outside the 60 × 40 image"):
        sampler.draw(np.random.default_rng(0))


def test_fewer_boxes_than_frames_are_broken() -> None:
    clip = Sequence(
        "hidden",
        "made",
        ArrayFrames([np.zeros((9, 9, 3), np.uint8)] * 30),
        partial(known, np.ones((1, 4)), None, False),
    )
    sampler = GroupSampler([SequenceSet("clips", [clip])], config=SamplerConfig(max_tries=5))
    with pytest.raises(InputError, match="30 frames but 1 boxes"):
        sampler.draw(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1, 2], "give 1 numbers"), ([-1], "none below 0"), ([0], "all 0"), ([np.nan], "none below")],
)
def test_bad_weights(weights: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GroupSampler([SequenceSet("clips", [video(30)])], weights)


def test_empty_sets() -> None:
    with pytest.raises(InputError, match="at least one"):
        GroupSampler([])
    with pytest.raises(InputError, match="training set none has no objects"):
        GroupSampler([SequenceSet("none", [])])


@pytest.mark.parametrize(
    "bad",
    [
        {"mode": "random"},
        {"n_train": 0},
        {"max_gap": 0},
        {"negative_probability": 2.0, "mode": "pairs"},
        {"negative_probability": 0.2},
        {"max_broken_share": -1.0},
    ],
)
def test_bad_settings(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        SamplerConfig(**bad)  # type: ignore[arg-type]
