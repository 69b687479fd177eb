//! Files from strangers: good ones, what was found by fuzzing, changed ones, and such as want more than they are.
//! Alone in its program, and in one test, as everything that is allocated is counted.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

use predictive_coding_reference::memory::Counting;
use predictive_coding_reference::random;
use rand::RngExt;

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

type Target = fn(&Counting, &[u8]);

const TARGETS: [(&str, Target); 7] = [
    ("model", targets::model),
    ("weights", targets::weights),
    ("batch", targets::batch),
    ("start", targets::start),
    ("checkpoint", targets::checkpoint),
    ("idx", targets::idx),
    ("cifar10", targets::cifar10),
];

/// Changed copies of each file.
const CHANGED: usize = 200;

#[test]
fn nothing_panics_or_takes_more_memory_than_its_size_justifies() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/cases");
    for (name, target) in TARGETS {
        let mut files = greedy(name);
        for entry in std::fs::read_dir(cases.join(name)).unwrap() {
            let path = entry.unwrap().path();
            files.push((path.display().to_string(), std::fs::read(path).unwrap()));
        }
        assert!(files.len() > 1, "there are no cases of {name}");
        let mut rng = random::generator(files.len() as u64);
        for (file, bytes) in files {
            println!("{file}");
            target(&ALLOCATOR, &bytes);
            for _ in 0..if bytes.len() < 1 << 14 { CHANGED } else { 0 } {
                let mut changed = bytes.clone();
                for _ in 0..rng.random_range(1..4) {
                    let at = rng.random_range(0..changed.len());
                    match rng.random_range(0..4) {
                        0 => changed[at] ^= 1 << rng.random_range(0..8),
                        1 => changed[at] = rng.random(),
                        2 => changed.truncate(at + 1),
                        _ => changed.insert(at, rng.random()),
                    }
                }
                target(&ALLOCATOR, &changed);
            }
        }
    }
}

/// Small files that announce or unfold to much.
fn greedy(name: &str) -> Vec<(String, Vec<u8>)> {
    let safetensors = |dtype: &str, tensor: &str, elements: u64, bytes: u64| {
        let header = format!(
            r#"{{"{tensor}":{{"dtype":"{dtype}","shape":[{elements}],"data_offsets":[0,{}]}}}}"#,
            bytes.saturating_mul(elements)
        );
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
    };
    let model = |input: &str, layers: &str| {
        format!("input = {input}\nloss = \"mse\"\n[[layer]]\nops = [{layers}]\n").into_bytes()
    };
    let files = match name {
        "model" => vec![
            // Windows that meet the border in more ways than there are bytes of memory, or to count.
            model(
                "[1, 1, 1048576]",
                "{ type = \"max_pool2d\", kernel_size = [1, 1048576], padding = [0, 524288], stride = 1 }",
            ),
            model(
                "[1, 1, 32768]",
                "{ type = \"conv2d\", out_channels = 1, kernel_size = [1, 32767], padding = [0, 16383] }",
            ),
            model("[1, 1, 1]", "{ type = \"conv2d\", out_channels = 1, kernel_size = 1048576, padding = 1048576 }"),
            model(
                "[1, 1, 1]",
                "{ type = \"conv2d\", out_channels = 1, kernel_size = [1, 1048576], padding = [0, 1048576] }",
            ),
            model("[1, 512, 512]", "{ type = \"max_pool2d\", kernel_size = 512, padding = 256, stride = 1 }"),
            model("[1, 128, 128]", "{ type = \"conv2d\", out_channels = 1, kernel_size = 128, padding = 127 }"),
            model("[1, 1, 1]", "{ type = \"conv2d\", out_channels = 1, kernel_size = 1001, padding = 1000 }"),
            model("[1, 1, 200000000]", "{ type = \"max_pool2d\", kernel_size = 1 }"),
            model("[1, 1, 1]", "{ type = \"adaptive_avg_pool2d\", output_size = [1, 60000000] }"),
            model(
                "[65536, 1, 1]",
                "{ type = \"conv2d\", out_channels = 1, kernel_size = 256, padding = 128, bias = false }",
            ),
            model(&format!("[{}]", "1,".repeat(20_000)), &"{ type = \"relu\" },".repeat(5000)),
            model("[3]", &"{ type = \"linear\", out_features = 3 },".repeat(20_000)),
            format!("input = [1]\nloss = \"{}\"", "x".repeat(1 << 20)).into_bytes(),
            format!("input = {}1{}", "[".repeat(5000), "]".repeat(5000)).into_bytes(),
            format!("input = [{}]\nloss = \"mse\"\nlayer = []", "1,".repeat(5000)).into_bytes(),
            format!("input = [1]\nloss = \"mse\"\n{}", "[[layer]]\nops = []\n".repeat(2000)).into_bytes(),
            b"input = [4]\nloss = \"mse\"\n[[layer]]\nops = [{ type = \"linear\", out_features = 200000000 }]".to_vec(),
        ],
        "idx" | "cifar10" => {
            let zeros = |announced: &[u8]| [&[64], announced, &[0; 8 << 20]].concat();
            // Two images of 2048 x 2048, compressed to a thousandth.
            vec![zeros(&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 8, 0, 0, 0, 8, 0]), zeros(&[])]
        }
        _ => vec![
            safetensors("F32", "0.0.weight", 1 << 40, 4),
            safetensors("F64", "x", u64::MAX / 8, 8),
            safetensors("U8", "history.steps", u64::MAX, 1),
            u64::MAX.to_le_bytes().to_vec(),
            99_999_999u64.to_le_bytes().to_vec(),
        ],
    };
    files.into_iter().enumerate().map(|(i, bytes)| (format!("greedy {name} {i}"), bytes)).collect()
}
