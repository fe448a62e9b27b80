"""The study's page, in Gradio: a name, then pair after pair. Nothing on it tells the folders apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from PIL import Image

from faceclip.face import load_photo
from faceclip.metrics.errors import require

from .votes import QUESTIONS, Choice, Pair, Side, Vote, VoteFile, now, order_for, voter_name

LONGEST = 1024
LEFT, RIGHT, SAME = "Left", "Right", "No difference"
_FONTS = ("system-ui", "sans-serif")
_CSS = ".pair img { max-height: 62vh; object-fit: contain } footer { display: none !important }"


def launch(pairs: Sequence[Pair], votes: VoteFile, port: int, *, block: bool = True) -> Any:
    """Serve the page on 127.0.0.1; returns Gradio's Blocks, whose `close()` ends it, unless it blocks.

    Raises:
        MetricUnavailableError: gradio is not installed.
        OSError: the port is taken.
    """
    require("gradio", "gradio", "The study's page")
    # Read when gradio is imported: it would tell its makers of every start.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from gradio import themes

    page = build(pairs, votes)
    # Names of fonts that every system has; gradio's own themes fetch theirs from the web.
    theme = themes.Default(font=_FONTS, font_mono=("monospace",))
    page.launch(
        server_name="127.0.0.1",
        server_port=port,
        prevent_thread_lock=not block,
        theme=theme,
        css=_CSS,
        quiet=True,
        share=False,
        footer_links=[],
        run_history=False,
    )
    return page


def build(pairs: Sequence[Pair], votes: VoteFile) -> Any:
    """The page as Gradio Blocks, not yet served."""
    import gradio

    def show(voter: str) -> list[Any]:
        """Values of `shown` for the voter's next pair, or for the end."""
        waiting = _waiting(voter, pairs, votes)
        done = len(pairs) - len(waiting)
        if not waiting:
            thanks = f"Thank you: all {len(pairs)} pairs are done. You can close this page."
            hidden = [gradio.update(visible=False) for _ in (prompt, *radios, left, right, reference, save)]
            return [None, gradio.update(visible=False), gradio.update(visible=True), thanks, *hidden]
        pair, side = waiting[0]
        first, second = (pair.a, pair.b) if side == "A" else (pair.b, pair.a)
        asked = [gradio.update(visible=name in pair.questions, value=None) for name in QUESTIONS]
        photo = gradio.update(visible=pair.reference is not None, value=_picture(pair.reference) if pair.reference else None)
        return [
            (voter, pair.name, side),
            gradio.update(visible=False),
            gradio.update(visible=True),
            f"Pair {done + 1} of {len(pairs)}",
            gradio.update(value=pair.prompt, visible=bool(pair.prompt)),
            *asked,
            gradio.update(value=_picture(first), visible=True),
            gradio.update(value=_picture(second), visible=True),
            photo,
            gradio.update(visible=True),
        ]

    def begin(voter: str) -> list[Any]:
        try:
            name = voter_name(voter)
        except ValueError as error:
            gradio.Warning(str(error), duration=4)
            return [gradio.skip()] * len(shown)
        return show(name)

    def record(written: str, current: tuple[str, str, Side] | None, *answers: str | None) -> list[Any]:
        """The votes are those of whom the session's pair was made for, whatever name is `written` on the page by now."""
        if current is None:
            gradio.Warning("Please enter a name first.", duration=4)
            return [gradio.skip()] * len(shown)
        voter, name, side = current
        pair = next(pair for pair in pairs if pair.name == name)
        given = dict(zip(QUESTIONS, answers, strict=True))
        if any(given[question] not in (LEFT, RIGHT, SAME) for question in pair.questions):
            gradio.Warning("Please answer every question.", duration=4)
            return [gradio.skip()] * len(shown)
        choices: dict[str, Choice] = {question: _choice(given[question], side) for question in pair.questions}
        votes.add([Vote(now(), voter, name, question, side, choice) for question, choice in choices.items()])
        return show(voter)

    with gradio.Blocks(title="Which picture?", analytics_enabled=False) as page:
        current = gradio.State(None)
        with gradio.Column(visible=True) as door:
            gradio.Markdown(
                "## Which picture?\nYou will see pairs of pictures and say of each which is better. There is no time limit."
            )
            voter = gradio.Textbox(label="Your name", elem_id="voter", max_lines=1)
            start = gradio.Button("Start", variant="primary", elem_id="start")
        with gradio.Column(visible=False) as room:
            progress = gradio.Markdown(elem_id="progress")
            prompt = gradio.Textbox(label="Prompt", elem_id="prompt", interactive=False, max_lines=4)
            with gradio.Row():
                reference = _frame(gradio, "Reference", "reference")
                left = _frame(gradio, LEFT, "left")
                right = _frame(gradio, RIGHT, "right")
            radios = [gradio.Radio([LEFT, RIGHT, SAME], label=QUESTIONS[name], elem_id=name) for name in QUESTIONS]
            save = gradio.Button("Save and go on", variant="primary", elem_id="save")
        shown = [current, door, room, progress, prompt, *radios, left, right, reference, save]
        for event in (start.click, voter.submit):
            event(begin, voter, shown)
        save.click(record, [voter, current, *radios], shown)
    return page


def _frame(gradio: Any, label: str, name: str) -> Any:
    return gradio.Image(label=label, elem_id=name, elem_classes="pair", interactive=False, buttons=["fullscreen"], format="jpeg")


def _waiting(voter: str, pairs: Sequence[Pair], votes: VoteFile) -> list[tuple[Pair, Side]]:
    """What the voter has not fully answered, in their own order."""
    done = votes.done(voter)
    return [(pair, side) for pair, side in order_for(voter, pairs) if not all((pair.name, q) in done for q in pair.questions)]


def _choice(answer: str | None, left: Side) -> Choice:
    if answer == SAME:
        return "same"
    other: Side = "B" if left == "A" else "A"
    return left if answer == LEFT else other


def _picture(path: Any) -> Image.Image:
    """Pixels only: a file's name or format would tell which folder it is from."""
    picture = Image.fromarray(load_photo(path))
    picture.thumbnail((LONGEST, LONGEST))
    return picture
