"""The page of ``asgd.compare`` in a real browser: what is drawn, and what its controls change."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from asgd import results
from asgd.compare.collect import collect

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
content = pytest.importorskip("asgd.compare.page", reason="plotly is not installed").content
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed")

ALONE = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage")


@pytest.fixture(scope="module")
def page(swept, tmp_path_factory) -> Path:
    """Of the sweep; one of its runs, workers=2 topology=sync seed=2, was killed."""
    place = shutil.copytree(swept / "outputs/sweeps/one", tmp_path_factory.mktemp("page") / "runs")
    (place / "7/summary.json").unlink()
    for path in (place / "7").rglob("*"):
        os.utime(path, (1e9, 1e9))
    page = place / "comparison/comparison.html"
    page.parent.mkdir()
    page.write_text(content(collect([str(place)], target=0.25), "updates", page.parent))
    return page


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in (*ALONE, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Opened:
    """The page in the browser."""

    def __init__(self, browser, page: Path):
        self.browser = browser
        browser.get(page.as_uri())

    def ask(self, script: str, *given):
        return self.browser.execute_script(f"return {script}", *given)

    def choose(self, control: str, text: str) -> None:
        """An entry of a list, by its text."""
        script = "const [id, text] = arguments, list = document.getElementById(id);"
        script += "list.value = [...list.options].find(option => option.text === text).value;"
        self.browser.execute_script(script + "list.dispatchEvent(new Event('change'));", control, text)

    def press(self, selector: str, text: str = "") -> None:
        script = "[...document.querySelectorAll(arguments[0])].find(each => each.textContent.includes(arguments[1]))"
        self.browser.execute_script(f"{script}.click()", selector, text)

    def write(self, control: str, text: str, event: str) -> None:
        script = "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
        self.browser.execute_script(script + "field.dispatchEvent(new Event(arguments[2]));", control, text, event)

    def lines(self, plot: str) -> dict[str, list]:
        """name -> [x, y] of the curves that have one, as they are drawn."""
        found = self.ask("document.getElementById(arguments[0]).data.map(({name, x, y}) => [name, x, y])", plot)
        return {name: [x, y] for name, x, y in found if name}

    def legend(self) -> dict[str, bool]:
        script = "[...document.querySelectorAll('#legend button')].map(each => [each.textContent.trim(), "
        return dict(self.ask(script + "each.getAttribute('aria-pressed') === 'true'])"))

    def count(self, selector: str) -> int:
        return self.ask("document.querySelectorAll(arguments[0]).length", selector)

    def rows(self, column: int) -> list[str]:
        script = "[...document.querySelectorAll('#table tbody tr')].map(row => row.cells[arguments[0]].textContent)"
        return self.ask(script, column)

    def title(self, plot: str) -> str:
        return self.ask("document.querySelector(`#${arguments[0]} .xtitle`).textContent", plot)


def test_every_plot_is_drawn_without_a_network(browser, page):
    opened = Opened(browser, page)
    for plot in ("loss", "accuracy"):  # a mean for each group, and the run that was killed
        assert opened.count(f"#{plot} path.js-line") >= 5
    marks = {"staleness": "path.js-line", "throughput": "path.js-line", "reach": ".bars path", "work": ".bars path"}
    for plot, mark in (marks | {"map": "image"}).items():
        assert opened.count(f"#{plot} {mark}"), plot
    assert opened.legend() == {
        "workers=1, topology=async (n=2)": True,
        "workers=1, topology=sync (n=2)": True,
        "workers=2, topology=async (n=2)": True,
        "workers=2, topology=sync (n=1, 1 killed)": True,
    }
    sent = [json.loads(each["message"])["message"] for each in browser.get_log("performance")]
    sent = [each["params"] for each in sent if each["method"] == "Network.requestWillBeSent"]
    wanted = [each["request"]["url"] for each in sent if each["documentURL"] == page.as_uri()]
    assert page.as_uri() in wanted and not [url for url in wanted if not url.startswith(("file:", "data:", "blob:"))]
    assert [each for each in browser.get_log("browser") if each["level"] == "SEVERE"] == []


def test_curves_are_the_means_and_intervals_of_asgd_results_on_every_axis(browser, page):
    opened, found = Opened(browser, page), collect([page.parents[1]])
    whole = found.runs[found.runs.state == "budget"]
    curves = found.curves.merge(whole[["folder", "workers", "topology"]])
    for x, choice in {"updates": "updates", "samples": "samples", "seconds": "virtual seconds"}.items():
        opened.choose("x", choice)
        assert opened.title("loss") == choice == opened.title("accuracy")
        assert opened.title("reach") == f"{choice} to 0.25"
        drawn = opened.lines("loss")
        means = results.mean(curves, ["workers", "topology"], x).groupby(["workers", "topology"])
        for (workers, topology), mean in means:
            line = drawn[f"workers={workers}, topology={topology}"]
            np.testing.assert_allclose(line[0], mean[x], rtol=1e-4)
            np.testing.assert_allclose(line[1], mean.loss, rtol=1e-4)
    highs = opened.ask("document.getElementById('loss').data[1].y")
    first = results.mean(curves[(curves.workers == 1) & (curves.topology == "async")], [], "seconds")
    np.testing.assert_allclose(highs, first.high, rtol=1e-3)


def test_grouping_changes_what_is_averaged(browser, page):
    opened = Opened(browser, page)
    opened.choose("group", "topology")
    assert list(opened.legend()) == ["topology=async (n=4)", "topology=sync (n=3, 1 killed)"]
    assert set(opened.lines("staleness")) == {"topology=async", "topology=sync"}
    opened.choose("group", "each run")
    assert len(opened.legend()) == 8 and "workers=1, topology=async, seed=1 (n=1)" in opened.legend()


def test_runs_are_hidden_and_shown(browser, page):
    opened = Opened(browser, page)
    before = opened.lines("loss")
    opened.press("#legend button", "workers=1, topology=async")
    after = opened.lines("loss")
    assert set(before) - set(after) == {"workers=1, topology=async"}
    assert opened.legend()["workers=1, topology=async (n=2)"] is False
    assert opened.ask("document.getElementById('shown').textContent") == "6 of 8 runs shown"
    opened.press("#legend button", "workers=1, topology=async")
    assert opened.lines("loss") == before
    opened.write("find", "topology=sync seed=1", "input")
    assert opened.count("#table tbody input:checked") == 2
    assert set(opened.lines("loss")) == {"workers=1, topology=sync", "workers=2, topology=sync"}
    opened.press("#hide-all")
    assert opened.ask("document.getElementById('loss').textContent") == "All runs are hidden."
    opened.press("#table tbody input")  # of the best run
    assert len(opened.lines("loss")) == 1 and sum(opened.legend().values()) == 1


def test_the_table_is_sorted_and_the_target_can_be_changed(browser, page):
    opened, found = Opened(browser, page), collect([page.parents[1]])
    assert opened.rows(3) == list(map(str, found.runs.seed))
    opened.press("#table th button", "workers")
    assert opened.rows(1) == ["1"] * 4 + ["2"] * 4
    opened.press("#table th button", "workers")
    assert opened.rows(1) == ["2"] * 4 + ["1"] * 4
    assert opened.ask("document.querySelector('th[aria-sort=descending]').textContent") == "workers"
    opened.write("target", "0.99", "change")
    labels = opened.ask("document.getElementById('reach').data[0].y")
    assert len(labels) == 4 and all(label.endswith("0 of 2 reached it") for label in labels)
