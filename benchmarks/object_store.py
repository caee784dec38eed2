"""What has gone through Ray's object store."""

import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address


def stored() -> dict[str, int]:
    """Bytes and objects that have been put into the object stores of this cluster so far.

    Of all nodes, since they started. Ray has no public call for it; `ray memory` asks the same way.
    """
    address = ray.get_runtime_context().gcs_address
    stats = get_memory_info_reply(get_state_from_address(address)).store_stats
    return {"bytes": stats.cumulative_created_bytes, "objects": stats.cumulative_created_objects}
