"""The two small networks of the pack's own face detector, in torch alone:
YuNet finds faces, O-Net places their five points.

YuNet: Wu, Peng and Yu, "YuNet: A tiny millisecond-level face detector", 2023. O-Net: the last stage of MTCNN,
Zhang et al., "Joint face detection and alignment using multi-task cascaded convolutional networks", 2016.
Weights: models/faces/README.md.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Conv2d, Linear

from ..ops import without_values
from ..tensor_file import CheckpointError, read_state_dict
from .protocol import DetectorUnavailableError

WEIGHTS = "face_detector_fp16.safetensors"
# In the pack's own folder; a wheel of the library lays it beside the interpreter's other data.
_FOLDERS = (Path(__file__).resolve().parents[2] / "models" / "faces", Path(sysconfig.get_path("data")) / "share" / "faceclip")

STRIDES = (8, 16, 32)
"""Pixels of the picture per cell of YuNet's three maps; pictures are padded to a multiple of the last."""
ONET_SIDE = 48


class Unit(nn.Module):
    """YuNet's building block: channels are mixed pixel by pixel, then each channel looks at its own 3 x 3."""

    def __init__(self, inputs: int, outputs: int, relu: bool = True):
        super().__init__()
        self.mix = Linear(inputs, outputs)
        self.look = Conv2d(outputs, outputs, 3, padding=1, groups=outputs)
        self._relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, outputs, h, w]."""
        # A linear layer over channels-last memory: for one picture on one thread torch's 1 x 1 convolution takes twice as long.
        x = self.look(self.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return F.relu_(x) if self._relu else x


class YuNet(nn.Module):
    """Faces of any size and turn at once, each with a box, five points and a score."""

    def __init__(self):
        super().__init__()
        self.stem = Conv2d(3, 16, 3, stride=2, padding=1)
        widths = [(16, 16), (16, 16), (16, 32), (32, 32), (32, 64), *[(64, 64)] * 9]
        self.units = nn.ModuleList([Unit(*width) for width in widths])
        self.heads = nn.ModuleList([Unit(64, 16, relu=False) for _ in STRIDES])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Pictures [B, 3, H, W], BGR in 0..255, sides multiples of 32 -> per stride [B, 16, H / stride, W / stride].

        Channels: class, objectness (both before the sigmoid), box (centre and
            logarithm of the size, in cells), five points.
        """
        units = self.units
        x = F.relu_(self.stem(x))
        x = units[2](units[1](F.max_pool2d(units[0](x), 2)))
        fine = units[6](units[5](F.max_pool2d(units[4](units[3](x)), 2)))
        middle = units[8](units[7](F.max_pool2d(fine, 2)))
        coarse = units[11](units[10](units[9](F.max_pool2d(middle, 2))))
        middle = units[12](middle + F.interpolate(coarse, scale_factor=2))
        fine = units[13](fine + F.interpolate(middle, scale_factor=2))
        return [head(x) for head, x in zip(self.heads, (fine, middle, coarse), strict=True)]


class ONet(nn.Module):
    """Five points of a face that fills a square of 48 px."""

    def __init__(self):
        super().__init__()
        self.conv1, self.prelu1 = Conv2d(3, 32, 3), nn.PReLU(32)
        self.conv2, self.prelu2 = Conv2d(32, 64, 3), nn.PReLU(64)
        self.conv3, self.prelu3 = Conv2d(64, 64, 3), nn.PReLU(64)
        self.conv4, self.prelu4 = Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = Linear(1152, 256), nn.PReLU(256)
        self.dense6_1 = Linear(256, 2)
        self.dense6_3 = Linear(256, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Squares [B, 3, 48, 48], RGB in 0..255 -> points [B, 5, 2] in their pixels.

        How surely each is a face [B], 0 to 1.
        """
        x = (x - 127.5) / 128
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu3(self.conv3(x)), 2, 2, ceil_mode=True)
        x = self.prelu4(self.conv4(x))
        # The network was trained on transposed pictures by a framework that counts columns first.
        x = self.prelu5(self.dense5(x.permute(0, 3, 2, 1).flatten(1)))
        points = self.dense6_3(x).unflatten(1, (2, 5)).transpose(1, 2) * ONET_SIDE - 0.5
        return points, self.dense6_1(x).softmax(1)[:, 1]


class Networks(nn.Module):
    """Both networks, as the file of weights has them."""

    def __init__(self):
        super().__init__()
        self.yunet, self.onet = YuNet(), ONet()


def load_networks(device: torch.device | str = "cpu", file: Path | None = None) -> Networks:
    """Return both networks in fp32 on `device`, ready to find faces.

    Raises:
        DetectorUnavailableError: the file of weights, which comes with the
            pack, is missing or damaged; says what to do.
    """
    path = file or next((path for folder in _FOLDERS if (path := folder / WEIGHTS).is_file()), _FOLDERS[0] / WEIGHTS)
    with without_values():
        networks = Networks()
    try:
        weights = {name: tensor.float() for name, tensor in read_state_dict(path).items()}
        networks.load_state_dict(weights, assign=True)
    except (CheckpointError, RuntimeError) as error:
        found = "are damaged" if path.is_file() else "are missing"
        raise DetectorUnavailableError(
            f"The weights of the pack's own face detector {found}: {path}. They come with the pack: install it again, or run "
            f"`git checkout models` in its folder. ({type(error).__name__}: {str(error)[:120]})"
        ) from error
    return networks.requires_grad_(False).to(device=device).to(memory_format=torch.channels_last)
