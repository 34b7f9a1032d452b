"""Bodies that callers send: what is wrong with one is said, what it says is not."""

from __future__ import annotations

import traceback
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.inference import requests
from gateway.inference.requests import MAX_MESSAGES, REFUSED, CompletionRequest, parse

MESSAGE = b'{"role":"user","content":"hi"}'
CANARY = "CANARY4711"
HUGE = 47114711471147114711471147


def raw(member: bytes = b"", *, messages: bytes = b"[" + MESSAGE + b"]") -> bytes:
    """A good body with one more member, JSON as it stands."""
    return b'{"model":"acme/tide","messages":' + messages + (b"," + member if member else b"") + b"}"


def refused(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(body, CompletionRequest)
    return caught.value


NOT_JSON = {
    "empty": b"",
    "text": b"model=acme",
    "half": raw()[:-1],
    "twice": raw() * 2,
    "byte order mark": b"\xef\xbb\xbf" + raw(),
    "utf-16": raw().decode().encode("utf-16"),
    "utf-16-le": raw().decode().encode("utf-16-le"),
    "utf-32": raw().decode().encode("utf-32"),
    "latin-1": raw('"user":"ü"'.encode("latin-1")),
    "overlong utf-8": raw(b'"user":"\xc0\xaf"'),
    "surrogate in utf-8": raw(b'"user":"\xed\xa0\x80"'),
    "nan": raw(b'"temperature":NaN'),
    "nan within": raw(b'"logit_bias":{"1":NaN}'),
    "infinity": raw(b'"temperature":Infinity'),
    "minus infinity": raw(b'"deep":[[-Infinity]]'),
    "infinite number": raw(b'"unknown":1e400'),
    "lone surrogate": raw(b'"user":"\\ud800"'),
    "surrogates reversed": raw(b'"unknown":["\\udc00\\ud800"]'),
    "surrogate name": raw(b'"\\ud800":1'),
    "nul": raw(b'"user":"a\\u0000b"'),
    "nul in a name": raw(b'"unknown":{"a\\u0000":1}'),
    "nul deep": raw(messages=b'[{"role":"user","content":[{"type":"text","text":"\\u0000"}]}]'),
    "bare nul": raw(b'"user":"\0"'),
    "bare control character": raw(b'"user":"a\nb"'),
    "model twice": raw(b'"model":"acme/other"'),
    "name twice within": raw(b'"unknown":{"a":1,"a":1}'),
    "name twice by escape": raw(b'"unknown":{"a":1,"\\u0061":2}'),
    "5,000 digits": raw(b'"seed":' + b"9" * 5000),
    "100,000 brackets": b"[" * 100_000,
    "100,000 brackets within": raw(b'"unknown":' + b"[" * 100_000 + b"]" * 100_000),
    "100,000 braces": b'{"a":' * 100_000,
    "single quotes": b"{'model':'m'}",
    "comment": raw(b'/* hi */"user":"x"'),
    "trailing comma": raw(b'"user":"x",'),
    "leading zero": raw(b'"max_tokens":05'),
    "plus": raw(b'"max_tokens":+5'),
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_what_is_not_strict_json_is_refused(body: bytes):
    assert refused(body).message == "The body is not valid JSON."


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"5", b"true", b"[" + raw() + b"]"])
def test_a_body_is_an_object(body: bytes):
    assert refused(body).message == "The body must be a JSON object."


WRONG = [
    (b'"max_tokens":true', "max_tokens"),
    (b'"max_tokens":"5"', "max_tokens"),
    (b'"max_tokens":0', "max_tokens"),
    (b'"max_tokens":-1', "max_tokens"),
    (b'"max_tokens":1.5', "max_tokens"),
    (b'"max_tokens":1180591620717411303424', "max_tokens"),
    (b'"max_completion_tokens":10000001', "max_completion_tokens"),
    (b'"temperature":"1"', "temperature"),
    (b'"temperature":2.1', "temperature"),
    (b'"temperature":true', "temperature"),
    (b'"top_p":-0.1', "top_p"),
    (b'"n":0', "n"),
    (b'"n":129', "n"),
    (b'"n":true', "n"),
    (b'"stream":"true"', "stream"),
    (b'"stream":1', "stream"),
    (b'"stream_options":[]', "stream_options"),
    (b'"stop":5', "stop"),
    (b'"tools":{}', "tools"),
    (b'"tools":["x"]', "tools[0]"),
    (b'"tools":[' + b",".join([b"{}"] * 513) + b"]", "tools"),
    (b'"models":[1]', "models[0]"),
    (b'"models":["a","b","c","d","e","f","g","h","i"]', "models"),
    (b'"provider":5', "provider"),
    (b'"provider":{"only":"openrouter"}', "provider.only"),
    (b'"provider":{"unknown":1}', "provider"),
    (b'"top_logprobs":21', "top_logprobs"),
    (b'"logprobs":1', "logprobs"),
    (b'"user":5', "user"),
    (b'"seed":"x"', "seed"),
]


@pytest.mark.parametrize(("member", "param"), WRONG, ids=[member[:30].decode() for member, _ in WRONG])
def test_a_wrong_field_is_refused_by_name(member: bytes, param: str):
    assert refused(raw(member)).param == param


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (b"[]", "messages"),
        (b"{}", "messages"),
        (b"null", "messages"),
        (b'["hi"]', "messages[0]"),
        (b'[{"content":"hi"}]', "messages[0]"),
        (b'[{"role":"robot","content":"hi"}]', "messages[0].role"),
        (b'[{"role":"User","content":"hi"}]', "messages[0].role"),
        (b'[{"role":"user","content":5}]', "messages[0].content"),
        (b'[{"role":"user","content":["hi"]}]', "messages[0].content[0]"),
        (b"[" + b",".join([MESSAGE] * (MAX_MESSAGES + 1)) + b"]", "messages"),
    ],
)
def test_wrong_messages_are_refused(messages: bytes, param: str):
    assert (refused(raw(messages=messages)).param or "").replace("[...]", "[0]") == param


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(missing: str):
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    assert (
        refused(msgspec.json.encode({name: value for name, value in body.items() if name != missing})).param == missing
    )


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_a_model_has_a_name_of_some_length(name: str):
    assert refused(msgspec.json.encode({"model": name, "messages": []})).param == "model"


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_fields_that_could_redirect_a_request_are_refused_by_name(name: str):
    error = refused(raw(b'"%s":"http://169.254.169.254/"' % name.encode()))
    assert error.param == name


@pytest.mark.parametrize("price", ["-1", "x", "1e999999", "", "NaN", -1, 1e300, -0.5])
def test_a_price_ceiling_is_a_plain_amount(price: Any):
    request, _ = parse(raw(b'"provider":{"max_price":{"prompt":%s}}' % msgspec.json.encode(price)), CompletionRequest)
    with pytest.raises(InvalidRequest):
        request.preferences()


def test_preferences_are_what_the_database_takes():
    member = (
        b'"provider":{"order":["a"],"ignore":["b"],"allow_fallbacks":false,"max_price":{"prompt":0.1,"completion":"2"}}'
    )
    request, _ = parse(raw(member), CompletionRequest)
    ceilings = {"prompt": 100_000_000, "completion": 2_000_000_000}
    assert request.preferences() == {"order": ["a"], "ignore": ["b"], "allow_fallbacks": False, "max_price": ceilings}
    assert parse(raw(b'"provider":"chutes"'), CompletionRequest)[0].preferences() == {"only": ["chutes"]}
    assert parse(raw(), CompletionRequest)[0].preferences() == {}


# What is taken


@pytest.mark.parametrize(
    "text",
    ["\\u0000", "\\ud800", "\\\\u0000 in C: '\\0'", "emoji 🌊 and \u2066rtl\u2069", "\N{BYTE ORDER MARK}", "\x7f"],
)
def test_source_code_that_speaks_of_escapes_is_text(text: str):
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    request, passed = parse(msgspec.json.encode(body), CompletionRequest)
    assert request.messages[0].content == text
    assert passed == body


def test_escaped_text_is_the_same_as_plain():
    _, passed = parse(raw(b'"user":"\\u00fc\\ud83c\\udf0a"'), CompletionRequest)
    assert passed["user"] == "ü🌊"


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
def test_every_role_of_the_api_is_known(role: str):
    parse(raw(messages=b'[{"role":"%s","content":null,"tool_calls":[{"id":"x"}]}]' % role.encode()), CompletionRequest)


def test_as_many_messages_as_are_allowed():
    parse(raw(messages=b"[" + b",".join([MESSAGE] * MAX_MESSAGES) + b"]"), CompletionRequest)


@pytest.mark.parametrize("number", [b"1180591620717411303424", b"-9223372036854775809", b"1" + b"0" * 4000, b"1.5e300"])
def test_a_large_number_in_an_unknown_field_goes_through(number: bytes):
    request, passed = parse(raw(b'"unknown":{"deep":[%s]}' % number), CompletionRequest)
    assert float(msgspec.json.encode(passed["unknown"]["deep"][0])) if len(number) < 300 else passed
    assert request.model == "acme/tide"


def test_a_message_nested_as_deep_as_json_is_read_can_be_sent_on():
    for depth in (100, 900, 5000):
        try:
            _, passed = parse(raw(b'"unknown":' + b"[" * depth + b"]" * depth), CompletionRequest)
        except InvalidRequest:
            continue
        msgspec.json.encode(passed)


NAMES = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)  # fmt: skip
KNOWN = {*requests.CompletionRequest.__struct_fields__, *REFUSED, *requests.OWN}


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,12}", fullmatch=True).filter(lambda name: name not in KNOWN), JSON, max_size=4
    )
)
def test_unknown_fields_go_through_untouched(unknown: dict[str, Any]):
    body = {"model": "m", "messages": [{"role": "user", "content": "x", **unknown}], **unknown}
    _, passed = parse(msgspec.json.encode(body), CompletionRequest)
    assert passed == body


def test_what_speaks_to_the_gateway_is_not_passed_on():
    _, passed = parse(raw(b'"models":["b"],"provider":"chutes","usage":{"include":true},"top_k":5'), CompletionRequest)
    assert set(passed) == {"model", "messages", "top_k"}


# What is never repeated


CANARIES = st.sampled_from(
    [CANARY, f"{CANARY}`", f"` - at `$.{CANARY}", f"field `{CANARY}`", f"Invalid enum value {CANARY}"]
)
SPOILT = st.recursive(
    CANARIES | st.just(-HUGE) | st.booleans(),
    lambda inner: st.lists(inner, min_size=1, max_size=2) | st.dictionaries(CANARIES, inner, min_size=1, max_size=2),
    max_leaves=4,
)
PLACES = st.sampled_from(
    [*sorted(KNOWN), CANARY, "messages.role", "messages.content", "provider.only", "provider.max_price"]
)


@given(place=PLACES, value=SPOILT)
@example(place="provider", value={CANARY: 1})
@example(place="provider", value={f"` - at `$.{CANARY}": 1})
@example(place="provider", value={"order": [f"` - at `$.{CANARY}", 5]})
@example(place="messages.role", value=CANARY)
def test_an_error_never_repeats_the_input(place: str, value: Any):
    field, _, member = place.partition(".")
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    if field == "messages" and member:
        body["messages"] = [{"role": "user", "content": "x", member: value}]
    else:
        body[field] = {member: value} if member else value
    try:
        parse(msgspec.json.encode(body), CompletionRequest)[0].preferences()
    except InvalidRequest as error:
        shown = repr(error) + repr(error.body("req")) + "".join(traceback.format_exception(error))
        assert CANARY not in shown
        assert str(-HUGE) not in shown


@given(st.text(max_size=20).map(lambda junk: CANARY + junk))
def test_an_error_about_json_never_repeats_the_input(junk: str):
    for body in (junk.encode("utf-8", "surrogatepass"), raw(b'"%s":1,"%s":2' % (CANARY.encode(), CANARY.encode()))):
        assert CANARY not in repr(refused(body).body("req"))


RAISES = {
    "best_of": b'"best_of":5',
    "n_predict": b'"n_predict":90000',
    "num_predict": b'"num_predict":90000',
    "max_length": b'"max_length":90000',
    "max_new_tokens": b'"max_new_tokens":90000',
    "max_output_tokens": b'"max_output_tokens":90000',
    "maxOutputTokens": b'"maxOutputTokens":90000',
    "MAX-TOKENS": b'"MAX-TOKENS":90000',
    "min_tokens": b'"min_tokens":90000',
    "thinking_budget": b'"thinking_budget":90000',
    "num_return_sequences": b'"num_return_sequences":9',
    "options.num_predict": b'"options":{"num_predict":90000}',
    "sampling_params.n": b'"sampling_params":{"n":9}',
    "generationConfig.deep.maxOutputTokens": b'"generationConfig":{"deep":{"maxOutputTokens":90000}}',
    "sampling_params.0.max_new_tokens": b'"sampling_params":[{"max_new_tokens":90000}]',
    "nvext.max_tokens": b'"nvext":{"max_tokens":90000}',
    "max_completion_tokens": b'"max_tokens":1,"max_completion_tokens":90000',
    "reasoning.max_tokens": b'"max_tokens":10,"reasoning":{"max_tokens":11}',
    "thinking.budget_tokens": b'"max_completion_tokens":10,"thinking":{"type":"enabled","budget_tokens":11}',
}


@pytest.mark.parametrize("param", RAISES)
def test_what_would_raise_the_ceiling_is_refused_by_name(param: str):
    assert refused(raw(RAISES[param])).param == param


@pytest.mark.parametrize("budget", [b'"90000"', b"0", b"-1", b"true", b"1.5", b"[]"])
def test_a_budget_of_thoughts_is_a_number_of_tokens(budget: bytes):
    for name, member in ((b"reasoning", b"max_tokens"), (b"thinking", b"budget_tokens")):
        error = refused(raw(b'"' + name + b'":{"' + member + b'":' + budget + b"}"))
        assert error.param == f"{name.decode()}.{member.decode()}"


def test_one_ceiling_twice_is_one():
    request, _ = parse(raw(b'"max_tokens":7,"max_completion_tokens":7,"best_of":null'), CompletionRequest)
    assert request.asked_tokens == 7
