"""For any input at all: prompts become tokens without loss, and a
damaged file is an error that says so or loads whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faceclip import FaceCLIPConfig, FaceCLIPEncoder
from faceclip.checkpoint import CheckpointError
from faceclip.prompt import CONTEXT, END, IDENTITY_TOKEN, START, parse_weights, tokenize

ANY = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PROMPTS = st.one_of(
    st.text(max_size=400),
    st.text(alphabet="ab (:1.2)\\", max_size=120),
    st.lists(st.sampled_from(["red", "(hat:1.3)", "((a))", "id", "\\(", ")", "fox,"]), max_size=120).map(" ".join),
)


@ANY
@given(PROMPTS, st.booleans())
def test_any_prompt_becomes_whole_chunks_of_which_none_overflows(prompt: str, with_face: bool) -> None:
    cut, chunked = tokenize(prompt, with_face, "cut"), tokenize(prompt, with_face, "chunk")
    assert cut.input_ids.shape == cut.weights.shape == (1, CONTEXT)
    assert torch.equal(chunked.input_ids[0], cut.input_ids[0]) and chunked.cut == ""
    assert len(chunked.input_ids) == max(1, -(-cut.count // cut.room)) and bool(cut.cut) <= (cut.count > cut.room)
    for row in chunked.input_ids.tolist():
        end = row.index(END)
        assert row[0] == START and set(row[end + 1 :]) <= {0}
        assert (row[4] == IDENTITY_TOKEN) or not with_face
    own = sum(row.index(END) - 1 for row in chunked.input_ids.tolist()) - len(chunked.input_ids) * (CONTEXT - 2 - cut.room)
    assert own == cut.count, "no token is lost or made up"


@ANY
@given(PROMPTS)
def test_no_letter_is_lost_to_weights_and_unbalanced_brackets_are_text(prompt: str) -> None:
    letters = [letter for letter in prompt if letter.isalpha()]
    assert [letter for part, _ in parse_weights(prompt) for letter in part if letter.isalpha()] == letters
    assert all(weight > 0 for _, weight in parse_weights("".join(letters)))


@ANY
@given(st.text(alphabet="abc d", max_size=60), st.floats(0.1, 3).map(lambda x: round(x, 2)))
def test_a_weight_is_what_is_written(words: str, weight: float) -> None:
    # With nothing before it, a colon is a word like others, as the core reads it.
    assert parse_weights(f"({words}:{weight})") == ([(words, weight)] if words else [(f":{weight}", 1.1)])


def test_a_prompt_without_a_face_that_says_id_early_is_padded_without_the_prefix() -> None:
    padded = tokenize("000ID", False).padded_to(2)
    assert padded.room == 75 and padded.input_ids[1].tolist() == [START, END, *[0] * 75]


@dataclass(frozen=True)
class _Files:
    """Files by their kind, and the shapes in them; its repr is short, since a failing example is printed with it."""

    content: dict[str, bytes] = field(repr=False)
    shapes: dict[str, torch.Size] = field(repr=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> _Files:
    """One small encoder, as we write it and as torch does."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    encoder = FaceCLIPEncoder(FaceCLIPConfig.preset("tiny"))
    encoder.save(folder / "a.safetensors")
    torch.save(encoder.state_dict(), folder / "a.pt")
    content = {path.suffix: path.read_bytes() for path in folder.iterdir()}
    return _Files(content, {name: tensor.shape for name, tensor in encoder.state_dict().items()})


def _load(path: Path, content: bytes) -> FaceCLIPEncoder | None:
    """The encoder of a file of this content, or None where it is refused.

    Anything else than a CheckpointError passes on.
    """
    path.write_bytes(content)
    try:
        return FaceCLIPEncoder.from_file(path)
    except CheckpointError as error:
        assert str(path) in str(error) and len(str(error)) < 2_000
        return None


@ANY
@given(data=st.data(), kind=st.sampled_from([".safetensors", ".pt"]))
def test_flipped_bits_are_told_or_change_values_alone(files: _Files, tmp_path: Path, data: st.DataObject, kind: str) -> None:
    whole = files.content[kind]
    head = min(len(whole), 8 + int.from_bytes(whole[:8], "little")) if kind == ".safetensors" else 4_000
    places = st.one_of(st.integers(0, head - 1), st.integers(0, len(whole) - 1), st.integers(len(whole) - 4_000, len(whole) - 1))
    damaged = bytearray(whole)
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    found = _load(tmp_path / f"damaged{kind}", bytes(damaged))
    if found is not None:
        assert {name: tensor.shape for name, tensor in found.state_dict().items()} == files.shapes


@ANY
@given(kept=st.floats(0, 0.999), kind=st.sampled_from([".safetensors", ".pt"]))
def test_a_truncated_file_is_always_told(files: _Files, tmp_path: Path, kept: float, kind: str) -> None:
    assert _load(tmp_path / f"short{kind}", files.content[kind][: int(kept * len(files.content[kind]))]) is None


@ANY
@given(st.binary(max_size=600))
def test_a_file_of_anything_is_told(tmp_path: Path, content: bytes) -> None:
    assert _load(tmp_path / "anything.safetensors", content) is None
