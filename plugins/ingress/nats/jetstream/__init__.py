"""Durable jobs from JetStream: kept until they have a result, and run once however often they are delivered.

`topology` says what there is on the server and `setup` sees to it; `pull` asks for as many messages as there are free slots,
`durable` has the path of a job, `outcome` what becomes of its message. The record in the daemon's store decides; the stream of
results is its published copy.
"""
