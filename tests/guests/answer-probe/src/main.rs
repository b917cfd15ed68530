//! A command that answers by CGI what it is told, byte for byte: the upload up to `|`, and then, when that went out, the rest.

use std::io::{Read as _, Write as _};

fn main() {
    let mut told = Vec::new();
    std::io::stdin().read_to_end(&mut told).expect("an upload");
    let mut stdout = std::io::stdout();
    for (number, part) in told.split(|byte| *byte == b'|').enumerate() {
        if number > 0 {
            // The host sends a head when its command waits.
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        stdout.write_all(part).and_then(|()| stdout.flush()).expect("somebody reads");
    }
}
