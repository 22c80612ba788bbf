"""``keepsight weights``: list, info, convert."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .console import say

if TYPE_CHECKING:
    from . import WeightsConvert


def list_them() -> int:
    from ..weights import list_weights, weights_folder

    statuses = list_weights()
    width = max(len(s.name) for s in statuses)
    for status in statuses:
        size = "" if status.size is None else f"{status.size / 1e6:.1f} MB"
        place = "in the package" if status.packaged and status.found else str(status.path)
        say(f"{status.name:<{width}}  {'here' if status.found else 'absent':<6}  {size:>9}  {place}")
    say(f"Weights that are absent must lie in {weights_folder()}; loading such a tracker says where they come from.")
    return 0


def info(file: str) -> int:
    from pathlib import Path

    from ..weights import describe, find_weights, list_weights

    names = {status.name for status in list_weights()}
    info = describe(find_weights(file) if file in names and not Path(file).exists() else file)
    say(f"file          {info.path}")
    say(f"format        {info.format}")
    say(f"architecture  {info.architecture or 'none that keepsight knows'}")
    say(f"tensors       {info.tensors} ({info.parameters:,} parameters)")
    if info.header is not None:
        for name, value in vars(info.header).items():
            if value not in ("", {}):
                say(f"{name:<13} {value}")
    if info.net_type is not None:
        say(f"net type      {info.net_type}")
    if info.epoch is not None:
        say(f"epoch         {info.epoch}")
    if info.constructor is not None:
        say(f"constructor   {info.constructor.fun_module}.{info.constructor.fun_name}")
        for name, value in info.constructor.kwds.items():
            say(f"  {name} = {value!r}")
    for name, what in info.other.items():
        say(f"not read      {name}: {what}")
    for name, count in info.non_finite.items():
        say(f"damaged       {name}: {count} values are NaN or infinite")
    return 0


def convert_one(command: WeightsConvert) -> int:
    from ..trackers.registry import published_header
    from ..weights import convert, entry

    name = None if command.name is None else entry(command.name).name
    header = convert(command.file, command.out, validate=published_header(name), name=name)
    say(f"wrote {command.out}: {header.preset}, from {header.source_file} (SHA-256 {header.source_sha256})")
    return 0
