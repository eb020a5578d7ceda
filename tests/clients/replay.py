"""Requests that real clients have sent, sent again as they were, and the answers read by a client's own types.

`with_*.py` calls `replay` with the types of its client; a type is something that `pydantic.TypeAdapter` takes.
"""
import array, base64, json, os, pathlib, urllib.error, urllib.request
import pydantic

RECORDED = pathlib.Path(__file__).resolve().parent.parent / "data/server/requests"
URL, NAME = os.environ["GEB_URL"], os.environ["GEB_NAME"]
# As long as the model can talk they would; what the server says of the end is the same.
SHORT = {"/v1/chat/completions": "max_completion_tokens", "/v1/responses": "max_output_tokens"}


def recorded():
    """All of them: (case, method, path, headers, body)."""
    for file in sorted(RECORDED.glob("*.json")):
        for r in json.loads(file.read_text()):
            body, path = r["body"], r["path"].replace("/models/m", f"/models/{NAME}")
            if isinstance(body, dict):
                body = {k: NAME if v == "m" and k in ("model", "name") else v for k, v in body.items()}
                limit = SHORT.get(path)
                if limit and not {limit, "max_tokens"} & body.keys():
                    body[limit] = 64
                if path in ("/api/chat", "/api/generate"):
                    body["options"] = {"num_predict": 64} | (body.get("options") or {})
            # Lengths and connections are those of this client.
            headers = {k: v for k, v in r["headers"].items() if k.lower() not in ("content-length", "connection", "host",
                                                                                    "accept-encoding", "transfer-encoding")}
            yield r["case"], r["method"], path, headers, body


def sent(method, path, headers, body):
    """Status, kind of content, and text."""
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(URL + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=300) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.headers["content-type"], e.read().decode()


def pieces(kind, text):
    """The JSON values of an answer, and whether it is a stream."""
    if "event-stream" in kind:
        lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
        values = [json.loads(line) for line in lines if line != "[DONE]"]
        # Anthropic's client passes over these before it looks at types.
        return [v for v in values if v.get("type") != "ping"], True
    if "ndjson" in kind:
        return [json.loads(line) for line in text.splitlines()], True
    return [json.loads(text)], False


def as_typed(value):
    """An answer without what a type does not know, though the service that it describes sends it: vectors as base64,
    which clients unpack, no weight of the first token of a prompt, and no reason while a text goes on."""
    for item in value.get("data", ()):
        if isinstance(item.get("embedding"), str):
            item["embedding"] = list(array.array("f", base64.b64decode(item["embedding"])))
    if value.get("object") == "text_completion":
        for choice in value["choices"]:
            weights = choice["logprobs"] or {}
            for key, none in (("token_logprobs", 0.0), ("top_logprobs", {})):
                if weights.get(key) and weights[key][0] is None:
                    weights[key][0] = none
            choice["finish_reason"] = choice["finish_reason"] or "length"
    return value


def wrong(error):
    """What is wrong: of several types that an answer may have, with that which fits best."""
    kinds = {}
    for e in error.errors():
        kinds.setdefault(e["loc"][:1], []).append((e["loc"][-1] == "type", f"{'.'.join(map(str, e['loc']))}: {e['msg']}"))
    return "; ".join(said for _, said in min(kinds.values(), key=lambda found: (any(other for other, _ in found), len(found))))


def replay(types, error, *, refused, of=lambda headers: True):
    """Sends the recorded requests of the paths of `types` (path: whole answer, piece of a stream if there is one) whose headers are
    `of` this client; `error` is the type of a refusal, `refused` how many of them there are."""
    types = {path.replace("NAME", NAME): [pydantic.TypeAdapter(t) for t in all] for path, all in types.items()}
    error, counts, faults = pydantic.TypeAdapter(error), {"whole": 0, "streams": 0, "refused": 0}, []
    for case, method, path, headers, body in recorded():
        if path not in types or not of(headers):
            continue
        status, kind, text = sent(method, path, headers, body)
        assert status in (200, 400, 501), (case, status, text)
        try:
            if status != 200:
                error.validate_json(text, strict=True)
                counts["refused"] += 1
                continue
            values, is_stream = pieces(kind, text)
            assert len(types[path]) > is_stream, f"{case}: a stream"
            for value in values:
                # As JSON: dates and enumerations are texts there.
                types[path][is_stream].validate_json(json.dumps(as_typed(value)), strict=True)
            counts["streams" if is_stream else "whole"] += 1
        except pydantic.ValidationError as e:
            faults.append(f"{case}: {wrong(e)}")
    assert not faults, "\n".join(faults)
    assert counts["refused"] == refused, counts
    return ", ".join(f"{n} {what}" for what, n in counts.items())
