"""Shared fixtures: one thread, and the folder of golden numbers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# the same examples in every run; KEEPSIGHT_FUZZ=1 draws new ones. No deadlines: machines may be busy
settings.register_profile("keepsight", deadline=None, derandomize="KEEPSIGHT_FUZZ" not in os.environ, print_blob=True)
settings.load_profile("keepsight")
torch.set_num_threads(1)  # two spinning threads on a shared machine are up to 45 times slower
sys.path.insert(0, str(Path(__file__).parent))  # tests import `golden_rules` and `reference` by name

from golden_rules import golden_folder  # noqa: E402


@pytest.fixture(scope="session")
def golden() -> Path:
    """Tests skip, and say so, where the folder lacks the file they read."""
    return golden_folder()
