"""GR00T's protocol over ZeroMQ (extra `zmq`). It is imported only when a port for it is given."""

from service.zeromq.endpoint import GrootEndpoint

__all__ = ["GrootEndpoint"]
