"""Example workflows about how a picture is run: in few steps, in two passes, and of several prompts at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from .format import Graph, Place
from .parts import (
    GREEN,
    OFFICIAL,
    PROMPTS,
    PURPLE,
    Column,
    explain,
    one_person,
    run_sampler,
    sample,
    sample_from,
    save,
    write_prompt,
)

FEW_STEPS_LORA = "my_few_steps.safetensors"
_UNTRIED = "**Untried with the released weights**: it was tried with the mini model only."
FEW_STEPS_NOTE = f"""
## Eight steps

A distilled **LoRA** of SDXL (LCM, Lightning or DMD2) from models/loras makes a picture in few steps: choose yours where it says
{FEW_STEPS_LORA}. {_UNTRIED}

- *KSampler* as the LoRA wants it: LCM and DMD2 sampler *lcm*, Lightning *euler* with *sgm_uniform*; CFG 1 to 2.
- At CFG 1 the negative prompt has no say, and a step takes half the time.
- Face not like? More steps, or **strength_model** down to 0.7.
"""
HIRES_NOTE = f"""
## Two passes

The first pass makes the picture at the size that SDXL was trained for. The second makes it half as large again and draws the
details anew, with the same prompts and the same face. {_UNTRIED}

- **denoise** of the second *KSampler*: 0.3 keeps everything, 0.55 draws more anew.
- Width and height of *FaceCLIP Text Encode* are 0: each pass is told its own size.
"""
PROMPTS_NOTE = f"""
## Three prompts in one run

The face is read once, and serves every prompt. Each prompt has its own *KSampler*; all of them start from one empty latent.
More prompts: copy a row. {_UNTRIED}
"""


def few_steps(graph: Graph) -> None:
    encoder, unet, vae, identity = one_person(graph)
    column = Column(graph, 1260)
    quick = column.add("LoraLoaderModelOnly", 120, model=unet["model"], lora_name=FEW_STEPS_LORA, strength_model=1.0)
    column.group("3. Few steps", PURPLE)
    words = "a person in a yellow raincoat at a harbour, overcast, photograph"
    prompts = write_prompt(graph, encoder, words, Place(1660, 0, 480, PROMPTS), identity)
    graph.group("4. Prompts", GREEN, [prompts])
    settings = replace(OFFICIAL, steps=8, cfg=1.5, scheduler="sgm_uniform")
    sampling = sample(graph, (quick["MODEL"], vae), (prompts["conditioning"], prompts["negative"]), settings, 2220, 0)
    save(graph, sampling, Place(2600, 0, 480, 580), "few_steps", 5)
    explain(graph, FEW_STEPS_NOTE)


def hires(graph: Graph) -> None:
    encoder, unet, vae, identity = one_person(graph)
    words = "a person in a knitted jumper at a window, soft light, photograph"
    prompts = write_prompt(graph, encoder, words, Place(1260, 0, 480, PROMPTS), identity)
    graph.group("3. Prompts", GREEN, [prompts])
    sockets = prompts["conditioning"], prompts["negative"]
    first = Column(graph, 1820, gap=90)
    latent = first.add("EmptyLatentImage", 120, width=OFFICIAL.width, height=OFFICIAL.height)
    sampled = run_sampler(first, unet, sockets, latent["LATENT"], OFFICIAL)["LATENT"]
    first.group("4. First pass", PURPLE)
    second = Column(graph, 2220, gap=90)
    larger = second.add("LatentUpscaleBy", 90, samples=sampled, upscale_method="bislerp", scale_by=1.5)
    picture = sample_from(second, (unet, vae), sockets, larger["LATENT"], replace(OFFICIAL, steps=30), denoise=0.45)
    saved = graph.add("SaveImage", Place(2600, 0, 480, 580), images=picture["IMAGE"], filename_prefix="FaceCLIP/hires")
    graph.group("5. Second pass", PURPLE, [*second.nodes, saved])
    explain(graph, HIRES_NOTE)


def prompts_list(graph: Graph) -> None:
    encoder, unet, vae, identity = one_person(graph)
    texts = (
        "a person hiking in the mountains, photograph",
        "a person cooking in a bright kitchen, photograph",
        "a person on stage with a guitar, photograph",
    )
    latent = graph.add("EmptyLatentImage", Place(800, 560, 380, 120), width=OFFICIAL.width, height=OFFICIAL.height)
    prompts, samplers, made = [], [], []
    for row, text in enumerate(texts):
        y = 480 * row
        prompts.append(write_prompt(graph, encoder, text, Place(1260, y, 480, 360), identity, f"Prompt {row + 1}"))
        column = Column(graph, 1820, y=y, gap=50)
        sockets = prompts[-1]["conditioning"], prompts[-1]["negative"]
        made.append(sample_from(column, (unet, vae), sockets, latent["LATENT"], OFFICIAL)["IMAGE"])
        samplers += column.nodes
    graph.group("3. Prompts", GREEN, prompts)
    graph.group("4. Samplers", PURPLE, samplers)
    joints = Column(graph, 2220)
    two = joints.add("ImageBatch", 50, image1=made[0], image2=made[1])
    three = joints.add("ImageBatch", 50, image1=two["IMAGE"], image2=made[2])
    saved = graph.add("SaveImage", Place(2600, 0, 480, 760), images=three["IMAGE"], filename_prefix="FaceCLIP/prompts")
    graph.group("5. Pictures", PURPLE, [*joints.nodes, saved])
    explain(graph, PROMPTS_NOTE)


RUNS: Mapping[str, Callable[[Graph], None]] = {
    "Few steps": few_steps,
    "Hires fix": hires,
    "Several prompts": prompts_list,
}
