"""The page in headless Chromium, before a real server with the shipped policies."""

from __future__ import annotations

import io
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from policy import save_policy
from service.protocol import encode_array
from tests.policies import random_policy
from tests.service.process import Process, served
from tests.service.web.browser import chromium, contrasts, opened

pytestmark = pytest.mark.slow

POLICIES = Path(__file__).parents[3] / "deploy" / "policies"
KEY = "open-sesame"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    with served("--model", str(POLICIES)) as running:
        running.wait_for("ready: ")
        yield running


@pytest.fixture(scope="module")
def url(server: Process) -> str:
    return f"http://127.0.0.1:{server.port}/"


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    """The page, which must not have complained of anything by the end of the test."""
    with opened(browser, url, viewport={"width": 1200, "height": 900}) as (page, faults):
        yield page
    assert faults == []


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """POST /act, past the page."""
    request = urllib.request.Request(url + "act", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        reply: dict[str, Any] = json.load(response)
        return reply


def get(url: str, path: str) -> Any:
    with urllib.request.urlopen(url + path, timeout=30) as response:
        return json.load(response)


def shown_action(page: Any) -> list[str]:
    return page.locator("#action .value").all_inner_texts()


def drawn(page: Any, coordinate: str) -> list[float]:
    """Where the candidates are, in pixels, the best of them last."""
    read = f"all => all.map((c) => +c.getAttribute('{coordinate}'))"
    values: list[float] = page.locator(".candidate").evaluate_all(read)
    return values


def send(page: Any) -> None:
    page.click("#send")
    page.wait_for_selector("#send:not([aria-busy])")


def test_card_says_who_is_served(page: Any, url: str) -> None:
    model = get(url, "models")["models"][0]
    assert page.inner_text("h1") == model["name"]
    assert page.inner_text("#headline") == f"{100 * model['headline']['success']:.1f}%"
    card = page.inner_text("#card")
    headline = model["headline"]
    for words in (
        model["engine"],
        f"{model['obs_dim']} numbers",
        f"{100 * headline['low']:.1f} to {100 * headline['high']:.1f}",
        f"{headline['episodes']} episodes at {headline['num_candidates']} × {headline['num_steps']}",
        model["version"][:12],
    ):
        assert words in card
    assert page.inner_text("#state") == "ready"
    page.click("summary:has-text('Where it comes from')")
    assert model["provenance"]["dataset_sha256"] in page.inner_text("#card")


def test_nothing_comes_from_elsewhere(browser: Any, url: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.wait_for_selector(".cell")
    context.close()
    assert len(asked) > 10
    assert [address for address in asked if not address.startswith(url)] == []


def test_frontier_is_the_policys(page: Any, url: str) -> None:
    for model in get(url, "models")["models"]:
        page.select_option("#model", model["name"])
        frontier = model["frontier"]
        labels = page.locator(".cell").evaluate_all("cells => cells.map(cell => cell.getAttribute('aria-label'))")
        figures = sorted(re.match(r"(\d+) candidates, (\d+) steps: (\d+)", label).groups() for label in labels)
        assert figures == sorted(
            (str(c["num_candidates"]), str(c["num_steps"]), f"{100 * c['success']:.0f}") for c in frontier
        )
        cost = get(url, "stats")["models"][model["name"]]["cost_ms"]

        def ms(cell: dict[str, Any], cost: dict[str, float] = cost) -> float:
            each = cost["candidate"] + cell["num_steps"] * cost["step"]
            return cost["request"] + cell["num_candidates"] * each

        def beaten(cell: dict[str, Any], cells: list[dict[str, Any]] = frontier) -> bool:
            return any(ms(c) <= ms(cell) and c["success"] >= cell["success"] for c in cells if c is not cell)

        best = page.locator(".cell.best").evaluate_all("cells => cells.map(cell => cell.getAttribute('aria-label'))")
        expected = {f"{c['num_candidates']} candidates, {c['num_steps']} steps" for c in frontier if not beaten(c)}
        assert {label.split(":")[0] for label in best} == expected


def test_budgets_that_a_cheaper_one_equals_or_beats_are_marked(page: Any, url: str) -> None:
    page.select_option("#model", "scene")
    frontier = get(url, "models/scene")["frontier"]
    dominated = {(c["num_candidates"], c["num_steps"]) for c in frontier if c["dominated"]}
    assert 0 < len(dominated) < len(frontier)
    for kind, expected in (("dominated", True), ("best", False)):
        labels = page.locator(f".cell.{kind}").evaluate_all("all => all.map((c) => c.getAttribute('aria-label'))")
        assert [label.endswith(", dominated") for label in labels] == [expected] * len(labels)
        if kind == "dominated":
            assert {tuple(map(int, re.findall(r"\d+", label)[:2])) for label in labels} == dominated
    radii = {
        kind: page.locator(f".cell{kind} .mark").evaluate_all("all => all.map((c) => +c.getAttribute('r'))")
        for kind in (".dominated", ":not(.dominated)")
    }
    assert max(radii[".dominated"]) < min(radii[":not(.dominated)"])
    assert "Small grey dots are dominated" in page.inner_text("#frontier-advice")
    page.locator(".cell[aria-label^='64 candidates, 8 steps']").focus()
    assert page.inner_text("#frontier-readout").endswith(". Dominated: 4 × 8 measured 100\u00a0%")
    page.locator(".cell[aria-label^='4 candidates, 8 steps']").focus()
    assert "ominated" not in page.inner_text("#frontier-readout")
    page.select_option("#model", "pointmaze-medium")
    page.locator(".cell[aria-label^='64 candidates, 4 steps']").focus()
    assert page.inner_text("#frontier-readout").endswith(". Dominated: 1 × 1 measured as well")


def test_what_the_page_says_a_request_without_a_budget_gets_is_what_it_gets(page: Any, url: str) -> None:
    for model in get(url, "models")["models"]:
        page.select_option("#model", model["name"])
        reply = ask(url, {"observation": model["observation_mean"], "model": model["name"]})
        n, m = reply["num_candidates"], reply["num_steps"]
        rates = {(c["num_candidates"], c["num_steps"]): c["success"] for c in model["frontier"]}
        assert rates[n, m] == max(rates.values())
        told = f"Leave N, M and the deadline out, and the server takes {n} × {m}, the best measured."
        assert page.inner_text("#frontier-advice").endswith(told)


def test_pointing_at_a_budget_shows_it_and_a_click_takes_it_over(page: Any, url: str) -> None:
    measured = get(url, "models")["models"][0]["frontier"][0]
    n, m = measured["num_candidates"], measured["num_steps"]
    success, low, high = (f"{100 * measured[name]:.0f}" for name in ("success", "low", "high"))
    cell = page.locator(f".cell[aria-label^='{n} candidates, {m} steps']")
    cell.locator(".mark").hover()
    told = f"N = {n}, M = {m}: {success}\u00a0%, 95\u00a0% interval {low} to {high}, {measured['episodes']} episodes"
    assert told in page.inner_text("#frontier-readout")
    cell.locator(".mark").click()
    assert page.inner_text("output[for=num_candidates]") == str(n)
    assert page.inner_text("output[for=num_steps]") == str(m)


def test_a_chunk_is_drawn_number_by_number(browser: Any, tmp_path: Path) -> None:
    limits = {"action_low": (-2.0, -1.0, 0.0), "action_high": (1.0, 1.0, 4.0)}
    policy = random_policy(3, name="chunked", action_horizon=4, control_hz=25.0, **limits)
    save_policy(policy, tmp_path / "chunked.safetensors")
    with served("--model", str(tmp_path / "chunked.safetensors")) as server:
        server.wait_for("ready: ")
        url = f"http://127.0.0.1:{server.port}/"
        with opened(browser, url, viewport={"width": 400, "height": 900}) as (page, faults):
            page.click("#random")
            send(page)
            page.wait_for_selector("#chunk")
            sent = json.loads(page.locator("#request-json").text_content())
            reply = ask(url, sent)
            paths = page.locator("#chunk .steps").evaluate_all("all => all.map((path) => path.getAttribute('d'))")
            bounds = "all => all.map((line) => +line.getAttribute('y1'))"
            lines = page.locator("#chunk line").evaluate_all(bounds)
            labels = page.locator("#chunk svg").evaluate_all("all => all.map((svg) => svg.getAttribute('aria-label'))")
            options = page.locator("#axis-0 option").all_text_contents()
            assert "4 actions, each for 40\u00a0ms" in page.inner_text("#chunk")
            assert "4 in a row, each 3 numbers" in page.inner_text("#card")
            assert page.locator(".candidate").count() == reply["num_candidates"] > 1
            assert page.evaluate("document.documentElement.scrollWidth") <= 400
            assert [entry for entry in contrasts(page) if entry[0] < 4.5] == []
        assert faults == []
    action = np.array(reply["action"])
    assert action.shape == (4, 3)
    assert len(paths) == len(labels) == 3
    for number, (low, high) in enumerate(zip(*limits.values(), strict=True)):
        bottom, top = lines[2 * number : 2 * number + 2]
        heights = [float(y) for y in re.findall(r"(?:M0 |V)([\d.]+)", paths[number])]
        drawn_values = [low + (y - bottom) / (top - bottom) * (high - low) for y in heights]
        np.testing.assert_allclose(drawn_values, action[:, number], atol=1e-6)
        spoken = [float(value) for value in labels[number].split(": ")[1].split(", ")]
        np.testing.assert_allclose(spoken, action[:, number], rtol=6e-3)
    assert options[2:-1] == [f"action {j}, tick {i}" for i in (1, 2, 3, 4) for j in (1, 2, 3)]


def test_what_is_shown_is_what_act_answers(page: Any, url: str) -> None:
    page.click("#random")
    page.fill("#seed", "18446744073709551557")  # a number that JavaScript could not hold
    page.locator(".cell[aria-label^='8 candidates, 4 steps'] .mark").click()
    send(page)
    observation = json.loads(page.input_value("#observation"))
    body = {"observation": observation, "num_candidates": 8, "num_steps": 4, "seed": "18446744073709551557"}
    reply = ask(url, {**body, "model": page.inner_text("h1"), "return_candidates": True})
    assert shown_action(page) == [f"{value:.4f}" for value in reply["action"]]
    assert page.locator(".candidate").count() == 8
    titles = page.locator(".candidate title").all_text_contents()
    ranked = [int(re.search(r"candidate (\d+)", title)[1]) for title in titles]
    assert ranked == np.argsort(reply["candidate_q"], kind="stable").tolist()
    chosen, best = page.locator(".chosen"), page.locator(".candidate").last
    assert [chosen.get_attribute(at) for at in ("cx", "cy")] == [best.get_attribute(at) for at in ("cx", "cy")]
    assert page.inner_text("#granted") == "8 × 4"


def test_principal_components_are_those_of_the_candidates(page: Any, url: str) -> None:
    page.locator(".cell[aria-label^='32 candidates, 4 steps'] .mark").click()
    send(page)
    body = {"observation": json.loads(page.input_value("#observation")), "num_candidates": 32, "num_steps": 4}
    reply = ask(url, {**body, "seed": 7, "model": page.inner_text("h1"), "return_candidates": True})
    candidates = np.array(reply["candidates"])
    centred = candidates - candidates.mean(0)
    singular = np.linalg.svd(centred, compute_uv=True)
    shares = singular.S**2 / (singular.S**2).sum()
    text = " ".join(page.locator("#reply .plot text").all_text_contents())
    assert f"component 1, {100 * shares[0]:.0f}\u00a0%" in text
    assert f"component 2, {100 * shares[1]:.0f}\u00a0%" in text
    order = np.argsort(reply["candidate_q"], kind="stable")
    for name, component in zip(("cx", "cy"), singular.Vh, strict=False):
        assert abs(np.corrcoef(drawn(page, name), (centred @ component)[order])[0, 1]) == pytest.approx(1, abs=1e-4)
    page.select_option("#axis-0", label="action 3")
    assert np.corrcoef(drawn(page, "cx"), candidates[order, 2])[0, 1] == pytest.approx(1, abs=1e-6)


def test_a_request_with_an_encoded_observation_shows_its_reply(page: Any, url: str) -> None:
    """In plain lists: the page has no json-numpy."""
    observation = json.loads(page.input_value("#observation"))
    body = {"num_candidates": 8, "num_steps": 4, "seed": 5}
    recorded = {**body, "observation": encode_array(np.array(observation, np.float32))}
    page.fill("#observation", json.dumps(recorded))
    send(page)
    reply = ask(url, {**body, "observation": observation, "model": page.inner_text("h1")})
    assert shown_action(page) == [f"{value:.4f}" for value in reply["action"]]
    assert page.locator(".candidate").count() == 8


def test_less_than_asked_says_why(page: Any) -> None:
    observation = page.input_value("#observation")
    recorded = {
        "observation": json.loads(observation),
        "num_candidates": 4096,
        "num_steps": None,
        "deadline_ms": 20_000,
    }
    page.fill("#observation", json.dumps(recorded))
    send(page)
    assert page.inner_text("#granted").endswith(", asked 4096 × ·")
    assert page.inner_text("#degraded") == "there is time, but less was measured to do better"
    page.wait_for_selector("#live-tables caption:has-text('Granted less than asked')", state="attached")


def test_errors_name_their_field(browser: Any, url: str) -> None:
    dim = get(url, "models")["models"][0]["obs_dim"]
    with opened(browser, url) as (page, faults):
        for text, field, words in (
            ("[1, 2, 3]", "observation", f"expected {dim} numbers a row"),
            ("[1, 2", "observation", "expected JSON"),
            ('{"observation": [0], "num_candidates": 100000}', "observation", f"expected {dim} numbers"),
            (f'{{"observation": {[0] * dim}, "num_candidates": 100000}}', "num_candidates", "1 to 4096"),
            (f'{{"observation": {[0] * dim}, "seed": -1}}', "seed", "0 to 2^64 - 1"),
        ):
            page.fill("#observation", text)
            send(page)
            assert words in page.inner_text("#problem")
            assert page.locator("[aria-invalid=true]").evaluate_all("all => all.map((e) => e.id)") == [field]
            assert page.evaluate("document.activeElement.id") == field
        page.click("#zeros")
        send(page)
        assert page.inner_text("#problem") == ""
        assert page.locator("[aria-invalid]").count() == 0
        assert len(shown_action(page)) == 5
    assert all("422" in fault for fault in faults)  # Chromium's own note of a response that is an error


def test_key_is_asked_for_and_kept_in_memory_only(browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORL_API_KEY", KEY)
    with served("--model", str(POLICIES / "pointmaze-medium.safetensors")) as locked:
        locked.wait_for("ready: ")
        with opened(browser, f"http://127.0.0.1:{locked.port}/") as (page, faults):
            assert not page.is_visible("#key")
            send(page)
            assert "unauthorized" in page.inner_text("#problem")
            assert page.evaluate("document.activeElement.id") == "key"
            page.keyboard.type(KEY)
            page.keyboard.press("Enter")
            page.wait_for_selector("#action")
            assert page.inner_text("#problem") == ""
            kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
            assert kept == '[{},{},""]'
            assert page.context.cookies() == []
            assert KEY not in page.url
        assert len(faults) == 1
        assert "401" in faults[0]


def test_keyboard_alone_is_enough(page: Any) -> None:
    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                style = page.evaluate(
                    "(() => { const s = getComputedStyle(document.activeElement); return s.outlineStyle; })()"
                )
                assert style != "none" or selector == ".cell"  # a point of the plot has a ring instead
                return
        raise AssertionError(f"Tab does not come to {selector}")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    tab_to("#model")
    tab_to(".cell")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator(".cell:focus .halo").evaluate("halo => getComputedStyle(halo).stroke") != "none"
    says = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert not page.evaluate("document.activeElement.matches('.cell')")  # one stop for all of the plot
    tab_to("#num_candidates")
    tab_to("#num_steps")
    n, m = re.match(r"(\d+) candidates, (\d+) steps", says).groups()
    assert [page.inner_text(f"output[for={name}]") for name in ("num_candidates", "num_steps")] == [n, m]
    page.keyboard.press("End")
    assert page.get_attribute("#num_steps", "aria-valuetext") == page.inner_text("output[for=num_steps]") == "8"
    tab_to("#send")
    page.keyboard.press("Enter")
    page.wait_for_selector("#action")
    assert page.inner_text("#granted") == f"{n} × 8"


@pytest.mark.parametrize("width", [320, 360, 768])
def test_no_width_needs_scrolling_sideways(browser: Any, url: str, width: int) -> None:
    with opened(browser, url, viewport={"width": width, "height": 780}, has_touch=True) as (page, faults):
        send(page)
        page.wait_for_selector("#action")
        for summary in page.locator("summary").all():
            summary.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        controls = page.locator("button:visible, select:visible, textarea:visible, input:visible")
        # Large enough for a finger (WCAG 2.5.8).
        assert min(control.bounding_box()["height"] for control in controls.all()) >= 24
    assert faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_readable(browser: Any, url: str, scheme: str) -> None:
    with opened(browser, url, color_scheme=scheme) as (page, faults):
        page.locator(".cell[aria-label^='32 candidates, 4 steps'] .mark").click()
        send(page)
        page.wait_for_selector("#action")
        ratios = contrasts(page)
        pixels = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))
    assert len(ratios) > 100
    assert [entry for entry in ratios if entry[0] < 4.5] == []  # AA
    assert (np.median(pixels) > 200) == (scheme == "light")
    assert pixels.max() - pixels.min() > 150
    assert faults == []


def test_motion_is_reduced_where_that_is_asked_for(browser: Any, url: str) -> None:
    found = {}
    for choice in ("reduce", "no-preference"):
        with opened(browser, url, reduced_motion=choice) as (page, _):
            found[choice] = [
                page.locator(".mark").first.evaluate("mark => getComputedStyle(mark).transitionDuration"),
                page.locator("html").evaluate("root => getComputedStyle(root).scrollBehavior"),
            ]
    assert found == {"reduce": ["0s", "auto"], "no-preference": ["0.12s", "smooth"]}


def test_polling_pauses_while_nobody_looks(browser: Any, url: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.clock.install()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/stats") else None)

    def look(hidden: bool) -> None:
        page.evaluate(
            f"Object.defineProperty(document, 'hidden', {{ value: {str(hidden).lower()}, configurable: true }})"
        )
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

    page.goto(url)
    page.wait_for_selector("#tiles dd")
    with page.expect_response("**/stats"):
        page.clock.run_for(2000)
    look(hidden=True)
    before = len(asked)
    page.clock.run_for(60_000)
    assert len(asked) == before
    with page.expect_response("**/stats"):
        look(hidden=False)
    context.close()


def test_a_server_that_is_gone_and_back(browser: Any, url: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.clock.install()
    page.goto(url)
    page.wait_for_selector("#tiles dd")
    page.route("**/stats", lambda route: route.abort())
    page.clock.run_for(2000)
    page.wait_for_selector("#unreachable:not([hidden])")
    assert page.inner_text("#state") == "unreachable"
    page.unroute("**/stats")
    page.clock.run_for(2000)
    page.wait_for_selector("#unreachable[hidden]", state="attached")
    assert page.inner_text("#state") == "ready"
    context.close()
