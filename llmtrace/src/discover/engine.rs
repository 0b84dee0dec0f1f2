//! Which LLM engine a process is, and which model it serves, by its command line.
#![forbid(unsafe_code)]

use std::path::Path;

use serde::Serialize;

/// What a command line tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Engine {
    pub name: &'static str,
    /// As it is given: a path, or a name of a hub.
    pub model: Option<String>,
}

/// How an engine is known.
struct Known {
    name: &'static str,
    /// Names of its programs, scripts or Python modules; a module's also stand for those in it.
    programs: &'static [&'static str],
    /// What has to stand among the arguments too, if anything.
    needs: &'static [&'static str],
    /// Flags that name the model, the best first.
    model: &'static [&'static str],
    /// The model may stand without a flag, behind this word.
    behind: Option<&'static str>,
}

const fn known(
    name: &'static str,
    programs: &'static [&'static str],
    model: &'static [&'static str],
) -> Known {
    Known { name, programs, needs: &[], model, behind: None }
}

const ENGINES: &[Known] = &[
    Known {
        behind: Some("serve"),
        ..known("vllm", &["vllm", "VLLM"], &["--served-model-name", "--model"])
    },
    known("sglang", &["sglang"], &["--served-model-name", "--model-path", "--model"]),
    known("tgi", &["text-generation-launcher", "text-generation-router"], &["--model-id"]),
    known("tei", &["text-embeddings-router"], &["--model-id"]),
    Known {
        behind: Some("serve"),
        ..known("tensorrt-llm", &["trtllm-serve", "tensorrt_llm"], &["--model"])
    },
    known("triton", &["tritonserver"], &["--model-repository", "--model-store"]),
    known(
        "llama.cpp",
        &["llama-server", "llama.cpp", "llama_cpp", "llamafile"],
        &["--alias", "-a", "--hf-repo", "-hf", "-hfr", "--model", "-m"],
    ),
    known("ollama", &["ollama"], &["--model"]),
    Known {
        needs: &["serve"],
        behind: Some("api_server"),
        ..known("lmdeploy", &["lmdeploy"], &["--model-name"])
    },
    Known { behind: Some("serve"), ..known("mlc-llm", &["mlc_llm"], &["--model"]) },
    known("koboldcpp", &["koboldcpp"], &["--model"]),
    known("aphrodite", &["aphrodite"], &["--served-model-name", "--model"]),
    known("infinity", &["infinity_emb"], &["--served-model-name", "--model-id"]),
    known("localai", &["local-ai"], &[]),
    known("litellm", &["litellm"], &["--model"]),
];

/// Programs that run others.
const INTERPRETERS: [&str; 8] = ["python", "pypy", "node", "bun", "deno", "uv", "java", "bash"];

/// Longest model that is told, in bytes.
const MAX_MODEL: usize = 128;

/// The engine that `args` starts, if it is one; `comm` is the process's name, which some change.
pub fn of(comm: &str, args: &[String]) -> Option<Engine> {
    let names = names(comm, args);
    let engine = ENGINES.iter().find(|engine| {
        let named = |program: &str| names.iter().any(|name| is(name, program));
        let needed = |word: &str| args.iter().any(|arg| arg == word);
        engine.programs.iter().any(|p| named(p)) && engine.needs.iter().all(|w| needed(w))
    })?;
    Some(Engine { name: engine.name, model: model(engine, args) })
}

/// `name` is the program, a part of it, or a module in it.
fn is(name: &str, program: &str) -> bool {
    name.strip_prefix(program)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', ':', '-', '_']))
}

/// What the process may be called by: its name, its program, and what an interpreter runs.
fn names(comm: &str, args: &[String]) -> Vec<String> {
    let file =
        |arg: &str| Path::new(arg).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut names = vec![comm.to_owned()];
    let Some(program) = args.first() else { return names };
    names.push(file(program));
    let interpreter = INTERPRETERS.iter().any(|i| file(program).starts_with(i));
    if interpreter {
        let mut rest = args[1..].iter();
        while let Some(arg) = rest.next() {
            if arg == "-m" {
                names.extend(rest.next().cloned());
                break;
            }
            // What follows is a program's text.
            if arg == "-c" || arg == "-e" {
                break;
            }
            if !arg.starts_with('-') {
                names.push(file(arg).trim_end_matches(".py").to_owned());
                break;
            }
        }
    }
    names
}

fn model(engine: &Known, args: &[String]) -> Option<String> {
    let by_flag = engine.model.iter().find_map(|flag| {
        args.iter().enumerate().find_map(|(i, arg)| {
            if arg == flag {
                return args.get(i + 1).map(String::as_str);
            }
            arg.strip_prefix(flag)?.strip_prefix('=')
        })
    });
    let behind = || {
        let word = engine.behind?;
        let at = args.iter().position(|arg| arg == word || is_program(arg, word))?;
        args.get(at + 1).filter(|arg| !arg.starts_with('-')).map(String::as_str)
    };
    let model = by_flag.or_else(behind)?;
    let mut end = model.len().min(MAX_MODEL);
    while !model.is_char_boundary(end) {
        end -= 1;
    }
    Some(model[..end].chars().map(|c| if c.is_control() { '_' } else { c }).collect())
}

/// `trtllm-serve MODEL` has its word in its name.
fn is_program(arg: &str, word: &str) -> bool {
    Path::new(arg)
        .file_name()
        .is_some_and(|name| name.to_string_lossy().ends_with(&format!("-{word}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_line(comm: &str, line: &str) -> Option<(&'static str, String)> {
        let args: Vec<String> = line.split_whitespace().map(Into::into).collect();
        of(comm, &args).map(|e| (e.name, e.model.unwrap_or_default()))
    }

    #[test]
    fn as_people_start_them() {
        for (comm, line, name, model) in [
            (
                "python3",
                "/usr/bin/python3 /usr/local/bin/vllm serve Qwen/Qwen3-8B --port 8000",
                "vllm",
                "Qwen/Qwen3-8B",
            ),
            (
                "python3",
                "python3 -m vllm.entrypoints.openai.api_server --model=m --served-model-name q",
                "vllm",
                "q",
            ),
            ("VLLM::EngineCor", "VLLM::EngineCore", "vllm", ""),
            (
                "python",
                "python -u -m sglang.launch_server --model-path meta/l --port 30000",
                "sglang",
                "meta/l",
            ),
            ("sglang::schedul", "sglang::scheduler", "sglang", ""),
            ("text-generation", "text-generation-router --model-id x/y", "tgi", "x/y"),
            ("llama-server", "/opt/llama-server -m /m/q.gguf --alias tiny", "llama.cpp", "tiny"),
            ("llama-server", "llama-server -hf ggml-org/gemma", "llama.cpp", "ggml-org/gemma"),
            ("python3", "python3 -m llama_cpp.server --model x.gguf", "llama.cpp", "x.gguf"),
            ("ollama", "/usr/local/bin/ollama serve", "ollama", ""),
            (
                "ollama",
                "ollama runner --model /blobs/sha256-1 --port 4",
                "ollama",
                "/blobs/sha256-1",
            ),
            ("tritonserver", "tritonserver --model-repository=/models", "triton", "/models"),
            ("trtllm-serve", "/bin/trtllm-serve TinyLlama --host 0", "tensorrt-llm", "TinyLlama"),
            ("lmdeploy", "lmdeploy serve api_server internlm/x", "lmdeploy", "internlm/x"),
            ("litellm", "python /venv/bin/litellm --model ollama/x", "litellm", "ollama/x"),
        ] {
            assert_eq!(of_line(comm, line), Some((name, model.to_owned())), "{line}");
        }
    }

    #[test]
    fn what_is_none() {
        for (comm, line) in [
            ("python3", "python3 -m http.server"),
            ("vim", "vim vllm.py"),
            ("bash", "bash -c vllm-notes"),
            ("lmdeploy", "lmdeploy chat internlm/x"),
            ("nginx", "nginx: master process"),
            ("", ""),
            ("vllmx", "vllmx serve m"),
        ] {
            assert_eq!(of_line(comm, line), None, "{line}");
        }
    }
}
