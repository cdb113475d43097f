"""A contender that locks with the Lock of redis-py."""

import socket
import sys

import redis
from redis.lock import Lock

redis_port, key, register_port, name = sys.argv[1:]

stream = socket.create_connection(("127.0.0.1", int(register_port))).makefile("rw")


def register(line):
    stream.write(line + "\n")
    stream.flush()
    answer = stream.readline().strip()
    if not answer:
        sys.exit(name + ": the connection was closed")
    return answer


lock = Lock(redis.Redis(port=int(redis_port)), key, timeout=60, sleep=0.001)
go = "go"
while go == "go":
    if not lock.acquire():
        sys.exit(name + ": not acquired")
    register("enter " + name + " 0")
    if not lock.owned():
        sys.exit(name + ": the lock is not ours while we are inside")
    go = register("leave " + name)
    lock.release()  # raises where the lock is not ours any more
