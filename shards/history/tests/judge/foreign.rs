//! A foreign judge: the search of the crate `todc-utils`, with the rules of the twin.

use crate::random::{BATCHES, CAS, Family, LISTS};
use crate::script::{Outcome, Script, found};
use crate::store::{self, Mix};
use crate::{random, twin};
use fastrand::Rng;
use flotilla_history::{Answer, Call, History, Limits, Operation, Verdict, check};
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History as Foreign};
use todc_utils::specifications::Specification;

struct Store;

impl Specification for Store {
    type State = twin::State;
    type Operation = Operation;

    fn init() -> Self::State {
        twin::State::default()
    }

    fn apply(operation: &Operation, state: &Self::State) -> (bool, Self::State) {
        match twin::after(state, operation) {
            Some(state) => (true, state),
            None => (false, state.clone()),
        }
    }
}

/// What the foreign judge says. An open operation returns after all others.
fn linearizable(history: &History) -> bool {
    let mut actions: Vec<(u64, usize, Action<Operation>)> = Vec::new();
    let happened = history.operations().iter().filter(|op| !op.failed());
    for (process, operation) in happened.enumerate() {
        let (call, back) = (operation.clone(), operation.clone());
        actions.push((operation.invoked.order, process, Action::Call(call)));
        actions.push((operation.return_order(), process, Action::Response(back)));
    }
    actions.sort_by_key(|(order, process, _)| (*order, *process));
    let actions: Vec<_> = actions
        .into_iter()
        .map(|(_, process, action)| (process, action))
        .collect();
    actions.is_empty() || WGLChecker::<Store>::is_linearizable(Foreign::from_actions(actions))
}

fn agree(name: &str, seed: u64, history: &History) -> bool {
    let report = check(history, &Limits::default());
    assert_ne!(report.verdict(), Verdict::BudgetExhausted);
    let expected = linearizable(history);
    assert_eq!(
        report.passed(),
        expected,
        "{name}, seed {seed}: the foreign judge says {expected}, ours {}",
        report.display(history)
    );
    expected
}

#[test]
fn the_judge_agrees_with_a_foreign_one_on_small_histories() {
    for (name, keys, values, kinds) in [
        ("compare and set", 1, 3, CAS),
        ("batches", 2, 2, BATCHES),
        ("lists", 1, 0, LISTS),
    ] {
        let family = Family {
            keys,
            values,
            kinds,
        };
        let mut accepted = 0;
        for seed in 0..2_000 {
            let mut rng = Rng::with_seed(seed);
            let operations = rng.usize(1..=10);
            let history = random::history(&mut rng, &family, operations).record();
            accepted += usize::from(agree(name, seed, &history));
        }
        println!("{name}: {accepted} of 2000 linearizable");
        assert!(accepted > 100, "{name}");
    }
}

/// Gives one read of a true history the answer of another one.
fn disturb(script: &mut Script, rng: &mut Rng) {
    let reads: Vec<usize> = (0..script.ops.len())
        .filter(|op| matches!(script.ops[*op].answer(), Some(Answer::Get(_))))
        .collect();
    if reads.len() < 2 {
        return;
    }
    let read = reads[rng.usize(..reads.len())];
    let Call::Get { key, .. } = &script.ops[read].call else {
        return;
    };
    let writes: Vec<_> = script
        .ops
        .iter()
        .filter_map(|op| match &op.call {
            Call::Put { key: of, value } if of == key => Some(value.clone()),
            _ => None,
        })
        .collect();
    let value = (!writes.is_empty()).then(|| writes[rng.usize(..writes.len())].clone());
    script.ops[read].outcome = Outcome::Ok(Answer::Get(value.map(|value| found(&value, 0))));
}

#[test]
fn the_judge_agrees_with_a_foreign_one_on_longer_histories() {
    let (mut accepted, seeds) = (0, 1_500);
    for seed in 0..seeds {
        let mut rng = Rng::with_seed(seed);
        let mix = Mix {
            clients: 3,
            operations: 40,
            keys: 2,
            unknown: 6,
            scans: 0,
            weak: 0,
            revisions: false,
            ..Mix::EVERYTHING
        };
        let mut script = store::run(&mut rng, mix);
        if seed % 3 > 0 {
            disturb(&mut script, &mut rng);
        }
        accepted += usize::from(agree("store", seed, &script.record()));
    }
    println!("{accepted} of {seeds} linearizable");
    assert!(accepted > seeds as usize / 3 && accepted < seeds as usize);
}
