"""The example applications as their users run them: a process of its own, on a real port."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from servers import _free_port, wait_until

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"
_PYTHON = (sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-W", "error::RuntimeWarning")
_START_SECONDS = 60.0

COMMANDS: dict[str, Callable[[int], list[str]]] = {
    "fastapi": lambda port: ["-m", "uvicorn", "fastapi_app:app", "--port", f"{port}", "--log-level", "warning"],
    "aiohttp": lambda port: ["aiohttp_app.py", f"{port}"],
}


class WebApp:
    """One application, started when it is made; ``client`` speaks to it."""

    def __init__(self, name: str, settings: dict[str, str]) -> None:
        self._name = name
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "CHAT_"))}
        self._environment = {**inherited, **settings}
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in `close`
        self._start()

    def _start(self) -> None:
        for _ in range(3):  # another process may take the port before this one does
            port = _free_port()
            self._process = subprocess.Popen(
                [*_PYTHON, *COMMANDS[self._name](port)],
                cwd=EXAMPLES,
                env=self._environment,
                stdout=self._output,
                stderr=subprocess.STDOUT,
            )
            # Without the environment's proxies, which know nothing of this machine's ports.
            self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30.0, trust_env=False)
            wait_until(
                lambda: self._process.poll() is not None or self._answers(),
                timeout_seconds=_START_SECONDS,
                what="the application",
            )
            if self._process.poll() is None:
                return
            self.client.close()
            said = self.output
            self._output.truncate(0)
        raise AssertionError(said)

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.client.get("/").status_code == 404
        return False

    def restart(self) -> None:
        """End it as a deployment does, and start another one."""
        self._end()
        self._start()

    def _end(self) -> None:
        self.client.close()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=30.0)

    @property
    def output(self) -> str:
        """What it has written so far, to either stream."""
        file = self._output.fileno()  # read past its position, which the process shares: it writes there
        return os.pread(file, os.fstat(file).st_size, 0).decode()

    def close(self) -> None:
        with contextlib.closing(self._output):
            try:
                self._end()
            finally:
                self._process.kill()
                self._process.wait()
            assert "Warning" not in self.output
            assert "Traceback" not in self.output, self.output


@contextlib.contextmanager
def running(name: str, settings: dict[str, str]) -> Iterator[WebApp]:
    """An application as long as the block."""
    app = WebApp(name, settings)
    try:
        yield app
    finally:
        app.close()
