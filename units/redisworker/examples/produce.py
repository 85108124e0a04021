#!/usr/bin/env python3
"""Puts a job in with the package redis (pip install redis), and waits for its
result.

    produce.py ID <payload
"""

import os
import sys
import time

import redis

QUEUE = "gpuherd:queue:{%s}" % os.environ.get("QUEUE", "gpu")


def main():
    client = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"))
    job = sys.argv[1]
    # The same id is the same job: after an error this may be done again.
    client.xadd(QUEUE + ":jobs", {"id": job, "payload": sys.stdin.buffer.read(), "timeout": 600})
    while True:
        state, result, error = client.hmget(f"{QUEUE}:job:{job}", "state", "result", "error")
        if state == b"succeeded":
            sys.stdout.buffer.write(result)
            return 0
        if state in (b"dead", b"cancelled"):
            print(f"job {job} is {state.decode()}: {(error or b'').decode(errors='replace')}", file=sys.stderr)
            return 1
        time.sleep(0.1)  # None before the first worker sees it, then waiting, delayed, running


if __name__ == "__main__":
    sys.exit(main())
