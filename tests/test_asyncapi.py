"""The AsyncAPI document: valid by the official schema, true of the settings, and made of what the code has."""

import json
import re
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from asyncapi_document import Document, references, violations
from distributions import Site
from runnerd import (
    Description,
    Event,
    Ingress,
    IngressError,
    Job,
    Language,
    Message,
    Operation,
    Result,
    Server,
    __version__,
    asyncapi,
    decode_job,
    encode,
    json_schema,
)
from runnerd.config import load_config
from runnerd.daemon import effective_languages
from runnerd.plugins import find_plugins
from runnerd.testing.description import check_description
from test_commands import Runnerd, dists, runnerd

__all__ = ["dists", "runnerd"]  # fixtures

PIGEONS = """
from runnerd import Ingress, hookimpl

class Pigeons(Ingress, tag="pigeons", frozen=True, kw_only=True):
    pass

@hookimpl
def register_ingress():
    return [Pigeons]
"""
ROOT = Path(__file__).parent.parent
EVERYTHING = ("ingress.rabbitmq.enabled=true", "ingress.nats.jetstream.streams=ensure", "ingress.rabbitmq.events=true")
SECRETS = (
    "ingress.nats.url=nats://who:first-secret@bus:4222,tls://who:first-secret@other:4223",
    "ingress.nats.user=who",
    "ingress.nats.password=second-secret",
    "ingress.rabbitmq.enabled=true",
    "ingress.rabbitmq.url=amqp://who:third-secret@rabbit:5672/shop?heartbeat=1",
    "ingress.rabbitmq.password=fourth-secret",
    "ingress.http.api_key=fifth-secret-of-sixteen",
)
READ = re.compile(r'"(rd-[a-z0-9-]+)"')
WRITTEN = re.compile(r'"((?:Rd|Nats)-[A-Za-z0-9-]+)"')
NO_HEADERS = {"rd-due"}
"""A consumer's name."""
OWN_HEADERS = {"rd-again", "rd-came", "rd-copy", "rd-delay"}
"""What the RabbitMQ ingress tells itself by way of its retry queues."""
SERVERS_HEADERS = {"nats-scheduler", "nats-subject", "nats-sequence", "nats-time-stamp"}
"""What the server says to the ingress alone."""


def made(*flags: str) -> Document:
    """The document of a configuration, where there are no other settings."""
    plugins = find_plugins()
    settings = load_config(plugins, flags=flags, environ={"HOME": "/root"}, directory=Path("/nonexistent")).settings
    return Document(asyncapi.of(settings.ingress, effective_languages(settings, plugins), {}))


@pytest.fixture(scope="module")
def everything() -> Document:
    return made(*EVERYTHING)


class TestDocument:
    def test_is_valid_by_the_official_schema(self, everything: Document) -> None:
        assert violations(everything.data) == []
        assert violations(made().data) == []

    def test_the_official_schema_finds_what_is_wrong(self, everything: Document) -> None:
        """It looks below references, into bindings and schemas."""
        for path, value in (
            (("operations", "nats_run", "action"), "take"),
            (("operations", "nats_run", "bindings", "nats", "queue"), 1),
            (("components", "schemas", "Job", "properties", "id", "type"), "text"),
            (("channels", "rabbitmq_job", "bindings", "amqp", "exchange", "type"), "subject"),
        ):
            broken = json.loads(json.dumps(everything.data))
            part = broken
            for name in path[:-1]:
                part = part[name]
            part[path[-1]] = value
            assert violations(broken), path

    def test_every_reference_leads_somewhere(self, everything: Document) -> None:
        found = set(references(everything.data))
        assert len(found) > 50
        for reference in found:
            assert everything.resolve({"$ref": reference})

    def test_every_operation_has_its_channel_and_its_messages(self, everything: Document) -> None:
        assert everything.data["operations"]
        for operation in everything.data["operations"].values():
            channel = everything.channel(operation)
            assert set(re.findall(r"\{(\w+)\}", channel["address"])) == set(channel.get("parameters", {}))
            assert {each["$ref"] for each in operation["messages"]} <= {
                f"{operation['channel']['$ref']}/messages/{name}" for name in channel["messages"]
            }
            if "reply" in operation:
                replies = everything.resolve(operation["reply"]["channel"])
                assert replies["address"] is None
                assert len(everything.replies(operation)) == len(operation["reply"]["messages"])

    def test_every_example_is_what_it_says(self, everything: Document) -> None:
        """By the document's own schemas and by the codec of runnerd."""
        jobs = results = 0
        for message in everything.data["components"]["messages"].values():
            for example in message.get("examples", []):
                assert not everything.problem(
                    message, {**always(message), **example.get("headers", {})}, json.dumps(example["payload"]).encode()
                )
                body = json.dumps(example["payload"]).encode()
                if message["payload"] == {"$ref": "#/components/schemas/Job"}:
                    jobs += 1
                    assert decode_job(body).code
                elif message["payload"] == {"$ref": "#/components/schemas/Result"}:
                    results += 1
                    assert msgspec.json.decode(body, type=Result).status == "ok"
        assert (jobs, results) == (4, 3)

    def test_is_small_enough_for_any_bus(self, everything: Document) -> None:
        assert len(msgspec.json.encode(everything.data)) < 500_000

    def test_fields_have_the_meaning_that_stands_in_the_code(self, everything: Document) -> None:
        job = everything.data["components"]["schemas"]["Job"]["properties"]
        assert job["queue_ttl_s"]["description"] == "Give up (`expired`) when no sandbox was free for so long."
        assert set(job) == set(json_schema()["$defs"]["Job"]["properties"])

    def test_types_of_one_name_in_two_plugins_stay_apart(self, everything: Document) -> None:
        schemas = everything.data["components"]["schemas"]
        assert "retry_after_ms" in schemas["Refused"]["properties"]
        assert "retry_after_ms" not in schemas["rabbitmq_Refused"]["properties"]
        assert everything.data["components"]["messages"]["rabbitmq_Refused"]["payload"] == {"$ref": "#/components/schemas/rabbitmq_Refused"}

    def test_every_event_is_described(self, everything: Document) -> None:
        bodies = {
            message["payload"]["$ref"].rpartition("/")[2] for message in everything.replies(everything.data["operations"]["nats_run"])
        }
        assert {event.__name__ for event in typing.get_args(Event)} <= bodies


def always(message: Mapping[str, Any]) -> dict[str, Any]:
    """The headers that a message always has, with values that are allowed."""
    schema = message.get("headers", {})
    return {name: schema["properties"][name].get("enum", ["1"])[0] for name in schema.get("required", [])}


@pytest.mark.parametrize("kind", ["nats", "rabbitmq"])
def test_every_header_of_the_code_is_described_and_no_other(everything: Document, kind: str) -> None:
    files = [path for path in (ROOT / "plugins/ingress" / kind).rglob("*.py") if path.name not in ("headers.py", "description.py")]
    source = "\n".join(path.read_text() for path in files)
    known = {name.lower() for name in READ.findall(source) + WRITTEN.findall(source)} - NO_HEADERS - OWN_HEADERS - SERVERS_HEADERS
    messages = [message for name, message in everything.data["components"]["messages"].items() if name.startswith(kind)]
    headers = {name.lower() for message in messages for name in message.get("headers", {}).get("properties", {})}
    theirs = {name for name in headers if name.startswith(("rd-", "nats-"))} - {"nats-schedule", "nats-schedule-target"}
    assert theirs == known


def test_tenants_of_the_shipped_accounts_may_send_all_that_is_described(everything: Document) -> None:
    accounts = (ROOT / "deploy/nats/accounts.conf").read_text()
    (tenant,) = re.findall(r"^ACME: \{\n  publish: \{\n(.*?)\n  \}", accounts, re.DOTALL | re.MULTILINE)
    allowed = "|".join(re.escape(subject).replace(r"\*", "[^.]+").replace(">", ".+") for subject in re.findall(r'"([^"]+)"', tenant))
    subjects = [everything.address(operation, tenant="acme") for operation in everything.operations("nats").values()]
    assert [subject for subject in subjects if not re.fullmatch(allowed, subject)] == []
    assert not re.fullmatch(allowed, "rd.v1.run.globex.py")


class TestSettings:
    def test_names_are_those_of_the_settings(self) -> None:
        found = made(
            "ingress.nats.prefix=jobs.v2",
            "ingress.nats.queue=workers",
            "ingress.nats.tenants=acme,globex",
            "ingress.nats.jetstream.streams=ensure",
            "ingress.nats.jetstream.stream_prefix=X_",
            "ingress.nats.jetstream.classes=urgent,normal",
            "ingress.rabbitmq.enabled=true",
            "ingress.rabbitmq.prefix=shop",
            "ingress.rabbitmq.classes=only",
            "ingress.rabbitmq.control=false",
            "ingress.http.api_key_header=x-key",
        )
        assert violations(found.data) == []
        run, job = found.data["operations"]["nats_run"], found.data["operations"]["nats_job"]
        assert found.address(run) == "jobs.v2.run.acme.py"
        assert run["bindings"]["nats"]["queue"] == "workers"
        assert found.channel(run)["parameters"]["tenant"]["enum"] == ["acme", "globex"]
        assert found.address(job) == "jobs.v2.job.acme.urgent.py"
        assert job["x-runnerd-jetstream"]["stream"] == "X_JOBS"
        rabbitmq = found.operations("amqp")
        assert set(rabbitmq) == {"rabbitmq_job"}
        assert found.channel(rabbitmq["rabbitmq_job"])["bindings"]["amqp"]["exchange"]["name"] == "shop.jobs"
        assert rabbitmq["rabbitmq_job"]["x-runnerd-queues"] == ["shop.jobs.only"]
        assert found.data["components"]["securitySchemes"]["http"]["name"] == "x-key"

    def test_what_is_off_is_not_there(self) -> None:
        found = made("ingress.nats.jetstream.streams=off", "ingress.http.enabled=false")
        assert {operation for operation in found.data["operations"] if "job" in operation or not operation.startswith("nats")} == set()

    def test_durable_jobs_of_another_server_are_conditional(self) -> None:
        found = made("ingress.nats.url=nats://bus:4222")
        assert "condition" in found.data["operations"]["nats_job"]["x-runnerd-jetstream"]
        assert "condition" not in made().data["operations"]["nats_job"]["x-runnerd-jetstream"]

    def test_servers_without_their_passwords(self) -> None:
        found = made(*SECRETS)
        assert violations(found.data) == []
        assert "secret" not in json.dumps(found.data)
        assert found.data["servers"]["nats_2"]["summary"] == "By tls://"
        servers = {name: (server["host"], server["protocol"], server.get("pathname")) for name, server in found.data["servers"].items()}
        assert servers == {
            "nats": ("bus:4222", "nats", None),
            "nats_2": ("other:4223", "nats", None),
            "http": ("127.0.0.1:8000", "http", None),
            "rabbitmq": ("rabbit:5672", "amqp", "/shop"),
        }


class Silent(Ingress, tag="silent", frozen=True, kw_only=True):
    """As a plugin that knows nothing of descriptions."""


class Incapable(Ingress, tag="incapable", frozen=True, kw_only=True):
    """A plugin that lacks what it needs."""

    def describe(self, languages: Mapping[str, Language], address: str) -> Description | None:
        raise IngressError("ingress.incapable: needs the package pigeons")


class Broken(Ingress, tag="broken", frozen=True, kw_only=True):
    """A plugin whose description has a defect."""

    def describe(self, languages: Mapping[str, Language], address: str) -> Description | None:
        raise ZeroDivisionError


class Unspeakable(Ingress, tag="unspeakable", frozen=True, kw_only=True):
    """A plugin whose messages are of a type that has no schema."""

    def describe(self, languages: Mapping[str, Language], address: str) -> Description | None:
        job = Message(name="Letter", summary="A job.", payload=complex)
        take = Operation(name="loft", action="receive", address="/loft", summary="Bring a letter.", messages=(job,))
        return Description(servers=(Server(host="roof:1", protocol="pigeon"),), operations=(take,))


class Pigeons(Ingress, tag="pigeons", frozen=True, kw_only=True):
    """A small one of somebody else's."""

    def describe(self, languages: Mapping[str, Language], address: str) -> Description | None:
        job = Message(name="Letter", summary="A job.", payload=Job)
        take = Operation(name="loft", action="receive", address="/loft", summary="Bring a letter.", messages=(job,))
        return Description(servers=(Server(host="roof:1", protocol="pigeon"),), operations=(take,))


def test_ingresses_of_others() -> None:
    """Those that say nothing, and those that fail at it, are left out; the others are there."""
    pigeons = Pigeons()
    found = asyncapi.of(
        {"silent": Silent(), "incapable": Incapable(), "broken": Broken(), "unspeakable": Unspeakable(), "pigeons": pigeons}, {}, {}
    )
    assert violations(found) == []
    assert set(found["operations"]) == {"pigeons_loft"}
    said = pigeons.describe({}, "")
    assert said is not None
    check_description(said)
    assert violations(asyncapi.document({})) == []


class TestCommand:
    def test_json_and_yaml_say_the_same(self, runnerd: Runnerd) -> None:
        code, said, _ = runnerd("asyncapi")
        assert code == 0
        found = json.loads(said)
        assert (found["asyncapi"], found["info"]["version"]) == ("3.0.0", __version__)
        assert found == json.loads(runnerd("asyncapi", "--json")[1])
        assert found == yaml.safe_load(runnerd("asyncapi", "--yaml")[1])

    def test_the_configuration_at_hand(self, runnerd: Runnerd, tmp_path: Path) -> None:
        (tmp_path / "other.toml").write_text('[ingress.nats]\nprefix = "shop"\n')
        found = json.loads(runnerd("asyncapi", "--config", "other.toml", "--set", "ingress.http.enabled=false")[1])
        assert found["channels"]["nats_run"]["address"] == "shop.run.{tenant}.{lang}"
        assert set(found["servers"]) == {"nats"}

    @pytest.mark.parametrize(
        ("flags", "read"),
        [((), json.loads), (("--yaml",), yaml.safe_load), (("--json",), json.loads)],
    )
    def test_into_a_file(self, runnerd: Runnerd, tmp_path: Path, flags: tuple[str, ...], read: Callable[[str], Any]) -> None:
        code, said, _ = runnerd("asyncapi", "--out", "it.json", *flags)
        assert (code, said) == (0, "it.json: nats, http described\n")
        assert read((tmp_path / "it.json").read_text())["asyncapi"] == "3.0.0"

    def test_the_name_of_the_file_says_its_form(self, runnerd: Runnerd, tmp_path: Path) -> None:
        runnerd("asyncapi", "--out", "it.yaml")
        assert (tmp_path / "it.yaml").read_text().startswith("asyncapi: 3.0.0\n")

    def test_an_ingress_that_says_nothing_is_named(self, runnerd: Runnerd, dists: Site) -> None:
        dists.install("runnerd-pigeons", PIGEONS)
        code, said, told = runnerd("asyncapi", "--set", "ingress.pigeons.enabled=true")
        assert (code, told) == (0, "pigeons: does not describe itself, and is left out\n")
        assert set(json.loads(said)["servers"]) == {"nats", "http"}

    def test_errors_are_told_as_text(self, runnerd: Runnerd, tmp_path: Path) -> None:
        code, _, said = runnerd("asyncapi", "--out", "nowhere/it.json")
        assert (code, said) == (1, "runnerd: --out nowhere/it.json: can't be written: No such file or directory\n")
        code, _, said = runnerd("asyncapi", "--out", str(tmp_path))
        assert (code, said) == (1, f"runnerd: --out {tmp_path}: can't be written: Is a directory\n")
        code, _, said = runnerd("asyncapi", "--xml")
        assert code == 2
        assert "No such option: --xml" in said
        code, _, said = runnerd("asyncapi", "--set", "ingress.nats.prefx=x")
        assert (code, "did you mean ingress.nats.prefix?" in said) == (2, True)


def test_examples_are_as_short_as_they_are_sent() -> None:
    """Defaults are left out of jobs, so that a reader sees what counts."""
    job = made().data["components"]["messages"]["nats_Job"]["examples"][0]["payload"]
    assert json.loads(encode(Job(code=job["code"]))) == job
