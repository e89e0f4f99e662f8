"""Messages as the bytes that travel: `serialize_message` leaves unused bytes at the end, the middleware does not."""

from functools import lru_cache

from rclpy.serialization import serialize_message
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from edgetem_nodes.provenance.definitions import definition


@lru_cache
def _store(type_name):
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(definition(type_name), type_name))
    return store, store.get_msgdef(type_name)


def on_wire(message, type_name=""):
    """The message as a subscription receives it."""
    data = serialize_message(message)
    store, msgdef = _store(type_name or f"edgetem/msg/{type(message).__name__}")
    _, length = msgdef.deserialize_cdr_le(data[4:], 0, msgdef.cls, store)
    return data[:4 + length]
