"""What the doctor finds out about permissions: with a user who may look them up, and with the least that is needed."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
import redis
from servers import FACTORIES

from ractogateway.redis.doctor import TOOLS, check
from ractogateway.redis.doctor.access import COMMANDS, pattern

SECURITY = (Path(__file__).parents[2] / "SECURITY.md").read_text()
RULES = {user: rule.split() for user, rule in re.findall(r"^ACL SETUSER (\w+) on >\w+ (.+)$", SECURITY, re.MULTILINE)}


@pytest.fixture(params=FACTORIES)
def users(request, servers):
    """A server without any users of ours."""
    if request.param not in servers.known or not servers[request.param].owned:
        pytest.skip(f"needs a {request.param} of its own")
    server = servers[request.param]
    server.flush()
    yield server
    server.command("ACL", "DELUSER", *RULES)


def examine(url, **settings):
    return asyncio.run(check(url, **settings))


def allow(server, tool, rule):
    server.command("ACL", "SETUSER", tool, "reset", "on", ">secret", *rule)
    return server.url.replace("redis://", f"redis://{tool}:secret@")


def lacking(report):
    """The words that it says are lacking."""
    (text,) = [one.text for one in report.findings if one.check == "access" and one.level != "ok"] or [""]
    return set(re.findall(r"[+~]\S+", text))


def test_it_knows_the_documented_rules():
    for tool, rule in RULES.items():
        assert rule[:2] == [f"~{TOOLS[tool]}:*", "-@all"]
        assert set(COMMANDS[tool]) == {word.removeprefix("+") for word in rule[2:]}


@pytest.mark.parametrize("tool", TOOLS)
def test_every_missing_word_is_named(users, tool):
    rule = RULES[tool]
    for spared in [None, *rule]:
        if spared == "-@all":
            continue
        allow(users, tool, [word for word in rule if word != spared])
        report = examine(users.url, tools={tool: TOOLS[tool]}, user=tool)
        assert lacking(report) == ({spared} if spared else set()), report.as_text()
        assert (report.level == "problem") == bool(spared)
        assert not any(one.check == "trial" for one in report.findings)


@pytest.mark.parametrize("tool", TOOLS)
def test_the_least_user_is_told_what_can_be_told(users, tool):
    """It may look nothing up. The trial tells whether it may do what it must."""
    rule, tools = RULES[tool], {tool: TOOLS[tool]}
    report = examine(allow(users, tool, rule), tools=tools)
    assert report.exit_code == 0, report.as_text()
    assert {one.check for one in report.findings if one.level == "ok"} >= {"trial", "round trip", "clock"}
    report = examine(allow(users, tool, [word for word in rule if word != "+zadd"]), tools=tools)
    if tool == "memory":  # its index of users only
        assert report.exit_code == 0
        return
    assert report.exit_code == 3
    assert report.findings[-1].text.startswith(f"the {tool} does not work: the ACL")


def test_push_takes_more_than_the_rule(users):
    url = allow(users, "cache", RULES["cache"])
    (tracking,) = [one for one in examine(url, tools={"cache": TOOLS["cache"]}).findings if one.check == "tracking"]
    assert (tracking.level, "+client|tracking" in tracking.advice) == ("note", True)


def test_another_prefix_and_another_database(users):
    allow(users, "limiter", RULES["limiter"])
    url = users.url.removesuffix("/0") + "/3"
    report = examine(url, tools={"limiter": "a*[b]"}, user="limiter")
    words = {word for one in report.findings if one.check == "access" for word in one.advice.split()[3:]}
    assert words == {r"~a\*\[b\]:*", "+select"}
    users.command("ACL", "SETUSER", "limiter", *words)
    assert lacking(examine(url, tools={"limiter": "a*[b]"}, user="limiter")) == set()
    with redis.Redis.from_url(users.url, username="limiter", password="secret") as client:
        assert client.get("a*[b]:x") is None
        with pytest.raises(redis.ResponseError):
            client.get("axb:x")


def test_a_user_who_is_not_there(any_server):
    report = examine(any_server.url, user="nobody at all")
    assert [one.level for one in report.findings if one.check == "access"] == ["warning"]


def test_glob_characters_stand_for_themselves():
    assert pattern(r"a*b?c[d]e\f") == r"a\*b\?c\[d\]e\\f"
