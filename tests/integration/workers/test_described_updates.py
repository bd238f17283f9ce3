"""Update descriptions: fields and items that they do not name have not changed."""

from __future__ import annotations

from typing import Any

import pytest
from jsonpatch import apply_patch

from eventsync.domain.values.extended_json import CODEC, same
from eventsync.mongodb.change_stream import watch
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.converter import convert, decode_change
from support.waiting import within

LINES = [{"sku": f"s{n}", "qty": n, "tags": ["a", "b", "c"]} for n in range(8)]
DOCUMENT: dict[str, Any] = {
    "_id": 1, "n": 0, "lines": LINES, "flat": [1, 2, 3, 4, 5, 6], "deep": {"list": [[1, 2], [3, 4]], "5": [1]},
    "numbered": {"0": "x", "1": "y"},
}  # fmt: skip

UPDATES: dict[str, Any] = {
    "push": {"$push": {"lines": {"sku": "new"}}},
    "push many": {"$push": {"flat": {"$each": [7, 8, 9]}}},
    "push in front": {"$push": {"flat": {"$each": [0], "$position": 0}}},
    "push in the middle": {"$push": {"flat": {"$each": [9, 9], "$position": 3}}},
    "push, sort": {"$push": {"flat": {"$each": [3, 0], "$sort": 1}}},
    "push, keep the last": {"$push": {"flat": {"$each": [7], "$slice": -6}}},
    "push, keep the first": {"$push": {"flat": {"$each": [7], "$slice": 3}}},
    "pop": {"$pop": {"flat": 1}},
    "pop in front": {"$pop": {"flat": -1}},
    "pull": {"$pull": {"flat": {"$in": [2, 5]}}},
    "pull lines": {"$pull": {"lines": {"qty": 3}}},
    "add to set": {"$addToSet": {"flat": 99}},
    "item": {"$set": {"flat.2": "three"}},
    "beyond the end": {"$set": {"flat.9": "nine"}},
    "unset an item": {"$unset": {"flat.1": ""}},
    "in an item": {"$set": {"lines.4.qty": 44}},
    "in two items": {"$set": {"lines.6.qty": 66, "lines.2.sku": "x"}},
    "in an array of an item": {"$set": {"lines.5.tags.1": "z"}},
    "push onto an array of an item": {"$push": {"lines.5.tags": "z"}},
    "all items": {"$inc": {"lines.$[].qty": 1}},
    "array of arrays": {"$set": {"deep.list.1.0": 33}},
    "push onto an array of arrays": {"$push": {"deep.list.0": 3}},
    "an object with numbers for names": {"$set": {"numbered.1": "z", "deep.5.0": 2}},
    "names like numbers": {"$set": {"numbered.²": 1, "numbered.01": 2}},
    "an array for an object": {"$set": {"numbered": ["x", "z"]}},
    "an object for an array": {"$set": {"flat": {"0": 1}}},
    "another type": {"$set": {"flat.0": 1.0}},
    "both": {"$push": {"flat": 7}, "$set": {"lines.0.qty": 5, "n": 1}, "$unset": {"deep.list": ""}},
    "pipeline, appended": [{"$set": {"flat": {"$concatArrays": ["$flat", [7, 8]]}}}],
    "pipeline, in front": [{"$set": {"flat": {"$concatArrays": [[0], "$flat"]}}}],
    "pipeline, cut": [{"$set": {"flat": {"$slice": ["$flat", 2]}, "lines": {"$slice": ["$lines", 7]}}}],
    "pipeline, reversed": [{"$set": {"lines": {"$reverseArray": "$lines"}}}],
    "pipeline, filtered": [{"$set": {"lines": {"$filter": {"input": "$lines", "cond": {"$ne": ["$$this.qty", 6]}}}}}],
    "pipeline, mapped": [{"$set": {"flat": {"$map": {"input": "$flat", "in": {"$max": ["$$this", 4]}}}}}],
    "pipeline, dots in a name": [
        {"$replaceWith": {"$setField": {"field": {"$literal": "a.3"}, "input": "$$ROOT", "value": [1]}}}
    ],
}


@pytest.mark.parametrize("update", UPDATES.values(), ids=list(UPDATES))
async def test_an_update_description_names_all_that_the_update_changed(stores: Stores, update: Any) -> None:
    await stores.data.create_collection("docs", changeStreamPreAndPostImages={"enabled": True})
    docs = stores.data["docs"].with_options(codec_options=CODEC)
    await docs.insert_one(DOCUMENT)
    async with (
        watch(stores.data, [{"$match": {"operationType": "update"}}], images=True) as stream,
        within(30),
    ):
        await docs.update_one({"_id": 1}, update)
        while not (found := (await stream.read(wait=5, limit=10)).changes):
            continue
    after = await docs.find_one({"_id": 1})
    change = decode_change(found[0])
    event = convert(change)
    assert event is not None
    told = event.document if event.patch is None else apply_patch(DOCUMENT, event.patch)
    assert same(told, after)
