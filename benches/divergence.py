#!/usr/bin/env python3
"""KL divergence to FP32 of files of the same type and size: ours beside llama-quantize's, same importance matrix.

Every file is decoded to F32 before it is evaluated, so that all run float arithmetic and only the error of the
weights is measured; --quantized evaluates the files as they are.

  benches/divergence.py --model f32.gguf --imatrix cov.imatrix.gguf --text en=en.txt --text zh=zh.txt \\
      --llama-quantize PATH/llama-quantize --types q4_0,q4_k
"""

import argparse
import pathlib
import subprocess
import tempfile

PEER = {"q2_k": "Q2_K", "q3_k": "Q3_K_S", "q4_k": "Q4_K_S", "q5_k": "Q5_K_S"}


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="F32 GGUF")
    parser.add_argument("--imatrix", required=True, help="made by geb-run imatrix --covariance")
    parser.add_argument("--text", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument("--types", default="q4_0,q4_1,q5_0,q5_1,q8_0,q2_k,q3_k,q4_k,q5_k,q6_k,iq4_nl,iq4_xs")
    parser.add_argument("--rows", default="peer,reference,fast,best")
    parser.add_argument("--mixture", action="store_true", help="without --pure on both sides")
    parser.add_argument("--quantized", action="store_true")
    parser.add_argument("--llama-quantize", required=True)
    parser.add_argument("--bin", default="target/release", help="folder of geb-quantize and examples/divergence")
    parser.add_argument("--tmp")
    args = parser.parse_args()
    texts = [t.split("=", 1) for t in args.text]
    ours, evaluate = f"{args.bin}/geb-quantize", f"{args.bin}/examples/divergence"
    pure = [] if args.mixture else ["--pure"]
    names = [name for name, _ in texts]
    print("| type | file | bytes | " + " | ".join(f"KL {n} | top-1 {n}" for n in names) + " | mean KL, peer = 1 |")
    print("|" + "---|" * (4 + 2 * len(names)), flush=True)
    for dtype in args.types.split(","):
        with tempfile.TemporaryDirectory(dir=args.tmp) as tmp:
            files, sizes = [], []
            for row in args.rows.split(","):
                file = pathlib.Path(tmp) / f"{row}.gguf"
                if row.startswith("peer"):
                    weights = [] if row == "peer-plain" else ["--imatrix", args.imatrix]
                    kind = dtype.upper() if args.mixture else PEER.get(dtype, dtype.upper())
                    run(args.llama_quantize, *pure, *weights, args.model, file, kind, 2)
                else:
                    weights = ["--imatrix", args.imatrix, "--search", row]
                    run(ours, args.model, file, "--type", dtype, *pure, *weights, "--no-progress")
                sizes.append(file.stat().st_size)
                if not args.quantized:
                    decoded = file.with_suffix(".f32.gguf")
                    run(ours, file, decoded, "--type", "f32", "--allow-requantize", "--no-progress")
                    file.unlink()
                    file = decoded
                files.append(file)
            scores = []
            for _, text in texts:
                lines = run(evaluate, args.model, text, args.windows, *files).splitlines()[1:]
                scores.append([line.split("\t") for line in lines])
            mean = [sum(float(s[i][2]) for s in scores) / len(scores) for i in range(len(files))]
            for i, row in enumerate(args.rows.split(",")):
                cells = " | ".join(f"{float(s[i][2]):.6f} | {100 * float(s[i][3]):.2f} %" for s in scores)
                print(f"| {dtype} | {row} | {sizes[i]} | {cells} | {mean[i] / mean[0]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
