"""The RabbitMQ ingress against a real broker: jobs, answers, streams, questions, retries, dead letters."""

from rabbitmq_bench import bench, headers_of, result_of
from rabbitmq_fixture import Broker


async def test_a_job_in_and_its_result_out(rabbitmq: Broker) -> None:
    async with bench(rabbitmq) as b:
        msg = await b.client.run("echo hi", message_id="job-1", headers={"traceparent": "00-mine"})
        result = result_of(msg)
        assert (result.status, result.stdout, result.id, result.tenant, result.lang) == ("ok", "hi", "job-1", "acme", "py")
        assert (msg.type, msg.message_id, msg.content_type, msg.delivery_mode) == ("rd.result", "job-1.res", "application/json", 2)
        headers = headers_of(msg)
        assert headers.pop("Rd-Duration-Ms") > 0
        assert headers == {"Rd-Kind": "result", "Rd-Job-Id": "job-1", "Rd-Status": "ok", "Rd-Exit-Code": 0, "traceparent": "00-mine"}
