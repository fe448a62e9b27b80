"""The proof's numbers as Markdown: made from results alone, so that a table says what was run."""

from __future__ import annotations

from collections.abc import Sequence

from ..plan import BATCHES, LAMBDAS, SHARES, arms, batch_arm, lambda_arm, share_arm
from ..workshop import Workshop
from .predictions import verdicts
from .results import IDENTITY, MEASURES, NAMES, Results, collect, seconds

_QUICK = (
    "**These are numbers of the `{name}` plan. It shows that the commands work; its runs are far too short to show anything "
    "else, and its verdicts mean nothing.**\n"
)


def tables(shop: Workshop) -> str:
    """Everything: verdicts, arms, differences, sweeps, teachers, bounds, time."""
    results = collect(shop)
    parts = ["# Results of `python -m train.proof`\n"]
    if shop.plan.name != "full":
        parts.append(_QUICK.format(name=shop.plan.name))
    parts.append(_plan(shop))
    parts += [_verdicts(results), _arms(results), _differences(results), _identity(results), _sweeps(results)]
    parts += [_pictures(results), _shared(results), _seconds(shop)]
    return "\n".join(parts)


def _plan(shop: Workshop) -> str:
    p = shop.plan
    unets = (
        f"UNets, in batches of {p.finetune_batch}: {p.base_steps} steps on text alone, the same for all arms, then "
        f"{p.finetune_steps} on each arm's encoder; in the sweep of the identity share {p.share_steps} from nothing."
    )
    return (
        f"{p.people:,} people with {p.pictures} pictures each, {p.held_out_people} held out, {p.guided:,} pictures of objects; "
        f"pretraining {p.pretrain_steps} steps of {p.pretrain_batch} rows; {unets} "
        f"{p.seeds} seeds, {p.sweep_seeds} in sweeps. Intervals are 95 % t-intervals over seeds.\n"
    )


def _verdicts(r: Results) -> str:
    rows = [(str(v.prediction), v.claim, v.numbers, f"**{v.outcome}**") for v in verdicts(r)]
    held = sum(v.outcome == "held" for v in verdicts(r))
    return f"## Predictions: {held} of {len(rows)} claims held\n\n" + _table(("", "claim", "numbers", "outcome"), rows)


def _arms(r: Results) -> str:
    names = [arm.name for arm in arms() if not arm.sweep]
    return "## Arms\n\n" + _table(("arm", *_headings(MEASURES)), [_row(r, name, MEASURES) for name in names])


def _differences(r: Results) -> str:
    names = [arm.name for arm in arms() if not arm.sweep and arm.name != "L3"]
    rows = [(name, *(str(r.difference(name, "L3", measure)) for measure in MEASURES)) for name in names]
    return "## Differences from L3, paired by seed\n\n" + _table(("arm", *_headings(MEASURES)), rows)


def _identity(r: Results) -> str:
    rows = [_row(r, arm.name, IDENTITY) for arm in arms() if not arm.sweep]
    return "## Identity in the joint representation\n\n" + _table(("arm", *_headings(IDENTITY)), rows)


def _sweeps(r: Results) -> str:
    measures = ("zero_shot", *IDENTITY)
    lambdas = [(f"{x:g}", *_row(r, lambda_arm(x), measures)[1:]) for x in LAMBDAS]
    batches = [(f"x {x:g}", *_row(r, batch_arm(x), measures)[1:]) for x in BATCHES]
    shares = [
        (f"{x:g}", kind, *(str(r.estimate(share_arm(x, kind), m)) for m in measures))
        for x in SHARES
        for kind in ("diffusion only", "L3")
    ]
    return (
        "## Sweeps\n\n"
        + _table(("lambda", *_headings(measures)), lambdas)
        + "\n"
        + _table(("batch", *_headings(measures)), batches)
        + "\n"
        + _table(("identity share", "arm", *_headings(measures)), shares)
    )


def _pictures(r: Results) -> str:
    """Cosines as the judges give them: what Face Sim and CLIP-T are made from."""
    bounds = r.shared.get("generate/bounds", {})
    measures = ("face", "shuffled", "clip_t", "clip_t_shuffled")
    rows = []
    for name, label in (("real", "real pictures (ceiling)"), ("autoencoder", "real pictures after the autoencoder")):
        rows.append((label, *(f"{bounds[f'{name}_{m}']:.3f}" if bounds else "-" for m in measures)))
    for arm in arms():
        if arm.finetuned and arm.world == "main":
            rows.append((arm.name, *(str(r.estimate(arm.name, f"raw_{measure}")) for measure in measures)))
    head = ("pictures", "judge, right person", "judge, shuffled reference", "CLIP, own prompt", "CLIP, another's prompt")
    return "## Cosines behind Face Sim and CLIP-T\n\n" + _table(head, rows)


def _shared(r: Results) -> str:
    rows = [
        (name.split("/")[1], ", ".join(f"{key} {value:.3g}" for key, value in found.items()))
        for name, found in r.shared.items()
        if name.startswith("teachers/")
    ]
    return "## Teachers and judges, on held-out people and objects\n\n" + _table(("network", "measured"), rows)


def _seconds(shop: Workshop) -> str:
    found = seconds(shop)
    rows = [(*key, f"{s['jobs']:.0f}", f"{s['seconds']:.0f}", f"{s['cpu_seconds']:.0f}") for key, s in sorted(found.items())]
    jobs, wall, cpu = (sum(s[key] for s in found.values()) for key in ("jobs", "seconds", "cpu_seconds"))
    rows.append(("all", "", f"{jobs:.0f}", f"{wall:.0f}", f"{cpu:.0f}"))
    note = "Seconds are summed over jobs, of which several ran side by side.\n\n"
    return f"## Time\n\n{note}" + _table(("stage", "machine", "jobs", "seconds", "CPU seconds"), rows)


def _row(r: Results, arm: str, measures: Sequence[str]) -> tuple[str, ...]:
    return (arm, *(str(r.estimate(arm, measure)) for measure in measures))


def _headings(measures: Sequence[str]) -> tuple[str, ...]:
    return tuple(NAMES[measure] for measure in measures)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
