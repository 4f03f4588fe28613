"""Browser: each notebook runs in JupyterLab in headless Chromium, and every control is moved once.

Screenshots go to test-artifacts/.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import needs
import pytest
from executed import trouble
from run_all import run_notebook

import notebooks

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / "test-artifacts"
PATHS = sorted(notebooks.NOTEBOOKS.glob("*.ipynb"))
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # keep all cells in the page
}
# What to type or choose, by the controls' labels, where not anything will do.
VALUES = {
    "receivers": "a9.h1.v",
    "via": "m11",
    "senders at": "YY",  # of another position nothing reaches these values
    "add edges": "a0.h1 -> logits",
}
SIZE = {"width": 1300, "height": 1700}

RUN_ALL = """() => {
  window.ran = false;
  const run = command => jupyterapp.commands.execute(command);
  run("notebook:run-all-cells")
    .then(() => run("docmanager:save"))
    .then(() => { window.ran = true; });
}"""
# What an explorer shows: the data of its figure, and its texts but for the state line.
SHOWN = """explorer => {
  const frame = explorer.querySelector("iframe[name^=gt-figure]");
  const figure = frame && frame.contentDocument.getElementById("figure");
  const texts = [...explorer.querySelectorAll(".widget-html-content")].map(e => e.innerHTML);
  return JSON.stringify([
    figure && [figure.data, figure.layout && figure.layout.title],
    texts.filter(text => !/gt-state|<iframe/.test(text)),
  ]);
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A JupyterLab with its own settings that serves copies of the notebooks: url and token."""
    folder = tmp_path_factory.mktemp("lab")
    files = folder / "files"
    files.mkdir()
    (files / "project").symlink_to(ROOT)
    for path in PATHS:
        notebook = notebooks.read_notebook(path)
        copied = notebooks.with_parameters(notebook, **notebooks.quick(path))
        (files / path.name).write_text(notebooks.notebook_text(copied), encoding="utf-8")
    for name, values in SETTINGS.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    variables = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--LabApp.expose_app_in_browser=True", "--ServerApp.port=0"]
    command += [f"--ServerApp.root_dir={files}"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment |= {name: str(folder / place) for name, place in variables.items()}
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield _address(folder)
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:  # busy with kernels that are not needed any more
            server.kill()


def _address(folder: Path) -> dict[str, str]:
    from jupyter_server.serverapp import list_running_servers

    for _ in range(120):
        for server in list_running_servers(str(folder / "runtime")):
            return server
        time.sleep(0.5)
    raise AssertionError(f"JupyterLab did not start: {(folder / 'log.txt').read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = needs.browser()
    if program is None:
        needs.missing("there is no Chromium here; on Debian or Ubuntu: apt-get install chromium")
    from playwright import sync_api

    ARTIFACTS.mkdir(exist_ok=True)
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS.split())
        yield chromium
        chromium.close()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_control_changes_what_is_shown(path: Path, browser: Any, lab: dict[str, str]) -> None:
    page = browser.new_page(viewport=SIZE)
    page.set_default_timeout(60_000)
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    run_all(page, f"{lab['url']}lab/workspaces/{path.stem}/tree/{path.name}?token={lab['token']}")
    assert trouble(notebooks.read_notebook(Path(lab["root_dir"]) / path.name)) == []
    explorers = page.locator(".gt-state").all()
    assert explorers, "the notebook shows no explorer"
    for number, state in enumerate(explorers, 1):
        explorer = state.locator("xpath=ancestor::*[contains(@class, 'widget-vbox')][1]")
        wait_until_done(explorer)
        assert_figure_is_drawn(explorer)
        for control, move in controls(explorer):
            before = explorer.evaluate(SHOWN)
            label = control.locator("label").first.inner_text()
            control.scroll_into_view_if_needed()
            move(page, control, label)
            wait_until_done(explorer)
            picture = f"{path.stem}-{number}-{label.replace(' ', '-')}.png"
            explorer.screenshot(path=ARTIFACTS / picture)
            assert explorer.evaluate(SHOWN) != before, f"{label} changed nothing"
    screenshot(page, ARTIFACTS / f"{path.stem}.png")
    page.evaluate("jupyterapp.serviceManager.sessions.shutdownAll()")  # their memory back
    page.close()
    assert complaints == []


def test_a_page_of_results_is_drawn_and_loads_nothing_from_elsewhere(browser, tmp_path) -> None:
    (path,) = (path for path in PATHS if path.stem.startswith("01"))
    assert run_notebook(path, tmp_path, {"MODEL": "mini", "N_PROMPTS": 12})
    page, loaded, complaints = browser.new_page(viewport=SIZE), list[str](), list[str]()
    page.on("request", lambda request: loaded.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    folder = (tmp_path / "notebooks").as_uri()
    page.goto(f"{folder}/{path.stem}.html")
    assert page.locator(".plotly-graph-div .main-svg").count() >= 5
    assert_figure_is_drawn(page.locator("body"))
    page.close()
    files = {url for url in loaded if not url.startswith(("data:", "blob:", "about:"))}
    assert files == {f"{folder}/{path.stem}.html", f"{folder}/plotly.min.js"}
    assert complaints == []


def run_all(page: Any, url: str) -> None:
    """Open a notebook, run all its cells and save it."""
    page.goto(url)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.wait_for_function("jupyterapp.shell.currentWidget?.sessionContext?.isReady")
    page.evaluate(RUN_ALL)
    page.wait_for_function("window.ran || document.querySelector('.jp-Dialog')", timeout=180_000)
    assert page.locator(".jp-Dialog").all_inner_texts() == []


def controls(explorer: Any) -> Iterator[tuple[Any, Callable[[Any, Any, str], None]]]:
    """The controls of an explorer, each with how a user moves it; fails if that is not known."""
    shown = ".jupyter-widgets:not(.widget-container):not(.widget-html), .widget-toggle-buttons"
    for control in explorer.locator(shown).all():
        names = control.get_attribute("class").split()
        moves = [MOVES[name] for name in names if name in MOVES]
        assert moves, f"a control that this test cannot move: {names}"
        yield control, moves[0]


def select_next(page: Any, control: Any, label: str) -> None:
    select = control.locator("select")
    at, n = select.evaluate("select => [select.selectedIndex, select.options.length]")
    if label in VALUES:
        select.select_option(VALUES[label])
    else:
        select.select_option(index=(at + 1) % n)


def drag(page: Any, control: Any, label: str) -> None:
    """Drag a slider's handle to the far quarter of its track."""
    track = control.locator(".noUi-base").bounding_box()
    handle = control.locator(".noUi-handle").bounding_box()
    x, y = (handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    share = 0.25 if x > track["x"] + track["width"] / 2 else 0.75
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(track["x"] + share * track["width"], y, steps=4)
    page.mouse.up()


def write(page: Any, control: Any, label: str) -> None:
    control.locator("input").fill(VALUES[label])
    control.locator("input").press("Enter")


def press(page: Any, control: Any, label: str) -> None:
    control.locator("button:not(.mod-active)").first.click()


MOVES = {
    "widget-dropdown": select_next,
    "widget-select": select_next,
    "widget-select-multiple": select_next,
    "widget-hslider": drag,
    "widget-text": write,
    "widget-toggle-buttons": press,
}


def wait_until_done(explorer: Any) -> None:
    """Wait until an explorer has answered the last change; fails if it says anything but done."""
    page = explorer.page
    page.wait_for_timeout(400)  # to the kernel and back, and the delay that collects changes
    state = explorer.locator(".gt-state")
    for _ in range(300):
        if state.get_attribute("data-state") != "working":
            break
        page.wait_for_timeout(100)
    page.wait_for_timeout(200)  # the figure is drawn
    assert state.get_attribute("data-state") == "done", state.inner_text()


def assert_figure_is_drawn(explorer: Any) -> None:
    """Fail if the explorer's figure is not on the page, or does not fit its frame.

    An explorer without any figure has a drawing among its texts.
    """
    if not explorer.locator("iframe[name^=gt-figure]").count():
        drawing = explorer.locator("svg").first
        assert drawing.bounding_box()["width"] > 100
        return
    frame = explorer.locator("iframe[name^=gt-figure]").content_frame
    figure = frame.locator("#figure .main-svg").first
    figure.wait_for(timeout=15_000)
    assert figure.evaluate("svg => svg.getBoundingClientRect().right <= innerWidth"), "cut off"


def screenshot(page: Any, path: Path) -> None:
    """The whole notebook on one picture."""
    panel = ".jp-NotebookPanel .jp-WindowedPanel-outer"
    height = page.locator(panel).evaluate("panel => panel.scrollHeight")
    page.set_viewport_size({"width": SIZE["width"], "height": height + 150})
    page.locator(panel).evaluate("panel => panel.scrollTo(0, 0)")
    page.wait_for_timeout(500)
    page.screenshot(path=path)
