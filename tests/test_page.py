"""The demo page by raw requests and in headless Chromium, and ``unet demo`` as a user calls it."""

import base64
import contextlib
import importlib.util
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT
from tests.helpers.browser import CHROMIUM, needs_chromium
from tests.helpers.commands import run_unet
from tests.helpers.page import Columns
from unet import page
from unet.errors import InputError
from unet.page import decoder
from unet.page import photograph as page_photograph
from unet.page import server as page_server
from unet.page.photograph import _decoder

pytestmark = pytest.mark.backend_free


@pytest.fixture(scope="module")
def needs_server():
    """Skip the test where the server's packages are not installed."""
    for module in ("starlette", "uvicorn"):
        pytest.importorskip(module, reason="needs starlette and uvicorn: pip install '.[demo]'")


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


def encoded(image, file_format="PNG", **options):
    """Content of an image file."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


# === A photograph ===


def test_any_file_is_read_upright_with_eight_bits(tmp_path):
    grey = np.arange(6 * 4, dtype=np.uint16).reshape(4, 6) * 2570
    (tmp_path / "sixteen.png").write_bytes(encoded(Image.fromarray(grey)))
    np.testing.assert_array_equal(page.read_photograph(tmp_path / "sixteen.png")[..., 0], grey // 257)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90° clockwise
    turned = encoded(Image.fromarray((grey // 257).astype(np.uint8)), exif=exif)
    np.testing.assert_array_equal(page.read_photograph(turned)[..., 0], np.rot90(grey // 257, -1))


def test_the_first_frame_of_an_animation_is_read():
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("#ff0000", "#00ff00")]
    for file_format, options in {"GIF": {}, "PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}.items():
        content = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(page.read_photograph(content), np.asarray(frames[0]), file_format)


NOT_AN_IMAGE = "The file is not an image. JPEG, PNG, WebP, GIF, TIFF and BMP files can be read."
TOO_LARGE = "The photograph has more than 50 million pixels, or more than 65,535 in a row or column; scale it down."
UNREADABLE = "The photograph cannot be read: it is damaged or incomplete, or its pixels do not have 8 or 16 bits."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", NOT_AN_IMAGE),
        (b"<script>alert(1)</script>\x1b[2J", NOT_AN_IMAGE),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NOT_AN_IMAGE),  # Pillow would run Ghostscript
        (encoded(Image.new("L", (10_000, 5_001))), TOO_LARGE),
        (encoded(Image.new("1", (1, 65_536))), TOO_LARGE),
        (encoded(Image.new("1", (20_000, 20_000))), TOO_LARGE),  # 50 kB; Pillow itself refuses it as a bomb
        (encoded(Image.new("RGB", (60, 40)), "JPEG")[:-100], UNREADABLE),
        (encoded(Image.new("F", (4, 4)), "TIFF"), UNREADABLE),
        (b"II*\0\x08\0\0\0\xff\xff" + bytes(40), NOT_AN_IMAGE),
    ],
)
def test_a_file_that_is_not_a_photograph_is_rejected(content, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        page.read_photograph(content)


def tiff(tags, data):
    """A TIFF file with these tags, of 4 bytes each; the data start at byte 8."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_decoding_has_little_memory(monkeypatch):
    """16×16 pixels in one tile of 20,000×20,000, which libtiff decodes as a whole: 400 MB from 2 MB."""
    side = 20_000
    deflate = zlib.compressobj(1)
    row = bytes(side)
    data = b"".join(deflate.compress(row) for _ in range(side)) + deflate.flush()
    data += bytes(len(data) % 2)
    content = tiff(
        {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: len(data)}, data
    )
    assert page.read_photograph(content).shape == (16, 16, 3)
    monkeypatch.setattr(decoder, "MEMORY", 300 * 2**20)
    assert page.read_photograph(encoded(Image.new("RGB", (1000, 1000)))).shape == (1000, 1000, 3)
    with pytest.raises(InputError, match="cannot be read"):
        page.read_photograph(content)


def many_scans():
    """A progressive JPEG whose last scan comes 2,000 times: more than 20 s of decoding from 400 kB."""
    content = encoded(Image.new("L", (7000, 7000)), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + 2000 * last + content[-2:]


def test_decoding_has_little_time(monkeypatch):
    """Also if the server that would stop it is gone."""
    monkeypatch.setattr(decoder, "SECONDS", 1)
    done = subprocess.run(_decoder(), input=many_scans(), capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) in ((-signal.SIGKILL, b""), (-signal.SIGXCPU, b""))
    monkeypatch.setattr(decoder, "SECONDS", 0.3)
    monkeypatch.setattr(page_photograph, "_decoder", lambda: [sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(InputError, match="cannot be read"):
        page.read_photograph(b"")


@pytest.mark.parametrize("output", ["", '{"size": [2', '{"size": [2, 2]}', '{"size": [2, 2]}\n12345678901'])
def test_a_decoder_that_ends_early_is_reported_as_a_photograph_that_cannot_be_read(output, monkeypatch):
    program = [sys.executable, "-c", f"import sys; sys.stdout.write({output!r})"]
    monkeypatch.setattr(page_photograph, "_decoder", lambda: program)
    with pytest.raises(InputError, match="cannot be read"):
        page.read_photograph(b"")


def shares(html):
    """Percentages in the order of the page."""
    return [float(share) for share in re.findall(r"<b>([\d.]+) %</b>", html)]


def test_areas_are_measured_at_full_size(tmp_path):
    path = photograph(tmp_path / "large.jpg", (4000, 500))
    html = page.segment([Columns(share=1 / 4000)], path)
    assert 'class="name">4,000×500 pixels<' in html
    assert re.findall(r'data-share="([\d.]+)', html) == ["99.975", "0.025", "0.0"]
    assert shares(page.segment([Columns(share=0.25)], path, mode="tile")) == [37.5, 12.5, 50]
    shown = [base64.b64decode(picture) for picture in re.findall(r"base64,([^\"]+)", html)]
    assert [Image.open(io.BytesIO(picture)).size for picture in shown] == [(1600, 200)] * 2


@pytest.mark.parametrize("sampling", [("resize", "crop"), ("crop", "crop")])
def test_the_page_begins_with_the_input_that_all_networks_were_trained_on(sampling):
    networks = [page_photograph.describe(Columns()) | {"sampling": one} for one in sampling]
    html = page_photograph.render("page.html.j2", max_upload_mb=1, networks=networks)
    chosen = "tile" if set(sampling) == {"crop"} else "resize"
    assert re.findall(r'value="(\w+)" checked', html) == [chosen]


def test_a_large_photograph_takes_a_few_bytes_per_pixel():
    content = encoded(Image.new("L", (4000, 3000)))
    page.segment([Columns()], content)
    tracemalloc.start()
    page.segment([Columns()], content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 4000 * 3000  # 3 are the photograph itself, which comes in parts and is joined


def test_agreement_is_shown_for_networks_with_the_same_classes(tmp_path):
    path = photograph(tmp_path / "a.png")
    one, two, four = Columns(share=0.25), Columns(share=0.5), Columns(share=1)
    assert shares(page.segment([one, two], path))[6:] == [75]
    assert shares(page.segment([one, two, four], path))[9:] == [25]
    assert "Agreement" not in page.segment([one], path)
    assert "Agreement" not in page.segment([one, Columns(classes=("cat", "dog", "else"))], path)


# === Addresses ===


def test_a_port_in_use_and_an_unknown_host_are_reported():
    with page.listen(port=0) as taken, pytest.raises(InputError, match=r"port: .* \(Address already in use\)"):
        page.listen(port=taken.getsockname()[1])
    with pytest.raises(InputError, match=r"host: .* 192\.0\.2\.1"):
        page.listen("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "names", "expected"),
    [
        ("127.0.0.1", [], {"localhost", "127.0.0.1", "[::1]"}),
        ("127.0.0.2", [], {"localhost", "127.0.0.1", "[::1]", "127.0.0.2"}),
        ("127.0.0.1", ["127.2", "0", "7.example"], {"localhost", "127.0.0.1", "[::1]", "127.0.0.2", "7.example"}),
        ("::1", ["::1", "Segment.Example.org"], {"localhost", "127.0.0.1", "[::1]", "segment.example.org"}),
        ("0.0.0.0", ["0.0.0.0", "192.0.2.1"], {"localhost", "127.0.0.1", "[::1]", "192.0.2.1"}),
        ("::", ["[2001:DB8::1]"], {"localhost", "127.0.0.1", "[::1]", "[2001:db8::1]"}),
    ],
)
def test_the_hosts_are_those_listened_on_and_those_named(host, names, expected):
    with page.listen(host, 0) as listener:
        assert page.allowed_hosts(listener, names) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 means every address of this machine; name the host that visitors enter"),
        (["--host", "0"], "0.0.0.0 means every address of this machine"),
        (["--host", "0x0.0"], "0.0.0.0 means every address of this machine"),
        (["--host", "::", "--allow-host", "0.0.0.0"], ":: means every address of this machine"),
        (["--allow-host", "http://a.example"], "'http://a.example' is not a host name or address"),
        (["--allow-host", "a.example:80"], "'a.example:80' is not a host name or address"),
        (["--allow-host", "a.example", "--allow-host", "*"], "'*' is not a host name or address"),
    ],
)
def test_host_names_are_checked_before_networks_are_loaded(needs_server, options, message):
    done = run_unet("demo", "nothing", "--port", 0, *options)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: --allow-host: {message}")


def test_without_starlette_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs starlette, .*pip install '\.\[demo\]'"):
        page.require_server()
    with pytest.warns(DeprecationWarning, match=r"now called require_server"), pytest.raises(InputError):
        page.require_gradio()


# === The server, by raw requests ===


@pytest.fixture(scope="module")
def address(needs_server, tmp_path_factory):
    """Address of a page with two stand-in networks; at the end, the server has written no file and no word."""
    files = tmp_path_factory.mktemp("temporary")
    with running("-c", "from tests.helpers.page import serve; serve()", TMPDIR=str(files)) as (process, address):
        yield address
        process.terminate()
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (143, "", "")
    assert list(files.iterdir()) == []


def connect(address):
    host, _, port = address.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def answered(connection):
    """What comes back until the server closes the connection: status, headers, body; status 0 if nothing does."""
    data = b""
    with connection, contextlib.suppress(ConnectionError):
        while part := connection.recv(2**16):
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        parts, rest = [], body
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            parts.append(rest[: int(size, 16)])
            rest = rest[int(size, 16) + 2 :]
        body = b"".join(parts)
    return int(status.split()[1]) if status else 0, headers, body


def ask(address, line="GET / HTTP/1.1", *headers, body=b"", host=None):
    """Send one request as it is written here."""
    connection = connect(address)
    head = [line, f"Host: {host or address.removeprefix('http://')}", *headers]
    connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
    return answered(connection)


def post(address, content, *headers, query="", host=None):
    return ask(
        address,
        f"POST /segment{query} HTTP/1.1",
        *(headers or [f"Content-Length: {len(content)}"]),
        body=content,
        host=host,
    )


def last(body):
    """The last line of an answer."""
    return json.loads(body.splitlines()[-1])


def wait_until(condition, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_photograph_is_answered_by_progress_and_its_masks(address):
    status, headers, body = post(address, encoded(Image.new("RGB", (60, 40))), query="?mode=tile&flip=true")
    lines = [json.loads(line) for line in body.splitlines()]
    assert (status, headers["content-type"]) == (200, "application/x-ndjson")
    assert [line.get("progress") for line in lines] == [
        "Reading the photograph",
        "Segmenting with runs one",
        "Segmenting with two",
        None,
    ]
    assert shares(lines[-1]["html"]) == [37.5, 12.5, 50, 25, 25, 50, 87.5]


def test_no_path_is_taken_from_a_request(address, tmp_path):
    """Not from the body, the query, the path or a header."""
    secret = photograph(tmp_path / "secret.png")
    (tmp_path / "notes.txt").write_text("hello")
    attack = {"data": [{"path": str(secret), "meta": {"_type": "gradio.FileData"}}, None, "resize", False]}
    for path in (secret, tmp_path / "notes.txt", tmp_path / "nothing"):
        for content in (str(path).encode(), path.as_uri().encode(), json.dumps(attack).encode()):
            query = f"?path={path}&file={path}&photograph={path.as_uri()}"
            assert last(post(address, content, query=query)[2]) == {"message": NOT_AN_IMAGE}
        for target in (path, f"/..{path}", f"/%2e%2e{path}", f"//{path}", f"/gradio_api/file={path}", f"/file={path}"):
            assert ask(address, f"GET {target} HTTP/1.1")[::2] == (404, b'{"message":"Not Found"}')


@pytest.mark.parametrize(
    "target", ["/gradio_api/queue/join", "/segment/", "/page.css/", "/docs", "/%00", "//", "/a" * 999]
)
def test_nothing_else_is_there(address, target):
    for method in ("GET", "POST", "DELETE"):
        assert ask(address, f"{method} {target} HTTP/1.1")[::2] == (404, b'{"message":"Not Found"}')


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_other_methods_are_refused(address, method):
    status, headers, _ = ask(address, f"{method} / HTTP/1.1")
    assert (status, set(headers["allow"].split(", "))) == (405, {"GET", "HEAD"})
    status, headers, _ = ask(address, f"{method if method != 'POST' else 'GET'} /segment HTTP/1.1")
    assert (status, headers["allow"]) == (405, "POST")


def test_every_answer_forbids_what_the_page_does_not_need(address):
    answers = [
        ask(address),
        ask(address, "GET /page.js HTTP/1.1"),
        ask(address, "GET /nothing HTTP/1.1"),
        ask(address, "PUT / HTTP/1.1"),
        ask(address, host="evil.example"),
        post(address, b"", "Content-Length: 9999999"),
        post(address, b"hello"),
        ask(address, "GET / HTTP/1.1", "Host: localhost"),
        post(address, b"zz\r\n", "Transfer-Encoding: chunked"),
    ]
    assert [status for status, *_ in answers] == [200, 200, 404, 405, 421, 413, 200, 400, 400]
    assert [body for *_, body in answers[-2:]] == 2 * [b'{"message":"The request is not valid HTTP."}']
    for _, headers, _ in answers:
        policy = dict(directive.split(" ", 1) for directive in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert not re.search(r"unsafe|\*|https?:", headers["content-security-policy"])
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["connection"] == "close"
        assert "server" not in headers


def test_only_the_hosts_listened_on_are_answered(address):
    port = address.rpartition(":")[2]
    for host in (f"localhost:{port}", f"LOCALHOST:{port}", f"[::1]:{port}", "127.0.0.1", "localhost:8080"):
        assert ask(address, host=host)[0] == 200, host  # a tunnel may have another port at its other end
    for host in (
        "evil.example",
        f"evil.example:{port}",
        f"127.0.0.1.evil.example:{port}",
        f"localhost.:{port}",
        "[::2]",
    ):
        for status, _, body in (ask(address, host=host), post(address, b"hello", host=host)):
            assert (status, b"host name" in body) == (421, True), host
    assert ask(address, "GET / HTTP/1.0", host=" ")[0] in (400, 421)
    assert ask(address, "GET / HTTP/1.1", f"Host: 127.0.0.1:{port}", host="evil.example")[0] == 400


@pytest.mark.parametrize(
    "headers",
    [
        ["Origin: http://evil.example"],
        ["Origin: null"],
        ["Origin: http://localhost:3000"],
        ["Sec-Fetch-Site: cross-site"],
        ["Sec-Fetch-Site: same-site"],
        ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"],  # a form
    ],
)
def test_requests_of_other_websites_are_refused(address, headers):
    content = encoded(Image.new("RGB", (6, 4)))
    status, _, body = post(address, content, f"Content-Length: {len(content)}", *headers)
    assert (status, json.loads(body)) == (403, {"message": "Requests from other websites are refused."})


def test_requests_of_the_page_and_links_to_it_are_answered(address):
    content = encoded(Image.new("RGB", (6, 4)))
    own = [f"Content-Length: {len(content)}", f"Origin: {address}", "Sec-Fetch-Site: same-origin"]
    assert "html" in last(post(address, content, *own)[2])
    assert post(address, content, *own, "Origin: http://evil.example")[0] == 403
    link = ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"]
    assert ask(address, "GET / HTTP/1.1", *link)[0] == 200
    assert ask(address, "GET / HTTP/1.1", link[0], "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe")[0] == 403
    assert ask(address, "GET /page.js HTTP/1.1", link[0], "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: script")[0] == 403


@pytest.mark.parametrize("query", ["?mode=large", "?flip=yes", "?mode=resize%0d%0aX: 1", "?mode=<b>"])
def test_options_that_do_not_exist_are_refused(address, query):
    status, _, body = post(address, b"hello", query=query.replace(" ", "%20"))
    assert (status, json.loads(body)) == (400, {"message": "Expected mode=resize|tile and flip=false|true."})


def chunked(content, size=2**16):
    parts = [content[start : start + size] for start in range(0, len(content), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def test_large_photographs_are_refused_whether_their_size_is_announced_or_not(address):
    message = {"message": "The photograph is larger than 1 MB, the limit; scale it down."}
    status, _, body = post(address, b"", f"Content-Length: {2**20 + 1}")  # refused before it is sent
    assert (status, json.loads(body)) == (413, message)
    with connect(address) as endless:
        endless.sendall(b"POST /segment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(ConnectionError):
            endless.sendall(1000 * (b"10000\r\n" + bytes(2**16) + b"\r\n"))
    largest = bytes(2**20)
    assert last(post(address, largest)[2]) == {"message": NOT_AN_IMAGE}
    assert last(post(address, chunked(largest), "Transfer-Encoding: chunked")[2]) == {"message": NOT_AN_IMAGE}


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + bytes(9) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 2**17 + b"\r\n\r\n",
        b"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        b"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /segment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST /segment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HEAD / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_a_request_that_is_not_http_is_refused(address, request_):
    connection = connect(address)
    with contextlib.suppress(ConnectionError):
        connection.sendall(request_)
    assert answered(connection)[0] in (0, 400, 421)
    assert ask(address)[0] == 200


def test_a_connection_carries_one_request(address):
    """Nothing that follows a request is taken for another one, so that a proxy and the server cannot disagree."""
    follower = b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    status, headers, body = ask(address, body=follower)
    assert (status, headers["connection"]) == (200, "close")
    assert body.rstrip().endswith(b"</html>")
    for headers in (["Content-Length: 5"], ["Content-Length: 5", "Transfer-Encoding: chunked"]):
        body = post(address, b"0\r\n\r\n" + follower, *headers)[2]
        assert last(body) == {"message": NOT_AN_IMAGE}
    assert ask(address, "GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket")[0] == 200


class Slow(Columns):
    """Takes as long as a file exists."""

    def __init__(self, held):
        super().__init__()
        self.held = held
        self.calls = 0

    def predict(self, image, **options):
        self.calls += 1
        while self.held.exists():
            time.sleep(0.02)
        return super().predict(image, **options)


@contextlib.contextmanager
def served(*networks):
    """Serve networks in this process; yield the address, and the endpoint in use."""
    from unet.page.app import build

    app = build(networks, 1)
    with page.listen(port=0) as listener:
        server = page_server._server(app)
        thread = threading.Thread(target=server.run, args=[[listener]])
        thread.start()
        try:
            (endpoint,) = (route.app for route in app.app.routes if route.path == "/segment")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", endpoint
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture
def slow(needs_server, tmp_path):
    """A network that is busy until its file is deleted."""
    held = tmp_path / "held"
    held.touch()
    yield Slow(held)
    held.unlink(missing_ok=True)


def begin(address, content=None):
    """Send a photograph, and do not wait for the answer."""
    content = content or encoded(Image.new("RGB", (6, 4)))
    connection = connect(address)
    connection.sendall(
        b"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(content) + content
    )
    return connection


@pytest.mark.parametrize("line", [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.1\r\nConnection: close"])
def test_what_follows_a_request_is_discarded_while_it_is_answered(slow, caplog, line):
    content = encoded(Image.new("RGB", (6, 4)))
    with served(slow) as (address, _):
        connection = connect(address)
        connection.sendall(b"POST /segment %s\r\nHost: localhost\r\n" % line)
        connection.sendall(b"Content-Length: %d\r\n\r\n" % len(content) + content)
        wait_until(lambda: slow.calls == 1)
        connection.sendall(b"no request")
        connection.sendall(bytes(2**24))  # more than all buffers between client and server hold
        slow.held.unlink()
        data = b""
        with connection, contextlib.suppress(ConnectionError):
            while part := connection.recv(2**16):
                data += part
    assert data.count(b"HTTP/1.1 200 OK") == 1
    assert b'{"html": ' in data
    assert caplog.records == []


def test_photographs_take_turns_and_one_too_many_is_sent_away(slow):
    with served(slow) as (address, endpoint):
        waiting = [begin(address)]
        wait_until(lambda: slow.calls == 1)
        for number in range(2, 9):
            waiting.append(begin(address))
            wait_until(lambda: len(endpoint._queue) == number)  # noqa: B023
        status, headers, body = post(address, bytes(2**20))  # received, or a browser would not read the answer
        assert (status, headers["retry-after"]) == (503, "10")
        assert json.loads(body) == {
            "message": "The server is busy: 8 photographs are waiting already. Try again in a moment."
        }
        assert ask(address)[0] == 200
        assert slow.calls == 1
        slow.held.unlink()
        answers = [answered(connection)[2] for connection in waiting]
    assert slow.calls == 8
    assert all("html" in last(answer) for answer in answers)
    assert b"Waiting for" not in answers[0]
    assert json.loads(answers[1].splitlines()[0]) == {"progress": "Waiting for 1 other photograph"}
    assert json.loads(answers[7].splitlines()[0]) == {"progress": "Waiting for 7 other photographs"}


def test_a_client_that_leaves_gives_its_place_back(slow):
    with served(slow, Columns()) as (address, endpoint):
        first = begin(address)
        wait_until(lambda: slow.calls == 1)
        second, third = begin(address), begin(address)
        wait_until(lambda: len(endpoint._queue) == 3)
        second.close()
        wait_until(lambda: len(endpoint._queue) == 2)
        half = connect(address)
        half.sendall(b"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc")
        wait_until(lambda: endpoint._places == 5)
        half.close()
        first.close()
        wait_until(lambda: endpoint._places == 7)
        assert slow.calls == 1  # still busy with the first, whose thread cannot be stopped
        slow.held.unlink()
        assert "html" in last(answered(third)[2])
        wait_until(lambda: (endpoint._places, endpoint._queue) == (8, []))
    assert slow.calls == 2


def test_slow_clients_lose_their_connection(slow, monkeypatch):
    from unet.page import app

    slow.held.unlink()
    monkeypatch.setattr(page_server, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(page_server, "RESPONSE_SECONDS", 0.5)
    monkeypatch.setattr(app, "UPLOAD_SECONDS", 1.0)
    networks = [slow, *(Columns(str(number)) for number in range(8))]
    with served(*networks) as (address, endpoint):
        start = time.monotonic()
        silent, header, body = (connect(address) for _ in range(3))
        header.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        body.sendall(b"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc")
        assert answered(silent)[0] == answered(header)[0] == 0
        assert time.monotonic() - start < 5
        status, _, message = answered(body)
        assert (status, json.loads(message)) == (408, {"message": "The photograph did not arrive within 1.0 s."})
        noise = np.random.default_rng(0).integers(0, 255, (1000, 1000, 3), np.uint8)
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(connect(address).getpeername())
        content = encoded(Image.fromarray(noise), "JPEG", quality=70)
        reader.sendall(
            b"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(content) + content
        )
        wait_until(lambda: slow.calls == 1)
        wait_until(lambda: endpoint._places == 8)
        reader.settimeout(20)
        received = len(answered(reader)[2])
    assert received < len(page.segment(networks, content)) // 2


def test_further_connections_are_closed(slow, monkeypatch):
    monkeypatch.setattr(page_server, "CONNECTIONS", 5)
    with served(slow) as (address, _):
        idle = [connect(address) for _ in range(5)]
        assert ask(address)[0] == 0
        idle.pop().close()
        wait_until(lambda: ask(address)[0] == 200)


def test_a_burst_of_connections_leaves_descriptors(needs_server):
    pytest.importorskip("resource", reason="needs a system with limits on descriptors")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))"
    with running("-c", f"{limit}; from tests.helpers.page import serve; serve()") as (process, address):
        host, _, port = address.removeprefix("http://").rpartition(":")
        with contextlib.ExitStack() as burst:
            for _ in range(200):
                connection = burst.enter_context(socket.socket())
                connection.setblocking(False)
                connection.connect_ex((host, int(port)))
            time.sleep(0.5)

        def answers():
            with contextlib.suppress(ConnectionError):
                return ask(address)[0] == 200

        wait_until(answers)
        process.terminate()
        assert process.communicate(timeout=20) == ("", "")


def test_a_network_that_fails_is_one_message_and_a_traceback_for_the_owner(slow, capfd):
    class Broken(Columns):
        def predict(self, image, **options):
            raise MemoryError("/secret/path \x1b[2J")

    with served(Broken()) as (address, _):
        body = post(address, encoded(Image.new("RGB", (6, 4))))[2]
    assert last(body) == {"message": "The photograph could not be segmented; the reason is in the server's output."}
    printed = capfd.readouterr().err
    assert "MemoryError" in printed
    assert "\x1b" not in printed


# === In a browser ===


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
        self.page.wait_for_selector("label#photograph")

    def drop(self, path, until="#result .mask"):
        """Choose a file, and wait for the result."""
        self.page.evaluate("document.querySelectorAll('#result article, #result .message').forEach(e => e.remove())")
        self.page.set_input_files("input[type=file]", path)
        self.page.wait_for_selector(until)

    def wait(self, selector, text):
        """Wait until an element has a text."""
        self.page.locator(selector).filter(has_text=text).wait_for()

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


FAINT_TEXT = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = parts(colour).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (parts(colour)[3] !== 0) return colour;
    }
    throw Error("no background");
  };
  const contrast = (element) => {
    const [a, b] = [getComputedStyle(element).color, background(element)].map(luminance);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const texts = [...document.body.querySelectorAll("*")].filter(
    e => e.checkVisibility() && [...e.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.data.trim()));
  return [texts.length, texts.filter(e => contrast(e) < 4.5).map(e => `${e.tagName} ${contrast(e).toFixed(2)}`)];
}"""
"""How many elements have text of their own, and those with a contrast below that of WCAG 2.2, level AA."""


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_enough_contrast(chromium, address, tmp_path, scheme):
    tab = Tab(chromium, address, scheme=scheme)
    tab.drop(photograph(tmp_path / "photo.jpg"))
    count, faint = tab.page.evaluate(FAINT_TEXT)
    tab.context.close()
    assert count > 20
    assert faint == []


@needs_chromium
def test_a_photograph_gives_masks_areas_and_times_side_by_side(tab, tmp_path):
    assert tab.page.title() == "Try a segmentation network"
    assert tab.texts("#result h2") == ["runs one", "two"]
    tops = tab.page.locator("#result li").evaluate_all("all => all.map(e => e.getBoundingClientRect().top)")
    assert tops == 6 * tops[:1]  # a hundred classes would otherwise be a list of several screens
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
    tab.page.get_by_label("Tiles at full resolution").click()
    tab.wait("#result li b >> nth=0", "37.5 %")
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
    assert tab.texts("#result .message") == [NOT_AN_IMAGE]
    assert tab.texts("#chosen") == ["notes.txt"]
    assert tab.texts("#result h2") == ["runs one", "two"]
    tab.drop(photograph(tmp_path / "a.jpg"))
    assert tab.texts("#result .message") == []


@needs_chromium
def test_a_file_that_is_too_large_is_rejected_with_the_limit_and_not_sent(tab, tmp_path):
    assert tab.texts("#photograph span") == ["Photograph, up to 1 MB"]
    sent = len(tab.requests)
    tab.drop(photograph(tmp_path / "large.png", (700, 700)), until="#result .message")
    assert tab.texts("#result .message") == ["large.png is larger than 1 MB, the limit; scale it down."]
    assert len(tab.requests) == sent
    tab.drop(photograph(tmp_path / "a.jpg"))


@needs_chromium
def test_names_are_text(tab, tmp_path):
    name = "<img src=x onerror=alert(1)>\x1b[31m&amp;.jpg"
    tab.drop(photograph(tmp_path / name))
    assert tab.texts("#result .name")[0].startswith("<img src=x onerror=alert(1)>")
    assert tab.page.locator("[src=x]").count() == 0


@needs_chromium
def test_a_dropped_file_is_segmented_wherever_it_falls(tab, tmp_path):
    content = base64.b64encode(photograph(tmp_path / "a.jpg").read_bytes()).decode()
    tab.page.evaluate(
        """content => {
          const transfer = new DataTransfer();
          const bytes = Uint8Array.from(atob(content), one => one.charCodeAt(0));
          transfer.items.add(new File([bytes], "dropped.jpg"));
          document.querySelector("h1").dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
        }""",
        content,
    )
    tab.page.wait_for_selector("#result .mask")
    assert tab.texts("#result .name") == ["dropped.jpg, 60×40 pixels"]


@needs_chromium
def test_the_keyboard_reaches_everything(tab, tmp_path):
    tab.drop(photograph(tmp_path / "a.jpg"))
    reached = []
    for _ in range(8):
        tab.page.keyboard.press("Tab")
        reached.append(tab.page.evaluate("[document.activeElement.name, document.activeElement.value]"))
    assert [name for name, _ in reached if name] == ["file", "mode", "flip", "opacity", "wipe", "wipe", "wipe"]
    tab.page.locator("[name=wipe]").first.focus()
    tab.page.keyboard.press("ArrowRight")
    assert tab.page.locator("[name=wipe]").last.input_value() == "0.005"
    tab.page.locator("[name=mode]").first.focus()
    tab.page.keyboard.press("ArrowDown")
    tab.wait("#result li b >> nth=0", "37.5 %")


@needs_chromium
def test_what_is_happening_is_shown(chromium, slow, tmp_path):
    """Progress, the place in the queue, a full queue, and a server that has stopped."""
    with served(slow) as (address, endpoint):
        tab = Tab(chromium, address)
        tab.page.set_input_files("input[type=file]", photograph(tmp_path / "a.jpg"))
        tab.wait("#status", "Segmenting with columns")
        assert tab.page.get_attribute("#result", "aria-busy") == "true"
        other = Tab(chromium, address)
        other.page.set_input_files("input[type=file]", photograph(tmp_path / "b.jpg"))
        other.wait("#status", "Waiting for 1 other photograph")
        tab.page.get_by_label("Average with the mirror image").check()  # replaces the request that is running
        wait_until(lambda: (len(endpoint._queue), endpoint._places) == (3, 6))
        endpoint._places = -2  # full, even after requests that this tab replaces have ended
        tab.drop(tmp_path / "b.jpg", until="#result .message")
        assert tab.texts("#result .message")[0].startswith("The server is busy: 8 photographs are waiting already.")
        assert tab.texts("#status") == [""]
        endpoint._places = 6
        slow.held.unlink()
        other.page.wait_for_selector("#result .mask")
        assert other.texts("#status") == [""]
        assert tab.problems == other.problems == []
    other.drop(tmp_path / "a.jpg", until="#result .message")
    assert other.texts("#result .message")[0].startswith("The server does not answer.")
    for one in (tab, other):
        one.context.close()


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
    tab.context.close()


@needs_chromium
def test_long_names_keep_pictures_and_options_aligned(chromium, needs_server, tmp_path):
    long = Columns("a_network_with_a_name_that_does_not_fit_into_one_line_above_its_picture")
    with served(long, Columns()) as (address, _):
        tab = Tab(chromium, address)
        tab.drop(photograph(tmp_path / "a.jpg"))
        heights = tab.page.locator("#result h2").evaluate_all("all => all.map(e => e.getBoundingClientRect().height)")
        tops = tab.page.locator("#result .stage").evaluate_all("all => all.map(e => e.getBoundingClientRect().top)")
        assert heights[0] > 1.5 * heights[1]
        assert tops == 3 * tops[:1]
        tab.page.set_viewport_size({"width": 390, "height": 900})
        lefts = tab.page.locator("fieldset label").evaluate_all("""all => all.map(label => {
          const text = document.createRange();
          text.selectNodeContents(label.lastChild);
          return [...text.getClientRects()].map(line => line.left);
        })""")
        assert len(lefts[-1]) > 1
        assert len({left for lines in lefts for left in lines}) == 1
        tab.page.evaluate(
            "document.querySelector('#status span').textContent = 'Segmenting with ' + 'name_'.repeat(30)"
        )
        form, status, result = (
            tab.page.locator(selector).bounding_box() for selector in ("#form", "#status span", "#result")
        )
        assert status["width"] > 300
        assert status["y"] >= form["y"] + form["height"] + 8
        assert result["y"] >= status["y"] + status["height"] + 8
        tab.context.close()


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_class_in_the_colour_of_the_page_is_seen_in_the_legend(chromium, needs_server, scheme):
    with served(Columns()) as (address, _):
        tab = Tab(chromium, address, scheme=scheme)
        ring = tab.page.locator("#result li i").first.evaluate("e => getComputedStyle(e).boxShadow")
        page_colour = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert "1px" in ring
        assert not ring.startswith(page_colour)
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


@pytest.mark.parametrize("busy", [False, True])
def test_it_listens_on_this_machine_only_and_ctrl_c_stops_it(needs_server, network, tmp_path, busy):
    with running("-m", "unet", "demo", network, "--port", 0, TMPDIR=str(tmp_path / "none")) as (process, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        assert b"brightest.onnx" in ask(address)[2]
        with pytest.raises(ConnectionRefusedError):  # a server on all addresses would answer here too
            socket.create_connection(("127.0.0.2", int(address.rpartition(":")[2])), timeout=5)
        assert "html" in last(post(address, encoded(Image.new("RGB", (60, 40))))[2])
        connection = begin(address, many_scans()) if busy else connect(address)
        if busy:
            connection.recv(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    connection.close()
    assert (process.returncode, out, err) == (130, "", "")


def test_a_wrong_path_is_one_message_before_anything_is_served(needs_server, tmp_path):
    done = run_unet("demo", tmp_path / "nothing", "--port", 0)
    assert done.code == 2
    assert done.out == ""
    assert re.fullmatch(r"error: .*nothing: there is no such file or directory.*\n", done.err)
