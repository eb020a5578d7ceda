"""lm-eval: 240 questions of a file as `geb-run eval choice` answers them, one at a time, 8 at a time, 8 in parallel."""
import json, logging, os, pathlib, random, subprocess, tempfile

logging.disable(logging.WARNING)
import lm_eval
from lm_eval.tasks import TaskManager

URL, NAME, FILE, GEB = (os.environ[k] for k in ("GEB_URL", "GEB_NAME", "GEB_FILE", "GEB_RUN"))
ROOT = pathlib.Path(__file__).resolve().parents[2]
QUESTIONS = 240


def questions():
    """How a text goes on, among three other places of it."""
    words = (ROOT / "assets/geb-nano/eval-en.txt").read_text().split()
    dice = random.Random(15)
    def at(length):
        i = dice.randrange(len(words) - 40)
        return words[i : i + length]
    for _ in range(QUESTIONS):
        text, answer = at(dice.randrange(8, 30)), dice.randrange(4)
        endings = [" ".join(at(dice.randrange(2, 7))) for _ in range(4)]
        endings[answer] = " ".join(text[-3:])
        yield {"context": " ".join(text[:-3]), "endings": endings, "answer": answer}


TASK = """
task: geb_local
dataset_path: json
dataset_kwargs:
  data_files:
    test: {path}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{endings}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
"""


def evaluate(folder, batch, concurrent):
    """Log-likelihoods of the endings of each question, and whether the answer was right."""
    how = {"model": NAME, "base_url": URL + "/v1/completions", "tokenizer_backend": "remote", "tokenized_requests": True,
           "num_concurrent": concurrent, "max_retries": 1, "max_length": 512}
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    done = lm_eval.simple_evaluate(model="local-completions", model_args=how, tasks=["geb_local"], batch_size=batch,
                                   task_manager=manager, bootstrap_iters=0, log_samples=True)
    samples = sorted(done["samples"]["geb_local"], key=lambda s: s["doc_id"])
    assert len(samples) == QUESTIONS
    return [([float(r[0][0]) for r in s["resps"]], s["acc"]) for s in samples]


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    lines = folder / "questions.jsonl"
    lines.write_text("".join(json.dumps(q) + "\n" for q in questions()))
    (folder / "geb_local.yaml").write_text(TASK.format(path=lines))
    words = [GEB, "eval", "choice", "-m", FILE, "--format", "jsonl", "--json", "--quiet", folder]
    own = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
    runs = {how: evaluate(folder, *how) for how in ((1, 1), (8, 1), (1, 8))}

records = sorted(own["records"], key=lambda r: r["index"])
right = sum(r["chosen"] == r["answer"] for r in records)
for how, run in runs.items():
    for i, (record, (found, acc)) in enumerate(zip(records, run, strict=True)):
        # The sums of the same numbers, in whatever order they are added.
        worst = max(abs(a - b) for a, b in zip(record["log_probs"], found, strict=True))
        assert worst < 1e-9, (how, i, record["log_probs"], found)
        assert acc == (record["chosen"] == record["answer"]), (how, i)
assert right > 2 * QUESTIONS / 4, f"{right} right of {QUESTIONS}: no better than chance"
print(f"lm-eval {lm_eval.__version__}: {right} of {QUESTIONS} right, as geb-run eval choice, batch 1, 8, 8 in parallel")
