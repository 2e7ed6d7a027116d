//! A `redis-server` of one's own, on a free port, gone with the test.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::HANG;

pub(crate) struct Server {
    pub(super) port: u16,
    arguments: Vec<String>,
    folder: PathBuf,
    process: Option<Child>,
}

/// A port nobody listens on. It and the port 10,000 above, which a cluster takes too, lie below those that the system
/// gives to outgoing connections: a test that connects somewhere cannot take one before the server does.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (std::process::id().wrapping_mul(61).wrapping_add(step) % 2_700) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Two masters that share the slots.
pub(super) async fn cluster() -> [Server; 2] {
    let arguments = ["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"];
    let (one, two) = (Server::start(&arguments).await, Server::start(&arguments).await);
    assert_eq!(one.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]).await, "OK");
    assert_eq!(two.command(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]).await, "OK");
    assert_eq!(two.command(&["CLUSTER", "SET-CONFIG-EPOCH", "2"]).await, "OK");
    assert_eq!(one.command(&["CLUSTER", "MEET", "127.0.0.1", &two.port.to_string()]).await, "OK");
    let whole = async |server: &Server| {
        let info = server.command(&["CLUSTER", "INFO"]).await;
        info.contains("cluster_state:ok") && info.contains("cluster_slots_assigned:16384")
    };
    super::until("the cluster stands", || async { whole(&one).await && whole(&two).await }).await;
    [one, two]
}

impl Server {
    /// A server that answers.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let mut server = Self::stopped(arguments);
        server.run().await;
        server
    }

    /// One that does not run yet.
    pub(super) fn stopped(arguments: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("sluicegate-redis-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let arguments = arguments.iter().map(ToString::to_string).collect();
        Self { port: free_port(), arguments, folder, process: None }
    }

    pub(super) async fn run(&mut self) {
        let start = Instant::now();
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &self.port.to_string()])
            .arg("--dir")
            .arg(&self.folder)
            .args(&self.arguments)
            .stdout(Stdio::null())
            .spawn();
        let process = process.unwrap_or_else(|error| {
            panic!("redis-server could not be started ({error}): these tests need it; tests/run.sh installs it")
        });
        self.process = Some(process);
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(start.elapsed() < HANG, "redis-server does not listen");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// `STOP` or `CONT`.
    pub(super) fn signal(&self, name: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// One command on a connection of its own; the reply as text, elements of a list a line each.
    pub(super) async fn command(&self, words: &[&str]) -> String {
        self.bytes(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>()).await
    }

    pub(super) async fn bytes(&self, words: &[&[u8]]) -> String {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).await.unwrap());
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend(format!("${}\r\n", word.len()).bytes());
            request.extend(*word);
            request.extend(b"\r\n");
        }
        stream.write_all(&request).await.unwrap();
        let (mut lines, mut left) = (Vec::new(), 1);
        while left > 0 {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let (kind, rest) = line.trim_end().split_at(1);
            left -= 1;
            match kind {
                "*" => left += rest.parse::<i64>().unwrap().max(0),
                "$" if rest != "-1" => {
                    let mut value = vec![0; rest.parse::<usize>().unwrap() + 2];
                    stream.read_exact(&mut value).await.unwrap();
                    lines.push(String::from_utf8_lossy(&value[..value.len() - 2]).into_owned());
                }
                _ => lines.push(rest.to_owned()),
            }
        }
        lines.join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
