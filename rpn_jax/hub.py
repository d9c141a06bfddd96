"""Files on the Hugging Face Hub, named `hf://OWNER/REPO[@REVISION][/FILE]` as its own tools do.

The extra `hub` talks to it. What was downloaded stays in its cache (`HF_HOME`), which
HF_HUB_OFFLINE=1 reads without a network. `hf auth login` stores the token that private repositories
and uploads want.
"""

import importlib
import pathlib
import re
import urllib.parse
from types import ModuleType
from typing import NamedTuple, NoReturn

from rpn_jax.errors import UserError, first_line
from rpn_jax.files import user_path

FORM = "hf://OWNER/REPO[@REVISION][/FILE]"
FILE = "model.safetensors"  # the one that a name without a file means
# pathlib makes hf:/ of hf://.
_NAME = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([^/@]+))?(?:/([^@]*[^/@]))?")
# By the names of the client's errors and their bases, the special ones first in their MRO.
_REMEDIES = {
    "GatedRepoError": "is gated; ask for access on its page, then log in with `hf auth login`",
    "RepositoryNotFoundError": "no such repository, or a private one; correct the name, create it "
    "on the Hub, or log in with `hf auth login`",
    "RevisionNotFoundError": "has no such revision; correct it",
    "LocalEntryNotFoundError": "is not in the cache, and the Hub cannot be reached; connect, or "
    "give a file that you have",
    "EntryNotFoundError": f"has no such file; name one of its files, {FORM}",
}


class HubFile(NamedTuple):
    """A file in a repository; without a revision that of its main branch."""

    repo: str
    file: str = FILE
    revision: str | None = None

    def __str__(self) -> str:
        revision = f"@{urllib.parse.quote(self.revision, safe='')}" if self.revision else ""
        return f"hf://{self.repo}{revision}/{self.file}"


def is_on_hub(place: str | pathlib.Path) -> bool:
    """Returns whether a path is the name of a file on the Hub."""
    return str(place).startswith("hf:/")


def parse(name: str | pathlib.Path) -> HubFile:
    """Returns what a name means.

    >>> parse("hf://me/shapes@v1/model.safetensors")
    HubFile(repo='me/shapes', file='model.safetensors', revision='v1')

    Raises:
        UserError: it is not of the form `hf://OWNER/REPO[@REVISION][/FILE]`.
    """
    match = _NAME.fullmatch(str(name))
    if match is None:
        raise UserError(f"{name}: a file on the Hugging Face Hub is named {FORM}; correct it")
    repo, revision, file = match.groups()
    return HubFile(repo, file or FILE, urllib.parse.unquote(revision) if revision else None)


def local_file(place: str | pathlib.Path) -> pathlib.Path:
    """Returns the path of a file, after its download if it is on the Hub.

    Raises:
        UserError: the extra is not installed, or the file cannot be had.
    """
    if not is_on_hub(place):
        return user_path(place)
    name = parse(place)
    client = load_client()
    try:
        return pathlib.Path(client.hf_hub_download(name.repo, name.file, revision=name.revision))
    except Exception as error:  # those of its HTTP library too
        _raise_remedy(name, error)


def upload(file: pathlib.Path, name: HubFile) -> HubFile:
    """Puts a local file into a repository that is there; returns its name at the new commit.

    Raises:
        UserError: the extra is not installed, or the Hub refuses.
    """
    client = load_client()
    try:
        commit = client.HfApi().upload_file(
            path_or_fileobj=file,
            path_in_repo=name.file,
            repo_id=name.repo,
            revision=name.revision,
            commit_message=f"Upload {name.file}",
        )
    except Exception as error:
        _raise_remedy(name, error)
    return name._replace(revision=commit.oid)


def load_client() -> ModuleType:
    """Returns the Hub's own library, or raises the `UserError` that it is not installed."""
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UserError(
            "huggingface_hub is not installed; pip install 'rpn-jax[hub]', or give a file that you "
            "have"
        ) from error


def _raise_remedy(name: HubFile, error: Exception) -> NoReturn:
    known = (_REMEDIES.get(kind.__name__) for kind in type(error).__mro__)
    what = next(filter(None, known), None)
    raise UserError(f"{name}: {what or first_line(error)}") from error
