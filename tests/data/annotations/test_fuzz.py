"""Any value of any type anywhere: the right record, or one line that names file, entry and field.

RPN_JAX_FUZZ=20000 tries so many structures of each format, at random, in place of a few fixed ones.
"""

import copy
import json
import os
import re
from xml.etree import ElementTree

import pytest
from folders import IMAGES, CocoFolder, voc_xml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rpn_jax.data.annotations.fields import FieldError, identifier
from rpn_jax.data.annotations.voc_xml import parse_voc_xml
from rpn_jax.data.datasets.coco_json import read_coco_json
from rpn_jax.errors import UserError
from rpn_jax.text import printable

COUNT = int(os.environ.get("RPN_JAX_FUZZ", "0"))
fuzzed = settings(
    max_examples=COUNT or 150,
    derandomize=not COUNT,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 100)
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["0", "1", "true", "18", "70", "1e400", "p.jpg", "../p.jpg", "\ud800", "a\x1b"]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


def place(draw, tree):
    """Draws a list or dict inside of a JSON value, and a key of it."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else range(len(tree))
        if not keys:
            return tree, None
        key = draw(st.sampled_from(keys))
        inner = tree[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.integers(0, 3)) == 0:
            return tree, key
        tree = inner


@st.composite
def coco_contents(draw, valid):
    content = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        tree, key = place(draw, content)
        what = draw(st.sampled_from(["replace", "delete", "double", "add"]))
        if key is None or what == "add":
            value = draw(VALUES)
            tree.append(value) if isinstance(tree, list) else tree.update({draw(st.text()): value})
        elif what == "replace":
            tree[key] = draw(VALUES)
        elif what == "delete":
            del tree[key]
        elif isinstance(tree, list):
            tree.append(copy.deepcopy(tree[key]))
    return content


def ids(entries, key):
    found = []
    for entry in entries:
        try:
            found.append(identifier(entry[key]))
        except (FieldError, KeyError, TypeError):
            continue
    return found


def check_line(error, file):
    message = str(error)
    assert printable(message) == message
    assert message.startswith(f"{file}: ")


@pytest.fixture(scope="module")
def coco_folder(tmp_path_factory):
    return CocoFolder(tmp_path_factory.mktemp("fuzz") / "coco")


@fuzzed
@given(st.data())
def test_coco_json_of_any_structure(coco_folder, data):
    content = data.draw(coco_contents(coco_folder.content))
    coco_folder.file.write_text(json.dumps(content))
    for skip_bad in (False, True):
        try:
            source = read_coco_json(str(coco_folder.root), skip_bad=skip_bad)
        except UserError as error:
            check_line(error, coco_folder.file)
            continue
        readers = source.splits["val"]
        examples = []
        for reader in readers:
            try:
                examples.append(reader())
            except UserError as error:
                assert skip_bad
                check_line(error, coco_folder.file)
        annotated = ids(content["annotations"], "image_id")
        for example in examples:
            assert len(example.boxes) == len(example.labels) == len(example.origins)
            assert set(example.labels) <= set(range(len(source.class_names)))
            # An image is without objects only where nothing is annotated in it.
            assert len(example.boxes) or example.original_id not in annotated
        if not skip_bad:
            assert len(examples) == len(content["images"])
            assert sum(len(e.boxes) for e in examples) == len(content["annotations"])


TAGS = st.sampled_from(
    [
        "annotation",
        "object",
        "objects",
        "name",
        "bndbox",
        "xmin",
        "ymin",
        "xmax",
        "ymax",
        "size",
        "width",
        "height",
        "difficult",
        "part",
        "box",
        "{urn:x}object",
        "{urn:x}bndbox",
        "OBJECT",
        "html",
    ]
)
# What XML 1.0 can hold.
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="￾￿"))
WORDS = st.sampled_from(["0", "1", "nan", "inf", "-5", "1e400", "0.5", "True", "yes", "no", ""])


@st.composite
def voc_trees(draw):
    root = ElementTree.fromstring(voc_xml(IMAGES[draw(st.sampled_from("abd"))]))
    for _ in range(draw(st.integers(1, 3))):
        parents = [element for element in root.iter() if len(element)]
        if not parents:
            break
        parent = draw(st.sampled_from(parents))
        child = draw(st.sampled_from(list(parent)))
        what = draw(st.sampled_from(["text", "tag", "delete", "double", "move", "add"]))
        if what == "text":
            child.text = draw(WORDS | TEXTS)
        elif what == "tag":
            draw(st.sampled_from([child, parent])).tag = draw(TAGS)
        elif what == "delete":
            parent.remove(child)
        elif what == "double":
            parent.append(copy.deepcopy(child))
        elif what == "add":
            ElementTree.SubElement(child, draw(TAGS)).text = draw(WORDS)
        else:
            parent.remove(child)
            root.append(child)
    return root


def local_name(element):
    return re.sub(r"^\{.*\}", "", element.tag)


def outermost_objects(element):
    """How many objects there are that lie in no other."""
    if local_name(element) == "object":
        return 1
    return sum(map(outermost_objects, element))


@fuzzed
@given(voc_trees())
def test_voc_xml_of_any_structure(root):
    text = ElementTree.tostring(root)
    try:
        annotation = parse_voc_xml(text, "a.xml")
    except UserError as error:
        check_line(error, "a.xml")
        return
    assert len(annotation.objects) + len(annotation.problems) == outermost_objects(root)
    if not annotation.objects and not annotation.problems:
        names = {local_name(element).lower() for element in root.iter()}
        assert not {"object", "bndbox", "xmin", "ymin", "xmax", "ymax"} & names
    for problem in annotation.problems:
        assert re.match(r"object \d+: ", problem)
        assert printable(problem) == problem
    for each in annotation.objects:
        assert all(abs(corner) < float("inf") for corner in each.corners)
        assert printable(each.class_name) == each.class_name
        assert each.class_name.strip()


@fuzzed
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode(errors="replace")))
def test_bytes_of_any_kind(coco_folder, content):
    coco_folder.file.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_coco_json(str(coco_folder.root))
    check_line(error.value, coco_folder.file)
    with pytest.raises(UserError) as error:
        parse_voc_xml(content, "a.xml")
    check_line(error.value, "a.xml")
