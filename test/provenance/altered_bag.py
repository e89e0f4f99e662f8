"""A copy of a bag in which one measurement is another."""

from edgetem.msg import Measurements
from rclpy.serialization import deserialize_message
from wire import on_wire

from edgetem_nodes.graph.messages import number_array, numbers
from edgetem_nodes.provenance.bag import BagWriter
from edgetem_nodes.provenance.reading import read_raw


def copy_altered(source, target, acquisition_id, index, factor):
    """Copy a bag; the first column of row `index` of the acquisition is multiplied by `factor`. Returns how many rows."""
    altered = 0
    writer, session = None, None
    for recorded in read_raw(source):
        if recorded.session != session:
            if writer is not None:
                writer.close()
            writer, session = BagWriter(target, append=True), recorded.session
        data = recorded.data
        if recorded.type == "edgetem/msg/Measurements":
            message = deserialize_message(data, Measurements)
            rows = [k for k, row in enumerate(message.indices) if row == index]
            if rows and bytes(bytearray(message.acquisition_id.uuid)) == acquisition_id.bytes:
                values = numbers(message.values, (len(message.indices), -1)).copy()
                values[rows, 0] *= factor
                message.values = number_array(values)
                data, altered = on_wire(message), altered + len(rows)
        writer.add_topic(recorded.topic, recorded.type, type_hash=recorded.type_hash)
        writer.write(recorded.topic, data, recorded.log_time, recorded.publish_time)
    writer.close()
    return altered
