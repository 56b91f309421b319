"""A WebSocket server that encodes and decodes many streams, whose waiting frames run as one batch.

`protocol` has the messages, `batcher` the thread that runs the codec, `connection` what happens on one connection,
`relay` the rooms, `metrics` the counters, `server` one process, and `workers` several processes on one port.
"""
