//! What must hold for every file that the library reads, whatever is in it: an error in one line or a result that
//! can be used, no panic, and no more memory than a small multiple of what the file's size justifies.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use predictive_coding::{
    Adam, BatchFile, Conv2d, Dataset, Error, FreeInput, Linear, Loss, MaxPool2d, Method, Network, Op, Optimizer,
    Options, Parameters, Progress, Session, Settings, StartFile, Strict, load_checkpoint, save_checkpoint,
};
use predictive_coding_reference::memory::Counting;

/// What is allocated whatever the file: buffers of the standard library, the network's own tensors, error messages.
const AROUND: usize = 256 << 10;

/// Runs `f`, which must not have more than `most` bytes allocated at a time beyond [`AROUND`] and what was before.
///
/// # Panics
/// If it does.
pub fn bounded<R>(allocator: &Counting, most: usize, f: impl FnOnce() -> R) -> R {
    let before = allocator.live();
    allocator.reset_peak();
    let result = f();
    let taken = allocator.peak() - before;
    assert!(taken <= AROUND + most, "{taken} bytes were allocated, expected at most {AROUND} + {most}");
    result
}

/// A file of some bytes, in memory where the system has a place for that, that is gone with this.
pub struct File {
    directory: tempfile::TempDir,
    name: String,
}

impl File {
    /// Writes it.
    pub fn new(name: &str, bytes: &[u8]) -> Self {
        let file = File { directory: directory(), name: name.to_string() };
        std::fs::write(file.path(), bytes).expect("the file can be written");
        file
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join(&self.name)
    }
}

fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    directory.expect("a directory can be made")
}

/// Asserts that an error is told in one line.
fn told<T>(result: Result<T, Error>) -> Option<T> {
    result.map_err(|error| assert_eq!(error.to_string().lines().count(), 1, "{error:?}")).ok()
}

fn network() -> Network {
    let conv = Op::Conv2d(Conv2d::new(2, [3, 2]));
    let layers = vec![
        vec![conv, Op::Relu, Op::MaxPool2d(MaxPool2d::new([2, 2])), Op::Flatten],
        vec![Op::Linear(Linear::new(3)), Op::Tanh],
        vec![Op::Linear(Linear::new(2).with_bias(false))],
    ];
    Network::new(&[1, 5, 4], Loss::MSE, layers).expect("a legal network")
}

/// A model file. A network that is small enough is planned, and takes a step.
pub fn model(allocator: &Counting, bytes: &[u8]) {
    let file = File::new("model.toml", bytes);
    // A number of two characters becomes a value of the parser's.
    let network = bounded(allocator, 400 * bytes.len(), || told(Network::from_file(file.path())));
    let Some(network) = network else { return };
    let text = network.to_toml();
    assert_eq!(Network::from_toml(&text).expect("what was written is read").to_toml(), text);
    let strict = || Strict::new(0.1, 3);
    let widest = network
        .layers()
        .iter()
        .flat_map(|layer| layer.all_ops().map(|(_, shape)| shape).chain([layer.output_shape()]))
        .map(|shape| shape.iter().product::<usize>());
    let parameters = network.parameters().last().map_or(0, |spec| spec.range.end);
    let widest = widest.max().unwrap_or(0);
    if widest < 20_000 && parameters < 1_000_000 && network.layers().len() < 100 {
        // Above all the tables of addresses, which a network may have 1 GiB of.
        bounded(allocator, 5 << 29, || Session::new(&network, 1, strict(), Options::default()))
            .expect("such a network can be planned");
    }
    let small = widest < 2000 && parameters < 20_000 && network.layers().len() < 20;
    if !small || network.flops(&strict().into(), 3) > 1_000_000 {
        return;
    }
    let parameters = network.initialize(1);
    let inputs: usize = network.input_shape().iter().product();
    let x: Vec<f32> = (0..3 * inputs).map(|i| (i as f32 * 0.7).sin()).collect();
    for method in [Method::Exact, strict().into()] {
        let mut session =
            Session::new(&network, 3, &method, Options::default()).expect("a small network can be planned");
        match session.infer(&parameters, &x, &vec![0i64; 3]) {
            Ok(_) | Err(Error::Diverged(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Weights as safetensors.
pub fn weights(allocator: &Counting, bytes: &[u8]) {
    let file = File::new("weights.safetensors", bytes);
    let network = network();
    // The header and what its tensors are called, in maps.
    let parameters = bounded(allocator, 100 * bytes.len(), || told(Parameters::load(&network, file.path())));
    let Some(parameters) = parameters else { return };
    assert!(parameters.values().iter().all(|value| value.is_finite()));
    parameters.save(file.path()).expect("they can be written");
    assert_eq!(Parameters::load(&network, file.path()).expect("what was written is read"), parameters);
}

/// A batch as safetensors, of which a step is taken if it is read.
pub fn batch(allocator: &Counting, bytes: &[u8]) {
    let file = File::new("batch.safetensors", bytes);
    let network = network();
    let batch = bounded(allocator, 100 * bytes.len(), || told(BatchFile::read(&network, file.path())));
    let Some(batch) = batch.filter(|batch| batch.samples <= 100) else { return };
    let parameters = network.initialize(1);
    let mut session = Session::new(&network, batch.samples, Method::Exact, Options::default())
        .expect("a small network can be planned");
    session.infer(&parameters, &batch.x, &batch.y).expect("what was read fits");
    let strict = Strict::new(0.1, 2).with_free_input(Some(FreeInput::default()));
    let mut session = Session::new(&network, batch.samples, strict, Options::default()).expect("as the other");
    match session.infer_with(&parameters, &batch.x, &batch.y, batch.conditions(true)) {
        // A mask may hold numbers that mask nothing.
        Ok(_) | Err(Error::Diverged(_) | Error::Input(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Initial beliefs as safetensors, which a relaxation starts at if they are read.
pub fn start(allocator: &Counting, bytes: &[u8]) {
    let file = File::new("start.safetensors", bytes);
    let network = network();
    let start = bounded(allocator, 100 * bytes.len(), || told(StartFile::read(&network, 2, file.path())));
    let Some(start) = start else { return };
    let strict = Strict::new(0.1, 2);
    let mut session = Session::new(&network, 2, strict, Options::default()).expect("a small network can be planned");
    match session.infer_from(&network.initialize(1), &[0.5; 40], &vec![0i64, 1], &start.starts()) {
        Ok(_) | Err(Error::Diverged(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

/// A checkpoint. When fuzzed, its checksum is not looked at: what comes behind it must hold as well.
pub fn checkpoint(allocator: &Counting, bytes: &[u8]) {
    let file = File::new("checkpoint", bytes);
    let network = network();
    let settings = Settings::from([("seed".to_string(), "7".to_string())]);
    let initial = network.initialize(1);
    let mut adam = Adam::new(&initial, 0.1);
    let loaded =
        bounded(allocator, 100 * bytes.len(), || told(load_checkpoint(file.path(), &network, &settings, &mut adam)));
    let Some((parameters, progress)) = loaded else {
        // Nothing was changed.
        assert_eq!(adam.steps(), 0);
        assert!(adam.moments().iter().all(|(_, moment)| moment.values().iter().all(|value| *value == 0.0)));
        return;
    };
    save_checkpoint(file.path(), &network, &settings, &parameters, &adam, &progress).expect("it can be written");
    let mut again = Adam::new(&initial, 0.1);
    let (read, passed) = load_checkpoint(file.path(), &network, &settings, &mut again).expect("it is read");
    let bits = |parameters: &Parameters| parameters.values().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&read), bits(&parameters));
    assert_eq!(passed.history.len(), progress.history.len());
    let told = |progress: &Progress| (progress.step, progress.epoch);
    assert_eq!(told(&passed), told(&progress));
}

/// Where a data set's files are put in place of good ones: by the first byte, which file, and whether as it is,
/// under a compressed file's name, or compressed.
fn data_set(files: &[(&str, Vec<u8>)], bytes: &[u8]) -> Option<(tempfile::TempDir, usize)> {
    let (choice, content) = bytes.split_first()?;
    let directory = directory();
    let chosen = usize::from(*choice) % files.len();
    for (i, (name, good)) in files.iter().enumerate() {
        let (name, content) = match (i == chosen, choice / 32 % 3) {
            (false, _) => (name.to_string(), good.clone()),
            (true, 0) => (name.to_string(), content.to_vec()),
            (true, 1) => (format!("{name}.gz"), content.to_vec()),
            (true, _) => (format!("{name}.gz"), compressed(content)),
        };
        std::fs::write(directory.path().join(name), content).expect("the file can be written");
    }
    // As a compressed file may hold a MiB and 64 times its size.
    let unpacked = if choice / 32 % 3 == 0 { content.len() } else { (1 << 20) + 64 * content.len() };
    Some((directory, unpacked))
}

/// As gzip.
pub fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

fn check((train, test): (Dataset, Dataset)) {
    for set in [train, test] {
        let pixels: usize = set.shape().iter().product();
        assert_eq!(set.images().len(), set.len() * pixels);
        assert!(set.images().iter().all(|pixel| (0.0..=1.0).contains(pixel)));
        assert!(set.labels().iter().all(|&label| (0..set.classes() as i64).contains(&label)));
    }
}

/// Files in MNIST's format, one of which is replaced by the bytes behind the first.
pub fn idx(allocator: &Counting, bytes: &[u8]) {
    let Some((directory, unpacked)) = data_set(&idx_files(), bytes) else { return };
    // The bytes, which grow by doubling, and a label's 8 bytes or a pixel's 4.
    let read = bounded(allocator, 12 * unpacked, || told(Dataset::mnist(directory.path())));
    read.into_iter().for_each(check);
}

/// Good files in MNIST's format: two images of 2 x 3 and one.
pub fn idx_files() -> [(&'static str, Vec<u8>); 4] {
    let idx = |kind: u32, sizes: &[u32], bytes: &[u8]| {
        let words = std::iter::once(&kind).chain(sizes).flat_map(|word| word.to_be_bytes());
        words.chain(bytes.iter().copied()).collect()
    };
    [
        ("train-images-idx3-ubyte", idx(0x803, &[2, 2, 3], &[0, 255, 51, 0, 0, 0, 102, 0, 0, 0, 0, 255])),
        ("train-labels-idx1-ubyte", idx(0x801, &[2], &[9, 0])),
        ("t10k-images-idx3-ubyte", idx(0x803, &[1, 2, 3], &[1; 6])),
        ("t10k-labels-idx1-ubyte", idx(0x801, &[1], &[3])),
    ]
}

/// Files of CIFAR-10's binary version, one of which is replaced by the bytes behind the first.
pub fn cifar10(allocator: &Counting, bytes: &[u8]) {
    let Some((directory, unpacked)) = data_set(&cifar10_files(), bytes) else { return };
    let read = bounded(allocator, 12 * unpacked, || told(Dataset::cifar10(directory.path())));
    read.into_iter().for_each(check);
}

/// Good files of CIFAR-10's binary version, of one image each.
pub fn cifar10_files() -> [(&'static str, Vec<u8>); 3] {
    let record = |label: u8| std::iter::once(label).chain((0..3072).map(|i| (i % 256) as u8)).collect();
    [("data_batch_1.bin", record(7)), ("data_batch_3.bin", record(0)), ("test_batch.bin", record(9))]
}
