"""Small trackers and frames for quick tests: every part is there, only narrower."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from keepsight.images import AugmentationConfig
from keepsight.models.atom import AtomNet, atom_network
from keepsight.models.dimp import DiMPNet, network_config
from keepsight.models.keeptrack import KeepTrackNet, KeepTrackNetConfig, lite_config
from keepsight.models.segmentation import (
    LWLBoxNet,
    LWLBoxNetConfig,
    LWLNet,
    LWLNetConfig,
    RTSNet,
    RTSNetConfig,
    STANet,
    STANetConfig,
)
from keepsight.nn.resnet import BasicBlock, Bottleneck, ResNet
from keepsight.online import snapshot
from keepsight.online.memory import MemoryConfig
from keepsight.trackers import atom, keeptrack, lwl, rts
from keepsight.trackers.atom import AtomTracker
from keepsight.trackers.base import Tracker
from keepsight.trackers.dimp import DiMPConfig, DiMPTracker, preset, presets
from keepsight.trackers.keeptrack import KeepTrackTracker
from keepsight.trackers.lwl import LWLTracker
from keepsight.trackers.rts import RTSTracker
from keepsight.trackers.sta import STAConfig
from keepsight.weights import WeightsHeader, save_weights


def small_net(weights: str, seed: int = 0, monkey: dict | None = None) -> DiMPNet:
    """The network of published ``weights`` with one block per layer and random parameters."""
    import keepsight.models.dimp as models

    kept = models.build_backbone
    models.build_backbone = lambda name: ResNet(BasicBlock if name == "resnet18" else Bottleneck, (1, 1, 1, 1))
    try:
        torch.manual_seed(seed)
        return DiMPNet(replace(network_config(weights), classifier_dim=16)).eval()
    finally:
        models.build_backbone = kept


def small_dimp(name: str = "dimp18", seed: int = 0, **changes) -> DiMPTracker:
    """A preset with a small crop, a small memory and a small network."""
    config = replace(_small(preset(name)), **changes)
    return DiMPTracker(name, config, small_net(config.weights), torch.device("cpu"), seed)


def _small(config: DiMPConfig) -> DiMPConfig:
    size = max(len(config.augmentation.rotate) + 22, 24)
    return replace(config, sample_size=96, memory=replace(config.memory, size=size), init_iterations=2)


def small_matcher(channels: int = 1024) -> KeepTrackNet:
    """KeepTrack's network on features of so many channels, narrow behind them; always the same random parameters."""
    torch.manual_seed(7)
    config = KeepTrackNetConfig(
        backbone=None, feature_channels=channels, descriptor_channels=16, encoder_channels=(8, 16)
    )
    return KeepTrackNet(config).eval()


def matcher_file(path: Path, seed: int = 0) -> Path:
    """Random weights of keeptrack-lite's second network, as training writes them."""
    torch.manual_seed(seed)
    config = replace(lite_config(), backbone=None)
    return save_weights(
        path, KeepTrackNet(config).state_dict(), WeightsHeader("keeptrack", "keeptrack-lite", asdict(config))
    )


def small_keeptrack(name: str = "keeptrack", seed: int = 0, kind=KeepTrackTracker, **changes) -> KeepTrackTracker:
    """A preset of KeepTrack, small like :func:`small_dimp`; 7 × 7 scores. ``kind``: a class derived from the tracker's."""
    config = replace(_small(keeptrack.preset(name)), **changes)
    return kind(name, config, small_net(config.weights), small_matcher(), torch.device("cpu"), seed)


def tiny_dimp(seed: int = 0) -> DiMPTracker:
    """The quickest of all: two augmented samples."""
    config = replace(
        preset("dimp18"),
        sample_size=64,
        augmentation=AugmentationConfig(rotate=(20,), blur=(), relativeshift=(), dropout=None),
        memory=MemoryConfig(size=6),
        init_iterations=1,
        train_skipping=2,
    )
    return DiMPTracker("dimp18", config, small_net("dimp18"), torch.device("cpu"), seed)


def small_atom(name: str = "atom", seed: int = 0, **changes) -> AtomTracker:
    """A preset of ATOM with a small crop, few first-frame samples, a small memory and a narrow network; 6 × 6 cells."""
    config = atom.preset(name)
    settings = {
        "sample_size": 96,
        "projected_channels": 8,
        "augmentation": AugmentationConfig(rotate=(20,), blur=((2, 2),), dropout=(2, 0.2)),  # 10 samples
        "memory": replace(config.memory, size=16),
        "init_solver": replace(config.init_solver, gauss_newton_steps=3, cg_iterations=6),
        **changes,
    }
    torch.manual_seed(7)
    net = AtomNet(replace(atom_network(config.weights), backbone="resnet18-narrow")).eval()
    return AtomTracker(name, replace(config, **settings), net, torch.device("cpu"), seed)


NARROW = {
    "backbone": "resnet50-mrcnn-narrow", "feature_dim": 8, "num_filters": 4, "label_encoder_dims": (4, 6, 8), "decoder_dim": 8,
}  # fmt: skip
"""The networks of LWL and RTS for tests."""


def small_lwl(name: str = "lwl_ytvos", seed: int = 0, kind=LWLTracker, **changes) -> LWLTracker:
    """A preset of LWL with a small crop and memory and a narrow network; 4 × 6 cells."""
    config = lwl.preset(name)
    settings = {"sample_size": (64, 96), "memory": replace(config.memory, size=6), "init_iterations": 2, **changes}
    torch.manual_seed(7)
    box = name == "lwl_boxinit"
    net = LWLBoxNet(LWLBoxNetConfig(**NARROW, box_label_encoder_dims=(8, 8))) if box else LWLNet(LWLNetConfig(**NARROW))
    return kind(name, replace(config, **settings), net.eval(), torch.device("cpu"), seed)


def small_rts(name: str = "rts50", seed: int = 0, kind=RTSTracker, box_network: bool = True, **changes) -> RTSTracker:
    """A preset of RTS with a small crop, small memories and narrow networks; 4 × 6 cells, 3 × 4 scores."""
    config = rts.preset(name)
    classifier = replace(config.classifier, memory=replace(config.classifier.memory, size=8), init_iterations=2)
    settings = {
        "sample_size": (64, 96), "memory": replace(config.memory, size=6), "init_iterations": 2, "classifier": classifier,
        "box_to_mask": STAConfig((64, 96)), **changes,
    }  # fmt: skip
    torch.manual_seed(7)
    net = RTSNet(RTSNetConfig(**NARROW)).eval()
    box_net = STANet(STANetConfig(**{**NARROW, "label_encoder_dims": (4, 6, 8, 8)})).eval() if box_network else None
    return kind(name, replace(config, **settings), net, box_net, torch.device("cpu"), seed)


def dimp_presets() -> list[str]:
    return list(presets())


def make(name: str, seed: int = 0) -> Tracker:
    """Any tracker of the library, small where it can be."""
    if name in presets():
        return small_dimp(name, seed)
    if name in atom.presets():
        return small_atom(name, seed)
    if name in keeptrack.presets():
        return small_keeptrack(name, seed)
    if name in lwl.presets():
        return small_lwl(name, seed)
    if name in rts.presets():
        return small_rts(name, seed)
    import keepsight

    return keepsight.load(name, weights="random", device="cpu", seed=seed)


def moving_square(
    count: int = 6, height: int = 120, width: int = 160
) -> tuple[list[np.ndarray], list[tuple[float, ...]]]:
    """Frames with a bright square that moves over a textured background, and its boxes."""
    rng = np.random.default_rng(0)
    background = rng.integers(40, 120, (height, width, 3), dtype=np.uint8)
    patch = rng.integers(150, 255, (24, 20, 3), dtype=np.uint8)
    frames, boxes = [], []
    for i in range(count):
        frame = background.copy()
        y, x = 30 + 2 * i, 40 + 3 * i
        frame[y : y + 24, x : x + 20] = patch
        frames.append(frame)
        boxes.append((float(x), float(y), 20.0, 24.0))
    return frames, boxes


# --- masks ----------------------------------------------------------------------------------------------------------------

FRAME = np.random.default_rng(0).integers(60, 200, (120, 160, 3), dtype=np.uint8)


def rectangle(x: int, y: int, w: int, h: int) -> np.ndarray:
    """A mask of :data:`FRAME`'s size, (H, W) bool."""
    mask = np.zeros(FRAME.shape[:2], bool)
    mask[y : y + h, x : x + w] = True
    return mask


MASK = rectangle(60, 40, 24, 20)


def target_of(tracker: Tracker, index: int = 0):
    """What the tracker remembers about one target."""
    return tracker._current().targets[index]


def held(tracker: Tracker) -> tuple[int, int]:
    """Bytes of tensors and arrays, and characters of all else, that the tracker remembers."""
    tensors: dict[str, torch.Tensor] = {}
    layout = snapshot.pack(tracker._current(), tensors)
    return sum(t.numel() * t.element_size() for t in tensors.values()), len(str(layout))
