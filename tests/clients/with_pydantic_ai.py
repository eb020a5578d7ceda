"""pydantic-ai: an agent that answers in text, at once and as it comes."""
import asyncio, os
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

provider = OpenAIProvider(base_url=os.environ["GEB_URL"] + "/v1", api_key="none")
model = OpenAIChatModel(os.environ["GEB_NAME"], provider=provider)
agent = Agent(model, model_settings={"max_tokens": 24, "seed": 7})


async def both():
    said = await agent.run("In the beginning")
    async with agent.run_stream("In the beginning") as answer:
        return said.output, await answer.get_output()


whole, streamed = asyncio.run(both())
assert whole == streamed != "", (whole, streamed)
print("pydantic-ai")
