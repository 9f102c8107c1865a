"""The README's commands and snippets run as they stand there, in their order."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    found = BLOCK.findall(README.read_text(encoding="utf-8"))
    return [(language, body) for language, body in found if "scripts/" not in body]


def shortened(text: str, sentence: str, margin: int = 60_000) -> str:
    """The part of the text around a sentence: what the README asks of a million tokens, in test time."""
    place = text.index(sentence)
    return text[max(0, place - margin) : place + margin]


@pytest.mark.timeout(600)
def test_commands_and_snippets_run(tmp_path: Path) -> None:
    languages = [language for language, _ in blocks()]
    expected = ["bash", "python", "python", "bash"]
    assert languages == expected, "a block was added or lost: does this test still run them all?"
    folder = str(Path(sys.executable).parent)
    for language, body in blocks():
        pieces = body.strip().splitlines() if language == "bash" else [body]
        for piece in pieces:
            command = ["bash", "-c", piece] if language == "bash" else [sys.executable, "-c", piece]
            environment = {"PATH": f"{folder}:/usr/bin:/bin", "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"]}
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
            assert done.returncode == 0, f"{piece}\n{done.stdout}\n{done.stderr}"
            if " sample " in piece:
                path = tmp_path / "bible.txt"
                path.write_text(shortened(path.read_text(), "magic numbers for heron"))
            if " ask " in piece:
                assert "48213" in done.stdout, done.stdout
    assert (tmp_path / "certainty.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (tmp_path / "report.html").read_text().lower()


def test_map_names_what_is_there() -> None:
    tree = README.read_text(encoding="utf-8").partition("## The map of the house")[2].partition("```")[2]
    for name in re.findall(r"^(\w+)/", tree, re.MULTILINE):
        assert (README.parent / name).is_dir(), name
