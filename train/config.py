"""Configurations: dataclasses, filled from a preset (`train/configs/*.yaml`) or a YAML file, then from the command line."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union

import torch

PRESETS = Path(__file__).parent / "configs"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class ConfigError(ValueError):
    """A configuration that cannot be used: what is wrong, what was found, what to do."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What both stages share: where the run lives, how long it is, how it steps, what it writes."""

    command: ClassVar[str]

    out: Path
    """Folder of the run: checkpoints, log.jsonl, config.yaml and the finished weights. A run found there is resumed."""
    steps: int
    """Optimiser steps in all, those of an interrupted run included."""
    batch_size: int
    """Global batch: rows per optimiser step over all ranks, a multiple of their number."""
    micro_batch: int = 0
    """Rows that a rank puts through the models at once, frozen ones included; 0 is all of its share. Smaller needs less memory,
    same gradient."""
    seed: int = 0
    """Everything random follows from it and the step: data order, dropout, noise, condition dropout."""
    lr: float = 2e-5
    """Learning rate after warm-up (paper: 2e-5)."""
    warmup: int = 0
    """Steps over which the learning rate rises from zero. The paper names none."""
    cooldown: int = 0
    """Last steps, over which the learning rate falls towards zero in a line. The paper names none. They count from `steps`: a
    run that is to be made longer should not have reached them."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of first and second moment (paper: 0.9, 0.999)."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay (paper: 0.01)."""
    clip_grad: float = 1.0
    """Largest norm of the gradient; 0 never clips. The paper names none."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision of weights and activations. bf16 (the paper's) trains with Kahan AdamW, second moment in fp32."""
    shard_optimizer: bool = True
    """Deal the optimiser's state and the moving average out to the ranks (ZeRO-1) instead of keeping all of it on each: same
    bits, less memory. Costs one broadcast of the weights per step. Nothing to one rank."""
    activation_checkpointing: bool = False
    """Recompute blocks in backward instead of keeping their activations."""
    compile: bool = False
    """Compile the model with torch.compile."""
    workers: int = 2
    """Threads per rank that read and decode ahead."""
    save_every: int = 1000
    """Steps between checkpoints."""
    keep_last: int = 3
    """Checkpoints to keep; older ones are deleted once a newer one is whole."""
    log_every: int = 10
    """Steps between lines of log.jsonl."""
    tensorboard: bool = False
    """Also write TensorBoard event files below the run's folder."""
    wandb: str = ""
    """Weights & Biases project to log to as well; empty for none."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every", "keep_last", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if min(self.micro_batch, self.warmup, self.cooldown) < 0 or self.lr <= 0:
            raise ConfigError(
                f"micro_batch, warmup and cooldown must not be negative and lr must be positive; "
                f"found {self.micro_batch}, {self.warmup}, {self.cooldown} and {self.lr}."
            )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig):
    """Stage 1: the fusion module and the projections around it learn the joint representation (paper, section 3.3, eq. 3)."""

    command: ClassVar[str] = "train.pretrain"

    data: str
    """Shards with photographs, captions and aligned faces (a folder, a pattern or a URL), from `python -m train.prepare`."""
    guided: str = ""
    """Shards with pictures and captions alone, for the guided rows; none if empty."""
    guided_fraction: float = 0.1
    """The paper's lambda: share of rows that are guided image-text pairs with no face. The paper does not give its value."""
    branch: Literal["l", "g"] = "l"
    """Which FaceCLIP to train: `l` (CLIP-L) or `g` (CLIP-bigG). SDXL takes both: train each, then `python -m train.join`."""
    size: Literal["sdxl", "mini", "tiny"] = "sdxl"
    """Encoder preset whose branch is trained."""
    init_encoder: Path | None = None
    """FaceCLIP encoder file to start from, instead of the separate towers below."""
    init_clip: str = ""
    """CLIP checkpoint in open_clip's format (a file), with both towers: the start of the text tower and the image teacher. A
    file cannot tell whether its weights use quick GELU or plain GELU. `l` computes quick GELU, which OpenAI's and MetaCLIP's
    ViT-L use; LAION's do not: they would load and be wrong."""
    init_face: Path | None = None
    """InsightFace ArcFace ViT checkpoint (a file): the frozen face tower."""
    teacher: str = ""
    """open_clip name of the image teacher's architecture (`ViT-L-14-quickgelu`, `ViT-bigG-14-quickgelu`), or `mini`. Empty:
    features must come from the cache."""
    features: Path | None = None
    """Cache of frozen features written by `python -m train.cache pretrain`; without it teachers run at every step."""
    guided_features: Path | None = None
    """The same for the guided rows."""
    loss: Literal["infonce", "siglip"] = "infonce"
    """Contrastive loss: symmetric InfoNCE (paper, eq. 3) or pairwise sigmoid with a bias."""
    terms: tuple[Literal["image", "identity", "text"], ...] = ("image", "identity", "text")
    """Loss terms that take part: L1 is image, L2 adds identity, L3 (the paper's choice) adds text."""
    dropout: float = 0.1
    """Dropout of the fusion module (release: 0.1)."""
    held_out: str = ""
    """Shards to measure retrieval, identity and zero-shot accuracy on during training; none if empty."""
    evaluate_every: int = 0
    """Steps between measurements on the held-out shards; 0 is only at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.guided_fraction < 1:
            raise ConfigError(f"guided_fraction is {self.guided_fraction}; it is a share of the batch in [0, 1).")
        if not self.terms:
            raise ConfigError("terms is empty: choose at least one of image, identity, text.")
        if not self.teacher and self.features is None:
            raise ConfigError("There is no image target: name a teacher, or give features from `python -m train.cache pretrain`.")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunConfig):
    """Stage 2: SDXL's whole UNet learns to follow the joint representation (paper, section 3.4)."""

    command: ClassVar[str] = "train.finetune_sdxl"

    data: str
    """Shards with photographs, captions and aligned faces (a folder, a pattern or a URL), from `python -m train.prepare`."""
    encoder: Path
    """FaceCLIP encoder file with the branches that the UNet takes (both, for SDXL). Frozen."""
    unet: Path
    """UNet to start from: a diffusers folder, or a file of weights in diffusers' naming with --unet-config."""
    unet_config: Path | None = None
    """The UNet's config.json, where --unet is a file."""
    vae: Path | None = None
    """VAE in diffusers' format (a folder), to encode pictures at every step when there is no latent cache."""
    latents: Path | None = None
    """Cache of latents written by `python -m train.cache latents`."""
    features: Path | None = None
    """Cache of face features written by `python -m train.cache pretrain`; without it the face tower runs at every step."""
    remember_conditions: bool = False
    """Keep every computed condition in memory, so that the encoder runs once per sample and not once per epoch; what is read from
    caches is kept, too. For small data: a sample's condition takes 318 KB for SDXL in bf16, and up to four are kept of it, with
    and without what is dropped."""
    cuda_graph: bool = False
    """Replay the UNet's kernels from a CUDA graph. For small UNets, which a GPU finishes sooner than Python can ask for: one GPU,
    no micro-batches, nothing recomputed."""
    resolution: int = 1024
    """Side in pixels of the square bucket; the others have about its area. With --latents, that of the cache."""
    drop_text: float = 0.05
    """Chance that a row is trained with an empty caption, drawn anew at every step."""
    drop_face: float = 0.05
    """Chance that a row is trained with no face."""
    drop_both: float = 0.1
    """Chance that a row is trained with neither (release: condition dropout 0.1)."""
    prediction: Literal["epsilon", "v"] = "epsilon"
    """What the UNet predicts (paper: the noise)."""
    min_snr: float = 0.0
    """Gamma of min-SNR loss weights; 0 weighs all timesteps alike, as the paper does. Not with zero_terminal_snr."""
    zero_terminal_snr: bool = False
    """Rescale the noise schedule so that its last step is pure noise; needs v-prediction."""
    ema: float = 0.9999
    """Decay of the fp32 moving average of the weights; 0 keeps none. Update n decays by n / (9 + n) at most, so that short
    runs forget their start, too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        chances = (self.drop_text, self.drop_face, self.drop_both)
        if min(chances) < 0 or sum(chances) > 1:
            raise ConfigError(f"drop_text, drop_face and drop_both are {chances}; each is a chance, and they sum to at most 1.")
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise ConfigError("zero_terminal_snr needs --prediction v: pure noise tells an epsilon-prediction nothing.")
        if self.zero_terminal_snr and self.min_snr:
            raise ConfigError(
                f"min_snr is {self.min_snr:g} with zero_terminal_snr: the step of pure noise has no signal, so min-SNR gives it "
                "a weight of 0, and the step that zero_terminal_snr adds would never be trained. Choose one of them."
            )
        if (self.vae is None) == (self.latents is None):
            raise ConfigError("Give either --latents (a cache) or --vae (a folder), to encode pictures at every step.")
        if self.cuda_graph and (self.micro_batch or self.activation_checkpointing or self.compile):
            raise ConfigError("cuda_graph does not go with micro_batch, activation_checkpointing or compile: leave it out.")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema is {self.ema}; a decay lies in [0, 1).")


Config = TypeVar("Config", bound=RunConfig)


def parse(kind: type[Config], argv: Sequence[str] | None = None) -> Config:
    """The configuration of a command line: `[--config PRESET_OR_FILE] [--field value ...]`.

    Raises ConfigError for an unknown preset, an unknown key and values out of range; ends the process for unknown flags.
    """
    import sys

    import tyro

    arguments = list(sys.argv[1:] if argv is None else argv)
    preset, arguments = _take_preset(arguments)
    values = read_yaml(preset, kind) if preset else {}
    presets = ", ".join(sorted(file.stem for file in PRESETS.glob("*.yaml")))
    description = f"{kind.__doc__}\n\n--config takes the path of a YAML file or a preset ({presets}); flags win over it."
    return tyro.cli(_with_defaults(kind, values), args=arguments, prog=f"python -m {kind.command}", description=description)


def read_yaml(name: str, kind: type[Config]) -> dict[str, Any]:
    """The fields that a preset or YAML file sets, converted to their types; paths may be relative to it. Raises ConfigError."""
    import yaml

    path = PRESETS / f"{name}.yaml" if "/" not in name and not name.endswith((".yaml", ".yml")) else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PRESETS.glob("*.yaml")))
        raise ConfigError(f"There is no configuration {name!r}. Give the path of a YAML file, or one of the presets: {known}.")
    content = yaml.safe_load(path.read_text()) or {}
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} is not a configuration: it holds a {type(content).__name__}, expected `key: value` lines.")
    hints = {name: hint for name, hint in typing.get_type_hints(kind).items() if typing.get_origin(hint) is not ClassVar}
    return {str(key): _convert(_known_key(str(key), hints, path), value, hints[str(key)], path) for key, value in content.items()}


def write_yaml(config: RunConfig, path: Path) -> None:
    """Write every field, so that `--config path` gives the same configuration again."""
    import yaml

    path.write_text(yaml.safe_dump(as_plain(config), sort_keys=False))


def as_plain(config: RunConfig) -> dict[str, Any]:
    """Every field as YAML and JSON know it: paths as text, tuples as lists, fields without a value left out."""
    plain = {}
    for name, value in dataclasses.asdict(config).items():
        if value is not None:
            plain[name] = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
    return plain


def _take_preset(arguments: list[str]) -> tuple[str, list[str]]:
    for i, argument in enumerate(arguments):
        if argument.startswith("--config="):
            return argument.split("=", 1)[1], arguments[:i] + arguments[i + 1 :]
        if argument == "--config":
            if i + 1 == len(arguments):
                raise ConfigError("--config needs the name of a preset or the path of a YAML file after it.")
            return arguments[i + 1], arguments[:i] + arguments[i + 2 :]
    return "", arguments


def _with_defaults(kind: type[Config], values: Mapping[str, Any]) -> Any:
    """`kind` with other defaults, which the command line may then still override."""
    import tyro

    described = [
        (field.name, typing.get_type_hints(kind)[field.name], dataclasses.field(default=values[field.name], kw_only=True))
        for field in dataclasses.fields(kind)
        if field.name in values
    ]
    if not described:
        return kind
    made = dataclasses.make_dataclass(kind.__name__, described, bases=(kind,), frozen=True, kw_only=True)
    made.__doc__ = kind.__doc__
    return tyro.conf.configure()(made)


def _known_key(key: str, hints: Mapping[str, Any], path: Path) -> str:
    if key not in hints:
        close = difflib.get_close_matches(key, hints, n=1)
        advice = f"Did you mean {close[0]!r}?" if close else f"Known keys: {', '.join(hints)}."
        raise ConfigError(f"{path} has an unknown key {key!r}. {advice}")
    return key


def _convert(key: str, value: Any, hint: Any, path: Path) -> Any:
    """YAML's value as the field's type. YAML reads 2e-5 as text, and knows neither paths nor tuples."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    target = next(option for option in options if option is not type(None))
    origin = typing.get_origin(target)
    try:
        if origin is tuple and isinstance(value, list):
            items = typing.get_args(target)
            kinds = items[:1] * len(value) if items[-1] is Ellipsis else items
            return tuple(_convert(key, item, item_kind, path) for item, item_kind in zip(value, kinds, strict=True))
        if origin is Literal and value in typing.get_args(target):
            return value
        if target is Path and isinstance(value, str):
            beside = path.parent / value
            return beside if beside.exists() else Path(value)
        if target is float and isinstance(value, str | int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(target, type) and type(value) is target:
            return value
    except ValueError:
        pass  # falls through to the message
    raise ConfigError(f"{path}: {key} is {value!r}; expected {_describe(target)}.")


def _describe(target: Any) -> str:
    if typing.get_origin(target) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(target)))
    return getattr(target, "__name__", str(target))
