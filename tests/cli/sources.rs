//! Ways to name a model on the command line, beside files and folders.

use ckload::synth::{Blueprint, Element, TensorSpec};

use crate::support::{ckload, failure_of, json_of, stdout_of};

#[test]
fn a_quoted_pattern_is_one_model() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        let tensor = TensorSpec::random(name, Element::F32, [3]);
        Blueprint::new(vec![tensor])
            .write_file(folder.path().join(format!("{name}.safetensors")), 0)
            .unwrap();
    }
    let load = |pattern: &str| {
        let mut command = ckload();
        command.current_dir(folder.path()).args(["--json", pattern]);
        command
    };
    for (pattern, files) in [
        ("*.safetensors", 3),
        ("[ab].safetensors", 2),
        ("./{a,c}.*", 2),
        ("**/?.safetensors", 3),
    ] {
        let report = json_of(&mut load(pattern));
        assert_eq!(report["models"].as_array().unwrap().len(), 1);
        assert_eq!(report["models"][0]["files"], files, "{pattern}");
    }
    let below = folder.path().join("below");
    std::fs::create_dir(&below).unwrap();
    std::fs::rename(
        folder.path().join("b.safetensors"),
        below.join("b.safetensors"),
    )
    .unwrap();
    let mut inspect = ckload();
    let inspect = inspect.current_dir(folder.path());
    let text = stdout_of(inspect.args(["inspect", "**/[ab].safetensors"]));
    let files = "\n0: a.safetensors              1           3     12\n1: below/b.safetensors";
    assert!(text.contains(files), "{text}");
    let (json, message) = failure_of(&mut load("*.gguf"), 1);
    assert_eq!(json["error"]["kind"], "no_checkpoint");
    assert!(message.contains("*.gguf matches no file"), "{message}");
}

#[test]
fn what_a_folder_holds_in_several_versions_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["m-Q4_K_M.gguf", "m-Q8_0.gguf"] {
        std::fs::write(folder.path().join(name), "GGUF").unwrap();
    }
    let (json, message) = failure_of(ckload().arg("--json").arg(folder.path()), 1);
    assert_eq!(json["error"]["kind"], "ambiguous");
    assert!(message.contains("m-Q4_K_M.gguf, m-Q8_0.gguf"), "{message}");
    let first = folder.path().join("m-Q4_K_M.gguf");
    assert!(message.contains(first.to_str().unwrap()), "{message}");
}
