"""Reads steps, one JSON object a line, and writes for each what an SDK returned or raised. It judges nothing.

Imported before the SDK, because a step may have its clock wrong.
"""

import datetime
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

# How wrong the clock is, in seconds.
wrong = 0
right_time = time.time


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=wrong)

    @classmethod
    def utcnow(cls):
        return super().utcnow() + datetime.timedelta(seconds=wrong)


datetime.datetime = Clock
time.time = lambda: right_time() + wrong


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def tell(call, describe, step):
    try:
        return {"returned": call(step)}
    except Exception as error:
        said = {"type": type(error).__name__, "message": str(error)}
        return {"raised": said | describe(error)}


def run(call, describe):
    global wrong
    for line in sys.stdin:
        step = json.loads(line)
        wrong = step.get("clock", 0)
        times = step.get("times")
        if times:
            with ThreadPoolExecutor(8) as pool:
                answer = {"all": list(pool.map(lambda _: tell(call, describe, step), range(times)))}
        else:
            answer = tell(call, describe, step)
        print(json.dumps(answer), flush=True)
