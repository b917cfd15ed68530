//! A program with a `main` and no dependency, called by CGI: header lines, an empty line, a body.

use std::io::Read;

fn main() {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let path = variable("PATH_INFO");
    if let Some(code) = path.strip_prefix("/exit/") {
        println!("Content-Type: text/plain\n\nnot to be seen");
        std::process::exit(code.parse().unwrap_or(1));
    }
    if let Some(status) = path.strip_prefix("/status/") {
        println!("Status: {status}\nContent-Type: text/plain\n\nstatus {status}");
        return;
    }
    if path == "/slow" {
        println!("Content-Type: text/plain\n\nfirst");
        let read = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        println!("{}", if read.is_ok() { "second" } else { "the upload broke off" });
        return;
    }
    if path == "/headless" {
        println!("hello, I have no header");
        return;
    }
    let mut upload = Vec::new();
    if let Err(error) = std::io::stdin().read_to_end(&mut upload) {
        eprintln!("the upload broke off: {error}");
    }
    println!("Content-Type: text/plain\nX-Script: {}\n", variable("SCRIPT_NAME"));
    println!("{} {path}?{}", variable("REQUEST_METHOD"), variable("QUERY_STRING"));
    println!("rest: {}", variable("HTTP_FNHOST_PARAM_REST"));
    println!("uri: {}", variable("REQUEST_URI"));
    println!("host: {} port {}", variable("SERVER_NAME"), variable("SERVER_PORT"));
    println!("upload: {} bytes of {}", upload.len(), variable("CONTENT_TYPE"));
}
