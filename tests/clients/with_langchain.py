"""langchain-openai: chat, stream, log-probabilities, texts, vectors."""
import os
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

how = {"base_url": os.environ["GEB_URL"] + "/v1", "api_key": "none", "model": os.environ["GEB_NAME"], "max_retries": 0}
chat = ChatOpenAI(max_tokens=24, seed=7, **how)
said = chat.invoke("In the beginning")
assert said.content and said.usage_metadata["output_tokens"] <= 24
assert "".join(c.content for c in chat.stream("In the beginning")) == said.content
assert [b.content for b in chat.batch(["In the beginning"] * 8)] == [said.content] * 8
weighed = chat.bind(logprobs=True, top_logprobs=2).invoke("In the beginning")
assert weighed.response_metadata["logprobs"]["content"]
assert OpenAI(max_tokens=8, **how).invoke("A river is")
# It would send the ids of another tokenizer else.
vectors = OpenAIEmbeddings(check_embedding_ctx_length=False, **how).embed_documents(["a river", "a hill"])
assert [len(v) for v in vectors] == [256, 256]
print("langchain-openai")
