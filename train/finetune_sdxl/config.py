"""The settings of finetuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ..run.config import ConfigError, RunConfig


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunConfig):
    """Stage 2: SDXL's whole UNet learns to follow the joint representation (paper, section 3.4), or a LoRA of it."""

    command: ClassVar[str] = "train.finetune_sdxl"
    phase_keys: ClassVar[tuple[str, ...]] = ("steps", "batch_size", "lr", "resolution", "latents")

    data: str
    """Shards with photographs, captions and aligned faces (a folder, a pattern or a URL), from `python -m
    train.prepare`."""
    encoder: Path
    """FaceCLIP encoder file with the branches that the UNet takes (both, for SDXL). Frozen."""
    unet: Path | None
    """UNet to start from: a diffusers folder, or a file of weights in diffusers' naming with --unet-config."""
    unet_config: Path | None = None
    """The UNet's config.json, where --unet is a file."""
    lora: int | None = None
    """Rank of a LoRA: low-rank matrices on the UNet's attention projections are trained, and the UNet stays as it
    is. Without, the whole UNet is trained, as in the paper. What the run makes is one file, for Load LoRA."""
    vae: Path | None = None
    """VAE in diffusers' format (a folder), to encode pictures at every step when there is no latent cache."""
    latents: Path | None = None
    """Cache of latents written by `python -m train.cache latents`."""
    features: Path | None = None
    """Cache of face features written by `python -m train.cache pretrain`; without it the face tower runs at every
    step."""
    remember_conditions: bool = False
    """Keep every computed condition in memory, so that the encoder runs once per sample and not once per epoch;
    what is read from caches is kept, too. For small data: a sample's condition takes 318 KB for SDXL in bf16, and
    up to four are kept of it, with and without what is dropped."""
    cuda_graph: bool = False
    """Replay the UNet's kernels from a CUDA graph. For small UNets, which a GPU finishes sooner than Python can
    ask for: one GPU, no micro-batches, nothing recomputed."""
    resolution: int = 1024
    """Side in pixels of the square bucket; the others have about its area. With --latents, that of the cache."""
    drop_text: float = 0.05
    """Chance that a row is trained with an empty caption, drawn anew at every step. Ours: the paper has no
    dropout of conditions, the release one of both at once."""
    drop_face: float = 0.05
    """Chance that a row is trained with no face. Ours, too."""
    drop_both: float = 0.1
    """Chance that a row is trained with neither (release: condition dropout 0.1)."""
    prediction: Literal["auto", "epsilon", "v"] = "auto"
    """What the UNet predicts: `auto` is what the file of --unet says, with its zero_terminal_snr, or the noise
    (as in the paper) where it says nothing. What contradicts the file is refused."""
    min_snr: float = 0.0
    """Gamma of min-SNR loss weights; 0 weighs all timesteps alike, as the paper does. Not with zero_terminal_snr."""
    zero_terminal_snr: bool = False
    """Rescale the noise schedule so that its last step is pure noise; needs --prediction v. With `auto` the
    file decides."""
    ema: float = 0.9999
    """Decay of the fp32 moving average of the weights; 0 keeps none. Ours: the paper names none. Update n decays by
    n / (9 + n) at most, so that short runs forget their start, too."""

    held_out: str = ""
    """Shards of people who are in none of --data, for the loss and the grid of looks; none if empty."""
    held_out_share: float = 0.0
    """Instead of shards: the share of --data's people who are kept out of training, by the hash of each person's
    number (a row's key where nobody knows who it is). Every sample's json is read for it when the run starts."""
    held_out_rows: int = 32
    """Held-out rows that the loss is measured on, at five timesteps each; the grid takes its people from them."""
    look_every: int = 0
    """Steps between looks at what the UNet makes: the loss on held-out rows, a grid of held-out people and
    prompts, and its face similarity, all by the averaged weights. 0 looks at the start and at the end alone.
    Needs held-out rows."""
    look_vae: Path | None = None
    """VAE for looks (a file or a folder), where --latents are cached; else it is --vae."""
    look_people: int = 4
    """Held-out people in the grid, a row each."""
    look_prompts: tuple[str, ...] = (
        "a portrait of a person, plain background",
        "a person on a beach at sunset",
        "a person in a suit in an office",
        "a pencil drawing of a person",
    )
    """Prompts of the grid, a column each."""
    look_steps: int = 20
    """Sampling steps of the grid's pictures (Euler)."""
    look_guidance: float = 5.0
    """Classifier-free guidance of the grid's pictures."""
    look_judge: Literal["auto", "dlib", "insightface", "none"] = "auto"
    """Who measures the grid's face similarity; `auto` takes what is installed, or leaves it out where nothing is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_looks()
        chances = (self.drop_text, self.drop_face, self.drop_both)
        if min(chances) < 0 or sum(chances) > 1:
            raise ConfigError(f"drop_text, drop_face and drop_both are {chances}; each is a chance, and they sum to at most 1.")
        if self.zero_terminal_snr and self.prediction != "v":
            raise ConfigError("zero_terminal_snr needs --prediction v: pure noise tells an epsilon-prediction nothing.")
        if self.zero_terminal_snr and self.min_snr:
            raise ConfigError(
                f"min_snr is {self.min_snr:g} with zero_terminal_snr: the step of pure noise has no signal, so min-SNR gives it "
                "a weight of 0, and the step that zero_terminal_snr adds would never be trained. Choose one of them."
            )
        if (self.vae is None) == (self.latents is None):
            raise ConfigError("Give either --latents (a cache) or --vae (a folder), to encode pictures at every step.")
        if self.vae and any(phase.latents for phase in self.stretches):
            raise ConfigError("A phase names latents, and the run a --vae that makes them at every step. Give one of the two.")
        if self.cuda_graph and (self.micro_batch or self.activation_checkpointing or self.compile):
            raise ConfigError("cuda_graph does not go with micro_batch, activation_checkpointing or compile: leave it out.")
        if self.lora is not None and self.lora < 1:
            raise ConfigError(f"lora is {self.lora}; a rank is at least 1. Leave it out to train the whole UNet.")
        if self.lora and self.cuda_graph:
            raise ConfigError("cuda_graph replays the whole UNet's training, and not a LoRA's: leave one of them out.")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema is {self.ema}; a decay lies in [0, 1).")

    @property
    def looks(self) -> bool:
        """Whether the run looks at what it learns."""
        return bool(self.held_out or self.held_out_share)

    def _check_looks(self) -> None:
        if self.held_out and self.held_out_share:
            raise ConfigError("held_out and held_out_share are both given: hold out shards, or a share of the people of --data.")
        if not 0 <= self.held_out_share < 1:
            raise ConfigError(f"held_out_share is {self.held_out_share:g}; it is a share of the people, in [0, 1).")
        if self.look_every < 0 or min(self.held_out_rows, self.look_people, self.look_steps, len(self.look_prompts)) < 1:
            raise ConfigError(
                "look_every must not be negative, and held_out_rows, look_people, look_steps and the number of look_prompts are "
                f"at least 1; found {self.look_every}, {self.held_out_rows}, {self.look_people}, {self.look_steps} and "
                f"{len(self.look_prompts)}."
            )
        if self.look_every and not self.looks:
            raise ConfigError(
                "look_every needs people whom the run is not trained on: name shards with --held-out, or keep some of --data's "
                "people out with --held-out-share 0.02."
            )
        if self.looks and not (self.vae or self.look_vae):
            raise ConfigError("Looks decode pictures: name the VAE with --look-vae, since the run's latents are cached.")
