//! What could be read in two ways is not passed on. Each row: bytes of a client, the answer's status (0: none), and
//! what the endpoint got, byte by byte (`|`: CRLF).

mod http1;
mod http2;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::world::World;

/// Everything that an endpoint gets. It answers when nothing more comes.
#[derive(Clone, Default)]
struct Got(Arc<Mutex<Vec<u8>>>);

impl Got {
    /// Without the id that the agent gives each request: it is another one each time.
    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.0.lock().unwrap()).replace("\r\n", "|");
        let is_id = |line: &&str| line.starts_with("x-request-id: ") && line.len() == 14 + 36;
        text.split('|').filter(|line| !is_id(line)).collect::<Vec<_>>().join("|")
    }

    /// One that answers like this, as often as something ends with a pause.
    async fn server(world: &World, answer: &'static [u8]) -> Self {
        let got = Self::default();
        let all = got.clone();
        let serve = move |_, mut stream: tokio::net::TcpStream| {
            let all = all.clone();
            async move {
                let (mut piece, mut asked) = ([0; 4096], false);
                loop {
                    match timeout(Duration::from_millis(60), stream.read(&mut piece)).await {
                        Ok(Ok(0) | Err(_)) => return,
                        Ok(Ok(length)) => {
                            all.0.lock().unwrap().extend_from_slice(&piece[..length]);
                            asked = true;
                        }
                        Err(_) if asked => {
                            asked = false;
                            if stream.write_all(answer).await.is_err() {
                                return;
                            }
                        }
                        Err(_) => {}
                    }
                }
            }
        };
        world.bytes(serve).await;
        got
    }
}

/// All rows at once; what differs is told together.
async fn all<R: Send + 'static, F: Future<Output = Option<String>> + Send + 'static>(rows: Vec<R>, one: fn(R) -> F) {
    let mut running = tokio::task::JoinSet::new();
    for (number, row) in rows.into_iter().enumerate() {
        let one = one(row);
        running.spawn(async move { one.await.map(|wrong| (number, wrong)) });
    }
    let mut wrong: Vec<_> = running.join_all().await.into_iter().flatten().collect();
    wrong.sort();
    let texts: Vec<_> = wrong.iter().map(|(number, wrong)| format!("row {number}: {wrong}")).collect();
    assert!(wrong.is_empty(), "{}", texts.join("\n"));
}
