"""Write the mini model files that ship with the pack, bit for bit the same on every machine.

    python scripts/make_mini.py [FOLDER]        (default: models/ of this repository)

They are stand-ins: complete, loadable by the same nodes as the real files, and untrained. Every tensor is a pure function of
its name, its shape and the seed. A weight is plus or minus one scale, so the files compress well and need no random
generator whose stream might change. The few exceptions below keep what they compute within a sane range:
the UNet predicts its input's noise plus a little of what it makes of the conditioning, so sampling ends near unit variance.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from faceclip import FaceCLIPConfig, FaceCLIPEncoder
from faceclip.checkpoint import save_encoder, write_safetensors

SEED = 0
METADATA = {
    "trained": "false",
    "preset": "mini",
    "seed": str(SEED),
    "note": "A stand-in to try the pipeline with, not trained: the pictures are no portraits. Made by scripts/make_mini.py.",
    "license": "Apache-2.0",
}
MODEL_CHANNELS = 32
CONTEXT_WIDTH = 80  # both branches of the mini encoder side by side
POOLED_WIDTH = 48
SDXL_LATENT_SCALE = 0.13025  # the autoencoder reads latents as SDXL's own does

# How much of the UNet's output comes from its layers instead of its input. Guidance multiplies differences of it.
UNET_RESIDUAL = 0.05
# How much a block of the autoencoder adds to what it was given: its skips would double the variance each time.
VAE_RESIDUAL = 0.3


def signs(name: str, shape: tuple[int, ...]) -> Tensor:
    """Plus and minus ones [shape], a pure function of name, shape and `SEED`."""
    count = int(np.prod(shape))
    key = f"{SEED}/{name}/{'x'.join(map(str, shape))}".encode()
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(key).digest((count + 7) // 8), dtype=np.uint8))
    return torch.from_numpy(bits[:count].astype(np.float32) * 2 - 1).reshape(shape)


def plain(name: str, shape: tuple[int, ...], gain: float = 1.0) -> Tensor:
    """A weight that keeps variance (times `gain` squared), a norm that does nothing, a bias of zero."""
    if len(shape) >= 2:
        return signs(name, shape) * (gain / float(np.prod(shape[1:])) ** 0.5)
    return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)


def encoder_value(name: str, shape: tuple[int, ...]) -> Tensor:
    leaf = name.rsplit(".", 1)[-1]
    if leaf in ("logit_scale", "logit_bias"):
        return torch.tensor({"logit_scale": 2.6592, "logit_bias": -10.0}[leaf])
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if leaf in ("gamma_v", "gamma_l", "running_var"):  # layer scales of a trained model let the face through
        return torch.ones(shape)
    # Both branches have the same face tower, as in the release.
    return plain(name.replace("face_clip_g.face_encoder.", "face_clip_l.face_encoder."), shape)


def unet_value(name: str, shape: tuple[int, ...]) -> Tensor:
    last = "up_blocks.2.resnets.2."  # joins what the layers made with the output of `conv_in`
    if name == "conv_in.weight":
        return _centre_taps(shape, lambda i, j: _phase(i) * (i // 2 % shape[1] == j))
    if name == "conv_out.weight":
        # silu(a) - silu(-a) = a: each pair of channels gives back the latent that `conv_in` put there.
        return _centre_taps(shape, lambda i, j: _phase(j) * (j // 2 % shape[0] == i) * 2 * shape[0] / shape[1])
    if name == last + "conv_shortcut.weight":
        made, skip = shape[1] - shape[0], torch.eye(shape[0]).view(shape[0], shape[0], 1, 1)
        return torch.cat([plain(name, (shape[0], made, 1, 1), UNET_RESIDUAL), skip], dim=1)
    if name == last + "conv2.weight":
        return plain(name, shape, UNET_RESIDUAL)
    return plain(name, shape)


def vae_value(name: str, shape: tuple[int, ...]) -> Tensor:
    if name == "vae_scale":
        return torch.tensor(SDXL_LATENT_SCALE)
    if name == "taesd_decoder.19.bias":  # pictures are in [0, 1]: grey plus a little
        return torch.full(shape, 0.5)
    if name == "taesd_decoder.19.weight":
        return plain(name, shape, 0.5)
    if name.endswith("conv.4.weight"):
        return plain(name, shape, VAE_RESIDUAL)
    return plain(name, shape, 2**0.5)  # ReLU halves the power


def _phase(channel: int) -> int:
    return 1 - 2 * (channel % 2)


def _centre_taps(shape: tuple[int, ...], value: Callable[[int, int], float]) -> Tensor:
    weight = torch.zeros(shape)
    weight[:, :, shape[2] // 2, shape[3] // 2] = torch.tensor(
        [[float(value(i, j)) for j in range(shape[1])] for i in range(shape[0])]
    )
    return weight


def unet_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the mini UNet, as diffusers has them."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(MODEL_CHANNELS, 2 * MODEL_CHANNELS, 4 * MODEL_CHANNELS),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(1, 1, 2),  # pyright: ignore[reportArgumentType]  numbers of heads; ComfyUI's SDXL has 64 channels in each
            transformer_layers_per_block=1,
            cross_attention_dim=CONTEXT_WIDTH,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * 256,
        )
    return {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}


def vae_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tiny autoencoder TAESD, as ComfyUI has them."""
    shapes: dict[str, tuple[int, ...]] = {"vae_scale": (), "vae_shift": ()}

    def conv(name: str, channels_in: int, channels_out: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (channels_out, channels_in, 3, 3)
        if bias:
            shapes[f"{name}.bias"] = (channels_out,)

    def block(name: str) -> None:
        for layer in (0, 2, 4):
            conv(f"{name}.conv.{layer}", 64, 64)

    conv("taesd_encoder.0", 3, 64)
    for layer in (1, 3, 4, 5, 7, 8, 9, 11, 12, 13):
        block(f"taesd_encoder.{layer}")
    for layer in (2, 6, 10):
        conv(f"taesd_encoder.{layer}", 64, 64, bias=False)
    conv("taesd_encoder.14", 64, 4)
    conv("taesd_decoder.1", 4, 64)
    for layer in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        block(f"taesd_decoder.{layer}")
    for layer in (7, 12, 17):
        conv(f"taesd_decoder.{layer}", 64, 64, bias=False)
    conv("taesd_decoder.19", 64, 3)
    return shapes


def write_mini(folder: Path) -> list[Path]:
    """Write the three files below `folder`; return their paths."""
    paths = [folder / "faceclip" / "faceclip_mini_encoder.safetensors"]
    with torch.device("meta"):
        encoder = FaceCLIPEncoder(FaceCLIPConfig.preset("mini"))
    encoder.load_state_dict(_values(_shapes(encoder), encoder_value), assign=True)
    save_encoder(encoder, paths[0], METADATA)
    for name, shapes, value in (
        ("faceclip/faceclip_mini_unet.safetensors", unet_shapes(), unet_value),
        ("vae/faceclip_mini_vae.safetensors", vae_shapes(), vae_value),
    ):
        paths.append(folder / name)
        write_safetensors(paths[-1], _values(shapes, value), METADATA)
    return paths


def _shapes(encoder: FaceCLIPEncoder) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}


def _values(shapes: Mapping[str, tuple[int, ...]], value: Callable[[str, tuple[int, ...]], Tensor]) -> dict[str, Tensor]:
    values = {name: value(name, shape) for name, shape in shapes.items()}
    return {name: t.to(torch.bfloat16) if t.is_floating_point() else t for name, t in values.items()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the mini model files that ship with the pack.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).resolve().parent.parent / "models")
    for path in write_mini(parser.parse_args(argv).folder):
        print(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
