//! The library against servers that misbehave.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // A test that cannot go on says where; it has threads and clocks.

use std::time::Duration;

use crate::fake::{Act, Fake};
use common::Outcome;
use kvclient::{Address, Client, Error, Settings};

fn settings(total: u64) -> Settings {
    Settings { total: Duration::from_millis(total), attempt: Duration::from_millis(200), ..Settings::default() }
}

async fn client(fake: &Fake) -> Client {
    Client::connect(vec![Address::from(fake.addresses[0].as_str())], settings(5000)).await.unwrap()
}

#[tokio::test]
async fn any_bytes_are_written_read_and_removed() {
    let fake = Fake::start(3);
    let client = client(&fake).await;
    let (key, value) = (&b"\x00\r\n \xff"[..], &b"\xfe\r\n\r\n"[..]);
    assert_eq!(client.get(key).await, Ok(None));
    assert_eq!(client.put(key, value).await, Ok(Outcome::Created));
    assert_eq!(client.put(key, value).await, Ok(Outcome::Updated));
    assert_eq!(client.get(key).await.unwrap().unwrap(), value);
    assert_eq!(client.delete(key).await, Ok(Outcome::Deleted));
    assert_eq!(client.delete(key).await, Ok(Outcome::Missing));
    assert_eq!(client.put("empty", "").await, Ok(Outcome::Created));
    assert_eq!(client.get("empty").await.unwrap().unwrap(), "");
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_executed_once() {
    for act in [Act::ExecuteAndClose, Act::ExecuteAndStaySilent] {
        let fake = Fake::start(1);
        let client = client(&fake).await;
        fake.plan(0, &[act]);
        assert_eq!(client.put("k", "v").await, Ok(Outcome::Created), "{act:?}");
        assert_eq!(fake.with(|state| state.executed), 1);
        assert_eq!(fake.seen("put k again"), 1);
    }
}

#[tokio::test]
async fn a_swap_whose_answer_is_lost_is_told_the_same_value_again() {
    let fake = Fake::start(1);
    let client = client(&fake).await;
    assert_eq!(client.getset("k", "a\nb").await, Ok(None));
    fake.plan(0, &[Act::ExecuteAndClose]);
    assert_eq!(client.getset("k", "new").await.unwrap().unwrap(), "a\nb");
    assert_eq!(fake.with(|state| state.executed), 2);
    assert_eq!(client.get("k").await.unwrap().unwrap(), "new");
}

#[tokio::test]
async fn questions_about_the_whole_cluster_are_understood() {
    let fake = Fake::start(1);
    let client = client(&fake).await;
    assert_eq!((client.num_keys().await, client.first_key().await), (Ok(0), Ok(None)));
    client.put("b\n", "1").await.unwrap();
    client.put("a", "2").await.unwrap();
    assert_eq!(client.num_keys().await, Ok(2));
    assert_eq!(client.first_key().await.unwrap().unwrap(), "a");
    assert_eq!(client.last_key().await.unwrap().unwrap(), "b\n");
    let nodes = client.node_list().await.unwrap();
    assert_eq!((nodes.len(), &*nodes[0].address, &*nodes[0].state), (1, "h:1", "up"));
    assert!(client.explain("any\nkey").await.unwrap().is_object());
    assert!(client.timeline().await.is_ok() && client.cluster_status().await.is_ok());
}

#[tokio::test]
async fn the_new_coordinator_is_found() {
    let fake = Fake::start(2);
    let client = client(&fake).await;
    fake.coordinator(1);
    fake.plan(0, &[Act::NotResponsible]);
    assert_eq!(client.put("k", "v").await, Ok(Outcome::Created));
    assert_eq!(fake.seen(&format!("{}: put k", fake.addresses[1])), 1);
    assert_eq!(fake.seen("again"), 0, "what was refused is not in doubt");
}

#[tokio::test]
async fn locks_and_stops_are_waited_out() {
    let fake = Fake::start(1);
    let client = client(&fake).await;
    fake.plan(0, &[Act::WriteLock, Act::Stopped, Act::WriteLock]);
    assert_eq!(client.put("k", "v").await, Ok(Outcome::Created));
    assert_eq!(fake.seen("put k"), 4);
}

#[tokio::test]
async fn refused_and_unknown_are_kept_apart() {
    let fake = Fake::start(1);
    let seeds = vec![Address::from(fake.addresses[0].as_str())];
    let client = Client::connect(seeds, settings(400)).await.unwrap();
    fake.with(|state| state.always = Some(Act::Stopped));
    let Err(Error::Refused(trouble)) = client.put("k", "v").await else { panic!("not refused") };
    assert!(trouble.waited >= Duration::from_millis(400) && trouble.attempts > 1, "{trouble}");
    assert!(trouble.to_string().contains("the slot waits for a lease"), "{trouble}");
    fake.with(|state| state.always = Some(Act::ExecuteAndStaySilent));
    assert!(matches!(client.put("k", "v").await, Err(Error::Unknown(_))));
    fake.with(|state| state.always = Some(Act::Forget));
    assert!(matches!(client.put("k", "v").await, Err(Error::Unknown(_))));
}

#[tokio::test]
async fn a_request_the_server_does_not_take_is_said_at_once() {
    let fake = Fake::start(1);
    let client = client(&fake).await;
    let Err(Error::Rejected { reason, .. }) = client.put("k".repeat(2000), "v").await else { panic!("not rejected") };
    assert!(reason.contains("over the limit"), "{reason}");
    assert_eq!(client.put("k", "v").await, Ok(Outcome::Created), "the connection is still in step");
}

#[tokio::test]
async fn reads_pass_over_servers_that_do_not_answer() {
    let fake = Fake::start(3);
    let client = client(&fake).await;
    client.put("k", "v").await.unwrap();
    fake.plan(0, &[Act::Stopped; 100]);
    fake.plan(1, &[Act::ExecuteAndClose; 100]);
    for _ in 0..20 {
        assert_eq!(client.get("k").await.unwrap().unwrap(), "v");
    }
}

#[tokio::test]
async fn nobody_there_is_an_error_at_once() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let result = Client::connect(vec![Address::from(unused.to_string())], settings(60_000)).await;
    let Err(Error::Unreachable(trouble)) = result else { panic!("{result:?}") };
    assert!(trouble.to_string().contains(&unused.to_string()), "{trouble}");
}

#[tokio::test]
async fn a_thousand_operations_share_the_connections() {
    let fake = Fake::start(3);
    let client = client(&fake).await;
    let mut tasks = tokio::task::JoinSet::new();
    for nth in 0..2000 {
        let client = client.clone();
        tasks.spawn(async move {
            let (key, value) = (format!("key {}", nth % 500), vec![b'v'; nth]);
            client.put(key.clone(), value).await?;
            client.get(key).await
        });
    }
    while let Some(result) = tasks.join_next().await {
        assert!(result.unwrap().unwrap().is_some());
    }
    assert_eq!(fake.with(|state| state.executed), 2000);
}

#[tokio::test]
async fn an_abandoned_operation_is_forgotten() {
    let fake = Fake::start(1);
    let client = client(&fake).await;
    fake.plan(0, &[Act::ExecuteAndStaySilent]);
    tokio::time::timeout(Duration::from_millis(20), client.put("k", "v")).await.unwrap_err();
    assert_eq!(client.put("k", "w").await, Ok(Outcome::Updated));
}

#[tokio::test]
async fn the_ecs_is_told_who_does_not_answer() {
    let ecs = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let fake = Fake::start(1);
    fake.with(|state| state.ecs = Some(ecs.local_addr().unwrap().to_string()));
    let client = client(&fake).await;
    fake.plan(0, &[Act::ExecuteAndStaySilent]);
    client.put("k", "v").await.unwrap();
    let (mut stream, _) = tokio::time::timeout(Duration::from_secs(5), ecs.accept()).await.unwrap().unwrap();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(&mut stream);
    tokio::io::AsyncBufReadExt::read_line(&mut reader, &mut line).await.unwrap();
    assert_eq!(line, format!("{{\"accuse\":{{\"addr\":\"{}\",\"why\":\"timeout\"}}}}\n", fake.addresses[0]));
}
