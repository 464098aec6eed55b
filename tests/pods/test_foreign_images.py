"""Images that know nothing of runnerd: the agent is brought in, with an interpreter and a loader of its own."""

import subprocess
from pathlib import Path

import msgspec
import pytest

from cluster_fixture import CLUSTER, LIMITS, START_S, settings
from conftest import bundled_languages
from runnerd import Job, Language, Result, SandboxError
from runnerd.executors.pods.cluster import Cluster
from runnerd.executors.pods.executor import open_pods
from runnerd.limits import allowed

pytestmark = [pytest.mark.pods, pytest.mark.slow]
FOREIGN = Path(__file__).parent / "foreign"


@pytest.fixture(scope="module", params=["static", "musl", "debian"])
def image(request: pytest.FixtureRequest) -> str:
    tag = f"localhost/runnerd-test-{request.param}:latest"
    command = [CLUSTER / "build-image", tag, FOREIGN, FOREIGN / "Dockerfile", "--target", request.param]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tag


async def run(config: str, cluster: Cluster, language: Language, code: str) -> Result:
    async with open_pods(settings(config, cluster.namespace), LIMITS, START_S) as executor, executor.sandbox(language) as sandbox:
        job = Job(id="j", tenant="t", lang=language.code, code=code)
        *_, last = [event async for event in sandbox.run(job, language, allowed(language, LIMITS))]
    assert isinstance(last, Result)
    return last


async def test_a_shell(config: str, cluster: Cluster, image: str) -> None:
    bash = msgspec.structs.replace(bundled_languages()["bash"], image=image, warm=1, run=("sh", "{file}"))
    result = await run(config, cluster, bash, "read line < /proc/self/comm; echo hi; echo 5 > new; exit 3")
    assert (result.status, result.exit_code, result.stdout) == ("failed", 3, "hi\n"), result
    assert [(file.name, file.content) for file in result.files] == [("new", b"5\n")]


async def test_an_image_without_python_says_so(config: str, cluster: Cluster, image: str) -> None:
    if "static" not in image:
        pytest.skip("one is enough")
    py = msgspec.structs.replace(bundled_languages()["py"], image=image)
    with pytest.raises(SandboxError, match=r"\"python3\": executable file not found"):
        await run(config, cluster, py, "print('hi')")


async def test_the_images_own_python_stands_by(config: str, cluster: Cluster, image: str) -> None:
    if "debian" not in image:
        pytest.skip("it has none")
    py = msgspec.structs.replace(bundled_languages()["py"], image=image)
    result = await run(config, cluster, py, "import sys\nprint(sys.prefix)")
    assert result.stdout == "/usr\n", result
