"""Prompts: the release's token ids, ComfyUI's weights, and nothing lost without a word."""

from __future__ import annotations

import pytest
import torch

from faceclip import prompt as prompts
from faceclip.prompt import parse_weights, tokenize

IDENTITY_POSITION = 4  # where the prefix "Photo of a id person. " puts it, after the start token


def test_prefix_and_identity_token_are_added_only_with_an_identity():
    with_face, without = tokenize("a cat", with_identity=True), tokenize("a cat", with_identity=False)
    assert with_face.input_ids[0, IDENTITY_POSITION] == prompts.IDENTITY_TOKEN
    assert without.input_ids[0, :5].tolist() == [49406, 320, 2368, 49407, 0]
    assert with_face.count == without.count == 2


@pytest.mark.parametrize(
    "text",
    [
        "portrait, studio light",
        "Un café à Zürich — l'été!",
        "AT&amp;T  &  friends\n\n x",
        "it's 100% \u4f60\u597d \U0001f642",
        "   ",
        "",
    ],
)
def test_a_plain_prompt_gives_open_clips_ids(text):
    from open_clip.tokenizer import SimpleTokenizer

    oracle = SimpleTokenizer()
    assert torch.equal(tokenize(text, with_identity=False).input_ids, oracle([text]))
    assert torch.equal(tokenize(text, with_identity=True).input_ids, oracle([prompts.PREFIX + text]))


def test_a_long_prompt_is_cut_as_in_the_release_and_says_what_was_cut():
    from open_clip.tokenizer import SimpleTokenizer

    text = "red blue green " * 30 + "unicorn"
    tokenized = tokenize(text, with_identity=True)
    assert torch.equal(tokenized.input_ids, SimpleTokenizer()([prompts.PREFIX + text]))
    assert tokenized.input_ids[0, -1] == 49407
    assert tokenized.count == 91
    assert tokenized.cut.endswith("unicorn")
    kept = 75 - 6
    assert len(tokenized.cut.split()) == 91 - kept


def test_chunks_keep_the_whole_prompt_and_carry_the_prefix_each():
    text = "red blue green " * 30 + "unicorn"
    tokenized = tokenize(text, with_identity=True, long_prompts="chunk")
    assert tokenized.input_ids.shape == (2, 77)
    assert tokenized.cut == ""
    assert tokenized.input_ids[:, IDENTITY_POSITION].tolist() == [1014, 1014]
    words = [i for row in tokenized.input_ids.tolist() for i in row[7:] if i not in (0, 49407)]
    assert words == tokenize(text, with_identity=False, long_prompts="chunk").input_ids.flatten().tolist()[1:76] + words[75:]
    assert len(words) == 91


def test_ten_thousand_words_are_tokenized_and_reported():
    tokenized = tokenize("word " * 10_000, with_identity=True)
    assert tokenized.input_ids.shape == (1, 77)
    assert tokenized.count == 10_000
    assert len(tokenized.cut.split()) == 10_000 - 69


def test_emoji_only_prompt_is_a_prompt():
    tokenized = tokenize("\U0001f642\U0001f389\U0001f984", with_identity=False)
    assert tokenized.count > 0
    assert tokenized.cut == ""


def test_unknown_mode_is_refused_by_name():
    with pytest.raises(ValueError, match="'cut' or 'chunk'"):
        tokenize("a", with_identity=False, long_prompts="fold")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("a (cat)", [("a ", 1.0), ("cat", 1.1)]),
        ("((cat))", [("cat", 1.1 * 1.1)]),
        ("a (cat:1.3) b", [("a ", 1.0), ("cat", 1.3), (" b", 1.0)]),
        ("(big (cat:1.5) sat)", [("big ", 1.1), ("cat", 1.5), (" sat", 1.1)]),
        (r"a \(cat\)", [("a (cat)", 1.0)]),
        ("(cat:.5)", [("cat", 0.5)]),
        ("(cat:-1)", [("cat", -1.0)]),
        ("(ratio 16:9 x)", [("ratio 16:9 x", 1.1)]),
        ("smile :) and (", [("smile :) and (", 1.0)]),
        ("", []),
    ],
)
def test_weights(text, expected):
    found = parse_weights(text)
    assert [part for part, _ in found] == [part for part, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize("text", ["a (b (c:1.2) d) e", "((a)) (b:0.7), c", r"x \(y\) (z)", "(a:1.5)(b)(c:2)", "(((deep:0.1)))"])
def test_weights_are_comfyuis(comfy, text):
    import importlib

    sd1_clip = importlib.import_module("comfy.sd1_clip")
    expected = sd1_clip.token_weights(sd1_clip.escape_important(text), 1.0)
    expected = [(sd1_clip.unescape_important(part), weight) for part, weight in expected if part]
    found = parse_weights(text)
    assert [part for part, _ in found] == [part for part, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


def test_weights_land_on_their_tokens_and_nowhere_else():
    tokenized = tokenize("a (cat:1.5) sat", with_identity=True)
    plain = tokenize("a cat sat", with_identity=True)
    assert torch.equal(tokenized.input_ids, plain.input_ids)
    position = plain.input_ids[0].tolist().index(2368)
    assert tokenized.weights[0, position] == 1.5
    assert (tokenized.weights != 1).sum() == 1
    assert tokenized.weighted
    assert not plain.weighted


def test_brackets_nested_a_thousand_deep_meet_no_recursion_limit():
    text = "(" * 3000 + "a" + ")" * 3000
    assert [part for part, _ in parse_weights(text)] == ["a"]
