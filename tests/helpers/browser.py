"""Look at a page as headless Chromium lays it out."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, as in Debian's package chromium")

_PROBE = """
<script>
window.problems = [];
window.addEventListener("error", event => problems.push(event.message || String(event.target.src)), true);
window.addEventListener("load", () => {
  const box = element => { const b = element.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; };
  const texts = [...document.querySelectorAll("svg text")];
  const scale = text => { const m = text.getScreenCTM(); return Math.hypot(m.a, m.b); };
  const requests = performance.getEntriesByType("resource").map(entry => entry.name);
  const found = {
    problems: window.problems,
    fetched: requests.filter(name => !name.startsWith("data:")),
    page: [document.documentElement.scrollWidth, document.documentElement.clientWidth],
    figures: [...document.querySelectorAll("figure > svg, figure > img")].map(box),
    broken: [...document.images].filter(image => !image.complete || !image.naturalWidth).length,
    smallest: Math.min(...texts.map(text => scale(text) * parseFloat(getComputedStyle(text).fontSize))),
    background: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
    chart_ink: texts.length ? getComputedStyle(texts[0]).fill : null,
    headings: [...document.querySelectorAll("h1, h2")].map(heading => heading.textContent),
  };
  const pre = document.createElement("pre");
  pre.id = "probe";
  pre.textContent = JSON.stringify(found);
  document.body.append(pre);
});
</script>
"""


def look(page: Path, width: int, dark: bool, scratch: Path) -> dict:
    """What the page is like in a window of ``width`` pixels: errors, requests, sizes, colours."""
    probed = scratch / f"{page.stem}_{width}_{dark}.html"
    probed.write_text(page.read_text(encoding="utf-8").replace("<head>", f"<head>{_PROBE}", 1), encoding="utf-8")
    # A window is never narrower than 500 pixels: a telephone is a frame in a wider one.
    frame = scratch / f"frame_{width}_{dark}.html"
    frame.write_text(
        f'<iframe id="f" src="{probed.name}" style="width:{width}px;height:3000px;border:0"></iframe>'
        "<script>f.onload = () => setTimeout("
        "() => document.body.append(f.contentDocument.getElementById('probe')), 300)</script>"
    )
    command = [
        str(CHROMIUM),
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"),
        *(f"--window-size={max(width, 500) + 40},3000", "--host-resolver-rules=MAP * ~NOTFOUND"),
        *(f"--user-data-dir={scratch / 'profile'}", "--virtual-time-budget=8000"),
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        *("--dump-dom", frame.as_uri()),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)
    assert found, dom[-2000:]
    return json.loads(html.unescape(found.group(1)))
