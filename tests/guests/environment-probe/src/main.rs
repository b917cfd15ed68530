//! A command that shows its environment, a variable on each line.

fn main() {
    println!("Content-Type: text/plain\n");
    for (name, value) in std::env::vars() {
        println!("{name}={value}");
    }
}
