//! Descriptions go through serde and come back, and names through text.

#![cfg(all(feature = "serde", feature = "files"))]

use predictive_coding::{
    AdamOptions, Algorithm, AvgPool2d, Conv2d, ErrorBased, Eta, FixedPrediction, Init, LayoutChoice, LearningRate,
    Level, Linear, Loss, MaxPool2d, Method, Network, OnDivergence, Op, Options, Padding, Reduction, Schedule, Solver,
    Strict,
};
use serde_json::{Value, from_value, json, to_value};

fn network() -> Network {
    let conv = Conv2d::new(4, [3, 2])
        .with_stride([2, 1])
        .with_padding([1, 0])
        .with_bias(false)
        .with_scale(0.3)
        .with_init(Init::Xavier);
    let pools = [
        Op::MaxPool2d(MaxPool2d::new([2, 2]).with_stride([1, 1])),
        Op::AvgPool2d(AvgPool2d::new([2, 2]).with_stride([1, 1])),
        Op::AvgPool2d(AvgPool2d::new([2, 2]).with_stride([1, 1]).with_divisor_override(Some(3)).with_ceil_mode(true)),
        Op::AdaptiveAvgPool2d { output_size: [2, 3] },
    ];
    let activations = [
        Op::LeakyRelu { negative_slope: 0.25 },
        Op::Relu,
        Op::Tanh,
        Op::Sigmoid,
        Op::HARDTANH,
        Op::ELU,
        Op::Selu,
        Op::GELU,
        Op::Silu,
        Op::SOFTPLUS,
        Op::Identity,
        Op::Flatten,
    ];
    let again = [
        Op::Unflatten { size: [4, 3, 2] },
        Op::Conv2d(Conv2d::new(2, [2, 1]).with_padding(Padding::Same)),
        Op::Flatten,
    ];
    let layers = vec![
        [&[Op::Conv2d(conv)][..], &pools, &activations].concat(),
        vec![Op::Linear(Linear::new(3))],
        vec![Op::Linear(Linear::new(24))],
        again.to_vec(),
    ];
    let loss = Loss::MSE.with_reduction(Reduction::Sum).with_weight(0.5);
    Network::new(&[1, 12, 12], loss, layers).unwrap().with_precision(1, 2.0).unwrap()
}

#[test]
fn a_network_is_described_as_in_a_model_file() {
    let network = network();
    let described = to_value(&network).unwrap();
    assert_eq!(from_value::<Network>(described.clone()).unwrap(), network);
    assert_eq!(
        described["layer"][1]["ops"][0],
        json!({ "type": "linear", "out_features": 3, "bias": true, "scale": 1.0, "init": "pytorch" })
    );
    let file = toml::to_string(&network).unwrap();
    assert_eq!(Network::from_toml(&file).unwrap(), network, "{file}");
    assert_eq!(toml::from_str::<Network>(&file).unwrap(), network);
}

#[test]
fn a_network_that_can_not_be_built_is_refused() {
    let mut described = to_value(network()).unwrap();
    described["layer"][1]["ops"][0]["out_features"] = json!(0);
    let error = from_value::<Network>(described).unwrap_err().to_string();
    assert!(error.contains("operation 1.0: linear has out_features 0"), "{error}");
}

#[test]
fn methods_and_options_come_back() {
    let settled = Strict::sweeps(5).with_tolerance(Some(1e-3)).with_on_divergence(OnDivergence::Skip);
    let methods: [(Method, Value); 8] = [
        (Method::Exact, json!({ "type": "exact" })),
        (
            FixedPrediction::new(0.5, 7).with_literal(true).into(),
            json!({ "type": "fixed-prediction", "eta": 0.5, "iterations": 7, "literal": true }),
        ),
        (Strict::default().into(), json!({ "type": "strict" })),
        (
            Strict::new([0.5, 0.25], 3).into(),
            json!({ "type": "strict", "solver": { "steps": [0.5, 0.25] }, "iterations": 3 }),
        ),
        (ErrorBased::new(0.5, 7).into(), json!({ "type": "error-based", "eta": 0.5, "iterations": 7 })),
        (ErrorBased::automatic(2, 20).into(), json!({ "type": "error-based", "eta": { "products": 2 } })),
        (Strict::automatic(2, 20).into(), json!({ "type": "strict", "solver": { "automatic": { "products": 2 } } })),
        (
            settled.into(),
            json!({ "type": "strict", "solver": "sweeps", "iterations": 5, "tolerance": 1e-3, "on_divergence": "skip" }),
        ),
    ];
    for (method, written) in methods {
        assert_eq!(from_value::<Method>(written).unwrap(), method);
        assert_eq!(from_value::<Method>(to_value(&method).unwrap()).unwrap(), method);
    }
    assert!(from_value::<Method>(json!({ "type": "strict", "literal": true })).is_err());

    let options = Options::default().with_level(Some(Level::PORTABLE)).with_convolution(Algorithm::Direct);
    let written = json!({ "level": "portable", "layout": "auto", "convolution": "direct" });
    assert_eq!(to_value(options).unwrap(), written);
    assert_eq!(from_value::<Options>(written).unwrap(), options);
    assert!(from_value::<Options>(json!({ "level": "mmx" })).unwrap_err().to_string().contains("unknown level"));

    let adam = AdamOptions::default().with_lr(0.5);
    assert_eq!(from_value::<AdamOptions>(json!({ "lr": 0.5 })).unwrap(), adam);
    let rate = LearningRate::new(0.5, 10).with_schedule(Schedule::Step { every: 2, factor: 0.5 });
    assert_eq!(from_value::<LearningRate>(to_value(rate).unwrap()).unwrap(), rate);
}

#[test]
fn names_stand_for_what_they_name() {
    for name in ["exact", "fixed-prediction", "strict", "error-based", "incremental"] {
        assert_eq!(name.parse::<Method>().unwrap().to_string(), name);
    }
    for name in ["steps", "automatic", "sweeps", "published-2022"] {
        assert_eq!(name.parse::<Solver>().unwrap().to_string(), name);
    }
    for op in network().layers()[0].ops().iter().skip(6) {
        assert_eq!(op.to_string().parse::<Op>().unwrap(), *op);
    }
    assert_eq!("channels".parse(), Ok(LayoutChoice::Channels));
    assert_eq!("0.5,0.25".parse(), Ok(Eta::from([0.5, 0.25])));
    let error = "nearly".parse::<Method>().unwrap_err().to_string();
    assert_eq!(
        error,
        "unknown method \"nearly\", expected exact, fixed-prediction, strict, error-based or incremental"
    );
    assert!("conv2d".parse::<Op>().is_err());
}
