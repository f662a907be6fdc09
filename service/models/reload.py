"""New versions of policies while others are served: read, checked and warmed up beside them, then swapped in.

A file is read and checked in a thread of its own. A backend is made and warmed up in the worker thread, in calls
between batches. A second computing thread would compete with the worker for its cores (a barrier in torch or in the
native engine then waits for scheduler slices) and would share the device's streams and graphs with it. A call takes no
longer than a batch, and a request may have to wait for one. Only Triton takes longer, seconds: it compiles kernels for
layer sizes that it has not met. The watchdog counts these calls too: a device that hangs in one hangs for all.

One reload runs at a time. So memory holds at most one policy beside those that are served, and a second reload of the
same file finds it unchanged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from kernels.backend import BackendUnavailable, DeviceFailure
from policy import CheckpointError, PolicyFile, PolicySpec, policy_files
from service.errors import NotReady, ReloadFailed, ServiceError
from service.models.catalog import Catalog
from service.models.loading import Loader, same_name
from service.models.model import Model

log = logging.getLogger(__name__)

T = TypeVar("T")


class CallInWorker(Protocol):
    """`service.scheduling.Scheduler.call`."""

    async def __call__(self, function: Callable[[], T]) -> T:
        """`function()` in the worker thread."""
        ...


@dataclass(frozen=True)
class Reload:
    """The result of a reload.

    Attributes:
        version: served from now on.
        previous: served until now; None for a name that is new.
        outcome: "swapped"; "restored", to an older version that was still in memory; "added", a name that is new;
            "unchanged", the file is the one that is served.
    """

    name: str
    version: str
    previous: str | None
    outcome: Literal["swapped", "restored", "added", "unchanged"]


class Reloader:
    """Keeps a catalog up to date with its files. Belongs to the event loop.

    Args:
        source: the file or folder that is served.
        paths: the file of each model in `catalog`, by name.
        catalog: where new versions go.
        loader: makes models.
        call_in_worker: runs a function in the worker thread.
        on_install: called with each model that is installed.
        on_outcome: called with the name and the outcome of each reload: one of `Reload.outcome`, or "failed". The name
            is "" if a file could not be read that belongs to no name.
    """

    def __init__(
        self,
        source: Path,
        paths: dict[str, Path],
        catalog: Catalog,
        loader: Loader,
        call_in_worker: CallInWorker,
        on_install: Callable[[Model], None],
        on_outcome: Callable[[str, str], None],
    ) -> None:
        self._source = source
        self._paths = paths
        self._catalog = catalog
        self._loader = loader
        self._call_in_worker = call_in_worker
        self._on_install = on_install
        self._on_outcome = on_outcome
        self._lock = asyncio.Lock()
        self._expiry: asyncio.TimerHandle | None = None

    async def reload(self, name: str) -> Reload:
        """Serve the model `name` as its file has it now. On any error what was served before is served on.

        Raises:
            UnknownModel: no such name.
            ReloadFailed: the file is missing, damaged, holds another model, or can't be computed here.
            NotReady: draining.
        """
        self._catalog.find(name)
        async with self._lock:
            return await self._attempt(name, partial(self._reload, name))

    async def reload_all(self) -> list[Reload | ReloadFailed]:
        """`reload` every model, and load files that are new in the folder. The failure of one does not stop the others.

        A name follows its policy to another file. A name whose file is gone is served on in the version it has.

        Raises:
            NotReady: draining.
        """
        async with self._lock:
            paths = await self._settled("", self._files)
            if isinstance(paths, ReloadFailed):
                return [paths]
            results: list[Reload | ReloadFailed] = []
            found: dict[str, list[PolicyFile]] = {}
            for path in paths:
                # A file that can't be read counts as a failure of the name that it had.
                known = next((name for name, other in self._paths.items() if other == path), "")
                read = await self._settled(known, partial(self._read, path))
                if isinstance(read, ReloadFailed):
                    results.append(read)
                else:
                    found.setdefault(read[0], []).append(read[1])
            for name, files in sorted(found.items()):
                results.append(await self._settled(name, partial(self._serve_one_of, name, files)))
            return results

    async def _files(self) -> list[Path]:
        return await asyncio.to_thread(policy_files, self._source)

    async def _read(self, path: Path) -> tuple[str, PolicyFile]:
        """(the name of its policy, the file)."""
        file = await asyncio.to_thread(PolicyFile.read, path)
        for model in self._catalog:
            if model.version == file.version:
                return model.name, file
        return (await asyncio.to_thread(file.policy)).spec.name, file

    async def _serve_one_of(self, name: str, files: list[PolicyFile]) -> Reload:
        if len(files) > 1:
            raise CheckpointError(same_name(name, [file.path for file in files]))
        return await self._serve(name, files[0])

    async def _reload(self, name: str) -> Reload:
        return await self._serve(name, await asyncio.to_thread(PolicyFile.read, self._paths[name]))

    async def _serve(self, name: str, file: PolicyFile) -> Reload:
        """Make `file` the current version of `name`."""
        previous = self._catalog.find(name).version if name in self._catalog else None
        if file.version == previous:
            self._paths[name] = file.path
            return Reload(name, file.version, previous, "unchanged")
        if (resident := self._catalog.older(name, file.version)) is not None:
            self._install(resident, file.path)
            return Reload(name, file.version, previous, "restored")
        policy = await asyncio.to_thread(file.policy)
        if policy.spec.name != name:
            raise CheckpointError(
                f"{file.path}: holds {policy.spec.name!r} now, not {name!r}; SIGHUP serves it under its own name"
            )
        if previous is not None:
            _check_same_robot(file.path, self._catalog.find(name).spec, policy.spec)
        model = await self._call_in_worker(partial(self._loader.model, policy))
        for step in model.engine.warm_up_steps():
            await self._call_in_worker(step)
        self._install(model, file.path)
        return Reload(name, file.version, previous, "added" if previous is None else "swapped")

    def _install(self, model: Model, path: Path) -> None:
        self._catalog.install(model)
        self._paths[model.name] = path
        self._on_install(model)
        self._expire()

    def _expire(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        wait = self._catalog.expire()
        self._expiry = None if wait is None else asyncio.get_running_loop().call_later(wait, self._expire)

    async def _settled(self, name: str, call: Callable[[], Awaitable[T]]) -> T | ReloadFailed:
        try:
            return await self._attempt(name, call)
        except ReloadFailed as error:
            return error

    async def _attempt(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """`call()`, counted and logged.

        Raises:
            NotReady: draining.
            ReloadFailed: for everything else that went wrong.
        """
        started = time.monotonic()
        try:
            result = await call()
        except NotReady:  # draining: no fault of the policy
            raise
        except ServiceError as error:  # NaN at its own mean observation, or a worker that died under it
            failure = f"{name}: {error.detail}"
        except CheckpointError as error:
            failure = str(error)
        except (BackendUnavailable, DeviceFailure) as error:
            failure = f"{name}: {error}"
        except Exception:
            # Whatever a backend raises while it is made or warmed up, the old version is served on.
            log.exception("reloading %s failed", name)
            failure = f"{name}: the engine failed; the server's log has the traceback"
        else:
            if isinstance(result, Reload):
                self._on_outcome(name, result.outcome)
                log.info(
                    "%s: %s, version %.12s, in %.2f s", name, result.outcome, result.version, time.monotonic() - started
                )
            return result
        self._on_outcome(name, "failed")
        log.error("reload failed, nothing changed: %s", failure)
        raise ReloadFailed(failure)


def _check_same_robot(path: Path, old: PolicySpec, new: PolicySpec) -> None:
    """Raises CheckpointError if requests that fit `old` don't fit `new`: robots would fail at the swap."""
    for field in ("obs_dim", "action_dim", "action_horizon"):
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            raise CheckpointError(
                f"{path}: {field} is {after}, and {old.name!r} is served with {before}; give it another name"
            )
    if old.observation_keys and old.observation_keys != new.observation_keys:
        before, after = (
            ", ".join(f"{key.name} {key.size}" for key in spec.observation_keys) or "none" for spec in (old, new)
        )
        raise CheckpointError(
            f"{path}: observation_keys are {after}, and {old.name!r} is served with {before}; give it another name"
        )
