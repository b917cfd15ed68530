//! A sandbox serves one request: nothing of one is there in the next.

use crate::support::{Request, TestHost};

#[tokio::test]
async fn a_static_counter_is_one_on_each_of_ten_thousand_requests() {
    let host = TestHost::of_guest("misbehave", "");
    let clients = (0..8).map(|_| async {
        let mut connection = host.connect().await;
        for _ in 0..1250 {
            connection.send(Request::get("/misbehave/counter")).await.unwrap().assert_ok("1\n");
        }
    });
    join_all(clients).await;
}

/// On a pool of one slot, the scanning request has the very memory that the filling one had.
#[tokio::test]
async fn a_secret_of_one_request_is_nowhere_in_the_next() {
    let host = one_slot("misbehave");
    let mut connection = host.connect().await;
    // It is found where it is: what the scan says below means something.
    let found = connection.send(Request::get("/misbehave/fill-and-scan")).await.unwrap().text();
    assert_eq!(found, format!("{}\n", (4 << 20) / 256));
    for _ in 0..1000 {
        connection.send(Request::get("/misbehave/fill")).await.unwrap().assert_ok("filled\n");
        connection.send(Request::get("/misbehave/scan")).await.unwrap().assert_ok("0\n");
    }
}

/// WASI 0.3 has an engine and a pool of its own.
#[tokio::test]
async fn a_secret_of_one_request_is_nowhere_in_the_next_of_wasi_0_3() {
    let host = one_slot("misbehave-p3");
    let mut connection = host.connect().await;
    for _ in 0..100 {
        connection.send(Request::get("/misbehave-p3/fill")).await.unwrap().assert_ok("filled\n");
        connection.send(Request::get("/misbehave-p3/scan")).await.unwrap().assert_ok("0\n");
    }
}

fn one_slot(guest: &str) -> TestHost {
    TestHost::with(&format!(
        "name = \"test\"\n[host]\nconcurrency = 1\n[functions.guest]\ncomponent = \"{{{guest}.wasm}}\"\nroutes = [\"/{{*rest}}\"]\nlimits = {{ queue-wait = \"30s\" }}\n",
    ))
}

async fn join_all(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut pending: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        pending.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if pending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
