//! How a relaxation that starts at v-hat reaches the layers of a network, iteration by iteration.
//!
//! Nothing is wrong at first but the output. An error moves the beliefs that its layer reads, and its own. A belief that has
//! moved changes the predictions of the layers that read it in the next iteration. What is known to be 0 is not computed.

use crate::network::Network;

/// The iterations, from 1, from which a layer takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wave {
    /// Its prediction has left v-hat; [`usize::MAX`] if it never does.
    pub(crate) predicted: usize,
    /// Its error is not 0.
    pub(crate) wrong: usize,
    /// Likewise, where predictions stay as they are: errors come down from the output alone.
    pub(crate) reached: usize,
    /// Whether it reads a belief that may move.
    reads_beliefs: bool,
    /// Whether it does, or has parameters that are trained.
    changes: bool,
}

/// The part of a network that takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Front {
    /// What is reached in this iteration from v-hat.
    At(usize),
    /// All layers, where beliefs started elsewhere.
    Beliefs,
    /// All layers, where trained parameters have changed.
    Parameters,
}

impl Wave {
    /// Those of all layers of a network.
    pub(crate) fn of_layers(network: &Network, free_input: bool) -> Vec<Wave> {
        let layers = network.layers();
        let sources = |l: usize| layers[l].branches().iter().map(|branch| branch.from());
        let trains = |l: usize| network.parameters().iter().any(|spec| spec.layer == l && spec.role.is_trained());
        let never = |l: usize| {
            let reads_beliefs = sources(l).any(|from| from > 0 || free_input);
            let changes = reads_beliefs || trains(l);
            Wave { predicted: usize::MAX, wrong: usize::MAX, reached: usize::MAX, reads_beliefs, changes }
        };
        let mut waves: Vec<Wave> = (0..layers.len()).map(never).collect();
        waves[layers.len() - 1].reached = 1;
        for l in (0..layers.len()).rev() {
            let below = waves[l].reached.saturating_add(1);
            for from in sources(l).filter(|&from| from > 0) {
                waves[from - 1].reached = waves[from - 1].reached.min(below);
            }
        }
        // Those of the input and of all layers.
        let mut moved = vec![false; layers.len() + 1];
        for iteration in 1.. {
            let mut reached = Vec::new();
            for (l, wave) in waves.iter_mut().enumerate() {
                if wave.predicted == usize::MAX && sources(l).any(|from| moved[from]) {
                    wave.predicted = iteration;
                }
                let wrong = l + 1 == layers.len() || moved[l + 1] || wave.predicted <= iteration;
                if wave.wrong == usize::MAX && wrong {
                    wave.wrong = iteration;
                    reached.push(l);
                }
            }
            if reached.is_empty() && !waves.iter().any(|wave| wave.predicted == iteration) {
                break;
            }
            for l in reached {
                moved[l + 1] = l + 1 < layers.len();
                sources(l).filter(|&from| from > 0 || free_input).for_each(|from| moved[from] = true);
            }
        }
        waves
    }

    pub(crate) fn is_predicted(self, front: Front) -> bool {
        match front {
            Front::At(iteration) => self.predicted <= iteration,
            Front::Beliefs => self.reads_beliefs,
            Front::Parameters => self.changes,
        }
    }

    pub(crate) fn is_wrong(self, front: Front) -> bool {
        match front {
            Front::At(iteration) => self.wrong <= iteration,
            Front::Beliefs | Front::Parameters => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::Loss;
    use crate::network::{Branch, LayerSpec};
    use crate::op::Op;

    fn waves(layers: Vec<LayerSpec>, free_input: bool) -> Vec<[usize; 2]> {
        let network = Network::new(&[3], Loss::MSE, layers).unwrap();
        let number = |n: usize| if n == usize::MAX { 0 } else { n };
        let waves = Wave::of_layers(&network, free_input);
        waves.iter().map(|wave| [wave.predicted, wave.wrong].map(number)).collect()
    }

    fn reading(sources: &[usize]) -> LayerSpec {
        LayerSpec::from(vec![Op::Tanh]).with_branches(sources.iter().map(|&from| Branch::new(from, vec![])).collect())
    }

    #[test]
    fn an_error_comes_down_a_chain_layer_by_layer() {
        let chain = || vec![LayerSpec::from(vec![Op::Tanh]); 4];
        assert_eq!(waves(chain(), false), [[0, 4], [4, 3], [3, 2], [2, 1]]);
        assert_eq!(waves(chain(), true), [[5, 4], [4, 3], [3, 2], [2, 1]]);
    }

    #[test]
    fn a_skip_carries_an_error_down_and_a_prediction_up() {
        // The output reads layers 1 and 3: both move in iteration 1. Layer 2 is predicted from 1 in iteration 2, when 3
        // pulls on it as well.
        let layers = vec![reading(&[0]), reading(&[1]), reading(&[2]), reading(&[1, 3])];
        assert_eq!(waves(layers, false), [[0, 2], [2, 2], [3, 2], [2, 1]]);
        // Nothing reads layer 2, which follows layer 1.
        let layers = vec![reading(&[0]), reading(&[1]), reading(&[1])];
        assert_eq!(waves(layers, false), [[0, 2], [2, 2], [2, 1]]);
    }
}
