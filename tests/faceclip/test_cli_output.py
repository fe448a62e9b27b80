"""What the command line prints, on any system."""

import os
import subprocess
import sys

import pytest


@pytest.mark.program
def test_names_that_the_output_has_no_letters_for_end_nothing(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    lines = (["detect", str(tmp_path / "\u5199\u771f.png")], ["generate", "--out", "\u5199\u771f.psd"])
    program = "import sys; from faceclip.cli import main; print(end=''); " + "; ".join(
        f"main({line!a}); print('\u5199\u771f'); print('end', file=sys.stderr)" for line in lines
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    detect, _, generate = done.stderr.partition("end\n")
    assert "\\u5199\\u771f" in detect and "\\u5199\\u771f" in generate
    assert "Traceback" not in done.stderr
