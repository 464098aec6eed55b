"""Jobs over NATS with plain nats-py: one that a daemon is asked for directly, and one that JetStream keeps until it has a result.

python examples/nats_py.py run 'print(6 * 7)'          # request and reply, with output while it runs
python examples/nats_py.py submit 'print(6 * 7)'       # durable: prints the job's id
python examples/nats_py.py result <id>                 # its result, now or as soon as there is one

NATS_URL names another server than nats://127.0.0.1:4222.
"""

import asyncio
import json
import os
import sys
import uuid
from typing import Any

import nats
from nats.aio.client import Client
from nats.js.errors import NotFoundError


async def run(client: Client, code: str) -> None:
    """Ask a daemon; its answers come to an inbox of our own: output as it is written, and the result last."""
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox)
    job = json.dumps({"code": code}).encode()
    await client.publish("rd.v1.run.default.py", job, reply=inbox, headers={"Rd-Stream": "reply"})  # rd.v1.run.<tenant>.<language>
    while True:
        message = await answers.next_msg(timeout=60)
        if (message.headers or {}).get("Status") == "503":
            sys.exit("no daemon is there, or all are full: nothing was run, so try again")
        answer = json.loads(message.data)
        if "error" in answer:
            sys.exit(answer["error"])
        if answer["type"] == "output":
            print("output:", answer["text"], end="")
        if answer["type"] == "result":
            return show(answer)


async def submit(client: Client, code: str) -> None:
    """Hand a job to the stream. When it has said so, the job ends in exactly one result, whatever dies meanwhile."""
    job_id = uuid.uuid4().hex  # the same id again gets the same result, and runs nothing
    subject = f"rd.v1.job.default.std.py.{job_id}"  # rd.v1.job.<tenant>.<class>.<language>.<job>; classes are hi, std and low
    await client.jetstream().publish(subject, json.dumps({"code": code}).encode())
    print(job_id)


async def result(client: Client, job_id: str) -> None:
    """The result from its stream, where it is kept for a day; else wait until it is published."""
    subject = f"rd.v1.res.default.{job_id}"
    published = await client.subscribe(subject)  # before we look, so that it can't slip through
    try:
        message = await client.jetstream().get_last_msg("RD_RES", subject, direct=True)
    except NotFoundError:
        message = await published.next_msg(timeout=60)
    show(json.loads(message.data or b"{}"))


def show(answer: dict[str, Any]) -> None:
    """How the job ended."""
    print(answer["status"], answer.get("exit_code"), json.dumps(answer["stdout"]))


async def main(what: str, argument: str) -> None:
    """Connect, and do what was asked for."""
    async with await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222")) as client:
        await {"run": run, "submit": submit, "result": result}[what](client, argument)


asyncio.run(main(*sys.argv[1:]))
