//! What the server refuses, and that it goes on.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::process::Command;

use ckload::Checkpoint;
use ckload_example_server::random_bert::RandomBert;
use common::{Running, TEXTS, distance, models};
use serde_json::{Map, json};

#[test]
fn a_broken_checkpoint_is_refused_and_the_old_model_stays() {
    let folder = models();
    let broken = folder.path().join("broken");
    let weights = broken.join("model.safetensors");
    let write_whole = || {
        if broken.exists() {
            fs::remove_dir_all(&broken).unwrap();
        }
        RandomBert::TINY.write(&broken, 9).unwrap();
    };
    let write = |kind: &str| {
        write_whole();
        let whole = fs::metadata(&weights).unwrap().len();
        match kind {
            "truncated" => File::options()
                .write(true)
                .open(&weights)
                .unwrap()
                .set_len(whole - 1)
                .unwrap(),
            "lfs_pointer" => {
                let pointer = format!(
                    "version https://git-lfs.github.com/spec/v1\noid sha256:{:064}\nsize {whole}\n",
                    0
                );
                fs::write(&weights, pointer).unwrap();
            }
            "no_checkpoint" => fs::remove_file(&weights).unwrap(),
            // The weights are whole, and another model's.
            "model" => {
                let wider = RandomBert {
                    width: 64,
                    ..RandomBert::TINY
                };
                let other = folder.path().join("wider");
                wider.write(&other, 9).unwrap();
                fs::copy(other.join("model.safetensors"), &weights).unwrap();
            }
            other => panic!("{other}"),
        }
    };
    let server = Running::start(folder.path(), &["--load", "m=a"]);
    let client = server.client();
    let expected = client.embed();
    for (number, kind) in ["truncated", "lfs_pointer", "no_checkpoint", "model"]
        .into_iter()
        .enumerate()
    {
        write(kind);
        for (status, answer) in [client.swap("m", "broken"), client.load("new", "broken")] {
            assert_eq!(status, 422, "{kind}: {answer}");
            assert_eq!(answer["error"]["kind"], kind, "{answer}");
            let path = answer["error"]["path"].as_str().unwrap();
            assert!(path.contains("broken"), "{path}");
            assert!(!answer["error"]["message"].as_str().unwrap().is_empty());
        }
        assert!(distance(&client.embed(), &expected) < 1e-5);
        let (_, list) = client.ask("GET", "/models", None);
        assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
        assert_eq!(list[0]["state"], "serving");
        assert!(list[0]["last_refusal"].is_string(), "{list}");
        let (_, text) = client.ask("GET", "/metrics", None);
        let counted = format!("ckload_load_failures_total{{kind=\"{kind}\"}} 2\n");
        assert!(
            text.as_str().unwrap().contains(&counted),
            "{number}: {text}"
        );
    }
    // What was repaired is taken.
    write_whole();
    assert_eq!(client.swap("m", "broken").0, 200);
    assert!(distance(&client.embed(), &expected) > 1e-3);
    server.end();
}

#[test]
fn a_path_outside_the_given_folders_is_refused() {
    let (folder, outside) = (models(), models());
    symlink(outside.path().join("b"), folder.path().join("link")).unwrap();
    fs::create_dir(folder.path().join("mixed")).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        fs::copy(
            folder.path().join("a").join(file),
            folder.path().join("mixed").join(file),
        )
        .unwrap();
    }
    let weights = outside.path().join("b/model.safetensors");
    symlink(weights, folder.path().join("mixed/model.safetensors")).unwrap();
    let server = Running::start(folder.path(), &["--load", "m=a"]);
    let client = server.client();
    let absolute = outside.path().join("b").display().to_string();
    let upwards = format!(
        "../{}/b",
        outside.path().file_name().unwrap().to_str().unwrap()
    );
    for path in [&*absolute, &upwards, "link", "mixed", "/etc", ".."] {
        for (status, answer) in [client.swap("m", path), client.load("new", path)] {
            assert_eq!(
                (status, &answer["error"]["kind"]),
                (403, &json!("outside")),
                "{path}: {answer}"
            );
        }
    }
    // An index that names a file of a subfolder, which is a link to outside; there the file is whole, broken, or absent.
    let sharded = folder.path().join("sharded");
    RandomBert::TINY.write(&sharded, 3).unwrap();
    fs::rename(
        sharded.join("model.safetensors"),
        folder.path().join("moved.safetensors"),
    )
    .unwrap();
    fs::create_dir(sharded.join("part")).unwrap();
    let link = sharded.join("part/model.safetensors");
    let moved = Checkpoint::open(folder.path().join("moved.safetensors")).unwrap();
    let places = moved
        .tensors()
        .iter()
        .map(|tensor| (tensor.name.to_string(), json!("part/model.safetensors")));
    let index = json!({"weight_map": places.collect::<Map<_, _>>()});
    fs::write(
        sharded.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    fs::write(outside.path().join("broken"), "no tensors").unwrap();
    let mut answers = Vec::new();
    for target in ["b/model.safetensors", "broken", "absent"] {
        symlink(outside.path().join(target), &link).unwrap();
        let (status, answer) = client.swap("m", "sharded");
        assert_eq!(
            (status, &answer["error"]["kind"]),
            (403, &json!("outside")),
            "{target}: {answer}"
        );
        answers.push(answer);
        fs::remove_file(&link).unwrap();
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "nobody learns what is there: {answers:?}");
    symlink(folder.path().join("moved.safetensors"), &link).unwrap();
    assert_eq!(client.swap("m", "sharded").0, 200);
    // A pipe is not waited for.
    let pipe = folder.path().join("b/sentence_bert_config.json");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let (status, answer) = client.swap("m", "b");
    assert_eq!(
        (status, &answer["error"]["kind"]),
        (422, &json!("not_a_file"))
    );
    fs::remove_file(pipe).unwrap();
    assert_eq!(client.swap("m", "absent").0, 404);
    let inside = folder.path().join("b").display().to_string();
    assert_eq!(client.swap("m", &inside).0, 200);
    server.end();
}

#[test]
fn what_is_no_proper_request_is_refused_in_json() {
    let folder = models();
    let options = [
        "--load",
        "m=a",
        "--max-models",
        "2",
        "--max-texts",
        "4",
        "--max-body",
        "64KiB",
    ];
    let server = Running::start(folder.path(), &options);
    let client = server.client();
    let long = "of ".repeat(40_000);
    let cases = [
        (
            "POST",
            "/embed",
            json!({"texts": ["a", "b", "c", "d", "e"]}),
            413,
            "too_many_texts",
        ),
        ("POST", "/embed", json!({"texts": [long]}), 413, "too_large"),
        ("POST", "/embed", json!({"texts": "a"}), 422, "bad_request"),
        (
            "POST",
            "/embed",
            json!({"texts": [], "modle": "m"}),
            422,
            "bad_request",
        ),
        (
            "POST",
            "/embed",
            json!({"texts": ["a"], "model": "no"}),
            404,
            "unknown_model",
        ),
        (
            "POST",
            "/models",
            json!({"name": "m", "path": "b"}),
            409,
            "exists",
        ),
        (
            "POST",
            "/models",
            json!({"name": "a/b", "path": "b"}),
            400,
            "bad_name",
        ),
        (
            "POST",
            "/models",
            json!({"name": "", "path": "b"}),
            400,
            "bad_name",
        ),
        (
            "PUT",
            "/models/no",
            json!({"path": "b"}),
            404,
            "unknown_model",
        ),
        ("DELETE", "/models/no", json!(null), 404, "unknown_model"),
    ];
    for (method, path, body, status, kind) in cases {
        let answer = client.ask(method, path, Some(body));
        assert_eq!(answer.0, status, "{method} {path}: {}", answer.1);
        assert_eq!(answer.1["error"]["kind"], kind, "{method} {path}");
    }
    assert_eq!(client.load("n", "b").0, 201);
    let (status, answer) = client.load("o", "b");
    assert_eq!(
        (status, &answer["error"]["kind"]),
        (409, &json!("too_many"))
    );
    let (status, answer) = client.ask("POST", "/embed", Some(json!({"texts": TEXTS})));
    assert_eq!(
        (status, &answer["error"]["kind"]),
        (400, &json!("no_model")),
        "there are two"
    );
    assert_eq!(client.ask("DELETE", "/models/n", None).0, 204);
    let (status, answer) = client.ask("POST", "/embed", Some(json!({"texts": []})));
    assert_eq!((status, answer), (200, json!({"embeddings": []})));
    // A text that is too long for the model is cut.
    let (status, _) = client.ask(
        "POST",
        "/embed",
        Some(json!({"texts": ["of ".repeat(1000)]})),
    );
    assert_eq!(status, 200);
    assert_eq!(client.ask("GET", "/health", None).0, 200);
    server.end();
}
