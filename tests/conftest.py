"""Shared fixtures: one thread, and the folder of golden numbers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # two spinning threads on a shared machine are up to 45 times slower
sys.path.insert(0, str(Path(__file__).parent))  # tests import `golden_rules` and `reference` by name

REPO = Path(__file__).resolve().parents[1]


def golden_folder() -> Path | None:
    """The golden numbers: $KEEPSIGHT_GOLDEN, else ../shared/golden beside the checkout."""
    given = os.environ.get("KEEPSIGHT_GOLDEN")
    folder = Path(given) if given else REPO.parent / "shared" / "golden"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def golden() -> Path:
    folder = golden_folder()
    if folder is None:
        pytest.skip("no golden numbers: set KEEPSIGHT_GOLDEN to a folder with blocks/ and net/")
    return folder
