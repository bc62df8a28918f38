"""Files by strangers in a folder of images: each is a picture or one message that names it, and the others are read."""

import io
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

import unet
from tests.helpers.commands import run_unet
from unet import config, data
from unet.commands import predict
from unet.data import cache
from unet.data.images import read_image
from unet.errors import InputError, RunError
from unet.formats import LoadedNetwork, Metadata
from unet.inference import Predictor
from unet.inference.inputs import as_pixels

pytestmark = [
    pytest.mark.backend_free,
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore::UserWarning:PIL"),
]
SIZE = (24, 32)


def picture(mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype("uint8")
    return Image.fromarray(pixels).convert(mode)


def encoded(image, kind, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width, height, content=b""):
    """A PNG of a declared size, by its specification."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


def special(path, kind) -> bool:
    """Make something that is not a picture; ``False`` if it cannot be made here."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            here = os.getcwd()
            os.chdir(path.parent)  # the path of a socket is at most 107 bytes long
            try:
                server.bind(path.name)
            finally:
                os.chdir(here)
    elif kind in ("/dev/zero", "/dev/full", "/proc/self/mem"):
        path.symlink_to(kind)
    elif kind == "link to itself":
        path.symlink_to(path.name)
    elif kind == "broken link":
        path.symlink_to("nowhere.png")
    else:
        contents = {
            "empty": b"",
            "text": b"no image",
            "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
            "60,000 × 60,000": png(60_000, 60_000),
            "13,000 × 13,000": png(13_000, 13_000),
            "0 × 0": png(0, 0),
            "2³¹ × 1": png(2**31 - 1, 1),
            "truncated PNG": encoded(picture(), "PNG")[:900],
            "truncated JPEG": encoded(picture(), "JPEG")[:500],
            "truncated TIFF": encoded(picture(), "TIFF")[:500],
            "floats": encoded(Image.fromarray(np.zeros(SIZE, "float32")), "TIFF"),
        }
        path.write_bytes(contents[kind])


SPECIAL = (
    *("pipe", "socket", "/dev/zero", "/dev/full", "/proc/self/mem", "link to itself", "broken link", "empty", "text"),
    *("PostScript", "60,000 × 60,000", "13,000 × 13,000", "0 × 0", "2³¹ × 1"),
    *("truncated PNG", "truncated JPEG", "truncated TIFF", "floats"),
)
NAMES = ("a*b", "a[1]", "[red]b", "a?", "{a}", "a b", " a", "ü犬", "a\\b", "'\"$(x)`", "-o", "~", "%s", "a" * 200)
"""Names that file systems allow and that mean something to a shell, a pattern or markup."""


class Brightest(LoadedNetwork):
    """A network for pictures: the class of a pixel is its brightest channel."""

    def __init__(self):
        self.path = Path("stand-in.onnx")
        self.metadata = Metadata(
            classes=("a", "b", "c"), colours=("#000000", "#FF0000", "#00FF00"), size=SIZE, dynamic=True,
            activation="none", config={"model": {"depth": 2}},
        )  # fmt: skip

    def __call__(self, pixels):
        return pixels.astype(np.float32)


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setattr(unet, "load", lambda path: Predictor(Brightest()))


@pytest.fixture
def folder(tmp_path):
    """Ten good pairs, images/K.png and masks/K.png, and the configuration to read them."""
    for kind in ("images", "masks"):
        (tmp_path / "mine" / kind).mkdir(parents=True)
    for k in range(10):
        add(tmp_path / "mine", str(k))
    return tmp_path / "mine"


def add(folder, name):
    picture().save(os.path.join(folder, "images", f"{name}.png"))
    Image.fromarray(np.eye(*SIZE, dtype="uint8")).save(os.path.join(folder, "masks", f"{name}.png"))


def settings(folder, *overrides):
    path = folder.parent / "mine.yaml"
    path.write_text("data: {source: folder, size: [12, 16], folder: {classes: [ground, thing]}}\n")
    places = [f"data.data_dir={folder}", f"data.cache_dir={folder.parent / 'cache'}"]
    return config.load(path, [*places, *overrides]).data


@pytest.fixture(autouse=True)
def _soon():
    """No test here may wait for a pipe, or decode what a header promises."""
    start = time.process_time()
    yield
    assert time.process_time() - start < 20


# === Reading one file ===


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_picture_is_told_with_its_name(tmp_path, kind):
    path = tmp_path / "x.png"
    special(path, kind)
    with pytest.raises(InputError, match=r"x\.png: (cannot be read as an image|there is no such file)"):
        as_pixels(path)


def test_a_postscript_file_is_not_executed(tmp_path, monkeypatch):
    special(tmp_path / "x.png", "PostScript")
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("Ghostscript was started"))
    monkeypatch.setattr("PIL.EpsImagePlugin.has_ghostscript", lambda: True)
    with pytest.raises(OSError, match="PostScript is not read"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("path", ["a" * 5_000, "\0", "a/" * 3_000])
def test_a_path_that_cannot_exist_is_told(path):
    with pytest.raises(InputError):
        as_pixels(path)


def test_a_picture_of_another_shape_or_kind_is_read(tmp_path):
    shapes = {"one.png": (1, 1), "high.png": (60_000, 1), "wide.png": (1, 60_000)}
    for name, shape in shapes.items():
        Image.fromarray(np.full((*shape, 3), 7, "uint8")).save(tmp_path / name)
        found = read_image(tmp_path / name)
        assert found.shape == (*shape, 3)
        assert (found == 7).all()
    frames = [picture(), picture().rotate(180)]
    kinds = {"GIF": 90, "PNG": 0, "TIFF": 0} | ({"WEBP": 0} if features.check("webp") else {})
    for kind, tolerance in kinds.items():
        options = {"lossless": True} if kind == "WEBP" else {}
        path = tmp_path / f"animated.{kind.lower()}"
        frames[0].save(path, kind, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_allclose(read_image(path).astype(int), np.asarray(picture()), atol=tolerance, err_msg=kind)
    picture().save(tmp_path / "profile.png", icc_profile=b"no profile")
    np.testing.assert_array_equal(read_image(tmp_path / "profile.png"), np.asarray(picture()))
    (tmp_path / "exif.jpg").write_bytes(
        encoded(picture(), "JPEG", exif=b"Exif\0\0" + b"MM\0*\xff\xff\xff\xff" + b"\x99" * 20)
    )
    assert read_image(tmp_path / "exif.jpg").shape == (*SIZE, 3)


KINDS = {
    "JPEG": {}, "PNG": {}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}, "GIF": {}, "JPEG2000": {}, "PPM": {},
    "WEBP": {"lossless": True}, "TGA": {}, "ICO": {},
}  # fmt: skip


def originals() -> list[bytes]:
    exif = Image.Exif()
    exif[274] = 6
    found = [encoded(picture("P"), "PNG", transparency=3), encoded(picture(), "JPEG", exif=exif, progressive=True)]
    for kind, options in KINDS.items():
        try:
            found.append(encoded(picture(), kind, **options))
        except (OSError, KeyError):  # this Pillow is built without the format
            continue
    return found


def mutated(rng, contents) -> bytes:
    """Flip, cut, repeat or insert bytes, most of them near the beginning, where the headers are."""
    content = bytearray(rng.choice(contents))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(min(len(content), rng.choice([64, 512, 4096])))
        length = rng.choice([1, 2, 4, 30, 300])
        other = rng.choice(contents)
        start = rng.randrange(len(other))
        match rng.randrange(6):
            case 0:
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                content[at : at + length] = rng.randbytes(length)
            case 2:
                content[at : at + length] = rng.choice([b"\0", b"\xff"]) * length
            case 3:
                content[at : at + length] = other[start : start + length]
            case 4:
                del content[at + 20 : at + 20 + length]
            case 5:
                del content[max(at, 30) * 4 :]
    return bytes(content)


@pytest.mark.parametrize("examples", [120, pytest.param(2_500, marks=pytest.mark.slow)])
def test_a_mutated_picture_is_a_picture_or_an_input_error_with_its_name(tmp_path, examples):
    rng, contents, read = random.Random(0), originals(), 0
    for number in range(examples):
        path = tmp_path / f"{number}.png"
        path.write_bytes(mutated(rng, contents))
        start = time.process_time()
        try:
            pixels = as_pixels(path)
        except InputError as error:
            message = str(error)
            assert message.startswith(f"{path}: cannot be read as an image (")
            assert len(message) < 1_000
        else:
            read += 1
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
        assert time.process_time() - start < 10
        path.unlink()
    assert 0.05 * examples < read < 0.95 * examples, "the test must see both"


# === Folders ===


def test_check_data_lists_every_odd_file_and_reads_the_others(folder):
    for number, kind in enumerate(SPECIAL):
        add(folder, f"odd_{number}")
        place = folder / ("images", "masks")[number % 2] / f"odd_{number}.png"
        place.unlink()
        special(place, kind)
    (folder / "images" / "folder.png").mkdir()
    problems = cache.inspect(data.make_source(settings(folder)))
    assert sorted(problem.kind for problem in problems if problem.fatal) == sorted(
        f"unreadable {('image', 'mask')[n % 2]}" if kind != "floats" else "bad mask" for n, kind in enumerate(SPECIAL)
    )
    for number in range(len(SPECIAL)):
        assert sum(f"odd_{number}.png" in problem.where for problem in problems if problem.fatal) == 1
    code, printed, err = run_unet("check-data", folder.parent / "mine.yaml", f"data.data_dir={folder}")
    assert code == 2
    assert printed.count("error: ") == len(SPECIAL)
    assert f"error: {len(SPECIAL)} of these are errors" in err
    assert "Warning" not in err
    with pytest.raises(InputError, match=f"the data have {len(SPECIAL)} errors"):
        data.prepare(settings(folder))


def test_many_faults_are_counted_in_training_and_cost_no_search(folder):
    for k in range(500):
        (folder / "images" / f"image without mask {k}.png").touch()
        (folder / "masks" / f"mask without image {k}.png").touch()
    (folder / "a.txt").write_text("0\n" + "".join(f"unknown image {k}\n" for k in range(500)))
    (folder / "b.txt").write_text("1\n")
    splits = "data.folder={train: a.txt, test: b.txt, classes: [a, b]}"
    for overrides, told in (([], "500 images ("), ([splits], "500 lines (")):  # a list names all that count
        with pytest.raises(InputError) as caught:
            data.prepare(settings(folder, *overrides))
        message = str(caught.value)
        assert "the data have 500 errors" in message
        assert told in message
        assert len(message.splitlines()) == 2


def test_files_with_odd_names_are_read(folder):
    for name in NAMES:
        add(folder, name)
    dataset = data.prepare(settings(folder))
    assert not [problem for problem in dataset.problems if problem.fatal]
    found = {name for split in (dataset.train, dataset.validation, dataset.test) for name in split.names}
    assert found == {*map(str, range(10)), *NAMES}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_no_terminal_or_text_file_can_hold_are_told(folder):
    for name in ("a\nb", "\x1b[31mred", os.fsdecode(b"latin-1 \xe9")):
        add(folder, name)
    problems = cache.inspect(data.make_source(settings(folder)))
    assert [problem.kind for problem in problems if problem.fatal] == ["bad name"] * 6
    code, printed, _ = run_unet("check-data", folder.parent / "mine.yaml", f"data.data_dir={folder}")
    assert code == 2
    assert r"\x1b[31mred.png: has a name with control characters" in printed
    assert r"images/a\nb.png" in printed
    assert r"latin-1 \udce9.png" in printed


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"\xff\xfe", "is not a text file"), (None, "there is no such split file"), ("sparse", "is not a text file")],
)
def test_a_split_file_that_is_no_text_is_told(folder, content, expected):
    path = folder / "a.txt"
    if content is None:
        os.mkfifo(path)
    elif content == "sparse":
        with open(path, "wb") as file:
            file.truncate(2**30)
    else:
        path.write_bytes(content)
    (folder / "b.txt").write_text("1\n")
    with pytest.raises(InputError, match=expected):
        data.prepare(settings(folder, "data.folder={train: a.txt, test: b.txt, classes: [a, b]}"))


@pytest.mark.parametrize("place", ["~nobody_of_this_name/a", "a" * 5, "a" * 4_000, "/dev/null", "loop"])
@pytest.mark.parametrize("source", ["folder", pytest.param("pets", marks=pytest.mark.slow)])
def test_data_that_cannot_be_a_folder_are_told(folder, place, source):
    (folder.parent / "loop").symlink_to("loop")
    place = folder.parent / "loop" if place == "loop" else place
    with pytest.raises(InputError, match=r"data\.data_dir"):
        data.prepare(settings(folder, f"data.source={source}", f"data.data_dir={place}", "data.download=false"))


# === Predicting ===


def test_predict_reads_what_it_can_and_names_the_others(tmp_path, network, caplog):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in (*NAMES, "a\nb", "\x1b[31mred", os.fsdecode(b"latin-1 \xe9")):
        picture().save(os.path.join(photos, f"{name}.png"))
    picture().save(photos / f"{'b' * 251}.png")
    (photos / "folder.png").mkdir()
    for number, kind in enumerate(SPECIAL):
        special(photos / f"odd_{number}.png", kind)
    failed = len(SPECIAL) + 1
    with pytest.raises(RunError, match=f"{failed} of {failed + len(NAMES) + 3} images could not be read or written"):
        predict.main(Path("x"), [str(photos)], tmp_path / "out")
    for number in range(len(SPECIAL)):
        assert sum(f"odd_{number}.png: cannot be read as an image" in line for line in caplog.messages) == 1
    assert any("bbb.png: the name of its mask would be too long" in line for line in caplog.messages)
    assert len(list((tmp_path / "out").glob("*_overlay.jpg"))) == len(NAMES) + 3
    np.testing.assert_array_equal(
        Image.open(tmp_path / "out" / "a*b.png"), np.asarray(picture().resize(SIZE[::-1])).argmax(-1)
    )


@pytest.mark.parametrize("out", ["file", "file/below", "/dev/full", "/proc/masks", "a" * 5_000])
def test_a_place_that_cannot_hold_masks_is_told(tmp_path, network, out):
    picture().save(tmp_path / "a.png")
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught:
        predict.main(Path("x"), [str(tmp_path / "a.png")], tmp_path / out)
    assert caught.value.argument == "out"


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "link to itself", "broken link"])
def test_a_single_file_that_is_no_picture_is_told(tmp_path, network, kind):
    special(tmp_path / "x.png", kind)
    with pytest.raises(InputError, match=r"x\.png"):
        predict.main(Path("x"), [str(tmp_path / "x.png")], tmp_path / "out")


def test_masks_next_to_the_images_are_refused(tmp_path, network):
    picture().save(tmp_path / "a.png")
    with pytest.raises(InputError, match="would be overwritten"):
        predict.main(Path("x"), [str(tmp_path)], tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to become another user")
def test_files_and_folders_without_permission_are_told():
    with tempfile.TemporaryDirectory() as root:  # pytest's own is closed to other users
        folder = Path(root, "mine")
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True)
        for k in range(4):
            add(folder, str(k))
        (folder / "images" / "3.png").chmod(0)
        closed = Path(root, "closed")
        closed.mkdir(mode=0)
        Path(root).chmod(0o755)
        there, closed_too = settings(folder), settings(closed / "mine")
        os.seteuid(65534)  # root may read everything
        try:
            problems = cache.inspect(data.make_source(there))
            with pytest.raises(InputError, match="there is no folder"):
                data.make_source(closed_too)
            with pytest.raises(InputError, match=r"a\.png: cannot be read as an image .*Permission denied"):
                as_pixels(closed / "a.png")
        finally:
            os.seteuid(0)
    fatal = [str(problem) for problem in problems if problem.fatal]
    assert len(fatal) == 1
    assert fatal[0].startswith(f"{folder / 'images' / '3.png'}: cannot be read as an image (Permission denied")
