"""litellm: as OpenAI, vLLM, ollama and Anthropic; errors that it knows by their text."""
import os
import litellm

URL, NAME = os.environ["GEB_URL"], os.environ["GEB_NAME"]
ASK = [{"role": "user", "content": "In the beginning"}]
OPENAI = {"model": f"openai/{NAME}", "api_base": URL + "/v1", "api_key": "none", "num_retries": 0}
litellm.suppress_debug_info = True


def text(answer):
    return answer.choices[0].message.content


whole = litellm.completion(messages=ASK, max_tokens=24, seed=7, **OPENAI)
parts = litellm.completion(messages=ASK, max_tokens=24, seed=7, stream=True, **OPENAI)
assert "".join(p.choices[0].delta.content or "" for p in parts) == text(whole) != ""
vllm = litellm.completion(model=f"hosted_vllm/{NAME}", api_base=URL + "/v1", messages=ASK, max_tokens=24, seed=7)
assert text(vllm) == text(whole)
ollama = litellm.completion(model=f"ollama_chat/{NAME}", api_base=URL, messages=ASK, max_tokens=24, seed=7)
assert text(ollama) == text(whole)
anthropic = litellm.completion(model=f"anthropic/{NAME}", api_base=URL, api_key="none", messages=ASK, max_tokens=24)
assert text(anthropic) is not None
assert len(litellm.embedding(input=["a", "b"], **OPENAI).data) == 2
assert litellm.text_completion(prompt="A river is", max_tokens=2, model=f"text-completion-openai/{NAME}",
                               api_base=URL + "/v1", api_key="none").choices[0].text
try:
    litellm.completion(messages=[{"role": "user", "content": "word " * 2000}], **OPENAI)
except litellm.ContextWindowExceededError:
    pass
else:
    raise AssertionError("a context that is too long was taken")
print("litellm")
