"""instructor: an object of a class, which a schema holds the answer to."""
import os
import instructor, openai
from pydantic import BaseModel, Field


class River(BaseModel):
    # The small model does not end a text by itself.
    name: str = Field(max_length=12)
    long: bool


client = openai.OpenAI(base_url=os.environ["GEB_URL"] + "/v1", api_key="none", max_retries=0)
for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS):
    made = instructor.from_openai(client, mode=mode).chat.completions.create(
        model=os.environ["GEB_NAME"], response_model=River, max_retries=0, max_tokens=200, seed=7,
        messages=[{"role": "user", "content": "In the beginning"}])
    assert isinstance(made.name, str) and isinstance(made.long, bool)
print("instructor")
