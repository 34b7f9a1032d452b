"""Signed calls: the same signature as botocore's, and accepted by servers that speak AWS's protocols."""

from __future__ import annotations

import http.server
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from gateway import aws, settings
from tests.harness.cloud import client

if TYPE_CHECKING:
    from collections.abc import Iterator

CANARY = "CANARY-of-a-secret"
WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)
TARGET = "AmazonSQS.SendMessage"


def owner(endpoint: str, **members: str) -> aws.Account:
    names = {"region": "us-east-1", "access_key": "AKID", "secret_key": CANARY, "token": ""} | members
    return aws.Account(**names, endpoints={"sqs": endpoint, "secretsmanager": endpoint})


@given(
    body=st.binary(max_size=200),
    region=WORDS,
    access=WORDS,
    secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    token=st.just("") | WORDS,
    service=st.sampled_from(["sqs", "secretsmanager"]),
    second=st.integers(0, 4_000_000_000),
)
def test_the_signature_is_botocores(
    body: bytes, region: str, access: str, secret: str, token: str, service: str, second: int
):
    account = owner("", region=region, access_key=access, secret_key=secret, token=token)
    host = f"{service}.{region}.amazonaws.com"
    moment = datetime.fromtimestamp(second, UTC)
    ours = aws.sign(account, service, host, TARGET, body, version="1.0", now=moment)
    theirs = AWSRequest("POST", f"https://{host}/", data=body)
    for name in ("content-type", "x-amz-target", "host"):
        theirs.headers[name] = ours[name]
    signer = SigV4Auth(Credentials(access, secret, token or None), service, region)
    theirs.headers["X-Amz-Date"] = theirs.context["timestamp"] = moment.strftime("%Y%m%dT%H%M%SZ")
    if token:
        theirs.headers["X-Amz-Security-Token"] = token
    text = signer.string_to_sign(theirs, signer.canonical_request(theirs))
    assert ours["authorization"].partition("Signature=")[2] == signer.signature(text, theirs)
    assert f"Credential={access}/{moment:%Y%m%d}/{region}/{service}/aws4_request" in ours["authorization"]


def test_a_secret_is_read(cloud: str):
    members = {"OPENROUTER_API_KEY": CANARY, "KEY_PEPPERS": "v1:a pepper from the vault"}
    secret = client("secretsmanager", cloud).create_secret(
        Name="core", SecretString=msgspec.json.encode(members).decode()
    )
    assert aws.secret(owner(cloud), secret["ARN"]) == members


def test_settings_come_from_the_secrets_they_point_to(cloud: str):
    vault = client("secretsmanager", cloud)
    core = {"DATABASE_URL": "postgresql://vault", "KEY_PEPPERS": "v1:a pepper from the vault"}
    arns = {
        variable: vault.create_secret(Name=variable, SecretString=msgspec.json.encode(members).decode())["ARN"]
        for variable, members in (
            ("LOGIN_SECRET_ARN", {"DATABASE_URL": "postgresql://gateway_chat@vault"}),
            ("CORE_SECRET_ARN", core),
            ("PROVIDERS_SECRET_ARN", {"CHUTES_API_KEY": CANARY}),
        )
    }
    loaded = settings.load(
        {
            "STAGE": "production",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "AKID",
            "AWS_SECRET_ACCESS_KEY": CANARY,
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": cloud,
            **arns,
        }
    )
    assert loaded.database_url
    assert loaded.database_url.reveal() == "postgresql://gateway_chat@vault"
    assert loaded.providers["chutes"].key.reveal() == CANARY
    assert CANARY not in repr(loaded)


def test_a_message_is_queued(cloud: str):
    queue = client("sqs", cloud)
    url = queue.create_queue(QueueName="settlements")["QueueUrl"]
    body = '{"cost_nano":5,"text":"ü"}'
    answer = aws.call(owner(cloud), "sqs", TARGET, {"QueueUrl": url, "MessageBody": body}, version="1.0")
    (message,) = queue.receive_message(QueueUrl=url)["Messages"]
    assert (message["MessageId"], message["Body"]) == (answer["MessageId"], body)


def test_a_refusal_shows_the_call_and_the_status_only(cloud: str):
    with pytest.raises(aws.AwsError, match=r"^secretsmanager\.GetSecretValue answered 4\d\d$"):
        aws.secret(owner(cloud), CANARY)


def test_nobody_at_the_endpoint():
    with pytest.raises(aws.AwsError, match=r"^secretsmanager\.GetSecretValue could not be reached$") as refused:
        aws.secret(owner("http://127.0.0.1:1"), CANARY)
    assert CANARY not in repr(refused.value)


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that always says this."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        thread.join(10)


@pytest.mark.parametrize("status", [301, 403, 500, 503])
def test_any_other_status_is_a_refusal(status: int):
    with answering(status, CANARY.encode()) as endpoint, pytest.raises(aws.AwsError, match=str(status)) as refused:
        aws.call(owner(endpoint), "sqs", TARGET, {}, version="1.0")
    assert CANARY not in repr(refused.value)


def test_an_account_is_read_from_lambdas_own_names():
    account = aws.account(
        {
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "AKID",
            "AWS_SECRET_ACCESS_KEY": CANARY,
            "AWS_SESSION_TOKEN": CANARY,
            "AWS_ENDPOINT_URL_SQS": "http://127.0.0.1:9324",
        }
    )
    assert account.endpoints == {"sqs": "http://127.0.0.1:9324"}
    assert account.region == "us-east-1"
    assert CANARY not in f"{account!r} {account}"
