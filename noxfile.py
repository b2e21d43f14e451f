"""What a developer and the CI run. Every session makes its own virtual environment and installs what it needs."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "docs", "tests", "wheel"]
nox.options.reuse_existing_virtualenvs = True

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = ["3.11", "3.12", "3.13"]
ONE_SERVER = "valkey9"  # the differences between servers are the business of `tests`
TOGETHER = ("-n", "3", "--dist", "loadscope")
TRANSPORT_PARTS = ("storm", "fork", "clients", "closing", "heartbeats", "signals", "gevent")
TRANSPORT = [f"tests/transport/test_{name}.py" for name in TRANSPORT_PARTS]
REDIS_PY = ["5.3.1", "6.4.0", "7.4.1"]  # the newest is what every other session runs


def group(name: str) -> list[str]:
    return nox.project.dependency_groups(PROJECT, name)


@nox.session
def demo(session: nox.Session) -> None:
    """See the library do its job, on an embedded server, without a network."""
    session.install(".[openai,embedded]")
    session.run("python", "-m", "ractogateway", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite, against every server at hand."""
    session.install(".[all]", *group("tests"))
    session.run("pytest", *(session.posargs or TOGETHER))


@nox.session
def faults(session: nox.Session) -> None:
    """Everything that breaks things on purpose, in its long form and on every server; writes FAULTS.md."""
    session.install(".[all]", *group("tests"))
    session.run("pytest", *TOGETHER, "tests", "-m", "cell", "-q", "--faults-report=FAULTS.md", *session.posargs)


@nox.session(python=PYTHONS)
def pythons(session: nox.Session) -> None:
    """The suite's core on every supported Python."""
    session.install(".[all]", *group("tests"))
    session.run("pytest", *TOGETHER, "tests/unit", "tests/kits", "-q", *session.posargs)
    session.run("pytest", *TOGETHER, "tests/contract", "-k", ONE_SERVER, "-q", *session.posargs)
    session.run("pytest", *TOGETHER, *TRANSPORT, "-q", *session.posargs)


@nox.session
@nox.parametrize("version", REDIS_PY)
def redis_py(session: nox.Session, version: str) -> None:
    """What touches Redis, on every supported major release of redis-py."""
    session.install(".[all]", f"redis[hiredis]=={version}", *group("tests"))
    session.run("pytest", *TOGETHER, "tests/contract", "-k", ONE_SERVER, "-q", *session.posargs)
    session.run("pytest", *TOGETHER, *TRANSPORT, "-q", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and the rule that layers import downward only."""
    session.install("-e", ".[all]", *group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Two type checkers: mypy over the code, pyright over the public API as users see it, both over all examples."""
    session.install("-e", ".[all]", *group("types"))
    session.run("mypy")
    session.run("mypy", "tests/typing")
    session.run("pyright")
    with tempfile.TemporaryDirectory() as blocks:  # not in .nox: pyright looks into no folder of such a name
        session.run("python", "tests/typed_blocks.py", blocks)
        session.run("mypy", "docs/examples", blocks)
        session.run("pyright", "docs/examples", blocks)


@nox.session(reuse_venv=False)
def wheel(session: nox.Session) -> None:
    """Build the wheel, and use it with the source out of reach."""
    session.install("build")
    output = Path(session.create_tmp()).resolve() / "dist"
    session.run("python", "-m", "build", "--outdir", str(output), silent=True)
    (built,) = output.glob("*.whl")
    smoke_test = Path("tests", "smoke.py").resolve()
    session.run("pip", "install", "--quiet", "--force-reinstall", "--no-deps", str(built))
    session.install("pydantic", "anyio")
    with session.chdir(session.create_tmp()):
        session.run("python", "-I", str(smoke_test), "bare")
        session.install(f"{built}[openai,anthropic,google,embedded]")
        session.run("python", "-I", str(smoke_test), "full")


@nox.session(reuse_venv=False)
def release(session: nox.Session) -> None:
    """What is published, in ``dist/``: wheel, source distribution, and a bill of materials of all that the wheel needs.

    The bill (CycloneDX) names the releases that were current when it was made, which are those that were tested.
    """
    session.install("build", "cyclonedx-bom>=7")
    output = Path("dist").resolve()
    shutil.rmtree(output, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(output), silent=True)
    (wheel,) = output.glob("*.whl")
    # An environment that holds nothing but the wheel and what it needs: not even pip.
    users = Path(session.create_tmp()).resolve() / "users"
    session.run("python", "-m", "venv", "--clear", "--without-pip", str(users))
    python = str(users / "bin" / "python")
    session.run("python", "-m", "pip", "--python", python, "install", "--quiet", f"{wheel}[all]")
    bill = output / f"{PROJECT['project']['name']}-{PROJECT['project']['version']}.cdx.json"
    about = ("--pyproject", "pyproject.toml", "--mc-type", "library", "--output-reproducible")
    session.run("cyclonedx-py", "environment", *about, "--validate", "--output-file", str(bill), python)


@nox.session(reuse_venv=False)
def audit(session: nox.Session) -> None:
    """Known vulnerabilities in what users install with all extras. Asks the package index's advisory service.

    A package that the service cannot tell of fails the session: silence is not an all-clear.
    """
    session.install(".[all]")
    installed = session.run("pip", "freeze", "--exclude", "ractogateway", silent=True)
    frozen = Path(session.create_tmp()).resolve() / "requirements.txt"
    frozen.write_text(str(installed))
    session.install("pip-audit>=2.7")
    session.run("pip-audit", "--strict", "--disable-pip", "--no-deps", "--requirement", str(frozen), *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """An hour of traffic in four minutes: does anything grow?"""
    session.install(".[all]", *group("tests"))
    session.run("pytest", "tests/test_soak.py", "-m", "slow or not slow", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site, in `site/`; a link that leads nowhere is an error. `-- serve` shows it instead."""
    session.install(*group("docs"))
    session.run("mkdocs", *(session.posargs or ["build", "--strict"]), env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def bench(session: nox.Session) -> None:
    """Timings beside those of peers, in one run; `-- transport limiter`, `-- --quick`, `-- report`. No gate."""
    session.install("-e", ".[all]", *group("bench"))
    session.run("python", "benchmarks", *session.posargs)
