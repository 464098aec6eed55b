"""How busy the daemon is, as discovery tells it. Plain code, no I/O."""

from collections.abc import Mapping

from msgspec import Struct

from runnerd import Services


class Slots(Struct, frozen=True, kw_only=True):
    """Slots for jobs, as they are at this moment."""

    slots: int | None
    """How many there are; None where the daemon does not say."""
    free: int
    """Jobs that would start, or wait only for their sandbox, if they came now."""
    running: int
    """Jobs that hold a slot."""
    queued: int
    """Jobs that wait for one."""
    warm: Mapping[str, int]
    """Sandboxes that stand ready, by language; those of which there are none are left out."""

    def words(self) -> dict[str, str]:
        """The same for metadata, which is text."""
        return {
            **({} if self.slots is None else {"slots": str(self.slots)}),
            "free": str(self.free),
            "running": str(self.running),
            "queued": str(self.queued),
            "warm": ",".join(f"{lang}={count}" for lang, count in sorted(self.warm.items())),
        }


def slots(services: Services) -> Slots:
    """What the daemon says of itself now."""
    health = services.health()
    pools = health.get("pools", {})
    return Slots(
        slots=health.get("slots"),
        free=services.free(),
        running=health.get("running", 0),
        queued=health.get("queued", 0),
        warm={lang: count for lang, pool in pools.items() if (count := pool.get("warm", 0))},
    )
