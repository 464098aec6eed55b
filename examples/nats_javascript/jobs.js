// Jobs over NATS from JavaScript: one that a daemon is asked for directly, and one that JetStream keeps until it has a result.
//
// npm install
// node jobs.js run 'print(6 * 7)'          request and reply, with output while it runs
// node jobs.js submit 'print(6 * 7)'       durable: prints the job's id
// node jobs.js result <id>                 its result, now or as soon as there is one
//
// NATS_URL names another server than nats://127.0.0.1:4222.

import { randomUUID } from "node:crypto";
import process from "node:process";
import { connect, createInbox, headers } from "nats";

const client = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });

// Ask a daemon; its answers come to an inbox of our own: output as it is written, and the result last.
async function run(code) {
  const inbox = createInbox();
  const answers = client.subscribe(inbox, { timeout: 60_000 });
  const how = headers();
  how.set("Rd-Stream", "reply");
  client.publish("rd.v1.run.default.py", JSON.stringify({ code }), { reply: inbox, headers: how }); // rd.v1.run.<tenant>.<language>
  for await (const message of answers) {
    if (message.headers?.code === 503) throw new Error("no daemon is there, or all are full: nothing was run, so try again");
    const answer = message.json();
    if (answer.error) throw new Error(answer.error);
    if (answer.type === "output") process.stdout.write(`output: ${answer.text}`);
    if (answer.type === "result") return show(answer);
  }
}

// Hand a job to the stream. When it has said so, the job ends in exactly one result, whatever dies meanwhile.
async function submit(code) {
  const id = randomUUID(); // the same id again gets the same result, and runs nothing
  const subject = `rd.v1.job.default.std.py.${id}`; // rd.v1.job.<tenant>.<class>.<language>.<job>; classes are hi, std and low
  await client.jetstream().publish(subject, JSON.stringify({ code }));
  console.log(id);
}

// The result from its stream, where it is kept for a day; else wait until it is published.
async function result(id) {
  const subject = `rd.v1.res.default.${id}`;
  const published = client.subscribe(subject, { max: 1, timeout: 60_000 }); // before we look, so that it can't slip through
  const streams = await client.jetstreamManager({ checkAPI: false });
  const stored = await streams.direct.getMessage("RD_RES", { last_by_subj: subject }).catch(() => null);
  if (stored) return show(stored.json());
  for await (const message of published) show(message.json());
}

function show(answer) {
  console.log(answer.status, answer.exit_code, JSON.stringify(answer.stdout));
}

const [what, argument] = process.argv.slice(2);
try {
  await { run, submit, result }[what](argument);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await client.close();
}
