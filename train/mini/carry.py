"""Identity carried into the whole conditioning: what the mini model's encoder learns after pretraining.

Not the paper's.

In a batch of 64 drawn people a few coarse differences tell each from the others, and a contrastive loss is
content with these: on held-out people little of a face can be read off the joint representation, and next to
nothing off the pooled output. Here linear maps of both have to name all numbers of the class token, for any
caption with any face, while other maps have to name what the pretrained encoder makes of the caption alone,
token by token, so that no word is lost for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Linear

from faceclip import FaceCLIPEncoder
from faceclip.model.branch import FaceCLIPBranch

from ..cache.features import FeatureCache
from ..data.captions import token_ids
from ..data.decode import decode_face
from ..data.shards import ShardSource
from ..pretrain.model import freeze
from ..proof.fitting import Schedule, fit, forget, state_of
from ..proof.teachers.pictures import shuffled, traits_of
from ..proof.workshop import CPU, Workshop
from ..synthetic.people import TRAITS

TEXT = 1.0
"""Weight of the caption's share of the loss, beside identity's 1."""
_TEXT_TOWER = ("transformer.", "ln_final.")
"""Of the text tower, what learns along: the pooled output never meets a face but here."""


class Readers(nn.Module):
    """Linear maps that only this training needs: what they cannot read off an output is not there for a UNet either."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.identity_of_tokens, self.identity_of_pooled = Linear(width, classes), Linear(width, classes)
        self.text_of_tokens, self.text_of_pooled = Linear(width, width), Linear(width, width)

    def forward(self, fused: Tensor, pooled: Tensor, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """fused [B, 77, d], pooled [B, d] -> mean squared errors of what is `wanted`: class_token [B, c], and fused and
        pooled of the text alone; each has a mean of 0 and a deviation of 1."""
        return {
            "tokens": F.mse_loss(self.identity_of_tokens(fused.mean(1)), wanted["class_token"]),
            "pooled": F.mse_loss(self.identity_of_pooled(pooled), wanted["class_token"]),
            "words": F.mse_loss(self.text_of_tokens(fused), wanted["fused"]),
            "words_pooled": F.mse_loss(self.text_of_pooled(pooled), wanted["pooled"]),
        }


class Standard:
    """Numbers as multiples of their deviation from their mean over some rows."""

    def __init__(self, rows: Tensor):
        self.mean, self.deviation = rows.mean(0), rows.std(0).clamp(min=1e-4)

    def __call__(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / self.deviation


def carry_identity(
    pretrained: Path, shards: str | Path, features: Path, schedule: Schedule, out: Path, device: torch.device = CPU
) -> dict[str, float]:
    """Train the branch in `pretrained` on; write it to `out`. Returns its errors of each kind on 50 batches.

    features: a cache of `shards` with class_token and patch_tokens, by the branch's face tower.
    """
    source = ShardSource(shards, read=("caption",))
    captions = [source[row].caption for row in range(len(source))]
    cache = FeatureCache(features, source)
    encoder = FaceCLIPEncoder.from_file(pretrained).to(device)
    (branch,) = encoder.branches.values()
    before = next(iter(FaceCLIPEncoder.from_file(pretrained).eval().requires_grad_(False).to(device).branches.values()))
    learn_with_text(branch)
    blank = encoder.blank_face()

    @torch.no_grad()
    def text_alone(rows: list[int]) -> tuple[Tensor, Tensor]:
        ids = token_ids([captions[row] for row in rows], [False] * len(rows)).to(device)
        count = len(rows)
        patches = blank.patch_tokens[:, 0].expand(count, -1, -1)
        nobody = torch.zeros(count, dtype=torch.bool, device=device)
        found = before(ids, blank.class_token[:, 0].expand(count, -1), patches, nobody)
        return found.fused, found.pooled

    sample = torch.randperm(len(source), generator=torch.Generator().manual_seed(schedule.seed))[:1024]
    fused, pooled = text_alone(sample.tolist())
    standard = {"class_token": Standard(cache.read(sample)["class_token"][:, 0].to(device).float())}
    standard |= {"fused": Standard(fused.flatten(0, 1)), "pooled": Standard(pooled)}
    torch.manual_seed(schedule.seed)
    readers = Readers(encoder.config.width, standard["class_token"].mean.numel()).to(device)

    def errors_of(rows: Tensor) -> dict[str, Tensor]:
        faces = cache.read(rows)
        class_token, patches = (faces[name][:, 0].to(device).float() for name in ("class_token", "patch_tokens"))
        said = rows.roll(len(rows) // 2).tolist()  # of other people's pictures: a caption knows nobody
        ids = token_ids([captions[row] for row in said], [True] * len(rows)).to(device)
        output = branch(ids, class_token, patches, torch.ones(len(rows), dtype=torch.bool, device=device))
        fused, pooled = text_alone(said)
        wanted = {"class_token": class_token, "fused": fused, "pooled": pooled}
        return readers(output.fused, output.pooled, {name: standard[name](values) for name, values in wanted.items()})

    def loss_of(rows: Tensor) -> Tensor:
        errors = errors_of(rows)
        return errors["tokens"] + errors["pooled"] + TEXT * (errors["words"] + errors["words_pooled"])

    def batches(steps: int) -> Iterator[Tensor]:
        return shuffled(len(source), schedule.batch, steps, schedule.seed)

    fit("carry", nn.ModuleList([branch, readers]), loss_of, batches(schedule.steps), schedule, state_of(out, "carry"))
    encoder.eval().requires_grad_(False).save(out, {"trained": "true"})
    with torch.no_grad():
        found = [errors_of(rows) for rows in batches(min(50, schedule.steps))]
    forget(out)
    return {name: float(torch.stack([errors[name] for errors in found]).mean()) for name in found[0]}


def learn_with_text(branch: FaceCLIPBranch) -> None:
    """Let what pretraining trains have gradients, and the text tower; set every dropout to 0."""
    freeze(branch)
    for name, parameter in branch.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or name.startswith(_TEXT_TOWER))
    without_dropout(branch)


def without_dropout(module: nn.Module) -> None:
    """Set every dropout to 0: what has to be read off an output should be there each time."""
    for part in module.modules():
        if isinstance(getattr(part, "dropout", None), float):
            part.dropout = 0.0  # pyright: ignore[reportArgumentType]


def identity_quality(shop: Workshop, path: Path) -> dict[str, Any]:
    """How much of held-out people's traits a linear map reads off the class token, the mean token and the pooled
    output: mean R2 over traits, and the tokens' for each."""
    encoder = FaceCLIPEncoder.from_file(path).eval().requires_grad_(False)
    seen, unseen = (_outputs(encoder, shop.shards("main", part)) for part in ("train", "held_out"))
    found = {
        name: readable(seen[name], seen["traits"], unseen[name], unseen["traits"]) for name in ("class_token", "tokens", "pooled")
    }
    means = {name: float(values.mean()) for name, values in found.items()}
    return {**means, "of_tokens": dict(zip(TRAITS, found["tokens"].tolist(), strict=True))}


@torch.no_grad()
def _outputs(encoder: FaceCLIPEncoder, folder: Path) -> dict[str, Tensor]:
    """Rows of up to 3,000 pictures of a folder of shards: class_token,
    tokens (their mean), pooled, and the person's traits."""
    parts: dict[str, list[Tensor]] = {"class_token": [], "tokens": [], "pooled": [], "traits": []}
    source = ShardSource(folder, read=("face", "caption", "meta"))
    for start in range(0, min(len(source), 3000), 100):
        samples = [source[row] for row in range(start, min(start + 100, len(source)))]
        identity = encoder.encode_faces(torch.stack([torch.from_numpy(decode_face(sample.face)) for sample in samples]))
        ids = token_ids([sample.caption for sample in samples], [True] * len(samples))
        fused, pooled = encoder.joint(ids, identity)
        parts["class_token"].append(identity.class_token[:, 0])
        parts["tokens"].append(fused.mean(1))
        parts["pooled"].append(pooled)
        parts["traits"].append(torch.stack([traits_of(sample) for sample in samples]))
    return {name: torch.cat(rows) for name, rows in parts.items()}


def readable(seen: Tensor, traits: Tensor, unseen: Tensor, unseen_traits: Tensor) -> Tensor:
    """[t]: R2 of a ridge regression from `seen` [n, d] to traits [n, t], on
    people that it has not seen [m, d], [m, t].

    Of several penalties the best one's: it says how much is there, not how well a penalty was chosen.
    """
    standard = Standard(seen)
    x, y = standard(seen).double(), standard(unseen).double()
    target, middle = traits.double(), traits.double().mean(0)
    inner = x.T @ x
    best = None
    for penalty in (1e-3, 1e-2, 0.05, 0.2, 1.0):
        weights = torch.linalg.solve(inner + penalty * len(x) * torch.eye(x.shape[1], dtype=x.dtype), x.T @ (target - middle))
        error = (y @ weights + middle - unseen_traits.double()).square().mean(0)
        found = 1 - error / unseen_traits.double().var(0).clamp(min=1e-9)
        best = found if best is None or found.mean() > best.mean() else best
    assert best is not None
    return best.float()
