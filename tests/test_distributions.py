"""What is published: the wheel and the source distribution hold what they should, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest

pytest.importorskip("hatchling", reason="builds the distributions")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME = f"{PROJECT['name']}-{PROJECT['version']}"
KINDS = {".jsonl", ".lua", ".py", ".txt", ".typed"}
"""Kinds of files that the package is made of."""

PRIVATE = re.compile(rb"/(?:home|root|tmp|work|Users)/[\w.-]|" + re.escape(str(ROOT).encode()))
"""Paths of the machine on which it was built."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both of them, built with a stray file of every bad kind in the way."""
    output = tmp_path_factory.mktemp("dist")
    with strays():
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(output)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    return output


@contextmanager
def strays() -> Iterator[None]:
    """Caches, as every run of the tests leaves them behind."""
    caches = [ROOT / "ractogateway" / "__pycache__" / "stray.cpython-311.pyc", ROOT / ".coverage.stray"]
    for cache in caches:
        cache.parent.mkdir(exist_ok=True)
        cache.write_bytes(b"")
    try:
        yield
    finally:
        for cache in caches:
            cache.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def wheel(built: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as opened:
        yield opened


def package_files() -> set[str]:
    """The package as it is in the source tree."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "ractogateway").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_is_the_package_and_its_metadata(wheel):
    names = set(wheel.namelist())
    metadata = {f"{NAME}.dist-info/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    assert names == package_files() | metadata | {f"{NAME}.dist-info/licenses/LICENSE"}


def test_the_package_is_made_of_known_kinds_of_files():
    assert {PurePosixPath(name).suffix for name in package_files()} == KINDS
    assert "ractogateway/py.typed" in package_files()
    assert sum(name.endswith(".lua") for name in package_files()) > 20


def test_no_path_of_the_building_machine(wheel):
    assert [name for name in wheel.namelist() if PRIVATE.search(wheel.read(name))] == []


def test_the_metadata_says_what_the_project_says(wheel):
    metadata = Parser().parsestr(wheel.read(f"{NAME}.dist-info/METADATA").decode())
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    without_extra = {line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    assert without_extra == set(PROJECT["dependencies"])
    assert metadata["License-Expression"] == "Apache-2.0"


def test_the_source_distribution(built):
    with tarfile.open(built / f"{NAME}.tar.gz") as opened:
        names = {name.removeprefix(f"{NAME}/") for name in opened.getnames()}
    assert package_files() <= names
    tops = {name.partition("/")[0] for name in names}
    files = {"PKG-INFO", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "FAULTS.md", "SECURITY.md"}
    files |= {"mkdocs.yml", "noxfile.py"}
    assert tops == files | {".gitignore", "ractogateway", "tests", "benchmarks", "docs"}
    assert not [name for name in names if re.search(r"__pycache__|\.py[co]$|/\.\w|\.coverage|\.orig$|\.rej$|~$", name)]
