"""One XML file of VOC: what is annotated in an image. The file may come from anyone.

    <annotation> <size> <width> <height>
                 <object> <name> <difficult> <bndbox> <xmin> <ymin> <xmax> <ymax>

Objects may stand in an <objects>, tags in a namespace. What holds boxes elsewhere is refused, so
that no file of another kind is taken for an image without objects.
"""

from collections.abc import Callable
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from rpn_jax.data.annotations.fields import FieldError, class_name, flag, number, side
from rpn_jax.errors import UserError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
# What tells of boxes; outside of an object none may stand.
_OF_BOXES = frozenset(("bbox", "bndbox", "box", "object", "objects", "polygon", *_CORNERS))
_OTHERS = {
    "annotations": "CVAT's own XML looks so: export from CVAT as PASCAL VOC",
    "html": "a web page: download the file itself",
}


class VocObject(NamedTuple):
    """An object as it stands in the file; `where` names it and `written` is its box there."""

    class_name: str
    corners: tuple[float, float, float, float]
    difficult: bool
    where: str
    written: str
    number: int  # of the object in its file, from 1


class VocAnnotation(NamedTuple):
    """The objects of a file, and what is wrong with those that cannot be used."""

    objects: tuple[VocObject, ...]
    declared_hw: tuple[int, int] | None
    problems: tuple[str, ...]


def parse_voc_xml(text: bytes, file: str) -> VocAnnotation:
    """Returns what an annotation says.

    Raises:
      UserError: the text is no such XML, or it defines entities or refers to others (defusedxml
        refuses both).
    """
    root = _parse(text, file)
    try:
        objects = _object_elements(root)
        size = _only(root, "size")
        hw = [None if size is None else _read(size, s, side) for s in ("height", "width")]
    except FieldError as error:
        raise UserError(f"{file}: {error}") from error
    usable, problems = [], []
    for i, element in enumerate(objects, 1):
        try:
            usable.append(_read_object(element, i))
        except FieldError as error:
            problems.append(f"object {i}: {error}")
    return VocAnnotation(tuple(usable), tuple(hw) if all(hw) else None, tuple(problems))


def _parse(text: bytes, file: str) -> Element:
    try:
        root = fromstring(text)
    except DefusedXmlException as error:
        raise UserError(f"{file}: the XML defines entities, which is refused ({error})") from error
    except (ParseError, ValueError, LookupError) as error:
        start = text.lstrip().lower()
        page = ": it is a web page" if start.startswith((b"<!doctype html", b"<html")) else ""
        raise UserError(f"{file}: not readable as XML{page} ({error})") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # without its namespace
    if root.tag != "annotation":
        hint = _OTHERS.get(root.tag.lower(), "VOC's begin with <annotation>")
        raise UserError(f"{file}: not an annotation of VOC, it begins with <{root.tag}> ({hint})")
    return root


def _object_elements(root: Element) -> list[Element]:
    wrappers = root.findall("objects")
    objects = [element for parent in (root, *wrappers) for element in parent.findall("object")]
    within = {id(element) for each in objects for element in each.iter()}
    within |= {id(root), *map(id, wrappers)}
    strangers = [element for wrapper in wrappers for element in wrapper if element.tag != "object"]
    strangers += [e for e in root.iter() if id(e) not in within and e.tag.lower() in _OF_BOXES]
    if strangers:
        raise FieldError(
            f"<{strangers[0].tag}> stands where VOC has no objects or boxes; put them into "
            "<object><bndbox>"
        )
    return objects


def _read_object(element: Element, i: int) -> VocObject:
    inner = [each.tag.lower() for each in element.iter() if each is not element]
    if {"object", "objects"} & set(inner):
        raise FieldError("holds another <object>")
    name = _read(element, "name", class_name)
    box = _only(element, "bndbox")
    if box is None:
        raise FieldError("has no <bndbox>")
    written = ", ".join(f"{corner} {_text(box, corner)}" for corner in _CORNERS)
    corners = tuple(_read(box, corner, number) for corner in _CORNERS)
    if max(map(abs, corners)) <= 1 and any(c != int(c) for c in corners):
        raise FieldError(f"{written} are fractions of 1; VOC has pixels")
    difficult = _read(element, "difficult", flag)
    return VocObject(name, corners, difficult, f"object {i} ({name})", written, i)


def _read(parent: Element, tag: str, meaning: Callable[[str | None], Any]) -> Any:
    """Returns what a child's text means; `FieldError` names the child."""
    text = _text(parent, tag)
    if text is None and meaning in (class_name, number):
        raise FieldError(f"has no <{tag}>")
    try:
        return meaning(text)
    except FieldError as error:
        raise FieldError(f"<{tag}> {error}") from error


def _text(parent: Element, tag: str) -> str | None:
    """Returns the text of a child, None where there is none."""
    child = _only(parent, tag)
    if child is None:
        return None
    if len(child):
        raise FieldError(f"<{tag}> holds <{child[0].tag}>, where it should hold text")
    return (child.text or "").strip() or None


def _only(parent: Element, tag: str) -> Element | None:
    children = parent.findall(tag)
    if len(children) > 1:
        raise FieldError(f"<{tag}> stands {len(children)} times")
    return children[0] if children else None
