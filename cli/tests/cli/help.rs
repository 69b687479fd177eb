//! What the program tells of itself.

use crate::common::{Folder, program, run};

fn help(command: &str) -> String {
    let text = run(&[command, "--help"]).succeeded().stdout;
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn defaults_are_those_of_the_command() {
    for command in ["train", "summary"] {
        let text = help(command);
        assert!(text.contains("not for exact [default: 0.1]") && text.contains("1 product with"), "{text}");
        assert!(text.contains("not for exact [default: 20, with --solver sweeps 5]"), "{text}");
    }
    let text = help("infer");
    assert!(text.contains("not for exact [required, but not with --solver sweeps]"), "{text}");
    assert!(text.contains("[required; default with --solver sweeps: 5]") && text.contains("16 products"), "{text}");
}

#[test]
fn every_help_ends_with_the_exit_statuses() {
    for command in ["train", "infer", "evaluate", "predict", "summary", "reproduce", "bench", "completions"] {
        let text = run(&[command, "--help"]).succeeded().stdout;
        let end: Vec<&str> = text.trim().lines().rev().take(5).collect();
        assert_eq!(end[4], "Exit status:", "{command}");
        for (line, status) in end.iter().zip(["130", "2", "1", "0"]) {
            assert_eq!(line.split_whitespace().next(), Some(status), "{command}");
        }
    }
}

#[test]
fn the_version_names_the_level() {
    let version = |level: &str| {
        let output = program(&["--version"]).env("PREDICTIVE_CODING_LEVEL", level).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = version("portable");
    assert!(text.starts_with(concat!("predictive-coding ", env!("CARGO_PKG_VERSION"), "\n")), "{text}");
    assert!(text.contains("SIMD level: portable (available: "), "{text}");
    assert!(version("mmx").contains("SIMD level: PREDICTIVE_CODING_LEVEL: "));
}

/// The shell itself completes a command and an option.
#[test]
fn bash_completes_commands_and_options() {
    let folder = Folder::new();
    let script = folder.write("completions", run(&["completions", "bash"]).succeeded().stdout);
    let complete = |words: &[&str]| {
        let (index, line, last) = (words.len() - 1, words.join(" "), words[words.len() - 1]);
        let call = format!("COMP_WORDS=({line}); COMP_CWORD={index}; _predictive__coding {} {last} ''", words[0]);
        let line = format!("source {script}; {call}; echo \"${{COMPREPLY[@]}}\"");
        let output = std::process::Command::new("bash").args(["-c", &line]).output().ok()?;
        Some(String::from_utf8(output.stdout).unwrap().trim().to_string())
    };
    let Some(command) = complete(&["predictive-coding", "su"]) else {
        println!("skipped: there is no bash");
        return;
    };
    assert_eq!(command, "summary");
    assert_eq!(complete(&["predictive-coding", "train", "--schedu"]).as_deref(), Some("--schedule"));
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(run(&["completions", shell]).succeeded().stdout.contains("on-divergence"), "{shell}");
    }
}
