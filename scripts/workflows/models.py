"""Example workflows that change the UNet: a LoRA on top of it, and
FaceCLIP carried over to another SDXL checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .format import Graph, Node, Place, Socket
from .parts import GREEN, OFFICIAL, PROMPTS, PURPLE, Column, explain, one_person, sample, save, write_prompt

LORA, CHECKPOINT, BASE = "my_style.safetensors", "my_sdxl_checkpoint.safetensors", "sd_xl_base_1.0.safetensors"
LORA_NOTE = """
## A style on top

*LoraLoaderModelOnly* takes any **SDXL** LoRA from `models/loras`: choose yours where it says `my_style.safetensors`. It changes
the UNet alone: the prompt's encoder stays FaceCLIP's. Put the LoRA's trigger words into the prompt; its text part is not used.

- Face no longer like? **strength** down to 0.5.
- Style too weak? Say it in the prompt, too.
- Distilled LoRAs (Lightning, Hyper) want few steps and CFG 1 to 2 in *KSampler*.
"""
TRANSPLANT_NOTE = """
## Experimental: FaceCLIP on another checkpoint

*your checkpoint* + (*FaceCLIP's UNet* - *SDXL base*): what FaceCLIP's training added to SDXL is added to a checkpoint of the same
family. **Nobody promises that this works**: the closer the checkpoint is to SDXL base, the better the odds. Pony, Illustrious and
NoobAI are far from it.

- Files in `models/checkpoints`: `sd_xl_base_1.0.safetensors` (6.9 GB,
  [stabilityai](https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0)) and your own.
- Three UNets are in memory at once: about 16 GB in fp16.
- Likeness too weak? **multiplier** of *ModelMergeSubtract* up to 1.2. Picture breaks? Down to 0.7.
"""


def lora(graph: Graph) -> None:
    encoder, unet, vae, identity = one_person(graph)
    column = Column(graph, 1260)
    styled = column.add("LoraLoaderModelOnly", 120, model=unet["model"], lora_name=LORA, strength_model=0.8)
    column.group("3. Style", PURPLE)
    words = "a portrait of a person among sunflowers, in the style of the LoRA"
    _picture(graph, (encoder, styled["MODEL"], vae), identity, words, 1660, "lora")
    explain(graph, LORA_NOTE)


def transplant(graph: Graph) -> None:
    encoder, unet, vae, identity = one_person(graph)
    column = Column(graph, 1260)
    base = column.add("FaceCLIPUNetLoader", 90, "SDXL base", unet_name=BASE)
    own = column.add("FaceCLIPUNetLoader", 90, "Your checkpoint", unet_name=CHECKPOINT)
    learned = column.add(
        "ModelMergeSubtract", 90, "What FaceCLIP added", model1=unet["model"], model2=base["model"], multiplier=1.0
    )
    carried = column.add("ModelMergeAdd", 60, "Added to yours", model1=own["model"], model2=learned["MODEL"])
    column.group("3. Carry FaceCLIP over", PURPLE)
    words = "a person in a raincoat under a streetlamp at night, photograph"
    _picture(graph, (encoder, carried["MODEL"], vae), identity, words, 1660, "transplant")
    explain(graph, TRANSPLANT_NOTE)


def _picture(graph: Graph, models: tuple[Node, Socket, Node], identity: Socket, words: str, x: int, prefix: str) -> None:
    """Prompts, sampler and picture of one identity."""
    encoder, model, vae = models
    prompts = write_prompt(graph, encoder, words, Place(x, 0, 480, PROMPTS), identity)
    graph.group("4. Prompts", GREEN, [prompts])
    sampling = sample(graph, (model, vae), (prompts["conditioning"], prompts["negative"]), OFFICIAL, x + 560, 0)
    save(graph, sampling, Place(x + 940, 0, 480, 580), prefix, 5)


MODELS: Mapping[str, Callable[[Graph], None]] = {
    "Style LoRA": lora,
    "Own checkpoint": transplant,
}
