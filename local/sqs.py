"""A small SQS: SendMessage by its JSON protocol, and queues that invoke their functions.

Each message is a file in its queue's folder, so that it outlives this process, whatever ends that.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from local.cloudformation import REGION
from local.invocation import FunctionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from local.metrics import Metrics
    from local.template import Queue, Subscription
    from local.wire import Connection

JSON = ("content-type", "application/x-amz-json-1.0")
TARGET = "AmazonSQS."


@dataclass
class Message:
    """A message, as its file holds it; times are seconds since the epoch."""

    body: str
    id: str
    sent: float
    visible: float
    received: int = 0


class MessageQueue:
    """The messages of one queue, each a file in `folder`."""

    def __init__(self, queue: Queue, folder: Path) -> None:
        self.queue, self.arrived = queue, asyncio.Event()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._messages = {path.stem: Message(**json.loads(path.read_text())) for path in folder.glob("*.json")}

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, body: str, delay_s: float = 0) -> Message:
        """Keep a message, to be received after a delay."""
        now = time.time()
        message = Message(body, str(uuid.uuid4()), now, now + delay_s)
        self._keep(message)
        self.arrived.set()
        return message

    def receive(self, most: int) -> list[Message]:
        """The oldest messages that are visible; nobody else sees them for the queue's visibility time."""
        now = time.time()
        visible = sorted((m for m in self._messages.values() if m.visible <= now), key=lambda m: m.sent)[:most]
        for message in visible:
            message.received += 1
            message.visible = now + self.queue.visibility_s
            self._keep(message)
        return visible

    def delete(self, message: Message) -> None:
        """Forget a message that was dealt with."""
        del self._messages[message.id]
        (self._folder / f"{message.id}.json").unlink()

    def age_s(self) -> float:
        """Of the oldest message."""
        return max((time.time() - message.sent for message in self._messages.values()), default=0)

    def wait_s(self) -> float | None:
        """Until the next message is visible; None if there is none."""
        return min((message.visible - time.time() for message in self._messages.values()), default=None)

    def _keep(self, message: Message) -> None:
        self._messages[message.id] = message
        path = self._folder / f"{message.id}.json"
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(message)))
        draft.replace(path)


class Sqs:
    """All queues of a template; `invoke` runs a function and gives its result, `log` hears why one failed."""

    def __init__(
        self,
        queues: list[Queue],
        data: Path,
        invoke: Callable[[str, Any], Awaitable[Any]],
        log: Callable[[str, str], None],
    ) -> None:
        self.queues = {queue.name: MessageQueue(queue, data / queue.name) for queue in queues}
        self._invoke, self._log = invoke, log

    def measure(self, metrics: Metrics) -> None:
        """Let the queues be read as CloudWatch reads them."""
        for name, queue in self.queues.items():
            dimensions = {"QueueName": name}
            metrics.gauge("AWS/SQS", "ApproximateNumberOfMessagesVisible", dimensions, queue.__len__)
            metrics.gauge("AWS/SQS", "ApproximateAgeOfOldestMessage", dimensions, queue.age_s)

    async def handle(self, connection: Connection) -> None:
        """Answer one call of the API: SendMessage."""
        request = json.loads(await connection.body())
        action = (connection.header("x-amz-target") or "").removeprefix(TARGET)
        queue = self.queues.get(str(request.get("QueueUrl")).rpartition("/")[2])
        if action != "SendMessage" or request.get("MessageAttributes"):
            await _refuse(connection, "UnsupportedOperation", f"{action}, or a part of it, is not here locally")
        elif queue is None:
            await _refuse(connection, "QueueDoesNotExist", "The specified queue does not exist.")
        else:
            message = queue.add(request["MessageBody"], request.get("DelaySeconds") or 0)
            reply = {"MessageId": message.id, "MD5OfMessageBody": _md5(message.body)}
            await connection.respond(200, json.dumps(reply).encode(), [JSON])

    async def deliver(self, subscription: Subscription) -> None:
        """Invoke a function with its queue's messages, for ever."""
        messages = self.queues[subscription.queue]
        while True:
            messages.arrived.clear()
            batch = [
                message for message in messages.receive(subscription.batch) if not self._give_up(messages, message)
            ]
            if batch:
                await self._deliver(subscription, messages, batch)
                continue
            try:
                async with asyncio.timeout(messages.wait_s()):
                    await messages.arrived.wait()
            except TimeoutError:
                continue

    async def _deliver(self, subscription: Subscription, messages: MessageQueue, batch: list[Message]) -> None:
        event = {"Records": [_record(message, messages.queue.arn) for message in batch]}
        try:
            result = await self._invoke(subscription.function, event)
        except FunctionError as error:
            self._log(subscription.function, f"{len(batch)} message(s) of {subscription.queue} failed: {error}")
            return
        failed = _failures(result, batch) if subscription.partial else set()
        for message in batch:
            if message.id not in failed:
                messages.delete(message)

    def _give_up(self, messages: MessageQueue, message: Message) -> bool:
        """Move a message to the dead letters if it was received too often."""
        queue = messages.queue
        if queue.max_receives is None or queue.dead_letters is None or message.received <= queue.max_receives:
            return False
        self.queues[queue.dead_letters].add(message.body)
        messages.delete(message)
        return True


def _failures(result: Any, batch: list[Message]) -> set[str]:
    """The messages to deliver again: all of them, if the function's answer is not to be understood."""
    everything = {message.id for message in batch}
    if not result:
        return set()
    try:
        failed = {failure["itemIdentifier"] for failure in result["batchItemFailures"] or ()}
    except (KeyError, TypeError):
        return everything
    return failed if everything.issuperset(failed) else everything


def _record(message: Message, arn: str) -> Mapping[str, Any]:
    return {
        "messageId": message.id,
        "receiptHandle": message.id,
        "body": message.body,
        "attributes": {
            "ApproximateReceiveCount": str(message.received),
            "SentTimestamp": str(int(message.sent * 1000)),
            "SenderId": "local",
            "ApproximateFirstReceiveTimestamp": str(int(message.sent * 1000)),
        },
        "messageAttributes": {},
        "md5OfBody": _md5(message.body),
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": REGION,
    }


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


async def _refuse(connection: Connection, kind: str, message: str) -> None:
    body = {"__type": f"com.amazonaws.sqs#{kind}", "message": message}
    await connection.respond(400, json.dumps(body).encode(), [JSON])
