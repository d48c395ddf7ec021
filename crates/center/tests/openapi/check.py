"""Holds the OpenAPI document against its specification and against real answers.

check.py DOCUMENT SAMPLES: the document is OpenAPI 3.1, and each sample, {"operation", "status",
"body"}, fits the schema that the document has for it. Prints how many samples it looked at.
"""

import json
import sys

from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

document = json.load(open(sys.argv[1]))
samples = json.load(open(sys.argv[2]))
validate(document)

registry = Registry().with_resource(
    "urn:document", Resource(contents=document, specification=DRAFT202012)
)
operations = {
    operation["operationId"]: operation
    for item in document["paths"].values()
    for operation in item.values()
}


def absolute(schema):
    """The same schema with references into the document."""
    if isinstance(schema, dict):
        return {
            key: "urn:document" + value if key == "$ref" else absolute(value)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [absolute(one) for one in schema]
    return schema


for sample in samples:
    operation = operations[sample["operation"]]
    responses = operation["responses"]
    response = responses[str(sample["status"])]
    media = next(iter(response["content"]))
    schema = absolute(response["content"][media]["schema"])
    problems = list(Draft202012Validator(schema, registry=registry).iter_errors(sample["body"]))
    for problem in problems:
        where = "/".join(str(part) for part in problem.absolute_path)
        print(f"{sample['operation']} {sample['status']}: {where}: {problem.message}", file=sys.stderr)
    if problems:
        sys.exit(1)
print(len(samples))
