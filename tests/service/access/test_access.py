"""Who is let in, and what changes while the server runs."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path

import pytest

from service.access import Access, KeySource
from service.errors import AdminDisabled, RateLimited, Unauthorized
from tests.clock import Clock
from tests.service.waiting import until

pytestmark = pytest.mark.anyio

ROBOT, MONITOR, OPERATOR = (
    f"sorl_{name}-0123456789-0123456789-0123456789" for name in ("robot", "monitor", "operator")
)


def line(name: str, *secrets: str, roles: str = '["act"]', limits: str = "") -> str:
    hashes = ", ".join(f'"{hashlib.sha256(secret.encode()).hexdigest()}"' for secret in secrets)
    return f"{name} = {{ roles = {roles}, sha256 = [{hashes}]{limits} }}\n"


KEYS = (
    line("robot", ROBOT)
    + line("monitor", MONITOR, roles='["metrics"]')
    + line("operator", OPERATOR, roles='["admin", "metrics"]')
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(KEYS)
    return path


def rewrite(file: Path, text: str) -> None:
    """By a rename, as editors and Kubernetes do."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def lets_in(access: Access, role: str, secret: str) -> bool:
    try:
        access.check(role, f"Bearer {secret}")  # type: ignore[arg-type]
    except Unauthorized:
        return False
    return True


def test_each_key_has_its_roles_and_no_other() -> None:
    access = Access(KeySource(api_key="robots", admin_key="ours", text=KEYS))
    allowed = {
        secret: {role for role in ("act", "metrics", "admin") if lets_in(access, role, secret)}
        for secret in ("robots", "ours", ROBOT, MONITOR, OPERATOR, "robot", "")
    }
    assert allowed == {
        "robots": {"act"},
        "ours": {"admin"},
        ROBOT: {"act"},
        MONITOR: {"metrics"},
        OPERATOR: {"admin", "metrics"},
        "robot": set(),
        "": set(),
    }
    assert access.check("act", f"Bearer {ROBOT}").name == "robot"
    assert access.check("act", "Bearer robots").name == "api_key"


@pytest.mark.parametrize("credential", ["Bearer {}", "bearer {}", "Api-Key {}", "API-KEY   {} "])
def test_schemes(credential: str) -> None:
    assert Access(KeySource(text=KEYS)).check("act", credential.format(ROBOT)).name == "robot"


@pytest.mark.parametrize("credential", [None, "", "{}", "Basic {}", "Bearer", "Bearer {}x", "Bearer x{}", "Bearer\t{}"])
def test_a_wrong_key_is_refused_and_not_echoed(credential: str | None) -> None:
    given = credential and credential.format(ROBOT)
    with pytest.raises(Unauthorized, match="expected 'Authorization: Bearer KEY' with this server's key") as caught:
        Access(KeySource(text=KEYS)).check("act", given)
    assert ROBOT not in str(caught.value)


def test_text_that_no_key_can_be_is_refused() -> None:
    with pytest.raises(Unauthorized):
        Access(KeySource(text=KEYS)).check("act", "Bearer \udcff\u20ac")


def test_a_short_key_is_refused_even_where_its_hash_is_listed() -> None:
    access = Access(KeySource(text=line("weak", "hunter2") + line("long", "x" * 32)))
    assert not lets_in(access, "act", "hunter2")
    assert lets_in(access, "act", "x" * 32)


def test_without_keys_act_and_metrics_are_open_and_admin_is_off() -> None:
    access = Access(KeySource())
    assert access.check("act", None).name is None
    assert access.check("metrics", "Bearer nonsense").name is None
    with pytest.raises(AdminDisabled, match="SORL_ADMIN_KEY"):
        access.check("admin", "Bearer nonsense")


def test_a_key_of_one_role_leaves_the_others_as_they_were() -> None:
    access = Access(KeySource(api_key="robots"))
    assert access.check("metrics", None).name is None
    with pytest.raises(AdminDisabled):
        access.check("admin", "Bearer robots")
    access = Access(KeySource(admin_key="ours"))
    assert access.check("act", None).name is None


def test_a_keys_file_closes_act_whatever_it_holds() -> None:
    access = Access(KeySource(text=line("monitor", MONITOR, roles='["metrics"]')))
    with pytest.raises(Unauthorized):
        access.check("act", None)


async def test_a_key_is_changed_without_a_restart(file: Path) -> None:
    new = ROBOT.replace("robot", "newer")
    access = Access(KeySource(file=file))
    await access.reload()
    rewrite(file, line("robot", ROBOT, new))
    await access.reload()
    assert access.check("act", f"Bearer {ROBOT}") is access.check("act", f"Bearer {new}")  # one name, one budget
    rewrite(file, line("robot", new))
    await access.reload()
    assert (lets_in(access, "act", ROBOT), lets_in(access, "act", new)) == (False, True)


async def test_taking_away_the_last_key_of_a_role_opens_nothing(file: Path) -> None:
    access = Access(KeySource(file=file))
    rewrite(file, "")
    await access.reload()
    for role in ("act", "metrics"):
        with pytest.raises(Unauthorized):
            access.check(role, f"Bearer {MONITOR}")  # type: ignore[arg-type]
    with pytest.raises(AdminDisabled):
        access.check("admin", f"Bearer {OPERATOR}")


@pytest.mark.parametrize("fault", ["torn", "gone"])
async def test_a_bad_file_leaves_the_keys_and_one_line_without_them(
    file: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    access = Access(KeySource(file=file))
    if fault == "torn":
        rewrite(file, KEYS[:-40])
    else:
        file.unlink()
    await access.reload()
    assert lets_in(access, "act", ROBOT)
    assert access.stale
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(f"keys not changed: {file}: ")
    assert "\n" not in record.getMessage()
    rewrite(file, KEYS)
    await access.reload()
    assert not access.stale


async def test_limits_are_spent_on_across_a_reload_until_they_change(file: Path, clock: Clock) -> None:
    def limited(access: Access) -> bool:
        try:
            access.check("act", f"Bearer {ROBOT}").spend_request()
        except RateLimited:
            return True
        return False

    rewrite(file, line("robot", ROBOT, limits=", requests_per_second = 1"))
    access = Access(KeySource(file=file), clock)
    assert [limited(access), limited(access)] == [False, True]
    rewrite(file, line("robot", ROBOT, limits=", requests_per_second = 1") + line("other", MONITOR))
    await access.reload()
    assert limited(access)
    rewrite(file, line("robot", ROBOT, limits=", requests_per_second = 2"))
    await access.reload()
    assert [limited(access) for _ in range(3)] == [False, False, True]


async def test_the_file_is_followed(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    access = Access(KeySource(file=file))
    names: list[set[str]] = []
    access.on_keys = lambda given: names.append(set(given))
    following = asyncio.ensure_future(access.follow(every=0))
    try:
        rewrite(file, line("second", MONITOR))
        await until(lambda: names == [{"second"}])
        rewrite(file, "nonsense")
        await until(lambda: access.stale)
        rewrite(file, line("third", ROBOT))
        await until(lambda: len(names) == 2 and not access.stale)
    finally:
        following.cancel()
    assert names == [{"second"}, {"third"}]
    assert len(caplog.records) == 3
    assert not any(secret in caplog.text for secret in (ROBOT, MONITOR))
