"""The messages of the wire protocol, generated from the repository's `proto/` by `scripts/generate_pb.py`.

Not written by hand: `grpc_service_pb2` (the `GRPCInferenceService` and what it sends and receives) and
`model_config_pb2` (a model's configuration), each with its stub. They are used like any other protobuf module, with one
difference: their descriptors are in `vintner.pb.pool.POOL`. Every client of the protocol puts its own package
`inference` into protobuf's default pool, where a second one would be an error, or none at all if it came first and
were a little different. So the default pool never hears of ours, and a client and the server can share a process.

The consequences: a message of ours and a client's of the same name are of different classes, and are exchanged as
bytes; whoever looks a descriptor up by name (gRPC's server reflection, say) has to ask POOL; and messages are not to
be pickled, because protobuf looks for the classes of nested ones in the default pool. Nothing here knows gRPC.
"""
