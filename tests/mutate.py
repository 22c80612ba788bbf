"""Can the parity tests fail? Changes one constant of a copy of the source by 1 % and runs the tests that should notice.

python tests/mutate.py            # a line per mutation; exit code 1 if one survives (a command, not a test: minutes)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
NETWORKS, TRACES = "tests/parity/test_networks.py", "tests/parity/test_traces.py"

# file below src/keepsight, text, text with the constant 1 % off (a stride's margin: doubled), tests that must fail
MUTATIONS = [
    ("nn/iou_net.py", "STRIDE_3, STRIDE_4 = 8, 16", "STRIDE_3, STRIDE_4 = 8.08, 16", [NETWORKS, "-k", "dimp18"]),
    ("nn/roi_pool.py", "0.5 + t - 0.5 * t * t.abs()", "0.5 + t - 0.505 * t * t.abs()", ["tests/parity/test_optimisers.py", "-k", "roi"]),
    ("nn/correlation.py", "scale * torch.sqrt(", "1.01 * scale * torch.sqrt(", [NETWORKS, "-k", "dimp18"]),
    ("nn/target_filter.py", "0.5 * (1 - self.mask)", "0.505 * (1 - self.mask)", ["tests/parity/test_optimisers.py"]),
    ("models/dimp.py", '"gauss_sigma": 0.9,\n        "alpha_eps"', '"gauss_sigma": 0.909,\n        "alpha_eps"', [NETWORKS, "-k", "test_network[prdimp18]"]),
    ("models/dimp.py", '"alpha_eps": 0.05', '"alpha_eps": 0.0505', [NETWORKS, "-k", "test_network[prdimp18]"]),
    ("models/dimp.py", '"hinge_threshold": 0.05, "activation_leak": 0.1', '"hinge_threshold": 0.05, "activation_leak": 0.101', [NETWORKS, "-k", "test_network[super_dimp_simple]"]),
    ("images.py", "strict=True)) - 0.1)", "strict=True)) - 0.2)", ["tests/parity/test_images.py"]),
    ("images.py", "-(t**2) / (2 * sigma**2)", "-(t**2) / (2.02 * sigma**2)", ["tests/parity/test_images.py"]),
    ("images.py", "math.radians(angle)), math.sin", "math.radians(1.01 * angle)), math.sin", ["tests/parity/test_images.py"]),
    ("online/localise.py", "config.displacement_scale * math.sqrt", "1.01 * config.displacement_scale * math.sqrt", ["tests/online"]),
    ("online/localise.py", "m2 > config.hard_negative * m1", "m2 > 1.01 * config.hard_negative * m1", ["tests/online"]),
    ("online/search.py", "inside_ratio: float = 0.2", "inside_ratio: float = 0.202", ["tests/online"]),
    ("online/memory.py", "weights[slot] = weights[previous] / (1 - rate)", "weights[slot] = weights[previous] / (1 - 1.01 * rate)", ["tests/parity/test_online.py", "-k", "memory"]),
    ("online/memory.py", "learning_rate: float = 0.01", "learning_rate: float = 0.0101", [TRACES, "-k", "dimp18_det_video_a and not float64"]),
    ("online/refine.py", "jitter_size: float = 0.5", "jitter_size: float = 0.505", [TRACES, "-k", "dimp18_inj_video_a and not float64"]),
    ("trackers/dimp.py", "step=2.5e-3", "step=2.525e-3", [TRACES, "-k", "prdimp18_det_video_a and not float64"]),
    ("trackers/dimp.py", "search_area_scale: float = 5.0", "search_area_scale: float = 5.05", [TRACES, "-k", "dimp18_det_video_a and not float64"]),
]  # fmt: skip


def main() -> int:
    survivors = 0
    only = sys.argv[1:]
    for i, (file, old, new, tests) in enumerate(MUTATIONS):
        if only and str(i) not in only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(REPO / "src", Path(folder) / "src")
            path = Path(folder) / "src" / "keepsight" / file
            text = path.read_text()
            if text.count(old) != 1:
                print(f"{i:2d} {file}: {old!r} stands there {text.count(old)} times; bring this list up to date")
                survivors += 1
                continue
            path.write_text(text.replace(old, new))
            environment = {**os.environ, "PYTHONPATH": str(Path(folder) / "src"), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
            run = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
        caught = run.returncode == 1
        survivors += not caught
        detail = next(
            (line[1:].strip() for line in run.stdout.splitlines() if line.startswith("E  ")), run.stdout[-200:]
        )
        print(
            f"{i:2d} {'caught  ' if caught else 'SURVIVED'} {file}: {old!r} -> {new!r}\n      {detail[:150]}",
            flush=True,
        )
    return survivors > 0


if __name__ == "__main__":
    sys.exit(main())
