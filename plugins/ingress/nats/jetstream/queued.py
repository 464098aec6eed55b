"""Jobs that wait in a stream and that no daemon has seen yet, found by the id in their subject."""

from .api import Api, ApiError
from .topology import JOBS, LATER, Topology


class Queued:
    """Looks for jobs in the streams."""

    def __init__(self, api: Api, topology: Topology) -> None:
        self._api = api
        self._topology = topology

    async def state(self, tenant: str, job: str) -> str | None:
        """`queued`, `scheduled` for a time to come, or None where no message has this id in its subject. Raises NoAnswer."""
        places = [(JOBS, f"job.{tenant}.*.*.{job}", "queued")]
        if self._topology.schedules:
            places += [(LATER, f"sched.{tenant}.{job}", "scheduled"), (LATER, f"due.{tenant}.*.*.{job}", "queued")]
        for stream, subject, state in places:
            try:
                if await self._api.last(self._topology.stream(stream), f"{self._topology.prefix}.{subject}") is not None:
                    return state
            except ApiError:
                continue
        return None
