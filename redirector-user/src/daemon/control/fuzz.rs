//! What fuzzers try of the control socket.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};

use super::*;

/// What somebody says at the control socket: whatever it is, and in whatever portions it comes,
/// one line is answered, and a request that is understood can be said again and means the same.
/// The first byte says how long the portions are.
pub fn requests(bytes: &[u8]) {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let Some((portion, bytes)) = bytes.split_first() else { return };
    let start = || Builder::new_current_thread().enable_all().build().expect("a runtime");
    RUNTIME.get_or_init(start).block_on(async {
        let (mut client, stream) = Stream::pair().expect("a pair of sockets");
        let ask = |request: Request, answer: oneshot::Sender<Answer>| {
            let text = serde_json::to_string(&request).expect("it can be said again");
            let again: Request = serde_json::from_str(&text).expect("it is understood");
            assert_eq!(again, request);
            answer.send(Answer::plain(Response::default())).is_ok()
        };
        let asked = Asked::default();
        let served = converse(stream, &asked, ask, Looks::default());
        let asks = async {
            for portion in bytes.chunks(usize::from(*portion) * 64 + 1) {
                // What comes after a request is not waited for.
                if client.write_all(portion).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let _ = client.shutdown().await;
            let mut answer = Vec::new();
            // An error at its end says that not all was read.
            let _ = client.read_to_end(&mut answer).await;
            answer
        };
        let both = async { tokio::join!(served, asks) };
        let (_, answer) = timeout(PATIENCE / 2, both).await.expect("it ends");
        let line = answer.strip_suffix(b"\n").expect("a whole line");
        serde_json::from_slice::<Response>(line).expect("one answer");
    });
}
