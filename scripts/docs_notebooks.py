"""Pages of the documentation that are notebooks, with what they print and draw.

`scripts/notebooks` runs them; git keeps them without outputs.
"""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import docs_pages

RUN = docs_pages.ROOT / "build/notebooks"
NAMES = sorted(path.stem for path in (docs_pages.DOCS / "notebooks").glob("*.ipynb"))
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def page_of(name: str) -> tuple[str, dict[str, bytes]]:
    """Returns the Markdown of a notebook that was run, and its pictures by the names of files."""
    path = RUN / f"{name}.ipynb"
    if not path.exists():
        raise SystemExit(f"docs: {path}: is not there; run scripts/notebooks")
    return markdown_of(name, json.loads(path.read_text())["cells"])


def markdown_of(name: str, cells: list[dict[str, Any]]) -> tuple[str, dict[str, bytes]]:
    """Returns the Markdown of cells with their outputs, and their pictures."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    title = name
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            title = [title, *_HEADING.findall(source)][-1]  # what the next pictures show
        else:
            parts.append(f"```python\n{source}\n```")
            for output in _joined(cell["outputs"]):
                parts += _shown(output, f"{name}_{len(pictures)}", title, pictures)
    return "\n\n".join(parts) + "\n", pictures


def _joined(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the outputs without progress bars; what was printed in pieces becomes one."""
    joined: list[dict[str, Any]] = []
    for output in outputs:
        text = "".join(output.get("text", ""))
        if output.get("name") == "stderr":
            continue
        if text and joined and joined[-1].get("text"):
            joined[-1]["text"] += text
        else:
            joined.append({**output, "text": text})
    return joined


def _shown(
    output: dict[str, Any], file: str, title: str, pictures: dict[str, bytes]
) -> Iterator[str]:
    """Yields the Markdown of an output, in the richest form that it has."""
    data = {kind: "".join(text) for kind, text in output.get("data", {}).items()}
    if "image/png" in data:
        pictures[f"{file}.png"] = base64.b64decode(data["image/png"])
        yield f"![{title}]({file}.png)"
    elif "image/svg+xml" in data:
        pictures[f"{file}.svg"] = data["image/svg+xml"].encode()
        yield f"![{title}]({file}.svg)"
    elif "text/markdown" in data:
        yield data["text/markdown"]
    else:
        text = (data.get("text/plain") or output["text"]).rstrip()
        yield f"~~~~{{.text .output}}\n{text}\n~~~~"
