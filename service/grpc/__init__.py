"""The Open Inference Protocol over gRPC (extra `grpc`). It is imported only when a port for it is given."""

from service.grpc.endpoint import GrpcEndpoint

__all__ = ["GrpcEndpoint"]
