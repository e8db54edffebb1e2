//! What fuzzers try of the relay, and of what the daemon hears from it.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frame;
use super::message::{Answer, Question, Who};
use super::sni::{Hello, LIMIT, client_hello as hello_of, inspect};

pub use super::conn::fuzz::relay;

/// No message takes longer, whatever is in it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The first bytes of a connection: whatever they are, and in whatever portions they come, what
/// was settled stays so, within the limit. The first byte says whether the rest are those, or a
/// server's name and the longest record of a whole ClientHello.
pub fn client_hello(bytes: &[u8]) {
    let Some((how, rest)) = bytes.split_first() else { return };
    let is_whole = how % 2 == 1;
    let text = String::from_utf8_lossy(&rest[..rest.len().min(300)]);
    let built = hello_of(&text, usize::from(how / 2) + 1);
    let bytes = if is_whole { &built } else { rest };
    let bytes = &bytes[..bytes.len().min(LIMIT)];
    let settled = inspect(bytes);
    assert!(bytes.len() < LIMIT || settled != Hello::Partial, "it never ends");
    assert!(!is_whole || matches!(settled, Hello::Tls(_)), "{settled:?}");
    if let Hello::Tls(Some(name)) = &settled {
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()));
        assert!((1..256).contains(&name.len()), "{name}");
    }
    for end in (0..bytes.len()).step_by(bytes.len() / 64 + 1) {
        let before = inspect(&bytes[..end]);
        assert!(before == Hello::Partial || before == settled, "{end}: {before:?}, {settled:?}");
        assert!(!is_whole || before == Hello::Partial, "{end}: {before:?}");
    }
}

/// Messages between daemon and relay: what is understood can be said again, and means the same;
/// whatever else comes, hearing it ends. The first byte says which they are, the second how many
/// sockets are said to come along.
pub fn messages(bytes: &[u8]) {
    let [which, sockets, rest @ ..] = bytes else { return };
    match which % 4 {
        0 => drop(heard::<Answer>(rest, *sockets)),
        1 => drop(heard::<Question>(rest, *sockets)),
        2 => drop(heard::<Who>(rest, *sockets)),
        _ => {
            let (here, there) = UnixStream::pair().expect("a pair of sockets");
            say(&here, rest);
            drop(frame::receive::<Answer>(&there, PATIENCE));
        }
    }
}

fn heard<T: Serialize + DeserializeOwned>(text: &[u8], sockets: u8) -> Option<()> {
    let (here, there) = UnixStream::pair().expect("a pair of sockets");
    let head = [text.len() as u32, sockets.into()].map(u32::to_le_bytes);
    say(&here, &[head.as_flattened(), text].concat());
    let (message, _) = frame::receive::<T>(&there, PATIENCE).ok()?;
    let (here, there) = UnixStream::pair().expect("a pair of sockets");
    frame::send(&here, &message, &[], PATIENCE).expect("it can be said");
    let (again, _) = frame::receive::<T>(&there, PATIENCE).expect("it is understood");
    let [one, other] = [message, again].map(|one| serde_json::to_value(one).expect("JSON"));
    assert_eq!(one, other);
    Some(())
}

/// Says no more afterwards. All of it fits into a socket.
fn say(mut to: &UnixStream, bytes: &[u8]) {
    to.write_all(bytes).expect("said");
    to.shutdown(Shutdown::Write).expect("there is no more");
}
