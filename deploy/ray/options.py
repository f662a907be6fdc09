"""What `deploy.ray.application.build` takes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.settings import Settings


class Options(BaseModel):
    """Arguments of `build`, from the command line (`num_cpus=4`) or the `args` of a Serve configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, Any] = Field({}, description="of the server, by name; SORL_* variables are read as well")
    num_cpus: int = Field(2, ge=1, description="cores of a replica, and its compute threads unless settings has them")
    num_gpus: float = Field(
        0, ge=0, description="of a replica; 0.5 puts two on a card, whose memory they share unasked"
    )
    min_replicas: int = Field(1, ge=1, description="at least this many")
    max_replicas: int = Field(8, ge=1, description="at most this many")
    target_backlog_seconds: float = Field(0.02, gt=0, description="of compute that may wait at a replica, on average")
    target_busy: float = Field(0.7, gt=0, le=1, description="share of its time that a replica computes, on average")
    max_ongoing_requests: int = Field(
        1024, ge=1, description="requests sent to a replica at a time; its own queue refuses what is too much for it"
    )

    def server_settings(self) -> Settings:
        """Settings of every replica's server.

        Raises:
            ValueError: a setting is unknown or out of range.
        """
        settings = Settings(**self.settings)
        # A replica sees all cores of its machine, while Ray has promised it `num_cpus` of them.
        return settings.model_copy(update={"threads": settings.threads or self.num_cpus})
