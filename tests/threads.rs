//! A session starts no thread of its own. Alone in its program, where nobody else does.

use predictive_coding::{Linear, Loss, Network, Op, Options, Session, Strict};

#[cfg(target_os = "linux")]
#[test]
fn no_thread_is_left() {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let network = Network::new(&[12], Loss::MSE, vec![vec![Op::Linear(Linear::new(20))]; 3]).unwrap();
    let parameters = network.initialize(3);
    let infer = || {
        let mut session = Session::new(&network, 100, Strict::new(0.1, 4), Options::default()).unwrap();
        session.infer(&parameters, &[0.5; 1200], &[0.1; 2000][..]).unwrap();
    };
    // rayon starts its own pool at the first call, once.
    infer();
    let before = threads();
    (0..20).for_each(|_| infer());
    assert_eq!(threads(), before);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
    (0..20).for_each(|_| pool.install(infer));
    assert_eq!(threads(), before + 5);
}
