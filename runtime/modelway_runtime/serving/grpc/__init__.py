"""The Open Inference Protocol over gRPC. ``import grpc`` is absolute here as everywhere: grpcio."""
