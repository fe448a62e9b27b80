"""What several nodes take and give: files, how weights are kept, prompts, whose face, how much; conditioning."""

from __future__ import annotations

from collections.abc import Collection

from comfy_api.latest import io

from ..faceclip.schedule import LARGEST
from .compat import newer
from .files import Kind, listed
from .types import IdentityType


def file_input(name: str, kind: Kind) -> io.Combo.Input:
    """Which file of a kind."""
    files = listed(kind)
    return io.Combo.Input(name, options=files.names, default=files.default, tooltip=kind.tooltip)


def kept_input(name: str, options: Collection[str], tooltip: str) -> io.Combo.Input:
    """How weights are kept in memory, among `options`, of which "default" suits most."""
    return io.Combo.Input(name, options=list(options), default="default", tooltip=tooltip, **newer(io.Combo.Input, advanced=True))


def prompt_input(more: str = "") -> io.String.Input:
    """The prompt; `more` is said of it besides."""
    return io.String.Input(
        "prompt",
        multiline=True,
        dynamic_prompts=True,
        tooltip="What the picture shows. The face comes from the identity: write what the person does and wears. "
        f"(word:1.2) gives weight.{more}",
    )


def identity_input() -> IdentityType.Input:
    """Whose face; none for text alone."""
    return IdentityType.Input(
        "identity",
        optional=True,
        tooltip="From Encode Identity or Load Identity. Several people give a batch, one row each. Leave it open for text alone.",
    )


def strength_input() -> io.Float.Input:
    """How much of the identity."""
    return io.Float.Input(
        "strength",
        default=1.0,
        min=0.0,
        max=LARGEST,
        step=0.05,
        tooltip="How much of the identity. 1 is the model as trained, 0 is exactly the prompt without a face.",
    )


def negative_input(default: str) -> io.String.Input:
    """The negative prompt; graphs from before there was one lack it."""
    return io.String.Input(
        "negative_prompt",
        default=default,
        multiline=True,
        dynamic_prompts=True,
        optional=True,
        tooltip="What the picture should not show, for the output negative. It sees no face.",
    )


def conditioning_outputs(model: str) -> list[io.Output]:
    """The prompt's and the negative prompt's, of `model`'s kind: SDXL, FLUX."""
    return [
        io.Conditioning.Output(
            "conditioning", display_name="conditioning", tooltip=f"For a sampler's positive, like that of {model}'s own CLIP."
        ),
        io.Conditioning.Output("negative", display_name="negative", tooltip="The negative prompt, for a sampler's negative."),
    ]
