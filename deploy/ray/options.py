"""`Options`: the arguments of `deploy.ray.application.build`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.settings import Settings


class Options(BaseModel):
    """Arguments of `build`, from the command line (`num_cpus=4`) or the `args` of a Serve configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, Any] = Field({}, description="server settings by name; SORL_* variables are read too")
    num_cpus: int = Field(2, ge=1, description="cores per replica, and its compute threads unless settings has them")
    num_gpus: float = Field(
        0, ge=0, description="GPUs per replica; 0.5 puts two on one GPU, whose memory Ray does not divide"
    )
    min_replicas: int = Field(1, ge=1, description="the fewest replicas")
    max_replicas: int = Field(8, ge=1, description="the most replicas")
    target_backlog_seconds: float = Field(0.02, gt=0, description="mean backlog per replica, in seconds of compute")
    target_busy: float = Field(0.7, gt=0, le=1, description="mean share of its time that a replica computes")
    max_ongoing_requests: int = Field(
        1024, ge=1, description="requests in flight per replica; its own queue refuses more than it can answer"
    )

    def server_settings(self) -> Settings:
        """The settings of every replica's server.

        Raises:
            ValueError: a setting is unknown or out of range.
        """
        settings = Settings(**self.settings)
        # A replica sees all cores of its machine, but Ray has reserved only `num_cpus` for it.
        return settings.model_copy(update={"threads": settings.threads or self.num_cpus})
