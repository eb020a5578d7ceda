//! What people type who come from other programs: flags of llama.cpp, ollama, vLLM and the Hugging Face tools. What we have under another name is taken as that, what changes nothing here
//! is dropped with a note, anything else is answered in one line. One table per program; our own words come first.

use std::ffi::OsString;

/// A flag of another program.
#[derive(Debug)]
pub struct Flag {
    /// All its spellings, with a space between.
    pub names: &'static str,
    /// What it means here.
    pub means: Means,
}

/// What a flag of another program means here.
#[derive(Debug)]
pub enum Means {
    /// Our flag of that name; the value stays.
    Ours(&'static str),
    /// These words in its place, and a note.
    Words(&'static [&'static str], &'static str),
    /// Nothing: it is dropped with its value, and a note.
    Nothing(Value, &'static str),
    /// Nothing while its value is one of these, which switch it off; else refused.
    Off(&'static [&'static str], &'static str),
    /// The value is the last word of the command.
    Last,
    /// Refused, with what to use.
    Not(&'static str),
}

/// What follows a flag that is dropped.
#[derive(Debug, Clone, Copy)]
pub enum Value {
    /// Nothing.
    None,
    /// One word.
    One,
    /// One of these words, or nothing.
    Maybe(&'static [&'static str]),
}

use Means::{Last, Not, Nothing, Off, Ours, Words};
use Value::{Maybe, None as Bare, One};

const SWITCH: &[&str] = &[
    "on", "off", "auto", "0", "1", "true", "false", "enabled", "disabled",
];
const GPU: &str = "everything runs on the CPU";
const BATCH: &str = "batches are chosen here, and results do not depend on them";
const QUIET: &str = "-q and --no-progress choose what is shown";
const SAMPLERS: &str = "not a sampler here: --temp, --top-k, --top-p, --min-p, --typical, --top-nsigma, \
     --xtc-probability, --mirostat, --dry-multiplier, --repeat-penalty, --presence-penalty";
const SERVER: &str = "geb-run serve is the server: --streams, --host, --port, --api-key-file; it batches and measures always";
const HUB: &str =
    "nothing is fetched from a hub: download the file (hf download REPOSITORY FILE), then -m FILE";
const TEXT: &str = "models read text only here";
const ROPE: &str = "the file says how positions are stretched; --ctx-beyond goes beyond";
const GRAMMAR: &str = "grammars are Lark in the form of llguidance here, --grammar FILE; --json-schema FILE takes a schema";

const fn flag(names: &'static str, means: Means) -> Flag {
    Flag { names, means }
}

/// Those of `geb-run`.
pub const RUN: &[Flag] = &[
    flag(
        "--ctx-size --context-size --num-ctx --n-ctx --max-model-len",
        Ours("--ctx"),
    ),
    flag(
        "--n-predict --predict --num-predict --max-new-tokens",
        Ours("--max-tokens"),
    ),
    flag("-sys --system-prompt", Ours("--system")),
    flag("-r --reverse-prompt", Ours("--stop")),
    flag("--chat-template-file", Ours("--chat-template")),
    flag(
        "-md --model-draft --draft-model --spec-draft-model",
        Ours("--draft"),
    ),
    flag("--model-path", Ours("--model")),
    flag("--num-threads --n-threads", Ours("--threads")),
    flag(
        "--no-mmap",
        Words(&["--load", "read"], "the same as --load read"),
    ),
    flag(
        "-no-cnv --no-conversation -nocnv",
        Words(&["--raw"], "the same as --raw"),
    ),
    flag(
        "-ctk --cache-type-k -ctv --cache-type-v",
        Not("--kv TYPE sets the type of keys and values: auto, f32, f16, q8_0"),
    ),
    flag("--lora-scaled", Not("--lora FILE=SCALE takes the scale")),
    flag(
        "-cnv --conversation -i --interactive -if --interactive-first -ins --instruct -cml --chatml",
        Nothing(Bare, "geb-run chat holds a conversation"),
    ),
    flag(
        "-st --single-turn",
        Nothing(Bare, "geb-run chat answers a PROMPT once and leaves"),
    ),
    flag(
        "-ngl --n-gpu-layers --gpu-layers -ngld --gpu-layers-draft --n-gpu-layers-draft -ts --tensor- \
         split -sm --split-mode -mg --main-gpu -dev --device -devd --device-draft -ot --override- \
         tensor -ncmoe --n-cpu-moe --gpu-memory-utilization --tensor-parallel-size -tp -fit",
        Nothing(One, GPU),
    ),
    flag(
        "-nkvo --no-kv-offload -cmoe --cpu-moe --no-op-offload -kvo --kv-offload",
        Nothing(Bare, GPU),
    ),
    flag("-b --batch-size -ub --ubatch-size", Nothing(One, BATCH)),
    flag(
        "-fa --flash-attn",
        Nothing(Maybe(SWITCH), "attention is chosen here"),
    ),
    flag(
        "-tb --threads-batch -td --threads-draft",
        Nothing(One, "one number of threads does all work: -t N"),
    ),
    flag(
        "--mlock --mmap --direct-io -dio --check-tensors --repack --no-repack --swa-full",
        Nothing(
            Bare,
            "the file is mapped; --load read copies it, inspect --verify checks it",
        ),
    ),
    flag(
        "--numa --prio --prio-batch --poll --poll-batch -C --cpu-mask -Cr --cpu-range --cpu-strict",
        Nothing(One, "-t N and taskset choose the CPUs"),
    ),
    flag(
        "--jinja",
        Nothing(Bare, "chat templates are always read as Jinja"),
    ),
    flag(
        "--no-jinja",
        Not("chat templates are always read as Jinja; --raw goes without one"),
    ),
    flag(
        "-co --color --log-colors",
        Nothing(Maybe(SWITCH), "NO_COLOR and CLICOLOR_FORCE choose colours"),
    ),
    flag(
        "-v --verbose --verbose-prompt --log-disable --simple-io --no-display-prompt --display-prompt \
         --no-warmup --warmup --no-perf --perf --show-timings --no-show-timings --nowordwrap \
         --offline --log-prefix --log-timestamps -sp --special -mli --multiline-input --no-escape",
        Nothing(Bare, QUIET),
    ),
    flag(
        "-lv --verbosity --log-verbosity --log-file -a --alias --keepalive",
        Nothing(One, QUIET),
    ),
    flag(
        "-e --escape",
        Not("the prompt is taken as it is: let the shell write line ends, $'a\\nb'"),
    ),
    flag("--typical-p", Ours("--typical")),
    flag("--top-n-sigma", Ours("--top-nsigma")),
    flag(
        "--adaptive-target",
        Off(&["0", "0.0", "0.00", "-1", "-1.0"], SAMPLERS),
    ),
    flag("--tfs --tfs-z", Off(&["1", "1.0", "-1", "-1.0"], SAMPLERS)),
    flag(
        "--samplers --sampler-seq --sampling-seq",
        Not("samplers have one order: dry, top-nsigma, top-k, typical, top-p, min-p, xtc, temp"),
    ),
    flag("-l", Ours("--logit-bias")),
    flag("-j -jf --json-schema-file", Ours("--json-schema")),
    flag("--grammar-file --format", Not(GRAMMAR)),
    flag(
        "--rope-scaling --rope-scale --rope-freq-base --rope-freq-scale --yarn-orig-ctx --yarn-ext- \
         factor --yarn-attn-factor --yarn-beta-fast --yarn-beta-slow -gan --grp-attn-n -gaw --grp- \
         attn-w",
        Not(ROPE),
    ),
    flag(
        "-np --parallel -cb --cont-batching -nocb --host --port --api-key --metrics --slots",
        Not(SERVER),
    ),
    flag("-mm --mmproj -mmu --mmproj-url --image --audio", Not(TEXT)),
    flag(
        "-hf -hfr --hf-repo -hff --hf-file -hft --hf-token -hfd --hf-repo-draft -hfv -mu --model-url \
         -dr --docker-repo",
        Not(HUB),
    ),
    flag(
        "--prompt-cache --prompt-cache-all --prompt-cache-ro",
        Not("--save-state and --load-state keep the state of recurrent models"),
    ),
    flag(
        "--context-shift --no-context-shift",
        Nothing(
            Bare,
            "a chat forgets its oldest turns when the context is full; generate stops there",
        ),
    ),
    flag(
        "--override-kv",
        Not("metadata is taken from the file; geb-quantize writes a new one"),
    ),
    flag(
        "--in-prefix --in-suffix --in-prefix-bos",
        Not("turns are written by the chat template: --chat-template FILE"),
    ),
    flag("-bf --binary-file", Not("-f FILE reads a prompt")),
    flag(
        "--think --reasoning-budget --reasoning-format",
        Not("what a model thinks is shown as it writes it"),
    ),
];

/// Those of `geb-quantize`.
pub const QUANTIZE: &[Flag] = &[
    flag(
        "--outtype --quantization --quantize --qtype -q --ftype",
        Ours("--type"),
    ),
    flag("-o --out --outfile --output", Last),
    flag("--output-tensor-type", Ours("--output-type")),
    flag("--token-embedding-type", Ours("--embedding-type")),
    flag("--nthreads --num-threads -j", Ours("--threads")),
    flag(
        "--leave-output-tensor",
        Words(&["--output-type", "f16"], "the same as --output-type f16"),
    ),
    flag(
        "-m --model -i --input --model-dir",
        Not("the source goes without a flag: geb-quantize SOURCE OUT"),
    ),
    flag(
        "--bits --wbits",
        Not("--type chooses: q8_0 for 8 bits, q4_k_m or q4_0 for 4"),
    ),
    flag("--vocab-only", Not("files are written with their weights")),
    flag(
        "--bigendian",
        Not("files are written for little-endian machines"),
    ),
    flag(
        "--mmproj",
        Not("encoders of images and sound are left out: models read text only here"),
    ),
    flag(
        "--remote --hf-repo -hf",
        Not(
            "nothing is fetched from a hub: hf download REPOSITORY --local-dir FOLDER, then convert FOLDER",
        ),
    ),
    flag(
        "--override-kv --metadata --model-name --name",
        Not("metadata is taken from the checkpoint"),
    ),
    flag(
        "--include-weights --exclude-weights",
        Not("an importance matrix counts for all tensors"),
    ),
    flag(
        "--prune-layers",
        Not("--keep-layers LIST names those that stay"),
    ),
    flag(
        "--keep-split --split-max-tensors",
        Not("--split-max-size SIZE writes parts"),
    ),
    flag(
        "--no-lazy --use-temp-file --no-tensor-first-split --verbose -v --trust-remote-code",
        Nothing(
            Bare,
            "the converter streams, and runs no code of a checkpoint",
        ),
    ),
];

/// The words as our program understands them, and a note for every flag that was dropped or has another name.
///
/// `own` says which flags (`-x`, `--word`) the command has itself.
///
/// # Errors
/// One line for a flag that we have nothing for.
pub fn translate(
    typed: Vec<OsString>,
    table: &[Flag],
    own: &dyn Fn(&str) -> bool,
) -> Result<(Vec<OsString>, Vec<String>), String> {
    let (mut words, mut last, mut notes) =
        (Vec::with_capacity(typed.len()), Vec::new(), Vec::new());
    let given = typed.clone();
    let mut typed = typed.into_iter().peekable();
    while let Some(word) = typed.next() {
        if word == "--" {
            words.push(word);
            words.extend(typed);
            break;
        }
        let text = word.to_str().unwrap_or_default();
        let (name, joined) = text
            .split_once('=')
            .map_or((text, None), |(n, v)| (n, Some(v)));
        let found = table.iter().find(|f| f.names.split(' ').any(|n| n == name));
        let Some(flag) = found.filter(|_| name.starts_with('-') && !own(name)) else {
            words.push(word);
            continue;
        };
        let mut value = || joined.map(OsString::from).or_else(|| typed.next());
        let note = |why: &str| format!("{name}: {why}");
        match flag.means {
            Ours(first) | Words(&[first, ..], _) if !own(first) => {
                return Err(note(&format!("{first} here, which this command has not")));
            }
            Ours(ours) => match joined {
                Some(value) => words.push(format!("{ours}={value}").into()),
                None => words.push(ours.into()),
            },
            // Said twice, it is said once.
            Words([first, ..], _) if given.iter().any(|w| w == first) => {}
            Words(ours, why) => {
                words.extend(ours.iter().map(OsString::from));
                notes.push(note(why));
            }
            Nothing(Bare, why) => notes.push(note(why)),
            Nothing(One, why) => {
                value();
                notes.push(note(why));
            }
            Nothing(Maybe(all), why) => {
                let is_one = |w: &OsString| w.to_str().is_some_and(|w| all.contains(&w));
                if joined.is_none() {
                    typed.next_if(is_one);
                }
                notes.push(note(why));
            }
            Off(off, why) => match value() {
                Some(v) if v.to_str().is_some_and(|v| off.contains(&v)) => {}
                _ => return Err(note(why)),
            },
            Last => last.extend(value()),
            Not(why) => return Err(note(why)),
        }
    }
    words.extend(last);
    Ok((words, notes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command with these flags of its own.
    fn translated(line: &str, own: &[&str]) -> Result<(String, usize), String> {
        let words = line.split(' ').map(OsString::from).collect();
        let (words, notes) = translate(words, RUN, &|f| own.contains(&f))?;
        let words: Vec<_> = words
            .iter()
            .map(|w| w.to_string_lossy().into_owned())
            .collect();
        Ok((words.join(" "), notes.len()))
    }

    #[test]
    fn flags_are_ours_or_dropped_or_answered() {
        let own = [
            "--ctx",
            "--max-tokens",
            "-p",
            "-m",
            "--load",
            "--stop",
            "--raw",
            "--system",
        ];
        for (typed, meant, notes) in [
            ("-m x -ngl 99 -p y", "-m x -p y", 1),
            ("--n-gpu-layers=99 -p y", "-p y", 1),
            ("-fa -p y", "-p y", 1),
            ("-fa on -p y", "-p y", 1),
            ("--ctx-size 5 --n-predict=-1", "--ctx 5 --max-tokens=-1", 0),
            ("--no-mmap -b 512 -ub 512", "--load read", 3),
            ("-no-cnv -sys hi -r END", "--raw --system hi --stop END", 1),
            ("--tfs 1 -p y", "-p y", 0),
            ("-p y -- -ngl 99", "-p y -- -ngl 99", 0),
            ("--unknown 5", "--unknown 5", 0),
        ] {
            assert_eq!(
                translated(typed, &own),
                Ok((meant.to_owned(), notes)),
                "{typed}"
            );
        }
        for typed in [
            "-hf a/b",
            "--tfs 0.9",
            "--samplers top_k;temperature",
            "--grammar-file x",
            "--host 0.0.0.0",
            "-ctk q8_0",
        ] {
            let flag = typed.split(' ').next().expect("a flag");
            let line = translated(typed, &own).expect_err(typed);
            assert!(
                line.starts_with(flag) && line.lines().count() == 1,
                "{line}"
            );
        }
        // Our own flags come first.
        assert_eq!(translated("-r 5", &["-r"]), Ok(("-r 5".into(), 0)));
        // A command without the flag says so.
        assert!(translated("--ctx-size 5", &[]).is_err_and(|e| e.contains("--ctx here")));
    }

    #[test]
    fn no_flag_is_listed_twice() {
        for table in [RUN, QUANTIZE] {
            let mut all: Vec<&str> = table.iter().flat_map(|f| f.names.split(' ')).collect();
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), count);
        }
    }

    #[test]
    fn the_output_goes_last() {
        let words = ["--outfile", "o.gguf", "in", "--outtype", "q8_0"]
            .map(OsString::from)
            .to_vec();
        let (words, _) = translate(words, QUANTIZE, &|f| f == "--type").expect("understood");
        assert_eq!(
            words,
            ["in", "--type", "q8_0", "o.gguf"].map(OsString::from)
        );
    }
}
