"""The benchmark of time and memory, and its committed table."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import ROOT, SLOW_BEYOND_TENSORFLOW
from tests.helpers.commands import run_unet
from unet.benchmark import layers as benchmark
from unet.benchmark.measuring import fresh_process
from unet.upsamplers import UPSAMPLERS

pytestmark = SLOW_BEYOND_TENSORFLOW


def test_every_upsampler_is_measured():
    assert {name for name, _ in benchmark.variants().values()} == set(UPSAMPLERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", benchmark.variants())
def test_a_step_runs_and_its_counterpart_does_the_same_work(name):
    shape = (1, 3, 5, 8)
    for projected in (False, True):
        benchmark._step(name, shape, projected, jit=False)()
    theirs = benchmark._counterpart(name, shape)
    in_torch = ("nearest", "bilinear", "bicubic", "max_unpool", "conv_transpose", "resize_conv", "pixel_shuffle")
    assert (theirs is not None) == (benchmark.variants()[name][0] in in_torch)
    if theirs:
        theirs()


def test_times_are_ratios_within_a_round_and_memory_holds_the_result():
    one = benchmark.measure("bilinear", (1, 8, 8, 8), repeats=3, jit=False)
    assert len(one.rounds) == 3
    assert min(one.rule_ms, one.rule_by_torch, one.rule_by_nearest, one.step_by_nearest) > 0


@pytest.mark.backend_free
@pytest.mark.slow
def test_memory_in_a_fresh_process_holds_the_result_and_little_more():
    with fresh_process(**benchmark.EXACT) as process:
        peak, result = process.submit(benchmark.measure_memory, "nearest", (4, 256, 256, 8), False, False).result()
    assert result == 4 * 512 * 512 * 8 * 4 / 2**20
    assert peak is None or result <= peak < 3 * result


MEASURING = """
import os, time
from unet.benchmark.measuring import fresh_process

if __name__ == "__main__":
    with fresh_process() as process:
        print(process.submit(os.getpid).result(), flush=True)
        process.submit(time.sleep, 600).result()
"""


@pytest.mark.backend_free
@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_benchmark_that_is_stopped_or_killed_leaves_no_process(number, tmp_path):
    program = tmp_path / "measuring.py"
    program.write_text(MEASURING)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        worker = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(20) == -number
    limit = time.monotonic() + 20
    while _is_alive(worker):
        assert time.monotonic() < limit
        time.sleep(0.1)


def _is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["upsampler"], "unet benchmark has no command 'upsampler'; did you mean upsamplers?"),
        (["upsamplers", "--only", "bicubical"], "--only: 'bicubical' matches none of nearest, bilinear"),
        (["upsamplers", "--only", "bicubic", "--only", "near_est"], "--only: 'near_est' matches none of nearest"),
        (["upsamplers", "--shape", "8,64,64"], "--shape: '8,64,64' must be four whole numbers B,h,w,C"),
        (["upsamplers", "--shape", "1,4,4,6"], "C a multiple of 8"),
        (["upsamplers", "--output", "table.md"], "--output: table.md must end in .json"),
    ],
)
def test_bad_input_is_one_message(arguments, message):
    code, out, err = run_unet("benchmark", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.backend_free
class TestCommittedTables:
    def measurements(self, name):
        path = ROOT / "docs" / "results" / f"{name}.json"
        results = json.loads(path.read_text(encoding="utf-8"))
        found = [benchmark.Measurement(**one) for one in results["measurements"]]
        environment = results["environment"]
        on_gpu = not environment["device"].startswith("CPU")
        text = benchmark.as_markdown(found, environment, environment["jit"], on_gpu)
        assert text == path.with_suffix(".md").read_text(encoding="utf-8")
        return found

    def test_hold_every_shape_of_the_variants_that_have_been_measured(self):
        found = {(one.upsampler, tuple(one.shape)) for one in self.measurements("upsamplers")}
        measured = {name for name, _ in found}
        assert len(measured) >= 16
        assert measured <= benchmark.variants().keys()
        assert found == {(name, shape) for name in measured for shape in benchmark.SHAPES}

    def test_no_upsampler_but_max_unpool_without_xla_is_slower_than_pytorchs(self):
        """The results page quotes these figures."""
        compared = [one for one in self.measurements("upsamplers") if one.rule_by_torch]
        assert max(one.rule_by_torch for one in compared if one.upsampler != "max_unpool") <= 1
        text = (ROOT / "docs" / "results" / "README.md").read_text(encoding="utf-8")
        plain = [one for one in compared if one.upsampler == "max_unpool"]
        fused = self.measurements("max_unpool_xla")
        assert max(one.rule_by_torch for one in fused) <= 1
        assert max(one.rule_by_nearest for one in fused) <= 1.3
        assert max(one.step_by_nearest for one in fused) <= 1.3
        for found in (plain, fused):
            assert " and ".join(f"{one.rule_by_torch:.2f}" for one in found) in text
            assert " and ".join(f"{one.step_by_nearest:.2f}" for one in found) in text
        assert " and ".join(f"{one.rule_by_nearest:.2f}" for one in fused) in text

    def test_the_results_page_says_what_remains_of_upsamplers_that_read_neighbourhoods(self):
        text = (ROOT / "docs" / "results" / "README.md").read_text(encoding="utf-8")
        found = [one for one in self.measurements("upsamplers_predicted") if one.upsampler != "dysample"]
        assert len(found) == 3 * len(benchmark.SHAPES)
        for one in found:
            row = rf"\| {one.upsampler} \| {', '.join(map(str, one.shape))} \| [\d.]+ → (.*) \| \d+ → (.*) \|"
            assert re.search(row, text).groups() == (f"{one.step_by_nearest:.1f}", f"{one.peak_mib:.0f}")
