"""The blind study: pairs, order, votes that survive a crash, the result, and the page in a real Chromium."""

from __future__ import annotations

import csv
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from train.evaluate.protocol import ProtocolError
from train.study.command import main
from train.study.votes import (
    COLUMNS,
    QUESTIONS,
    Pair,
    Vote,
    VoteFile,
    find_pairs,
    fingerprint,
    order_for,
    preferences,
    read_votes,
    voter_name,
)

from .pictures import A_COLOUR, B_COLOUR, paint


def vote(voter: str, pair: int | str, choice: str, question: str = "quality", left: str = "A") -> Vote:
    return Vote("2030-01-01T00:00:00+00:00", voter, str(pair), question, left, choice)  # type: ignore[arg-type]


def test_pairs_have_one_name_in_any_format_and_know_what_to_ask(folders: Path) -> None:
    pairs = find_pairs(folders / "a", folders / "b", str(folders / "p.csv"))
    assert [pair.name for pair in pairs] == ["x/0", "x/1", "x/2", "x/3"]
    assert (pairs[0].prompt, pairs[0].reference) == ("a person in place 0", folders / "ref.png")
    assert pairs[0].questions == ["identity", "text", "quality"]
    assert pairs[3].questions == ["text", "quality"]
    assert find_pairs(folders / "a", folders / "b")[0].questions == ["quality"]


def test_folders_that_do_not_pair_are_named(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folders / "b" / "x" / "2.jpg").unlink()
    paint(folders / "b" / "x" / "9.png", B_COLOUR)
    with pytest.raises(ProtocolError, match=r"same file names: only .*a has x/2; only .*b has x/9\."):
        find_pairs(folders / "a", folders / "b")
    paint(folders / "a" / "x" / "0.jpg", A_COLOUR)
    with pytest.raises(ProtocolError, match="two pictures called x/0: 0.jpg and 0.png"):
        find_pairs(folders / "a", folders / "b")
    (folders / "a" / "x" / "0.jpg").unlink()
    (folders / "empty").mkdir()
    with pytest.raises(ProtocolError, match="empty has no picture"):
        find_pairs(folders / "a", folders / "empty")
    (folders / "short.csv").write_text("image,reference,prompt\nx/0.png,,x\n")
    with pytest.raises(ProtocolError, match="short.csv has no row for x/1, x/2, x/3"):
        find_pairs(folders / "a", folders / "a", str(folders / "short.csv"))
    assert main([str(folders / "a"), str(folders / "nowhere")]) == 1
    assert "no folder of pictures" in capsys.readouterr().err


def test_every_voter_has_an_order_and_sides_of_their_own_and_keeps_them() -> None:
    pairs = [Pair(str(number), Path("a"), Path("b")) for number in range(40)]
    ann, again, bob = order_for("ann", pairs), order_for("ann", pairs), order_for("bob", pairs)
    assert ann == again != bob
    for order in (ann, bob):
        assert sorted(pair.name for pair, _ in order) == sorted(pair.name for pair in pairs)
        assert [side for _, side in order].count("A") == 20
    sides = [{pair.name: side for pair, side in order_for(f"voter {i}", pairs)} for i in range(200)]
    assert 70 <= sum(found["0"] == "A" for found in sides) <= 130, "each pair is on either side for half of the voters"


def test_votes_are_on_the_disk_at_once_and_go_on_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "new" / "votes.csv"
    VoteFile(path).add([vote("ann, the first", 'a "b"', "A"), vote("ann, the first", "c", "same", "text")])
    VoteFile(path).add([vote("bob", "c", "B")])
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert [v.voter for v in read_votes(path)] == ["ann, the first", "ann, the first", "bob"]
    assert VoteFile(path).done("ann, the first") == {('a "b"', "quality"), ("c", "text")}


def test_a_line_cut_short_by_a_crash_is_dropped_and_the_file_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    VoteFile(path).add([vote("ann", 1, "A"), vote("ann", 2, "B")])
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])  # an editor left the line end out: the vote is whole
    assert len(read_votes(path)) == 2
    assert VoteFile(path).done("ann") == {("1", "quality"), ("2", "quality")} and path.read_bytes() == whole
    for cut in range(len(whole) - 20, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert len(read_votes(path)) == 1
        file = VoteFile(path)
        assert file.done("ann") == {("1", "quality")}
        file.add([vote("ann", 2, "B")])
        assert path.read_bytes() == whole


def test_the_last_answer_to_a_question_counts(tmp_path: Path) -> None:
    file = VoteFile(tmp_path / "votes.csv")
    file.add([vote("ann", 1, "A")])
    file.add([vote("ann", 1, "B")])
    assert [v.choice for v in read_votes(file.path)] == ["B"]


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "budget.csv"
    path.write_text("month,euros\nmay,7\n")
    with pytest.raises(ProtocolError, match="budget.csv holds no votes"):
        VoteFile(path)
    assert path.read_text() == "month,euros\nmay,7\n"
    path.write_text(",".join(COLUMNS) + "\nt,ann,1,quality,A,C\n")
    with pytest.raises(ProtocolError, match="line 2, is not a vote"):
        read_votes(path)


def test_a_name_is_a_line_of_letters_and_not_too_long() -> None:
    assert voter_name("  Ann\tB.\n\x07 ") == "Ann B."
    for name, told in (("", "enter a name"), (" \n", "enter a name"), ("z" * 140_000, "shorter name")):
        with pytest.raises(ValueError, match=told):
            voter_name(name)


def test_nothing_in_the_file_is_a_formula_to_a_spreadsheet(tmp_path: Path) -> None:
    names = ['=HYPERLINK("http://x")', "+1", "-1", "@sum", "'quoted", "'=x", "plain"]
    file = VoteFile(tmp_path / "votes.csv")
    file.add([vote(name, name, "A") for name in names])
    cells = [row[column] for row in csv.DictReader(file.path.open()) for column in ("voter", "pair")]
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    assert [found.voter for found in read_votes(file.path)] == names
    assert VoteFile(file.path).done("+1") == {("+1", "quality")}


def test_a_file_that_somebody_spoilt_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    VoteFile(path).add([vote("ann", 1, "A")])
    with path.open("a") as file:
        file.write(f"t,{'z' * 140_000},1,quality,A,A,\n")
    with pytest.raises(ProtocolError, match=r"votes\.csv, line 3, is not a vote"):
        read_votes(path)


def test_votes_are_those_of_the_folders_that_they_were_about(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, path = folders / "a", folders / "b", folders / "votes.csv"
    study = fingerprint(find_pairs(a, b))
    VoteFile(path, study).add([vote(f"v{i}", p, "A", left="AB"[p % 2]) for i in range(6) for p in range(4)])
    assert [found.study for found in read_votes(path)] == [study] * 24
    assert main([str(a), str(b), "--votes", str(path), "--report"]) == 0
    assert f"A = {a}, B = {b}: 24 votes" in capsys.readouterr().out
    assert main([str(b), str(a), "--votes", str(path), "--report"]) == 1
    assert "these folders in the other order: A was B" in capsys.readouterr().err
    paint(a / "x" / "0.png", (9, 9, 9))
    for command in (["--report"], ["--port", "1"]):
        assert main([str(a), str(b), "--votes", str(path), *command]) == 1
        assert "24 of the 24 votes" in capsys.readouterr().err


def test_votes_of_an_earlier_version_are_kept_and_say_less(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folders / "votes.csv"
    path.write_text(",".join(COLUMNS[:-1]) + "\nt,ann,0,quality,A,B\nt,ann,1,quality,A,A\n")
    assert main([str(folders / "a"), str(folders / "b"), "--votes", str(path), "--report"]) == 0
    assert "in that order; this file does not say which. 2 votes" in capsys.readouterr().out
    VoteFile(path, "x" * 33).add([vote("bob", 0, "A")])
    assert [(found.voter, found.study) for found in read_votes(path)] == [("ann", ""), ("ann", ""), ("bob", "x" * 33)]


def test_a_clear_preference_and_none() -> None:
    clear = [vote(f"v{i}", p, "A" if (i + p) % 10 else "same", left="AB"[p % 2]) for i in range(10) for p in range(10)]
    (found,) = preferences(clear)
    assert (found.a, found.b, found.same, found.verdict) == (90, 0, 10, "A")
    assert found.left == 45
    assert found.independent.mean == found.over_pairs.mean == found.over_voters.mean == 1
    even = [vote(f"v{i}", p, "AB"[(i + p) % 2]) for i in range(10) for p in range(10)]
    assert preferences(even)[0].verdict == "no difference"
    other = [replace(v, choice="B") for v in clear if v.choice == "A"]
    assert preferences(other)[0].verdict == "B"
    assert preferences([]) == []


def test_one_picture_that_everyone_likes_is_no_preference() -> None:
    # 60 votes for A, but all differences lie in three of six pairs: other pictures might say otherwise.
    votes = [vote(f"v{i}", p, "A" if p < 4 else "B") for i in range(20) for p in range(6)]
    (found,) = preferences(votes)
    assert found.independent.low > 0.5
    assert found.over_pairs.low < 0.5
    assert found.verdict == "no difference"


def test_the_report_says_what_was_voted(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folders / "votes.csv"
    command = [str(folders / "a"), str(folders / "b"), "--votes", str(path), "--report"]
    assert main(command) == 1
    assert "no votes at" in capsys.readouterr().err
    file = VoteFile(path)
    assert main(command) == 1
    assert "Nobody has voted yet" in capsys.readouterr().err
    file.add([vote(f"v{i}", p, "B" if i or p else "A", left="AB"[p % 2]) for i in range(6) for p in range(5)])
    file.add([vote("v0", p, "same", "identity") for p in range(5)])
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "35 votes of 6 voters on 5 pairs" in told
    assert f"| {QUESTIONS['quality']} | 1 | 29 | 0 | 3% [" in told
    assert f"| {QUESTIONS['identity']} | 0 | 0 | 5 | - | - | - | - | no difference |" in told
    assert "| B |" in told


def test_gradio_is_asked_for_by_name(folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("faceclip.metrics.errors.find_spec", lambda name: None)
    assert main([str(folders / "a"), str(folders / "b"), "--votes", str(folders / "votes.csv")]) == 1
    assert "pip install gradio`" in capsys.readouterr().err


@pytest.mark.program
def test_a_port_that_is_taken_is_named(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main([str(folders / "a"), str(folders / "b"), "--votes", str(folders / "votes.csv"), "--port", port]) == 1
    assert f"port {port}: choose another with --port" in capsys.readouterr().err
