"""What operators do with RabbitMQ: prepare it, import definitions, give permissions, look at dead letters; and a real daemon on it."""

import asyncio
import json
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aio_pika.exceptions import AMQPError
from runnerd_plugins.ingress.rabbitmq import RabbitMq

from fake_services import FakeServices
from rabbitmq_bench import bench, client, held, opened, result_of
from rabbitmq_fixture import Broker
from runnerd import Job, encode
from serving import serving

DEPLOY = Path(__file__).parent.parent / "deploy" / "rabbitmq"


async def test_prepare_tells_what_is_missing_makes_it_and_finds_it(rabbitmq: Broker) -> None:
    async with rabbitmq.vhost() as vhost:
        ingress = RabbitMq(url=rabbitmq.url(vhost), connect_s=30.0)
        found = await ingress.prepare(make=False)
        assert (len(found.missing), found.made) == (14, ())
        assert (await ingress.prepare(make=True)).made == found.missing
        assert await ingress.prepare(make=False) == await ingress.prepare(make=True)


async def test_definitions_are_what_prepare_finds_complete(rabbitmq: Broker) -> None:
    async with rabbitmq.vhost() as vhost:
        definitions = json.loads((DEPLOY / "definitions.json").read_text().replace('"runnerd"', f'"{vhost}"'))
        definitions["vhosts"] = []
        path = rabbitmq.directory / "definitions.json"
        path.write_text(json.dumps(definitions))
        await rabbitmq.tell(f'{{ok, Text}} = file:read_file("{path}"), ok = rabbit_definitions:import_raw(Text)')
        found = await RabbitMq(url=rabbitmq.url(vhost), connect_s=30.0).prepare(make=False)
        assert (found.missing, found.different) == ((), ())
        async with opened(FakeServices(), rabbitmq.url(vhost), topology="verify"), client(rabbitmq.url(vhost)) as c:
            assert result_of(await c.run("echo hi")).stdout == "hi"


async def test_what_the_broker_gives_up_becomes_a_dead_letter_by_policy(rabbitmq: Broker) -> None:
    async with rabbitmq.vhost() as vhost, client(rabbitmq.url(vhost)) as c:
        await RabbitMq(url=rabbitmq.url(vhost), connect_s=30.0).prepare(make=True)
        definitions = json.loads((DEPLOY / "definitions.json").read_text())
        for policy in definitions["policies"]:
            await rabbitmq.policy(vhost, policy["name"], policy["pattern"].replace("\\", "\\\\"), json.dumps(policy["definition"]))
        await c.send(encode(Job(code="echo late")), message_id="late", expiration=0.01)
        await rabbitmq.until(vhost, "rd.dead", ready=1)
        async with RabbitMq(url=rabbitmq.url(vhost)).dead_letters() as letters:
            (letter,) = [letter async for letter in letters.all()]
            assert (letter.reason, letter.tenant, letter.lang, letter.job_id) == ("the broker: expired", "acme", "py", "late")


async def test_dead_letters_are_shown_and_submitted_again(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        for number in range(2):
            await b.client.run(f"die of {number}", message_id=f"d-{number}", headers={"mine": "kept"})
        async with RabbitMq(url=b.url, connect_s=30.0).dead_letters() as letters:
            found = [letter async for letter in letters.all()]
            assert [(each.job_id, each.reason, each.starts, each.address) for each in found] == [
                ("d-0", "of 0", 3, "job.acme.std.py"),
                ("d-1", "of 1", 3, "job.acme.std.py"),
            ]
            assert await letters.get(found[1].number) == found[1]
            assert await letters.get("another") is None
            await letters.replay(found[0], "d-0-again", encode(Job(code="echo better")))
            assert [letter.job_id async for letter in letters.all()] == ["d-1"]
        await held(lambda: b.services.results.get(("acme", "d-0-again")), "it runs again")
        assert b.services.results["acme", "d-0-again"].stdout == "better"


@pytest.fixture
async def users(rabbitmq: Broker) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """A virtual host with a daemon and two tenants as users, permitted by the script that is shipped."""
    async with rabbitmq.vhost() as vhost:
        await RabbitMq(url=rabbitmq.url(vhost), connect_s=30.0).prepare(make=True)
        commands = rabbitmq.directory / "rabbitmqctl"
        said = rabbitmq.directory / "said"
        commands.write_text(f'#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done >> {shlex.quote(str(said))}; echo >> {said}\n')
        commands.chmod(0o755)
        names = {name: f"{name}-{vhost}" for name in ("daemon", "acme", "globex")}
        said.write_text("")
        for name, user in names.items():
            await rabbitmq.tell(f'rabbit_auth_backend_internal:add_user(<<"{user}">>, <<"secret">>, <<"guest">>)')
            who = ("daemon", user) if name == "daemon" else ("tenant", user, name)
            subprocess.run([DEPLOY / "permissions", *who, vhost], check=True, env={"RABBITMQCTL": str(commands), "PATH": "/usr/bin:/bin"})
        for line in said.read_text().splitlines():
            command, _, _, *words = line.rstrip("\0").split("\0")
            user, *patterns = words
            given = ", ".join('<<"' + pattern.replace("\\", "\\\\") + '">>' for pattern in patterns)
            await rabbitmq.tell(f'rabbit_auth_backend_internal:{command}(<<"{user}">>, <<"{vhost}">>, {given}, <<"guest">>)')
        yield vhost, names
        for user in names.values():
            await rabbitmq.tell(f'rabbit_auth_backend_internal:delete_user(<<"{user}">>, <<"guest">>)')


async def test_permissions_suffice_and_keep_tenants_apart(rabbitmq: Broker, users: tuple[str, dict[str, str]]) -> None:
    vhost, names = users
    url = rabbitmq.url(vhost, names["daemon"], "secret")
    services = FakeServices()
    async with opened(services, url, topology="verify", events=True), client(rabbitmq.url(vhost, names["acme"], "secret")) as acme:
        assert result_of(await acme.run("echo hi", message_id="mine")).stdout == "hi"
        assert result_of(await acme.ask("ctl.acme.mine.status")).stdout == "hi"
        assert result_of(await acme.run("die young")).status == "dead"
        for exchange, key in (("rd.jobs", "job.globex.std.py"), ("", "rd.jobs.std"), ("rd.ctl", "ctl.globex.x.cancel"), ("rd.dlx", "x")):
            async with client(rabbitmq.url(vhost, names["acme"], "secret")) as other:
                with pytest.raises(AMQPError, match="ACCESS_REFUSED"):
                    await other.send(b"{}", key, exchange=exchange)
    assert {delivery.tenant for delivery in services.deliveries} == {"acme"}


async def test_a_real_daemon_runs_jobs_from_rabbitmq(rabbitmq: Broker, tmp_path: Path) -> None:
    async with rabbitmq.vhost() as vhost:
        flags = (
            "ingress.nats.enabled=false",
            "ingress.http.enabled=false",
            "ingress.rabbitmq.topology=ensure",
        )
        environ = {"RABBITMQ_URL": rabbitmq.url(vhost)}
        async with serving(tmp_path / "daemon", *flags, environ=environ) as daemon, client(rabbitmq.url(vhost)) as c:
            result = result_of(await c.run("print(6 * 7)", message_id="real"))
            assert (result.status, result.stdout, result.sandbox is not None) == ("ok", "42\n", True)
            again = result_of(await c.run("print(6 * 7)", message_id="real"))
            assert again == result, "the record answers"
            other = result_of(await c.run("print(6 * 8)", message_id="real"))
            assert (other.status, "used for another job" in other.reason) == ("rejected", True)
            bare = await c.send(encode(Job(code="print(1)")), reply_to=None, correlation_id=None)
            assert bare == ""
            await rabbitmq.until(vhost, "rd.jobs.std", ready=0, unacked=0, consumers=1)
            code, said = await daemon.stop()
            assert code == 0, said
        assert "guest:" not in (tmp_path / "daemon" / "log").read_text()
        await rabbitmq.until(vhost, "rd.jobs.std", ready=0, unacked=0, consumers=0)


async def test_the_example_with_plain_pika(rabbitmq: Broker) -> None:
    services = FakeServices()
    async with rabbitmq.vhost() as vhost, opened(services, rabbitmq.url(vhost)):
        example = DEPLOY.parent.parent / "examples" / "rabbitmq_pika.py"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(example, "stream 2 3"),
            env={"RABBITMQ_URL": rabbitmq.url(vhost), "PATH": "/usr/bin:/bin"},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        assert said.decode() == 'output: xxxoutput: xxxok 0 "streamed"\n'
