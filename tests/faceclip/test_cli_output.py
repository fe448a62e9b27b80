"""What the command line prints, on any system."""

import os
import subprocess
import sys


def test_names_that_the_output_has_no_letters_for_end_nothing(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    for arguments in (["detect", str(tmp_path / "\u5199\u771f.png")], ["generate", "--out", "\u5199\u771f.psd"]):
        command = [
            sys.executable,
            "-c",
            "from faceclip.cli import main; print(end=''); main(__import__('sys').argv[1:]); print('\u5199\u771f')",
        ]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment)
        assert "Traceback" not in done.stderr and "\\u5199\\u771f" in done.stderr
