//! Command lines and what they mean.

use std::path::PathBuf;

use ckload::{ByteSize, Io};
use clap::error::ErrorKind;

use super::{EXAMPLES, Example, command, load};
use crate::cli::bench::{State, Way};
use crate::cli::options::{
    Action, Invocation, LoadOptions, Pin, Reading, Sides, TimelineFile, TimelineFormat,
};

fn parse(line: &str) -> Result<Invocation, clap::Error> {
    Invocation::from_command_line(line.split(' '))
}

fn load(line: &str) -> LoadOptions {
    match parse(line).unwrap().action {
        Action::Load(options) => *options,
        other => panic!("not a load: {other:?}"),
    }
}

#[test]
fn the_parser_is_consistent() {
    command().debug_assert();
}

#[test]
fn every_command_has_examples_that_work() {
    let mut command = command();
    command.build();
    let commands = command.get_subcommands().map(clap::Command::get_name);
    let mut without = commands.filter(|name| EXAMPLES.iter().all(|(known, _)| known != name));
    assert_eq!(without.by_ref().collect::<Vec<_>>(), ["help"]);
    let examples = EXAMPLES.iter().flat_map(|(_, examples)| *examples);
    for example in examples.chain(load::EXAMPLES) {
        // What a shell would make of it, as far as examples go.
        let line = example
            .line
            .replace("source <(", "")
            .replace([')', '\''], "");
        let end = line.find(['>', '|']).unwrap_or(line.len());
        let parsed = parse(line[..end].trim_end());
        assert!(parsed.is_ok(), "{}: {parsed:?}", example.line);
    }
}

#[test]
fn examples_fit_a_narrow_terminal() {
    for examples in EXAMPLES
        .iter()
        .map(|(_, examples)| *examples)
        .chain([load::EXAMPLES])
    {
        let longest = |text: fn(&Example) -> &str| examples.iter().map(|one| text(one).len()).max();
        let columns = longest(|example| example.line).zip(longest(|example| example.does));
        let (line, does) = columns.unwrap();
        assert!(2 + line + 2 + does <= 80, "{}", examples[0].line);
    }
}

#[test]
fn models_are_streamed_once_through_the_pool_by_default() {
    let options = load("ckload a b");
    assert_eq!(options.models, [PathBuf::from("a"), PathBuf::from("b")]);
    assert!(!options.resident && !options.dry_run && !options.verbose);
    assert_eq!(options.rounds.get(), 1);
    assert_eq!(options.sides, Sides::WithPool);
    assert_eq!(options.pin, Pin::Auto);
    assert_eq!(options.reading, Reading::default());
    assert!(options.budget.is_none());
}

#[test]
fn a_comparison_takes_five_rounds_unless_told() {
    assert_eq!(load("ckload --compare m").rounds.get(), 5);
    assert_eq!(load("ckload --compare --repeat 9 m").rounds.get(), 9);
    assert_eq!(load("ckload --repeat 3 m").rounds.get(), 3);
}

#[test]
fn budgets_are_sizes_with_units() {
    assert_eq!(
        load("ckload --budget 256MiB m").budget,
        Some(ByteSize::mib(256))
    );
    assert_eq!(
        load("ckload --budget 1000000 m").budget,
        Some(ByteSize::b(1_000_000))
    );
    for wrong in ["0", "much", "-1", "12XB"] {
        let error = parse(&format!("ckload --budget={wrong} m")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ValueValidation, "{wrong}");
    }
}

#[test]
fn a_shard_is_for_the_tensors_of_a_glob_or_for_all_others() {
    let select = load("ckload --shard 0:1/2 --shard w*=1:0/2 --shard a=b=1:0/2 m").select;
    let shown = format!("{select:?}");
    assert!(shown.contains("rest: Some(Shard { dim: 0, rank: 1, world_size: 2 })"));
    assert!(
        shown.contains("\"a=b\"") && shown.contains("\"w*\""),
        "{shown}"
    );
}

#[test]
fn a_model_may_be_named_like_a_command() {
    assert_eq!(load("ckload -- demo").models, [PathBuf::from("demo")]);
    assert_eq!(load("ckload ./demo").models, [PathBuf::from("./demo")]);
}

/// In a folder without such a file, as the tests run in.
#[test]
fn a_slip_of_a_command_is_no_model() {
    for (word, meant) in [
        ("insepct", "inspect"),
        ("verfy", "verify"),
        ("dmeo", "demo"),
        ("complete", "completions"),
        ("synt", "synth"),
        ("comp", "completions"),
        ("inspection", "inspect"),
        ("syntheses", "synth"),
    ] {
        let error = parse(&format!("ckload {word} m")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSubcommand, "{word}");
        let told = error.to_string();
        assert!(told.contains(&format!("exists: '{meant}'")), "{told}");
    }
    for word in ["model", "gpt2", "./insepct", "llama", "src"] {
        assert_eq!(
            load(&format!("ckload {word}")).models,
            [PathBuf::from(word)]
        );
    }
}

#[test]
fn output_options_stand_before_or_after_a_command() {
    for line in ["ckload --json inspect m", "ckload inspect m --json"] {
        let invocation = parse(line).unwrap();
        assert!(invocation.output.json, "{line}");
        assert!(
            matches!(invocation.action, Action::Inspect { .. }),
            "{line}"
        );
    }
}

#[test]
fn options_that_would_have_no_effect_are_refused() {
    for line in [
        "ckload --resident demo",
        "ckload -j 2 inspect m",
        "ckload --compare --no-pool m",
        "ckload --no-pool --pin always m",
        "ckload --resident --budget 1GiB m",
        "ckload --dry-run --compare m",
        "ckload --dry-run --verify m",
        "ckload --verify verify m",
        "ckload -q -v m",
        "ckload --json completions bash",
        "ckload man --json",
    ] {
        assert_eq!(
            parse(line).unwrap_err().kind(),
            ErrorKind::ArgumentConflict,
            "{line}"
        );
    }
}

#[test]
fn a_benchmark_measures_everything_unless_told() {
    let bench = |line: &str| match parse(line).unwrap().action {
        Action::Bench(options) => *options,
        other => panic!("not a benchmark: {other:?}"),
    };
    let usual = bench("ckload bench m");
    assert_eq!(usual.states, [State::Warm, State::Cold]);
    assert!(usual.ways.is_empty() && usual.runs.is_none() && usual.threads.is_none());
    assert_eq!((usual.warmup, usual.exports.files().count()), (1, 0));
    let other = bench(
        "ckload bench m --cache cold --ways read,stream-direct --runs 3 --warmup 0 -j 2 --export-csv a",
    );
    assert_eq!(other.states, [State::Cold]);
    assert_eq!(other.ways, [Way::Read, Way::Stream(Io::Direct)]);
    assert_eq!((other.warmup, other.exports.files().count()), (0, 1));
}

#[test]
fn wrong_values_are_refused() {
    for line in [
        "ckload --repeat 0 m",
        "ckload -j 0 m",
        "ckload --include [ m",
        "ckload --shard 1 m",
        "ckload --shard 0:2/2 m",
        "ckload --shard [=0:1/2 m",
        "ckload --shard 0:0/2 --shard 1:0/2 m",
        "ckload --io io_uring m",
        "ckload --read-size 4095 m",
        "ckload --pin maybe m",
        "ckload --against list m",
        "ckload --verify --against list m n",
        "ckload --color pink m",
        "ckload synth mamba out",
        "ckload",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn a_timeline_is_what_its_name_says() {
    let file = |name: &str| load(&format!("ckload m --timeline {name}")).timeline;
    let of = |path: &str, format| {
        let path = PathBuf::from(path);
        Some(TimelineFile { path, format })
    };
    assert_eq!(file("a/b.html"), of("a/b.html", TimelineFormat::Html));
    assert_eq!(file("b.json"), of("b.json", TimelineFormat::Json));
    assert_eq!(load("ckload m").timeline, None);
    let error = parse("ckload m --timeline b.txt").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ValueValidation);
}
