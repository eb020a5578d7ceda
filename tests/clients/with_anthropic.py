"""anthropic: messages, stream, tools, counting, errors."""
import os
import anthropic, pydantic
from anthropic import types
import replay

URL, NAME = os.environ["GEB_URL"], os.environ["GEB_NAME"]
client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0, timeout=120)
ASK = [{"role": "user", "content": "In the beginning"}]
WEATHER = [{"name": "get_weather", "description": "Weather", "input_schema": {
    "type": "object", "properties": {"city": {"type": "string"}}}}]
SEED = {"extra_body": {"seed": 7}}


def create(**more):
    return client.messages.create(**({"model": NAME, "max_tokens": 24, "messages": ASK} | SEED | more))


whole = create()
text = whole.content[0].text
assert whole.role == "assistant" and whole.stop_reason in ("end_turn", "max_tokens") and text
assert whole.usage.output_tokens <= 24

with client.messages.stream(model=NAME, max_tokens=24, messages=ASK, **SEED) as stream:
    assert "".join(stream.text_stream) == text
    final = stream.get_final_message()
assert final.content[0].text == text and final.stop_reason == whole.stop_reason
assert final.usage.output_tokens == whole.usage.output_tokens
kinds = [e.type for e in create(stream=True)]
assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"], kinds

stop = text[4:7]
cut = create(stop_sequences=[stop])
assert cut.stop_reason == "stop_sequence" and cut.stop_sequence == stop
system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
blocks = [{"role": "user", "content": [{"type": "text", "text": "In the beginning"}]}]
assert create(system=system, messages=blocks, metadata={"user_id": "u"}).content

none = create(tools=WEATHER, tool_choice={"type": "none"})
assert all(b.type == "text" for b in none.content)
said = create(tools=WEATHER, messages=ASK + [
    {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Paris"}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "12 C"}]}])
assert said.stop_reason in ("end_turn", "max_tokens", "tool_use")

count = client.messages.count_tokens(model=NAME, messages=ASK).input_tokens
used = create(max_tokens=1).usage
assert count == used.input_tokens + (used.cache_read_input_tokens or 0)
assert [m.id for m in client.models.list()] == [NAME]


def refused(kind, words, **how):
    try:
        create(**how)
    except kind as e:
        assert words in str(e), e
        return
    raise AssertionError(f"not refused: {words}")


refused(anthropic.NotFoundError, "x", model="x")
refused(anthropic.BadRequestError, "prompt is too long", messages=[{"role": "user", "content": "word " * 2000}])
image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
refused(anthropic.BadRequestError, "messages[0].content[0].type", messages=[{"role": "user", "content": [image]}])


class Models(pydantic.BaseModel):
    """A page of models, as `SyncPage` has it."""
    data: list[types.ModelInfo]
    has_more: bool
    first_id: str
    last_id: str


read = replay.replay({
    "/v1/messages": (types.Message, types.RawMessageStreamEvent),
    "/v1/messages/count_tokens": (types.MessageTokensCount,),
    "/v1/models": (Models,),
}, types.ErrorResponse, refused=0, of=lambda headers: "anthropic-version" in headers)
print(f"anthropic {anthropic.__version__}; recorded requests: {read}")
