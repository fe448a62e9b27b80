"""The miniature's autoencoder: TAESD's architecture, trained on the
synthetic world, for diffusers and for ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import autocast_mode
from torch.nn import Conv2d

from faceclip.checkpoint import write_safetensors
from faceclip.vae_file import SDXL_SCALE

from ..fitting import Schedule, fit, forget, state_of
from .pictures import Pictures, shuffled

CROP = 64  # px; of larger pictures it sees parts, which costs less and teaches as much
CONTRAST = 4.0  # from colours, 0 to 1 with a deviation near 1/4, to latents of variance 1
LATENT_NOISE = 0.05  # what a sampler leaves over; the decoder learns to look past it


WIDTHS = (16, 32, 64, 64)
"""Channels at full, half, quarter and eighth resolution. A decoder guesses a face's detail where it sees all of
it, at an eighth; at full resolution it only draws what it knows. As fast as 32 everywhere, and in a trial
sharp after a tenth of the steps."""
FACES = 0.7
"""Share of what the decoder is refined on that is a face."""


def train_autoencoder(
    pictures: Pictures, schedule: Schedule, decoder: Schedule, out: Path, width: int | tuple[int, ...]
) -> list[float]:
    """Train both halves, then the decoder by a schedule of its own; write a diffusers folder `out`.

    Returns all losses.

    Latents come out near mean 0 and variance 1, as a UNet expects. It learns on parts of the pictures and on
    whole ones of half their side, by turns, so that it serves both sizes. `width`: channels of all layers. TAESD,
    and so ComfyUI, has 64 (see `widen`); half of it costs a quarter. Widths for each resolution (see WIDTHS) are
    for close-ups: it sees more faces.
    """
    close_ups = not isinstance(width, int)
    vae = new_autoencoder(width, schedule.seed).train().to(pictures.device)

    def loss_of(rows: Tensor) -> Tensor:
        images = pictures.images[rows].float() / 127.5 - 1
        focused = close_ups and torch.rand(()) < 0.5
        images = face_part(images, pictures.landmarks[rows]) if focused else random_part(images)
        latents = vae.encoder(images)
        mean, variance = latents.mean((0, 2, 3)), latents.var((0, 2, 3))
        decoded = vae.decoder(latents + LATENT_NOISE * torch.randn_like(latents))
        return _distance(decoded, images) + 0.01 * (mean.square() + (variance - 1).square()).mean()

    rows = shuffled(len(pictures), schedule.batch, schedule.steps, schedule.seed)
    losses = fit("autoencoder", vae, loss_of, rows, schedule, state_of(out, "both"))
    losses += (sharpen_decoder if close_ups else refine_decoder)(vae, pictures, decoder, keep=state_of(out, "decoder"))
    (widen(vae) if close_ups else vae).save_pretrained(out)
    forget(out)
    return losses


def refine_decoder(vae: Any, pictures: Pictures, schedule: Schedule, keep: Path | None = None) -> list[float]:
    """Teach the decoder faces, most of whose detail it has to guess: half of what it sees are faces.

    Latents stay as they are.
    """
    people = torch.nonzero(pictures.identity >= 0)[:, 0]

    def loss_of(rows: Tensor) -> Tensor:
        images = pictures.images[people[rows]].float() / 127.5 - 1
        part = face_part(images, pictures.landmarks[people[rows]]) if torch.rand(()) < 0.5 else random_part(images)
        with torch.no_grad():
            latents = vae.encoder(part)
        return _distance(vae.decoder(latents + LATENT_NOISE * torch.randn_like(latents)), part)

    rows = shuffled(len(people), schedule.batch, schedule.steps, schedule.seed)
    return fit("decoder", vae.decoder, loss_of, rows, schedule, keep)


def sharpen_decoder(
    vae: Any,
    pictures: Pictures,
    schedule: Schedule,
    noise: float = LATENT_NOISE,
    keep: Path | None = None,
    most: int | None = None,
    squares: float = 0.0,
) -> list[float]:
    """The same for close-ups: whole pictures are encoded once, and `FACES` of what the decoder sees are faces.

    noise: deviation of what is added to latents, as large as what a UNet gets wrong of them.
    most: how many pictures of people, the first ones; to encode all may take longer than to learn.
    squares: weight of the mean squared difference, which PSNR measures; absolute ones leave 0.3 dB there.
    """
    people = torch.nonzero(pictures.identity >= 0)[:most, 0]
    side = pictures.images.shape[-1] // 8
    with torch.no_grad(), autocast_mode.autocast(pictures.device.type, torch.bfloat16, enabled=schedule.bf16):
        latents = torch.cat([vae.encoder(pictures.images[part].float() / 127.5 - 1).float() for part in people.split(64)])

    def loss_of(rows: Tensor) -> Tensor:
        parts, seen = [], []
        for row in rows.tolist():
            x, y = _face_cell(pictures.landmarks[people[row]], side) if torch.rand(()) < FACES else _any_cell(side)
            parts.append(pictures.images[people[row], :, 8 * y : 8 * y + CROP, 8 * x : 8 * x + CROP].float() / 127.5 - 1)
            seen.append(latents[row, :, y : y + CROP // 8, x : x + CROP // 8])
        known = torch.stack(seen)
        decoded, wanted = vae.decoder(known + noise * torch.randn_like(known)), torch.stack(parts)
        return _distance(decoded, wanted) + squares * F.mse_loss(decoded, wanted)

    rows = shuffled(len(people), schedule.batch, schedule.steps, schedule.seed)
    return fit("decoder", vae.decoder, loss_of, rows, schedule, keep)


def new_autoencoder(width: int | tuple[int, ...], seed: int = 0) -> Any:
    """An untrained AutoencoderTiny that is no worse than shrinking a picture to an eighth and enlarging it again.

    Three latents begin as the mean colours of 8 x 8 pixels and the residual blocks as identity; the fourth
    latent, and all other channels, begin at random. From there training only has to add detail. `width` must be
    at least 6; several are those of full, half, quarter and eighth resolution (see WIDTHS): diffusers has no such
    class, so `widen` it before it is saved.
    """
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        channels = (width if isinstance(width, int) else max(width),) * 4
        vae: Any = AutoencoderTiny(encoder_block_out_channels=channels, decoder_block_out_channels=channels, scaling_factor=1.0)
        if not isinstance(width, int):
            _narrow(vae.encoder.layers, (3, width[0], *width[1:], 4))
            _narrow(vae.decoder.layers, (4, width[-1], *width[-2::-1], 3))
    one, two = [0.0, 1.0, 0.0], [0.25, 0.5, 0.25]
    with torch.no_grad():
        for half in (vae.encoder, vae.decoder):
            for block in half.layers:
                if hasattr(block, "conv"):
                    block.conv[-1].weight.zero_()
                    block.conv[-1].bias.zero_()
        first, *inner, last = _outer_layers(vae.encoder)
        _pass_on(first, one, {c: (c, 1.0) for c in range(3)})
        for layer in inner:
            _pass_on(layer, [0.0, 0.5, 0.5], {c: (c, 1.0) for c in range(3)})  # the mean of 2 x 2
        _pass_on(last, one, {c: (c, CONTRAST) for c in range(3)}, bias=-CONTRAST / 2)
        first, *inner, last = _outer_layers(vae.decoder)
        # What is behind a ReLU has no sign: a colour above the middle goes through one channel, below it through another.
        _pass_on(first, one, {c: (c % 3, 1.0 if c < 3 else -1.0) for c in range(6)})
        for layer in inner:
            _pass_on(layer, two, {c: (c, 1.0) for c in range(6)})
        _pass_on(last, one, {c: (c, 1 / CONTRAST) for c in range(3)}, bias=0.5)
        for colour in range(3):
            last.weight[colour, colour + 3, 1, 1] = -1 / CONTRAST
    return vae


def widen(vae: Any, width: int = 64) -> Any:
    """The same function with `width` channels in all layers; those that it did not have are zero."""
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    channels = (width,) * 4
    config = {name: value for name, value in vae.config.items() if name != "block_out_channels"}
    config |= {"encoder_block_out_channels": channels, "decoder_block_out_channels": channels}
    wide: Any = AutoencoderTiny.from_config(config)
    narrow, padded = vae.state_dict(), wide.state_dict()
    for name, tensor in padded.items():
        tensor.zero_()[tuple(slice(n) for n in narrow[name].shape)] = narrow[name]
    wide.load_state_dict(padded)
    return wide.train(vae.training)


def narrowed(wide: Any, width: int | tuple[int, ...]) -> Any:
    """What `widen` was given: the same function without the channels that are zero."""
    vae = new_autoencoder(width)
    found = wide.state_dict()
    vae.load_state_dict({name: found[name][tuple(slice(n) for n in part.shape)] for name, part in vae.state_dict().items()})
    return vae


def to_comfyui(vae: Any, out: Path, dtype: torch.dtype = torch.bfloat16, metadata: dict[str, str] | None = None) -> None:
    """Write a diffusers AutoencoderTiny, of 64 channels or fewer, as ComfyUI's Load VAE reads it."""
    # ComfyUI hands an autoencoder latents divided by SDXL's factor
    tensors: dict[str, Tensor] = {"vae_scale": torch.tensor(SDXL_SCALE), "vae_shift": torch.tensor(0.0)}
    for name, tensor in widen(vae).state_dict().items():
        side, _, place, rest = name.split(".", 3)
        # ComfyUI's decoder begins with the clamp that diffusers applies outside of its layers.
        tensors[f"taesd_{side}.{int(place) + (side == 'decoder')}.{rest}"] = tensor
    write_safetensors(out, {name: tensor.to(dtype) for name, tensor in tensors.items()}, metadata or {})


def random_part(images: Tensor) -> Tensor:
    """The same random square of `CROP` px of all pictures [B, 3, S, S], or, as often, all of them halved.

    Small ones whole.
    """
    side = images.shape[-1]
    if side <= CROP:
        return images
    if torch.rand(()) < 0.5:
        return F.avg_pool2d(images, 2)
    top, left = (int(torch.randint(0, side - CROP + 1, ())) for _ in range(2))
    return images[..., top : top + CROP, left : left + CROP]


def face_part(images: Tensor, landmarks: Tensor) -> Tensor:
    """Of each picture [B, 3, S, S] a square of `CROP` px about its face, moved a little; small pictures whole.

    landmarks: [B, 5, 2] in sides of the picture.
    """
    side = images.shape[-1]
    if side <= CROP:
        return images
    corners = landmarks.mean(1) * side - CROP / 2 + 16 * torch.rand(len(images), 2, device=images.device) - 8
    corners = corners.round().long().clamp(0, side - CROP).tolist()
    return torch.stack([image[:, y : y + CROP, x : x + CROP] for image, (x, y) in zip(images, corners, strict=True)])


def _face_cell(landmarks: Tensor, side: int) -> tuple[int, int]:
    """The latent, x and y, where a square of `CROP` px about a face begins, moved a little."""
    middle = landmarks.mean(0) * side - CROP / 16 + torch.randint(-1, 2, (2,), device=landmarks.device)
    x, y = middle.round().long().clamp(0, max(side - CROP // 8, 0)).tolist()
    return x, y


def _any_cell(side: int) -> tuple[int, int]:
    x, y = torch.randint(0, max(side - CROP // 8, 0) + 1, (2,)).tolist()
    return x, y


def _distance(decoded: Tensor, images: Tensor) -> Tensor:
    """Mean absolute difference of colours and of their edges: the latter keep eyes and lips from being blurred away."""
    edges = sum(F.l1_loss(decoded.diff(dim=dim), images.diff(dim=dim)) for dim in (-1, -2))
    return F.l1_loss(decoded, images) + edges


def _narrow(layers: nn.Sequential, widths: tuple[int, ...]) -> None:
    """Give the convolutions between the residual blocks, and the blocks after each, the widths of that many stages."""
    stage = 0
    for place, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            layers[place] = _like(layer, widths[stage], widths[stage + 1])
            stage += 1
        elif hasattr(layer, "conv"):
            block: Any = layer
            for inner, part in enumerate(block.conv):
                if isinstance(part, nn.Conv2d):
                    block.conv[inner] = _like(part, widths[stage], widths[stage])


def _like(layer: nn.Conv2d, before: int, after: int) -> nn.Conv2d:
    size: Any = layer.kernel_size
    return Conv2d(before, after, size, layer.stride, layer.padding, bias=layer.bias is not None)  # pyright: ignore


def _outer_layers(half: Any) -> list[nn.Conv2d]:
    """The convolutions between the residual blocks, in order."""
    return [layer for layer in half.layers if isinstance(layer, nn.Conv2d)]


def _pass_on(layer: nn.Conv2d, kernel: list[float], channels: dict[int, tuple[int, float]], bias: float = 0.0) -> None:
    """Make some output channels a filtered copy of one input channel each: {output: (input, factor)}."""
    taps = torch.tensor(kernel)
    for out, (source, factor) in channels.items():
        layer.weight[out] = 0.0
        layer.weight[out, source] = factor * taps[:, None] * taps
        if layer.bias is not None:
            layer.bias[out] = bias
