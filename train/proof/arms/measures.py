"""What an arm's encoder knows: zero-shot classes and identity of
held-out people (paper, Tables 1 and 3, Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from faceclip import FaceCLIPEncoder, Identity
from faceclip.checkpoint import read_state_dict, write_safetensors
from faceclip.metrics import class_embeddings, imagenet_templates, measure_identity_map, zero_shot_accuracy
from faceclip.pipeline import best_device

from ...data.captions import token_ids
from ...data.decode import decode_face
from ...data.shards import ShardSource
from ...pretrain.model import PretrainModel, ProjectionHeads, black_face_texts
from ..plan import BRANCH, Arm
from ..teachers.quality import BATCH, NEIGHBOURS, class_labels, clip_images, held_out, load_mini_clip
from ..workshop import Workshop
from .training import trained_encoder

SHOWN_PEOPLE = 10
"""People in the pictures of identity maps."""
ONE_CAPTION = "a portrait of a person"
PROBE_SHARDS = "shard-*0[01].tar"
"""Of the training people's, what the linear map of `knn_probe` is learned on: about 2,000 pictures."""


def measure_encoder(shop: Workshop, arm: Arm, seed: int) -> dict[str, Any]:
    """Zero-shot accuracy and kNN identity; the representations of some people are kept for the identity map.

    `knn` is of pictures with their own captions, `knn_one_caption` of the same faces with one caption for all,
    `knn_probe` of what a linear map finds of the class token in the former: identity that is there, however much
    more captions move it.
    """
    encoder = trained_encoder(shop, arm, seed).to(best_device())
    captions, people, identity = read_people(encoder, shop.shards(arm.world, "held_out"))
    joint = joint_representation(encoder, captions, identity)
    found = measure_identity_map(joint, people, NEIGHBOURS)
    alone = joint_representation(encoder, [ONE_CAPTION] * len(captions), identity)
    others, _, their_identity = read_people(encoder, shop.shards(arm.world, "train") / PROBE_SHARDS)
    seen = joint_representation(encoder, others, their_identity)
    probed = linear_probe(seen, their_identity.class_token[:, 0].cpu(), joint)
    shown = [row for row, person in enumerate(people) if person in sorted(set(people))[:SHOWN_PEOPLE]]
    kept = {"joint": joint[shown], "people": torch.tensor(people)[shown]}
    write_safetensors(shop.run(arm, seed, "measure") / "joint.safetensors", kept, {"format": "joint representation"})
    return {
        "zero_shot": _zero_shot(shop, encoder, heads_of(shop, arm, seed, encoder)),
        "knn": found.purity,
        "knn_chance": found.chance,
        "silhouette": found.silhouette,
        "knn_one_caption": measure_identity_map(alone, people, NEIGHBOURS).purity,
        "knn_probe": measure_identity_map(probed, people, NEIGHBOURS).purity,
    }


def read_people(encoder: FaceCLIPEncoder, shards: str | Path) -> tuple[list[str], list[int], Identity]:
    """Captions, people and identities of all samples of some shards."""
    source = ShardSource(shards, read=("face", "caption", "meta"))
    samples = [source[i] for i in range(len(source))]
    parts = []
    for start in range(0, len(samples), BATCH):
        faces = [torch.from_numpy(decode_face(sample.face)) for sample in samples[start : start + BATCH]]
        parts.append(encoder.encode_faces(torch.stack(faces)))
    return [sample.caption for sample in samples], [sample.identity for sample in samples], Identity.cat(parts)


@torch.no_grad()
def joint_representation(encoder: FaceCLIPEncoder, captions: Sequence[str], identity: Identity) -> Tensor:
    """[N, 77 d]: the joint representation of captions and a face each, flattened as the training heads read it.

    On the CPU.
    """
    ids = token_ids(captions, identity.present.tolist())
    rows = [list(range(start, min(start + BATCH, len(ids)))) for start in range(0, len(ids), BATCH)]
    identity = identity.to(encoder.device)
    return torch.cat([encoder.joint(ids[part], identity[part])[0].flatten(1).cpu() for part in rows])


def linear_probe(seen: Tensor, targets: Tensor, unseen: Tensor) -> Tensor:
    """What ridge regression from `seen` [n, d] to the directions of
    `targets` [n, t] says of `unseen` [m, d]: [m, t].

    The penalty is a hundredth of the variance of `seen`, all dimensions together.
    """
    from sklearn.linear_model import Ridge

    penalty = 0.01 * float(seen.var(0).sum())
    ridge = Ridge(alpha=penalty).fit(seen.double().numpy(), F.normalize(targets.double(), dim=-1).numpy())
    return torch.from_numpy(ridge.predict(unseen.double().numpy()))


def heads_of(shop: Workshop, arm: Arm, seed: int, encoder: FaceCLIPEncoder) -> ProjectionHeads:
    """The training heads of an arm; without pretraining, as they are initialised."""
    (branch,) = encoder.config.branches.values()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = ProjectionHeads(branch.width, branch.text.context, branch.width, branch.face.classes)
    if arm.start == "pretrained":
        tensors = read_state_dict(shop.run(arm, seed, "pretrain") / "heads.safetensors")
        heads.load_state_dict({n.removeprefix("heads."): t for n, t in tensors.items() if n.startswith("heads.")})
    return heads.eval()


def _zero_shot(shop: Workshop, encoder: FaceCLIPEncoder, heads: ProjectionHeads) -> float:
    """Held-out objects seen by the vision teacher, against class texts
    through FaceCLIP with a black face (paper, Table 1)."""
    objects = held_out(shop, "guided_held_out")
    names, labels = class_labels(objects)
    images = clip_images(load_mini_clip(shop.teacher("clip"), BRANCH), objects.images)
    model = PretrainModel(encoder)
    model.heads = heads.to(encoder.device)
    sentences = imagenet_templates()[: shop.plan.templates]
    classes = class_embeddings(lambda texts: black_face_texts(model, texts, BATCH).cpu(), names, sentences)
    return zero_shot_accuracy(images, classes, labels).top1
