"""Files appear whole or not at all."""

import json
import os

import pytest

from unet.files import replacing, write_json, write_text

pytestmark = pytest.mark.backend_free


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half of the ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_temporary_file_lies_beside_with_the_same_ending(tmp_path):
    with replacing(tmp_path / "deep" / "model.keras") as temporary:
        assert temporary.parent == tmp_path / "deep"
        assert temporary.suffix == ".keras"
        temporary.write_text("x")
        assert not (tmp_path / "deep" / "model.keras").exists()
    assert (tmp_path / "deep" / "model.keras").read_text() == "x"


def test_files_are_readable_by_others_as_usual(tmp_path):
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1.5, float("nan")], "y": (2, {"z": float("nan")})})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1.5, None], "y": [2, {"z": None}]}
