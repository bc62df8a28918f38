"""MkDocs hooks: pages made from files outside ``docs/``, such as the notebooks and the changelog.

Notebooks are shown with their committed outputs; nothing is executed. Formulas become MathML, which browsers draw
without any script.
"""

import base64
import json
import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from latex2mathml.converter import convert
from markdown.extensions.toc import slugify
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parent.parent
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
FORMULA = re.compile(r"`[^`\n]*`|\$\$(.+?)\$\$|\$([^\s$](?:[^$\n]*[^\s$])?)\$", re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?!https?://)([^)#\s]*)(?:#([^)]*))?")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside ``docs/``."""
    for source, target in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=relinked(text, source, target)))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text, pictures = notebook_page(path)
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
        target = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, target, content=relinked(text, f"notebooks/{path.name}", target)))
    # report.md becomes report.html, so a report for the browser needs another name.
    for path in sorted((ROOT / "docs" / "results").glob("*/report.html")):
        report = f"results/{path.parent.name}/report"
        page = File(f"{report}.html", config.docs_dir, config.site_dir, False, dest_uri=f"{report}-interactive.html")
        page.inclusion = InclusionLevel.INCLUDED
        files.append(page)
    return files


def relinked(text: str, source: str, target: str) -> str:
    """Adjust the links of a file of the repository to its place on the site; links to code become plain text."""

    def link(match: re.Match) -> str:
        section = "#" + slugify(unquote(match[2]), "-") if match[2] else ""
        if not match[1]:
            return section
        linked = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        if linked.startswith("docs/"):
            linked = linked.removeprefix("docs/")
        elif linked in PAGES:
            linked = PAGES[linked]
        elif linked.endswith(".ipynb"):
            linked = linked.replace(".ipynb", ".md")
        elif not (ROOT / linked).is_relative_to(ROOT / "notebooks") or not linked.endswith(".png"):
            return "\0"
        return posixpath.relpath(linked, posixpath.dirname(target) or ".") + section

    text = LINK.sub(link, text)
    return re.sub(r"(?<!!)\[([^\[\]]+)\]\(\0\)", r"\1", text)


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by file name."""
    parts, pictures = [], {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(FORMULA.sub(_mathml, source))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if output["output_type"] == "stream":
                parts.append(_output("".join(output["text"])))
            elif "image/png" in data:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                shown = output["metadata"].get("image/png", {})
                parts.append(f"![{shown.get('alt', '')}]({name}){{ width={shown.get('width', 900)} }}")
            elif "text/markdown" in data:
                parts.append("".join(data["text/markdown"]))
            elif "text/plain" in data:
                parts.append(_output("".join(data["text/plain"])))
    return "\n\n".join(parts) + "\n", pictures


def _output(text: str) -> str:
    return f"```{{ .text .output }}\n{text.rstrip()}\n```"


def _mathml(match: re.Match) -> str:
    block, inline = match.groups()
    if block is None and inline is None:
        return match[0]  # code, where a dollar sign is a dollar sign
    formula = " ".join(convert((block or inline).strip(), display="block" if block else "inline").split())
    return formula if block else f"<span>{formula}</span>"  # Markdown takes <math> at the start of a line for a block
