"""What docs/proof publishes: its tables are what its results say, and anyone can make them again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from train.proof.command import main
from train.proof.plan import FULL, QUICK
from train.proof.report.results import collect, restore
from train.proof.report.tables import tables
from train.proof.workshop import ProofError, Workshop

PUBLISHED = Path(__file__).resolve().parents[4] / "docs" / "proof"


def test_the_published_tables_are_those_of_the_published_results(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, FULL)
    restore(shop, PUBLISHED / "results.json")
    assert tables(shop) == (PUBLISHED / "results.md").read_text()
    assert len(collect(shop).values["L3"]["knn"]) == FULL.seeds


@pytest.mark.program
def test_tables_and_plots_are_made_again_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    restored = str(PUBLISHED / "results.json")
    assert main(["--out", str(tmp_path / "runs"), "--restore", restored, "--report", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "results.md").read_bytes() == (PUBLISHED / "results.md").read_bytes()
    assert json.loads((tmp_path / "report" / "results.json").read_text()) == json.loads((PUBLISHED / "results.json").read_text())
    assert (tmp_path / "report" / "table3.png").stat().st_size > 10_000
    assert "Tables and plots are in" in capsys.readouterr().out


def test_results_of_another_plan_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = Workshop(tmp_path, QUICK)
    with pytest.raises(ProofError, match="has results of the full plan, not of the quick plan"):
        restore(shop, PUBLISHED / "results.json")
    assert main(["--quick", "--out", str(tmp_path), "--restore", str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().err


def test_results_that_are_there_stay(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, FULL)
    shop.write_result("measure/l3/0", {"knn": 0.5}, 1.0, 1.0)
    restore(shop, PUBLISHED / "results.json")
    assert collect(shop).values["L3"]["knn"][0] == 0.5
