"""Reads steps, one JSON object a line, and writes for each what an SDK returned or raised. It judges nothing.

Imported before the SDK, because a step may set a wrong clock.
"""

import datetime
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

# Offset of the clock, in seconds.
clock_offset = 0
real_time = time.time


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=clock_offset)

    @classmethod
    def utcnow(cls):
        return super().utcnow() + datetime.timedelta(seconds=clock_offset)


datetime.datetime = Clock
time.time = lambda: real_time() + clock_offset


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def attempt(call, describe, step):
    try:
        return {"returned": call(step)}
    except Exception as error:
        error_fields = {"type": type(error).__name__, "message": str(error)}
        return {"raised": error_fields | describe(error)}


def run(call, describe):
    global clock_offset
    for line in sys.stdin:
        step = json.loads(line)
        clock_offset = step.get("clock", 0)
        times = step.get("times")
        if times:
            with ThreadPoolExecutor(8) as pool:
                answer = {"all": list(pool.map(lambda _: attempt(call, describe, step), range(times)))}
        else:
            answer = attempt(call, describe, step)
        print(json.dumps(answer), flush=True)
