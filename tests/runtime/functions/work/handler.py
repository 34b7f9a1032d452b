"""Takes messages off a queue. A body is a JSON object: `file` is appended to, `fail` says how the message fails."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


def handler(event: dict[str, Any], _: object) -> dict[str, Any]:
    failures = []
    for record in event["Records"]:
        message = json.loads(record["body"])
        with Path(message["file"]).open("a") as file:
            file.write(f"{message['name']} {record['attributes']['ApproximateReceiveCount']}\n")
        if message.get("fail") == "hang":
            time.sleep(600)
        if message.get("fail") == "raise":
            raise ValueError("the whole batch")
        if message.get("fail") == "report" or (
            message.get("fail") == "once" and record["attributes"]["ApproximateReceiveCount"] == "1"
        ):
            failures.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failures}
