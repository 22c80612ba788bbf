"""Names of weights, where their files lie, what a file holds, and turning a published file into one of ours."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import WeightsError, nearest_names
from .pickle_reader import Constructor, Format, open_weights
from .store import (
    HEADER_KEY,
    WeightsHeader,
    non_finite,
    parse_header,
    read_any,
    save_weights,
    strip_module_prefix,
)

FOLDER_VARIABLE = "KEEPSIGHT_WEIGHTS"
"""Environment variable with the folder of weights files."""
MODEL_ZOO = "the authors' model zoo (the model zoo page of their project pytracking; the files are under its terms)"


@dataclass(frozen=True)
class CatalogEntry:
    """One set of weights that a tracker can ask for by name."""

    name: str
    """Name in this catalogue, e.g. ``super_dimp``."""
    published_file: str | None
    """File name under which the authors publish it (spec/dimp-atom.md §7.9); None for our own."""
    origin: str
    """Where the published file comes from, in words."""
    architectures: tuple[str, ...] = ()
    """What :func:`recognise` says of its state dict."""
    packaged: bool = False
    """Whether the file is part of the installed package."""

    @property
    def file_name(self) -> str:
        """File name in our own format."""
        return f"{self.name}.safetensors"


_RESNET50_DIMP = "dimp50 or super_dimp"
_LWL = "lwl_stage1 or lwl_stage2"
_RTS_WITH_BOX = "rts50_boxinit_variant"
_BOX_PARTS = ("bbox_encoder", "segm_encoder")
_ATOM = ("atom", "atom_resnet50")
_ABLATED = ("atom_no_reference", "atom_concatenation", "atom_siamese", "atom_block3", "atom_block4")  # paper, Table 1

CATALOG: tuple[CatalogEntry, ...] = (
    CatalogEntry("dimp-lite", None, "part of the keepsight package", packaged=True),
    CatalogEntry(
        "dimp-lite-start", None, "part of the keepsight package: where training of dimp-lite begins", packaged=True
    ),
    CatalogEntry("dimp18", "dimp18.pth", MODEL_ZOO, ("dimp18",)),
    CatalogEntry("dimp50", "dimp50.pth", MODEL_ZOO, (_RESNET50_DIMP,)),
    CatalogEntry("prdimp18", "prdimp18.pth.tar", MODEL_ZOO, ("prdimp18",)),
    CatalogEntry("prdimp50", "prdimp50.pth.tar", MODEL_ZOO, ("prdimp50",)),
    CatalogEntry("super_dimp", "super_dimp.pth.tar", MODEL_ZOO, (_RESNET50_DIMP,)),
    CatalogEntry("super_dimp_simple", "super_dimp_simple.pth.tar", MODEL_ZOO, ("super_dimp_simple",)),
    CatalogEntry("keep_track", "keep_track.pth.tar", MODEL_ZOO, ("keep_track",)),
    CatalogEntry("lwl_stage1", "lwl_stage1.pth", MODEL_ZOO, (_LWL,)),
    CatalogEntry("lwl_stage2", "lwl_stage2.pth", MODEL_ZOO, (_LWL,)),
    CatalogEntry("lwl_boxinit", "lwl_boxinit.pth", MODEL_ZOO, ("lwl_boxinit",)),
    CatalogEntry("sta", "sta.pth.tar", MODEL_ZOO, ("sta",)),
    CatalogEntry("rts50", "rts50.pth", MODEL_ZOO, ("rts50", _RTS_WITH_BOX, "rts50_concat_variant")),
    CatalogEntry("rts50_ytvos", None, "`keepsight train rts50_ytvos`: nobody published such weights", ("rts50",)),
    CatalogEntry("rts-lite", None, "part of the keepsight package", ("rts-lite",), packaged=True),
    CatalogEntry("keeptrack-lite", None, "part of the keepsight package", ("keep_track",), packaged=True),
    CatalogEntry("atom", "atom_default.pth", MODEL_ZOO, _ATOM),
    CatalogEntry("atom_prob_ml", "atom_prob_ml", MODEL_ZOO, _ATOM),
    CatalogEntry("atom_gmm_sampl", "atom_gmm_sampl", MODEL_ZOO, _ATOM),
    *(
        CatalogEntry(name, None, f"`keepsight train {name}`: nobody published such weights", (name,))
        for name in _ABLATED
    ),
)


@dataclass(frozen=True)
class WeightsStatus:
    """Whether one entry of the catalogue is at hand."""

    name: str
    path: Path
    """Where the file lies, or where it must lie."""
    found: bool
    size: int | None
    """Bytes, if found."""
    packaged: bool


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file holds, for ``keepsight weights info FILE``."""

    path: Path
    format: Format
    architecture: str | None
    """Result of :func:`recognise`."""
    tensors: int
    """Number of tensors."""
    parameters: int
    """Number of values, without the batch-norm statistics (running mean and variance, counters)."""
    constructor: Constructor | None
    net_type: str | None
    epoch: int | None
    header: WeightsHeader | None
    """Our own files only."""
    non_finite: Mapping[str, int]
    """Tensors with NaN or infinity -> number of such values."""
    other: Mapping[str, str]
    """What else the file holds and was not read."""


def entry(name: str) -> CatalogEntry:
    """The catalogue's entry; a tracker's name such as ``superdimp`` works too. :class:`WeightsError` if unknown."""
    plain = _plain_name(name)
    for candidate in CATALOG:
        if _plain_name(candidate.name) == plain:
            return candidate
    raise WeightsError(f"no weights are called {name!r}; {nearest_names(name, [e.name for e in CATALOG])}")


def weights_folder() -> Path:
    """Folder of weights files: ``$KEEPSIGHT_WEIGHTS``, else ``keepsight/weights`` in the user's cache folder."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(os.path.expanduser(chosen))
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "keepsight" / "weights"


def find_weights(name: str, beside: Path | None = None) -> Path:
    """The file of these weights: packaged, converted, or the published file itself lying in :func:`weights_folder`.

    ``beside``: a folder to look in first, for a file of ours or the published one.
    Raises :class:`WeightsError` that says where the published file comes from, the command that converts it and where
    the result must lie.
    """
    wanted = entry(name)
    near = [] if beside is None else [beside / name for name in _file_names(wanted)]
    for path in (*near, *_places(wanted)):
        if path.is_file():
            return path
    if wanted.packaged:
        raise WeightsError(
            f"the weights {wanted.name!r} belong to the package but {_places(wanted)[0]} is absent; "
            "reinstall it: pip install --force-reinstall keepsight"
        )
    target = weights_folder() / wanted.file_name
    if wanted.published_file is None:
        raise WeightsError(
            f"the weights {wanted.name!r} are not here; they come from {wanted.origin}. "
            f"Put the trained file at {target}, or give it with --weights (weights=)."
        )
    given = f"{wanted.published_file} --name {wanted.name}"  # not every file tells its name
    raise WeightsError(
        f"the weights {wanted.name!r} are not here.\n"
        f"  1. Get the published file {wanted.published_file} from {wanted.origin}.\n"
        f"  2. Convert it: keepsight weights convert {given} --out {shlex.quote(str(target))}\n"
        f"The result must lie at {target} (set {FOLDER_VARIABLE} to use another folder)."
    )


def list_weights() -> list[WeightsStatus]:
    """Every entry of the catalogue, and whether its file is at hand."""
    statuses = []
    for wanted in CATALOG:
        places = _places(wanted)
        path = next((p for p in places if p.is_file()), None)
        size = path.stat().st_size if path is not None else None
        statuses.append(WeightsStatus(wanted.name, path or places[0], path is not None, size, wanted.packaged))
    return statuses


def describe(path: str | Path) -> WeightsInfo:
    """What the file holds; :class:`WeightsError` as :func:`read_any`."""
    path = Path(path)
    read = read_any(path)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return WeightsInfo(
        path=path,
        format=read.format,
        architecture=recognise(read.tensors),
        tensors=len(read.tensors),
        parameters=sum(t.numel() for n, t in read.tensors.items() if not n.endswith(statistics)),
        constructor=read.constructor,
        net_type=read.net_type,
        epoch=read.epoch,
        header=parse_header(read.metadata, path) if HEADER_KEY in read.metadata else None,
        non_finite=non_finite(read.tensors),
        other=read.other,
    )


def convert(
    path: str | Path,
    out: str | Path,
    *,
    validate: Callable[[dict[str, Tensor], Constructor | None], WeightsHeader],
    name: str | None = None,
) -> WeightsHeader:
    """Turn a published file (or any other weights file) into one of ours at ``out``; returns the header written.

    ``validate(tensors, constructor)`` checks the names and shapes against the network (it raises
    :class:`WeightsError`) and says what they are; the source's file name and SHA-256 are filled in here. ``name``: an
    entry of the catalogue that the file claims to be; a file of another architecture is an error.
    """
    path, out = Path(path), Path(out)
    if out.suffix != ".safetensors":
        raise WeightsError(f"--out {out} must end in .safetensors")
    read = read_any(path)
    tensors = used_tensors(read.tensors)
    if name is not None:
        _check_architecture(entry(name), recognise(tensors), path)
    damaged = non_finite(tensors)
    if damaged:
        raise WeightsError(f"{path} has NaN or infinite values in {len(damaged)} tensors, first {next(iter(damaged))}")
    header = validate(tensors, read.constructor)
    header = replace(header, source_file=path.name, source_sha256=_sha256(path))
    save_weights(out, tensors, header)
    return header


def used_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that a network here has; names without the ``module.`` of DataParallel.

    One layout of RTS's file also carries a whole network from box to mask (``box_*``, ``bbox_encoder``, ``segm_encoder``; spec of
    RTS §7.4). It is left out: RTS as published gets its first mask from STA, whose weights are a file of their own.
    """
    tensors = strip_module_prefix(tensors)
    if recognise(tensors) != _RTS_WITH_BOX:
        return tensors
    return {n: t for n, t in tensors.items() if not n.startswith("box_") and n.partition(".")[0] not in _BOX_PARTS}


def recognise(tensors: Mapping[str, Any]) -> str | None:
    """The architecture that a state dict belongs to, by a few telling names and shapes; None if none is known.

    ``tensors``: name -> anything with a ``shape``. Networks with equal tables are told together, e.g.
    ``"dimp50 or super_dimp"``.
    """
    names = {n.removeprefix("module."): tuple(t.shape) for n, t in tensors.items()}
    parts = {n.partition(".")[0] for n in names}
    if {"backbone", "rpn_head"} <= parts:
        return _recognise_siamese(names, parts)
    if {"descriptor_extractor", "matcher"} <= parts:
        return "keep_track"
    if {"target_model", "label_encoder", "decoder"} <= parts:
        return _recognise_segmentation(parts)
    if {"feature_extractor", "bb_regressor"} <= parts:
        return _recognise_dimp(names, parts)
    if {"backbone", "projection", "filter_optimizer"} <= parts:
        return "dimp-lite" if "box_net" in parts else "dimp-lite before training"
    return None


def _recognise_siamese(names: Mapping[str, tuple[int, ...]], parts: set[str]) -> str:
    if "mask_head" in parts:
        return "siammask_r50_l3"
    if "backbone.features.0.weight" in names:
        return "siamrpn_alex"
    if "backbone.layer5.0.weight" in names:
        return "siamrpn_alex_train"
    if "backbone.layer0.0.weight" in names:
        return "siamrpn_mobilev2_l234"
    if names.get("neck.downsample2.downsample.0.weight", (256,))[0] == 128:
        return "siamrpn_r50_l234_lt"
    return "siamrpn_r50_l234" if "rpn_head.cls_weight" in names else "siamrpn_r50_l234_otb"


def _recognise_segmentation(parts: set[str]) -> str:
    if "hint_encoder" in parts:
        return "rts-lite"
    if "box_target_model" in parts:
        return _RTS_WITH_BOX
    if "fusion_module" in parts:
        return "rts50_concat_variant"
    if "clf_encoder" in parts:
        return "rts50"
    if "target_model_segm" in parts:
        return "sta"
    return "lwl_boxinit" if "box_label_encoder" in parts else _LWL


def _recognise_dimp(names: Mapping[str, tuple[int, ...]], parts: set[str]) -> str | None:
    deep = "feature_extractor.layer1.0.conv3.weight" in names  # bottleneck blocks: ResNet-50
    optimiser = "classifier.filter_optimizer."
    if "classifier" not in parts:
        return _recognise_atom(names, deep)
    if optimiser + "residual_module.filter_reg" in names:
        return "super_dimp_simple" if deep else None
    if optimiser + "label_map_predictor.weight" in names:
        return _RESNET50_DIMP if deep else "dimp18"
    if optimiser + "log_step_length" in names:
        return "prdimp50" if deep else "prdimp18"
    return None


def _recognise_atom(names: Mapping[str, tuple[int, ...]], deep: bool) -> str | None:
    """ATOM, or with a ResNet-18 one of the networks of the paper's Table 1."""

    def shape(layer: str) -> tuple[int, ...]:
        return names.get(f"bb_regressor.{layer}.weight", ())

    fine, coarse = shape("fc3_rt.linear"), shape("fc4_rt.linear")
    kinds = {
        "atom_block3": fine and not coarse,
        "atom_block4": coarse and not fine,
        "atom_siamese": shape("iou_predictor") == (1, 1),
        "atom_concatenation": fine and fine[1] > 256 * 5 * 5,
        "atom_no_reference": fine and not shape("conv3_1r.0"),
    }
    found = next((kind for kind, is_so in kinds.items() if is_so), None)
    if found is None:
        return "atom_resnet50" if deep else "atom"
    return None if deep else found


def _check_architecture(wanted: CatalogEntry, found: str | None, path: Path) -> None:
    if wanted.architectures and found not in wanted.architectures:
        told = f"of {found}" if found is not None else "of no network known here"
        raise WeightsError(
            f"{path} holds weights {told}, not of {wanted.name}; it needs {wanted.published_file or wanted.origin}"
        )


def _places(wanted: CatalogEntry) -> list[Path]:
    """Where the file may lie, best first; the first is where it must lie if it is nowhere."""
    folder = weights_folder()
    packaged = [Path(__file__).parent / "files" / wanted.file_name] if wanted.packaged else []
    return packaged + [folder / name for name in _file_names(wanted)]


def _file_names(wanted: CatalogEntry) -> list[str]:
    """What the file may be called, ours first."""
    if wanted.published_file is None:
        return [wanted.file_name]
    stem = wanted.published_file.partition(".")[0]
    return [wanted.file_name, wanted.published_file, f"{stem}.pth", f"{stem}.pth.tar"]


def _plain_name(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_weights(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
