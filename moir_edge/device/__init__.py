"""Facts and sensors of the machine, read through `moir_edge.device.system.System`, for which a recording can stand in."""
