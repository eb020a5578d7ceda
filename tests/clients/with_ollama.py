"""ollama: chat, generate, embed, models, errors."""
import os
import ollama, pydantic
import replay

URL, NAME = os.environ["GEB_URL"], os.environ["GEB_NAME"]
client = ollama.Client(host=URL)
ASK = [{"role": "user", "content": "In the beginning"}]
HOW = {"seed": 7, "num_predict": 24}

whole = client.chat(NAME, messages=ASK, options=HOW)
text = whole.message.content
assert text and whole.done and whole.done_reason in ("stop", "length") and whole.eval_count <= 24
assert whole.prompt_eval_count > 0 and whole.total_duration > 0
parts = list(client.chat(NAME, messages=ASK, options=HOW, stream=True))
assert "".join(p.message.content for p in parts) == text
assert [p.done for p in parts] == [False] * (len(parts) - 1) + [True]
assert parts[-1].eval_count == whole.eval_count
stop = text[4:7]
cut = client.chat(NAME, messages=ASK, options=HOW | {"stop": [stop]})
assert stop not in cut.message.content and cut.done_reason == "stop"
assert client.chat(NAME + ":latest", messages=ASK, options=HOW).message.content == text

raw = client.generate(NAME, "In the beginning\n", raw=True, options=HOW)
assert raw.response == text and raw.context
assert "".join(p.response for p in client.generate(NAME, "In the beginning\n", raw=True, options=HOW, stream=True)) == text
assert client.generate(NAME, "and", context=raw.context[:8], raw=True, options={"num_predict": 4}).response

vectors = client.embed(NAME, ["a river", "a hill"]).embeddings
assert len(vectors) == 2 and all(len(v) == 256 for v in vectors)
assert len(client.embeddings(NAME, "a river").embedding) == 256

assert [m.model for m in client.list().models] == [NAME + ":latest"]
assert [m.model for m in client.ps().models] == [NAME + ":latest"]
shown = client.show(NAME)
assert "completion" in shown.capabilities and shown.details.format == "gguf" and shown.modelinfo
assert [p.status for p in client.pull(NAME, stream=True)][-1] == "success"
assert client.chat(NAME, messages=[]).done_reason == "load"


def refused(status, words, call):
    try:
        call()
    except ollama.ResponseError as e:
        assert e.status_code == status and words in e.error, (e.status_code, e.error)
        return
    raise AssertionError(f"not refused: {words}")


refused(404, "x", lambda: client.chat("x", messages=ASK))
refused(400, "num_ctx", lambda: client.chat(NAME, messages=ASK, options={"num_ctx": 1 << 20}))
refused(400, "context length", lambda: client.chat(NAME, messages=[{"role": "user", "content": "word " * 2000}]))
refused(501, "models", lambda: client.delete(NAME))


class Refused(pydantic.BaseModel):
    """What `ResponseError` reads."""
    error: str


read = replay.replay({
    "/api/chat": (ollama.ChatResponse, ollama.ChatResponse),
    "/api/generate": (ollama.GenerateResponse, ollama.GenerateResponse),
    "/api/embed": (ollama.EmbedResponse,),
    "/api/embeddings": (ollama.EmbeddingsResponse,),
    "/api/tags": (ollama.ListResponse,),
    "/api/ps": (ollama.ProcessResponse,),
    "/api/show": (ollama.ShowResponse,),
    "/api/pull": (ollama.ProgressResponse, ollama.ProgressResponse),
    "/api/create": (ollama.ProgressResponse, ollama.ProgressResponse),
}, Refused, refused=4)
print(f"ollama; recorded requests: {read}")
