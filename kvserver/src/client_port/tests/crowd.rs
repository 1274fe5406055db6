//! Many clients that together want more memory than they may have.

use super::*;

const MIB: usize = 1 << 20;

fn crowded(limit: usize) -> Settings {
    Settings { max_memory: limit, bounds: Bounds { pending: 1024, bytes: 4 * MIB }, ..settings() }
}

impl Server {
    fn metric(&self, name: &str) -> usize {
        let text = (self.port.metrics())();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap()
    }

    fn held(&self) -> usize {
        self.metric("annulus_client_memory_bytes ")
    }

    fn cut(&self) -> usize {
        self.metric("annulus_client_connections_cut_total ")
    }

    async fn let_go(&self) {
        self.until("all memory to be given back", |server| server.held() == 0).await;
    }
}

#[tokio::test]
async fn half_requests_of_a_crowd_are_cut_and_everybody_else_is_served() {
    let server = server(crowded(16 * MIB)).await;
    let half = [&b"putb 1 1000000\r\nk"[..], &vec![b'v'; 999_000]].concat();
    let mut crowd = Vec::new();
    for _ in 0..60 {
        let mut stream = server.connect().await;
        // One that was cut in the meantime may say so.
        let _ = stream.write_all(&half).await;
        crowd.push(stream);
        assert!(server.held() <= 20 * MIB, "{} bytes are held", server.held());
    }
    server.until("clients to be cut", |server| server.cut() > 20).await;
    server.still_serves().await;
    // Whoever was not cut can still end its request.
    let mut served = 0;
    for stream in &mut crowd {
        if stream.write_all(&[b'v'; 1000]).await.is_ok() {
            // The shorter of both possible answers.
            let mut line = [0; 13];
            served += usize::from(within(stream.read_exact(&mut line)).await.is_ok_and(|_| line.starts_with(b"PUTB_")));
        }
    }
    assert!(served > 0, "nobody of the crowd was served");
    drop(crowd);
    server.let_go().await;
}

#[tokio::test]
async fn who_does_not_read_is_cut_before_who_does() {
    let server = server(crowded(16 * MIB)).await;
    let value = "v".repeat(100_000);
    assert!(server.session(format!("put big {value}\n").as_bytes()).await.starts_with("PUT_SUCCESS big"));
    let requests = "get big\n".repeat(1000);
    let mut deaf = Vec::new();
    while server.cut() == 0 {
        let mut stream = server.connect().await;
        let _ = tokio::time::timeout(Duration::from_millis(200), stream.write_all(requests.as_bytes())).await;
        deaf.push(stream);
        assert!(deaf.len() < 99 && server.held() <= 24 * MIB, "{} bytes are held", server.held());
        // A reader in the middle of them gets all it asks for, in spite of the shortage.
        let got = server.session("get big\n".repeat(30).as_bytes()).await;
        assert_eq!(got.lines().filter(|line| line.len() > 100_000).count(), 30);
    }
    drop(deaf);
    server.let_go().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_is_counted_until_its_writes_are_answered() {
    let server = server(crowded(16 * MIB)).await;
    server.stub.hold();
    let mut stream = server.connect().await;
    stream.write_all(&[&b"putb 1 500000\r\nk"[..], &vec![b'v'; 500_000]].concat()).await.unwrap();
    server.until("the write to be under way", |server| server.stub.held() == 1).await;
    // Reset, not closed: a half-closed client would still get its answer.
    stream.set_zero_linger().unwrap();
    drop(stream);
    server.until("its buffers to be gone", |server| server.held() < 700_000).await;
    assert!(server.held() >= 499_000, "{} bytes are held", server.held());
    server.stub.release(|_| ());
    server.let_go().await;
}
