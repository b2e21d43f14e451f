"""Every program of README and documentation as a file, for type checkers: ``python tests/typed_blocks.py FOLDER``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from code_blocks import programs

ROOT = Path(__file__).parent.parent


def write_programs(folder: Path) -> None:
    """Each in a file that is named after its page and line."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for block in programs(page):
            place = f"{page.relative_to(ROOT).with_suffix('')} line {block.line}"
            (folder / f"{re.sub(r'[^A-Za-z0-9]', '_', place)}.py").write_text(block.code, encoding="utf-8")


if __name__ == "__main__":
    write_programs(Path(sys.argv[1]))
