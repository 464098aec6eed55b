"""What becomes of a pod that is to be made while the API is away."""

from typing import Any

import pytest

from runnerd.executors.pods import creation
from runnerd.executors.pods.cluster import PODS, ClusterError
from runnerd.executors.pods.creation import CONFLICT, Creation


class Api:
    """Answers what it was told to, in order."""

    def __init__(self, *codes: int | None) -> None:
        self.codes = list(codes)

    async def create(self, *_: Any) -> None:
        if (code := self.codes.pop(0)) is not None:
            raise ClusterError(f"answered {code}", code)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creation, "FIRST_WAIT_S", 0.0)


async def test_an_api_that_is_away_is_asked_again() -> None:
    made = Creation(api := Api(0, 0, None), 1)  # type: ignore[arg-type]
    await made.create(PODS, dict)
    assert api.codes == []
    assert made.problem == ""


async def test_an_answer_that_was_lost() -> None:
    await Creation(Api(0, CONFLICT), 1).create(PODS, dict)  # type: ignore[arg-type]
    with pytest.raises(ClusterError):
        await Creation(Api(CONFLICT), 1).create(PODS, dict)  # type: ignore[arg-type]


async def test_a_no_is_a_no() -> None:
    made = Creation(Api(0, 403), 1)  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match="answered 403"):
        await made.create(PODS, dict)
    assert made.problem == "answered 0"
