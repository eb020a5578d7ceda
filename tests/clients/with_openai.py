"""openai, of several versions: chat, completions, embeddings, responses, errors, many at once."""
import asyncio, os, typing
import openai, pydantic
from openai import types
import replay

URL, NAME = os.environ["GEB_URL"] + "/v1", os.environ["GEB_NAME"]
client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0, timeout=120)
ASK = [{"role": "user", "content": "In the beginning"}]
WEATHER = [{"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]


class Models(pydantic.BaseModel):
    """A page of models, as `SyncPage` has it."""
    object: typing.Literal["list"]
    data: list[types.Model]


class Refused(pydantic.BaseModel):
    """What `APIStatusError` reads."""
    error: types.shared.ErrorObject


def chat(**more):
    return client.chat.completions.create(model=NAME, messages=ASK, **({"max_tokens": 24, "seed": 7} | more))


def models():
    assert [m.id for m in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).object == "model"


def chats():
    whole = chat()
    choice = whole.choices[0]
    assert choice.message.role == "assistant" and choice.message.content and choice.finish_reason in ("stop", "length")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert chat().choices[0].message.content == choice.message.content, "one seed, one answer"
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == choice.message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == [choice.finish_reason]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1
    two = chat(n=2)
    assert [c.index for c in two.choices] == [0, 1] and two.choices[0].message.content == choice.message.content
    stop = choice.message.content[4:7]
    cut = chat(stop=[stop]).choices[0]
    assert cut.finish_reason == "stop" and stop not in cut.message.content
    tokens = chat(logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert tokens and all(len(t.top_logprobs) == 3 and t.logprob <= t.top_logprobs[0].logprob for t in tokens if t.logprob <= 0)
    joined = b"".join(bytes(t.bytes) for t in tokens).decode("utf-8", "replace")
    assert joined.strip() == choice.message.content.strip(), (joined, choice.message.content)
    parts = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "In the"}]}]
    client.chat.completions.create(model=NAME, messages=parts, max_completion_tokens=4, metadata={"k": "v"}, user="ada")
    ids = client.chat.completions.with_raw_response.create(model=NAME, messages=ASK, max_tokens=2)
    assert ids.headers["x-request-id"] and int(ids.headers["x-geb-seed"]) >= 0
    biased = chat(logit_bias={"300": 100}, max_tokens=3, temperature=0).choices[0].message.content
    assert biased != chat(max_tokens=3, temperature=0).choices[0].message.content


def tools():
    none = chat(tools=WEATHER, tool_choice="none").choices[0]
    assert none.message.content and not none.message.tool_calls
    auto = chat(tools=WEATHER).choices[0]
    assert auto.message.content or auto.message.tool_calls
    result = ASK + [
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "12 C"}]
    said = client.chat.completions.create(model=NAME, messages=result, tools=WEATHER, max_tokens=8)
    assert said.choices[0].finish_reason in ("stop", "length", "tool_calls")


def completions():
    whole = client.completions.create(model=NAME, prompt=["In the", [5, 6, 7]], max_tokens=6, n=2, seed=1)
    assert [c.index for c in whole.choices] == [0, 1, 2, 3]
    chunks = client.completions.create(model=NAME, prompt="In the", max_tokens=6, seed=1, stream=True)
    assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text
    scored = client.completions.create(model=NAME, prompt="A river is wide", max_tokens=0, echo=True, logprobs=2).choices[0]
    weights = scored.logprobs
    assert scored.text == "A river is wide" and weights.token_logprobs[0] is None
    for token, own, top in list(zip(weights.tokens, weights.token_logprobs, weights.top_logprobs))[1:]:
        assert top[token] == own


def embeddings():
    coded = client.embeddings.create(model=NAME, input=["a river", "a hill"])
    plain = client.embeddings.create(model=NAME, input=["a river", "a hill"], encoding_format="float")
    for a, b in zip(coded.data, plain.data):
        assert len(a.embedding) == 256 and max(abs(x - y) for x, y in zip(a.embedding, b.embedding)) < 1e-6
        assert abs(sum(x * x for x in b.embedding) - 1) < 1e-4
    assert coded.usage.prompt_tokens > 0


def responses():
    how = dict(model=NAME, input="In the beginning", max_output_tokens=24, extra_body={"seed": 7})
    whole = client.responses.create(**how)
    assert whole.output_text == chat().choices[0].message.content
    events = list(client.responses.create(stream=True, **how))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert events[-1].response.output_text == whole.output_text


def refused(kind, call, **fields):
    try:
        call()
    except kind as e:
        for key, value in fields.items():
            assert getattr(e, key) == value, (key, getattr(e, key), value)
        return e
    raise AssertionError(f"not refused: {fields}")


def errors():
    many = [{"role": "user", "content": "word " * 2000}]
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
    create = client.chat.completions.create
    refused(openai.NotFoundError, lambda: create(model="x", messages=ASK), code="model_not_found", param="model")
    e = refused(openai.BadRequestError, lambda: create(model=NAME, messages=many), code="context_length_exceeded")
    assert "maximum context length is" in e.message
    refused(openai.BadRequestError, lambda: create(model=NAME, messages=image), param="messages[0].content[0].type")
    refused(openai.BadRequestError, lambda: chat(temperature=3), param="temperature")
    refused(openai.BadRequestError, lambda: create(model=NAME, messages=ASK, stream=True, top_logprobs=3), param="top_logprobs")


async def many():
    expected = chat().choices[0].message.content
    async with openai.AsyncOpenAI(base_url=URL, api_key="none", max_retries=0, timeout=120) as c:
        async def one(i):
            if i % 2:
                r = await c.chat.completions.create(model=NAME, messages=ASK, max_tokens=24, seed=7)
                return r.choices[0].message.content
            s = await c.chat.completions.create(model=NAME, messages=ASK, max_tokens=24, seed=7, stream=True)
            if i % 8 == 0:
                # It leaves in the middle.
                async for _ in s:
                    break
                await s.close()
                return expected
            return "".join([x.choices[0].delta.content or "" async for x in s])
        texts = await asyncio.gather(*(one(i) for i in range(32)))
    assert set(texts) == {expected}, texts


for part in (models, chats, tools, completions, embeddings, responses, errors):
    part()
asyncio.run(many())
read = replay.replay({
    "/v1/chat/completions": (types.chat.ChatCompletion, types.chat.ChatCompletionChunk),
    "/v1/completions": (types.Completion, types.Completion),
    "/v1/embeddings": (types.CreateEmbeddingResponse,),
    "/v1/responses": (types.responses.Response, types.responses.ResponseStreamEvent),
    "/v1/models": (Models,),
    "/v1/models/NAME": (types.Model,),
}, Refused, refused=4, of=lambda headers: "anthropic-version" not in headers)
print(f"openai {openai.__version__}; recorded requests: {read}")
