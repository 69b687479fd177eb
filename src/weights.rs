//! Parameters as safetensors files, under PyTorch's state-dict names.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use safetensors::Dtype;

use crate::error::Result;
use crate::network::Network;
use crate::parameters::{ParameterSpec, Parameters, Role};
use crate::tensors::{self, TensorBytes, TensorFile};

impl Parameters {
    /// Reads the parameters of `network` from a safetensors file with a tensor under the name
    /// of each: `<layer>.<op>.weight` and `.bias`, both counted from 0, as the state dict of an
    /// `nn.Sequential(nn.Sequential(...), ...)` names them.
    ///
    /// A prefix that all names share (`module.`, `_orig_mod.`) is removed. The tensors of a flat `nn.Sequential`
    /// (`0.weight`, `2.bias`) are assigned in order, if their number and shapes agree. F16 and BF16 are converted exactly, F64 is
    /// rounded.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if a tensor is missing, has another shape or
    /// type, holds a number that is not finite, or belongs to no parameter.
    pub fn load(network: &Network, path: impl AsRef<Path>) -> Result<Self> {
        Self::load_noted(network, path).map(|(parameters, _)| parameters)
    }

    /// Like [`load`](Self::load), and also returns a line for each conversion: a prefix, other names, rounding.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_noted(network: &Network, path: impl AsRef<Path>) -> Result<(Self, Vec<String>)> {
        let file = TensorFile::read(path.as_ref())?;
        let mut notes = Vec::new();
        let names = own_names(&file, network.parameters(), &mut notes)?;
        let parameters = file.parameters(network.parameters(), &names, TensorFile::finite_floats)?;
        let rounded = names.iter().filter(|name| file.dtype(name).is_ok_and(|dtype| dtype == Dtype::F64)).count();
        if rounded > 0 {
            notes.push(format!("{rounded} of {} tensors are of type F64 and were rounded to F32", names.len()));
        }
        Ok((parameters, notes))
    }

    /// Like [`load`](Self::load), from a file with other names for the parameters.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_named(
        network: &Network,
        path: impl AsRef<Path>,
        name: impl Fn(&ParameterSpec) -> String,
    ) -> Result<Self> {
        let file = TensorFile::read(path.as_ref())?;
        let names: Vec<String> = network.parameters().iter().map(name).collect();
        let parameters = file.parameters(network.parameters(), &names, TensorFile::finite_floats)?;
        check_no_other(&file, &names)?;
        Ok(parameters)
    }

    /// Writes the parameters in the format of [`load`](Self::load), atomically replacing an older file.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        tensors::write(path.as_ref(), self.to_tensors(""), None)
    }

    pub(crate) fn to_tensors(&self, prefix: &str) -> Vec<(String, TensorBytes)> {
        self.iter()
            .map(|(spec, values)| (format!("{prefix}{}", spec.name), TensorBytes::f32(&spec.shape, values)))
            .collect()
    }
}

/// The name in a file of each parameter.
fn own_names(file: &TensorFile, specs: &[ParameterSpec], notes: &mut Vec<String>) -> Result<Vec<String>> {
    let found = file.names();
    let prefix = common_prefix(&found, specs);
    if !prefix.is_empty() {
        notes.push(format!("the prefix {prefix} was removed from all names"));
    }
    let usual: Vec<String> = specs.iter().map(|spec| format!("{prefix}{}", spec.name)).collect();
    if usual.iter().any(|name| !file.has(name))
        && let Some(flat) = flat_names(&found, &prefix)
    {
        let shapes = flat.iter().map(|name| file.shape(name)).collect::<Result<Vec<_>>>()?;
        let fits = shapes.iter().copied().eq(specs.iter().map(|spec| &spec.shape[..]));
        if !fits {
            let told = |name: &str, shape: &[usize]| format!("{name} {shape:?}");
            let found: Vec<_> = flat.iter().zip(&shapes).map(|(name, shape)| told(name, shape)).collect();
            let expected: Vec<_> = specs.iter().map(|spec| told(&spec.name, &spec.shape)).collect();
            return Err(file.wrong(format!(
                "has the names of a flat nn.Sequential, but the shapes differ: found {}, expected {}",
                found.join(", "),
                expected.join(", ")
            )));
        }
        notes.push("the names are those of a flat nn.Sequential; tensors were assigned in order".into());
        return Ok(flat);
    }
    check_no_other(file, &usual)?;
    Ok(usual)
}

/// What all names begin with before the first number that counts layers or operations.
fn common_prefix(found: &[String], specs: &[ParameterSpec]) -> String {
    let known = specs.iter().any(|spec| found.contains(&spec.name));
    let prefix = |name: &String| {
        let parts: Vec<&str> = name.split_inclusive('.').collect();
        let words = parts.iter().take_while(|part| !part.starts_with(|c: char| c.is_ascii_digit())).count();
        if words < parts.len() { parts[..words].concat() } else { String::new() }
    };
    let first = found.first().map_or(String::new(), prefix);
    if known || found.iter().any(|name| prefix(name) != first) { String::new() } else { first }
}

/// The names of a file with nothing but `<number>.weight` and the like behind the prefix, in the order of
/// parameters.
fn flat_names(found: &[String], prefix: &str) -> Option<Vec<String>> {
    let mut ordered: BTreeMap<(bool, usize, usize), &String> = BTreeMap::new();
    for name in found.iter().filter(|name| !counts_batches(name)) {
        let (number, role) = name.strip_prefix(prefix)?.split_once('.')?;
        let role: Role = role.parse().ok()?;
        ordered.insert((!role.is_trained(), number.parse().ok()?, role as usize), name);
    }
    Some(ordered.into_values().cloned().collect())
}

/// Whether a tensor is PyTorch's count of the batches that a batch normalisation has seen, which nothing depends on.
fn counts_batches(name: &str) -> bool {
    name.ends_with(".num_batches_tracked")
}

/// Refuses a tensor that is no parameter.
fn check_no_other(file: &TensorFile, names: &[String]) -> Result<()> {
    let known: HashSet<&String> = names.iter().collect();
    let others: BTreeSet<String> =
        file.names().into_iter().filter(|found| !known.contains(found) && !counts_batches(found)).collect();
    // What is missing says more than what is there instead.
    if names.iter().any(|name| !file.has(name)) {
        return Ok(());
    }
    match others.first() {
        None => Ok(()),
        Some(extra) => Err(file.wrong(format!(
            "tensor {extra} is not a parameter of the network, expected {}; is it the right model?",
            if names.is_empty() { "none".into() } else { names.join(", ") }
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conv2d, Linear, Loss, Norm, Op, write_tensors};

    fn network(outputs: usize) -> Network {
        let conv = Op::Conv2d(Conv2d::new(2, [3, 2]));
        let linear = Op::Linear(Linear::new(outputs).with_bias(false));
        Network::new(&[1, 4, 4], Loss::MSE, vec![vec![Op::Relu, conv], vec![Op::Flatten, linear]]).unwrap()
    }

    #[test]
    fn saved_parameters_load_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("w.safetensors");
        let parameters = network(3).initialize(1);
        parameters.save(&path).unwrap();
        assert_eq!(Parameters::load(&network(3), &path).unwrap(), parameters);
        let error = Parameters::load(&network(4), &path).unwrap_err().to_string();
        assert!(error.ends_with("w.safetensors: tensor 1.1.weight has shape [3, 12], expected [4, 12]"), "{error}");
    }

    /// What `network(1)` has, under names that `rename` makes of `0.1.weight` and so on.
    fn saved(rename: impl Fn(&str) -> String) -> std::result::Result<(Parameters, Vec<String>), String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("w.safetensors");
        let tensors: Vec<_> = network(1)
            .initialize(1)
            .iter()
            .map(|(spec, values)| (rename(&spec.name), spec.shape.clone(), values.to_vec()))
            .collect();
        write_tensors(&path, &tensors).unwrap();
        Parameters::load_noted(&network(1), &path).map_err(|e| e.to_string())
    }

    #[test]
    fn prefixes_and_flat_names_are_understood() {
        let want = network(1).initialize(1);
        for prefix in ["module.", "_orig_mod.", "_orig_mod.module.", "net."] {
            let (parameters, notes) = saved(|name| format!("{prefix}{name}")).unwrap();
            assert_eq!(parameters, want);
            assert!(notes.len() == 1 && notes[0].contains(prefix), "{notes:?}");
        }
        assert_eq!(saved(str::to_string).unwrap(), (want.clone(), vec![]));
        // 10 comes behind 9.
        let flat = |name: &str| name.replace("0.1.", "9.").replace("1.1.", "10.");
        let (parameters, notes) = saved(flat).unwrap();
        assert!(parameters == want && notes[0].contains("flat"), "{notes:?}");
        let (parameters, notes) = saved(|name| format!("module.{}", flat(name))).unwrap();
        assert!(parameters == want && notes.len() == 2, "{notes:?}");
        let error = saved(|name| name.replace("0.1.", "3.").replace("1.1.", "2.")).unwrap_err();
        assert!(error.contains("2.weight [1, 12], 3.weight [2, 1, 3, 2]") && error.contains("0.1.weight [2, 1, 3, 2]"));
    }

    #[test]
    fn statistics_of_batches_are_read_and_their_counts_are_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("w.safetensors");
        let norm = || Op::BatchNorm2d(Norm::default());
        let network = Network::new(&[2, 1, 1], Loss::MSE, vec![vec![norm()], vec![norm()]]).unwrap();
        let initial = network.initialize(1);
        assert_eq!(initial.get("1.0.running_mean").unwrap(), [0.0, 0.0]);
        assert_eq!(initial.get("1.0.running_var").unwrap(), [1.0, 1.0]);
        // In the order of a state dict.
        let roles = ["weight", "bias", "running_mean", "running_var"];
        for names in [["0.0", "1.0"], ["0", "1"]] {
            let mut tensors = vec![];
            for (module, name) in names.into_iter().enumerate() {
                for (role, kind) in roles.into_iter().enumerate() {
                    tensors.push((format!("{name}.{kind}"), vec![2], vec![module as f32 + 0.1 * role as f32; 2]));
                }
                tensors.push((format!("{name}.num_batches_tracked"), vec![], vec![3.0]));
            }
            write_tensors(&path, &tensors).unwrap();
            let parameters = Parameters::load(&network, &path).unwrap();
            for (module, name) in ["0.0", "1.0"].into_iter().enumerate() {
                for (role, kind) in roles.into_iter().enumerate() {
                    let found = parameters.get(&format!("{name}.{kind}")).unwrap();
                    assert_eq!(found, [module as f32 + 0.1 * role as f32; 2], "{name}.{kind}");
                }
            }
        }
    }

    #[test]
    fn other_types_of_floats_are_widened_or_rounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("w.safetensors");
        let network = Network::new(&[2], Loss::MSE, vec![vec![Op::Linear(Linear::new(1).with_bias(false))]]).unwrap();
        let bytes = |dtype, bytes: &[u8]| TensorBytes::of(dtype, &[1, 2], bytes.to_vec());
        let double = [0.1f64, 1e-50].map(f64::to_le_bytes).concat();
        for (tensor, want, rounded) in [
            (bytes(Dtype::F16, &[0x00, 0x3c, 0x01, 0x00]), [1.0, 5.960_464_5e-8], false),
            (bytes(Dtype::BF16, &[0x80, 0x3f, 0x00, 0xc0]), [1.0, -2.0], false),
            (bytes(Dtype::F64, &double), [0.1, 0.0], true),
        ] {
            tensors::write(&path, vec![("0.0.weight".into(), tensor)], None).unwrap();
            let (parameters, notes) = Parameters::load_noted(&network, &path).unwrap();
            assert_eq!((parameters.values(), !notes.is_empty()), (&want[..], rounded), "{notes:?}");
        }
        tensors::write(
            &path,
            vec![("0.0.weight".into(), bytes(Dtype::F64, &[1e300f64; 2].map(f64::to_le_bytes).concat()))],
            None,
        )
        .unwrap();
        assert!(Parameters::load(&network, &path).unwrap_err().to_string().contains("holds inf"));
        tensors::write(&path, vec![("0.0.weight".into(), TensorBytes::i64(&[1, 2], &[1, 2]))], None).unwrap();
        let error = Parameters::load(&network, &path).unwrap_err().to_string();
        assert!(error.contains("is of type I64, expected F32, F16, BF16 or F64"), "{error}");
    }

    #[test]
    fn names_are_those_of_a_state_dict_and_none_may_lack_or_be_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("w.safetensors");
        let mut tensors = vec![
            ("0.1.weight".to_string(), vec![2, 1, 3, 2], (0..12).map(|i| i as f32).collect::<Vec<_>>()),
            ("0.1.bias".to_string(), vec![2], vec![-1.0, -2.0]),
            ("1.1.weight".to_string(), vec![1, 12], vec![0.5; 12]),
        ];
        write_tensors(&path, &tensors).unwrap();
        let parameters = Parameters::load(&network(1), &path).unwrap();
        assert_eq!(parameters.get("0.1.weight").unwrap()[5], 5.0);
        assert_eq!(parameters.get("0.1.bias").unwrap(), [-1.0, -2.0]);

        tensors.push(("1.1.bias".into(), vec![1], vec![0.0]));
        write_tensors(&path, &tensors).unwrap();
        let error = Parameters::load(&network(1), &path).unwrap_err().to_string();
        assert!(error.contains("tensor 1.1.bias is not a parameter"), "{error}");

        tensors.retain(|(name, ..)| name != "1.1.bias" && name != "0.1.bias");
        write_tensors(&path, &tensors).unwrap();
        let error = Parameters::load(&network(1), &path).unwrap_err().to_string();
        assert!(error.contains("has no tensor 0.1.bias") && error.contains("0.1.weight, 1.1.weight"), "{error}");

        tensors.push(("0.1.bias".into(), vec![2], vec![0.0, f32::NAN]));
        write_tensors(&path, &tensors).unwrap();
        let error = Parameters::load(&network(1), &path).unwrap_err().to_string();
        assert!(error.contains("tensor 0.1.bias holds NaN at [1]"), "{error}");
    }
}
