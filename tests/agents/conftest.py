"""Makes `small` importable, here and in the processes that tests start; the command line in this process."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """`python -m agents.train ...` in this process: `(exit code, stdout, stderr)`; code 0 when it just returned."""
    from agents.train import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err if not isinstance(code, str) else err + code

    return call
