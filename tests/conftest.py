"""Shared fixtures: one thread, and the folder of golden numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # two spinning threads on a shared machine are up to 45 times slower
sys.path.insert(0, str(Path(__file__).parent))  # tests import `golden_rules` and `reference` by name

from golden_rules import golden_folder  # noqa: E402


@pytest.fixture(scope="session")
def golden() -> Path:
    """Tests skip, and say so, where the folder lacks the file they read."""
    return golden_folder()
