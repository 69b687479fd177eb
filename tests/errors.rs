//! Bad input in memory is refused with what was found and what was expected, and never panics.

use predictive_coding::{
    AvgPool2d, Conv2d, Error, Linear, Loss, MaxPool2d, Method, Network, Op, Options, Parameters, Quantity, Result,
    Session, Start, Strict, Targets,
};
use predictive_coding_reference::methods::{fixed, literal, strict};

fn network(loss: Loss) -> Network {
    let layers = vec![
        vec![Op::Conv2d(Conv2d::new(2, [3, 3])), Op::Relu, Op::Flatten],
        vec![Op::Linear(Linear::new(5)), Op::Tanh],
        vec![Op::Linear(Linear::new(3))],
    ];
    Network::new(&[1, 5, 4], loss, layers).unwrap()
}

fn usual() -> Method {
    strict(0.1, 3)
}

/// Asserts that `result` is an error in one line that contains all of `parts`.
fn assert_refused<T>(result: Result<T>, parts: &[&str]) {
    let message = match result {
        Ok(_) => panic!("not refused; expected an error with {parts:?}"),
        Err(error) => error.to_string(),
    };
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
    assert_eq!(message.lines().count(), 1, "{message:?}");
}

#[test]
fn step_sizes_and_iterations() {
    let network = network(Loss::MSE);
    for (eta, found) in
        [(f64::NAN, "NaN"), (0.0, "0"), (-0.1, "-0.1"), (f64::INFINITY, "inf"), (f64::NEG_INFINITY, "-inf")]
    {
        for method in [strict(eta, 3), fixed(eta, 3)] {
            assert_refused(Session::new(&network, 2, &method, Options::default()), &["eta", found, "expected"]);
        }
    }
    for method in [strict(0.1, 0), fixed(0.1, 0)] {
        assert_refused(Session::new(&network, 2, &method, Options::default()), &["iterations", "0", "expected"]);
    }
    for (eta, iterations) in [(3.0, 1000), (1e300, 5)] {
        for method in [fixed(eta, iterations), literal(eta, iterations)] {
            assert_refused(Session::new(&network, 2, method, Options::default()), &["diverges", "at most 1"]);
        }
    }
    for products in [0, 5000, usize::MAX, 1 << 60] {
        let method = Strict::automatic(products, 3);
        assert_refused(Session::new(&network, 2, method, Options::default()), &["products", "expected 1 to"]);
    }
    let endless = strict(0.1, usize::MAX);
    let mut session = Session::new(&network, 2, &endless, Options::default()).unwrap();
    assert_refused(session.record_energies(true), &["memory", &usize::MAX.to_string()]);
    let mut session = Session::new(&network, 2, strict(0.1, 1 << 58), Options::default()).unwrap();
    assert_refused(session.record_energies(true), &["memory", &(1u64 << 58).to_string()]);
}

/// What would have tables beyond memory, or take for ever to count them.
#[test]
fn windows_that_meet_the_border_in_too_many_ways() {
    let pool = |kernel_size: [usize; 2]| {
        MaxPool2d::new(kernel_size).with_stride([1, 1]).with_padding(kernel_size.map(|size| size / 2))
    };
    let conv = |kernel_size, padding| Op::Conv2d(Conv2d::new(1, kernel_size).with_padding(padding));
    for (input, op) in [
        ([1, 1, 1 << 20], Op::MaxPool2d(pool([1, 1 << 20]))),
        ([1, 1, 1 << 24], Op::MaxPool2d(pool([1, 1 << 21]).with_dilation([1, 8]))),
        ([1, 512, 512], Op::MaxPool2d(pool([512, 512]))),
        ([1, 1, 32768], conv([1, 32767], [0, 16383])),
        ([1, 1, 1], conv([1, 1 << 24], [0, 1 << 24])),
        ([1, 128, 128], conv([128, 128], [127, 127])),
    ] {
        let network = Network::new(&input, Loss::MSE, vec![vec![op]]);
        assert_refused(network, &["tables", "1 GiB", "fewer ways"]);
    }
    // Many of which each would do.
    let ops = vec![conv([31, 31], [15, 15]); 2000];
    assert_refused(Network::new(&[1, 64, 64], Loss::MSE, vec![ops]), &["operation 0.", "tables"]);
    let many = Op::Conv2d(Conv2d::new(1, [256, 256]).with_padding([128, 128]).with_bias(false));
    assert_refused(
        Network::new(&[1 << 16, 1, 1], Loss::MSE, vec![vec![many]]),
        &["conv2d", "weights", "use fewer channels"],
    );
    // What is large, but of few kinds.
    for (input, op) in [
        ([1, 1, 100_000], conv([1, 400], [0, 0])),
        ([1, 1, 10_000], conv([1, 99], [0, 49])),
        ([4, 1000, 1000], Op::AdaptiveAvgPool2d { output_size: [1, 1] }),
        ([1, 300, 300], Op::MaxPool2d(pool([25, 25]))),
    ] {
        Network::new(&input, Loss::MSE, vec![vec![op]]).unwrap();
    }
}

#[test]
fn axes_layers_and_operations_without_end() {
    let relu = |layers: usize| vec![vec![Op::Relu]; layers];
    assert_refused(Network::new(&[1; 9], Loss::MSE, relu(1)), &["9 axes", "at most 8"]);
    assert_refused(Network::new(&[1], Loss::MSE, relu(4097)), &["4097 layers", "4096"]);
    Network::new(&[1; 8], Loss::MSE, relu(4096)).unwrap();
    assert_refused(Network::new(&[1], Loss::MSE, vec![vec![Op::Relu; 70_000]]), &["70000 operations", "65536"]);
}

#[test]
fn batch_sizes() {
    assert_refused(Session::new(&network(Loss::MSE), 0, usual(), Options::default()), &["batch", "0", "expected"]);
    for method in [Method::Exact, usual(), fixed(0.1, 3)] {
        for batch in [usize::MAX, usize::MAX / 64, 1 << 55] {
            assert_refused(
                Session::new(&network(Loss::MSE), batch, &method, Options::default()),
                &[&batch.to_string()],
            );
        }
    }
}

#[test]
fn inputs_of_the_wrong_size() {
    let network = network(Loss::MSE);
    let parameters = network.initialize(0);
    let mut session = Session::new(&network, 2, usual(), Options::default()).unwrap();
    let y = vec![0i64, 1];
    assert_refused(session.infer(&parameters, &[], &y), &["0", "20", "expected"]);
    assert_refused(session.infer(&parameters, &[0.0; 39], &y), &["39", "20", "expected"]);
    assert_refused(session.infer(&parameters, &[0.0; 60], &vec![0i64; 3]), &["60", "20", "2 samples", "expected"]);
    assert_refused(session.forward(&parameters, &[0.0; 41], &y), &["41", "20", "expected"]);
    assert_refused(session.forward(&parameters, &[0.0; 80], &vec![0i64; 4]), &["80", "20", "2 samples", "expected"]);
    session.infer(&parameters, &[0.0; 40], &y).unwrap();
}

#[test]
fn targets_that_do_not_fit() {
    for loss in [Loss::MSE, Loss::CROSS_ENTROPY] {
        let network = network(loss);
        let parameters = network.initialize(0);
        let mut session = Session::new(&network, 2, usual(), Options::default()).unwrap();
        let x = [0.0; 40];
        assert_refused(session.infer(&parameters, &x, &vec![0i64]), &["1 label", "2 samples", "expected"]);
        assert_refused(session.infer(&parameters, &x, &vec![0i64; 3]), &["3 labels", "2 samples", "expected"]);
        for label in [3, -1, i64::MAX, i64::MIN] {
            let labels = vec![2, label];
            assert_refused(session.infer(&parameters, &x, &labels), &["sample 1", &label.to_string(), "0..=2"]);
            assert_refused(session.forward(&parameters, &x, &labels), &["sample 1", &label.to_string(), "0..=2"]);
        }
        session.infer(&parameters, &x, &vec![0i64, 2]).unwrap();
    }
    let with_values = |loss, values: &[f32]| {
        let network = network(loss);
        Session::new(&network, 2, usual(), Options::default())?.infer(
            &network.initialize(0),
            &[0.0; 40],
            Targets::Values(values),
        )
    };
    assert_refused(with_values(Loss::MSE, &[0.0; 5]), &["5", "6", "expected"]);
    assert_refused(with_values(Loss::MSE, &[]), &["0", "6", "expected"]);
    assert_refused(with_values(Loss::CROSS_ENTROPY, &[0.0; 6]), &["cross_entropy", "label"]);
    with_values(Loss::MSE, &[0.0; 6]).unwrap();
}

#[test]
fn parameters_of_another_network() {
    let network = network(Loss::MSE);
    let flat = |layers| Network::new(&[20], Loss::MSE, layers).unwrap();
    let linear = |out_features, bias| Op::Linear(Linear::new(out_features).with_bias(bias));
    let others = [
        flat(vec![vec![linear(3, true)]]),
        flat(vec![vec![]]),
        // As many values as the network has, in other tensors.
        flat(vec![vec![linear(3, true)], vec![linear(10, true)]]),
    ];
    let count = |network: &Network| network.initialize(0).values().len();
    assert_eq!(count(&others[2]), count(&network));
    let mut session = Session::new(&network, 2, usual(), Options::default()).unwrap();
    for other in &others {
        let parameters = Parameters::zeros(other.parameters().clone());
        assert_refused(session.infer(&parameters, &[0.0; 40], &vec![0i64; 2]), &["parameters", "expected"]);
        assert_refused(session.forward(&parameters, &[0.0; 40], &vec![0i64; 2]), &["parameters", "expected"]);
    }
}

#[test]
fn starts_that_do_not_fit() {
    let network = network(Loss::MSE);
    let parameters = network.initialize(0);
    let x = [0.0; 40];
    let y = vec![0i64; 2];
    let infer_from = |method: &Method, start: &[Start]| {
        Session::new(&network, 2, method, Options::default())?.infer_from(&parameters, &x, &y, start)
    };
    // Layers 1 and 2 of the three have 12 and 5 elements.
    let (first, second) = ([0.0; 24], [0.0; 10]);
    infer_from(&usual(), &[Start::Belief(&first), Start::Deviation(&second)]).unwrap();
    assert_refused(infer_from(&usual(), &[Start::Belief(&first[1..])]), &["layer 1", "23", "24", "expected"]);
    assert_refused(
        infer_from(&usual(), &[Start::Activation, Start::Deviation(&first)]),
        &["layer 2", "24", "10", "expected"],
    );
    assert_refused(infer_from(&usual(), &[Start::Activation; 3]), &["3", "2", "expected"]);
    for method in [Method::Exact, fixed(0.1, 3)] {
        assert_refused(infer_from(&method, &[Start::Deviation(&first)]), &["strict", method.name()]);
        infer_from(&method, &[]).unwrap();
    }
}

#[test]
fn numbers_that_are_not_finite_are_named() {
    let network = network(Loss::MSE);
    let parameters = network.initialize(0);
    let mut session = Session::new(&network, 2, usual(), Options::default()).unwrap();
    let labels = vec![0i64, 1];
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let with = |len: usize, at: usize| {
            let mut values = vec![0.5; len];
            values[at] = value;
            values
        };
        // Sample 1, channel 0, row 3, column 2 of images of 5 x 4.
        let parts = [&format!("the input holds {shown} at [1, 0, 3, 2]"), "expected finite"];
        assert_refused(session.infer(&parameters, &with(40, 34), &labels), &parts);
        assert_refused(session.forward(&parameters, &with(40, 34), &labels), &parts);
        let parts = [&format!("the target holds {shown} at [1, 1]"), "expected finite"];
        assert_refused(session.infer(&parameters, &[0.5; 40], &with(6, 4)), &parts);
        let belief = with(10, 7);
        for start in [Start::Belief(&belief), Start::Deviation(&belief)] {
            let parts = [&format!("layer 2 holds {shown} at [1, 2]"), "expected finite"];
            let result = session.infer_from(&parameters, &[0.5; 40], &labels, &[Start::Activation, start]);
            assert_refused(result, &parts);
        }
        for (name, at, index) in
            [("0.0.weight", 11, "[1, 0, 0, 2]"), ("1.0.bias", 4, "[4]"), ("2.0.weight", 0, "[0, 0]")]
        {
            let mut poisoned = parameters.clone();
            poisoned.get_mut(name).unwrap()[at] = value;
            let parts = [&format!("parameter {name} holds {shown} at {index}"), "expected finite"];
            assert_refused(session.infer(&poisoned, &[0.5; 40], &labels), &parts);
        }
    }
    session.infer(&parameters, &[f32::MAX; 40], &labels).unwrap();
    session.infer(&parameters, &[f32::MIN_POSITIVE / 8.0; 40], &labels).unwrap();
}

/// After a refusal nothing has changed: the results of the step before can still be read.
#[test]
fn a_refusal_changes_nothing() {
    let network = network(Loss::MSE);
    let parameters = network.initialize(0);
    let mut session = Session::new(&network, 2, usual(), Options::default()).unwrap();
    session.infer(&parameters, &[0.5; 40], &vec![0i64, 1]).unwrap();
    let state =
        |session: &Session| (session.samples(), session.get(Quantity::Belief, 1).unwrap(), session.gradients().clone());
    let before = state(&session);
    session.infer(&parameters, &[0.5; 20], &vec![7i64]).unwrap_err();
    session.infer(&parameters, &[0.5; 21], &vec![0i64]).unwrap_err();
    session.infer_from(&parameters, &[0.5; 20], &vec![0i64], &[Start::Belief(&[])]).unwrap_err();
    assert_eq!(state(&session), before);
}

#[test]
fn networks_that_cannot_be_built() {
    let refused = |input: &[usize], loss, layers: Vec<Vec<Op>>, parts: &[&str]| {
        let result = Network::new(input, loss, layers);
        assert!(matches!(result, Err(Error::Network(_))), "{result:?}");
        assert_refused(result, parts);
    };
    let one = |op| vec![vec![Op::Identity], vec![Op::Identity, op]];
    let place = "operation 1.1";
    let image = [2, 5, 4];
    refused(&[], Loss::MSE, one(Op::Relu), &["input", "[]", "expected"]);
    refused(&[3, 0], Loss::MSE, one(Op::Relu), &["input", "[3, 0]", "expected"]);
    refused(&[3], Loss::MSE, vec![], &["no layer", "expected"]);
    refused(&[usize::MAX, 2], Loss::MSE, one(Op::Relu), &["too large", "expected"]);
    refused(&image, Loss::CROSS_ENTROPY, one(Op::Relu), &["cross_entropy", "[2, 5, 4]", "flatten"]);
    refused(&image, Loss::MSE, one(Op::Linear(Linear::new(3))), &[place, "linear", "[2, 5, 4]", "flatten"]);
    refused(&[4], Loss::MSE, one(Op::Linear(Linear::new(0))), &[place, "out_features", "0", "expected"]);
    refused(&[4], Loss::MSE, one(Op::Linear(Linear::new(usize::MAX))), &[place, "too large"]);
    let slope = Op::LeakyRelu { negative_slope: f32::NAN };
    refused(&[4], Loss::MSE, one(slope), &[place, "leaky_relu", "negative_slope", "NaN", "expected"]);
    let conv = Conv2d::new(2, [3, 3]);
    for (conv, parts) in [
        (Conv2d::new(0, [3, 3]), ["out_channels", "0"]),
        (Conv2d::new(2, [0, 3]), ["kernel_size", "0"]),
        (conv.clone().with_stride([1, 0]), ["stride", "0"]),
        (conv.clone().with_dilation([0, 1]), ["dilation", "0"]),
        (conv.clone().with_dilation([1, 2]), ["larger", "4"]),
        (Conv2d::new(2, [6, 1]), ["6", "5"]),
        (Conv2d::new(2, [usize::MAX; 2]).with_dilation([3, 3]), ["larger", "5"]),
        (conv.clone().with_padding([usize::MAX; 2]), ["conv2d", "5"]),
    ] {
        refused(&image, Loss::MSE, one(Op::Conv2d(conv)), &[&[place, "conv2d"], &parts[..]].concat());
    }
    refused(&[5, 4], Loss::MSE, one(Op::Conv2d(conv)), &[place, "conv2d", "[5, 4]", "channels"]);
    let max_pool = Op::MaxPool2d(MaxPool2d::new([3, 3]).with_padding([2, 0]));
    refused(&image, Loss::MSE, one(max_pool), &[place, "max_pool2d", "padding 2", "half", "1"]);
    let avg_pool = Op::AvgPool2d(AvgPool2d::new([3, 3]).with_padding([0, 2]));
    refused(&image, Loss::MSE, one(avg_pool), &[place, "avg_pool2d", "padding 2", "half", "1"]);
    // A dilated window that steps over the image holds nothing but padding.
    let hollow = MaxPool2d::new([2, 1]).with_padding([1, 0]).with_dilation([2, 1]);
    refused(&[1, 1, 1], Loss::MSE, one(Op::MaxPool2d(hollow)), &[place, "max_pool2d", "padding"]);
}
