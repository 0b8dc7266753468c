"""The inference server: a core that knows no transport, and REST and gRPC before it."""
