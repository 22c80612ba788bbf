"""Tracker names -> trackers: where settings, network and weights come together."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from reprlib import repr as short
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .. import weights as files
from ..errors import InputError, WeightsError, nearest_names
from ..models.atom import AtomLiteNet, AtomNet, AtomNetConfig, atom_config_from_constructor, atom_network
from ..models.dimp import DiMPNet, DiMPNetConfig, config_from_constructor, network_config
from ..models.keeptrack import KeepTrackNet, KeepTrackNetConfig, keeptrack_config_from_constructor, lite_config
from ..models.rts_lite import RTSLiteNet, RTSLiteNetConfig
from ..models.segmentation import (
    SEGMENTATION_NETWORKS,
    LWLNetConfig,
    RTSNet,
    RTSNetConfig,
    STANet,
    STANetConfig,
    segmentation_config_from_constructor,
    segmentation_network,
)
from ..online.presence import Calibration, read_calibration, weights_sum
from ..weights import (
    Constructor,
    ForeignCheckpoint,
    WeightsHeader,
    check_keys,
    find_weights,
    parse_header,
    read_any,
    recognise,
    strip_module_prefix,
    used_tensors,
    weights_folder,
)
from ..weights.catalog import FOLDER_VARIABLE
from ..weights.catalog import entry as catalog_entry
from ..weights.store import HEADER_KEY
from . import atom, dimp, dimp_lite, keeptrack, lwl, rts, rts_lite
from .base import Tracker
from .sta import BoxToMask

RANDOM = "random"
DEFAULT = "default"
"""The calibration that comes with keepsight."""

Given: TypeAlias = str | Path | Sequence[str | Path] | None
"""Weights as a caller says them: nothing, a file, or several files for a tracker of several networks."""
_Reads: TypeAlias = dict[Path, ForeignCheckpoint]
"""Contents of files that had to be read to know what they are."""


@dataclass(frozen=True)
class _Part:
    """One network of a tracker."""

    weights: str
    """Name of its weights in the catalogue."""
    default_config: Callable[[], Any]
    """Network configuration that these weights were published with."""
    build_net: Callable[[Any], nn.Module]
    """The network of a configuration, with fresh parameters."""
    optional: bool = False
    """The tracker can do without it, and is built with None if the weights are not here."""
    instead: str | None = None
    """Name of weights that do where its own are not here."""


@dataclass(frozen=True)
class _Entry:
    """One tracker name."""

    weights: str
    """Name of its weights in the catalogue."""
    default_config: Callable[[], Any]
    """Network configuration that these weights were published with."""
    build_net: Callable[[Any], nn.Module]
    """The network of a configuration, with fresh parameters."""
    build: Callable[..., Tracker]
    """The tracker around its network, or networks: (networks.., device, seed)."""
    second: _Part | None = None
    """Another network that it needs."""
    instead: str | None = None
    """Name of weights that do where its own are not here."""

    @property
    def parts(self) -> tuple[_Part, ...]:
        """All networks, the base tracker's first."""
        first = _Part(self.weights, self.default_config, self.build_net, instead=self.instead)
        return (first,) if self.second is None else (first, self.second)


def _entries() -> dict[str, _Entry]:
    build: Callable[..., Tracker]
    entries = {
        name: _Entry(
            config.weights, partial(network_config, config.weights), DiMPNet, partial(dimp.DiMPTracker, name, config)
        )
        for name, config in dimp.presets().items()
    }
    for name, settings in atom.presets().items():
        network = partial(atom_network, settings.weights)
        entries[name] = _Entry(settings.weights, network, AtomNet, partial(atom.AtomTracker, name, settings))
    for name, lite in dimp_lite.presets().items():
        tracker = partial(dimp_lite.LiteTracker, name, lite)
        entries[name] = _Entry("dimp-lite", dimp_lite.LiteNetConfig, dimp_lite.LiteNet, tracker)
    for name, settings in atom.lite_presets().items():
        build = partial(atom.AtomTracker, name, settings)
        entries[name] = _Entry(settings.weights, dimp_lite.LiteNetConfig, AtomLiteNet, build)
    for name, kept in keeptrack.presets().items():
        matcher = _Part("keep_track", KeepTrackNetConfig, KeepTrackNet)
        base, build = partial(network_config, kept.weights), partial(keeptrack.KeepTrackTracker, name, kept)
        entries[name] = _Entry(kept.weights, base, DiMPNet, build, matcher)
    for name, lite_kept in keeptrack.lite_presets().items():
        matcher = _Part(lite_kept.association.matcher, lite_config, KeepTrackNet)
        build = partial(keeptrack.KeepTrackLiteTracker, name, lite_kept)
        entries[name] = _Entry("dimp-lite", dimp_lite.LiteNetConfig, dimp_lite.LiteNet, build, matcher)
    for name, learnt in lwl.presets().items():
        net, config = segmentation_network(learnt.weights)
        entries[name] = _Entry(learnt.weights, type(config), net, partial(lwl.LWLTracker, name, learnt))
    for name, robust in rts.presets().items():
        build = partial(rts.RTSTracker, name, robust)
        second, instead = _box_to_mask(robust.box_network), None if name == "rts50" else "rts50"
        entries[name] = _Entry(robust.weights, RTSNetConfig, RTSNet, build, second, instead)
    for name, small in rts_lite.presets().items():
        masks = _Part(small.masks.weights, RTSLiteNetConfig, RTSLiteNet)
        build = partial(rts_lite.RTSLiteTracker, name, small)
        entries[name] = _Entry("dimp-lite", dimp_lite.LiteNetConfig, dimp_lite.LiteNet, build, masks)
    return entries


def gives_masks(name: str) -> bool:
    """Whether the tracker ``name`` (one of :func:`tracker_names`) answers with masks, before it is loaded."""
    kind: type[Tracker] = _entries()[name].build.func  # type: ignore[attr-defined]
    return kind.gives_masks is not Tracker.gives_masks


def tracker_names() -> tuple[str, ...]:
    """Every name that :func:`load` takes, the default first."""
    return tuple(sorted(_entries(), key=lambda n: (n != "dimp-lite", n)))


def load(
    name: str = "dimp-lite",
    *,
    weights: Given = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    calibration: str | Path | Calibration | None = None,
) -> Tracker:
    """A tracker by name, ready for ``init(frame, box)``.

    ``name``: one of :func:`tracker_names`, or the path of a weights file, whose header says which tracker it is for.
    ``weights``: None for the tracker's own (packaged, or found as ``keepsight weights list`` shows), a path of a converted or
    published file, a list of paths for a tracker of several networks (in any order; a file that is not given is looked for
    beside the given one first), or ``"random"`` for seeded random numbers. ``device``: ``"auto"`` (CUDA, then MPS, then CPU) or
    any torch device. ``seed``: of every random draw, and of random weights. ``calibration``: what makes
    ``Result.presence_probability``: ``"default"`` for the one that comes with keepsight, a file of ``keepsight calibrate``, or a
    :class:`Calibration`.

    Raises :class:`InputError` for an unknown name or device, weights or a calibration that are no such thing, or a calibration
    that is damaged or of another tracker or weights; :class:`WeightsError` for absent, damaged or unfitting weights.
    """
    chosen = choose_device(device)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise InputError(f"seed is {seed!r}; expected a whole number")
    reads: _Reads = {}
    name, entry, given = _asked(name, weights, reads)
    fitted = None if calibration is None else _find_calibration(name, calibration)
    nets: list[nn.Module | None]
    if isinstance(given, str):
        used = RANDOM
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            nets = [part.build_net(part.default_config()) for part in entry.parts]
    else:
        paths = _files(name, entry, given, reads)
        nets = [
            None if path is None else _loaded(name, part, path, reads.pop(path, None))
            for part, path in zip(entry.parts, paths, strict=True)
        ]
        used = "" if fitted is None else weights_sum(*(path for path in paths if path is not None))
    tracker = entry.build(*(net and net.eval().requires_grad_(False) for net in nets), chosen, seed)
    tracker.calibration = fitted  # refuses that of another tracker
    if fitted is not None and fitted.weights_sha256 not in ("", used):
        raise InputError(
            f"the calibration was fitted to results of {name} with the weights {fitted.weights_sha256}, and these are {used}, "
            "whose confidences mean something else; run keepsight eval and keepsight calibrate with them"
        )
    return tracker


def load_box_to_mask(
    weights: str | Path | None = None, *, device: str | torch.device = "auto", seed: int = 0
) -> BoxToMask:
    """The network that makes masks of boxes, STA, ready for ``mask(frame, box)``.

    ``weights``: None for those of that name (``keepsight weights list`` shows them), a file, or ``"random"``. Raises as
    :func:`load`.
    """
    chosen, part = choose_device(device), _box_to_mask(rts.RTSConfig().box_network)
    if weights == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = part.build_net(part.default_config())
    else:
        net = _loaded(part.weights, part, box_to_mask_file(weights), None)
    return BoxToMask(net.eval().requires_grad_(False), chosen)  # type: ignore[arg-type]


def box_to_mask_file(weights: str | Path | None = None) -> Path:
    """The file that :func:`load_box_to_mask` reads."""
    return find_weights(rts.RTSConfig().box_network) if weights is None else Path(weights).expanduser()


def _box_to_mask(weights: str) -> _Part:
    return _Part(weights, STANetConfig, STANet, optional=True)  # masks can be given, too


def weights_files(name: str, weights: Given = None) -> tuple[Path, ...]:
    """The weights file of each network of a tracker, in the order in which it takes them.

    ``name`` and ``weights``: as :func:`load` takes them, which uses these very files; not ``"random"``. Files are read only where
    that is needed to know what they are for. Raises what :func:`load` raises for them.
    """
    reads: _Reads = {}
    name, entry, given = _asked(name, weights, reads)
    if isinstance(given, str):
        raise InputError(f"weights are {RANDOM!r}, which are in no file")
    return tuple(path for path in _files(name, entry, given, reads) if path is not None)


def _asked(name: str, weights: Given, reads: _Reads) -> tuple[str, _Entry, tuple[Path, ...] | str]:
    """A tracker's name, its entry, and the files that are given, or ``"random"``."""
    entries, given = _entries(), _given(weights)
    if not isinstance(name, (str, Path)):
        raise InputError(f"the tracker is {short(name)}; expected a name such as 'dimp-lite', or a weights file")
    if name not in entries and Path(name).suffix in (".safetensors", ".pth", ".tar", ".pt"):
        if given:
            raise InputError(f"{str(name)!r} is a weights file already; leave weights out, or give a tracker's name")
        file = Path(name).expanduser()
        reads[file] = read_any(file)
        name, given = tracker_of_weights(file, reads[file]), (file,)
    if name not in entries:
        raise InputError(f"no tracker {str(name)!r}; {nearest_names(str(name), entries)}")
    return str(name), entries[str(name)], given


def _given(weights: Given) -> tuple[Path, ...] | str:
    """The files, or ``"random"``."""
    if weights is None:
        return ()
    each = weights if isinstance(weights, (list, tuple)) else (weights,)
    if not each or not all(isinstance(path, (str, os.PathLike)) for path in each):
        raise InputError(
            f"weights is {short(weights)}; expected the path of a weights file, a list of paths (one for each network of the "
            f"tracker), {RANDOM!r}, or None for the tracker's own"
        )
    if RANDOM not in each:
        return tuple(Path(path).expanduser() for path in each)
    if len(each) > 1:
        raise InputError(f"weights is {short(weights)}; {RANDOM!r} stands for all networks, so give it alone")
    return RANDOM


def _files(name: str, entry: _Entry, given: tuple[Path, ...], reads: _Reads) -> tuple[Path | None, ...]:
    """The weights file of each of the tracker's networks; a file that is given takes the place of the one it is for.

    None for an optional network that is not here.
    """
    parts, known = entry.parts, dict[int, Path]()
    for path in given:
        place = 0 if len(given) == len(parts) == 1 else _place(name, parts, path, reads)
        if place in known:
            raise WeightsError(
                f"{known[place]} and {path} are both weights of {parts[place].weights}, of which {name} needs one; "
                f"it needs {_needs(parts)}"
            )
        known[place] = path
    beside = given[0].parent if given else None
    return tuple(known[i] if i in known else _find(name, parts, i, beside) for i in range(len(parts)))


def _place(name: str, parts: tuple[_Part, ...], path: Path, reads: _Reads) -> int:
    """Which of the tracker's networks a file is for."""
    if path not in reads:
        reads[path] = read_any(path)
    found = recognise(strip_module_prefix(reads[path].tensors))
    for place, part in enumerate(parts):
        if found in (catalog_entry(part.weights).architectures or (part.weights,)):
            return place
    raise WeightsError(
        f"{path} holds weights of {found or 'no network known here'}, which {name} has not; it needs {_needs(parts)}"
    )


def _needs(parts: tuple[_Part, ...]) -> str:
    return " and ".join(part.weights for part in parts)


def _find(name: str, parts: tuple[_Part, ...], place: int, beside: Path | None) -> Path | None:
    """The file of a network that was not given."""
    try:
        return find_weights(parts[place].weights, beside)
    except WeightsError as error:
        if parts[place].optional:
            return None
        if (other := parts[place].instead) is not None:
            with suppress(WeightsError):
                return find_weights(other, beside)
        if len(parts) == 1:
            raise
        raise WeightsError(
            f"{error}\n{name} needs {_needs(parts)}, converted or as published. There are three ways to give them: one file, "
            f"with the other one beside it in the same folder; all in the folder of weights, which is {weights_folder()} (set "
            f"{FOLDER_VARIABLE} to use another); or each by its path, weights=[FILE, FILE] or --weights FILE --weights FILE."
        ) from None


def _loaded(name: str, part: _Part, path: Path, read: ForeignCheckpoint | None) -> nn.Module:
    """The network of a file; ``read``: a file's content, if it was read before."""
    tensors, config = read_network(path, part.default_config(), read)
    with torch.device("meta"):
        net = part.build_net(config)
    checked = check_keys(tensors, {k: tuple(v.shape) for k, v in net.state_dict().items()}, what=f"{name} ({path})")
    net.load_state_dict(checked, strict=True, assign=True)
    return net


def _find_calibration(name: str, calibration: str | Path | Calibration) -> Calibration:
    """The packaged one, that of a file, or itself."""
    if isinstance(calibration, Calibration):
        return calibration
    if not isinstance(calibration, (str, os.PathLike)):
        raise InputError(
            f"calibration is {short(calibration)}; expected {DEFAULT!r}, a file of `keepsight calibrate`, a Calibration, or None"
        )
    if calibration != DEFAULT:
        return read_calibration(calibration)
    path = Path(files.__file__).parent / "files" / f"{name}.presence.json"
    if not path.is_file():
        there = ", ".join(sorted(p.name.partition(".")[0] for p in path.parent.glob("*.presence.json"))) or "none"
        raise InputError(
            f"keepsight comes with no calibration for {name} (with: {there}); fit one with `keepsight calibrate {name}` and give "
            "its file"
        )
    return read_calibration(path)


def read_network(
    path: str | Path, default: Any, read: ForeignCheckpoint | None = None
) -> tuple[dict[str, Tensor], Any]:
    """Tensors of a weights file and the network configuration that belongs to them.

    The configuration comes from our own header, else from a published file's constructor, else it is ``default``.
    ``read``: the file's content, if it was read before.
    Raises :class:`WeightsError` if the file is for another kind of network than ``default``.
    """
    read = read or read_any(path)
    tensors = used_tensors(read.tensors)
    if HEADER_KEY in read.metadata:
        header = parse_header(read.metadata, path)
        config = _config_from_header(type(default), header, path)
    else:
        config = _published_config(tensors, read.constructor, default)
    kind: dict[type, tuple[str, ...]] = {
        DiMPNetConfig: ("backbone", "optimiser"),
        AtomNetConfig: ("reference", "levels"),
        KeepTrackNetConfig: (
            "feature_channels",
            "descriptor_kernel",
        ),  # what the base tracker's features and scores ask for
    }
    names = kind.get(type(default), ())
    given, wanted = (" + ".join(_words(n, getattr(c, n)) for n in names) for c in (config, default))
    if given != wanted:
        raise WeightsError(f"{path} is a network of {given}; this tracker needs {wanted}")
    return tensors, config


def _words(name: str, value: Any) -> str:
    """A setting in a message; a bare number would say nothing."""
    return f"{name} {value}" if isinstance(value, int) else str(value)


def _published_config(tensors: Mapping[str, Tensor], constructor: Constructor | None, default: Any) -> Any:
    """What a published file's constructor, or else its tensors, say about the network; ``default`` where they say nothing."""
    if isinstance(default, DiMPNetConfig) and constructor is not None:
        return config_from_constructor(constructor.fun_name, constructor.kwds)
    if isinstance(default, AtomNetConfig) and constructor is not None:
        return atom_config_from_constructor(constructor.fun_name, constructor.kwds)
    if isinstance(default, KeepTrackNetConfig):
        if constructor is not None:
            default = keeptrack_config_from_constructor(constructor.fun_name, constructor.kwds)
        has_backbone = any(name.startswith("feature_extractor.") for name in tensors)
        return default if has_backbone else dataclasses.replace(default, backbone=None)
    if isinstance(default, LWLNetConfig):
        if constructor is not None:
            default = segmentation_config_from_constructor(type(default), constructor.fun_name, constructor.kwds)
        if recognise(tensors) == "rts50_concat_variant":
            default = dataclasses.replace(default, fusion="concat")
        return default
    if isinstance(default, AtomNetConfig) and recognise(tensors) == "atom_resnet50":
        return dataclasses.replace(default, backbone="resnet50")
    return default


def _config_from_header(kind: type, header: WeightsHeader, path: str | Path) -> Any:
    fields = {f.name for f in dataclasses.fields(kind)}
    if unknown := set(header.config) - fields:
        raise WeightsError(
            f"{path} is for a {header.family} network ({header.preset}), which this tracker cannot use "
            f"(unknown settings: {sorted(unknown)[:4]})"
        )
    return kind(**header.config)


def published_header(name: str | None) -> Callable[[dict[str, Tensor], Constructor | None], WeightsHeader]:
    """The check that ``keepsight weights convert`` runs: names and shapes against the network, and what to write on top.

    ``name``: which published network the file is; by default the one that its constructor or its tensors tell. ATOM's files
    cannot be told apart, so theirs is ``atom`` unless said otherwise.
    """

    def validate(tensors: dict[str, Tensor], constructor: Constructor | None) -> WeightsHeader:
        guess = name or _published_name(tensors, constructor)
        family, build, default = _family(guess, tensors)
        config = _published_config(tensors, constructor, default)
        with torch.device("meta"):
            net = build(config)
        check_keys(tensors, {k: tuple(v.shape) for k, v in net.state_dict().items()}, what=guess)
        maker = "" if constructor is None else f", constructor {constructor.fun_name}"
        return WeightsHeader(
            family,
            guess,
            dataclasses.asdict(config),
            source=f"published checkpoint{maker}",
            licence="the authors' terms; ask them before redistributing",
        )

    return validate


def _family(name: str, tensors: Mapping[str, Tensor]) -> tuple[str, Callable[[Any], nn.Module], Any]:
    """The family of a published file, its network, and the configuration of the network called ``name``."""
    if recognise(tensors) == "keep_track":
        lite = keeptrack.KeepTrackLiteConfig().association.matcher
        return "keeptrack", KeepTrackNet, lite_config() if name == lite else KeepTrackNetConfig()
    parts = {key.partition(".")[0] for key in tensors}
    if recognise(tensors) == "rts-lite":
        return "rts-lite", RTSLiteNet, RTSLiteNetConfig()
    if "target_model" in parts:
        build, default = segmentation_network(name)
        return "segmentation", build, default
    if "classifier" not in parts:
        return "atom", AtomNet, atom_network(name)
    return "dimp", DiMPNet, network_config(name)


# Layouts that :func:`recognise` tells -> the network; LWL's stages have equal tensors, and trackers use the second.
_OTHER_NAMES = {
    "lwl_stage1 or lwl_stage2": "lwl_stage2", "rts50_boxinit_variant": "rts50", "rts50_concat_variant": "rts50"
}  # fmt: skip


def _published_name(tensors: Mapping[str, Tensor], constructor: Constructor | None) -> str:
    """Which published network a state dict is; SuperDiMP and DiMP-50 differ in the constructor's label width only."""
    found = recognise(tensors)
    if found is None:
        raise WeightsError("no known network has these tensors; see `keepsight weights info FILE`")
    if found in ("atom", "atom_resnet50"):
        return "atom"
    found = _OTHER_NAMES.get(found, found)
    if found == "keep_track" or found in SEGMENTATION_NETWORKS:
        return found
    if found == "dimp50 or super_dimp":
        if constructor is None:
            raise WeightsError("the file may be dimp50 or super_dimp, which have equal tensors; say which with --name")
        sigma = config_from_constructor(constructor.fun_name, constructor.kwds).gauss_sigma
        return "super_dimp" if sigma > 0.91 else "dimp50"
    if found not in _entries():
        network_config(found)  # an error for networks of other families
    return found


def tracker_of_weights(path: str | Path, read: ForeignCheckpoint | None = None) -> str:
    """The tracker name that a weights file is for; raises :class:`WeightsError` if that cannot be told.

    ``read``: the file's content, if it was read before.
    """
    read = read or read_any(path)
    if HEADER_KEY in read.metadata:
        wanted = parse_header(read.metadata, path).preset
    else:
        wanted = _published_name(strip_module_prefix(read.tensors), read.constructor)
    entries = _entries()
    for name, entry in entries.items():
        if wanted in [part.weights for part in entry.parts]:  # the base tracker itself comes before those built on it
            return name
    if wanted in entries:  # a recipe's own weights, of a tracker that otherwise uses published ones
        return wanted
    raise WeightsError(f"{path} holds {wanted!r}, for which this keepsight has no tracker")


def choose_device(device: str | torch.device) -> torch.device:
    """``"auto"`` -> CUDA, else MPS, else CPU; anything else as torch reads it, if it is there."""
    if isinstance(device, str) and device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise InputError(
            f"device {device!r} cannot be used here ({str(error).splitlines()[0]}); try device='auto'"
        ) from None
    return chosen
