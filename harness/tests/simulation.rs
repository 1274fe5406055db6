//! A sample of the simulation, small enough for every test run. `simulate --seeds 2000` is the real thing.

use common::Rule;
use harness::sim::{Options, Stats, run};

/// Fails with the account of the first violated seed; else tells what all of them exercised.
fn play(seeds: impl IntoIterator<Item = u64>, options: Options) -> Stats {
    let mut all = Stats::default();
    for seed in seeds {
        let outcome = run(seed, options);
        if let Some(text) = outcome.violation {
            let aim = options.aim.map_or(String::new(), |rule| format!(" --aim {}", rule.name()));
            let how = if options.tour { " --tour" } else { &aim };
            let how = if options.plain { " --plain" } else { how };
            panic!("seed {seed}: {text}\nreplay: cargo run -p harness --bin simulate -- --seed {seed}{how} --trace");
        }
        assert!(outcome.stats.faults >= 20 && outcome.stats.operations >= 300, "seed {seed}: {}", outcome.stats);
        all.merge(&outcome.stats);
    }
    all
}

fn pass(seeds: impl IntoIterator<Item = u64>) {
    play(seeds, Options::default());
}

/// Seeds as they were before there were clients that speak Redis's protocol.
fn pass_plain(seeds: impl IntoIterator<Item = u64>) {
    play(seeds, Options { plain: true, ..Options::default() });
}

/// What the runs aimed at `rule` are for must have happened in some of them.
fn aimed(rule: Rule, seeds: impl IntoIterator<Item = u64>, what: &[&str]) {
    let stats = play(seeds, Options { aim: Some(rule), ..Options::default() });
    for what in what {
        assert!(stats.count(what) > 0, "{what}: never\n{stats}");
    }
}

#[test]
fn from_one_server_to_five_and_back_under_load_and_faults() {
    let stats = play(0..6, Options { tour: true, ..Options::default() });
    assert_eq!(stats.count("tours from one server to all and back"), 6, "{stats}");
    assert!(stats.count("servers that left") >= 12 && stats.count("rebalancings begun") > 0, "{stats}");
}

#[test]
fn a_copy_of_a_running_servers_directory_takes_its_place_and_catches_up() {
    aimed(Rule::TrustCopy, 0..4, &["fault: copied directory", "servers fenced"]);
}

#[test]
fn an_ecs_restored_from_an_old_copy_changes_nothing() {
    aimed(Rule::OldState, 0..4, &["fault: old ECS directory", "registrations refused"]);
}

#[test]
fn clusters_survive_what_forty_seeds_do_to_them() {
    pass(0..40);
}

/// Seeds that once went wrong. What a seed does changes with the simulation, so each is a memory of a history, and its
/// name that history's moral; the scenario scripts of the cores hold the histories themselves.
mod regressions {
    use common::Rule;

    use super::pass_plain as pass;
    use super::{Options, play};

    fn pass_aimed(rule: Rule, seeds: impl IntoIterator<Item = u64>) {
        play(seeds, Options { plain: true, aim: Some(rule), ..Options::default() });
    }

    #[test]
    fn a_coordinator_under_steady_load_lets_time_pass() {
        pass([198]);
        pass_aimed(Rule::RetryStranger, [127]);
    }

    #[test]
    fn a_disk_that_has_lost_what_it_acknowledged_neither_leads_nor_reads() {
        pass_aimed(Rule::ReadLacking, [21, 25, 53]);
    }

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
    fn a_copied_directory_does_not_take_its_originals_place_while_that_is_away() {
        pass([1747, 1958, 2758, 2781, 2782, 3109, 15281]);
    }

    #[test]
    fn a_removal_for_which_nobody_is_left_is_undone() {
        pass([9845, 32090]);
    }

    #[test]
    fn a_late_beginning_of_a_catch_up_takes_nothing_back() {
        pass([12233]);
    }

    #[test]
    fn a_read_lease_outlives_the_return_of_a_server_of_that_name() {
        pass([8960, 9026]);
    }

    #[test]
    fn what_is_committed_in_a_process_last_step_is_committed() {
        pass([33498, 34401, 36531]);
    }

    #[test]
    fn an_old_ecs_directory_put_back_may_lack_what_was_being_written() {
        pass([6428]);
    }

    #[test]
    fn a_server_about_to_stop_has_no_say_about_a_damaged_copy() {
        pass([2976, 10132]);
    }

    #[test]
    fn an_old_probes_silence_says_nothing_of_a_server_heard_since() {
        pass([29548, 39873]);
    }

    #[test]
    fn a_sector_that_a_power_cut_took_is_gone_whole() {
        pass([2774]);
    }

    #[test]
    fn nobody_comes_while_a_damaged_copy_is_looked_for() {
        play([9955], Options::default());
    }

    #[test]
    fn nobody_is_sent_away_while_a_damaged_copy_is_looked_for() {
        pass([53460]);
    }

    #[test]
    fn the_answer_of_a_dead_process_is_not_its_successors() {
        pass([1304]);
    }

    #[test]
    fn no_older_directory_is_put_back_while_its_server_may_yet_be_added() {
        play([82682], Options::default());
    }

    #[test]
    fn no_older_directory_is_put_back_whose_last_start_the_ecs_has_not_heard_of() {
        play([8115], Options::default());
    }

    #[test]
    fn a_learner_that_has_lost_its_session_is_not_added() {
        play([81047], Options::default());
    }

    #[test]
    fn an_ecs_is_not_asked_to_notice_that_it_forgot_what_nobody_was_told() {
        play([8587], Options::default());
    }

    #[test]
    fn a_server_tells_clients_of_the_ring_as_it_is_before_they_are_judged() {
        play([29819], Options::default());
    }
}

/// Two runs of one seed are the same run, event by event, or no violation could ever be replayed.
#[test]
fn a_seed_is_one_history() {
    let [a, b] = [(); 2].map(|()| run(7, Options::default()));
    assert_eq!(a.stats.to_string(), b.stats.to_string());
}
