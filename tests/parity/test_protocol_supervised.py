"""The supervised protocol against the files that vot-toolkit wrote for the same answers (golden/metrics/vot_supervised).

A scripted tracker answers in each frame with the candidate box of that frame; the toolkit's result files must come out.
Its overlap is that of its own rasteriser, so the failures must be decided by variant ``vot``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from agreement import agree, toolkit_name

from keepsight.datasets.sequence import Frames, Sequence
from keepsight.datasets.vot import read_vot
from keepsight.evaluation.entrants import Answer, Entrant
from keepsight.evaluation.protocols import run_supervised
from keepsight.evaluation.run import SAME_RUNS, same_answers
from keepsight.regions import Special, parse_region

FLOAT32 = 1e-6  # the toolkit stores boxes as float32: relative


class Numbers(Frames):
    """Frames that say their number: a picture of the right size, with the number in its first pixels."""

    def __init__(self, count: int, width: int, height: int) -> None:
        self._count, self._size = count, (height, width, 3)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> np.ndarray:
        frame = np.zeros(self._size, np.uint8)
        frame[0, 0] = index % 256, index // 256, 0
        return frame


class Candidates(Entrant):
    name = "candidates"

    def __init__(self, boxes: np.ndarray) -> None:
        self.boxes = boxes

    def init(self, frame, box, mask=None, *, seed=0):
        pass

    def update(self, frame):
        number = int(frame[0, 0, 0]) + 256 * int(frame[0, 0, 1])
        return Answer(tuple(self.boxes[number]))


@pytest.fixture
def folder(golden: Path) -> Path:
    folder = golden / "metrics" / "vot_supervised"
    if not (folder / "candidates").is_dir():
        pytest.skip(f"{golden} has no metrics/vot_supervised/candidates")
    return folder


def sequences(folder: Path) -> list[Sequence]:
    found = []
    for one in read_vot(folder / "data"):
        width, height = one.annotation.image_size
        found.append(Sequence(one.name, "vot", Numbers(len(one.boxes), width, height), one.read))
    return found


def test_result_files_of_the_toolkit(folder, golden):
    (written,) = (folder / "expected").glob("vot_toolkit_*.json")  # its name says which version
    meets = partial(agree, toolkit=toolkit_name(golden, written.name), rule="protocol supervised, variant vot")
    compared = 0
    for one in sequences(folder):
        for file in sorted((folder / "candidates").glob(f"*/{one.name}/*.txt")):
            tracker = file.parent.parent.name
            expected = folder / "results" / tracker / "baseline" / one.name / file.name
            if not expected.is_file():
                continue
            run = run_supervised(Candidates(np.loadtxt(file, delimiter=",")), one, variant="vot")
            want = [parse_region(line) for line in expected.read_text().split()]
            assert len(run.regions) == len(want) == len(one)
            for i, (mine, theirs) in enumerate(zip(run.regions, want, strict=True)):
                where = f"{tracker}/{file.name}, frame {i}"
                assert isinstance(mine, Special) == isinstance(theirs, Special), where
                if isinstance(mine, Special):
                    meets(mine.code, theirs.code, 0, what="codes: start, failure, skipped", where=where)
                else:
                    box = [theirs.x, theirs.y, theirs.w, theirs.h]
                    meets(run.boxes[i], box, FLOAT32, relative=True, what="boxes after starts", where=where)
            compared += 1
    assert compared


def test_equal_repetitions_are_noticed(folder):
    """Trackers for which the toolkit wrote fewer repetitions than candidates gave equal ones, the others did not."""
    one = sequences(folder)[0]
    for tracker in sorted((folder / "candidates").iterdir()):
        files = sorted((tracker / one.name).glob("*.txt"))[:SAME_RUNS]
        runs = [run_supervised(Candidates(np.loadtxt(f, delimiter=",")), one, variant="vot") for f in files]
        texts = {f.read_text() for f in files}
        assert all(same_answers(runs[0], run) for run in runs) == (len(texts) == 1)
