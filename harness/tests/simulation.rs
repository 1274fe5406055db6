//! A sample of the simulation, small enough for every test run. `simulate --seeds 2000` is the real thing.

use harness::sim::{Options, run};

/// Fails with the account of the first violated seed.
fn pass(seeds: impl IntoIterator<Item = u64>) {
    for seed in seeds {
        let outcome = run(seed, Options::default());
        if let Some(text) = outcome.violation {
            panic!("seed {seed}: {text}\nreplay: cargo run -p harness --bin simulate -- --seed {seed} --trace");
        }
        assert!(outcome.stats.faults >= 20 && outcome.stats.operations >= 300, "seed {seed}: {}", outcome.stats);
    }
}

#[test]
fn clusters_survive_what_forty_seeds_do_to_them() {
    pass(0..40);
}

/// Seeds that once went wrong. What a seed does changes with the simulation, so each is a memory of a history, and its
/// name that history's moral; the scenario scripts of the cores hold the histories themselves.
mod regressions {
    use super::pass;

    #[test]
    fn a_member_that_restarts_within_its_epoch_is_heard_again() {
        pass([57, 476, 487, 974]);
    }

    #[test]
    fn the_end_of_an_old_control_connection_is_not_the_end_of_the_new() {
        pass([1028, 1120, 1516, 2818]);
    }

    #[test]
    fn what_a_killed_process_wrote_is_synced_before_it_counts() {
        pass([2, 19, 23, 863]);
    }

    #[test]
    fn a_repeated_sync_does_not_end_a_catch_up() {
        pass([54, 154]);
    }

    #[test]
    fn a_lost_sync_is_sent_again_under_steady_writes() {
        pass([687, 696]);
    }

    #[test]
    fn the_answer_of_a_dead_process_is_not_its_successors() {
        pass([1304]);
    }
}

/// Two runs of one seed are the same run, event by event, or no violation could ever be replayed.
#[test]
fn a_seed_is_one_history() {
    let [a, b] = [(); 2].map(|()| run(7, Options::default()));
    assert_eq!(a.stats.to_string(), b.stats.to_string());
}
