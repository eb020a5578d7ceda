"""Chat templates rendered by ours and by Python's jinja2 as Hugging Face configures it.

    cargo build --example render
    python3 tests/oracle/templates.py FOLDER [--render target/debug/examples/render] [-v]

FOLDER holds `*.jinja` files; llama.cpp publishes about 70 in `models/templates`. Each is rendered with
conversations that have a system message, tools, tool calls, reasoning, parts, and mistakes. A row counts the
conversations whose text is equal, those refused by both, and those that differ (`-v` prints them).
Exit code 1 when any differs.
"""

import argparse
import collections
import copy
import datetime
import glob
import json
import os
import subprocess
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a place, \"today\" & <tomorrow>",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Name of the place, e.g. 北京"},
                "days": {"type": "integer", "default": 1, "minimum": 0, "enum": [1, 2, 3]},
                "unit": {"type": ["string", "null"], "enum": ["C", "F"]},
                "detail": {"type": "object", "properties": {"wind": {"type": "boolean"}, "list": {"type": "array", "items": {"type": "number"}}}},
            },
            "required": ["place"],
        },
        "returns": {"type": "string"},
    },
}
ADD = {"type": "function", "function": {"name": "add", "description": "a + b", "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]}}}


def call(arguments, name="get_weather", id="call00001"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def conversations():
    system = {"role": "system", "content": "You are terse.\nAnswer in one line."}
    ask = user("How is the weather in 北京?")
    place = {"place": "北京", "days": 2, "detail": {"wind": True, "list": [1, 2.5, None]}}
    answer = {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": "{\"temperature\": 21.5}"}
    chat = [user("Hi there!"), assistant("Hello. What can I do?"), user(" Tell me <b>\"it's\"</b> & more\n\n")]
    tools = {"tools": [WEATHER, ADD]}
    yield "user", dict(messages=[user("Hi there!")], add_generation_prompt=True)
    yield "no prompt", dict(messages=chat[:2])
    yield "chat", dict(messages=chat, add_generation_prompt=True)
    yield "system", dict(messages=[system] + chat, add_generation_prompt=True)
    yield "tools", dict(messages=[system, ask], add_generation_prompt=True, **tools)
    yield "tools, no system", dict(messages=[ask], add_generation_prompt=True, **tools)
    for name, arguments in (("object", place), ("text", json.dumps(place, ensure_ascii=False))):
        messages = [system, ask, assistant("", tool_calls=[call(arguments)]), answer]
        yield f"call, {name}", dict(messages=messages, add_generation_prompt=True, **tools)
        yield f"answer, {name}", dict(messages=messages + [assistant("21.5 °C.")], **tools)
    two = [call({"a": 1, "b": 2.5}, "add", "call00001"), call(place, "get_weather", "call00002")]
    results = [dict(answer, name="add", content="3.5"), dict(answer, tool_call_id="call00002")]
    yield "two calls", dict(messages=[ask, assistant(None, tool_calls=two)] + results, add_generation_prompt=True, **tools)
    yield "call and text", dict(messages=[ask, assistant("Let me see.", tool_calls=two[:1]), answer, assistant("Done."), user("Thanks")], add_generation_prompt=True, **tools)
    thought = assistant("42", reasoning_content="6 * 7\nis 42")
    yield "reasoning", dict(messages=[user("6 * 7?"), thought, user("Sure?")], add_generation_prompt=True)
    yield "think tags", dict(messages=[user("6 * 7?"), assistant("<think>\n6 * 7\n</think>\n\n42"), user("Sure?")], add_generation_prompt=True)
    yield "thinking on", dict(messages=chat, add_generation_prompt=True, enable_thinking=True, thinking=True)
    yield "thinking off", dict(messages=chat, add_generation_prompt=True, enable_thinking=False, thinking=False)
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "this?"}]
    yield "parts", dict(messages=[dict(system, content=parts[:1]), {"role": "user", "content": parts}], add_generation_prompt=True)
    yield "documents", dict(messages=[ask], add_generation_prompt=True, documents=[{"title": "A", "text": "b"}])
    yield "assistant first", dict(messages=[chat[1]], add_generation_prompt=True)
    yield "two users", dict(messages=[user("a"), user("b")], add_generation_prompt=True)
    yield "other role", dict(messages=[user("a"), {"role": "critic", "content": "b"}], add_generation_prompt=True)
    yield "empty", dict(messages=[], add_generation_prompt=True)


class Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the model said; its body is rendered as it is."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class Dict:
    """Without the attributes of the type."""

    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)

    def fromkeys(self, *args, **kwargs):
        return dict.fromkeys(*args, **kwargs)


class Namespace(jinja2.utils.Namespace):
    """Without names that begin with an underscore."""

    def __init__(*args, **kwargs):
        values = dict(*args[1:], **kwargs)
        for name in values:
            Namespace.check(name)
        jinja2.utils.Namespace.__init__(args[0], values)

    def __setitem__(self, name, value):
        Namespace.check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(name)


def environment():
    def refuse(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = refuse
    env.globals["strftime_now"] = lambda f: datetime.datetime.now().strftime(f)
    env.globals["dict"] = Dict()
    env.globals["namespace"] = Namespace
    return env


def reference(source, context):
    try:
        template = environment().from_string(source)
        fixed = {"bos_token": "<s>", "eos_token": "</s>", "tools": None, "documents": None}
        return {"text": template.render(**{**fixed, "add_generation_prompt": False, **copy.deepcopy(context)})}
    except Exception as error:  # whatever a template does wrong
        return {"error": f"{type(error).__name__}: {error}"}


def difference(wanted, found):
    if "error" in wanted or "error" in found:
        return f"jinja2: {str(wanted)[:300]}\n    geb:    {str(found)[:300]}"
    a, b = wanted["text"], found["text"]
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return f"jinja2: …{a[max(0, at - 60):at + 80]!r}\n    geb:    …{b[max(0, at - 60):at + 80]!r}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--render", default="target/debug/examples/render")
    parser.add_argument("-v", action="store_true")
    args = parser.parse_args()
    cases = []
    for path in sorted(glob.glob(os.path.join(args.folder, "*.jinja"))):
        source = open(path, encoding="utf-8").read()
        cases += [(os.path.basename(path)[:-6], name, source, context) for name, context in conversations()]
    lines = "\n".join(json.dumps({"source": s, "context": c}) for _, _, s, c in cases)
    answers = subprocess.run([args.render], input=lines, capture_output=True, text=True).stdout
    rows, total = collections.defaultdict(collections.Counter), collections.Counter()
    for (name, conversation, source, context), line in zip(cases, answers.split("\n"), strict=False):
        wanted, found = reference(source, context), json.loads(line)
        if "error" in wanted and "error" in found:
            result = "refused"
        else:
            result = "equal" if wanted == found else "differ"
        rows[name][result] += 1
        total[result] += 1
        if result == "differ" and args.v:
            print(f"{name}, {conversation}:\n    {difference(wanted, found)}")
    print(f"{'template':<55} {'equal':>6} {'refused by both':>16} {'differ':>7}")
    for name, row in rows.items():
        print(f"{name:<55} {row['equal']:>6} {row['refused']:>16} {row['differ']:>7}")
    print(f"{len(rows)} templates: {total['equal']} equal, {total['refused']} refused by both, {total['differ']} differ")
    sys.exit(1 if total["differ"] else 0)


if __name__ == "__main__":
    main()
