"""The demo page in headless Chromium, and ``unet demo`` as a user calls it."""

import base64
import contextlib
import importlib.util
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT
from tests.helpers.browser import CHROMIUM, needs_chromium
from tests.helpers.commands import run_unet
from tests.helpers.page import Columns
from unet import page
from unet.errors import InputError

pytestmark = pytest.mark.backend_free


def photograph(path, size=(60, 40), **options):
    """Noise, which JPEG compresses least."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)).save(path, **options)
    return path


@contextlib.contextmanager
def running(*command, **environment):
    """Start a server, yield its process and address, and stop it."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("page:"):
                yield process, line.split()[1]
                break
        else:
            raise AssertionError(process.stderr.read())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


# === Without a browser ===


def test_any_file_is_read_upright_with_eight_bits(tmp_path):
    grey = np.arange(6 * 4, dtype=np.uint16).reshape(4, 6) * 2570
    Image.fromarray(grey).save(tmp_path / "sixteen.png")
    np.testing.assert_array_equal(page.read_photograph(tmp_path / "sixteen.png")[..., 0], grey // 257)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90° clockwise
    Image.fromarray((grey // 257).astype(np.uint8)).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(page.read_photograph(tmp_path / "turned.png")[..., 0], np.rot90(grey // 257, -1))


def test_a_file_that_is_not_a_photograph_is_rejected(tmp_path):
    whole = photograph(tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("hello")
    Image.new("1", (10_000, 5_001)).save(tmp_path / "vast.png")  # some kilobytes, 50 megapixels
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")  # rejected by Pillow itself
    Image.new("F", (4, 4)).save(tmp_path / "real.tiff")
    for name, message in {
        "cut.jpg": "cut.jpg cannot be read: image file is truncated",
        "text.jpg": "text.jpg is not an image. JPEG, PNG",
        "vast.png": "vast.png has more than 50 million pixels",
        "bomb.png": "bomb.png has more than 50 million pixels",
        "real.tiff": "real.tiff cannot be read: F-mode pixels",
        "gone.png": "gone.png has been deleted in the meantime",
    }.items():
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            page.read_photograph(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)


def shares(html):
    """Percentages in the order of the page."""
    return [float(share) for share in re.findall(r"<b>([\d.]+) %</b>", html)]


def test_areas_are_measured_at_full_size(tmp_path):
    path = photograph(tmp_path / "large.jpg", (4000, 500))
    html = page.segment([Columns(share=1 / 4000)], path)
    assert 'class="name">large.jpg, 4,000×500 pixels<' in html
    assert re.findall(r"flex-grow: ([\d.]+)", html) == ["99.975", "0.025", "0.0"]
    assert shares(page.segment([Columns(share=0.25)], path, mode="tile")) == [37.5, 12.5, 50]
    shown = [base64.b64decode(picture) for picture in re.findall(r"base64,([^\"]+)", html)]
    assert [Image.open(io.BytesIO(picture)).size for picture in shown] == [(1600, 200)] * 2


def test_agreement_is_shown_for_networks_with_the_same_classes(tmp_path):
    path = photograph(tmp_path / "a.png")
    one, two, four = Columns(share=0.25), Columns(share=0.5), Columns(share=1)
    assert shares(page.segment([one, two], path))[6:] == [75]
    assert shares(page.segment([one, two, four], path))[9:] == [25]
    assert "Agreement" not in page.segment([one], path)
    assert "Agreement" not in page.segment([one, Columns(classes=("cat", "dog", "else"))], path)


def test_a_port_in_use_and_an_unknown_host_are_reported():
    with page.listen(port=0) as taken, pytest.raises(InputError, match=r"port: .* \(Address already in use\)"):
        page.listen(port=taken.getsockname()[1])
    with pytest.raises(InputError, match=r"host: .* 192\.0\.2\.1"):
        page.listen("192.0.2.1", 0)


def test_without_gradio_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=re.escape("pip install '.[demo]'")):
        page.require_gradio()


# === In a browser ===


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Address of a page with two stand-in networks."""
    pytest.importorskip("gradio", reason="needs gradio: pip install '.[demo]'")
    uploads = tmp_path_factory.mktemp("uploads")
    with running("-c", "from tests.helpers.page import serve; serve()", TMPDIR=str(uploads)) as (process, address):
        yield address
        process.terminate()
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (143, "", "")
    assert list(uploads.iterdir()) == []


@pytest.fixture(scope="module")
def chromium():
    """Headless Chromium that can resolve no host but this machine."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[test]'")
    with api.sync_playwright() as playwright:
        rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", rules])
        yield browser
        browser.close()


class Tab:
    """The page in a browser tab, and all requests it makes."""

    def __init__(self, chromium, address, width=1280, scheme="light"):
        self.context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.context.set_default_timeout(20_000)
        self.page = self.context.new_page()
        self.requests, self.problems = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.goto(address)
        self.page.wait_for_selector("#result article")
        self.page.wait_for_selector("#photograph label")

    def drop(self, path, until="#result .mask"):
        """Choose a file, and wait for the result."""
        self.page.evaluate("document.querySelectorAll('#result article, #result .message').forEach(e => e.remove())")
        self.page.set_input_files("input[type=file]", path)
        self.page.wait_for_selector(until)

    def texts(self, selector):
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]

    def shares(self):
        return [float(text.removesuffix(" %")) for text in self.texts("#result li:not(.time) b")]


@pytest.fixture
def tab(chromium, address):
    """A tab. At the end of the test, no request has gone to another machine, and no script has failed."""
    tab = Tab(chromium, address)
    yield tab
    tab.context.close()
    local = (address, "data:", "blob:")
    assert [url for url in tab.requests if not url.startswith(local)] == []
    assert tab.problems == []


@needs_chromium
def test_a_photograph_gives_masks_areas_and_times_side_by_side(tab, tmp_path):
    assert tab.page.title() == "Try a segmentation network"
    assert tab.texts("#result h2") == ["runs one", "two"]
    tab.drop(photograph(tmp_path / "my photo.jpg"))
    assert tab.texts("#result h2") == ["runs one", "two", "Agreement"]
    assert tab.texts("#result article:first-child p") == ["upsampler carafe · trained at 48×32"]
    assert tab.texts("#result .name") == ["my photo.jpg, 60×40 pixels"]
    assert tab.texts("#result article:first-child li:not(.time)") == [
        "cat\n75.0 %",
        "dog & <b>wolf</b>\n25.0 %",
        "background\n0.0 %",
    ]
    assert tab.shares() == [75, 25, 0, 50, 50, 0, 75]
    assert len(tab.texts("#result .time b")) == 2
    assert all(re.fullmatch(r"\d+ ms", text) for text in tab.texts("#result .time b"))
    drawn = "images => images.map(image => image.complete ? [image.naturalWidth, image.naturalHeight] : null)"
    assert tab.page.locator("#result .stage img").evaluate_all(drawn) == [[60, 40]] * 6
    tops = tab.page.locator("#result .stage").evaluate_all("all => all.map(e => e.getBoundingClientRect().top)")
    assert len(set(tops)) == 1


@needs_chromium
def test_the_mask_has_the_colours_of_the_legend(tab, tmp_path):
    tab.drop(photograph(tmp_path / "a.jpg"))
    colours = tab.page.locator("#result .mask").first.evaluate("""image => {
      const canvas = new OffscreenCanvas(60, 40).getContext("2d");
      canvas.drawImage(image, 0, 0);
      return [[5, 5], [50, 5]].map(([x, y]) => [...canvas.getImageData(x, y, 1, 1).data].slice(0, 3));
    }""")
    assert colours == [[0x44, 0x55, 0x66], [0x11, 0x22, 0x33]]
    legend = tab.page.locator("#result article:first-child li i").evaluate_all(
        "all => all.map(e => getComputedStyle(e).backgroundColor)"
    )
    assert legend == ["rgb(17, 34, 51)", "rgb(68, 85, 102)", "rgb(119, 136, 153)"]


@needs_chromium
def test_options_apply_to_the_photograph_that_is_there(tab, tmp_path):
    tab.drop(photograph(tmp_path / "a.jpg"))
    tab.page.get_by_label("tiles at full resolution").click()
    tab.page.wait_for_function("document.querySelector('#result li b').textContent == '37.5 %'")
    assert tab.shares() == [37.5, 12.5, 50, 25, 25, 50, 87.5]


@needs_chromium
def test_slider_and_opacity_apply_to_all_pictures_and_persist(tab, tmp_path):
    tab.drop(photograph(tmp_path / "a.jpg"))
    box = tab.page.locator("#result .wipe").first.bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] / 2)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2)
    tab.page.mouse.up()
    tab.page.locator("[name=opacity]").fill("0.8")
    look = "all => all.map(e => [getComputedStyle(e).clipPath, getComputedStyle(e).opacity])"
    seen = tab.page.locator("#result .mask").evaluate_all(look)
    left = float(re.fullmatch(r"inset\(0px 0px 0px ([\d.]+)%\)", seen[0][0]).group(1))
    assert left == pytest.approx(60, abs=1)
    assert seen == [[seen[0][0], "0.8"]] * 3
    tab.drop(photograph(tmp_path / "b.jpg", (40, 60)))
    assert tab.texts("#result .name") == ["b.jpg, 40×60 pixels"]
    assert tab.page.locator("#result .mask").evaluate_all(look) == seen
    assert tab.page.locator("[name=opacity]").input_value() == "0.8"


@needs_chromium
def test_a_photograph_rotated_by_exif_is_shown_upright(tab, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    tab.drop(photograph(tmp_path / "turned.jpg", exif=exif))
    assert tab.texts("#result .name") == ["turned.jpg, 40×60 pixels"]
    shown = "images => images.map(image => [image.naturalWidth, image.naturalHeight])"
    assert tab.page.locator("#result .stage img").evaluate_all(shown) == [[40, 60]] * 6
    box = tab.page.locator("#result .stage").first.bounding_box()
    assert box["width"] / box["height"] == pytest.approx(2 / 3, rel=0.02)


@needs_chromium
def test_a_file_that_is_not_an_image_is_rejected_and_the_next_photograph_accepted(tab, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    tab.drop(tmp_path / "notes.txt", until="#result .message")
    assert tab.texts("#result .message") == [
        "notes.txt is not an image. JPEG, PNG, WebP, TIFF and BMP files can be read."
    ]
    assert tab.texts("#result h2") == ["runs one", "two"]
    tab.drop(photograph(tmp_path / "a.jpg"))
    assert tab.texts("#result .message") == []


@needs_chromium
def test_a_file_that_is_too_large_is_rejected_with_the_limit(tab, tmp_path):
    assert tab.texts("#photograph label") == ["Photograph, up to 1 MB"]
    tab.drop(photograph(tmp_path / "large.png", (700, 700)), until=".toast-body")
    assert re.search(r'maximum allowed size of 1(\.0)? MB: "large.png"', tab.texts(".toast-body")[0], re.IGNORECASE)
    tab.drop(photograph(tmp_path / "a.jpg"))


def upload(address, content):
    """Send a file to the server directly; return the response."""
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + content + b"\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    return urllib.request.urlopen(urllib.request.Request(f"{address}/gradio_api/upload", body, headers), timeout=20)


def test_the_server_itself_rejects_large_files(address):
    with pytest.raises((urllib.error.HTTPError, ConnectionError, urllib.error.URLError)) as refused:
        upload(address, bytes(2**20 + 1))
    assert getattr(refused.value, "code", 413) == 413
    assert upload(address, bytes(2**20 - 1)).status == 200


@needs_chromium
def test_each_tab_shows_its_own_photograph(tab, chromium, address, tmp_path):
    other = Tab(chromium, address)
    tab.page.set_input_files("input[type=file]", photograph(tmp_path / "a.jpg"))
    other.page.set_input_files("input[type=file]", photograph(tmp_path / "b.jpg", (40, 60)))
    for one, name in ((tab, "a.jpg, 60×40 pixels"), (other, "b.jpg, 40×60 pixels")):
        one.page.wait_for_selector("#result .mask")
        assert one.texts("#result .name") == [name]
    other.context.close()


@needs_chromium
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_it_fits_narrow_and_wide_windows(chromium, address, tmp_path, width, scheme):
    tab = Tab(chromium, address, width, scheme)
    tab.drop(photograph(tmp_path / "a.jpg"))
    assert tab.page.evaluate("document.documentElement.scrollWidth") == width
    boxes = tab.page.locator("#result .stage").evaluate_all(
        "all => all.map(e => [e.getBoundingClientRect().left, e.getBoundingClientRect().right])"
    )
    assert all(left >= 0 and right <= width and right - left > 300 for left, right in boxes)
    lightness = "e => getComputedStyle(e).color.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 765"
    ink = tab.page.locator("#result h2").first.evaluate(lightness)
    assert ink > 0.8 if scheme == "dark" else ink < 0.3
    assert "gradio" not in tab.page.inner_text("body").lower()
    tab.context.close()


@needs_chromium
def test_the_browser_may_not_contact_other_machines(chromium, address):
    tab = Tab(chromium, address)
    failed = []
    tab.page.on("requestfailed", lambda request: failed.append((request.url, request.failure)))
    tab.page.evaluate("new Promise(r => { const i = new Image(); i.onerror = r; i.src = 'http://example.com/x.png'; })")
    assert failed == [("http://example.com/x.png", "csp")]
    tab.context.close()


# === On the command line ===


@pytest.fixture
def network(tmp_path):
    """An exported file whose classes are the brightest channels."""
    onnx = pytest.importorskip("onnx", reason="needs onnx: pip install '.[onnx]'")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install '.[onnx]'")
    pixels, scores = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, None, None, 3])
        for name in ("pixels", "scores")
    )
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["pixels"], ["scores"])], "n", [pixels], [scores])
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 15)])
    onnx.helper.set_model_props(model, {"model_info": Columns().metadata.to_json()})
    onnx.save(model, tmp_path / "brightest.onnx")
    return tmp_path / "brightest.onnx"


def test_it_listens_on_this_machine_only_and_ctrl_c_stops_it(network, tmp_path):
    pytest.importorskip("gradio", reason="needs gradio: pip install '.[demo]'")
    png = photograph(tmp_path / "a.png").read_bytes()
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    with running("-m", "unet", "demo", network, "--port", 0, TMPDIR=str(uploads)) as (process, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        assert "brightest.onnx" in urllib.request.urlopen(address, timeout=20).read().decode()
        with pytest.raises(ConnectionRefusedError):  # a server on all addresses would answer here too
            socket.create_connection(("127.0.0.2", int(address.rpartition(":")[2])), timeout=5)
        (stored,) = json.load(upload(address, png))
        assert Path(stored).is_relative_to(uploads)
        assert Path(stored).read_bytes() == png
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "")
    assert list(uploads.rglob("a.png")) == []


def test_a_wrong_path_is_one_message_before_anything_is_served(tmp_path):
    done = run_unet("demo", tmp_path / "nothing", "--port", 0)
    assert done.code == 2
    assert done.out == ""
    assert re.fullmatch(r"error: .*nothing: there is no such file or directory.*\n", done.err)
