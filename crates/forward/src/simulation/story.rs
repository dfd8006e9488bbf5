//! What happened, for whoever replays a seed.

use std::fmt::Write as _;

use super::{wire::Log, world::World};

/// Both sides of every connection, a few lines each.
pub(super) fn tell(world: &World) -> String {
    let mut story = format!("calm: {}, cut: {}, {:?}\n", world.calm, world.cut.get(), world.timeouts);
    // Writing to a String cannot fail.
    for (index, client) in world.clients.borrow().iter().enumerate() {
        let _ = writeln!(story, "client {index}, behaves: {}, {:?}", client.behaves(), client.script);
        for request in &client.requests {
            let _ = writeln!(
                story,
                "  request {:06x} {:?} {} bytes: {}",
                request.id,
                request.kind,
                request.wire.len(),
                spell(&request.wire)
            );
        }
        let _ = writeln!(story, "  sent {} bytes, heard {:?}", client.sent.get(), client.heard.get());
        tell_log(&mut story, &client.log);
    }
    for (index, origin) in world.origins.borrow().iter().enumerate() {
        let _ = writeln!(story, "origin {index}, sent {} bytes", origin.sent.get());
        for reply in origin.replies.borrow().iter() {
            let _ = writeln!(story, "  reply {reply:?}");
        }
        tell_log(&mut story, &origin.log);
    }
    story
}

fn tell_log(story: &mut String, log: &Log) {
    let written = log.written.borrow();
    let ended = log.ended.get().map(|(ended, _)| ended);
    let _ = writeln!(
        story,
        "  proxy read {}, ended {ended:?}, wrote {}: {}",
        log.read.get(),
        written.len(),
        spell(&written)
    );
}

/// Escaped, with long runs of content left out.
fn spell(bytes: &[u8]) -> String {
    const SHOWN: usize = 700;
    let end = bytes.len().saturating_sub(SHOWN).max(SHOWN.min(bytes.len()));
    let [first, last] = [&bytes[..SHOWN.min(bytes.len())], &bytes[end..]].map(<[u8]>::escape_ascii);
    if end > SHOWN { format!("{first} … {last}") } else { format!("{first}{last}") }
}
