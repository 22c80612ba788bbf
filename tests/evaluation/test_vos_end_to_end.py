"""Masks from the data set to the score: tracked, stored, read back, exported, scored; with small trackers of our own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import dataset, sequence
from small import small_lwl, small_rts

from keepsight.cli import main
from keepsight.datasets.masks import read_mask, save_indexed_png
from keepsight.errors import InputError
from keepsight.evaluation.entrants import parse_entrant
from keepsight.evaluation.run import run
from keepsight.evaluation.store import Key, ResultStore
from keepsight.trackers import registry
from keepsight.video import open_source

SEQUENCES = Path(__file__).parents[3] / "shared" / "data" / "sequences"
SERIAL = ("--executor", "serial", "--devices", "cpu", "--quiet")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """LWL and RTS by their names, with narrow networks."""
    made = {"lwl_ytvos": small_lwl, "rts50": small_rts}
    monkeypatch.setattr(registry, "load", lambda name, **_: made[name](name))


def davis(root: Path, year: int, videos: dict[str, list[np.ndarray]]) -> Path:
    """A data set of these masks, with pictures that show them."""
    (root / "ImageSets" / str(year)).mkdir(parents=True)
    (root / "ImageSets" / str(year) / "val.txt").write_text("\n".join(videos) + "\n")
    rng = np.random.default_rng(0)
    for name, masks in videos.items():
        background = rng.integers(0, 80, (*masks[0].shape, 3), dtype=np.uint8)
        for i, ids in enumerate(masks):
            picture = np.where(ids[..., None] > 0, np.uint8(255) - 60 * ids[..., None], background)
            (root / "JPEGImages/480p" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.astype(np.uint8)).save(root / f"JPEGImages/480p/{name}/{i:05d}.jpg")
            save_indexed_png(root / f"Annotations/480p/{name}/{i:05d}.png", ids)
    return root


def moving(count: int, *things: tuple[int, int, int, int]) -> list[np.ndarray]:
    """Object 1, 2, .. at (x, y, w, h), one pixel further right in each frame."""
    frames = []
    for i in range(count):
        ids = np.zeros((72, 96), np.uint8)
        for number, (x, y, w, h) in enumerate(things, 1):
            ids[y : y + h, x + i : x + i + w] = number
        frames.append(ids)
    return frames


VIDEOS = {"a": moving(5, (20, 20, 24, 20)), "b": moving(5, (10, 10, 20, 20), (50, 36, 24, 20))}


def test_davis2017_with_several_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, results = davis(tmp_path / "DAVIS", 2017, VIDEOS), tmp_path / "results"
    words = ["eval", "lwl_ytvos@random", "davis2017", "--data-root", str(root), "--results", str(results), *SERIAL]
    assert main([*words, "--export", "davis"]) == 0
    out, err = capsys.readouterr()
    assert "davis2017, rule davis2017" in out
    assert "J&F" in out
    assert "2 runs tracked" in err
    folder = results / "export/davis/lwl_ytvos@random/davis2017"
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.png")) == [
        f"{name}/{i:05d}.png" for name in VIDEOS for i in range(5)
    ]
    store = ResultStore(results)
    for name, truth in VIDEOS.items():
        run_ = store.read(Key("lwl_ytvos@random", "davis2017", "vos", name))
        np.testing.assert_array_equal(run_.masks[0], truth[0])  # the first frame's are given
        np.testing.assert_array_equal(read_mask(folder / name / "00000.png"), truth[0])
        for i in range(5):
            assert set(np.unique(run_.masks[i])) <= set(np.unique(truth[0]))
            np.testing.assert_array_equal(read_mask(folder / name / f"{i:05d}.png"), run_.masks[i])
    # the masks are those of the tracker itself
    tracker = small_lwl()
    frames = [f.image for f in open_source(root / "JPEGImages/480p/b")]
    tracker.init(frames[0], masks=[VIDEOS["b"][0] == n for n in (1, 2)], boxes=[(10, 10, 19, 19), (50, 36, 23, 19)])
    tracked = store.read(Key("lwl_ytvos@random", "davis2017", "vos", "b"))
    for i, frame in enumerate(frames[1:], 1):
        for number, result in enumerate(tracker.update_all(frame), 1):
            np.testing.assert_array_equal(tracked.masks[i] == number, result.mask)

    assert main(words) == 0
    assert "0 runs tracked" in capsys.readouterr().err
    (mask_folder,) = results.rglob("b_001.masks")
    mask_folder.rename(tmp_path / "elsewhere")  # masks that are gone are made again
    assert main(words) == 0
    assert "1 runs tracked" in capsys.readouterr().err


def test_youtube_vos_object_that_starts_late(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    truth = moving(6, (10, 10, 20, 20), (50, 36, 24, 20))
    for ids in truth[:3]:
        ids[ids == 2] = 0
    names = [f"{5 * i:05d}" for i in range(6)]
    base = tmp_path / "YouTubeVOS" / "valid"
    for name, ids in zip(names, truth, strict=True):
        (base / "JPEGImages/v").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.repeat(ids[..., None] * 100, 3, axis=2)).save(base / f"JPEGImages/v/{name}.jpg")
    save_indexed_png(base / "Annotations/v/00000.png", truth[0])
    save_indexed_png(base / "Annotations/v/00015.png", np.where(truth[3] == 2, 2, 0))
    objects = {"1": {"category": "cat", "frames": names}, "2": {"category": "dog", "frames": names[3:]}}
    (base / "meta.json").write_text(json.dumps({"videos": {"v": {"objects": objects}}}))
    words = [
        "eval",
        "rts50@random",
        "youtubevos2019",
        "--data-root",
        str(base.parent),
        "--results",
        str(tmp_path / "r"),
    ]
    assert main([*words, *SERIAL, "--export", "youtubevos", "--no-score"]) == 0
    files = sorted((tmp_path / "r/export").rglob("*.png"))
    assert [f.stem for f in files] == names
    made = [read_mask(f) for f in files]
    np.testing.assert_array_equal(made[0], truth[0])
    assert all(2 not in ids for ids in made[:3])
    assert (made[3][truth[3] == 2] == 2).all()
    assert (made[3][truth[3] != 2] != 2).all()


def test_davis2016_of_real_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not (SEQUENCES / "davis2016").is_dir():
        pytest.skip(f"no sequences in {SEQUENCES}")
    words = ["eval", "lwl_ytvos@random,rts50@random", str(SEQUENCES), "--only", "davis2016/[bd]*", "--frames", "4"]
    words += ["--protocol", "vos", "--rule", "davis2016", "--results", str(tmp_path), *SERIAL, "--export", "davis"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "sequences, rule davis2016" in out
    for name in ("lwl_ytvos@random", "rts50@random"):
        assert f"\n{name} " in out
        assert len(list((tmp_path / "export/davis" / name).rglob("*.png"))) == 8


def test_which_trackers_give_masks_is_known_before_they_are_loaded(tmp_path: Path) -> None:
    names = {name for name in registry.tracker_names() if registry.gives_masks(name)}
    assert names == {"lwl_ytvos", "lwl_boxinit", "rts50", "rts50_ytvos", "rts-lite"}
    assert parse_entrant("lwl_ytvos@random").describe().gives_masks
    assert not parse_entrant("dimp18@random").describe().gives_masks
    with pytest.raises(InputError, match=r"dimp-lite, dimp18@random answers with boxes only; .*rts-lite"):
        run(
            ["dimp-lite", "lwl_ytvos@random", "dimp18@random"], dataset(sequence(), protocol="vos"),
            results=tmp_path, executor="serial", devices=["cpu"],
        )  # fmt: skip
