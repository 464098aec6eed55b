"""A real RabbitMQ for tests: one node per run of the suite, a virtual host per test, and the node's own words to command it.

Debian's `rabbitmq-server` is started on free ports in a scratch directory, with an epmd and a cookie of its own, and
killed at the end. It is loopback only, and nothing of the machine's own RabbitMQ is touched.
"""

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trustme

from nats_fixture import wait_until
from runnerd import new_id

SCRIPT = "/usr/lib/rabbitmq/bin/rabbitmq-server"
START_S = 120.0
COOKIE = "runnerd-tests"


def free_port() -> int:
    """A port below those that the kernel gives out itself, so that nobody gets it in between."""
    for _ in range(1000):
        port = 22_000 + int.from_bytes(os.urandom(2)) % 9_000
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("there is no free port")


class Broker:
    """A node that keeps its ports and its data when it is started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.tls_port = free_port()
        self._epmd_port = free_port()
        self._dist_port = free_port()
        self._name = f"rd-{self.port}@localhost"
        self._epmd: asyncio.subprocess.Process | None = None
        self._process: asyncio.subprocess.Process | None = None

    def url(self, vhost: str, user: str = "guest", password: str = "guest") -> str:
        return f"amqp://{user}:{password}@127.0.0.1:{self.port}/{vhost}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the node and wait until it listens."""
        assert Path(SCRIPT).exists(), "apt-get install rabbitmq-server"
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._epmd is None:
            self._certify()
            self._epmd = await asyncio.create_subprocess_exec("epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1")
        with (self.directory / "stdout").open("ab") as out:
            self._process = await asyncio.create_subprocess_exec(
                SCRIPT, env=self._environ(), stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        await wait_until(lambda: self._listens() or self._process.returncode is not None, "rabbitmq-server listens", START_S)
        assert self._process.returncode is None, (self.directory / "stdout").read_text()[-2000:]

    async def kill(self) -> None:
        """SIGKILL, for the node and its helpers."""
        if self._process is not None and self.running:
            # the votes of quorum queues are on disk some seconds after those are made: a node that is killed before may find
            # no leader for them again, and a test has no time to wait
            await self.tell("[dets:sync(Table) || Table <- dets:all()]")
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
            await wait_until(lambda: not self._listens(), "the node is gone")

    async def stop(self) -> None:
        """Kill all that was started, and leave nothing."""
        await self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            await self._epmd.wait()

    async def tell(self, erlang: str) -> str:
        """Evaluate an expression in the node, as `rabbitmqctl eval` does, in a hundredth of its time."""
        process = await asyncio.create_subprocess_exec(
            "erl_call",
            *("-n", self._name, "-c", COOKIE, "-e"),
            env={"PATH": os.environ["PATH"], "HOME": str(self.directory), "ERL_EPMD_PORT": str(self._epmd_port)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate(f"{erlang}.\n".encode())
        text = said.decode(errors="replace")
        assert text.startswith("{ok, "), f"{erlang}: {text}"
        return text.removeprefix("{ok, ").rstrip().removesuffix("}")

    async def close_connections(self, why: str = "a test") -> None:
        """As `rabbitmqctl close_all_connections`."""
        await self.tell(f'[rabbit_networking:close_connection(Pid, "{why}") || Pid <- rabbit_networking:connections()], ok')

    async def queue(self, vhost: str, name: str) -> tuple[int, int, int]:
        """Messages ready, messages unacknowledged, consumers: as they are now, and not when statistics were last collected."""
        keys = "[messages_ready, messages_unacknowledged, consumers]"
        queries = "[query_messages_ready, query_messages_checked_out, query_consumer_count]"
        said = await self.tell(
            f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{name}">>)), '
            "list_to_tuple(case amqqueue:get_type(Q) of "
            "rabbit_quorum_queue -> [begin {ok, {_, N}, _} = ra:leader_query(amqqueue:get_pid(Q), fun rabbit_fifo:F/1), N end "
            f"|| F <- {queries}]; "
            f"_ -> [proplists:get_value(K, rabbit_amqqueue:info(Q, [K])) || K <- {keys}] end)"
        )
        ready, unacknowledged, consumers = (int(number) for number in said.strip("{}").split(","))
        return ready, unacknowledged, consumers

    async def until(
        self, vhost: str, name: str, *, ready: int | None = None, unacked: int | None = None, consumers: int | None = None
    ) -> None:
        """Wait until a queue is as it should be."""
        wanted = (ready, unacked, consumers)
        found: tuple[int, int, int] | None = None
        try:
            async with asyncio.timeout(60):
                while found is None or any(want not in (None, have) for want, have in zip(wanted, found, strict=True)):
                    with suppress(AssertionError):  # of a queue that has no leader yet, or is not there
                        found = await self.queue(vhost, name)
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"{name} has (ready, unacked, consumers) {found} instead of {wanted}") from None

    async def connections(self) -> list[str]:
        """The names of all connections, as their clients gave them."""
        said = await self.tell(
            "[begin [{client_properties, P}] = rabbit_networking:connection_info(C, [client_properties]), "
            '{_, _, N} = lists:keyfind(<<"connection_name">>, 1, P ++ [{<<"connection_name">>, longstr, <<"?">>}]), binary_to_list(N) end '
            "|| C <- rabbit_networking:connections()]"
        )
        return [name.strip().strip('"') for name in said.strip("[]").split(",") if name.strip()]

    @asynccontextmanager
    async def vhost(self) -> AsyncIterator[str]:
        """A virtual host of its own, in which `guest` may do everything."""
        name = f"t-{new_id()}"
        await self.tell(f'rabbit_vhost:add(<<"{name}">>, <<"guest">>)')
        await self.allow(name, "guest", ".*", ".*", ".*")
        try:
            yield name
        finally:
            with suppress(AssertionError):  # of a test that left the node dead
                await self.tell(f'rabbit_vhost:delete(<<"{name}">>, <<"guest">>)')

    async def allow(self, vhost: str, user: str, configure: str, write: str, read: str) -> None:
        rights = ", ".join(f'<<"{each}">>' for each in (configure, write, read))
        await self.tell(f'rabbit_auth_backend_internal:set_permissions(<<"{user}">>, <<"{vhost}">>, {rights}, <<"guest">>)')

    async def policy(self, vhost: str, name: str, pattern: str, definition: str, apply_to: str = "queues") -> None:
        """`definition` in JSON."""
        quoted = definition.replace('"', '\\"')
        names = ", ".join(f'<<"{each}">>' for each in (vhost, name, pattern))
        said = await self.tell(f'rabbit_policy:parse_set({names}, <<"{quoted}">>, 0, <<"{apply_to}">>, <<"guest">>)')
        assert said == "ok", said

    async def alarm(self, *, on: bool) -> None:
        """Raise the memory alarm, which blocks all connections that publish, or end it."""
        await self.tell(f"vm_memory_monitor:set_vm_memory_high_watermark({'0.0001' if on else '0.4'})")

    def _certify(self) -> None:
        """An authority, the node's certificate, and one for a client whose name is `certified`."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.directory / "ca.pem")
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(self.directory / "server.pem")
        certified = authority.issue_cert("certified@example.org", common_name="certified")
        certified.private_key_and_cert_chain_pem.write_to_path(self.directory / "client.pem")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _environ(self) -> dict[str, str]:
        directory = self.directory
        config = {
            "loopback_users": "none",
            "log.file.level": "warning",
            "listeners.ssl.default": f"127.0.0.1:{self.tls_port}",
            "ssl_options.cacertfile": str(directory / "ca.pem"),
            "ssl_options.certfile": str(directory / "server.pem"),
            "ssl_options.keyfile": str(directory / "server.pem"),
            "ssl_options.verify": "verify_peer",
            "ssl_options.fail_if_no_peer_cert": "false",
            "ssl_cert_login_from": "common_name",
            "auth_mechanisms.1": "PLAIN",
            "auth_mechanisms.2": "EXTERNAL",
        }
        (directory / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in config.items()))
        (directory / "plugins").write_text("[rabbitmq_auth_mechanism_ssl].\n")
        distribution = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "PATH": f"/usr/lib/rabbitmq/bin:{os.environ['PATH']}",
            "HOME": str(directory),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 1:1 +sbwt none -setcookie {COOKIE} {distribution}",
        }


@asynccontextmanager
async def broker(directory: Path) -> AsyncIterator[Broker]:
    """A node while the block is open; its data goes with it."""
    node = Broker(directory)
    try:
        await node.start()
        yield node
    finally:
        await node.stop()
        shutil.rmtree(directory, ignore_errors=True)
