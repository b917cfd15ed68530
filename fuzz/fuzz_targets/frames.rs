//! A connection of HTTP/2, frame by frame, through the whole edge.
//!
//! Held: what comes back are frames that a client can read, of streams that it began, within the windows that it gave; behind
//! whatever it sent, as long as that ends with a frame, the host answers a PING, or has said goodbye; where that named an
//! error, it closes; and all of it in time.

#![no_main]

use fnhost_fuzz::edge::{From, edge, pieces};
use fnhost_fuzz::frames::{self, Allowance, PREFACE, Step};
use fnhost_fuzz::number_of;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|steps: Vec<Step>| {
    let steps = frames::bytes_of(&steps);
    let sent = [steps.as_slice(), &frames::probe()].concat();
    let allowed = Allowance::of(&steps);
    let bytes = [PREFACE, &sent].concat();
    let number = number_of(&bytes);
    let heard = edge().exchange(From::Anywhere, pieces(&bytes, number), |bytes, _| {
        let told = frames::check(bytes, &allowed);
        match told.goodbye {
            // It closes by itself.
            Some(code) if code != 0 => false,
            Some(_) => true,
            None => told.is_up || !allowed.is_whole,
        }
    });
    let told = frames::check(&heard.bytes, &allowed);
    assert!(told.rest == 0 || heard.ended_first, "half a frame: {}", heard.bytes.escape_ascii());
});
