"""Names, versions and their grace, under a clock that the test moves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from service.budget import Admission, Limits
from service.budget.cost_model import CostModel
from service.engine.engine import Engine
from service.errors import UnknownModel, VersionGone
from service.models.catalog import MAX_OLDER, Catalog, CatalogError
from service.models.model import Model
from tests.clock import Clock
from tests.policies import random_policy

LIMITS = Limits(max_candidates=8, max_steps=8, max_batch=8, max_returned=64, max_seconds=5.0)


def model(name: str, version: str) -> Model:
    spec = random_policy(name=name).spec
    statistics = {"observation_mean": np.zeros(spec.obs_dim), "observation_std": np.ones(spec.obs_dim)}
    engine = cast(Engine, SimpleNamespace(name="fake", **statistics))
    return Model(spec, version, engine, Admission(spec, LIMITS, CostModel()))


@pytest.fixture
def catalog(clock: Clock) -> Catalog:
    return Catalog([model("maze", "m1"), model("cube", "c1")], grace=60.0, clock=clock)


def versions(catalog: Catalog, name: str) -> list[tuple[str, float]]:
    return [(older["version"], older["seconds_left"]) for older in catalog.describe(name)["older_versions"]]


def test_the_first_in_alphabetical_order_answers_requests_without_a_name(catalog: Catalog) -> None:
    assert catalog.find(None).name == "cube"
    assert catalog.find("maze").version == "m1"
    assert [entry.name for entry in catalog] == ["cube", "maze"]
    assert [catalog.describe(name)["default"] for name in ("cube", "maze")] == [True, False]


def test_the_default_stays_when_a_name_before_it_comes(catalog: Catalog) -> None:
    catalog.install(model("arm", "a1"))
    assert catalog.find(None).name == "cube"
    assert catalog.find("arm").version == "a1"
    assert versions(catalog, "arm") == []


def test_a_default_of_ones_own(clock: Clock) -> None:
    models = [model("cube", "c1"), model("maze", "m1")]
    assert Catalog(models, default="maze", grace=0, clock=clock).find(None).name == "maze"
    with pytest.raises(CatalogError, match="default_model: 'mace' is not among cube, maze"):
        Catalog(models, default="mace", grace=0, clock=clock)


def test_unknown_names_get_the_nearest_one(catalog: Catalog) -> None:
    with pytest.raises(UnknownModel, match="did you mean 'maze'") as caught:
        catalog.find("mazes")
    assert caught.value.field == "model"
    with pytest.raises(UnknownModel):
        catalog.describe("mazes")


def test_an_older_version_is_served_for_the_grace_to_who_pins_it(catalog: Catalog, clock: Clock) -> None:
    catalog.install(model("cube", "c2"))
    assert catalog.find("cube").version == "c2"
    assert catalog.find(None, "c1").version == "c1"
    clock.now += 59.5
    assert versions(catalog, "cube") == [("c1", 0.5)]
    assert catalog.find("cube", "c1").version == "c1"
    clock.now += 0.5
    for version in ("c1", "c0"):
        with pytest.raises(VersionGone, match="'cube' is served in version c2, not") as caught:
            catalog.find("cube", version)
        assert caught.value.field == "model_version"
    assert versions(catalog, "cube") == []
    assert catalog.find("cube", "c2").version == "c2"


def test_versions_of_other_names_are_not_ones_own(catalog: Catalog) -> None:
    with pytest.raises(VersionGone):
        catalog.find("cube", "m1")


def test_expiry_lets_go_one_by_one_and_says_when_the_next_is_due(catalog: Catalog, clock: Clock) -> None:
    assert catalog.expire() is None
    catalog.install(model("cube", "c2"))
    clock.now += 20
    catalog.install(model("cube", "c3"))
    catalog.install(model("maze", "m2"))
    assert catalog.expire() == 40
    clock.now += 40
    assert catalog.expire() == 20
    assert versions(catalog, "cube") == [("c2", 20)]
    clock.now += 20
    assert catalog.expire() is None
    assert versions(catalog, "cube") == versions(catalog, "maze") == []


def test_back_to_an_older_version(catalog: Catalog, clock: Clock) -> None:
    first = catalog.find("cube")
    catalog.install(model("cube", "c2"))
    clock.now += 30
    older = catalog.older("cube", "c1")
    assert older is first
    catalog.install(older)
    assert catalog.find("cube") is first
    assert versions(catalog, "cube") == [("c2", 60)]
    clock.now += 60
    assert catalog.older("cube", "c2") is None
    assert catalog.older("nobody", "c2") is None
    assert catalog.find("cube", "c1") is first


def test_no_grace_means_gone_at_once(clock: Clock) -> None:
    catalog = Catalog([model("cube", "c1")], grace=0.0, clock=clock)
    catalog.install(model("cube", "c2"))
    with pytest.raises(VersionGone):
        catalog.find(None, "c1")
    assert catalog.expire() is None


def test_many_reloads_within_the_grace_keep_the_newest_of_the_older_versions(catalog: Catalog, clock: Clock) -> None:
    for number in range(2, 7):
        clock.now += 1
        catalog.install(model("cube", f"c{number}"))
    assert versions(catalog, "cube") == [("c4", 59), ("c5", 60)]
    assert len(versions(catalog, "cube")) == MAX_OLDER
    with pytest.raises(VersionGone):
        catalog.find("cube", "c3")
    resident = catalog.older("cube", "c4")
    assert resident is not None
    catalog.install(resident)
    assert versions(catalog, "cube") == [("c5", 60), ("c6", 60)]
    assert versions(catalog, "maze") == []


def test_description_is_plain(catalog: Catalog) -> None:
    described: dict[str, Any] = catalog.describe("cube")
    assert (described["version"], described["engine"], described["obs_dim"]) == ("c1", "fake", 11)
