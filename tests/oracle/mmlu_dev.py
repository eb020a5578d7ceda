#!/usr/bin/env python3
"""The few-shot questions of MMLU (its `dev` split) as a folder in MMLU's own layout.

    pip download --no-deps lm-eval==0.4.13
    unzip -j lm_eval-0.4.13-*.whl lm_eval/tasks/mmlu/flan_cot_fewshot/_cot_prompts.json
    python3 tests/oracle/mmlu_dev.py _cot_prompts.json DIR

Every subject becomes DIR/test/SUBJECT_test.csv and the same file as DIR/dev/SUBJECT_dev.csv: geb-run never
takes a question as its own example, so each one is asked after the others of its subject. These are 281
questions that models may have seen in prompts: good for comparing programs and types, not models.
"""
import csv, json, os, re, sys

QUESTION = re.compile(r"Q: (.*?)\s*\n\(A\) (.*?)\s*\(B\) (.*?)\s*\(C\) (.*?)\s*\(D\) (.*?)\s*\nA: (.*?answer is \(?([ABCD])\)?)",
                      re.S)


def main():
    source, out = sys.argv[1:]
    total = 0
    for folder in ("test", "dev"):
        os.makedirs(os.path.join(out, folder), exist_ok=True)
    for subject, prompt in sorted(json.load(open(source, encoding="utf-8")).items()):
        rows = [m.group(1, 2, 3, 4, 5, 7) for m in QUESTION.finditer(prompt)]
        if len(rows) != prompt.count("\n\nQ: "):
            print(f"{subject}: {len(rows)} of {prompt.count(chr(10) * 2 + 'Q: ')} questions understood", file=sys.stderr)
        total += len(rows)
        for folder in ("test", "dev"):
            path = os.path.join(out, folder, f"{subject}_{folder}.csv")
            with open(path, "w", encoding="utf-8", newline="") as f:
                csv.writer(f, lineterminator="\n").writerows(rows)
    print(f"{total} questions")


if __name__ == "__main__":
    main()
