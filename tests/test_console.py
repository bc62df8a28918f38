"""What reaches a terminal: names from files without control characters, line breaks or markup."""

import logging

import pytest

from unet import console
from unet.errors import InputError
from unet.runs import logging_to
from unet.tables import metrics_table, rows_table

pytestmark = pytest.mark.backend_free

HOSTILE = "\x1b[2J\x1b[31m[red]cat[/red]:smile:\n\rerror: fake\x07\u202etxt\u2028\x9b0m\ud800"
"""Clears the screen, colours, markup, an emoji code, line breaks, the bell, reversed text, an 8-bit escape, a lone
surrogate as in a file name that is not UTF-8."""
VISIBLE = (
    r"\x1b[2J\x1b[31m[red]cat[/red]:smile:\n\rerror: fake\x07\u202etxt\u2028\x9b0m\ud800"
)  # fmt: skip


def test_control_characters_are_written_out():
    assert console.escaped(HOSTILE) == VISIBLE
    ordinary = "Straße, 猫, \u00a0, می\u200cخواهم, 👩\u200d🌾, c:\\new"
    assert console.escaped(ordinary) == ordinary


def test_a_line_on_standard_output_stays_one_line(capsys):
    console.say(HOSTILE)
    assert capsys.readouterr().out == VISIBLE + "\n"


def test_a_name_in_an_error_cannot_pass_for_another_message(capsys):
    def fail():
        raise InputError(f"{HOSTILE}: is no image\nsecond line")

    assert console.exit_code(fail) == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == r"error: \x1b[2J\x1b[31m[red]cat[/red]:smile:"
    assert second == r"  \rerror: fake\x07\u202etxt\u2028\x9b0m\ud800: is no image"
    assert third == "  second line"


def test_log_messages_escape_their_arguments_on_the_terminal_and_in_the_file(capsys, tmp_path):
    def work():
        with logging_to(tmp_path / "log.txt"):
            logging.getLogger("unet").warning("%s: skipped %d of\n  %.1f", HOSTILE, 3, 0.5)

    assert console.exit_code(work) == 0
    expected = f"{VISIBLE}: skipped 3 of\n  0.5\n"
    assert capsys.readouterr().err == expected
    assert (tmp_path / "log.txt").read_text().endswith(f"WARNING {expected}")


def test_tables_show_names_as_they_are(capsys):
    rows_table(["name", "value"], [[HOSTILE, "1"]], HOSTILE)
    out = capsys.readouterr().out
    assert out.count(VISIBLE) == 2
    both = {"dataset": 0.5, "per_image": 0.25}
    scores = {key: {HOSTILE: both} for key in ("iou", "dice", "precision", "recall", "boundary_iou")}
    scores |= {f"mean_{name}": both for name in scores} | {"pixel_accuracy": both, "images": 1}
    metrics_table(scores, HOSTILE)
    out = capsys.readouterr().out
    assert out.count(VISIBLE) == 6
    assert not set(out) & set("\x1b\r\x07\u202e")
