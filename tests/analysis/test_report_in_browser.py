"""The report in Chromium: at desktop and phone width, light and dark, nothing is cut off."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from phase2hpc.analysis.report import report_html
from phase2hpc.analysis.run_results import results_of_run
from phase2hpc.runs.run_directory import RunDirectory

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# A page with the report in a frame of the wanted width, and what a careful eye would look at.
FRAME = """<body style="margin:0">
<iframe src="report.html" style="border:0;width:WIDTHpx;height:900px"></iframe>
<pre id="result"></pre>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, view = frame.contentWindow, root = page.documentElement;
  const style = (element, key) => view.getComputedStyle(element)[key];
  const inside = (a, b) => a.left >= b.left - 1 && a.right <= b.right + 1
    && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
  const box = (element) => element.getBoundingClientRect();
  const all = (selector, within = page) => [...within.querySelectorAll(selector)];
  const wide = all("body *").filter(
    (e) => !e.closest(".scroll") && box(e).right > root.clientWidth + 1);
  const clipped = [], overlapping = [];
  for (const svg of all("svg")) {
    const texts = all("text", svg);
    for (const text of texts) if (!inside(box(text), box(svg))) clipped.push(text.textContent);
    texts.forEach((text, i) => {
      const next = texts[i + 1];
      if (!next) return;
      const a = box(text), b = box(next);
      const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (x > 2 && y > 2) overlapping.push(text.textContent + " / " + next.textContent);
    });
  }
  const cut = all(".elements span").filter((e) => e.scrollWidth > e.clientWidth + 1);
  document.getElementById("result").textContent = JSON.stringify({
    width: root.clientWidth,
    scroll: root.scrollWidth,
    wide: wide.slice(0, 5).map((e) => e.outerHTML.slice(0, 200)),
    plots: all("svg").map((e) => [box(e).width, box(e).height]),
    clipped, overlapping,
    cut: cut.map((e) => e.textContent),
    ink: style(page.body, "color"), page: style(page.body, "backgroundColor"),
    label: style(page.querySelector("svg text"), "fill"),
    panel: style(page.querySelector("figure"), "backgroundColor"),
    images: performance.getEntriesByType("resource").map((e) => e.name),
    tallest: Math.max(...all("figure").map((e) => box(e).height)),
  });
};
</script>"""


@pytest.fixture(scope="session")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed (tests/analysis/install.sh)")
    return found


def looked_at(browser: str, html: str, folder: Path, width: int, *, dark: bool) -> dict[str, Any]:
    (folder / "report.html").write_text(html)
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)))
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}",
        # The frame and the page are files, which may not look at each other otherwise.
        "--allow-file-access-from-files", "--disable-web-security",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        f"--window-size={max(width, 500)},900", "--virtual-time-budget=20000", "--dump-dom",
        frame.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    match = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match and match[1], done.stderr[-2000:]
    found: dict[str, Any] = json.loads(unescape(match[1]))
    return found


def luminance(color: str) -> float:
    """WCAG's relative luminance of ``rgb(r, g, b)``."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * value for w, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.fixture(scope="module")
def pages(
    trained: dict[str, RunDirectory], train_tiny: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    single = train_tiny(tmp_path_factory.mktemp("one"), properties="band_gap", epochs=1)
    runs = [results_of_run(run) for run in trained.values()]
    return {
        "one property": report_html([results_of_run(single)]),
        "nine": report_html(runs[:1]),
        "nine, two runs": report_html(runs),
    }


@pytest.mark.parametrize("name", ["one property", "nine", "nine, two runs"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_nothing_is_cut_off(
    browser: str, pages: dict[str, str], name: str, width: int, dark: bool, tmp_path: Path
) -> None:
    found = looked_at(browser, pages[name], tmp_path, width, dark=dark)
    assert found["width"] == width and found["scroll"] <= width and found["wide"] == []
    assert found["plots"] and min(min(size) for size in found["plots"]) > 120
    assert found["clipped"] == [] and found["overlapping"] == [] and found["cut"] == []
    assert (luminance(found["page"]) < 0.05) == dark
    assert contrast(found["ink"], found["page"]) > 10
    assert contrast(found["label"], found["panel"]) > 4.5
