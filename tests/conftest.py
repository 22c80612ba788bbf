"""Shared fixtures: one thread, and the folder of golden numbers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

# the same examples in every run; KEEPSIGHT_FUZZ=1 draws new ones. No deadlines: machines may be busy
settings.register_profile("keepsight", deadline=None, derandomize="KEEPSIGHT_FUZZ" not in os.environ, print_blob=True)
settings.load_profile("keepsight")
torch.set_num_threads(1)  # two spinning threads on a shared machine are up to 45 times slower
sys.path.insert(0, str(Path(__file__).parent))  # tests import `golden_rules` and `reference` by name
sys.path.append(str(Path(__file__).parents[1]))  # data workers unpickle classes of `tests.training...`

from agreement import RECORDER, session_finished  # noqa: E402
from golden_rules import golden_folder  # noqa: E402


@pytest.fixture(scope="session")
def golden() -> Path:
    """Tests skip, and say so, where the folder lacks the file they read."""
    return golden_folder()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session_finished(session.config, exitstatus)  # KEEPSIGHT_AGREEMENT=FILE.md: the table of agreement


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """pytest-xdist: a worker is done."""
    RECORDER.merge(getattr(node, "workeroutput", {}).get("agreement", {"rows": [], "read": {}}))
