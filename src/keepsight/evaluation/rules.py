"""The conventions by which box trackers have been scored: every point on which toolkits differ, and the toolkits by name.

Two rules give two numbers for the same result files (LaSOT test, one simulated tracker: AUC 42.06 by pytracking, 42.46 by the
got10k toolkit, 43.20 without the invalid frames), so every score carries the name of its rule. Source of every point:
spec/evaluation.md §1 to §5 and §13.2. A frame is *valid* if its ground truth can be scored, see ``OPERule.valid``.

Example::

    ope_rule("pytracking", "lasot")                        # what pytracking does with LaSOT
    replace(ope_rule("pytracking", "otb100"), name="mine", truncate=True)

Needs numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import InputError, nearest_names

Array = npt.NDArray[np.float64]
Family = Literal["otb", "uav", "lasot", "lasot_extension"]


@dataclass(frozen=True)
class OPERule:
    """One convention for one-pass evaluation: a tracker is started once, in the first frame, with the true box."""

    name: str
    """Named in every score."""
    # --- the result file
    storage: Literal["float", "truncated", "rounded"] = "float"
    """What happens to numbers before anything else: nothing; predictions cut to integers toward zero, as pytracking writes
    them; predictions and ground truth rounded half to even (TrackingNet)."""
    first_frame: Literal["as_gt", "as_is", "excluded"] = "as_gt"
    """The frame where the tracker was given the box: counted as perfect, as the file has it, or not counted at all."""
    bad_predictions: Literal["refuse", "previous", "as_is", "miss"] = "as_is"
    """Predictions with nan or without area. ``refuse``: pytracking; nan and negative sizes are errors, and a size of zero
    repeats the previous box where the ground truth has no nan. ``previous``: the box before, from the second frame on
    (OTB). ``as_is``: taken into the arithmetic, where nan hits nothing. ``miss``: overlap 0, error infinite."""
    short_results: Literal["pad", "refuse", "cut_truth"] = "pad"
    """Fewer predictions than frames: the rest is 0,0,0,0; an error; or those frames are not scored. More are cut off."""
    # --- the ground truth
    valid: Literal["positive", "present"] = "positive"
    """What makes a frame's ground truth valid: x, y, w and h all above 0 (so x = 0 is not); or no nan."""
    nan_truth: Literal["refuse", "invalid", "removed"] = "invalid"
    """Ground truth with a nan: an error; an invalid frame; or not in the sequence at all."""
    absent: Literal["ignored", "invalid", "wrong", "left_out", "removed"] = "ignored"
    """Frames that the data set's own flags call absent (LaSOT). ``ignored``: the flags are not used; ``invalid``: as any
    invalid frame; ``wrong``: invalid, and never precise; ``left_out``: hit nothing whatever box the ground truth has;
    ``removed``: not in the sequence at all."""
    invalid_precision: Literal["wrong", "right"] = "wrong"
    """Whether the centre counts as precise in an invalid frame. The overlap of an invalid frame is always a miss."""
    invalid_norm: Literal["wrong", "right"] = "right"
    """The same for the normalised centre error."""
    centre_valid: Literal["as_valid", "centre"] = "as_valid"
    """For the two centre errors pysot asks only that the ground truth's centre be above 0."""
    denominator: Literal["all", "valid"] = "all"
    """Rates are shares of all frames, or of the valid ones (pytracking's exclude_invalid_frames)."""
    # --- overlap and errors
    overlap: Literal["inclusive", "continuous", "clipped", "clipped_eps"] = "inclusive"
    """How the intersection over union is rounded. ``inclusive``: x + w - 1 and back by + 1, which cancels but for rounding;
    ``continuous``: x + w; ``clipped``: and cut to 0..1; ``clipped_eps``: and 2.2e-16 in the denominator."""
    centre: Literal["inclusive", "continuous"] = "inclusive"
    """x + (w - 1) / 2 or x + w / 2: the same distances but for rounding."""
    norm_by: Literal["size", "size_plus_tiny", "at_least_one"] = "size"
    """The normalised error divides by the true width and height, by those plus 1e-16, or by those but at least 1 pixel."""
    norm_what: Literal["centres", "difference"] = "centres"
    """Whether the two centres are divided and then subtracted, or their difference is divided: the same but for rounding."""
    # --- thresholds
    grid: Literal["torch", "multiples", "matlab"] = "multiples"
    """Bits of the 21 thresholds 0, 0.05, ..., 1, which decide ties: torch.arange, k * 0.05, or MATLAB's colon."""
    strict: bool = True
    """A frame succeeds if its overlap is above the threshold; False: at or above."""
    error_points: int = 51
    """Points of the precision curves: 51 of 0..50 px and 0..0.5, or 21 (TrackingNet)."""
    # --- scores
    success_score: Literal["mean", "area"] = "mean"
    """AUC: the mean of the 21 rates, or the trapezoid area under them."""
    precision_score: Literal["value", "area"] = "value"
    """The rate at 20 px, or the area under the curve."""
    norm_score: Literal["value", "mean", "area"] = "value"
    """The rate at 0.20, the mean of the curve over 0..0.5, or the area under it."""
    drop_zero_curves: bool = False
    """Sequences whose curve is 0 everywhere are left out of the mean curve (OTB's plots)."""
    single_precision: bool = False
    """Rates are float32 and averaged in float32, as pytracking stores them."""
    missing: Literal["refuse", "zeros"] = "refuse"
    """A sequence without result file: an error unless the caller asks for something else, or boxes 0,0,0,0."""

    def success_thresholds(self) -> Array:
        """(21,) overlap thresholds 0, 0.05, ..., 1, to the bit."""
        k = np.arange(21)
        if self.grid == "torch":  # torch.arange: vectors of four, each from its own start
            return np.asarray(0.05 * (k // 4 * 4) + 0.05 * (k % 4), dtype=np.float64)
        if self.grid == "matlab":  # 0:0.05:1 counts from both ends
            return np.where(k <= 10, k * 0.05, 1 - (20 - k) * 0.05)
        return np.asarray(k * 0.05, dtype=np.float64)

    def precision_thresholds(self) -> Array:
        """(51,) or (21,) centre errors from 0 to 50 px."""
        return np.asarray(np.arange(self.error_points) * (50 / (self.error_points - 1)), dtype=np.float64)

    def norm_thresholds(self) -> Array:
        """(51,) or (21,) normalised centre errors from 0 to 0.5."""
        k = np.arange(self.error_points)
        return np.asarray(k / 100 if self.error_points == 51 else k * (0.5 / (self.error_points - 1)), dtype=np.float64)


_PYTRACKING = OPERule(
    name="pytracking",
    bad_predictions="refuse",
    nan_truth="refuse",
    absent="invalid",
    grid="torch",
    single_precision=True,
)
_OTB = OPERule(
    name="otb",
    bad_predictions="previous",
    invalid_precision="right",
    grid="matlab",
    drop_zero_curves=True,
)
_RULES: dict[str, OPERule] = {
    "pytracking": _PYTRACKING,
    "pytracking-valid": replace(_PYTRACKING, name="pytracking-valid", denominator="valid"),
    "otb": _OTB,
    "lasot": replace(_OTB, name="lasot", absent="left_out", short_results="refuse"),
    "uav": replace(_PYTRACKING, name="uav", nan_truth="invalid", invalid_precision="right"),
    "pysot": OPERule(
        name="pysot",
        first_frame="as_is",
        absent="left_out",
        invalid_precision="right",
        centre_valid="centre",
        overlap="clipped",
        norm_by="size_plus_tiny",
    ),
    "got10k-ope": OPERule(
        name="got10k-ope",
        short_results="cut_truth",
        valid="present",
        nan_truth="removed",
        overlap="clipped_eps",
        norm_by="at_least_one",
        norm_what="difference",
        norm_score="mean",
    ),
    "present": OPERule(
        name="present",
        first_frame="excluded",
        bad_predictions="miss",
        short_results="refuse",
        valid="present",
        nan_truth="removed",
        absent="removed",
        overlap="continuous",
        centre="continuous",
    ),
    "trackingnet": OPERule(
        name="trackingnet",
        storage="rounded",
        valid="present",
        nan_truth="refuse",
        norm_what="difference",
        strict=False,
        error_points=21,
        success_score="area",
        precision_score="area",
        norm_score="area",
        missing="zeros",
    ),
}


def family(dataset: str) -> Family:
    """Which of pytracking's special cases a data set falls under, by its name."""
    name = dataset.lower().replace("-", "_")
    if name.startswith("uav"):
        return "uav"
    if name.startswith("lasot"):
        return "lasot_extension" if "ext" in name else "lasot"
    return "otb"


def ope_rule(name: str, dataset: str = "") -> OPERule:
    """The convention ``name`` as it is applied to ``dataset``. Raises :class:`InputError` for an unknown name.

    pytracking (spec §1, §3.5): on UAV123 the ground truth may hold nan, and its invalid frames count as precise; on LaSOT
    absent frames are never precise and short results are errors; on LaSOT's extension absent frames count as precise in the
    normalised precision (2.6 points more).
    """
    if name not in _RULES:
        raise InputError(f"there is no rule {name!r} for boxes; {nearest_names(name, _RULES)}")
    rule = _RULES[name]
    if name.startswith("pytracking"):
        kind = family(dataset)
        if kind == "uav":
            return replace(rule, nan_truth="invalid", invalid_precision="right")
        if kind == "lasot":
            return replace(rule, absent="wrong", short_results="refuse")
    return rule


def rule_names() -> tuple[str, ...]:
    """Names for :func:`ope_rule`."""
    return tuple(_RULES)
