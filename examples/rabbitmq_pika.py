"""Submit a job over RabbitMQ with plain pika, see its output while it runs, and print its result.

RABBITMQ_URL=amqp://guest:guest@127.0.0.1:5672 python examples/rabbitmq_pika.py 'print(6 * 7)'
"""

import json
import os
import sys
import uuid

import pika

job_id = uuid.uuid4().hex  # the same id again gets the same result, and runs nothing
code = sys.argv[1] if len(sys.argv) > 1 else "print(6 * 7)"

connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672")))
channel = connection.channel()
channel.confirm_delivery()  # a full queue, or none, is an exception here
answers = channel.queue_declare("", exclusive=True).method.queue

channel.basic_publish(
    exchange="rd.jobs",
    routing_key="job.acme.std.py",  # job.<tenant>.<class>.<language>; classes are hi, std and low
    body=json.dumps({"code": code}),
    properties=pika.BasicProperties(
        message_id=job_id,
        reply_to=answers,
        correlation_id=job_id,
        content_type="application/json",
        delivery_mode=pika.DeliveryMode.Persistent,
        headers={"rd-stream": "reply"},  # output as it is written; leave it out to get the result alone
    ),
    mandatory=True,
)

for _, properties, body in channel.consume(answers, auto_ack=True, inactivity_timeout=60):
    if properties is None:
        sys.exit("no answer within a minute")
    answer = json.loads(body)
    if properties.type == "rd.out":
        print("output:", answer["text"], end="")
    if properties.type == "rd.result":
        print(answer["status"], answer.get("exit_code"), json.dumps(answer["stdout"]))
        break
connection.close()
