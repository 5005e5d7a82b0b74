"""The API's OpenAPI document is complete."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from fastapi import FastAPI


@pytest.fixture
def document(api: FastAPI) -> dict[str, Any]:
    return api.openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The method and path of each operation, and its documentation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def test_every_route_is_documented(document: dict[str, Any]) -> None:
    for where, operation in operations(document):
        assert operation["description"], where
        [good] = [answer for status, answer in operation["responses"].items() if status == "200"]
        assert good["content"], where
        if where.partition(" ")[2].startswith("/api/"):
            assert {"401", "403", "429", "500", "503"} <= set(operation["responses"]), where


def test_every_answer_and_body_has_a_valid_example(document: dict[str, Any]) -> None:
    seen = 0
    for where, operation in operations(document):
        answers = list(operation["responses"].values())
        for part in [*answers, *([operation["requestBody"]] if "requestBody" in operation else [])]:
            for kind, content in part["content"].items():
                if kind == "application/json":
                    schema = {**content.get("schema", {}), "components": document["components"]}
                    errors = list(jsonschema_rs.Draft202012Validator(schema).iter_errors(example_of(content, schema)))
                    assert not errors, f"{where}: {errors}"
                    seen += 1
                elif kind not in ("application/octet-stream", "application/vnd.docker.multiplexed-stream"):
                    assert content["example"], f"{where}: {kind}"
    assert seen > 100


def example_of(content: dict[str, Any], schema: dict[str, Any]) -> Any:
    """The example of an answer, or of its model."""
    if "example" in content:
        return content["example"]
    [model] = [one for one in schema.get("anyOf", [schema]) if "$ref" in one]
    name = model["$ref"].rpartition("/")[2]
    return schema["components"]["schemas"][name]["examples"][0]
