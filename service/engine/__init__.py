"""One policy on one device: batches of requests through a backend, and the measurements that its cost model needs."""

from service.engine.device import Device
from service.engine.engine import BatchReport, Engine

__all__ = ["BatchReport", "Device", "Engine"]
