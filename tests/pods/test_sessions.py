"""Sessions on pods, by the bus: each job has a pod of its own, and finds the files and variables of the one before it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from pod_daemons import flags
from runnerd import Job, Result
from runnerd.client import connect
from runnerd.executors.pods.cluster import Cluster
from serving import serving

pytestmark = pytest.mark.pods
Ran = Callable[[str], Awaitable[Result]]


@pytest.fixture
async def session(config: str, cluster: Cluster, tmp_path: Path) -> AsyncIterator[Ran]:
    """Runs programs, one after the other, in one session of a daemon of its own."""
    settings = flags(config, cluster, 1, pods__state_s=60, limits__wall_s=60, limits__cpu_s=60)
    async with serving(tmp_path, *settings) as daemon, connect(daemon.said["nats"].partition(" ")[0]) as client:
        found = ""

        async def ran(code: str) -> Result:
            nonlocal found
            result = await client.run(Job(lang="py", code=code, session=found))
            assert (result.status, result.stderr) == ("ok", ""), result
            assert result.sandbox is not None
            assert result.sandbox.executor == "pods"
            assert found in ("", result.session), result.notes
            found = result.session
            return result

        yield ran
        code, _ = await daemon.stop()
        assert code == 0


async def test_variables_functions_and_files(session: Ran) -> None:
    first = await session("import math\nx = 1\ndef area(r): return round(math.pi * r * r, 2)\nopen('note', 'w').write('kept')")
    assert [file.name for file in first.stored] == ["note"]
    assert first.state is not None
    assert first.state.size > 0
    second = await session("x += 1\nprint(x, area(2), open('note').read())")
    assert second.stdout == "2 12.57 kept\n"
    assert second.state is not None
    assert second.state.restored
    assert (await session("print(x)")).stdout == "2\n"


@pytest.mark.slow
async def test_a_data_frame_and_a_fitted_model(session: Ran) -> None:
    await session("import pandas as pd\ndf = pd.DataFrame({'a': [0, 1, 2], 'b': [1, 3, 5]})")
    fit = "from sklearn.linear_model import LinearRegression\nmodel = LinearRegression().fit(df[['a']].to_numpy(), df['b'])\nprint(len(df))"
    assert (await session(fit)).stdout == "3\n"
    assert (await session("print(round(model.predict([[3]])[0], 6), list(df.columns))")).stdout == "7.0 ['a', 'b']\n"
