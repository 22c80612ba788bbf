"""The GOT-10k adapter: got10k's own experiment class runs our tracker and reports the scores that we compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import keepsight as ks
from keepsight.datasets.catalog import open_dataset
from keepsight.datasets.synthetic import ClipConfig, SyntheticClip
from keepsight.evaluation.entrants import parse_entrant
from keepsight.evaluation.foreign import read_results
from keepsight.evaluation.metrics import score_got10k
from keepsight.evaluation.protocols import run_ope
from keepsight.integrations.got10k import Got10kTracker

SIZE = (160, 120)


@pytest.fixture(scope="module")
def tracker() -> Got10kTracker:
    return Got10kTracker("dimp-lite", device="cpu")


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GOT-10k folder of three short sequences; in two of them the target is hidden in some frames."""
    root = tmp_path_factory.mktemp("GOT-10k")
    names = [f"GOT-10k_Val_{i:06d}" for i in (1, 2, 3)]
    for seed, (name, frames) in enumerate(zip(names, (10, 13, 8), strict=True)):
        write_sequence(root / "val" / name, SyntheticClip(clip_config(seed, frames)))
    (root / "val" / "list.txt").write_text("\n".join(names) + "\n")
    return root


def clip_config(seed: int, frames: int) -> ClipConfig:
    return ClipConfig(seed=seed, frames=frames, size=SIZE, object_size=0.3, path_extent=0.15)


def write_sequence(folder: Path, clip: SyntheticClip) -> None:
    folder.mkdir(parents=True)
    for frame in clip:
        assert cv2.imwrite(str(folder / f"{frame.index + 1:08d}.jpg"), frame.image[:, :, ::-1])
    np.savetxt(folder / "groundtruth.txt", clip.boxes, fmt="%.4f", delimiter=",")
    cover = np.round(8 * clip.visibilities).astype(int)
    cover[3::5] = 0  # frames that do not count
    np.savetxt(folder / "cover.label", cover, fmt="%d")
    np.savetxt(folder / "absence.label", cover == 0, fmt="%d")
    np.savetxt(folder / "cut_by_image.label", np.zeros(len(cover)), fmt="%d")
    (folder / "meta_info.ini").write_text(f"[METAINFO]\nresolution: ({SIZE[0]}, {SIZE[1]})\n")


def overlaps_by_hand(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Spec/evaluation.md §5: boxes clipped to the image, IoU of continuous rectangles."""
    corners = []
    for boxes in (pred, truth):
        low = np.clip(boxes[:, :2], 0, SIZE)
        corners.append((low, low + np.clip(boxes[:, 2:], 0, np.array(SIZE) - low)))
    (p0, p1), (t0, t1) = corners
    inter = np.clip(np.minimum(p1, t1) - np.maximum(p0, t0), 0, None).prod(axis=1)
    union = (p1 - p0).prod(axis=1) + (t1 - t0).prod(axis=1) - inter
    return inter / union


def test_got10ks_own_experiment_reports_what_we_compute(
    val: Path, tracker: Got10kTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    experiments = pytest.importorskip("got10k.experiments")
    report, results = run_toolkit(experiments, val, tracker, tmp_path)

    overlaps = []
    for folder in sorted(p for p in (val / "val").iterdir() if p.is_dir()):
        written = sorted(results.glob(f"{folder.name}/{folder.name}_0*.txt"))
        assert [p.name for p in written] == [f"{folder.name}_001.txt"]  # deterministic: one repetition
        boxes = np.loadtxt(written[0], delimiter=",")
        truth = np.loadtxt(folder / "groundtruth.txt", delimiter=",")
        counts = np.loadtxt(folder / "cover.label")[1:] > 0
        assert not counts.all()
        overlaps.append(overlaps_by_hand(boxes[1:], truth[1:])[counts])
        times = np.loadtxt(results / folder.name / f"{folder.name}_time.txt")
        assert len(times) == len(truth)
        assert (times > 0).all()
    pooled = np.concatenate(overlaps)
    overall = report["overall"]
    assert overall["ao"] == pytest.approx(pooled.mean(), abs=1e-9)
    assert overall["sr"] == pytest.approx((pooled > 0.5).mean(), abs=1e-9)
    assert 0.3 < overall["ao"] < 1  # the tracker tracks, so the comparison is not one of zeros

    dataset = open_dataset("got10k:val", val)
    found = read_results(results, dataset)
    assert list(found.runs) == list(dataset)
    scores = score_got10k(dataset.values(), found.runs, tracker=tracker.name)
    assert scores.values["AO"] == pytest.approx(overall["ao"], abs=1e-9)
    assert scores.values["SR50"] == pytest.approx(overall["sr"], abs=1e-9)
    for one in scores.sequences:
        assert one.values["AO"] == pytest.approx(report["seq_wise"][one.name]["ao"], abs=1e-9)


def run_toolkit(experiments: Any, val: Path, tracker: Got10kTracker, folder: Path) -> tuple[dict[str, Any], Path]:
    experiment = experiments.ExperimentGOT10k(
        str(val), subset="val", result_dir=str(folder / "results"), report_dir=str(folder / "reports")
    )
    experiment.run(tracker)
    performance = experiment.report([tracker.name])
    return performance[tracker.name], folder / "results" / "GOT-10k" / tracker.name


def test_a_sequence_gets_the_same_boxes_whatever_ran_before(val: Path, tracker: Got10kTracker) -> None:
    files = sorted((val / "val" / "GOT-10k_Val_000001").glob("*.jpg"))[:5]
    others = sorted((val / "val" / "GOT-10k_Val_000002").glob("*.jpg"))[:4]
    box = SyntheticClip(clip_config(0, 10)).boxes[0]
    first, seconds = tracker.track([str(f) for f in files], box)
    tracker.track(others, SyntheticClip(clip_config(1, 13)).boxes[0])
    again, _ = tracker.track(files, box)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (5, 4)
    assert seconds.shape == (5,)
    np.testing.assert_array_equal(first[0], box)


def test_our_own_runner_gets_the_same_boxes_from_the_same_seed(val: Path, tracker: Got10kTracker) -> None:
    sequence = open_dataset("got10k:val", val)["GOT-10k_Val_000003"]
    run = run_ope(parse_entrant("dimp-lite").open("cpu"), sequence, seed=tracker.tracker.seed)
    files = sequence.frames.paths
    assert files is not None
    boxes, _ = tracker.track(files, sequence.first_box)
    np.testing.assert_array_equal(boxes, run.boxes)


class Recorder(ks.Tracker[Any]):
    """Keeps the frames that it is given."""

    def __init__(self) -> None:
        import torch

        super().__init__("recorder", torch.device("cpu"), 0)
        self.frames: list[np.ndarray] = []

    def _start(self, frame: np.ndarray, boxes: list[ks.Box]) -> list[Any]:
        self.frames.append(frame)
        return list(boxes)

    def _advance(self, frame: np.ndarray, targets: list[Any]) -> list[Any]:
        from keepsight.trackers.base import Outcome

        self.frames.append(frame)
        return [Outcome((10.0, -5.0), (20.0, 30.0), 1.0, 1.0, "normal", False, "never") for _ in targets]

    def _identity(self) -> dict[str, Any]:
        return {}


def test_pil_images_arrive_as_rgb_and_boxes_are_not_clipped() -> None:
    red_left = np.zeros((64, 96, 3), np.uint8)
    red_left[:, :48] = (200, 10, 30)
    adapter = Got10kTracker(Recorder(), name="mine")
    assert (adapter.name, adapter.is_deterministic) == ("mine", True)
    adapter.init(Image.fromarray(red_left), np.array([10, 10, 30, 20]))
    box = adapter.update(red_left)
    adapter.update(Image.fromarray(red_left).convert("L"))
    pil, array, grey = adapter.tracker.frames
    np.testing.assert_array_equal(pil, red_left)
    np.testing.assert_array_equal(array, red_left)
    assert grey.shape == red_left.shape
    assert box.tolist() == [-5 - 14.5, 10 - 9.5, 30, 20]


def test_it_is_the_toolkits_own_kind_when_that_is_installed(tracker: Got10kTracker) -> None:
    trackers = pytest.importorskip("got10k.trackers")
    assert isinstance(tracker, trackers.Tracker)


def test_without_frames_or_with_a_missing_file_it_says_so(tracker: Got10kTracker, tmp_path: Path) -> None:
    with pytest.raises(ks.InputError, match="img_files is empty"):
        tracker.track([], (1, 2, 3, 4))
    with pytest.raises(ks.VideoError, match=r"none\.jpg cannot be read"):
        tracker.track([tmp_path / "none.jpg"], (1, 2, 3, 4))
