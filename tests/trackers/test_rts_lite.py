"""rts-lite online: where masks lie, which of them are believed, and what follows; networks are narrow and random."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small import held, moving_square, target_of

import keepsight as ks
from keepsight.images import AugmentationConfig
from keepsight.models.lite import LiteNet, LiteNetConfig
from keepsight.models.rts_lite import RTSLiteNet, RTSLiteNetConfig
from keepsight.online.localise import NORMAL, NOT_FOUND, UNCERTAIN
from keepsight.online.memory import MemoryConfig
from keepsight.online.search import View
from keepsight.trackers.registry import published_header
from keepsight.trackers.rts_lite import MaskConfig, RTSLiteConfig, RTSLiteTracker, _in_frame, _sampled, _tight
from keepsight.weights import convert, find_weights, load_weights, recognise

HEIGHT, WIDTH = 120, 160
TRUTH = np.zeros((HEIGHT, WIDTH), bool)
TRUTH[30:54, 40:60] = True


def make(kind: type[RTSLiteTracker] = RTSLiteTracker, seed: int = 0, **changes: object) -> RTSLiteTracker:
    torch.manual_seed(7)
    base = LiteNet(LiteNetConfig(channels=16, residual_channels=8, box_channels=8, box_hidden=8, box_grid=3)).eval()
    narrow = RTSLiteNetConfig(
        feature_dim=8, num_filters=4, label_encoder_dims=(4, 6, 8), hint_encoder_dims=(4, 6, 8), decoder_dim=4
    )
    masks = MaskConfig(sample_size=81, memory=MemoryConfig(4, 0.1, 0.1, 0.25), init_iterations=2, **changes)  # type: ignore[arg-type]
    config = RTSLiteConfig(
        sample_size=97, augmentation=AugmentationConfig(rotate=(20,), blur=(), relativeshift=(), dropout=None),
        memory=MemoryConfig(6, 0.02, 0.02), init_iterations=2, masks=masks,
    )  # fmt: skip
    return kind("rts-lite", config, base, RTSLiteNet(narrow).eval(), torch.device("cpu"), seed)


class Scripted(RTSLiteTracker):
    """The locator answers what ``flags`` says, the decoder what ``shape`` says: pixels of the frame."""

    flags = staticmethod(lambda frame: NORMAL)
    shape = staticmethod(lambda frame: TRUTH)
    certainty = 8.0
    score = 0.9

    def _look(self, frame, target):
        look = super()._look(frame, target)
        mask = torch.from_numpy(self.shape(target.masked.frame + 1)).float()
        half = 2 * torch.arange(look.logits.shape[0])
        rows, cols = ((half - m) * look.view.scale + p for m, p in zip(look.view.middle, look.view.pos, strict=True))
        seen = _sampled(mask, rows, cols)
        return replace(look, logits=(2 * seen - 1) * self.certainty)

    def _finish(self, target, view, maps, where):
        outcome = super()._finish(target, view, maps, where)
        return replace(outcome, flag=self.flags(target.masked.frame + 1), presence=0.1, score=self.score)

    def _localise(self, target, view, scores, features, frame_size):
        where = super()._localise(target, view, scores, features, frame_size)
        return replace(where, flag=NOT_FOUND)  # the target stays where it is


def started(kind: type[RTSLiteTracker] = Scripted, **changes: object) -> RTSLiteTracker:
    tracker = make(kind, **changes)
    tracker.init(moving_square(1)[0][0], mask=TRUTH)
    return tracker


FRAME = moving_square(1)[0][0]


# --- geometry ------------------------------------------------------------------------------------------------------------


def test_a_mask_goes_into_the_crop_and_back() -> None:
    """A soft map cut out at the crop's pixels and put back at the frame's is itself inside the crop."""
    rows, cols = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    field = torch.sin(rows / 9) + torch.cos(cols / 11)
    for view in (View((30.3, 41.8), 0.37, 97), View((8.0, 70.0), 0.8, 97)):
        ends = [(2 * torch.arange(49) - m) * view.scale + p for m, p in zip(view.middle, view.pos, strict=True)]
        inside = _sampled(field, *ends)
        whole = _in_frame(inside, view, (60, 80))
        seen = whole > -50
        assert seen.sum() > 300
        away = (rows > 2) & (rows < 57) & (cols > 2) & (cols < 77)  # bilinear sampling fades beyond the frame
        assert torch.allclose(whole[seen & away], field[seen & away], atol=0.02)
        y, x = torch.nonzero(seen, as_tuple=True)
        reach = view.scale * 48
        assert y.min() >= view.pos[0] - reach
        assert x.max() <= view.pos[1] + reach
    assert (_in_frame(torch.zeros(49, 49), View((-500.0, 0.0), 1.0, 97), (60, 80)) == -100).all()


def test_small_parts_do_not_count_for_the_box() -> None:
    mask = np.zeros((40, 50), bool)
    assert _tight(mask, 0.15) is None
    mask[5:15, 10:20] = True
    mask[30, 45] = True
    assert _tight(mask, 0.15) == (10, 5, 10, 10)
    assert _tight(mask, 0.0) == (10, 5, 36, 26)
    mask[20:25, 30:40] = True  # half as large as the largest
    assert _tight(mask, 0.15) == (10, 5, 30, 20)


# --- rules ---------------------------------------------------------------------------------------------------------------


def test_a_sound_mask_makes_the_box() -> None:
    tracker = started()
    for _ in range(3):
        result = tracker.update(FRAME)
        assert (result.flag, result.status) == ("normal", ks.Status.FOUND)
        overlap = (result.mask & TRUTH).sum() / (result.mask | TRUTH).sum()
        assert overlap > 0.85
        x, y, w, h = result.box_unclipped
        assert np.allclose((x, y, x + w, y + h), (40, 30, 60, 54), atol=1.5)
        assert result.presence > 0.9
    target = target_of(tracker)
    assert target.masked.memory.stored == 4
    assert target.masked.frame == 4


@pytest.mark.parametrize(
    ("shape", "certainty"),
    [(np.zeros_like(TRUTH), 8.0), (np.ones_like(TRUTH), 8.0), (TRUTH, 0.3)],
    ids=["empty", "everything", "doubtful"],
)
def test_a_mask_that_is_not_sound_changes_neither_box_nor_memory(shape: np.ndarray, certainty: float) -> None:
    tracker = started()
    tracker.shape, tracker.certainty = (lambda frame: shape), certainty
    result = tracker.update(FRAME)
    target = target_of(tracker)
    located = (target.pos[1] + 0.5 - target.size[1] / 2, target.pos[0] + 0.5 - target.size[0] / 2)
    assert result.box_unclipped[:2] == pytest.approx(located)
    assert target.masked.memory.stored == 1
    assert result.presence == pytest.approx(0.1)


def test_a_lost_target_has_no_mask() -> None:
    tracker = started()
    tracker.flags = lambda frame: NOT_FOUND if frame in (3, 4) else NORMAL
    tracker.update(FRAME)
    for _ in range(2):
        result = tracker.update(FRAME)
        assert (result.status, result.mask.any(), result.presence) == (ks.Status.LOST, False, 0.1)
        assert not tracker.probabilities()[0].any(), "no hint of an old mask when it is found again"
    assert target_of(tracker).masked.memory.stored == 2
    assert tracker.update(FRAME).mask.any()


def test_masks_of_doubtful_frames_are_shown_but_not_learnt() -> None:
    tracker = started()
    tracker.score = 0.4  # below sure_score
    assert tracker.update(FRAME).mask.any()
    tracker.score, tracker.flags = 0.9, lambda frame: UNCERTAIN
    result = tracker.update(FRAME)
    assert (result.mask.any(), result.status) == (True, ks.Status.UNCERTAIN)
    assert target_of(tracker).masked.memory.stored == 1


# --- the public loop -----------------------------------------------------------------------------------------------------


def test_box_alone_and_pixels_shared_by_several_targets() -> None:
    frames, boxes = moving_square(4)
    tracker = make()
    tracker.init(frames[0], boxes=[boxes[0], (90, 60, 30, 20), (-10, -8, 25, 25), (158, 118, 30, 30), (70, 50, 1, 1)])
    first = tracker.probabilities()
    assert not first[0][:25].any(), "the first mask of a box lies in it"
    for frame in frames[1:]:
        results = tracker.update_all(frame)
        assert np.stack([r.mask for r in results]).sum(axis=0).max() <= 1
        for r in results:
            assert np.isfinite(r.box_unclipped).all()


def test_one_pixel_and_whole_frame_masks() -> None:
    for mask in (np.zeros_like(TRUTH), np.ones_like(TRUTH)):
        mask[50, 70] = True
        tracker = make()
        tracker.init(FRAME, mask=mask)
        for _ in range(2):
            tracker.update(FRAME)


def test_memory_does_not_grow() -> None:
    tracker = started()
    sizes = set()
    for i in range(14):
        tracker.update(FRAME)
        if i > 8:
            sizes.add(held(tracker)[0])
    assert len(sizes) == 1


def test_packaged_and_own_weights() -> None:
    tracker = ks.load("rts-lite", device="cpu")
    assert tracker.gives_masks
    again = ks.load(str(find_weights("rts-lite")), device="cpu")  # a file that says what it is for
    assert again.name == "rts-lite"
    other = ks.load("rts-lite", weights=find_weights("rts-lite"), device="cpu")  # in the place of the second network
    frames, boxes = moving_square(3)
    for t in (tracker, other):
        t.init(frames[0], box=boxes[0])
    for frame in frames[1:]:
        one, two = tracker.update(frame), other.update(frame)
        assert np.array_equal(one.mask, two.mask)
        x, y, w, h = (int(v) for v in boxes[1])
    assert one.mask[y + 6 : y + h - 2, x + 6 : x + w - 2].mean() > 0.8, "the square is segmented"


def test_a_bare_state_dict_is_recognised_and_converted(tmp_path) -> None:
    tensors = load_weights(find_weights("rts-lite")).tensors
    torch.save(tensors, tmp_path / "bare.pth")
    assert recognise(tensors) == "rts-lite"
    header = convert(tmp_path / "bare.pth", tmp_path / "ours.safetensors", validate=published_header(None))
    assert (header.family, header.preset) == ("rts-lite", "rts-lite")
    assert ks.load("rts-lite", weights=tmp_path / "ours.safetensors", device="cpu").gives_masks


def test_saved_state_of_other_masks_is_refused(tmp_path) -> None:
    tracker = started(RTSLiteTracker)
    tracker.save_state(tmp_path / "state.safetensors")
    with pytest.raises(ks.StateError, match="settings"):
        make(train_skipping=5).load_state(tmp_path / "state.safetensors")


# --- what the numbers come from -----------------------------------------------------------------------------------------


def test_a_given_mask_is_kept_and_learnt():
    with_mask, with_box = make(), make()
    with_mask.init(FRAME, mask=TRUTH)
    with_box.init(FRAME, box=(40, 30, 20, 24))
    assert np.array_equal(with_mask.probabilities()[0] > 0.5, TRUTH)
    assert not torch.equal(target_of(with_mask).masked.filter, target_of(with_box).masked.filter)


def test_logits_depend_on_filter_and_hint_and_the_mask_moves_with_the_box():
    tracker = make()
    tracker.init(FRAME, mask=TRUTH)
    target = target_of(tracker)
    with torch.inference_mode():
        usual, kept = tracker._look(FRAME, target).logits, target.masked.filter
        target.masked.filter = kept + 1
        assert not torch.equal(tracker._look(FRAME, target).logits, usual)
        target.masked.filter, target.masked.probability = kept, torch.zeros_like(target.masked.probability)
        assert not torch.equal(tracker._look(FRAME, target).logits, usual)
        seen = []

        def cut(probability, pos, view):
            seen.append((pos, view.pos))
            return RTSLiteTracker._cut(tracker, probability, pos, view)

        tracker._cut = cut
        target.pos = (target.pos[0] + 5, target.pos[1] - 3)
        tracker._look(FRAME, target)
    ((before, now),) = seen
    assert np.subtract(now, before) == pytest.approx((5, -3))


class OneLost(Scripted):
    """Two targets of the same pixels; the second is lost."""

    def _finish(self, target, view, maps, where):
        outcome = super()._finish(target, view, maps, where)
        second = len(self._current().targets) > 1 and target is self._current().targets[1]
        return replace(outcome, flag=NOT_FOUND if second else NORMAL)


def test_a_lost_target_takes_no_pixels_from_the_others():
    tracker = make(OneLost)
    tracker.init(FRAME, masks=[TRUTH, TRUTH])
    for _ in range(3):
        first, second = tracker.update_all(FRAME)
        assert not second.mask.any()
        assert (first.mask & TRUTH).sum() / (first.mask | TRUTH).sum() > 0.85


def test_a_target_that_joins_takes_its_pixels():
    tracker = make()
    tracker.init(FRAME, mask=TRUTH)
    half = TRUTH.copy()
    half[:, 50:] = False
    tracker.add(FRAME, mask=half)
    old, new = (p > 0.5 for p in tracker.probabilities())
    assert np.array_equal(new, half)
    assert np.array_equal(old, TRUTH & ~half)


def test_the_backbone_goes_where_the_network_goes():
    net = RTSLiteNet(RTSLiteNetConfig(feature_dim=8, num_filters=4, decoder_dim=4))
    with pytest.raises(ks.InputError, match="no backbone"):
        net.extract(torch.zeros(1, 3, 81, 81))
    net.attach(LiteNet())
    net.to("meta")
    assert {p.device.type for p in net._backbone[0].parameters()} == {"meta"}
