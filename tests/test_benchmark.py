"""The measurement of time and memory: what it runs, and that its table is the committed one."""

import json

import pytest

from tests.conftest import ROOT
from tests.test_cli import script
from unet import benchmark
from unet.upsamplers import UPSAMPLERS

RESULTS = ROOT / "docs" / "results" / "upsamplers.json"


def test_every_upsampler_is_measured():
    assert {name for name, _ in benchmark.VARIANTS.values()} == set(UPSAMPLERS)


@pytest.mark.parametrize("name", benchmark.VARIANTS)
def test_a_step_runs_and_its_counterpart_does_the_same_work(name):
    shape = (1, 3, 5, 8)
    for projected in (False, True):
        benchmark._step(name, shape, projected, jit=False)()
    theirs = benchmark._counterpart(name, shape)
    assert (theirs is None) == (name in ("bed_of_nails", "bilinear_additive", "carafe", "dysample", "sapa", "fade"))
    if theirs:
        theirs()


def test_times_are_ratios_within_a_round_and_memory_holds_the_result():
    one = benchmark.measure("bilinear", (1, 8, 8, 8), repeats=3, jit=False)
    assert len(one.rounds) == 3
    assert min(one.rule_ms, one.rule_by_torch, one.rule_by_nearest, one.step_by_nearest) > 0


@pytest.mark.backend_free
def test_memory_in_a_fresh_process_holds_the_result_and_little_more():
    with benchmark._fresh_process(MALLOC_MMAP_THRESHOLD_="65536", MALLOC_ARENA_MAX="1") as process:
        peak, result = process.submit(benchmark.measure_memory, "nearest", (4, 256, 256, 8), False).result()
    assert result == 4 * 512 * 512 * 8 * 4 / 2**20
    assert peak is None or result <= peak < 3 * result


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["upsampler"], "WHAT: 'upsampler' is not upsamplers; did you mean upsamplers?"),
        (["upsamplers", "--only", "bicubical"], "--only: 'bicubical' begins none of nearest, bilinear"),
        (["upsamplers", "--shape", "8,64,64"], "--shape: '8,64,64' must be four whole numbers B,h,w,C"),
        (["upsamplers", "--shape", "1,4,4,6"], "C a multiple of 8"),
        (["upsamplers", "--output", "table.md"], "--output: table.md must end in .json"),
    ],
)
def test_bad_input_is_one_message(arguments, message):
    code, out, err = script("benchmark", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.backend_free
class TestCommittedTable:
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else None

    def measurements(self):
        return [benchmark.Measurement(**one) for one in self.results["measurements"]]

    def test_holds_every_variant_and_shape_and_is_the_file_beside_it(self):
        found = self.measurements()
        assert {(one.upsampler, tuple(one.shape)) for one in found} == {
            (name, shape) for name in benchmark.VARIANTS for shape in benchmark.SHAPES
        }
        environment = self.results["environment"]
        on_gpu = not environment["device"].startswith("CPU")
        text = benchmark.as_markdown(found, environment, environment["jit"], on_gpu)
        assert text == RESULTS.with_suffix(".md").read_text(encoding="utf-8")

    def test_no_upsampler_is_slower_than_pytorchs(self):
        slower = {(one.upsampler, *one.shape): one.rule_by_torch for one in self.measurements() if one.rule_by_torch}
        assert max(slower.values()) <= 1, slower

    def test_max_unpooling_costs_a_decoder_little_more_than_nearest(self):
        assert max(one.step_by_nearest for one in self.measurements() if one.upsampler == "max_unpool") <= 1.3
