//! `bench`: which cases it takes, and what it tells of them.

use crate::common::{Finished, program, run};

/// A tiny case of every kind, and its multiplications and additions by hand.
const CASES: [(&str, u64); 14] = [
    ("gemm/7x5x9", 2 * 7 * 5 * 9),
    ("gemm/7x5x9/ta", 2 * 7 * 5 * 9),
    ("gemm/7x5x9/tb/packed", 2 * 7 * 5 * 9),
    ("gemm/130x70x90/packed/ta/tb", 2 * 130 * 70 * 90),
    ("conv/forward/b20_c2_6x5_o3_k3_s1_p1", 2 * 20 * 3 * 30 * 2 * 9),
    ("conv/backward-data/b20_c2_6x5_o3_k3_s1_p1", 2 * 20 * 3 * 30 * 2 * 9),
    ("conv/backward-weights/b40_c2_6x5_o3_k3_s1_p1", 2 * 40 * 3 * 30 * 2 * 9),
    ("conv/backward-weights/b33_c4_1x1_o3_k1_s1_p0", 2 * 33 * 3 * 4),
    ("conv/forward/b1_c2_9x9_o3_k3x1_s2_p0x1_d2x1", 2 * 3 * (3 * 6) * 2 * 3),
    ("conv-channels/forward/b3_c5_1x1_o4_k1_s1_p0", 2 * 3 * 4 * 5),
    ("conv-channels/backward-data/b3_c5_6x5_o4_k3_s1_p1", 2 * 3 * 4 * 30 * 5 * 9),
    ("conv-nchw/forward/b3_c2_6x5_o3_k3_s1_p1", 2 * 3 * 3 * 30 * 2 * 9),
    ("conv-nchw/backward-data/b20_c2_6x5_o3_k3_s1_p1", 2 * 20 * 3 * 30 * 2 * 9),
    ("conv-nchw/backward-weights/b20_c2_6x5_o3_k3_s2_p1_d2", 2 * 20 * 3 * (2 * 2) * 2 * 9),
];

fn bench(more: &[&str]) -> Finished {
    let cases: Vec<&str> = CASES.iter().flat_map(|&(case, _)| ["--case", case]).collect();
    run(&[&["bench", "--min-time", "0.01"], &cases[..], more].concat())
}

#[test]
fn json_is_a_line_for_each_case_with_every_field() {
    for threads in [1, 2, 3] {
        let finished = bench(&["--json", "--threads", &threads.to_string()]).succeeded();
        assert_eq!((finished.stdout.lines().count(), &finished.stderr[..]), (CASES.len(), ""));
        for (line, (case, flops)) in finished.stdout.lines().zip(CASES) {
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(
                keys,
                [
                    "case",
                    "threads",
                    "level",
                    "median_seconds",
                    "min_seconds",
                    "flops",
                    "gflops",
                    "fraction_of_peak",
                    "scratch_bytes"
                ]
            );
            assert_eq!(
                (&json["case"], &json["threads"], &json["flops"]),
                (&case.into(), &threads.into(), &flops.into())
            );
            let number = |key: &str| json[key].as_f64().unwrap();
            assert!(number("min_seconds") > 0.0 && number("min_seconds") <= number("median_seconds"), "{line}");
            assert!((number("gflops") * number("median_seconds") * 1e9 / flops as f64 - 1.0).abs() < 1e-9, "{line}");
            let peak = number("gflops") / number("fraction_of_peak");
            assert!(peak > 0.1 && number("fraction_of_peak") > 0.0, "{line}");
            assert!(json["scratch_bytes"].is_u64(), "{line}");
        }
    }
}

#[test]
fn a_table_has_a_row_for_each_case() {
    let finished = bench(&["--threads", "1"]).succeeded();
    assert!(finished.stdout.starts_with("level ") && finished.stdout.contains("1 thread, FMA peak"), "{finished:?}");
    for (case, _) in CASES {
        assert_eq!(finished.stdout.lines().filter(|line| line.contains(&format!(" {case} "))).count(), 1, "{case}");
    }
}

#[test]
fn the_level_is_the_one_that_is_forced() {
    let output = program(&["bench", "--case", "gemm/3x4x5", "--min-time", "0", "--json"])
        .env("PREDICTIVE_CODING_LEVEL", "portable")
        .output()
        .unwrap();
    let finished = Finished::from(output).succeeded();
    assert!(finished.stdout.contains(r#""level":"portable""#), "{finished:?}");
}

#[test]
fn what_can_not_be_measured_is_refused() {
    for (case, parts) in [
        ("gem/3x4x5", &["gem/3x4x5: ", "--case", "gemm/MxKxN"][..]),
        ("gemm/3x4", &["gemm/3x4: ", "m x k x n"]),
        ("gemm/3x4x0", &["at least 1"]),
        ("gemm/3x4x5/tc", &["unknown option \"tc\"", "ta, tb or packed"]),
        ("conv/sideways/b1_c1_3x3_o1_k3_s1_p0", &["unknown pass \"sideways\"", "backward-weights"]),
        ("conv/forward/b1_c1_3x3_o1_k3", &["found \"\", expected sN"]),
        ("conv-nchw/forward/b1_c1_3x3_o1_k5_s1_p0", &["a window of 5 is larger than the padded input of 3"]),
        ("conv/forward/b1_c1_30000x30000_o1_k1_s1_p0", &["use a smaller shape"]),
        ("gemm/2000000000x1x2000000000", &["gemm/2000000000x1x2000000000 needs more than", "smaller"]),
    ] {
        run(&["bench", "--case", "gemm/3x4x5", "--case", case]).refused(parts);
    }
    run(&["bench", "--suite", "pooling"]).refused(&["pooling: ", "gemm, conv, all"]);
    for seconds in ["NaN", "-1", "inf", "long"] {
        run(&["bench", "--min-time", seconds]).refused(&["--min-time", "seconds from 0 to 3600"]);
    }
    run(&["bench", "--threads", "0"]).refused(&["--threads"]);
}
