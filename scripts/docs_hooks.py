"""What MkDocs calls while it builds the documentation, see `docs_pages`."""

import docs_notebooks
import docs_pages
from mkdocs.structure.files import File


def on_files(files, config):
    """Adds the pages that are made of the code."""
    made = {"fields.md": docs_pages.fields_page(), "commands.md": docs_pages.commands_page()}
    made |= {page: docs_pages.markdown_of(page) for page in docs_pages.TOP}
    for name in docs_notebooks.NAMES:
        page, pictures = docs_notebooks.page_of(name)
        made[f"notebooks/{name}.md"] = page
        for file, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{file}", content=content))
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    written = [file.src_uri for file in files if file.src_uri.endswith(".md")]
    texts = {page: made.get(page) or docs_pages.markdown_of(page) for page in written}
    linked = {path for page, text in texts.items() for path in docs_pages.linked_files(page, text)}
    for path in sorted(linked):
        if not (docs_pages.ROOT / path).is_file():
            raise SystemExit(f"docs: {path}: a page links to it, but there is no such file")
        content = docs_pages.source_of(path)
        files.append(File.generated(config, docs_pages.source_page(path), content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Leads links to the code to the pages with its text."""
    name = page.file.src_uri
    if name.startswith("source/"):
        return markdown
    markdown = docs_pages.with_links_to_code(name, markdown)
    if name.startswith("notebooks/"):
        markdown += f"\n\n[This page as a notebook]({page.file.name}.ipynb)\n"
    return markdown
