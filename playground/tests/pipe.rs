//! The playground as a newcomer and a script use it: the real binary, real children, commands on a pipe.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::Duration;

use playground::process::until;

const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a `storage-dirs/`, as the playground looks for one; removed in the end.
struct Project(PathBuf);

impl Project {
    fn new(name: &str) -> Project {
        let folder = std::env::temp_dir().join(format!("annulus-playground-{}-{name}", std::process::id()));
        std::fs::create_dir_all(folder.join("storage-dirs")).expect("a temporary folder can be made");
        Project(folder)
    }

    fn start(&self, args: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_playground"))
            .args(args)
            .current_dir(&self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the playground starts")
    }

    /// Runs it on these commands to its end.
    fn run(&self, args: &[&str], commands: &str) -> Output {
        let mut child = self.start(args);
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        stdin.write_all(commands.as_bytes()).expect("the playground takes commands");
        drop(stdin);
        child.wait_with_output().expect("the playground ends")
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // What is left behind in a temporary folder does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The ids behind the word `pid`.
fn pids(text: &str) -> Vec<u32> {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.windows(2).filter(|pair| pair[0] == "pid").filter_map(|pair| pair[1].parse().ok()).collect()
}

/// Whether the process is gone, or only waits to be reaped by whoever inherited it.
fn gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

fn all_gone(pids: &[u32]) {
    assert!(until(PATIENCE, || pids.iter().all(|pid| gone(*pid))), "still running: {pids:?}");
}

/// A playground that serves and waits for commands, with what it has said.
fn serving(project: &Project) -> (Child, ChildStdin, String) {
    let mut child = project.start(&[]);
    let stdin = child.stdin.take().expect("stdin is a pipe");
    let mut said = String::new();
    for line in BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines() {
        said.push_str(&line.expect("stdout is text"));
        said.push('\n');
        if said.contains("serve after") {
            break;
        }
    }
    assert!(said.contains("serve after"), "{said}");
    assert_eq!(pids(&said).len(), 4, "{said}");
    (child, stdin, said)
}

#[test]
fn commands_from_a_pipe_are_run_and_the_children_are_gone_afterwards() {
    let project = Project::new("pipe");
    let output = project.run(&["--servers", "3"], "put planet saturn\nget planet\n");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("saturn"), "{said}");
    assert_eq!(said.matches("coordinates").count(), 3, "{said}");
    assert_eq!(pids(&said).len(), 4, "{said}");
    all_gone(&pids(&said));
}

#[test]
fn the_exit_code_is_that_of_the_first_failure() {
    let output = Project::new("code").run(&["--servers", "1"], "get nothing\nput a b\n");
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
}

#[test]
fn kept_data_is_there_again_and_other_data_is_not() {
    let project = Project::new("keep");
    let first = project.run(&["--keep"], "put moon titan\n");
    assert!(first.status.success(), "{}", text(&first));
    let second = project.run(&["--keep"], "get moon\n");
    assert!(second.status.success() && text(&second).contains("titan"), "{}", text(&second));
    let fresh = project.run(&["--servers", "1"], "get moon\n");
    assert_eq!(fresh.status.code(), Some(3), "{}", text(&fresh));
}

#[test]
fn a_file_is_loaded_before_the_commands_run() {
    let project = Project::new("load");
    let file = project.0.join("moons.tsv");
    let lines: String = (0..500).map(|number| format!("moon{number}\tvalue {number}\n")).collect();
    std::fs::write(&file, lines).expect("a temporary file can be written");
    let output = project.run(&["--load", &file.to_string_lossy()], "get moon499\n");
    assert!(output.status.success() && text(&output).contains("value 499"), "{}", text(&output));
    let none = project.run(&["--servers", "1", "--load", "/no/such/file"], "");
    assert!(!none.status.success() && text(&none).contains("/no/such/file"), "{}", text(&none));
}

#[test]
fn a_killed_playground_leaves_no_children_behind() {
    let project = Project::new("killed");
    let (mut child, stdin, said) = serving(&project);
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    drop(stdin);
    all_gone(&pids(&said));
}

#[test]
fn a_terminated_playground_stops_its_children_first() {
    let project = Project::new("terminated");
    let (mut child, stdin, said) = serving(&project);
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it can be signalled");
    assert_eq!(child.wait().expect("it ends").code(), Some(143));
    // At once: it does not end before they have.
    assert!(pids(&said).iter().all(|pid| gone(*pid)));
    drop(stdin);
}
