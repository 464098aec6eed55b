"""Calls of tools from a pod: the program asks, who submitted it answers."""

import json
from pathlib import Path

import msgspec
import pytest

from cluster_fixture import until
from pod_daemons import flags
from runnerd import Job, Result, ToolCall
from runnerd.config import load_config
from runnerd.daemon import open_daemon
from runnerd.executors.pods.cluster import PODS, Cluster
from runnerd.plugins import find_plugins
from scheduled_pods import standing

pytestmark = pytest.mark.pods
ASKS = """
from runnerd_tools import ToolError, call
print(call("add", a=2, b=3))
try:
    call("break")
except ToolError as error:
    print("failed:", error)
"""


async def test_a_program_in_a_pod_asks_and_is_answered(config: str, cluster: Cluster, tmp_path: Path) -> None:
    given = [*flags(config, cluster, 1), f"state_dir={tmp_path}", "ingress.nats.enabled=false", "ingress.http.enabled=false"]
    plugins = find_plugins()
    settings = load_config(plugins, flags=given, environ={}, directory=tmp_path).settings
    async with open_daemon(settings, msgspec.structs.replace(plugins, languages={"py": plugins.languages["py"]})) as daemon:
        await until(cluster, PODS, "", lambda pods: len(standing(pods)) == 1)
        async for event in daemon.submit(Job(lang="py", code=ASKS, tools=("add", "break"))):
            if isinstance(event, ToolCall) and event.name == "add":
                arguments = json.loads(event.arguments)
                await daemon.answer(event.tenant, event.id, event.call, json.dumps(arguments["a"] + arguments["b"]).encode())
            elif isinstance(event, ToolCall):
                await daemon.answer(event.tenant, event.id, event.call, "it broke: €".encode(), failed=True)
        assert isinstance(event, Result)
        assert (event.status, event.stdout) == ("ok", "5\nfailed: it broke: €\n"), event
        assert event.sandbox is not None
        assert event.sandbox.executor == "pods"
