"""``keepsight masks``: masks of boxes, the data that RTS is trained on."""

from __future__ import annotations

import fnmatch
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, nearest_names
from .console import complain, say, tell
from .signals import StopSignals

if TYPE_CHECKING:
    from ..datasets.sequence import Sequence
    from . import Masks

NEWS_SECONDS = 10.0  # between two lines of progress
FAILURES_SHOWN = 10


def masks(command: Masks) -> int:
    """Exit status 2 if something could not be read."""
    from ..online.presence import weights_sum
    from ..trackers.registry import RANDOM, box_to_mask_file, load_box_to_mask
    from ..training.box_masks import make_masks, usual_frames
    from ..training.candidates import open_sequences
    from .eval import open_any

    folder = Path(command.sequences).expanduser()
    is_folder = folder.is_dir()
    data = open_any(command.sequences) if is_folder else open_sequences(command.sequences, command.data_root)
    names = [name for name in data if fnmatch.fnmatchcase(name, command.only)]
    if not names:
        raise InputError(
            f"no sequence of {command.sequences} matches {command.only!r}; {nearest_names(command.only, data)}"
        )
    step, most = (1, None) if is_folder else usual_frames(command.sequences)
    step, most = command.step or step, command.most or most
    if is_folder and Path(command.out).expanduser().resolve() == folder.resolve():
        raise InputError(f"--out {command.out} is the folder of the videos themselves; give another one")
    model = load_box_to_mask(command.weights, device=command.device)
    used = f"{RANDOM} 0" if command.weights == RANDOM else weights_sum(box_to_mask_file(command.weights))
    began = told = time.monotonic()

    def news(sequence: Sequence, done: int, of: int) -> None:
        nonlocal told
        if not command.quiet and time.monotonic() - told >= NEWS_SECONDS:
            told = time.monotonic()
            place = names.index(sequence.name) + 1 if sequence.name in names else 0
            tell(f"sequence {place} of {len(names)}, {sequence.name}: {done} of {of} frames")

    with StopSignals() as signals:
        made = make_masks(
            (data[name] for name in names), model, command.out, weights=used, step=step, most=most,
            overwrite=command.overwrite, progress=news, stop=lambda: bool(signals.received),
        )  # fmt: skip
    for failure in made.failures[:FAILURES_SHOWN]:
        complain(f"error: {failure}")
    if len(made.failures) > FAILURES_SHOWN:
        complain(f"error: and {len(made.failures) - FAILURES_SHOWN} more")
    rate = made.made / max(time.monotonic() - began, 1e-9)
    say(
        f"{made.made} masks made ({rate:.1f}/s, {made.empty} of them empty), {made.present} were there, {made.absent} frames "
        f"without target; {made.sequences} of {len(names)} sequences in {command.out}"
    )
    if signals.received:
        complain("stopped; the same command goes on from there")
        return 128 + signals.received
    return 2 if made.failures else 0
