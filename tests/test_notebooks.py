"""Every notebook runs, and its committed outputs are those of its code."""

import re

import nbformat
import pytest

from notebooks.execute import HERE, run

pytestmark = pytest.mark.backend_free
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))
MACHINE = re.compile(r"/(work|tmp|root|home|Users|usr|opt|var)/|[A-Z]:\\+Users")


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """Printed text and textual results of a cell; how a picture is encoded depends on library versions."""
    printed = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
    results = [output.data for output in cell.outputs if "data" in output]
    return printed, [data["text/plain"] for data in results if "text/plain" in data and "image/png" not in data]


def images(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.mark.slow
def test_execution_gives_the_committed_outputs(path):
    committed, executed = code_cells(read(path)), code_cells(run(path))
    for before, after in zip(committed, executed, strict=True):
        assert texts(after) == texts(before), f"run `make notebooks`: cell {before.id} has changed:\n{before.source}"
        assert images(after) == images(before), f"run `make notebooks`: cell {before.id} has changed:\n{before.source}"


def test_was_executed_from_top_to_bottom(path):
    notebook = read(path)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert sum(map(images, cells)) > 0


def test_reveals_nothing_about_the_machine(path):
    notebook = read(path)
    for cell in notebook.cells:
        assert cell.metadata == {}, f"cell {cell.id}"
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata.language_info) == {"name"}
    assert MACHINE.findall(nbformat.writes(notebook)) == []


def test_links_lead_to_files_and_sections_that_exist(path):
    written = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    sections = {heading.replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", written, re.MULTILINE)}
    links = re.findall(r"\]\((?!https?://)([^)]+)\)", written)
    missing = [link for link in links if not (link[1:] in sections if link.startswith("#") else (HERE / link).exists())]
    assert missing == []
