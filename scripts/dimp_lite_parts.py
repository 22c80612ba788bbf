"""Write copies of dimp-lite's weights with one trained part switched off each, to see what it is worth.

    python scripts/dimp_lite_parts.py src/keepsight/weights/files/dimp-lite.safetensors parts
    keepsight eval dimp-lite,no-box=dimp-lite@parts/no-box.safetensors,... ../shared/data/sequences --results results

``no-box``: the estimator answers the same for every box, so position and size are left as the filter says; ``no-residual``:
the filter's features are those of the projection alone; ``start-...``: the part has its values from before training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from keepsight.weights.catalog import find_weights
from keepsight.weights.store import WeightsHeader, parse_header, read_any, save_weights

Tensors = dict[str, Tensor]


def zeroed(prefix: str) -> Callable[[Tensors, Tensors], Tensors]:
    return lambda trained, _: {k: torch.zeros_like(v) if k.startswith(prefix) else v for k, v in trained.items()}


def restored(*prefixes: str) -> Callable[[Tensors, Tensors], Tensors]:
    return lambda trained, start: {k: start[k] if k.startswith(prefixes) else v for k, v in trained.items()}


def untrained(trained: Tensors, start: Tensors) -> Tensors:
    """All as before training."""
    return zeroed("residual.4")(zeroed("box_net.score")({**trained, **start}, start), start)


PARTS: dict[str, Callable[[Tensors, Tensors], Tensors]] = {
    "no-box": zeroed("box_net.score"),
    "no-residual": zeroed("residual.4"),
    "start-backbone": restored("backbone."),
    "start-projection": restored("projection."),
    "start-optimiser": restored("filter_optimizer."),
    "untrained": untrained,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="the trained file")
    parser.add_argument("out", type=Path, help="folder for the copies")
    parser.add_argument("--start", type=Path, default=None, help="the file that training began with (default: ours)")
    arguments = parser.parse_args()
    read = read_any(arguments.weights)
    trained, start = dict(read.tensors), dict(read_any(arguments.start or find_weights("dimp-lite-start")).tensors)
    header = parse_header(read.metadata, arguments.weights)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, change in PARTS.items():
        note = f"{arguments.weights.name} with {name} (scripts/dimp_lite_parts.py)"
        copy = WeightsHeader(header.family, header.preset, dict(header.config), source=note, licence=header.licence)
        save_weights(arguments.out / f"{name}.safetensors", change(trained, start), copy)


if __name__ == "__main__":
    main()
