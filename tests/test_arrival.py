"""What arrives, as a job; and what doesn't become one."""

import json

import pytest

from runnerd import MSGPACK, Delivery, Job, Limits, Rejected, encode
from runnerd.arrival import Names, arrival, refusal

NAMES = Names(["py", "cpp"], {"python": "py", "c++": "cpp"})


def delivery(body: str = '{"code": "hi"}', **beside: object) -> Delivery:
    return Delivery(body=body.encode(), **({"tenant": "acme", "lang": "py"} | beside))  # type: ignore[arg-type]


def test_a_bus_says_whose_job_it_is_and_in_what_language() -> None:
    came = arrival(delivery(), NAMES)
    assert (came.job.tenant, came.job.lang, came.job.code, came.owned) == ("acme", "py", "hi", False)
    assert len(came.job.id) == 32


def test_an_id_of_the_callers_is_kept() -> None:
    for one in (delivery(job_id="order-1"), delivery('{"id": "order-1", "code": ""}'), Job(id="order-1", lang="py", code="")):
        came = arrival(one, NAMES)
        assert (came.job.id, came.owned) == ("order-1", True)


def test_a_job_of_no_tenant_is_everybodys() -> None:
    assert arrival(Job(lang="py", code=""), NAMES).job.tenant == "default"


@pytest.mark.parametrize(("name", "code"), [("py", "py"), ("python", "py"), ("Python", "py"), ("PY", "py"), ("C++", "cpp")])
def test_a_body_may_name_a_language_by_its_aliases(name: str, code: str) -> None:
    assert arrival(Job(lang=name, code=""), NAMES).job.lang == code
    assert arrival(delivery(f'{{"lang": "{name}", "code": ""}}', lang=code), NAMES).job.lang == code


def test_streaming_is_asked_for_beside_or_in_the_body() -> None:
    assert not arrival(delivery(), NAMES).job.stream
    assert arrival(delivery(stream=True), NAMES).job.stream
    assert arrival(delivery('{"code": "", "stream": true}'), NAMES).job.stream


def test_message_pack() -> None:
    came = Delivery(body=encode(Job(code="hi"), MSGPACK), content_type="application/x-msgpack; v=1", tenant="a", lang="py")
    assert arrival(came, NAMES).job.code == "hi"


REFUSED = {
    "not JSON": (delivery("{"), "not a job in application/json"),
    "wrong type": (delivery('{"code": 5}'), "$.code"),
    "content type": (delivery(content_type="text/xml"), "content type 'text/xml' is not known"),
    "no program": (delivery("{}"), "code: missing"),
    "no language": (delivery(lang=""), "lang: missing"),
    "unknown language": (delivery(lang="pyy"), "lang: no language 'pyy' here: did you mean 'py'?"),
    "unknown language in the body": (Job(lang="cobol", code=""), "lang: no language 'cobol' here: there are cpp, py"),
    "alias in the subject": (delivery(lang="python"), "lang: a subject names languages by their codes: use 'py' in place of 'python'"),
    "two languages": (delivery('{"lang": "c++", "code": ""}'), "lang: the body says 'c++', the subject 'py'"),
    "two tenants": (delivery('{"tenant": "other", "code": ""}'), "tenant: the body says 'other', and 'acme' came beside it"),
    "two ids": (delivery('{"id": "a", "code": ""}', job_id="b"), "id: the body says 'a', and 'b' came beside it"),
    "bad id": (delivery(job_id="a b"), "id: 'a b', as it came beside the body, must match"),
    "bad tenant": (delivery(tenant="a.b"), "tenant: 'a.b', as it came beside the body, must match"),
    "retry beside the body": (
        delivery(retry_on=("crash",)),
        "retry_on: 'crash', as it came beside the body, is not known: use timeout or oom",
    ),
    "retry in the body": (delivery('{"code": "", "retry_on": ["failed"]}'), "$.retry_on"),
    "retry off": (
        delivery('{"code": "", "retry": false}', retry_on=("oom",)),
        "retry_on: the job is started once at most, as retry is off",
    ),
    "interactive": (delivery('{"code": "", "interactive": true}', retry_on=("oom",)), "as it is interactive: leave out one of the two"),
    "tools": (
        Job(lang="py", code="", tools=("add",), retry_on=("timeout",)),
        "retry_on: the job is started once at most, as it names tools",
    ),
    "bad job": (Job(id="a/b", lang="py", code=""), "id: 'a/b' must match"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_field_and_the_fix(case: str) -> None:
    came, reason = REFUSED[case]
    with pytest.raises(Rejected) as caught:
        arrival(came, NAMES)
    result = refusal(came, caught.value)
    assert reason in result.reason
    assert result.status == "rejected"
    assert result.id
    assert result.sandbox is None


def test_a_refusal_says_whose_it_was() -> None:
    result = refusal(delivery(job_id="order-1"), Rejected("no"))
    assert (result.id, result.tenant, result.lang) == ("order-1", "acme", "py")


@pytest.mark.parametrize(
    ("inside", "beside", "holds"), [(None, None, None), (2.0, None, 2.0), (None, 3.0, 3.0), (2.0, 3.0, 2.0), (4.0, 3.0, 3.0)]
)
def test_of_two_times_the_smaller_holds(inside: float | None, beside: float | None, holds: float | None) -> None:
    body = encode(Job(code="hi", limits=Limits(wall_s=inside), queue_ttl_s=inside))
    job = arrival(Delivery(body=body, lang="py", wall_s=beside, queue_ttl_s=beside), NAMES).job
    assert (job.limits.wall_s, job.queue_ttl_s) == (holds, holds)


@pytest.mark.parametrize(
    ("inside", "beside", "holds"),
    [
        ([], (), ()),
        (["oom"], (), ("oom",)),
        ([], ("oom", "timeout"), ("timeout", "oom")),
        (["oom"], ("timeout", "oom"), ("timeout", "oom")),
        (["oom", "timeout"], (), ("timeout", "oom")),
    ],
)
def test_what_is_started_again_is_said_beside_and_in_the_body(inside: list[str], beside: tuple[str, ...], holds: tuple[str, ...]) -> None:
    assert arrival(delivery(json.dumps({"code": "", "retry_on": inside}), retry_on=beside), NAMES).job.retry_on == holds


@pytest.mark.parametrize(("inside", "beside", "left"), [(None, None, None), (5, None, 3), (None, 4, 2), (1, 9, -1)])
def test_what_it_waited_on_its_bus_counts(inside: float | None, beside: float | None, left: float | None) -> None:
    body = encode(Job(code="", queue_ttl_s=inside)).decode()
    assert arrival(delivery(body, queue_ttl_s=beside, waited_s=2.0), NAMES).job.queue_ttl_s == left


def test_the_messages_own_name_is_the_id_where_nobody_gives_one() -> None:
    came = arrival(delivery(message_id="js-1-1", kept=True), NAMES)
    assert (came.job.id, came.owned, came.kept) == ("js-1-1", True, True)
    assert arrival(delivery('{"code": "", "id": "mine"}', message_id="js-1-1"), NAMES).job.id == "mine"
    assert arrival(delivery(job_id="header", message_id="js-1-1"), NAMES).job.id == "header"
