//! A program that is called by CGI (RFC 3875): the request is in the environment and on stdin, and what it prints is the
//! response: header lines, an empty line, the body.

fn main() {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let (status, text) = answer(&variable("REQUEST_URI"));
    print!("Status: {status}\nContent-Type: text/plain\n\n{text}");
}

/// Where its paths begin: a program sees the whole path of a request.
const ROOT: &str = "/template-route";

/// What a path, with its query, is answered with.
fn answer(uri: &str) -> (u16, String) {
    let path = uri.split('?').next().unwrap_or_default();
    match path.strip_prefix(ROOT).map(|rest| rest.trim_matches('/')) {
        Some("") => (200, "Hello, world!\n".to_owned()),
        Some(name) if !name.contains('/') => (200, format!("Hello, {name}!\n")),
        _ => (404, "not found\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_hello() {
        let (status, text) = answer("/template-route");
        assert_eq!((status, text.as_str()), (200, "Hello, world!\n"));
    }

    #[test]
    fn it_greets_whom_the_path_names() {
        let (_, text) = answer("/template-route/you?x=1");
        assert_eq!(text, "Hello, you!\n");
    }

    #[test]
    fn what_it_does_not_know_is_not_found() {
        let (status, _) = answer("/template-route/you/and/me");
        assert_eq!(status, 404);
    }
}
