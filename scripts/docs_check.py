"""Checks the built site and the Markdown files at the top of the repository.

    python scripts/docs_check.py site

Every link within the site leads to a file, and to an id in it where it names one; no page makes a
browser ask another server for anything; every link of README.md and its like leads to a file of the
repository, and to a heading there.
"""

import html.parser
import pathlib
import re
import sys
import urllib.parse

import docs_pages

FETCHED = {"src", "srcset", "data", "poster"}  # and href of a <link>


class Page(html.parser.HTMLParser):
    """The ids, links and fetched files of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        """Notes what a tag says."""
        for name, value in attributes:
            if name in ("id", "name") and value:
                self.ids.add(value)
            if value and (name in FETCHED or (name == "href" and tag == "link")):
                self.fetched.append(value)
            if value and (name in FETCHED or name == "href"):
                self.links.append(value)


def site_problems(site: pathlib.Path) -> list[str]:
    """Returns a line for each link of the site that leads nowhere, or fetches from elsewhere."""
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    problems = []
    for path, page in pages.items():
        where = path.relative_to(site)
        problems += [
            f"{where}: fetches {url}" for url in page.fetched if re.match(r"(https?:)?//", url)
        ]
        if where.name == "404.html":  # its links begin at the server's root
            continue
        for link in page.links:
            problem = _problem(path, link, pages)
            if problem:
                problems.append(f"{where}: {link}: {problem}")
    for sheet in site.rglob("*.css"):
        for url in re.findall(r"url\([\"']?((?:https?:)?//[^)\"']+)", sheet.read_text()):
            problems.append(f"{sheet.relative_to(site)}: fetches {url}")
    return problems


def _problem(path: pathlib.Path, link: str, pages: dict[pathlib.Path, Page]) -> str | None:
    parts = urllib.parse.urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    target = path
    if parts.path:
        target = (path.parent / urllib.parse.unquote(parts.path)).resolve()
        target = target / "index.html" if target.is_dir() else target
    if not target.exists():
        return "no such file"
    anchor = urllib.parse.unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].ids:
        return "no such anchor"
    return None


def markdown_problems(file: pathlib.Path) -> list[str]:
    """Returns a line for each link of a Markdown file that leads to no file or heading."""
    problems = []
    text = docs_pages.FENCED.sub("", file.read_text())
    for target in re.findall(r"\]\(([^()\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if ":" in target:
            continue
        other = (file.parent / path).resolve() if path else file
        if file.parent == docs_pages.DOCS and path in docs_pages.MADE:
            continue
        if not other.exists():
            problems.append(f"{file.name}: {target}: no such file")
        elif anchor and other.suffix == ".md" and anchor not in headings(other):
            problems.append(f"{file.name}: {target}: no such heading")
    return problems


def headings(file: pathlib.Path) -> set[str]:
    """Returns the anchors of a Markdown file's headings."""
    text = docs_pages.FENCED.sub("", file.read_text())
    titles = re.findall(r"^#+ +(.+?)(?: *\{.*\})?$", text, re.MULTILINE)
    given = re.findall(r"\{ *#([\w.-]+)", text)
    slugs = (re.sub(r"[^\w\- ]", "", title.lower()).strip() for title in titles)
    return {re.sub(r"[ -]+", "-", slug) for slug in slugs} | {*given}


def main(site: pathlib.Path) -> int:
    """Prints what is wrong and returns 1, or 0."""
    files = [*sorted(docs_pages.ROOT.glob("*.md")), *sorted(docs_pages.DOCS.rglob("*.md"))]
    problems = [problem for file in files for problem in markdown_problems(file)]
    problems += site_problems(site.resolve())
    for problem in problems:
        print(problem, file=sys.stderr)
    pages = sum(1 for _ in site.rglob("*.html"))
    print(f"{site}: {pages} pages, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
