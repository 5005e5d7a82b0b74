"""The jobs and batches that a job waits after: its parents, as users name them and as records keep them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Field, PlainValidator, WithJsonSchema

from orqal.models.fields import check_batch_name

MAX_PARENTS = 1_000
"""Jobs and batches that one job waits after. A batch may have any number of jobs."""
ANY, BATCH = "any:", "batch:"
"""How texts of parents begin: of one that must have ended, whether it succeeded or not; of a batch."""
_ID = re.compile("[0-9a-fA-F]{24}")
_WHENS = ("ok", "any")


class Parent(NamedTuple):
    """A job or a batch that a job waits after."""

    name: str
    """The id of a job, or the name of a batch."""
    is_batch: bool = False
    any: bool = False
    """True if it only must have ended; False if it must have succeeded. A batch has ended when all its jobs have."""

    @classmethod
    def of(cls, text: str) -> Parent:
        """The parent that a text of `Parent.text` stands for."""
        rest = text.removeprefix(ANY)
        return cls(rest.removeprefix(BATCH), rest.startswith(BATCH), text.startswith(ANY))

    @property
    def text(self) -> str:
        """`ID`, `batch:NAME`, `any:ID` or `any:batch:NAME`."""
        return f"{ANY if self.any else ''}{BATCH if self.is_batch else ''}{self.name}"

    def __str__(self) -> str:
        return f"the batch {self.name}" if self.is_batch else f"the job {self.name}"


def parent_text(value: Any) -> str:
    """Return the text of a parent that is given as a text, or as an object such as {"batch": NAME, "when": "any"}.

    Raises:
        ValueError: it is no parent.
    """
    if isinstance(value, Mapping):
        return _of_object(value).text
    if not isinstance(value, str):
        raise ValueError('must be the id of a job, "batch:NAME", or an object with "job" or "batch"')
    return _checked(Parent.of(value)).text


def _of_object(value: Mapping[str, Any]) -> Parent:
    when = value.get("when", "ok")
    if value.keys() - {"job", "batch", "when"} or ("job" in value) == ("batch" in value):
        raise ValueError('must have exactly one of "job" and "batch", and may have "when"')
    if when not in _WHENS:
        raise ValueError(f'"when" must be one of {", ".join(_WHENS)}')
    name = value.get("job", value.get("batch"))
    if not isinstance(name, str):
        raise ValueError("must name a job or a batch by a text")
    return _checked(Parent(name, "batch" in value, when == "any"))


def _checked(parent: Parent) -> Parent:
    if parent.is_batch:
        check_batch_name(parent.name)
        return parent
    if not _ID.fullmatch(parent.name):
        raise ValueError("a job is named by its id, which has 24 hex digits, and a batch as batch:NAME")
    return parent._replace(name=parent.name.lower())


After = Annotated[
    list[
        Annotated[
            str,
            PlainValidator(parent_text),
            WithJsonSchema(
                {
                    "anyOf": [
                        {"type": "string"},
                        {
                            "type": "object",
                            "properties": {
                                "job": {"type": "string"},
                                "batch": {"type": "string"},
                                "when": {"enum": list(_WHENS)},
                            },
                        },
                    ]
                }
            ),
        ]
    ],
    Field(max_length=MAX_PARENTS),
]
"""Parents, as their texts. Objects are accepted too: see `parent_text`."""
