"""A copy of a MongoDB database's documents, which is made before they are upgraded to another schema.

The copy of the collection `jobs` is the collection `schema_1_jobs` of the same database, where 1 is the old schema.
"""

from __future__ import annotations

from itertools import islice

from pymongo.database import Database

from orqal.store.mongo_documents import DOCUMENTS_AT_ONCE, Document
from orqal.store.protocol import TABLES

_AT_ONCE = {"outputs": 10}
"""Documents that are in memory at a time, where they may be as large as 12 MiB."""
_LAST = "meta"
"""This collection is copied last, so that it shows a copy that is complete."""


def keep(database: Database[Document], schema: int) -> None:
    """Copy all documents. If this was interrupted it begins again; a complete copy is not touched.

    Raises:
        PyMongoError: they cannot be copied.
    """
    if database[_kept(_LAST, schema)].find_one({}) is not None:
        return
    for name in (*TABLES, _LAST):
        kept = database[_kept(name, schema)]
        kept.drop()
        documents = database[name].find({})
        while part := list(islice(documents, _AT_ONCE.get(name, DOCUMENTS_AT_ONCE))):
            kept.insert_many(part)


def how_to_go_back(place: str, schema: int) -> str:
    """The sentence that is shown before the database at this place is upgraded."""
    first = next(iter(TABLES))
    return (
        f"An older Orqal wrote {place}. Its collections are copied to {_kept(first, schema)} and so on in the same "
        "database, and then upgraded. To go back, run `orqal down`, give these the old names in mongosh, as in "
        f'`db.getCollection("{_kept(first, schema)}").renameCollection("{first}", true)`, and install the older Orqal; '
        "what happens from now on is lost then"
    )


def _kept(name: str, schema: int) -> str:
    return f"schema_{schema}_{name}"
