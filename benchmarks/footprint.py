"""What the library costs before it does anything: import time, wheel size, memory of idle objects and connections.

    python benchmarks/footprint.py [--rounds 11]

* **import** is timed inside a fresh interpreter, around the statement alone; interpreters take turns. What it stands
  beside is what nobody who keeps models in Redis gets around: redis.asyncio, pydantic, and one model class. Byte code
  is compiled by a first round.
* **wheel** is what ``pip`` downloads for this project alone, and its files unpacked, built with hatchling.
* **idle objects** are made a thousand times in a fresh interpreter, with a URL, and used by nobody: allocated bytes
  (``tracemalloc``) each, when all of them live.
* **connections** are opened to a server, one a URL or client, and asked for one PING each: bytes each, by
  ``tracemalloc``, and by the resident set of the process (Linux), which buffers and TLS-free sockets are part of.
* **hundred tasks**: the resident set of a process after 100 tasks have sent GETs at once, less what it was with the
  client made: redis.asyncio opens a hundred connections for that, ours one.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from _load import options, server
from _results import absent, failed, record
from _rounds import compare, header, show

ROOT = Path(__file__).parent.parent
STATEMENTS = {
    "redis.asyncio + pydantic": "import redis.asyncio, pydantic; type('M', (pydantic.BaseModel,), {})",
    "ractogateway.redis": "import ractogateway.redis",
    "ractogateway": "import ractogateway",
    "ractogateway.openai_developer_kit": "import ractogateway.openai_developer_kit",
    "limits": "import limits",
    "throttled-py": "import throttled",
    "aiocache": "import aiocache",
    "cashews": "import cashews",
}
MAKERS = {
    "RedisExactCache": "RedisExactCache(url)",
    "AsyncRedisExactCache": "AsyncRedisExactCache(url)",
    "RedisRateLimiter": "RedisRateLimiter(url)",
    "AsyncRedisRateLimiter": "AsyncRedisRateLimiter(url)",
    "RedisChatMemory": "RedisChatMemory(url)",
    "AsyncRedisChatMemory": "AsyncRedisChatMemory(url)",
}
OBJECTS, CONNECTIONS = 1000, 50

TIMED = "import time; start = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"

MADE = """
import gc, tracemalloc
from ractogateway.redis import *
url = "redis://127.0.0.1:1/0"
first = {maker}
gc.collect(); tracemalloc.start(); before = tracemalloc.get_traced_memory()[0]
kept = [{maker} for _ in range({count})]
gc.collect()
print((tracemalloc.get_traced_memory()[0] - before) / {count})
"""

RESIDENT = """
import asyncio, gc, json, os, tracemalloc

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
"""

OF_REDIS = """
import redis.asyncio
def make(url, number):
    return redis.asyncio.Redis.from_url(url, max_connections=1000)
async def ask(client):
    await client.get("k")
"""

OF_OURS = """
from ractogateway.redis import RedisOptions
from ractogateway.redis.transport import TimeLimits, open_async_port, plain_call
GET = plain_call(b"GET", (b"k",), (), lambda reply: reply, replay_safe=True)
def make(url, number):
    return open_async_port(url, None, RedisOptions(max_in_flight=4096 + number), TimeLimits(9.0, 9.0))
async def ask(port):
    await port.run(GET)
"""

OPENED = """
async def main(url):
    await ask(make(url, 9999))
    gc.collect(); {start}; before = {now}
    kept = [make(url, number) for number in range({count})]
    for each in kept:
        await ask(each)
    gc.collect()
    print(({now} - before) / {count})
asyncio.run(main({url!r}))
"""

CROWDED = """
async def main(url):
    client = make(url, 0)
    await ask(client)
    gc.collect(); before = resident()
    for _ in range(20):
        await asyncio.gather(*(ask(client) for _ in range(100)))
    gc.collect()
    print(resident() - before)
asyncio.run(main({url!r}))
"""


def told(code: str) -> float:
    """The number that a fresh interpreter prints."""
    finished = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(finished.stderr.strip().splitlines()[-1])
    return float(finished.stdout)


def imports(rounds: int) -> None:
    contenders = {
        name: lambda statement=statement: told(TIMED.format(statement=statement)) * 1e3
        for name, statement in STATEMENTS.items()
    }
    show("import in a fresh interpreter", compare(contenders, rounds=rounds), "redis.asyncio + pydantic", unit="ms")


def wheel() -> None:
    try:
        from hatchling.build import build_wheel  # noqa: F401, PLC0415 - only to know
    except ImportError as missing:
        absent("hatchling", missing)
        return
    with tempfile.TemporaryDirectory() as folder:
        build = f"from hatchling.build import build_wheel; build_wheel({folder!r})"
        subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
        (built,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(built) as archive:
            unpacked = sum(file.file_size for file in archive.infolist())
            files = len(archive.infolist())
        print(f"\nwheel: {built.stat().st_size:,} bytes, {unpacked:,} unpacked, {files} files")
        record("the wheel", "ractogateway", [built.stat().st_size / 1e3], unit="KB")
        record("the wheel, unpacked", "ractogateway", [unpacked / 1e3], unit="KB")


def objects() -> None:
    print(f"\nbytes of an idle object, of {OBJECTS:,}")
    for name, maker in MAKERS.items():
        weight = told(MADE.format(maker=maker, count=OBJECTS))
        print(f"  {name:<26}{weight:10,.0f}")
        record("an idle object", name, [weight], unit="bytes")


def connections(url: str, rounds: int) -> None:
    traced = {"start": "tracemalloc.start()", "now": "tracemalloc.get_traced_memory()[0]"}
    whole = {"start": "None", "now": "resident()"}
    setups = {"redis.asyncio": OF_REDIS, "ractogateway": OF_OURS}
    for title, how in (("tracemalloc", traced), ("resident set", whole)):
        code = OPENED.format(count=CONNECTIONS, url=url, **how)
        contenders = {
            name: lambda setup=setup, code=code: told(RESIDENT + setup + code) for name, setup in setups.items()
        }
        figures = compare(contenders, rounds=min(rounds, 3))
        show(f"an open connection, {title}", figures, "redis.asyncio", unit="bytes")
    code = CROWDED.format(url=url)
    contenders = {name: lambda setup=setup: told(RESIDENT + setup + code) / 1e3 for name, setup in setups.items()}
    show("memory that 100 tasks take", compare(contenders, rounds=min(rounds, 3)), "redis.asyncio", unit="KB")


def main() -> None:
    parser = options(__doc__, rounds=11, seconds=None)
    arguments = parser.parse_args()
    print(
        header("ractogateway", "redis", "hiredis", "pydantic", "anyio", "limits", "throttled-py", "aiocache", "cashews")
    )
    parts = {
        "import": lambda: imports(arguments.rounds),
        "wheel": wheel,
        "idle objects": objects,
        "connections": lambda: connections(url, arguments.rounds),
    }
    with server(arguments.url) as url:
        for name, part in parts.items():
            try:
                part()
            except Exception as error:  # noqa: BLE001 - the other parts go on
                failed(name, error)


if __name__ == "__main__":
    main()
